"""Measure SimCLR with the small encoder on CIFAR-10: ten minutes on a CPU, three seeds.

    python -m benchmarks.cifar10_cpu --data DIR [--seconds 600] [--seeds 0 1 2] [--out runs/cifar10]

DIR holds train.npz and test.npz (images uint8 NHWC, labels) of the complete CIFAR-10. For each
seed, `selftaught pretrain` trains in a separate process, as a user would, on the 50,000 training
images without their labels. `selftaught evaluate` then evaluates the encoder on all 10,000 test
images, alongside random init and raw pixels. Seeds whose figures or run are in --out are not
measured again.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.measure import hardware, publish, versions

RESULTS = Path(__file__).parents[1] / "docs/results.md"
RECIPE = ["--preset", "small", "--image-size", "32", "--encoder", "resnet8"]


def main() -> None:
    """Train and evaluate every seed, then write the section of docs/results.md."""
    chosen = _arguments()
    rows = [row for seed in chosen.seeds for row in _figures(chosen, seed)]
    table = _markdown(chosen, rows)
    print(table)
    publish(RESULTS, "cifar10 cpu", f"## CIFAR-10 without a GPU\n\n{table}\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/cifar10"))
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    return parser.parse_args()


def _figures(chosen: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    run, figures = chosen.out / f"seed{seed}", chosen.out / f"seed{seed}.json"
    if not figures.exists():
        if not (run / "encoder/model.safetensors").exists():
            _selftaught(
                *("pretrain", chosen.data / "train.npz", "--out", run, "--overwrite", *RECIPE),
                *("--seed", seed, "--seconds", chosen.seconds),
            )
        figures.write_text(_selftaught("evaluate", run, chosen.data, "--json"))
    return [{"run": seed, **row} for row in json.loads(figures.read_text())]


def _steps(chosen: argparse.Namespace, seed: int) -> int:
    """Steps that a seed's run completed in its time."""
    return max(int(c.name) for c in (chosen.out / f"seed{seed}/checkpoints").glob("[0-9]*"))


def _selftaught(*arguments: object) -> str:
    command = [sys.executable, "-m", "selftaught.cli", *map(str, arguments)]
    print("$ selftaught", *arguments, file=sys.stderr, flush=True)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _markdown(chosen: argparse.Namespace, rows: list[dict[str, Any]]) -> str:
    """Accuracy by protocol and representation, for every seed and their mean."""
    lines = [
        f"SimCLR, resnet8 (width 16, stem stride 2), {chosen.seconds / 60:g} minutes per seed; "
        "kNN (k = 200, tau = 0.07) and logistic regression on frozen features; 50,000 training and "
        "all 10,000 test images.",
        "",
        "| protocol | representation | "
        + " | ".join(f"seed {s}" for s in chosen.seeds)
        + " | mean |",
        "|---|---|" + "---|" * (len(chosen.seeds) + 1),
    ]
    accuracy = [row for row in rows if row["metric"] == "accuracy"]
    for protocol in dict.fromkeys(row["protocol"] for row in accuracy):
        for name in dict.fromkeys(row["representation"] for row in accuracy):
            values = [
                mean(
                    row["value"]
                    for row in accuracy
                    if (row["run"], row["protocol"], row["representation"]) == (s, protocol, name)
                )
                for s in chosen.seeds
            ]
            cells = " | ".join(f"{100 * v:.1f}" for v in [*values, mean(values)])
            lines.append(f"| {protocol} | {name} | {cells} |")
    steps = " | ".join(f"{_steps(chosen, seed):,}" for seed in chosen.seeds)
    lines.append(f"| | steps of 256 images | {steps} | |")
    lines += ["", f"Random init is the mean of three networks. {hardware()}; "]
    lines[-1] += ", ".join(f"{k} {v}" for k, v in versions().items()) + "."
    lines.append("Reproduce with `python -m benchmarks.cifar10_cpu`.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
