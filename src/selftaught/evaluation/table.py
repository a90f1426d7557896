"""A line of an evaluation table: one figure, with everything that qualifies it; tables of them."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One measured figure of one representation."""

    representation: str
    """"this encoder", "random init", "raw pixels", or the name that the user gave."""
    protocol: str
    """"knn", "linear", ...; with few labels: "knn, 20 labels a class"."""
    split: str
    """The images that it was measured on, in words: "test (given)"."""
    metric: str
    """"accuracy", "balanced accuracy", "mean average precision", "average precision", "NMI",
    "ARI"."""
    seed: int
    """Of the random network that was measured; otherwise that of the evaluation."""
    value: float
    low: float | None
    """Lower end of the 95 % bootstrap interval over test images; None where there is none."""
    high: float | None
    seconds: float
    """Of wall clock for the protocol; making the vectors, which protocols share, is not in it."""
    note: str = ""
    """What a reader must know: "k = 200 was clipped to 131"."""
    delta_low: float | None = None
    """The 95 % interval of "this encoder minus it", paired on the same resampled test images."""
    delta_high: float | None = None
    train: int | None = None
    """Labelled images that were learnt from; None where none were."""
    images: int | None = None
    """Images, queries or objects that the figure is of."""


def as_dicts(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """The rows for JSON, one object each, seeds apart."""
    return [asdict(row) for row in rows]


def as_text(rows: Sequence[Row]) -> str:
    """The rows as a table for people: a block a protocol and split, a column a metric, then notes.

    More than three metrics, as of a network's stages, are lines, and the representations columns.
    Seeds of one representation become one line: the mean of their values, the widest of their
    intervals, the sum of their seconds. The paired interval of "this minus it" is shown for the
    first metric; a mark says of each metric whether it lies above 0 or below.
    """
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.protocol, row.split].append(row)
    parts = [
        "\n".join([f"{protocol}, {counted(split, group)}", *_aligned(_block(group))])
        for (protocol, split), group in groups.items()
    ]
    notes = dict.fromkeys(f"{row.protocol}: {row.note}" for row in rows if row.note)
    legend = [_LEGEND] if any(row.delta_low is not None for row in rows) else []
    return "\n\n".join([*parts, *(["\n".join([*legend, *notes])] if legend or notes else [])])


def counted(split: str, group: Sequence[Row]) -> str:
    """The images in words, with their number where that is not in the words already."""
    number, train = group[0].images, group[0].train
    told = number is None or split[:1].isdecimal()
    words = split if told else f"{split}: {number:,} images"
    return words if train is None else f"{words}; {train:,} learnt from"


_BETTER, _WORSE = "<", ">"
_LEGEND = (
    "Values with 95 % intervals; < less than this encoder's, > more: the paired 95 % interval of "
    "the difference from it does not hold 0."
)
_ACROSS = 3  # metrics that stand side by side


def is_long(group: Sequence[Row]) -> bool:
    """Whether a protocol has so many metrics that each of them is a line."""
    return len({row.metric for row in group}) > _ACROSS


def turned(group: Sequence[Row]) -> list[list[str]]:
    """A header of representations, then a line a metric, and the seconds of all metrics.

    Cells are marked < where the paired interval of the difference lies above 0, > where below.
    """
    columns = [["", *dict.fromkeys(row.metric for row in group), "seconds"]]
    for name in dict.fromkeys(row.representation for row in group):
        own = [row for row in group if row.representation == name]
        by_metric = [[row for row in own if row.metric == m] for m in columns[0][1:-1]]
        seeds = max(map(len, by_metric))
        seconds = sum(row.seconds for row in max(by_metric, key=len))
        called = f"{name}, mean of {seeds} seeds" if seeds > 1 else name
        columns.append([called, *map(_cell, by_metric), f"{seconds:.1f}"])
    return [list(line) for line in zip(*columns, strict=True)]


def _block(group: Sequence[Row]) -> list[list[str]]:
    """A header and a line a representation."""
    if is_long(group):
        return turned(group)
    metrics = list(dict.fromkeys(row.metric for row in group))
    minus = "this minus it" + (f", {metrics[0]}" if metrics[1:] else "")
    paired = any(row.delta_low is not None for row in group)
    lines = [["", *metrics, *([minus] if paired else []), "seconds"]]
    for name in dict.fromkeys(row.representation for row in group):
        own = [row for row in group if row.representation == name]
        by_metric = [[row for row in own if row.metric == metric] for metric in metrics]
        seeds = len(by_metric[0])
        called = f"{name}, mean of {seeds} seeds" if seeds > 1 else name
        seconds = sum(row.seconds for row in by_metric[0])
        delta = _widest([(row.delta_low, row.delta_high) for row in by_metric[0]], "+.3f")
        cells = [*map(_cell, by_metric), *([delta] if paired else [])]
        lines.append([called, *cells, f"{seconds:.1f}"])
    return lines


def _cell(seeds: Sequence[Row]) -> str:
    """Value, interval and mark of one metric."""
    if not seeds:
        return ""
    value = f"{sum(row.value for row in seeds) / len(seeds):.3f}"
    interval = _widest([(row.low, row.high) for row in seeds], ".3f")
    marked = f"{_mark(seeds)} {value}".strip()
    return f"{marked} ({interval})" if interval else marked


def _mark(seeds: Sequence[Row]) -> str:
    if all(row.delta_low is not None and row.delta_low > 0 for row in seeds):
        return _BETTER
    worse = all(row.delta_high is not None and row.delta_high < 0 for row in seeds)
    return _WORSE if worse else " "


def _widest(intervals: Sequence[tuple[float | None, float | None]], form: str) -> str:
    """From the lowest low to the highest high, where there are any."""
    lows = [low for low, _ in intervals if low is not None]
    highs = [high for _, high in intervals if high is not None]
    return f"{min(lows):{form}} to {max(highs):{form}}" if lows and highs else ""


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Cells in columns, the first flush left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            [
                f"  {line[0]:<{widths[0]}}",
                *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for line in lines
    ]
