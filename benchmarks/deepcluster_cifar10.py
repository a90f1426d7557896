"""DeepCluster on CIFAR-10 without a GPU: does it learn, and what do its choices cost?

    python -m benchmarks.deepcluster_cifar10 --data DIR [--seconds 600] [--seeds 0 1 2]
                                             [--variants uniform released none k390 simclr]
                                             [--share I OF]

DIR holds train.npz and test.npz (images uint8 NHWC, labels), the whole of CIFAR-10. Each run is one
of `selftaught pretrain` in a process of its own, on the 50,000 training images without their
labels, with the small encoder, and is judged on all 10,000 test images by `selftaught evaluate`,
beside random init and raw pixels. SimCLR takes as many steps as DeepCluster of the same seed with
uniform sampling: two views an image are two passes through the encoder, and so are a view and the
features of an epoch. NMI is that of `metrics.jsonl`; labels are measured against, never learned.

A run has one core. A run whose figures are in --out is not measured again; --share I OF is the I-th
of OF processes at work at once; docs/results.md is written from the figures that are there.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.measure import hardware, publish, versions

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
    "simclr": ("SimCLR, as many passes", [*ENCODER, "--preset", "small"]),
}
"""Name to how the table calls it, and to the flags of pretrain."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and judge what is missing, then write the section of docs/results.md."""
    chosen = parser().parse_args(arguments)
    share, of = chosen.share
    for variant, seed in list(itertools.product(chosen.variants, chosen.seeds))[share::of]:
        run(chosen, variant, seed)
    text = page(chosen)
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
    options.add_argument("--share", type=int, nargs=2, default=(0, 1), metavar=("I", "OF"))
    return options


def run(chosen: argparse.Namespace, variant: str, seed: int) -> None:
    """One run and its figures, unless they are there."""
    folder, judged = place(chosen, variant, seed)
    if judged.exists():
        return
    length: list[object] = ["--seconds", chosen.seconds]
    if variant == "simclr":
        steps = lines(place(chosen, "uniform", seed)[0])[-1]["step"]
        length = ["--set", f"loop.total_steps={steps}"]
    data, flags = chosen.data / "train.npz", [*VARIANTS[variant][1], "--seed", seed, *length]
    selftaught("pretrain", data, "--out", folder, "--overwrite", *flags)
    judged.write_text(selftaught("evaluate", folder, chosen.data, "--json"))


def place(chosen: argparse.Namespace, variant: str, seed: int) -> tuple[Path, Path]:
    """A run's folder, and the file of its figures."""
    folder: Path = chosen.out / f"{variant}{seed}"
    return folder, folder.with_suffix(".json")


def selftaught(*arguments: object) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "selftaught.cli", *map(str, arguments)]
    print("$ selftaught", *arguments, file=sys.stderr, flush=True)
    core = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=core).stdout


def lines(folder: Path) -> list[dict[str, Any]]:
    """A run's log."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# --- the page


def page(chosen: argparse.Namespace) -> str:
    """What docs/results.md says."""
    accuracy, nmi = [], []
    for variant, (words, _) in VARIANTS.items():
        if done := finished(chosen, variant):
            accuracy.append(f"| {words} | {len(done)} | " + " | ".join(judged_cells(done)) + " |")
            nmi += [f"| {words} | " + " | ".join(course_cells(folder)) + " |" for folder, _ in done]
    place_words = ", ".join(f"{name} {version}" for name, version in versions().items())
    return "\n".join(
        [
            "## DeepCluster on CIFAR-10 without a GPU",
            "",
            f"resnet8 (width 16, stem stride 2), {chosen.seconds / 60:g} minutes a run of "
            "DeepCluster; accuracy in per cent on all 10,000 test images, means over seeds and "
            "each of them.",
            "",
            "| | seeds | kNN | linear | steps of 256 images |",
            "|---|---|---|---|---|",
            *accuracy,
            *baselines(chosen),
            "",
            "NMI to the last assignment and to the labels, of the second, a middle and the last "
            "epoch; the largest cluster's share and clustering's share of the time (features "
            "included) at the end.",
            "",
            "| | epochs | to the last | to the labels | largest share | clustering |",
            "|---|---|---|---|---|---|",
            *nmi,
            "",
            "![NMI over epochs, a line a run](deepcluster_cifar10.svg)",
            "",
            f"{hardware()}; {place_words}.",
            "`python -m benchmarks.deepcluster_cifar10` measures it anew.",
        ]
    )


def finished(chosen: argparse.Namespace, variant: str) -> list[tuple[Path, Path]]:
    """The runs of a variant that have figures."""
    found = (place(chosen, variant, seed) for seed in chosen.seeds)
    return [(folder, judged) for folder, judged in found if judged.exists()]


def values(judged: Iterable[Path], protocol: str, representation: str) -> list[float]:
    """Accuracy in per cent of each file."""
    found = []
    for path in judged:
        rows = [
            row["value"]
            for row in json.loads(path.read_text())
            if row["metric"] == "accuracy"
            and row["protocol"] == protocol
            and row["representation"].startswith(representation)
        ]
        found.append(100 * mean(rows))
    return found


def judged_cells(done: list[tuple[Path, Path]]) -> list[str]:
    """kNN, linear, and steps."""
    cells = []
    for protocol in ("knn", "linear"):
        each = values([judged for _, judged in done], protocol, "this encoder")
        cells.append(f"{mean(each):.1f} ({', '.join(f'{value:.1f}' for value in each)})")
    steps = [lines(folder)[-1]["step"] for folder, _ in done]
    return [*cells, ", ".join(f"{step:,}" for step in steps)]


def baselines(chosen: argparse.Namespace) -> list[str]:
    """Random init and raw pixels, as the first run's figures have them."""
    first = [judged for variant in VARIANTS for _, judged in finished(chosen, variant)][:1]
    rows = []
    for name in ("random init", "raw pixels") if first else ():
        cells = [f"{values(first, protocol, name)[0]:.1f}" for protocol in ("knn", "linear")]
        rows.append(f"| {name} | | {cells[0]} | {cells[1]} | |")
    return rows


def course_cells(folder: Path) -> list[str]:
    """Of one run: how its clusters changed."""
    by_epoch = nmi_lines(folder)
    if not by_epoch:
        return ["", "", "", "", ""]
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
    """The last line of each epoch whose clusters have others to be compared with."""
    return {line["epoch"]: line for line in lines(folder) if "nmi_last" in line}


def curves(chosen: argparse.Namespace, path: Path) -> None:
    """NMI over epochs as a picture, a line a run: figure 2 of the paper."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "selftaught"  # equal values give equal files
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for number, (variant, (words, _)) in enumerate(VARIANTS.items()):
        for folder, _ in finished(chosen, variant):
            by_epoch = nmi_lines(folder)
            for axis, key in zip(axes, ("nmi_last", "nmi_labels"), strict=True):
                values = [line[key] for line in by_epoch.values()]
                axis.plot(list(by_epoch), values, color=f"C{number}", label=words, linewidth=1)
    for axis, title in zip(axes, ("NMI(t - 1, t)", "NMI to the labels"), strict=True):
        axis.set(title=title, xlabel="epoch")
        axis.spines[["top", "right"]].set_visible(False)
        named = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
        axis.legend(named.values(), named.keys(), frameon=False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main()
