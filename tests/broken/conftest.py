"""These notebooks are specimens, each with one fault: nbval must not run them."""

collect_ignore_glob = ["*.ipynb"]
