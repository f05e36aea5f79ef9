"""Print the built pages into one PDF, in the order of the table of contents.

pdf.py [--out book.pdf]      (after `make book`; needs Chromium)
"""

import argparse
import io
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright
from pypdf import PdfReader, PdfWriter

from chapters import ROOT, pages

PAGES = ROOT / "book" / "_build" / "html"


def printed(browser, path: Path) -> bytes:
    """One page as PDF: light, all folds open, mathematics set."""
    page = browser.new_page()
    page.add_init_script("localStorage.mode = localStorage.theme = 'light'")
    page.goto(path.as_uri())
    page.evaluate("window.MathJax && MathJax.startup.promise.then(() => 0)")
    page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    page.wait_for_timeout(400)  # a fold opens in a movement
    pdf = page.pdf(format="A4", margin=dict.fromkeys(("top", "bottom", "left", "right"), "18mm"))
    page.close()
    return pdf


def main(out: Path) -> None:
    """Print every page, and join them with a bookmark for each."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("no Chromium here: install the package chromium, or print the pages by hand")
    if not PAGES.exists():
        sys.exit("no pages to print: make book")
    book = PdfWriter()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name in pages():
            start = len(book.pages)
            book.append(PdfReader(io.BytesIO(printed(browser, PAGES / f"{name}.html"))))
            book.add_outline_item(title=Path(name).name, page_number=start)
        browser.close()
    book.write(out)
    print(f"== {len(book.pages)} pages in {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "book" / "_build" / "book.pdf")
    main(parser.parse_args().out)
