"""Explorables: the HTML says what it should, and in a browser the picture follows the slider."""

import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pmlbook import widgets

RNG = np.random.default_rng(0)
ROWS = [np.clip(RNG.random(24) * k / 4, 0, 1) for k in range(5)]
LABELS = [f"step {10 * k}" for k in range(5)]


def record(k):
    return SimpleNamespace(
        greedy_tokens=[" <b>", " be"] * 12,
        ordered=ROWS[k] > 0.5,
        recited=ROWS[k] > 0.4,
        memory=SimpleNamespace(length=24),
        mean_loss=1.0,
    )


CELLS = pd.DataFrame(
    {"r": r, "length": length, "delta_loss": 10 * r / length + 0.1 * seed}
    for r, length, seed in itertools.product((1, 2), (8, 16, 32), (0, 1))
)
MADE = {
    "recital": widgets.explore_recital(
        [record(k) for k in range(5)], LABELS, name="x-recital", caption="**C.** At {2|step 20}."
    ),
    "crossing": widgets.explore_crossing(
        ROWS, LABELS, name="x-crossing", caption="**C.** At {2|step 20}."
    ),
    "weights": widgets.explore_weights(
        ROWS, {"OT": [1.0 * (p < 0.5) for p in ROWS]}, LABELS, name="x-weights",
        caption="**C.** At {2|step 20}.",
    ),
    "law": widgets.explore_law(
        CELLS, lambda r, n: 10 * r / n, name="x-law", caption="**C.** See {2|32 tokens}.", start=4
    ),
}  # fmt: skip


def test_every_explorable_is_tested():
    made = {name for name in vars(widgets) if name.startswith("explore_")}
    assert made == {f"explore_{name}" for name in MADE}


@pytest.mark.parametrize("name", MADE)
def test_one_frame_is_seen_without_a_script_and_text_is_escaped(name):
    made = MADE[name]
    page = made._repr_html_()
    assert f'[data-f]:not([data-f~="{made.start}"])' in page and "http" not in page
    assert "<b>" not in page and page.count("<input") == len(made.axes)
    assert len(page) < 150_000


def test_frames_are_numbered_row_by_row():
    law = MADE["law"]
    assert law.frames == 6 and law.positions(4) == (1, 1) and law.positions(2) == (0, 2)


def test_an_explorable_that_cannot_work_is_refused():
    common = {"stage": "", "what": "w", "caption": "c"}
    with pytest.raises(ValueError, match="want small letters"):
        widgets.Explorable("Fig 1", axes={"a": "12"}, start=0, **common)
    with pytest.raises(ValueError, match="start is 2 of 2 frames"):
        widgets.Explorable("x", axes={"a": "12"}, start=2, **common)
    with pytest.raises(ValueError, match="at most 64"):
        widgets.Explorable("x", axes={"a": ["s"] * 65}, start=0, **common)


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    path = tmp_path_factory.mktemp("x") / "page.html"
    body = "".join(made._repr_html_() for made in MADE.values())
    path.write_text(f"<!doctype html><html lang=en><title>x</title><body>{body}</body></html>")
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.faults = []
    page.on("pageerror", lambda e: page.faults.append(e.message))
    page.goto(path.as_uri())
    yield page
    page.close()


def seen(page, made) -> str:
    return page.locator(f"#{made.name} .read:visible").inner_text()


@pytest.mark.parametrize("name", MADE)
def test_the_picture_follows_slider_link_and_keyboard(page, name):
    made = MADE[name]
    stage = page.locator(f"#{made.name} [role=img]")
    bar = page.locator(f"#{made.name} input").first
    pictures, words = set(), set()
    for position in range(int(bar.get_attribute("max")) + 1):
        bar.fill(str(position))
        pictures.add(stage.screenshot())
        words.add(seen(page, made))
        assert seen(page, made) in stage.get_attribute("aria-label")
    assert len(pictures) == len(words) == int(bar.get_attribute("max")) + 1
    page.locator(f"#{made.name} figcaption a").click()
    values = [b.input_value() for b in page.locator(f"#{made.name} input").all()]
    assert tuple(map(int, values)) == made.positions(2)
    bar.focus()
    before = seen(page, made)
    page.keyboard.press("ArrowRight")
    assert seen(page, made) != before
    assert page.evaluate("document.documentElement.scrollWidth") <= 390 and not page.faults


def test_play_runs_to_the_end_and_stops(page):
    made = MADE["crossing"]
    button, bar = (page.locator(f"#{made.name} {tag}") for tag in ("button", "input"))
    bar.fill("4")
    button.click()  # at the end it begins again
    assert button.inner_text() == "Stop" and bar.input_value() == "0"
    page.wait_for_function("document.querySelector('#x-crossing input').value == '4'")
    assert button.inner_text() == "Play"
