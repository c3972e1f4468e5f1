"""Curves as inline SVG that takes the page's colours: small, the same every time, without a word from the run.

matplotlib draws; what would tie the picture to one background, to a date or to another server is taken out
of its SVG. Names and values stand beside the picture, as text of the page, where they are escaped.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 4.4, 2.2
"""Inches; the page scales the picture to its column."""
TEXT, GRID = "#010203", "#010204"
"""Colours that stand for those of the page: --muted and --rule."""
MOST_LINES = 6
"""Lines that can still be told apart; the first has the accent."""
LINES = tuple(f"#0102{16 + at:02x}" for at in range(MOST_LINES))
DASHES: tuple[Any, ...] = ("-", "-", (0, (4, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2)))


@dataclass(frozen=True, slots=True)
class Line:
    """One curve.

    >>> Line("reward", [(1, 0.31), (2, 0.17)])
    """

    label: str
    points: Sequence[tuple[float, float]]
    """(step, value)"""
    bounds: Sequence[tuple[float, float]] = ()
    """The interval of each value, when it has one."""


def draw(lines: Sequence[Line], name: str, low: float | None = None, high: float | None = None) -> str:
    """The lines over the steps; `name` keeps the picture's inner names apart from those of others on the page."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "DejaVu Sans", "font.size": 9}):
        figure = Figure(figsize=(WIDTH, HEIGHT))
        FigureCanvasSVG(figure)
        axes = figure.add_axes((0.1, 0.13, 0.87, 0.83))
        for at, line in reversed(list(enumerate(lines[:MOST_LINES]))):
            curve(axes, line, LINES[at], DASHES[at])
        least = min((y for line in lines for _, y in line.points), default=0.0)
        dress(axes, None if low is None else min(low, least), high)  # an estimate of the KL may be below 0
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return of_the_page(file.getvalue())


def curve(axes: Any, line: Line, colour: str, dash: Any) -> None:
    """One line, its last point marked; few values with an interval as points."""
    steps, values = [x for x, _ in line.points], [y for _, y in line.points]
    axes.plot(steps, values, color=colour, linewidth=1.5, linestyle=dash, solid_capstyle="round", clip_on=False)
    if line.bounds:
        axes.vlines(
            steps,
            [low for low, _ in line.bounds],
            [high for _, high in line.bounds],
            colour,
            linewidth=1.5,
            clip_on=False,
        )
    marked = slice(None) if line.bounds else slice(-1, None)
    axes.plot(steps[marked], values[marked], "o", color=colour, markersize=3.5, markeredgewidth=0, clip_on=False)


def dress(axes: Any, low: float | None, high: float | None) -> None:
    """Few ticks, faint lines, no frame."""
    from matplotlib.ticker import MaxNLocator

    axes.set_ylim(bottom=low, top=high)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=5, labelcolor=TEXT)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GRID)


def of_the_page(svg: str) -> str:
    """The drawing alone, in the page's colours and letters, with no address in it."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (xmlns(:\w+)?|version|width|height)="[^"]*"', "", svg, count=5).replace("xlink:href", "href")
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font-family: [^;\"]*; ?", "", svg)
    for colour, variable in COLOURS.items():
        svg = svg.replace(colour, f"var({variable})")
    return re.sub(r">\s+<", "><", svg).strip()


COLOURS: Mapping[str, str] = {TEXT: "--muted", GRID: "--rule"} | {c: f"--line-{at}" for at, c in enumerate(LINES, 1)}
