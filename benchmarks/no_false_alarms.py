"""Count the healthy runs that raise an alarm: twenty runs, on four data sets with five seeds each.

    python -m benchmarks.no_false_alarms [--seconds 60] [--seeds 5] [--data DIR]

digits, mnist5k and elpv come from packages; the fourth set is the train.npz of CIFAR-10 in DIR
(skipped without --data). Prints one line per data set and writes the section of docs/results.md.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import hardware, publish
from selftaught import pretrain

RESULTS = Path(__file__).parents[1] / "docs/results.md"


def main() -> int:
    """Train on every set with every seed; return 1 if any run raised an alarm."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", type=Path)
    chosen = parser.parse_args()
    sets = ["digits", "mnist5k", "elpv"]
    sets += [str(chosen.data / "train.npz")] if chosen.data else []
    lines, raised = [], 0
    for data in sets:
        found = [_alarms(data, seed, chosen.seconds) for seed in range(chosen.seeds)]
        raised += sum(map(bool, found))
        name = "CIFAR-10" if data.endswith(".npz") else data
        lines.append(f"| {name} | {chosen.seeds} | {sum(map(bool, found))} |")
        print(lines[-1], flush=True)
    table = "\n".join(["| images | runs | runs with an alarm |", "|---|---|---|", *lines])
    words = (
        f"Healthy runs of {chosen.seconds:g} s with the recipe that `check` recommends, "
        f"{hardware()}."
    )
    publish(RESULTS, "no false alarms", f"## Alarms in healthy runs\n\n{words}\n\n{table}\n")
    return int(raised > 0)


def _alarms(data: str, seed: int, seconds: float) -> list[str]:
    """The alarms of one run."""
    with tempfile.TemporaryDirectory() as folder:
        done = pretrain(data, out=Path(folder) / "run", seconds=seconds, seed=seed)
        alarms: list[str] = done.value["alarms"]
    return alarms


if __name__ == "__main__":
    sys.exit(main())
