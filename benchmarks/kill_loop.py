"""200 real kills of a run in training, and a comparison of what comes out, bit for bit.

    python -m benchmarks.kill_loop --kills 200 --seed 0
    python -m benchmarks.kill_loop --kills 200 --method deepcluster --steps 340

A small run on the digits saves ten times a second, each save made long by a pause. It is killed by
SIGKILL at random moments, resumed, and killed again; a run that gets through is compared with one
that nobody disturbed (weights, optimizer, order, embeddings, log), and the next one begins. Exits
with 0 where every state could be resumed and every finished run was equal.
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


def straight(folder: Path, train: tuple[object, ...]) -> Ended:
    """How the run ends that nobody disturbs."""
    run = folder / "straight"
    done = selftaught("pretrain", *train, "--out", run, "--cache", folder / "cache")
    if done.returncode:
        sys.exit(done.stderr)
    return ended(run)


def kill(folder: Path, kills: int, train: tuple[object, ...], seed: int) -> Tally:
    """Kill runs so many times.

    Raises:
        AssertionError: A state could not be resumed, or a run ended differently.
    """
    expected = straight(folder, train)
    with Server(SELFTAUGHT_CHECKPOINT_PAUSE=str(PAUSE)) as server:
        cache, draw = folder / "cache", random.Random(seed)
        return KillLoop(server, folder, train, cache, expected, draw).go(kills)


def main() -> None:
    """Kill, compare, and say how it went."""
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
        f"{tally.kills} kills, {tally.in_writes} of them inside the writing of a checkpoint: "
        f"0 states that could not be resumed; {tally.finished} runs finished, all equal bit for "
        f"bit to the run that nobody disturbed ({seconds:.0f} s)"
    )


if __name__ == "__main__":
    main()
