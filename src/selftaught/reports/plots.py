"""Plots as SVG inside the page: matplotlib draws them, the page's style sheet colours them.

The colours handed to matplotlib are place-holders, replaced by the style sheet's variables, so that
one drawing serves light and dark. Letters stay letters and take the page's font.
"""

import io
import itertools
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from selftaught.reports.page import Html, text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = tuple[Sequence[float], Sequence[float]]
"""Steps and values of one curve."""

_COLOURS = {  # place-holder in the drawing: variable of style.css
    "#010203": "--ink",
    "#040506": "--soft",
    "#070809": "--line",
    "#0a0b0c": "--main",
    "#0d0e0f": "--other",
    "#101112": "--third",
    "#131415": "--fourth",
    "#161718": "--fifth",
    "#191a1b": "--sixth",
}
_INK, _SOFT, _LINE, *_CURVES = _COLOURS
_FONT = 11.0  # points of the drawing, which is shown at about its own size
_FEW = 24  # points that are marked one by one
_LONGEST = 24  # characters of a line's name
_APART = 0.12  # of the height, between names of lines
_FACTOR = 30  # from the first of few places to the last: more, and they would crowd at the left
_BARS = 100  # are told apart
_BINS = 300  # a curve of more than two points a bin keeps each bin's lowest and highest


def curves(
    title: str,
    lines: Mapping[str, Points],
    *,
    alt: str,
    level: tuple[str, Points] | None = None,
    over: str = "step",
    chosen: float | None = None,
    by_factors: bool = False,
) -> Html:
    """One small plot of curves over steps, with an optional dashed level to compare with.

    Args:
        title: What the vertical axis shows.
        lines: One curve a name (six at most); values that are not finite are left out.
        alt: What the plot shows, in words.
        level: Name and points of the dashed curve, such as the loss of a constant output.
        over: What the horizontal axis counts.
        chosen: Which point of the horizontal axis was chosen, where the curve is a choice: the
            point is marked, and points that grow by factors stand apart evenly.
        by_factors: Whether what the horizontal axis counts grows by factors.
    """
    marked = chosen is not None or by_factors
    with _drawing():
        figure, axes = _canvas(title, over)
        for colour, (name, points) in zip(_CURVES, lines.items(), strict=False):
            x, y = _thinned(points)
            apart = len(y) == 1 or (marked and len(y) <= _FEW)
            marker = "o" if apart else ""  # one point makes no line
            axes.plot(x, y, marker=marker, markersize=4, color=colour, linewidth=1.7, label=name)
        if level is not None:
            name, points = level
            axes.plot(*_thinned(points), color=_SOFT, linewidth=1.2, dashes=(4, 3), label=name)
        if len(axes.lines) > 1:
            _named_at_their_ends(axes)
        if chosen is not None:
            axes.axvline(chosen, color=_SOFT, linewidth=1.2, dashes=(4, 3))
        if marked:
            _spread_evenly(axes, np.asarray(next(iter(lines.values()))[0], np.float64))
        return _svg(figure, alt)


def bars(title: str, heights: Sequence[float], *, alt: str, over: str) -> Html:
    """One small plot of bars side by side; many become one area.

    Args:
        title: What the vertical axis shows.
        heights: Of the bars, from the left.
        alt: What the plot shows, in words.
        over: What the horizontal axis counts.
    """
    with _drawing():
        figure, axes = _canvas(title, over)
        places = list(range(1, len(heights) + 1))
        if len(heights) <= _BARS:
            axes.bar(places, heights, width=0.82, color=_CURVES[0])
        else:
            x, y = _thinned((places, heights))
            axes.fill_between(x, y, step="mid", color=_CURVES[0], linewidth=0)
        axes.set_ylim(bottom=0)
        axes.set_axisbelow(True)
        return _svg(figure, alt)


def interval_plot(value: float, low: float, high: float, *, scale: tuple[float, float]) -> Html:
    """A point with its interval on a common scale, small enough for a table cell."""
    left, right = scale
    across = max(right - left, 1e-12)
    x_low, x, x_high = (6 + 132 * (v - left) / across for v in (low, value, high))
    return Html(
        f'<svg class="interval" viewBox="0 0 144 14" role="img" '
        f'aria-label="{value:.3f}, between {low:.3f} and {high:.3f}">'
        f'<line x1="{x_low:.1f}" y1="7" x2="{x_high:.1f}" y2="7"></line>'
        f'<circle cx="{x:.1f}" cy="7" r="4"></circle></svg>'
    )


def _drawing() -> AbstractContextManager[None]:
    """Letters stay letters, and the same drawing has the same bytes."""
    from matplotlib import rc_context

    return rc_context({"font.size": _FONT, "svg.fonttype": "none", "svg.hashsalt": "selftaught"})


def grow_by_factors(x: Sequence[float] | NDArray[np.float64]) -> bool:
    """Whether a few rising places are so far apart that factors tell more than differences."""
    return 2 < len(x) <= _FEW and x[0] > 0 and bool(x[-1] >= _FACTOR * x[0])


def _spread_evenly(axes: "Axes", x: NDArray[np.float64]) -> None:
    """A logarithmic axis for a few places that grow by factors."""
    from matplotlib.ticker import NullLocator

    if not grow_by_factors(x):
        return
    axes.set_xscale("log")
    ticks = x[:: -(-len(x) // 6)]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def _named_at_their_ends(axes: "Axes") -> None:
    """The name of each line right of its last point, in its colour; none on top of another."""
    axes.autoscale_view()
    to_axes = axes.transData + axes.transAxes.inverted()
    points = {line: np.asarray(line.get_xydata()) for line in axes.lines}
    ends = {line: float(to_axes.transform(xy[-1])[1]) for line, xy in points.items() if len(xy)}
    for line, height in zip(ends, _apart([*ends.values()], _APART), strict=True):
        name = axes.text(1.02, height, _brief(str(line.get_label())), transform=axes.transAxes)
        name.set(color=line.get_color(), fontsize=_FONT - 1, verticalalignment="center")


def _brief(name: str) -> str:
    """The end of a long name, such as a path: there must be room for the plot."""
    return name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"


def _apart(heights: Sequence[float], least: float) -> list[float]:
    """The heights, 0 to 1, moved until each is so far above the one below it."""
    moved = list(heights)
    order = sorted(range(len(moved)), key=moved.__getitem__)
    for below, above in itertools.pairwise(order):
        moved[above] = max(moved[above], moved[below] + least)
    ceiling = 1.0
    for i in reversed(order):
        moved[i] = min(moved[i], ceiling)
        ceiling = moved[i] - least
    return moved


def _thinned(points: Points) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The finite points; of a long curve each bin's extremes, so that no spike is lost."""
    steps, values = (np.asarray(side, np.float64) for side in points)
    steps, values = steps[np.isfinite(values)], values[np.isfinite(values)]
    if len(values) <= 2 * _BINS:
        return steps, values
    keep = set()
    for part in np.array_split(np.arange(len(values)), _BINS):
        keep |= {int(part[values[part].argmin()]), int(part[values[part].argmax()])}
    order = np.array(sorted(keep | {len(values) - 1}))
    return steps[order], values[order]


def _canvas(title: str, over: str) -> "tuple[Figure, Axes]":
    """An empty plot without a box: faint horizontal lines, its title at the upper left."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(4.0, 2.4), layout="constrained")
    figure.patch.set_visible(False)
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    axes.set_title(title, loc="left", color=_INK, fontsize=_FONT, fontweight="bold", pad=9)
    axes.set_xlabel(over, color=_SOFT, fontsize=_FONT - 1, loc="right")
    axes.tick_params(colors=_SOFT, labelsize=_FONT - 1, length=0)
    axes.grid(axis="y", color=_LINE, linewidth=0.9)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.spines[:].set_visible(False)
    axes.margins(x=0.01)
    return figure, axes


def _svg(figure: "Figure", alt: str) -> Html:
    """The drawing as an element of an HTML page: no header, no addresses, names of its own."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    sink = io.StringIO()
    figure.canvas = FigureCanvasSVG(figure)
    figure.savefig(sink, format="svg", metadata={"Date": None})
    drawing = sink.getvalue()
    inside = drawing[drawing.index("</metadata>") + len("</metadata>") : drawing.rindex("</svg>")]
    inside = re.sub(r"<!--.*?-->|<style.*?</style>", "", inside, flags=re.DOTALL)
    inside = re.sub(r"font-family: [^;\"]*;? ?", "", inside).replace("xlink:href", "href")
    inside = re.sub(r"<[^>]*>", _shortened, inside)
    for colour, variable in _COLOURS.items():
        inside = inside.replace(colour, f"var({variable})")
    prefix = f"p{zlib.crc32((alt + inside).encode()):08x}-"
    inside = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{prefix}", inside)
    width, height = (72 * side for side in figure.get_size_inches())
    return Html(
        f'<svg class="plot" viewBox="0 0 {math.ceil(width)} {math.ceil(height)}" role="img" '
        f'aria-label="{text(alt)}">{inside}</svg>'
    )


def _shortened(tag: re.Match[str]) -> str:
    """A tag with its coordinates cut to a hundredth of a point, which is enough."""
    return re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0])
