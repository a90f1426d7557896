"""The command line, in which one process of several comes to grief in the middle of a run.

    MISFORTUNE=killed FOLDER=... torchrun --nproc-per-node 2 -m tests.support.misfortune ...

Every process leaves its number in FOLDER; process 1 ends as told once it has taken STEP steps.
"""

import os
import signal
import sys
from pathlib import Path

from selftaught import cli
from selftaught.data.batch import Batch
from selftaught.training.training import Training

STEP = 5
WORDS = "the disk of process 1 has melted"


def killed() -> None:
    """As by the system, when memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def raising() -> None:
    """A bug."""
    raise RuntimeError(WORDS)


def main() -> int:
    """Run the command line."""
    folder, rank = Path(os.environ["FOLDER"]), os.environ["RANK"]
    (folder / f"pid-{rank}").write_text(str(os.getpid()))
    strike = {f.__name__: f for f in (killed, raising)}[os.environ["MISFORTUNE"]]
    take = Training.take

    def take_until_then(training: Training, batch: Batch) -> None:
        if rank == "1" and training.step == STEP:
            (folder / "struck").touch()
            strike()
        take(training, batch)

    Training.take = take_until_then  # type: ignore[method-assign]
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
