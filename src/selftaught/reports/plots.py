"""Plots as SVG inside the page: matplotlib draws them, the page's style sheet colours them.

The colours given to matplotlib are placeholders, replaced by variables of the style sheet, so that
one drawing serves light and dark mode. Text stays text and uses the font of the page.
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

_COLOURS = {  # placeholder in the drawing: variable of style.css
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
_FONT = 11.0  # points; the page shows the drawing at about its original size
_FEW = 24  # up to this many points get a marker each
_LONGEST = 24  # characters of a line's label
_LABEL_GAP = 0.12  # share of the height between labels of lines
_FACTOR = 30  # from this ratio of the last to the first x, a linear axis is crowded at the left
_BARS = 100  # more bars are drawn as an area
_BINS = 300  # curves of more than two points per bin keep the extremes of each bin


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
    """A small plot of curves over steps, with an optional dashed reference curve.

    Args:
        title: What the vertical axis shows.
        lines: Curves by name (six at most); values that are not finite are dropped.
        alt: Alternative text of the plot.
        level: Name and points of the dashed curve, such as the loss of a constant output.
        over: What the horizontal axis counts.
        chosen: The chosen x, if the curve shows a choice; it is marked, and a logarithmic axis is
            used for few x that span a large factor.
        by_factors: Whether to use a logarithmic axis for such x in any case.
    """
    marked = chosen is not None or by_factors
    with _drawing_settings():
        figure, axes = _canvas(title, over)
        for colour, (name, points) in zip(_CURVES, lines.items(), strict=False):
            x, y = _thinned_points(points)
            has_markers = len(y) == 1 or (marked and len(y) <= _FEW)
            marker = "o" if has_markers else ""  # a single point has no line
            axes.plot(x, y, marker=marker, markersize=4, color=colour, linewidth=1.7, label=name)
        if level is not None:
            name, points = level
            axes.plot(
                *_thinned_points(points), color=_SOFT, linewidth=1.2, dashes=(4, 3), label=name
            )
        if len(axes.lines) > 1:
            _label_line_ends(axes)
        if chosen is not None:
            axes.axvline(chosen, color=_SOFT, linewidth=1.2, dashes=(4, 3))
        if marked:
            _use_log_axis(axes, np.asarray(next(iter(lines.values()))[0], np.float64))
        return _svg(figure, alt)


def bars(title: str, heights: Sequence[float], *, alt: str, over: str) -> Html:
    """A small bar chart; more than a hundred bars become an area.

    Args:
        title: What the vertical axis shows.
        heights: Heights of the bars, from the left.
        alt: Alternative text of the plot.
        over: What the horizontal axis counts.
    """
    with _drawing_settings():
        figure, axes = _canvas(title, over)
        places = list(range(1, len(heights) + 1))
        if len(heights) <= _BARS:
            axes.bar(places, heights, width=0.82, color=_CURVES[0])
        else:
            x, y = _thinned_points((places, heights))
            axes.fill_between(x, y, step="mid", color=_CURVES[0], linewidth=0)
        axes.set_ylim(bottom=0)
        axes.set_axisbelow(True)
        return _svg(figure, alt)


def interval_plot(value: float, low: float, high: float, *, scale: tuple[float, float]) -> Html:
    """A value with its interval on a common scale, small enough for a table cell."""
    left, right = scale
    across = max(right - left, 1e-12)
    x_low, x, x_high = (6 + 132 * (v - left) / across for v in (low, value, high))
    return Html(
        f'<svg class="interval" viewBox="0 0 144 14" role="img" '
        f'aria-label="{value:.3f}, between {low:.3f} and {high:.3f}">'
        f'<line x1="{x_low:.1f}" y1="7" x2="{x_high:.1f}" y2="7"></line>'
        f'<circle cx="{x:.1f}" cy="7" r="4"></circle></svg>'
    )


def _drawing_settings() -> AbstractContextManager[None]:
    """Settings of matplotlib that keep text as text and make equal drawings equal bytes."""
    from matplotlib import rc_context

    return rc_context({"font.size": _FONT, "svg.fonttype": "none", "svg.hashsalt": "selftaught"})


def grow_by_factors(x: Sequence[float] | NDArray[np.float64]) -> bool:
    """Whether a few increasing x span a factor that needs a logarithmic axis."""
    return 2 < len(x) <= _FEW and x[0] > 0 and bool(x[-1] >= _FACTOR * x[0])


def _use_log_axis(axes: "Axes", x: NDArray[np.float64]) -> None:
    """Use a logarithmic axis if `grow_by_factors`."""
    from matplotlib.ticker import NullLocator

    if not grow_by_factors(x):
        return
    axes.set_xscale("log")
    ticks = x[:: -(-len(x) // 6)]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def _label_line_ends(axes: "Axes") -> None:
    """Write the name of each line next to its last point, in its colour, without overlaps."""
    axes.autoscale_view()
    to_axes = axes.transData + axes.transAxes.inverted()
    points = {line: np.asarray(line.get_xydata()) for line in axes.lines}
    ends = {line: float(to_axes.transform(xy[-1])[1]) for line, xy in points.items() if len(xy)}
    for line, height in zip(ends, _spaced_heights([*ends.values()], _LABEL_GAP), strict=True):
        name = axes.text(
            1.02, height, _short_label(str(line.get_label())), transform=axes.transAxes
        )
        name.set(color=line.get_color(), fontsize=_FONT - 1, verticalalignment="center")


def _short_label(name: str) -> str:
    """The end of a long name, such as a path, so that the plot has room."""
    return name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"


def _spaced_heights(heights: Sequence[float], least: float) -> list[float]:
    """The heights, 0 to 1, moved until each is at least `least` above the one below it."""
    moved = list(heights)
    order = sorted(range(len(moved)), key=moved.__getitem__)
    for below, above in itertools.pairwise(order):
        moved[above] = max(moved[above], moved[below] + least)
    ceiling = 1.0
    for i in reversed(order):
        moved[i] = min(moved[i], ceiling)
        ceiling = moved[i] - least
    return moved


def _thinned_points(points: Points) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The finite points; for a long curve the extremes of each bin, so that spikes survive."""
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
    """An empty plot without a frame: faint horizontal lines, the title at the upper left."""
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
    """The drawing as an element of an HTML page: no header, no addresses, unique ids."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    sink = io.StringIO()
    figure.canvas = FigureCanvasSVG(figure)
    figure.savefig(sink, format="svg", metadata={"Date": None})
    drawing = sink.getvalue()
    inside = drawing[drawing.index("</metadata>") + len("</metadata>") : drawing.rindex("</svg>")]
    inside = re.sub(r"<!--.*?-->|<style.*?</style>", "", inside, flags=re.DOTALL)
    inside = re.sub(r"font-family: [^;\"]*;? ?", "", inside).replace("xlink:href", "href")
    inside = re.sub(r"<[^>]*>", _shortened_tag, inside)
    for colour, variable in _COLOURS.items():
        inside = inside.replace(colour, f"var({variable})")
    prefix = f"p{zlib.crc32((alt + inside).encode()):08x}-"
    inside = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{prefix}", inside)
    width, height = (72 * side for side in figure.get_size_inches())
    return Html(
        f'<svg class="plot" viewBox="0 0 {math.ceil(width)} {math.ceil(height)}" role="img" '
        f'aria-label="{text(alt)}">{inside}</svg>'
    )


def _shortened_tag(tag: re.Match[str]) -> str:
    """A tag with its coordinates cut to a hundredth of a point."""
    return re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0])
