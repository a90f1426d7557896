"""Measure how long the command line and the package take to start, in separate processes.

    python -m benchmarks.start_up

`selftaught --help` is promised to take less than half a second (docs/results.md has the figures).
The bare interpreter is included as the minimum of any Python program. Each command runs 5 times.
"""

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.measure import hardware, publish, versions

REPEATS = 5
RESULTS = Path(__file__).parents[1] / "docs/results.md"

WORK = {
    "the interpreter alone": ["-c", "pass"],
    "import selftaught": ["-c", "import selftaught"],
    "selftaught --help": ["-m", "selftaught.cli", "--help"],
    "selftaught pretrain --help": ["-m", "selftaught.cli", "pretrain", "--help"],
    "selftaught methods": ["-m", "selftaught.cli", "methods"],
}


def seconds(arguments: list[str]) -> list[float]:
    """Wall-clock seconds of REPEATS separate processes, after one that warms the caches."""
    taken = []
    for _ in range(1 + REPEATS):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - start)
    return taken[1:]


def main() -> None:
    """Measure, print and publish."""
    lines = ["| command | best | worst |", "|---|---|---|"]
    for name, arguments in WORK.items():
        taken = seconds(arguments)
        lines.append(f"| `{name}` | {min(taken):.2f} s | {max(taken):.2f} s |")
    python, torch = (versions()[name] for name in ("python", "torch"))
    place = f"{REPEATS} runs each; {hardware()}; python {python}, torch {torch}."
    body = "\n".join(["## Start-up", "", *lines, "", place])
    print(body)
    publish(RESULTS, "start-up", body)


if __name__ == "__main__":
    main()
