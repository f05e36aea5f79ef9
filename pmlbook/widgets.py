"""Explorables: pictures with a slider that work in a plain page (every chapter).

All frames are drawn once, by Python, as HTML or SVG; a few lines of script in the same output show
the one that the sliders ask for. No kernel, no network, no widget library: the same output works
in the built book, in JupyterLab, in VS Code and on Colab. In a notebook the cell draws the frames
from whatever was just computed. Without script, and on paper, the still frame is shown.
"""

import html
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STYLE = """
.pml-x{--ink:#1b1f24;--quiet:#57606a;--line:#d9dde2;--blue:#0072b2;--amber:#b97a00;--red:#b84a00;
 --blue-soft:rgba(0,114,178,.20);--amber-soft:rgba(230,159,0,.28);
 color:var(--ink);margin:1rem 0;font-family:inherit;max-width:46rem}
html[data-theme=dark] .pml-x,html[theme=dark] .pml-x,body[data-jp-theme-light=false] .pml-x{
 --ink:#dfe3e8;--quiet:#a5adb7;--line:#39424d;--blue:#5fb4ea;--amber:#e6b04a;--red:#ff9a5c;
 --blue-soft:rgba(74,163,220,.34);--amber-soft:rgba(224,166,58,.30)}
.pml-x svg{width:100%;height:auto;display:block;overflow:visible}
.pml-x svg text{fill:var(--quiet);font:13px system-ui,sans-serif}
.pml-x .axis{stroke:var(--quiet);fill:none}.pml-x .grid{stroke:var(--line)}
.pml-x .half{stroke:var(--quiet);stroke-dasharray:2 4}
.pml-x .hi{fill:var(--blue)}.pml-x .lo{fill:var(--amber)}.pml-x .dot{fill:var(--quiet);opacity:.45}
.pml-x .curve{stroke:var(--blue);stroke-width:2;fill:none}.pml-x .mark{fill:var(--red)}
.pml-x .bar{fill:var(--quiet)}
.pml-x .says{white-space:pre-wrap;line-height:1.9;min-height:7.6em}
.pml-x .says u{text-decoration:underline wavy var(--red) 2px;text-underline-offset:3px}
.pml-x .read{min-height:1.5em;margin:.4rem 0;color:var(--ink)}
.pml-x .ctl{display:flex;flex-wrap:wrap;gap:.4rem 1.2rem;align-items:center;margin:.3rem 0}
.pml-x label{display:flex;gap:.5rem;align-items:center;color:var(--ink)}
.pml-x input{width:13rem;max-width:50vw;accent-color:var(--blue)}
.pml-x output{min-width:3.2em;color:var(--ink);font-variant-numeric:tabular-nums}
.pml-x button{font:inherit;color:var(--ink);background:none;border:1px solid var(--quiet);
 border-radius:4px;padding:.1rem .7rem;cursor:pointer}
.pml-x figcaption{color:var(--ink);margin-top:.4rem;text-align:left}
.pml-x figcaption a{color:var(--blue);text-decoration:underline}
@media(max-width:500px){.pml-x svg text{font-size:19px}}
@media print{.pml-x .ctl{display:none}}
"""

SCRIPT = """
(() => {
 const root = document.getElementById("NAME");
 if (!root || root.dataset.alive) return;
 root.dataset.alive = "yes";
 const bars = [...root.querySelectorAll("input")], sizes = bars.map(b => +b.max + 1);
 const rule = root.querySelector("style.now"), stage = root.querySelector("[role=img]");
 const show = () => {
  const k = bars.reduce((sum, bar, i) => sum * sizes[i] + +bar.value, 0);
  rule.textContent = `#NAME [data-f]:not([data-f~="${k}"]){display:none}`;
  bars.forEach(bar => {
   const word = JSON.parse(bar.dataset.words)[bar.value];
   bar.nextElementSibling.textContent = word; bar.setAttribute("aria-valuetext", word); });
  const read = [...root.querySelectorAll(".read[data-f]")].find(e => e.dataset.f == k);
  stage.setAttribute("aria-label", stage.dataset.what + (read ? " " + read.textContent : ""));
 };
 bars.forEach(bar => bar.addEventListener("input", show));
 root.querySelectorAll("a[data-go]").forEach(a => a.addEventListener("click", e => {
  e.preventDefault();
  a.dataset.go.split(" ").forEach((v, i) => bars[i].value = v); show(); }));
 const play = root.querySelector("button");
 let timer = 0;
 const stop = () => { clearInterval(timer); timer = 0; play.textContent = "Play"; };
 if (play) play.addEventListener("click", () => {
  if (timer) return stop();
  if (+bars[0].value == +bars[0].max) bars[0].value = 0;
  play.textContent = "Stop"; show();
  timer = setInterval(() => { bars[0].value = +bars[0].value + 1; show();
   if (bars[0].value == bars[0].max) stop(); }, 450); });
 show();
})();
"""

MOST_FRAMES = 64


@dataclass(frozen=True)
class Explorable:
    """A stage, its sliders and a caption; a notebook shows it as HTML.

    Attributes:
        name: an id, distinct in the page.
        stage: HTML. An element with `data-f="3 5"` is seen in frames 3 and 5, any other always.
        axes: slider's name -> the words of its positions. Frames are numbered row by row: the last
            slider runs fastest.
        start: the frame that is shown first, and on paper.
        what: one sentence for those who do not see the picture.
        caption: the argument. `{3|step 60}` in it is a link that brings the sliders to frame 3.

    Raises:
        ValueError: the name is no id, there are too many frames, or start is none of them.
    """

    name: str
    stage: str
    axes: dict[str, Sequence[str]]
    start: int
    what: str
    caption: str

    def __post_init__(self):
        if not re.fullmatch(r"[a-z][a-z0-9-]*", self.name):
            raise ValueError(f"name is {self.name!r}: want small letters, digits and hyphens")
        if not 0 <= self.start < self.frames <= MOST_FRAMES:
            raise ValueError(
                f"start is {self.start} of {self.frames} frames: want one of at most {MOST_FRAMES}"
            )

    @property
    def frames(self) -> int:
        """How many states the sliders have together."""
        return int(np.prod([len(words) for words in self.axes.values()]))

    def positions(self, frame: int) -> tuple[int, ...]:
        """Where each slider stands in this frame."""
        sizes = [len(words) for words in self.axes.values()]
        return tuple(int(i) for i in np.unravel_index(frame, sizes))

    def _repr_html_(self) -> str:
        sliders = "".join(
            f"<label>{html.escape(axis)} <input type=range min=0 max={len(words) - 1} value={at} "
            f'data-words="{html.escape(_json(words))}"><output>{html.escape(words[at])}</output>'
            "</label>"
            for (axis, words), at in zip(self.axes.items(), self.positions(self.start), strict=True)
        )
        play = "<button type=button>Play</button>" if len(self.axes) == 1 else ""
        caption = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html.escape(self.caption))
        caption = re.sub(r"\{(\d+)\|(.+?)\}", self._link, caption)
        now = f'#{self.name} [data-f]:not([data-f~="{self.start}"]){{display:none}}'
        return (
            f'<figure class="pml-x" id="{self.name}"><style>{STYLE}</style>'
            f'<style class="now">{now}</style>'
            f'<div role="img" data-what="{html.escape(self.what)}" '
            f'aria-label="{html.escape(self.what)}">{self.stage}</div>'
            f'<div class="ctl">{sliders}{play}</div><figcaption>{caption}</figcaption></figure>'
            f"<script>{SCRIPT.replace('NAME', self.name)}</script>"
        )

    def _link(self, found) -> str:
        go = " ".join(map(str, self.positions(int(found[1]))))
        return f'<a href="#{self.name}" data-go="{go}">{found[2]}</a>'


def explore_recital(records, labels, *, name: str, caption: str, start: int = -1) -> Explorable:
    """What the model says by itself, state after state: shaded by p, errors marked.

    `records` are `Recall`s of one memory, `labels` the states' names (such as "step 40").
    """
    stage = []
    for k, (record, label) in enumerate(zip(records, labels, strict=True)):
        words = []
        for t, token in enumerate(record.greedy_tokens):
            soft = "blue" if record.ordered[t] else "amber"
            text = html.escape(token)
            text = text if record.recited[t] else f"<u>{text}</u>"
            words.append(f'<span style="background:var(--{soft}-soft)">{text}</span>')
        right = int(record.recited.sum())
        stage.append(f'<div class="says" data-f="{k}">{"".join(words)}</div>')
        stage.append(
            _read(k, f"{label}: {right} of {record.memory.length} tokens recited, "
                     f"{int(record.ordered.sum())} above ½, L = {record.mean_loss:.2f} nats.")
        )  # fmt: skip
    what = "What the model says from the key alone, token by token; wrong tokens are underlined."
    return Explorable(
        name, "".join(stage), {"state": list(labels)}, start % len(labels), what, caption
    )


def explore_crossing(rows, labels, *, name: str, caption: str, start: int = -1) -> Explorable:
    """Bars of p for each token, state after state, and the line at one half. `rows`: (ℓ,) each."""
    plot = Plot(len(rows[0]), 1.0, "position in the answer (tokens)", "p of the right token")
    parts = [plot.frame((0, 0.5, 1))]
    for k, p in enumerate(rows):
        parts.append(f'<g data-f="{k}">{plot.bars(p, p > 0.5)}</g>')
    parts.append(plot.level(0.5))
    reads = [
        _read(k, f"{label}: {int((np.asarray(p) > 0.5).sum())} of {len(p)} tokens above ½.")
        for k, (p, label) in enumerate(zip(rows, labels, strict=True))
    ]
    what = "A bar for each token's probability: blue above one half, amber below."
    return Explorable(
        name, plot.svg(parts) + "".join(reads), {"state": list(labels)}, start % len(labels), what,
        caption,
    )  # fmt: skip


def explore_weights(rows, weights, labels, *, name: str, caption: str, start: int = 0):
    """p of each token, and below it the weight that each method gives it, state after state.

    `rows` are (ℓ,) probabilities; `weights` maps a method's name to its (ℓ,) weights.
    """
    plots, reads = [], []
    for method in ["p of the token", *weights]:
        last = method == list(weights)[-1]
        plot = Plot(len(rows[0]), 1.0, "position (tokens)" if last else "", method, height=92)
        parts = [plot.frame((0, 1))]
        for k, p in enumerate(rows):
            values = p if method not in weights else weights[method][k]
            bars = plot.bars(values, None if method in weights else np.asarray(p) > 0.5)
            parts.append(f'<g data-f="{k}">{bars}</g>')
        plots.append(plot.svg(parts))
    for k, label in enumerate(labels):
        shares = [f"{m}: {np.sum(np.asarray(w[k]) > 0.05)}" for m, w in weights.items()]
        reads.append(_read(k, f"{label}: tokens with a weight above 0.05: {', '.join(shares)}."))
    what = "Bars of each token's probability, and under them bars of its weight by each method."
    return Explorable(
        name, "".join(plots + reads), {"state": list(labels)}, start % len(labels), what, caption
    )


def explore_law(cells, predict, *, name: str, caption: str, start: int = 0) -> Explorable:
    """Sliders for rank and length over a fitted law, with the measured runs on it.

    `cells` is a table with r, length, delta_loss; `predict(r, lengths)` gives the law's ΔL.
    """
    ranks, lengths = sorted(cells.r.unique()), sorted(cells.length.unique())
    low, high = np.log(min(lengths)) - 0.1, np.log(max(lengths)) + 0.1
    top = 1.12 * cells.delta_loss.max()
    plot = Plot(high - low, top, "length ℓ (tokens, log scale)", "ΔL (nats per token)", height=260)
    at = lambda length: np.log(length) - low  # noqa: E731
    parts = [plot.frame(np.arange(0, top, 5), {at(n): str(n) for n in lengths if n != 144})]
    for _, run in cells.iterrows():
        parts.append(plot.point(at(run.length), run.delta_loss, "dot", 3))
    reads = []
    fine = np.exp(np.linspace(low, high, 30))
    for i, r in enumerate(ranks):
        mine = " ".join(str(i * len(lengths) + j) for j in range(len(lengths)))
        parts.append(f'<g data-f="{mine}">{plot.curve(at(fine), predict(r, fine))}')
        for _, run in cells[cells.r == r].iterrows():
            parts.append(plot.point(at(run.length), run.delta_loss, "hi", 4))
        parts.append("</g>")
    for k, (r, length) in enumerate(itertools.product(ranks, lengths)):
        told = float(predict(r, np.array([float(length)]))[0])
        parts.append(f'<g data-f="{k}">{plot.point(at(length), told, "mark", 7)}</g>')
        found = cells[(cells.r == r) & (cells.length == length)].delta_loss
        seen = ", ".join(f"{x:.2f}" for x in found) or "no run"
        reads.append(
            _read(k, f"Rank {r}, {length} tokens: predicted {told:.2f} nats; measured: {seen}.")
        )
    what = "Learnt loss against length: grey dots are all runs, blue those of the chosen rank."
    axes = {"rank": [str(r) for r in ranks], "length": [str(n) for n in lengths]}
    return Explorable(name, plot.svg(parts) + "".join(reads), axes, start, what, caption)


class Plot:
    """A small SVG chart, 640 units wide: x from 0 to `right`, y from 0 to `top`."""

    left, width = 46, 584

    def __init__(self, right: float, top: float, xlabel: str, ylabel: str, height: int = 170):
        self.right, self.top, self.height = right, top, height
        self.xlabel, self.ylabel = xlabel, ylabel

    def x(self, value):
        return self.left + self.width * value / self.right

    def y(self, value):
        return 24 + self.height * (1 - value / self.top)

    def svg(self, parts) -> str:
        """The whole picture."""
        box = f"0 0 640 {24 + self.height + (40 if self.xlabel else 8)}"
        return f'<svg viewBox="{box}" aria-hidden="true">{"".join(parts)}</svg>'

    def frame(self, yticks, xticks=None) -> str:
        """Axes, ticks and labels."""
        bottom = self.y(0)
        parts = [f'<path class="axis" d="M{self.left} 24V{bottom:.0f}H{self.left + self.width}"/>']
        for tick in yticks:
            parts.append(
                f'<text x="{self.left - 7}" y="{self.y(tick) + 4:.0f}" text-anchor="end">'
                f"{tick:g}</text>"
            )
        step = max(1, 8 * round(self.right / 64))
        if xticks is None:
            xticks = {i + 0.5: str(i) for i in range(0, int(self.right), step)}
        for place, word in xticks.items() if self.xlabel else ():
            parts.append(
                f'<text x="{self.x(place):.0f}" y="{bottom + 16:.0f}" text-anchor="middle">'
                f"{word}</text>"
            )
        middle = self.left + self.width / 2
        parts.append(f'<text x="{middle:.0f}" y="{bottom + 36:.0f}" text-anchor="middle">')
        parts.append(f'{self.xlabel}</text><text x="4" y="14">{self.ylabel}</text>')
        return "".join(parts)

    def bars(self, values, high=None) -> str:
        """One bar a value; coloured by `high` (an array of truths), grey without it."""
        wide = 0.8 * self.width / self.right
        marks = []
        for i, value in enumerate(np.asarray(values, dtype=float)):
            kind = "bar" if high is None else ("hi" if high[i] else "lo")
            tall = self.height * min(value, self.top) / self.top
            marks.append(
                f'<rect class="{kind}" x="{self.x(i + 0.1):.1f}" y="{self.y(value):.1f}" '
                f'width="{wide:.1f}" height="{tall:.1f}"/>'
            )
        return "".join(marks)

    def level(self, value: float) -> str:
        """A dotted line across."""
        y = self.y(value)
        return f'<path class="half" d="M{self.left} {y:.1f}H{self.left + self.width}"/>'

    def point(self, x: float, y: float, kind: str, size: float) -> str:
        """A dot."""
        return f'<circle class="{kind}" cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="{size}"/>'

    def curve(self, xs, ys) -> str:
        """A line through points; what lies above the chart is left out."""
        points = [
            f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in zip(xs, ys, strict=True) if y <= self.top
        ]
        return f'<path class="curve" d="M{"L".join(points)}"/>' if points else ""


def _read(frame: int, sentence: str) -> str:
    return f'<div class="read" data-f="{frame}">{html.escape(sentence)}</div>'


def _json(words) -> str:
    return "[" + ",".join('"' + str(word).replace('"', "'") + '"' for word in words) + "]"
