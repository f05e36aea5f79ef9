"""What a reader's browser loads: python tests/bench_pages.py (after `make book`; needs Chromium).

`page_weight.csv`: for each page the files it asks for and their size on disk, the size of its own
HTML, and the milliseconds until text and until the first figure of the article is painted
(median of five loads from disk, no cache kept).
"""

import argparse
import shutil
import statistics
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pandas as pd
from playwright.sync_api import sync_playwright

from pmlbook.provenance import provenance, save_table

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "book" / "_build" / "html" / "book"

FIRST_FIGURE = """() => new Promise(done => {
  const figure = document.querySelector('article img, article .pml-x svg');
  if (!figure) return done(null);
  const seen = () => requestAnimationFrame(() => done(performance.now()));
  figure.tagName == 'IMG' && !figure.complete ? figure.addEventListener('load', seen) : seen() })"""
FIRST_TEXT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


def load(browser, path: Path) -> dict:
    """One load in a fresh context."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page, files = context.new_page(), set()
    page.on("request", lambda request: files.add(unquote(urlsplit(request.url).path)))
    page.goto(path.as_uri(), wait_until="commit")
    page.wait_for_selector("article", state="attached")
    figure = page.evaluate(FIRST_FIGURE)
    page.wait_for_load_state("load")
    text = page.evaluate(FIRST_TEXT)
    context.close()
    sizes = [Path(name).stat().st_size for name in files if Path(name).is_file()]
    return {"files": len(sizes), "kb": sum(sizes) / 1e3, "text_ms": text, "figure_ms": figure}


def main(folder: Path) -> None:
    """Measure every page."""
    chromium = shutil.which("chromium") or sys.exit("no Chromium here")
    rows = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for path in sorted(PAGES.glob("*.html")):
            loads = [load(browser, path) for _ in range(5)]
            middle = {
                key: statistics.median(values)
                if (values := [x[key] for x in loads if x[key]])
                else None
                for key in loads[0]
            }
            rows.append({"page": path.name, "html_kb": path.stat().st_size / 1e3, **middle})
        browser.close()
    table = pd.DataFrame(rows).round(0)
    print(table.to_string())
    save_table(table, folder / "page_weight.csv", provenance("python tests/bench_pages.py"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", dest="folder", type=Path, default=ROOT / "book" / "data")
    main(**vars(parser.parse_args()))
