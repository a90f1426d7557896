"""Measure the cost of a few DeepCluster epochs with AlexNet and Sobel filters on Imagenette.

    python -m benchmarks.alexnet_imagenette --data DIR [--epochs 3] [--batch-size 64] [--out RUN]

DIR is Imagenette at 128 px: class folders in train/. The script runs `selftaught pretrain` once, in
a separate process, with k = 100, on all training images without their labels. It reports the time
and the peak memory of the run and its clusters epoch by epoch, and saves the first-layer filters as
docs/alexnet_filters.webp. A few hundred steps are not a full training: the paper's AlexNet took
some 2.5 million.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import hardware, publish, versions
from selftaught.encoders.folder import open_encoder
from selftaught.reports.run.filters import filters_sheet, first_filters
from selftaught.training import log

DOCS = Path(__file__).parents[1] / "docs"


@dataclass(frozen=True)
class Cost:
    """Cost of a process: seconds of wall-clock time, and peak memory in MiB."""

    seconds: float
    mib: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, draw the filters, and write the section of docs/results.md."""
    chosen = parser().parse_args(arguments)
    cost = run_pretrain(chosen)
    w_FCkk = first_filters(open_encoder(str(chosen.out)))
    assert w_FCkk is not None
    (DOCS / "alexnet_filters.webp").write_bytes(filters_sheet(w_FCkk, gradients=True))
    text = page(log.read_metrics(chosen.out), cost, chosen)
    print(text)
    publish(DOCS / "results.md", "alexnet imagenette", text)


def parser() -> argparse.ArgumentParser:
    """The script's options."""
    as_written = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--out", type=Path, default=Path("runs/alexnet_imagenette"))
    options.add_argument("--epochs", type=int, default=3)
    options.add_argument("--batch-size", type=int, default=64)
    return options


def run_pretrain(chosen: argparse.Namespace) -> Cost:
    """Run pretrain and measure its cost."""
    command = [sys.executable, "-m", "selftaught.cli", "pretrain", str(chosen.data / "train")]
    command += ["--method", "deepcluster", "--encoder", "alexnet", "--image-size", "128"]
    command += ["--set", "k=100", "--epochs", str(chosen.epochs)]
    command += ["--batch-size", str(chosen.batch_size), "--out", str(chosen.out), "--overwrite"]
    start = time.perf_counter()
    child = subprocess.Popen(command)
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"pretrain failed with exit code {os.waitstatus_to_exitcode(status)}")
    return Cost(time.perf_counter() - start, used.ru_maxrss / 1024)


def page(lines: Sequence[dict[str, Any]], cost: Cost, chosen: argparse.Namespace) -> str:
    """The section of docs/results.md."""
    last, by_epoch = lines[-1], {line["epoch"]: line for line in lines}
    training = last["seconds"] - last["begin_seconds"]
    rate = last["step"] * chosen.batch_size / training
    rows = [
        f"| {epoch + 1} | {line['loss']:.3f} | {_figure(line, 'nmi_last')} "
        f"| {_figure(line, 'nmi_labels')} | {line['largest_share']:.3f} |"
        for epoch, line in by_epoch.items()
    ]
    place = ", ".join(f"{name} {version}" for name, version in versions().items())
    return "\n".join(
        [
            "## AlexNet with Sobel filters, without a GPU",
            "",
            f"Imagenette's training images at 128 px, k = 100, batches of {chosen.batch_size}: "
            f"{last['step']:,} steps in {cost.seconds / 60:.1f} min, including "
            f"{last['begin_seconds'] / 60:.1f} min for features and clustering; {rate:.0f} "
            f"images/s in training; {cost.mib:,.0f} MiB of peak memory. A few hundred steps show "
            "only the cost; they are not a full training.",
            "",
            "| epoch | final loss | NMI to the previous | NMI to the labels | largest cluster |",
            "|---|---|---|---|---|",
            *rows,
            "",
            "![First-layer filters: the colour is the direction in which the image gets "
            "brighter](alexnet_filters.webp)",
            "",
            f"{hardware()}; {place}.",
            "Reproduce with `python -m benchmarks.alexnet_imagenette`.",
        ]
    )


def _figure(line: dict[str, Any], name: str) -> str:
    return f"{line[name]:.3f}" if name in line else ""


if __name__ == "__main__":
    main()
