"""Rows of evaluation tables, one figure each, and the tables as text."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One figure of one representation."""

    representation: str
    """"this encoder", "random init", "raw pixels", or the user's name."""
    protocol: str
    """"knn", "linear", ...; with few labels: "knn, 20 labels per class"."""
    split: str
    """The test images in words: "test (given)"."""
    metric: str
    """"accuracy", "balanced accuracy", "mean average precision", "average precision", "NMI",
    "ARI"."""
    seed: int
    """Seed of the random network, or of the evaluation."""
    value: float
    low: float | None
    """Lower end of the 95 % bootstrap interval over test images; None without an interval."""
    high: float | None
    seconds: float
    """Wall-clock time of the protocol, without computing the vectors that protocols share."""
    note: str = ""
    """A note to the reader: "k = 200 was clipped to 131"."""
    delta_low: float | None = None
    """The 95 % interval of "this encoder minus it", paired on the same resampled test images."""
    delta_high: float | None = None
    train: int | None = None
    """Number of labelled training images; None if there were none."""
    images: int | None = None
    """Number of images, queries or objects behind the figure."""


def as_dicts(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """The rows for JSON, one object each; seeds stay separate."""
    return [asdict(row) for row in rows]


def as_text(rows: Sequence[Row]) -> str:
    """The rows as text: a block per protocol and split, a column per metric, then notes.

    More than three metrics, such as a network's stages, become lines, and representations columns.
    Seeds of one representation become one line: the mean of their values, the widest of their
    intervals, the sum of their seconds. The paired interval of "this minus it" is shown for the
    first metric; a mark shows for each metric whether it lies above or below 0.
    """
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.protocol, row.split].append(row)
    parts = [
        "\n".join([f"{protocol}, {images_in_words(split, group)}", *_align(_block(group))])
        for (protocol, split), group in groups.items()
    ]
    notes = dict.fromkeys(f"{row.protocol}: {row.note}" for row in rows if row.note)
    legend = [_LEGEND] if any(row.delta_low is not None for row in rows) else []
    return "\n\n".join([*parts, *(["\n".join([*legend, *notes])] if legend or notes else [])])


def images_in_words(split: str, group: Sequence[Row]) -> str:
    """The images in words, with their number unless the words contain it."""
    number, train = group[0].images, group[0].train
    has_number = number is None or split[:1].isdecimal()
    words = split if has_number else f"{split}: {number:,} images"
    return words if train is None else f"{words}; trained on {train:,}"


_BETTER, _WORSE = "<", ">"
_LEGEND = (
    "Values with 95 % intervals; < lower than this encoder's, > higher: the paired 95 % interval "
    "of the difference excludes 0."
)
_ACROSS = 3  # most metrics side by side


def is_long(group: Sequence[Row]) -> bool:
    """Whether a protocol has too many metrics for columns."""
    return len({row.metric for row in group}) > _ACROSS


def transposed_table(group: Sequence[Row]) -> list[list[str]]:
    """A header of representations, then a line per metric, and the seconds of all metrics.

    Cells are marked < if the paired interval of the difference lies above 0, > if below.
    """
    columns = [["", *dict.fromkeys(row.metric for row in group), "seconds"]]
    for name in dict.fromkeys(row.representation for row in group):
        own = [row for row in group if row.representation == name]
        by_metric = [[row for row in own if row.metric == m] for m in columns[0][1:-1]]
        seeds = max(map(len, by_metric))
        seconds = sum(row.seconds for row in max(by_metric, key=len))
        title = f"{name}, mean of {seeds} seeds" if seeds > 1 else name
        columns.append([title, *map(_cell, by_metric), f"{seconds:.1f}"])
    return [list(line) for line in zip(*columns, strict=True)]


def _block(group: Sequence[Row]) -> list[list[str]]:
    """A header and a line per representation."""
    if is_long(group):
        return transposed_table(group)
    metrics = list(dict.fromkeys(row.metric for row in group))
    minus = "this minus it" + (f", {metrics[0]}" if metrics[1:] else "")
    paired = any(row.delta_low is not None for row in group)
    lines = [["", *metrics, *([minus] if paired else []), "seconds"]]
    for name in dict.fromkeys(row.representation for row in group):
        own = [row for row in group if row.representation == name]
        by_metric = [[row for row in own if row.metric == metric] for metric in metrics]
        seeds = len(by_metric[0])
        title = f"{name}, mean of {seeds} seeds" if seeds > 1 else name
        seconds = sum(row.seconds for row in by_metric[0])
        delta = _widest_interval([(row.delta_low, row.delta_high) for row in by_metric[0]], "+.3f")
        cells = [*map(_cell, by_metric), *([delta] if paired else [])]
        lines.append([title, *cells, f"{seconds:.1f}"])
    return lines


def _cell(seeds: Sequence[Row]) -> str:
    """Value, interval and mark of one metric."""
    if not seeds:
        return ""
    value = f"{sum(row.value for row in seeds) / len(seeds):.3f}"
    interval = _widest_interval([(row.low, row.high) for row in seeds], ".3f")
    marked = f"{_mark(seeds)} {value}".strip()
    return f"{marked} ({interval})" if interval else marked


def _mark(seeds: Sequence[Row]) -> str:
    if all(row.delta_low is not None and row.delta_low > 0 for row in seeds):
        return _BETTER
    worse = all(row.delta_high is not None and row.delta_high < 0 for row in seeds)
    return _WORSE if worse else " "


def _widest_interval(intervals: Sequence[tuple[float | None, float | None]], form: str) -> str:
    """From the lowest low to the highest high, if there are any."""
    lows = [low for low, _ in intervals if low is not None]
    highs = [high for _, high in intervals if high is not None]
    return f"{min(lows):{form}} to {max(highs):{form}}" if lows and highs else ""


def _align(lines: Sequence[Sequence[str]]) -> list[str]:
    """Cells padded to columns, the first left-aligned."""
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
