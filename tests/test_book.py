"""The rendered book: built with warnings as errors, every link alive, alive in a plain browser."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote, urlsplit

import build
import chapters
import pytest
from bs4 import BeautifulSoup

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# sphinx-thebe adds its inline script twice, even when switched off; both lines are harmless.
KNOWN_ERRORS = ("THEBE_JS_URL", "Got invalid theme mode")


@pytest.fixture(scope="session")
def html(tmp_path_factory) -> Path:
    """The folder of pages, built for these tests from the working tree."""
    folder = tmp_path_factory.mktemp("book")
    done = build.build(folder)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return folder / "_build" / "html"


@pytest.fixture(scope="session")
def pages(html) -> dict[Path, BeautifulSoup]:
    """Every content page, parsed."""
    toc = [path.with_suffix(".html").name for path in chapters.chapters()]
    names = [*toc, "notation.html", "runlog.html", "bibliography.html"]
    return {
        path: BeautifulSoup(path.read_text(), "html.parser")
        for path in (html / "book" / name for name in names)
    }


def test_a_broken_reference_stops_the_build(tmp_path):
    """The check can fail: one page, one reference to nowhere."""
    (tmp_path / "_config.yml").write_text("title: t\nonly_build_toc_files: true\n")
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: index\n")
    (tmp_path / "index.md").write_text("# Page\n\nSee {ref}`nowhere`.\n")
    command = [*build.JUPYTER_BOOK, "build", str(tmp_path), "-W", "-q"]
    done = subprocess.run(command, text=True, capture_output=True)
    assert done.returncode != 0 and "nowhere" in done.stderr


def test_internal_links_and_images_resolve(pages):
    ids = {path: {tag["id"] for tag in soup.find_all(id=True)} for path, soup in pages.items()}
    broken, links = [], 0
    for path, soup in pages.items():
        for tag, attribute in (("a", "href"), ("img", "src"), ("script", "src"), ("link", "href")):
            for element in soup.find_all(tag, attrs={attribute: True}):
                address = urlsplit(element[attribute])
                if address.scheme or element[attribute] in ("#", ""):
                    continue
                links += 1
                target = (path.parent / unquote(address.path)).resolve() if address.path else path
                if not target.exists():
                    broken.append(f"{path.name}: {element[attribute]}")
                elif address.fragment and target in ids and address.fragment not in ids[target]:
                    broken.append(f"{path.name}: no anchor for {element[attribute]}")
    assert not broken and links > 100


def test_nothing_is_loaded_from_another_host(pages):
    foreign = [
        f"{path.name}: {element[attribute]}"
        for path, soup in pages.items()
        for tag, attribute in (("img", "src"), ("script", "src"), ("iframe", "src"))
        for element in soup.find_all(tag, attrs={attribute: re.compile("^(https?:)?//")})
    ]
    foreign += [
        f"{path.name}: {element['href']}"
        for path, soup in pages.items()
        for element in soup.find_all("link", href=re.compile("^(https?:)?//"))
        if "canonical" not in element.get("rel", [])
    ]
    assert not foreign


def test_links_out_are_encrypted(pages):
    for path, soup in pages.items():
        for link in soup.find_all("a", href=re.compile("^http:")):
            pytest.fail(f"{path.name}: {link['href']}")


def test_pages_are_whole(pages):
    for path, soup in pages.items():
        article = soup.find("article")
        assert soup.html["lang"] == "en" and soup.title.string.strip(), path.name
        assert len(article.find_all("h1")) == 1, path.name
        for listing in article.select("div.highlight, .math, code"):
            listing.decompose()
        text = article.get_text()
        raw = re.search(r"\{(cite|ref|eq|numref|prf)[^}]*\}|:label:|\?\?\?|\[source\]", text)
        assert not raw, f"{path.name} shows {raw and raw[0]}"


def test_figures_have_numbers_captions_and_words(pages):
    images = 0
    for path, soup in pages.items():
        for image in soup.select("div.cell_output img"):
            images += 1
            assert len(image.get("alt", "")) >= 40, path.name
            figure = image.find_parent("figure")
            assert figure and figure.select_one(".caption-number"), path.name
    assert images >= 10


def test_theorems_and_exercises_are_numbered(pages):
    theorems = [p for soup in pages.values() for p in soup.select("div.theorem p.admonition-title")]
    assert theorems and all(re.match(r"Theorem \d", p.get_text()) for p in theorems)
    exercises = [e for soup in pages.values() for e in soup.select("div.exercise")]
    solutions = [s for soup in pages.values() for s in soup.select("div.solution.dropdown")]
    assert len(exercises) == len(solutions) >= 12


def test_every_reference_is_cited_and_listed(pages):
    keys = set(re.findall(r"^@\w+\{(\w+),", (build.ROOT / "book/references.bib").read_text(), re.M))
    sources = " ".join(p.read_text() for p in (build.ROOT / "book").glob("*.ipynb"))
    cited = {
        k for group in re.findall(r"\{cite(?::\w)?\}`([^`]+)`", sources) for k in group.split(",")
    }
    assert keys == cited
    (bibliography,) = (soup for path, soup in pages.items() if path.name == "bibliography.html")
    assert len(bibliography.select("div.citation")) == len(keys)


def test_modules_name_chapters_that_exist(pages):
    titles = " ".join(soup.find("h1").get_text() for soup in pages.values()).lower()
    for module in (build.ROOT / "pmlbook").glob("*.py"):
        for named in re.findall(r"\(chapters?: ([^;)]+)", module.read_text().split('"""')[1]):
            for chapter in named.split(","):
                assert chapter.strip().lower() in titles.replace("½", "1/2"), module.name


# ---- in a browser ----


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        reason = "no Chromium here: the pages are not opened"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


CONTRAST = """() => {
  const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map(v => {
      v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4 });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b };
  const ground = e => { for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$/.test(c) && c != 'transparent') return c }
    return 'rgb(255, 255, 255)' };
  const worst = {};
  for (const e of document.querySelectorAll(
      'article p, article li, article figcaption span, article pre span, article td, article a')) {
    if (!e.textContent.trim() || !e.getClientRects().length || e.closest('.pml-recall')) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) worst[`${e.tagName}.${e.className}: ${e.textContent.slice(0, 30)}`] = ratio;
  }
  return worst }"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_in_a_browser(browser, pages, width, theme):
    """No request leaves the machine, no error, maths set, nothing sticks out, all is legible."""
    context = browser.new_context(viewport={"width": width, "height": 900})
    context.add_init_script(
        f"localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}')"
    )
    faults = []
    for path, soup in pages.items():
        page = context.new_page()
        page.on("request", lambda r: r.url.startswith("http") and faults.append(r.url))
        page.on("requestfailed", lambda r: faults.append(f"failed: {r.url}"))
        page.on("pageerror", lambda e: _unknown(e.message) and faults.append(e.message))
        page.on(
            "console",
            lambda m: m.type == "error" and _unknown(m.text) and faults.append(m.text),
        )
        page.goto(path.as_uri())
        page.wait_for_load_state("load")
        if soup.select(".math"):
            page.wait_for_selector("mjx-container", state="attached")
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.dataset.theme") == theme
        assert page.locator("mjx-merror, [data-mjx-error]").count() == 0, path.name
        scroll = page.evaluate("document.documentElement.scrollWidth")
        assert scroll <= width, f"{path.name} is {scroll} pixels wide in a window of {width}"
        assert page.evaluate(CONTRAST) == {}, path.name
        page.close()
    context.close()
    assert not faults


def test_a_folded_solution_opens(browser, pages):
    path = next(path for path in pages if path.name == "01_lora.html")
    page = browser.new_page()
    page.goto(path.as_uri())
    solution = page.locator("div.solution.dropdown").first
    text = solution.locator(".section, .solution-content, p").last
    assert not text.is_visible()
    solution.locator("summary, button, .admonition-title").first.click()
    page.wait_for_timeout(300)
    assert text.is_visible()
    page.close()


def _unknown(message: str) -> bool:
    return not any(known in message for known in KNOWN_ERRORS)
