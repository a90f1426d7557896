"""Kill training runs 200 times and compare the resumed runs bit for bit with an undisturbed one.

    python -m benchmarks.kill_loop --kills 200 --seed 0
    python -m benchmarks.kill_loop --kills 200 --method deepcluster --steps 340

A small run on the digits saves ten times per second, and a pause prolongs each save. The run is
killed with SIGKILL at random moments, resumed, and killed again. A run that gets through is
compared with an undisturbed one (weights, optimizer, order, embeddings, log), and the next one
begins. Exits with 0 if every state could be resumed and every finished run was equal.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.support.command_line import selftaught
from tests.support.forked import Server
from tests.support.kills import PAUSE, TRAIN, Ended, KillLoop, Tally, ended


def undisturbed_end(folder: Path, train: tuple[object, ...]) -> Ended:
    """The final state of an undisturbed run."""
    run = folder / "straight"
    done = selftaught("pretrain", *train, "--out", run, "--cache", folder / "cache")
    if done.returncode:
        sys.exit(done.stderr)
    return ended(run)


def kill(folder: Path, kills: int, train: tuple[object, ...], seed: int) -> Tally:
    """Kill runs this many times.

    Raises:
        AssertionError: A state could not be resumed, or a run ended differently.
    """
    expected = undisturbed_end(folder, train)
    with Server(SELFTAUGHT_CHECKPOINT_PAUSE=str(PAUSE)) as server:
        cache, draw = folder / "cache", random.Random(seed)
        return KillLoop(server, folder, train, cache, expected, draw).go(kills)


def main() -> None:
    """Kill, compare, and print the result."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--method", choices=TRAIN, default="simclr")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    train = ("digits", *TRAIN[chosen.method], "--set", f"loop.total_steps={chosen.steps}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally = kill(Path(folder), chosen.kills, train, chosen.seed)
    seconds = time.monotonic() - began
    print(
        f"{tally.kills} kills, {tally.in_writes} of them while a checkpoint was being written: "
        f"0 states could not be resumed; {tally.finished} runs finished, all bit for bit equal to "
        f"the undisturbed run ({seconds:.0f} s)"
    )


if __name__ == "__main__":
    main()
