"""The rendered book: built with warnings as errors, every link alive, alive in a plain browser."""

import ast
import copy
import re
import subprocess
from pathlib import Path
from urllib.parse import unquote, urlsplit

import build
import chapters
import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup

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
    more = ("notation", "api", "cluster", "runlog", "bibliography", "changelog")
    names = [*toc, *(f"{name}.html" for name in more)]
    return {
        path: BeautifulSoup(path.read_text(), "html.parser")
        for path in (html.resolve() / "book" / name for name in names)
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
    assert not broken, "\n".join(broken)
    assert links > 100


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
    assert not foreign, "\n".join(foreign)


def test_links_out_are_encrypted(pages):
    for path, soup in pages.items():
        for link in soup.find_all("a", href=re.compile("^http:")):
            pytest.fail(f"{path.name}: {link['href']}")


def test_pages_are_whole(pages):
    for path, soup in pages.items():
        article = copy.copy(soup.find("article"))  # other tests want the page whole
        assert soup.html["lang"] == "en" and soup.title.string.strip(), path.name
        assert len(article.find_all("h1")) == 1, path.name
        for listing in article.select("div.highlight, .math, code, .viewcode-link"):
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
    titles = " ".join(soup.find("h1").get_text() for soup in pages.values())
    titles = titles.lower().replace("½", "1/2").replace("’", "'")
    named = set()
    for module in (build.ROOT / "pmlbook").glob("*.py"):
        docstring = " ".join(ast.get_docstring(ast.parse(module.read_text())).lower().split())
        for group in re.findall(r"\(chapters?: ([^;)]+)", docstring):
            named |= {chapter.strip() for chapter in group.split(",")}
    assert len(named) >= 6
    assert not {chapter for chapter in named if chapter not in titles}


# ---- in a browser ----


# Text below a contrast of 4.5, or 3 where it is large: {text: ratio}. Layers of half-transparent
# paint are laid over each other as a browser does.
CONTRAST = """() => {
  const rgba = css => { const v = css.match(/[\\d.]+/g).map(Number); return [...v, 1].slice(0, 4) };
  const over = ([r, g, b, a], under) => [r, g, b].map((v, i) => v * a + under[i] * (1 - a));
  const ground = e => e ? over(rgba(getComputedStyle(e).backgroundColor), ground(e.parentElement))
    : [255, 255, 255];
  const luminance = rgb => { const [r, g, b] = rgb.map(v => {
      v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4 });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b };
  const opacity = e => e ? getComputedStyle(e).opacity * opacity(e.parentElement) : 1;
  const faint = {};
  const walk = document.createTreeWalker(document.querySelector('article'), NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement, text = walk.currentNode.textContent.trim();
    // Signs that appear under the mouse, and what only a screen reader sees, are left out.
    if (!text || !e.getClientRects().length || e.closest('.headerlink, .copybtn, style')) continue;
    const style = getComputedStyle(e), under = ground(e);
    const [r, g, b, a] = rgba(style.color);
    const lights = [over([r, g, b, a * opacity(e)], under), under].map(luminance);
    const ratio = (Math.max(...lights) + 0.05) / (Math.min(...lights) + 0.05);
    if (ratio < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5))
      faint[`${e.tagName}.${e.className}: ${text.slice(0, 30)}`] = ratio.toFixed(2);
  }
  return faint }"""


UNFOLD = """document.querySelectorAll('.toggle-hidden').forEach(
  e => e.classList.remove('toggle-hidden'));
document.querySelectorAll('details').forEach(e => e.open = true);
document.getAnimations().forEach(a => a.finish())"""


def open_page(browser, path: Path, width: int, theme: str):
    """A page at rest, and the list of what went wrong in it."""
    page = browser.new_page(viewport={"width": width, "height": 900}, reduced_motion="reduce")
    page.add_init_script(f"localStorage.mode = localStorage.theme = '{theme}'")
    faults = []
    local = ("file:", "data:", "blob:")
    page.on("request", lambda r: r.url.startswith(local) or faults.append(f"asks for {r.url}"))
    page.on("requestfailed", lambda r: faults.append(f"does not find {r.url}"))
    page.on("pageerror", lambda e: _known(e.message) or faults.append(e.message))
    page.on("console", lambda m: m.type != "error" or _known(m.text) or faults.append(m.text))
    page.goto(path.as_uri())
    page.evaluate("window.MathJax && MathJax.startup.promise.then(() => 0)")
    page.wait_for_timeout(300)
    return page, faults


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_in_a_browser(browser, pages, width, theme):
    """No request leaves the machine, no error, maths set, nothing sticks out, all is legible."""
    found, formulas = [], 0
    for path, soup in pages.items():
        page, faults = open_page(browser, path, width, theme)
        assert page.evaluate("document.documentElement.dataset.theme") == theme
        maths, set_maths = len(soup.select(".math")), page.locator("mjx-container").count()
        formulas += maths
        if set_maths != maths:
            faults.append(f"sets {set_maths} of {maths} formulas")
        if page.locator("mjx-merror, [data-mjx-error]").count():
            faults.append("has a formula that MathJax cannot read")
        page.evaluate(UNFOLD)
        if (scroll := page.evaluate("document.documentElement.scrollWidth")) > width:
            faults.append(f"is {scroll} pixels wide in a window of {width}")
        faults += [f"is faint: {text} ({r})" for text, r in page.evaluate(CONTRAST).items()]
        found += [f"{path.name} {fault}" for fault in faults]
        page.close()
    assert not found, "\n".join(found)
    assert formulas > 30


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_has_no_serious_finding(browser, pages, theme):
    found = []
    for path in pages:
        page, _ = open_page(browser, path, 1280, theme)
        for rule in Axe().run(page).response["violations"]:
            html = rule["nodes"][0]["html"]
            known = "citation-list" in html  # Sphinx's: its entries are list items by DPUB-ARIA 1.0
            if rule["impact"] in ("serious", "critical") and not known:
                found.append(f"{path.name}: {rule['id']}: {html[:100]}")
        page.close()
    assert not found, "\n".join(found)


def test_axe_finds_what_is_wrong(browser, tmp_path):
    path = tmp_path / "bad.html"
    path.write_text("<!doctype html><html><title>x</title><img src='data:,'><input>")
    page, _ = open_page(browser, path, 1280, "light")
    found = {rule["id"] for rule in Axe().run(page).response["violations"]}
    assert {"html-has-lang", "image-alt", "label"} <= found
    page.close()


def test_explorables_move_in_the_built_pages(browser, pages):
    moved = []
    for path, soup in pages.items():
        if not soup.select(".pml-x"):
            continue
        page, faults = open_page(browser, path, 390, "light")
        for figure in page.locator(".pml-x").all():
            bar, stage = figure.locator("input").first, figure.locator("[role=img]")
            seen = {(bar.fill(str(at)), stage.screenshot())[1] for at in ("0", "1")}
            moved.append(figure.get_attribute("id"))
            assert len(seen) == 2, f"{path.name}: {moved[-1]} does not move"
        assert not faults
        page.close()
    assert len(moved) == len(set(moved)) >= 4


def test_code_cells_lead_to_sources_and_modules_to_chapters(pages):
    chapter = next(soup for path, soup in pages.items() if path.name == "02_exact_memory.html")
    links = {a["href"] for a in chapter.select("a.sphinx-codeautolink-a")}
    assert any(link.endswith("api.html#pmlbook.recall.recall") for link in links)
    api = next(soup for path, soup in pages.items() if path.name == "api.html")
    assert len(api.select(".viewcode-link")) > 60
    assert {"04_memory_law.html#ch-law", "05_memft.html#ch-memft"} <= {
        a.get("href") for a in api.select("a.reference.internal")
    }


def test_dark_is_dark(browser, pages):
    colors = {}
    for theme in ("light", "dark"):
        page, _ = open_page(browser, next(iter(pages)), 1280, theme)
        colors[theme] = page.evaluate(
            "['color', 'backgroundColor'].map(k => getComputedStyle(document.body)[k])"
        )
        page.close()
    assert colors["light"][0] != colors["dark"][0]
    assert colors["light"][1] != colors["dark"][1]


def test_a_page_that_asks_another_host_is_caught(browser, tmp_path):
    """The checks can fail: a foreign image, an error in a script, faint text, a wide box."""
    path = tmp_path / "bad.html"
    path.write_text(
        "<!doctype html><article style='width: 999px'><p style='color: #bbb'>faint</p></article>"
        "<img src='https://example.invalid/x.png'><script>throw Error('oh')</script>"
    )
    page, faults = open_page(browser, path, 390, "light")
    assert "asks for https://example.invalid/x.png" in faults and "oh" in faults
    assert list(page.evaluate(CONTRAST)) == ["P.: faint"]
    assert page.evaluate("document.documentElement.scrollWidth") > 390
    page.close()


def test_a_folded_solution_opens(browser, pages):
    path = next(path for path in pages if path.name == "01_lora.html")
    page, _ = open_page(browser, path, 1280, "light")
    solution = page.locator("div.solution.dropdown").first
    text = solution.locator(".section, .solution-content, p").last
    assert not text.is_visible()
    solution.locator("summary, button, .admonition-title").first.click()
    page.wait_for_timeout(300)
    assert text.is_visible()
    page.close()


def _known(message: str) -> bool:
    return any(known in message for known in KNOWN_ERRORS)
