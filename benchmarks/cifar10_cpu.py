"""CIFAR-10 on a CPU: SimCLR with the small encoder, ten minutes, three seeds.

    python -m benchmarks.cifar10_cpu --data DIR [--seconds 600] [--seeds 0 1 2] [--out runs/cifar10]

DIR holds train.npz and test.npz (images uint8 NHWC, labels), the whole of CIFAR-10. Each seed is
trained by `selftaught pretrain` in a process of its own, as a person would, on the 50,000 training
images without their labels, and judged on all 10,000 test images by `selftaught evaluate`, beside
random init and raw pixels. A seed whose figures or whose run are in --out is not measured again.
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
    """Train and judge every seed, then write the section of docs/results.md."""
    chosen = _arguments()
    rows = [row for seed in chosen.seeds for row in _judged(chosen, seed)]
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


def _judged(chosen: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    run, judged = chosen.out / f"seed{seed}", chosen.out / f"seed{seed}.json"
    if not judged.exists():
        if not (run / "encoder/model.safetensors").exists():
            _selftaught(
                *("pretrain", chosen.data / "train.npz", "--out", run, "--overwrite", *RECIPE),
                *("--seed", seed, "--seconds", chosen.seconds),
            )
        judged.write_text(_selftaught("evaluate", run, chosen.data, "--json"))
    return [{"run": seed, **row} for row in json.loads(judged.read_text())]


def _steps(chosen: argparse.Namespace, seed: int) -> int:
    """Steps that a seed's run took in its time."""
    return max(int(c.name) for c in (chosen.out / f"seed{seed}/checkpoints").glob("[0-9]*"))


def _selftaught(*arguments: object) -> str:
    command = [sys.executable, "-m", "selftaught.cli", *map(str, arguments)]
    print("$ selftaught", *arguments, file=sys.stderr, flush=True)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _markdown(chosen: argparse.Namespace, rows: list[dict[str, Any]]) -> str:
    """Accuracy by protocol and representation, every seed and their mean."""
    lines = [
        f"SimCLR, resnet8 (width 16, stem stride 2), {chosen.seconds / 60:g} minutes a seed; kNN "
        "(k = 200, tau = 0.07) and logistic regression on frozen features; 50,000 training and all "
        "10,000 test images.",
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
    lines += ["", f"Random init is itself the mean of three networks. {hardware()}; "]
    lines[-1] += ", ".join(f"{k} {v}" for k, v in versions().items()) + "."
    lines.append("`python -m benchmarks.cifar10_cpu` measures it anew.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
