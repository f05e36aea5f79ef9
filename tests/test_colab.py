"""A chapter alone in an empty folder, as Colab opens it: its set-up cell fetches what it needs.

The environment has the libraries and not the package. The repository's address is replaced by this
checkout; everything else is as a reader runs it.
"""

import os
import subprocess
import sys
import sysconfig

import chapters
import pytest

RUN = """
import sys
import matplotlib
import nbformat
matplotlib.use("Agg")
names = {}
for cell in nbformat.read(sys.argv[1], as_version=4).cells:
    if cell.cell_type == "code":
        exec(compile(cell.source, cell.id, "exec"), names)
import pmlbook
print("ran with", pmlbook.__file__)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """A Python with every library of this environment, but not the package."""
    folder = tmp_path_factory.mktemp("colab") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    path = folder / "bin" / "python"
    # An old setuptools that comes with it would stand before this environment's own.
    subprocess.run([path, "-m", "pip", "uninstall", "-qy", "setuptools"], check=True)
    where = [path, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip()
    # Paths named in a .pth are not searched for further .pth files: the package, installed
    # as a link, stays out of sight.
    with open(f"{site}/libraries.pth", "w") as file:
        file.write(sysconfig.get_path("purelib") + "\n")
    return path


def test_the_package_is_not_there_before(python, tmp_path):
    done = subprocess.run([python, "-c", "import pmlbook"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 1 and b"No module named 'pmlbook'" in done.stderr


def test_the_first_chapter_runs_in_an_empty_folder(python, tmp_path):
    given = chapters.git_takes_this_checkout() | {
        "PIP_NO_BUILD_ISOLATION": "0",  # pip's "on"
        "PIP_NO_INDEX": "1",
    }
    done = subprocess.run(
        [python, "-c", RUN, chapters.chapters()[0]],
        cwd=tmp_path,
        env=os.environ | given,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "ran with" in done.stdout and str(chapters.ROOT) not in done.stdout.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["lora-book"]
