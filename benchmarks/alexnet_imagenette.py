"""DeepCluster with the paper's AlexNet and Sobel filters on Imagenette: what a few epochs cost.

    python -m benchmarks.alexnet_imagenette --data DIR [--epochs 3] [--batch-size 64] [--out RUN]

DIR is Imagenette of 128 px: class folders in train/. One run of `selftaught pretrain` in a process
of its own, k = 100, on all training images without their labels; its time and the most memory that
it held; its clusters epoch by epoch, and its first-layer filters as docs/alexnet_filters.webp. A
few hundred steps are no training: the paper's AlexNet saw some 2.5 million.
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
from selftaught.report.filters import filters_sheet, first_filters
from selftaught.training import log

DOCS = Path(__file__).parents[1] / "docs"


@dataclass(frozen=True)
class Cost:
    """What a process took: seconds of wall clock, and MiB of memory at its peak."""

    seconds: float
    mib: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, draw, and write the section of docs/results.md."""
    chosen = parser().parse_args(arguments)
    cost = trained(chosen)
    w_FCkk = first_filters(open_encoder(str(chosen.out)))
    assert w_FCkk is not None
    (DOCS / "alexnet_filters.webp").write_bytes(filters_sheet(w_FCkk, gradients=True))
    text = page(log.read(chosen.out), cost, chosen)
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


def trained(chosen: argparse.Namespace) -> Cost:
    """One run of pretrain, and what it took."""
    command = [sys.executable, "-m", "selftaught.cli", "pretrain", str(chosen.data / "train")]
    command += ["--method", "deepcluster", "--encoder", "alexnet", "--image-size", "128"]
    command += ["--set", "k=100", "--epochs", str(chosen.epochs)]
    command += ["--batch-size", str(chosen.batch_size), "--out", str(chosen.out), "--overwrite"]
    start = time.perf_counter()
    child = subprocess.Popen(command)
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"pretrain ended with {os.waitstatus_to_exitcode(status)}")
    return Cost(time.perf_counter() - start, used.ru_maxrss / 1024)


def page(lines: Sequence[dict[str, Any]], cost: Cost, chosen: argparse.Namespace) -> str:
    """What docs/results.md says."""
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
            f"{last['step']:,} steps in {cost.seconds / 60:.1f} min, of which "
            f"{last['begin_seconds'] / 60:.1f} min were features and clustering; {rate:.0f} "
            f"images/s in training; {cost.mib:,.0f} MiB of memory at most. A few hundred steps "
            "are no training: they show what it costs.",
            "",
            "| epoch | loss at its end | NMI to the last | NMI to the labels | largest share |",
            "|---|---|---|---|---|",
            *rows,
            "",
            "![The first layer's filters: a colour is the direction in which the image grows "
            "brighter](alexnet_filters.webp)",
            "",
            f"{hardware()}; {place}.",
            "`python -m benchmarks.alexnet_imagenette` measures it anew.",
        ]
    )


def _figure(line: dict[str, Any], name: str) -> str:
    return f"{line[name]:.3f}" if name in line else ""


if __name__ == "__main__":
    main()
