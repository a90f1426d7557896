"""Do clusters find the classes? DeepCluster's beside k-means on SimCLR's vectors and on raw pixels.

    python -m benchmarks.clusters [--seconds 60] [--seeds 0 1 2] [--data mnist5k elpv]

mnist5k (ten digits) and elpv (mono- and polycrystalline solar cells) come from packages. SimCLR and
DeepCluster train for as long as each other, on all images and without a label, with the recipe that
`check` gives. Then everything is judged alike by `evaluate --protocol clusters`: k-means with one
cluster a class, on unit vectors. The clusters that DeepCluster itself trained on, more than there
are classes, are judged by the NMI that its log has.
"""

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.measure import hardware, publish
from selftaught.api import evaluate, pretrain
from selftaught.training import log

RESULTS = Path(__file__).parents[1] / "docs/results.md"
LABELS = {"mnist5k": None, "elpv": "type"}
OWN = "DeepCluster's own clusters"
METRICS = ("NMI", "ARI", "accuracy")
METHODS = {"deepcluster": "DeepCluster", "simclr": "SimCLR"}

Values = dict[str, dict[str, list[float]]]
"""By representation and metric: a value of each seed."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, judge, and write the section of docs/results.md."""
    chosen = parser().parse_args(arguments)
    tables = [
        table(data, measured(data, chosen.seeds, chosen.seconds), len(chosen.seeds))
        for data in chosen.data
    ]
    text = page(tables, chosen.seconds)
    print(text)
    publish(RESULTS, "clusters", text)


def parser() -> argparse.ArgumentParser:
    """The script's options."""
    as_written = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    options.add_argument("--seconds", type=float, default=60, help="of training, a run")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--data", nargs="+", choices=LABELS, default=list(LABELS))
    return options


def measured(data: str, seeds: Sequence[int], seconds: float) -> Values:
    """Both methods and what they are compared with, on one set of images."""
    values: Values = defaultdict(lambda: defaultdict(list))
    for seed in seeds:
        for method, name in METHODS.items():
            with tempfile.TemporaryDirectory() as folder:
                run = Path(folder) / "run"
                pretrain(data, out=run, method=method, seconds=seconds, seed=seed)
                rows = evaluate(str(run), data, label=LABELS[data], protocol=("clusters",)).value
                keep(values, name, rows, first=method == "deepcluster" and seed == seeds[0])
                own = log.read(run)[-1].get("nmi_labels")  # none where there are several labels
                if own is not None:
                    values[OWN]["NMI"].append(own)
    return values


def keep(values: Values, name: str, rows: Sequence[Mapping[str, Any]], *, first: bool) -> None:
    """Add an evaluation's figures; the others' with the first alone, for they are the same."""
    for row in rows:
        known = row["representation"]
        if row["metric"] in METRICS and (first or known == "this encoder"):
            values[name if known == "this encoder" else known][row["metric"]].append(row["value"])


def table(data: str, values: Values, seeds: int) -> str:
    """A line a representation: the mean of each metric, and the range where there are several."""
    head = f"{data}, {seeds} seed{'s' * (seeds != 1)}"
    lines = [f"| {head} | {' | '.join(METRICS)} |", f"|---|{'---|' * len(METRICS)}"]
    for name in sorted(values, key=lambda name: name == OWN):  # the others first
        of = values[name]
        lines.append(f"| {name} | {' | '.join(_cell(of[metric]) for metric in METRICS)} |")
    return "\n".join(lines)


def _cell(found: Sequence[float]) -> str:
    if not found:
        return ""
    spread = f" ({min(found):.3f} to {max(found):.3f})" if len(found) > 1 else ""
    return f"{mean(found):.3f}{spread}"


def page(tables: Sequence[str], seconds: float) -> str:
    """What docs/results.md says."""
    words = (
        f"{seconds:g} s of training a run, {hardware()}. k-means with one cluster a class on unit "
        "vectors, judged on all images; NMI with the arithmetic mean. DeepCluster's own clusters "
        "are those that it trained on, one for 128 images, NMI with the geometric mean."
    )
    return "\n\n".join(
        [
            "## Clusters and classes",
            words,
            *tables,
            "`python -m benchmarks.clusters` measures it anew.",
        ]
    )


if __name__ == "__main__":
    main()
