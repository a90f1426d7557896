"""Measure how well clusters find the classes: DeepCluster's, SimCLR's and those of raw pixels.

    python -m benchmarks.clusters [--seconds 60] [--seeds 0 1 2] [--data mnist5k elpv]

mnist5k (ten digits) and elpv (mono- and polycrystalline solar cells) come from packages. SimCLR and
DeepCluster train equally long, on all images without labels, with the recipe that `check`
recommends. `evaluate --protocol clusters` then evaluates everything in the same way: k-means with
one cluster per class, on unit vectors. The clusters that DeepCluster itself trained on, of which
there are more than classes, are evaluated by the NMI in its log.
"""

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.measure import hardware, publish
from selftaught import evaluate, pretrain
from selftaught.training import log

RESULTS = Path(__file__).parents[1] / "docs/results.md"
LABELS = {"mnist5k": None, "elpv": "type"}
OWN = "DeepCluster's own clusters"
METRICS = ("NMI", "ARI", "accuracy")
METHODS = {"deepcluster": "DeepCluster", "simclr": "SimCLR"}

Values = dict[str, dict[str, list[float]]]
"""By representation and metric: one value per seed."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, evaluate, and write the section of docs/results.md."""
    chosen = parser().parse_args(arguments)
    tables = [
        table(data, figures(data, chosen.seeds, chosen.seconds), len(chosen.seeds))
        for data in chosen.data
    ]
    text = page(tables, chosen.seconds)
    print(text)
    publish(RESULTS, "clusters", text)


def parser() -> argparse.ArgumentParser:
    """The script's options."""
    as_written = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    options.add_argument("--seconds", type=float, default=60, help="training time per run")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--data", nargs="+", choices=LABELS, default=list(LABELS))
    return options


def figures(data: str, seeds: Sequence[int], seconds: float) -> Values:
    """Train both methods on one set of images, and evaluate them with the baselines."""
    values: Values = defaultdict(lambda: defaultdict(list))
    for seed in seeds:
        for method, name in METHODS.items():
            with tempfile.TemporaryDirectory() as folder:
                run = Path(folder) / "run"
                pretrain(data, out=run, method=method, seconds=seconds, seed=seed)
                rows = evaluate(str(run), data, label=LABELS[data], protocol=("clusters",)).value
                add_figures(values, name, rows, first=method == "deepcluster" and seed == seeds[0])
                own = log.read_metrics(run)[-1].get("nmi_labels")  # absent with several labels
                if own is not None:
                    values[OWN]["NMI"].append(own)
    return values


def add_figures(
    values: Values, name: str, rows: Sequence[Mapping[str, Any]], *, first: bool
) -> None:
    """Add an evaluation's figures; the baselines' only once, because they never change."""
    for row in rows:
        known = row["representation"]
        if row["metric"] in METRICS and (first or known == "this encoder"):
            values[name if known == "this encoder" else known][row["metric"]].append(row["value"])


def table(data: str, values: Values, seeds: int) -> str:
    """One line per representation: the mean of each metric, and the range over seeds."""
    head = f"{data}, {seeds} seed{'s' * (seeds != 1)}"
    lines = [f"| {head} | {' | '.join(METRICS)} |", f"|---|{'---|' * len(METRICS)}"]
    for name in sorted(values, key=lambda name: name == OWN):  # OWN last
        of = values[name]
        lines.append(f"| {name} | {' | '.join(_cell(of[metric]) for metric in METRICS)} |")
    return "\n".join(lines)


def _cell(found: Sequence[float]) -> str:
    if not found:
        return ""
    spread = f" ({min(found):.3f} to {max(found):.3f})" if len(found) > 1 else ""
    return f"{mean(found):.3f}{spread}"


def page(tables: Sequence[str], seconds: float) -> str:
    """The section of docs/results.md."""
    words = (
        f"{seconds:g} s of training per run, {hardware()}. k-means with one cluster per class on "
        "unit vectors, evaluated on all images; NMI with the arithmetic mean. DeepCluster's own "
        "clusters are those it trained on, one per 128 images; their NMI has the geometric mean."
    )
    return "\n\n".join(
        [
            "## Clusters and classes",
            words,
            *tables,
            "Reproduce with `python -m benchmarks.clusters`.",
        ]
    )


if __name__ == "__main__":
    main()
