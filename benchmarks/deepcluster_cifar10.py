"""Measure what DeepCluster learns on CIFAR-10 without a GPU, and the effect of its settings.

    python -m benchmarks.deepcluster_cifar10 --data DIR [--seconds 600] [--seeds 0 1 2]
                                             [--variants uniform released none k390 rate simclr]
                                             [--share I OF]

DIR holds train.npz and test.npz (images uint8 NHWC, labels) of the complete CIFAR-10. Each run is
one `selftaught pretrain` in a separate process, on the 50,000 training images without their labels,
with the small encoder. Afterwards all runs are evaluated together on all 10,000 test images,
alongside random init and raw pixels. SimCLR takes as many steps as DeepCluster with the same seed
and uniform sampling: two views per image are two passes through the encoder, and so are one view
and the features of an epoch. NMI comes from `metrics.jsonl`; labels are used for measuring, never
for training.

A run has one core. Runs already in --out are not trained again. --share I OF trains the I-th of OF
shares, for processes that run at once; when all have ended, the script without --share evaluates
the finished runs and writes docs/results.md.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.measure import hardware, publish, versions
from selftaught import load
from selftaught.data.labels import label
from selftaught.data.open_images import open_images
from selftaught.evaluation.comparison import evaluate_encoder
from selftaught.foundation.machine import Machine, cache_folder

DOCS = Path(__file__).parents[1] / "docs"
ENCODER = ["--encoder", "resnet8", "--image-size", "32", "--batch-size", "256", "--threads", "1"]
DEEPCLUSTER = [*ENCODER, "--method", "deepcluster"]
VARIANTS: dict[str, tuple[str, list[str]]] = {
    "uniform": ("k = 100, uniform", [*DEEPCLUSTER, "--set", "k=100"]),
    "released": (
        "k = 100, as released",
        [*DEEPCLUSTER, "--set", "k=100", "--set", "sampling=as_released"],
    ),
    "none": ("k = 100, none", [*DEEPCLUSTER, "--set", "k=100", "--set", "sampling=none"]),
    "k390": ("k = 390, uniform", [*DEEPCLUSTER, "--set", "k=390"]),
    "rate": ("k = 100, uniform, lr 0.05", [*DEEPCLUSTER, "--set", "k=100", "--lr", "0.05"]),
    "simclr": ("SimCLR, same number of passes", [*ENCODER, "--preset", "small"]),
}
"""Name to the label in the table and the flags of pretrain."""
PROTOCOLS = ("knn", "linear")

Accuracies = dict[tuple[str, str], float]
"""Accuracy in per cent by run name (or "random init", "raw pixels") and protocol."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the missing runs, evaluate all, and write the section of docs/results.md."""
    chosen = parser().parse_args(arguments)
    runs = list(itertools.product(chosen.variants, chosen.seeds))
    share, of = chosen.share or (0, 1)
    for variant, seed in runs[share::of]:
        train(chosen, variant, seed)
    if chosen.share is None:
        text = page(chosen, accuracies(chosen))
        print(text)
        curves(chosen, DOCS / "deepcluster_cifar10.svg")
        publish(DOCS / "results.md", "deepcluster cifar10", text)


def parser() -> argparse.ArgumentParser:
    """The script's options."""
    as_written = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--out", type=Path, default=Path("runs/deepcluster_cifar10"))
    options.add_argument("--seconds", type=float, default=600)
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    options.add_argument("--share", type=int, nargs=2, metavar=("I", "OF"))
    return options


def train(chosen: argparse.Namespace, variant: str, seed: int) -> None:
    """Train one run, unless it has ended already."""
    folder = place(chosen, variant, seed)
    if has_ended(folder):
        return
    length: list[object] = ["--seconds", chosen.seconds]
    if variant == "simclr":
        if not has_ended(reference := place(chosen, "uniform", seed)):
            raise SystemExit(f"SimCLR takes as many steps as {reference.name}: finish it first")
        steps = lines(reference)[-1]["step"]
        length = ["--set", f"loop.total_steps={steps}"]
    flags = [*VARIANTS[variant][1], "--seed", seed, *length, "--out", folder, "--overwrite"]
    command = ["selftaught", "pretrain", chosen.data / "train.npz", *flags]
    print("$", *command, file=sys.stderr, flush=True)
    command[:1] = [sys.executable, "-m", "selftaught.cli"]
    core = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([str(word) for word in command], check=True, env=core)


def place(chosen: argparse.Namespace, variant: str, seed: int) -> Path:
    """A run's folder."""
    folder: Path = chosen.out / f"{variant}{seed}"
    return folder


def has_ended(folder: Path) -> bool:
    """Whether a run has saved its encoder."""
    return (folder / "encoder/model.safetensors").exists()


def lines(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def accuracies(chosen: argparse.Namespace) -> Accuracies:
    """Accuracy of every finished run, of random init and of raw pixels."""
    images = open_images(str(chosen.data), machine=Machine(cache=cache_folder(None)))
    runs = [folder for variant in VARIANTS for folder in finished_runs(chosen, variant)]
    first, *others = ((folder.name, load(folder)) for folder in runs)
    rows = evaluate_encoder(
        first[1], images, label(images.checked), name=first[0], against=dict(others)
    )
    found: Accuracies = {}
    for row in rows:
        if row.metric == "accuracy":
            found.setdefault((row.representation, row.protocol), []).append(100 * row.value)
    return {of: mean(values) for of, values in found.items()}


# --- the page


def page(chosen: argparse.Namespace, accuracy: Accuracies) -> str:
    """The section of docs/results.md."""
    table, nmi = [], []
    for variant, (words, _) in VARIANTS.items():
        if folders := finished_runs(chosen, variant):
            cells = [_seeds_cell([accuracy[f.name, p] for f in folders]) for p in PROTOCOLS]
            steps = ", ".join(f"{lines(folder)[-1]['step']:,}" for folder in folders)
            table.append(f"| {words} | {len(folders)} | {' | '.join(cells)} | {steps} |")
            nmi += [f"| {words} | {' | '.join(course_cells(f))} |" for f in folders if nmi_lines(f)]
    for name in ("random init", "raw pixels"):
        cells = [f"{accuracy[name, protocol]:.1f}" for protocol in PROTOCOLS]
        table.append(f"| {name} | | {' | '.join(cells)} | |")
    place_words = ", ".join(f"{name} {version}" for name, version in versions().items())
    return "\n".join(
        [
            "## DeepCluster on CIFAR-10 without a GPU",
            "",
            f"resnet8 (width 16, stem stride 2), {chosen.seconds / 60:g} minutes per run of "
            "DeepCluster, on one core each. The cores were shared with other work; the steps show "
            "how much time each run got. Accuracy in per cent on all 10,000 test images: the mean "
            "over seeds, then each seed.",
            "",
            "| | seeds | kNN | linear | steps of 256 images |",
            "|---|---|---|---|---|",
            *table,
            "",
            "NMI to the previous assignment and to the labels, at the second, a middle and the "
            "last epoch; at the end, the largest cluster's share of the images and clustering's "
            "share of the time (features included).",
            "",
            "| | epochs | NMI to the previous | NMI to the labels | largest cluster | clustering |",
            "|---|---|---|---|---|---|",
            *nmi,
            "",
            "![NMI over epochs, one line per run](deepcluster_cifar10.svg)",
            "",
            f"{hardware()}; {place_words}.",
            "Reproduce with `python -m benchmarks.deepcluster_cifar10`.",
        ]
    )


def finished_runs(chosen: argparse.Namespace, variant: str) -> list[Path]:
    """The finished runs of a variant."""
    return [f for seed in chosen.seeds if has_ended(f := place(chosen, variant, seed))]


def _seeds_cell(each: Sequence[float]) -> str:
    return f"{mean(each):.1f} ({', '.join(f'{value:.1f}' for value in each)})"


def course_cells(folder: Path) -> list[str]:
    """How the clusters of a run changed: the cells of its line."""
    by_epoch = nmi_lines(folder)
    epochs = sorted(by_epoch)
    some = [epochs[0], epochs[len(epochs) // 2], epochs[-1]]
    last = lines(folder)[-1]
    return [
        f"{last['epoch'] + 1}",
        *(", ".join(f"{by_epoch[e][key]:.3f}" for e in some) for key in ("nmi_last", "nmi_labels")),
        f"{last['largest_share']:.3f}",
        f"{100 * last['begin_seconds'] / last['seconds']:.0f} %",
    ]


def nmi_lines(folder: Path) -> dict[int, dict[str, Any]]:
    """The last line of each epoch whose clusters have previous ones to compare with."""
    return {line["epoch"]: line for line in lines(folder) if "nmi_last" in line}


def curves(chosen: argparse.Namespace, path: Path) -> None:
    """Plot NMI over epochs, one line per run: figure 2 of the paper."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "selftaught"  # equal values give equal files
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for number, (variant, (words, _)) in enumerate(VARIANTS.items()):
        for by_epoch in filter(None, map(nmi_lines, finished_runs(chosen, variant))):
            for axis, key in zip(axes, ("nmi_last", "nmi_labels"), strict=True):
                values = [line[key] for line in by_epoch.values()]
                axis.plot(list(by_epoch), values, color=f"C{number}", label=words, linewidth=1)
    for axis, title in zip(axes, ("NMI(t - 1, t)", "NMI to the labels"), strict=True):
        axis.set(title=title, xlabel="epoch")
        axis.spines[["top", "right"]].set_visible(False)
        handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
        axis.legend(handles.values(), handles.keys(), frameon=False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main()
