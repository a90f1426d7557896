"""Labels against accuracy: a curve for each representation."""

from collections.abc import Sequence

from selftaught.evaluation.row import Row
from selftaught.report import plots
from selftaught.report.page import Html, figure, grid

_SHOWN = "accuracy"
_MOST = 6  # curves that can be told apart


def labels_figures(rows: Sequence[Row]) -> list[Html]:
    """A plot for each protocol that looked at several numbers of labels; nothing without such."""
    by_protocol: dict[str, list[Row]] = {}
    for row in rows:
        if row.metric == _SHOWN and row.train:
            by_protocol.setdefault(row.protocol.partition(", ")[0], []).append(row)
    drawn = [
        figure(_plot(name, of_one), "Means of seeds; the horizontal axis grows by factors.")
        for name, of_one in by_protocol.items()
        if len({row.train for row in of_one}) > 1
    ]
    return [grid(drawn)] if drawn else []


def _plot(name: str, rows: Sequence[Row]) -> Html:
    lines = {of: _curve(rows, of) for of in dict.fromkeys(row.representation for row in rows)}
    lines = dict(list(lines.items())[:_MOST])
    told = (f"{of} {y[0]:.3f} to {y[-1]:.3f}" for of, (_, y) in lines.items())
    alt = f"Accuracy over labelled images, {name}: {'; '.join(told)}"
    title = f"Accuracy, {name}"
    return plots.curves(title, lines, alt=alt, over="labelled images", by_factors=True)


def _curve(rows: Sequence[Row], representation: str) -> plots.Points:
    """Numbers of labels, rising, and the mean value of the seeds at each."""
    values: dict[int, list[float]] = {}
    for row in rows:
        if row.representation == representation:
            values.setdefault(row.train or 0, []).append(row.value)
    x = sorted(values)
    return [float(n) for n in x], [sum(values[n]) / len(values[n]) for n in x]
