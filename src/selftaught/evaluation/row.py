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
    """"accuracy", "balanced accuracy", "mean average precision", "average precision", "NMI"."""
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


def as_dicts(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """The rows for JSON, one object each, seeds apart."""
    return [asdict(row) for row in rows]


def as_text(rows: Sequence[Row]) -> str:
    """The rows as a table for people: a block a protocol, split and metric, then the notes.

    Seeds of one representation become one line: the mean of their values, the widest of their
    intervals, the sum of their seconds.
    """
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.protocol, row.metric, row.split].append(row)
    blocks = {key: [_HEADER, *_cells(group)] for key, group in groups.items()}
    columns = zip(*(line for lines in blocks.values() for line in lines), strict=True)
    widths = [max(map(len, column)) for column in columns]
    parts = []
    for (protocol, metric, split), lines in blocks.items():
        table = [_aligned(line, widths) for line in lines]
        parts.append("\n".join([f"{protocol}: {metric}, {split}", *table]))
    notes = dict.fromkeys(f"{row.protocol}: {row.note}" for row in rows if row.note)
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])])


_HEADER = ["", "value", "95 % interval", "this encoder minus it", "seconds"]


def _cells(group: Sequence[Row]) -> list[list[str]]:
    by_name: dict[str, list[Row]] = defaultdict(list)
    for row in group:
        by_name[row.representation].append(row)
    return [_line(name, seeds) for name, seeds in by_name.items()]


def _line(name: str, seeds: Sequence[Row]) -> list[str]:
    return [
        f"{name}, mean of {len(seeds)} seeds" if len(seeds) > 1 else name,
        f"{sum(row.value for row in seeds) / len(seeds):.3f}",
        _widest([(row.low, row.high) for row in seeds], ".3f"),
        _widest([(row.delta_low, row.delta_high) for row in seeds], "+.3f"),
        f"{sum(row.seconds for row in seeds):.1f}",
    ]


def _widest(intervals: Sequence[tuple[float | None, float | None]], form: str) -> str:
    """From the lowest low to the highest high, where there are any."""
    lows = [low for low, _ in intervals if low is not None]
    highs = [high for _, high in intervals if high is not None]
    return f"{min(lows):{form}} to {max(highs):{form}}" if lows and highs else ""


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    numbers = "  ".join(cell.rjust(width) for cell, width in others)
    return f"  {first[0].ljust(first[1])}  {numbers}".rstrip()
