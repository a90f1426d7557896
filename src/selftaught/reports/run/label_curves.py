"""Accuracy over the number of labels: a curve per representation."""

from collections.abc import Sequence

from selftaught.evaluation.protocols.registry import SCRATCH
from selftaught.evaluation.table import Row
from selftaught.reports import plots
from selftaught.reports.page import Html, figure, grid

_METRIC = "accuracy"
_MOST = 6  # curves that can be distinguished
_ALWAYS = ("random init", "raw pixels", SCRATCH)


def labels_figures(rows: Sequence[Row]) -> list[Html]:
    """A plot per protocol that was run with several numbers of labels, if any."""
    by_protocol: dict[str, list[Row]] = {}
    for row in rows:
        if row.metric == _METRIC and row.train:
            by_protocol.setdefault(row.protocol.partition(", ")[0], []).append(row)
    drawn = [
        _figure(name, {of: _curve(of_one, of) for of in _in_order(of_one)})
        for name, of_one in by_protocol.items()
        if len({row.train for row in of_one}) > 1
    ]
    return [grid(drawn)] if drawn else []


def _in_order(rows: Sequence[Row]) -> list[str]:
    """The representations: the first, those of every table, then the others."""
    first, *others = dict.fromkeys(row.representation for row in rows)
    return [first, *sorted(others, key=lambda name: name not in _ALWAYS)]


def _figure(name: str, lines: dict[str, plots.Points]) -> Html:
    """The plot with its caption."""
    drawn, left_out = dict(list(lines.items())[:_MOST]), list(lines)[_MOST:]
    words = ["Means over seeds."]
    if plots.grow_by_factors(next(iter(drawn.values()))[0]):
        words.append("The horizontal axis is logarithmic.")
    if left_out:
        words.append(f"Not drawn: {', '.join(left_out)}.")
    return figure(_plot(name, drawn), " ".join(words))


def _plot(name: str, lines: dict[str, plots.Points]) -> Html:
    ends = (f"{of} {y[0]:.3f} to {y[-1]:.3f}" for of, (_, y) in lines.items())
    alt = f"Accuracy over labelled images, {name}: {'; '.join(ends)}"
    title = f"Accuracy, {name}"
    return plots.curves(title, lines, alt=alt, over="labelled images", by_factors=True)


def _curve(rows: Sequence[Row], representation: str) -> plots.Points:
    """Increasing numbers of labels, and the mean value of the seeds at each."""
    values: dict[int, list[float]] = {}
    for row in rows:
        if row.representation == representation:
            values.setdefault(row.train or 0, []).append(row.value)
    x = sorted(values)
    return [float(n) for n in x], [sum(values[n]) / len(values[n]) for n in x]
