"""The kill loop: a run is killed again and again, and must end as if nothing had happened.

Kills are counted from the run's first metrics line. Every second one is aimed at the writing of a
checkpoint, which a pause makes long; it counts as one where the half-written folder is left behind.
"""

import hashlib
import json
import random
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selftaught.training import checkpoint
from selftaught.training.checkpoint import newest_checkpoint
from tests.support.forked import Child, Server

PAUSE = 0.02  # seconds after each of a checkpoint's four files
TIMES = {"images_per_second", "seconds_left", "seconds", "begin_seconds"}
_SMALL = (
    *("--image-size", "16", "--batch-size", "16", "--encoder", "resnet8"),
    *("--set", "network.width=4", "--set", "network.stem_stride=2"),
    *("--set", "loop.log_every=1", "--set", "loop.checkpoint_seconds=0.1"),
)
TRAIN = {
    "simclr": (*_SMALL, "--set", "options.hidden=32"),
    "deepcluster": (*_SMALL, "--method", "deepcluster", "--set", "k=10"),
}
"""Options of a small run that saves often; the images and the number of steps are added."""


@dataclass(frozen=True)
class Ended:
    """What a run leaves: the SHA-256 of its tensors' files, and its metrics less the times."""

    hashes: dict[str, str]
    lines: list[dict[str, Any]]


def ended(run: Path) -> Ended:
    """What the finished run left."""
    last = max(p for p in (run / "checkpoints").iterdir() if not p.name.startswith("."))
    kept = (last / checkpoint.MODEL, last / checkpoint.TRAINING, run / "encoder/model.safetensors")
    hashes = {str(p.relative_to(run)): hashlib.sha256(p.read_bytes()).hexdigest() for p in kept}
    return Ended(hashes, metrics(run))


def metrics(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what tells the time."""
    texts = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(text).items() if k not in TIMES} for text in texts]


@dataclass
class Tally:
    """What the loop has done so far."""

    kills: int = 0
    in_writes: int = 0
    finished: int = 0
    steps: list[int] = field(default_factory=list)  # of the newest checkpoint after each kill


@dataclass
class KillLoop:
    """Kills runs until there were enough kills, and lets the last one finish.

    Attributes:
        server: Where processes come from; its environment has the pause.
        folder: Where runs are made.
        train: Arguments of `selftaught pretrain`, less --out.
        cache: The runs' cache.
        expected: How the uninterrupted run ended.
        draw: Chooses the moments.
    """

    server: Server
    folder: Path
    train: tuple[object, ...]
    cache: Path
    expected: Ended
    draw: random.Random
    tally: Tally = field(default_factory=Tally)

    def go(self, kills: int) -> Tally:
        """Runs, until there were so many kills.

        Raises:
            AssertionError: Something was lost, or a run ended differently.
        """
        while self.tally.kills < kills:
            self._one_run(self.folder / f"run-{self.tally.finished}", kills)
        return self.tally

    def _one_run(self, run: Path, kills: int) -> None:
        child, step = self._begin(run), -1
        while self.tally.kills < kills and self._killed(child, run):
            step = self._check_state(run, step)
            child = self._resume(run)
        assert child.wait() == 0, _said(run)
        assert not (left := [p.name for p in run.rglob(".*tmp-*")]), left
        assert ended(run) == self.expected
        self.tally.finished += 1

    def _begin(self, run: Path) -> Child:
        """A new run that has written its first line."""
        said = self.folder / f"{run.name}.txt"
        child = self.server.start(
            "pretrain", *self.train, "--out", run, "--cache", self.cache, said=said
        )
        log = run / "metrics.jsonl"
        _until(lambda: log.exists() and log.stat().st_size > 0, child)
        return child

    def _resume(self, run: Path) -> Child:
        said = self.folder / f"{run.name}.txt"
        return self.server.start("resume", run, "--cache", self.cache, said=said)

    def _killed(self, child: Child, run: Path) -> bool:
        """Kill it at a random moment; False where it had finished before."""
        half = f".*.tmp-{child.pid}-*"
        if self.tally.kills % 2:
            self._wait_for_a_write(child, lambda: (run / "checkpoints").glob(half))
        elif self.tally.kills % 4:
            self._wait_for_a_step(child, run / "metrics.jsonl")
        else:
            time.sleep(self.draw.uniform(0, 2))
        if child.ended():
            return False
        child.signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        self.tally.kills += 1
        self.tally.in_writes += any((run / "checkpoints").glob(half))
        return True

    def _wait_for_a_write(self, child: Child, half: Callable[[], Iterable[Path]]) -> None:
        """Until somewhere in the first, second or third checkpoint that it writes."""
        number, seen = self.draw.randint(1, 3), set[Path]()

        def enough() -> bool:
            seen.update(half())
            return len(seen) >= number

        _until(enough, child)
        time.sleep(self.draw.uniform(0, 4 * PAUSE))

    def _wait_for_a_step(self, child: Child, log: Path) -> None:
        """Until it has got on, however slow the machine is, and a little longer."""
        sizes = [log.stat().st_size]

        def grown() -> bool:  # a resumed run may first cut what no checkpoint has
            sizes.append(log.stat().st_size)
            return sizes[-1] > sizes[-2]

        _until(grown, child)
        time.sleep(self.draw.uniform(0, 0.5))

    def _check_state(self, run: Path, before: int) -> int:
        """What is on disk can be resumed, and is no older than what was there before."""
        found, damaged = newest_checkpoint(run / "checkpoints")
        assert damaged == []
        assert found is not None and found.step >= before
        self.tally.steps.append(found.step)
        return found.step


def _until(happened: Callable[[], bool], child: Child) -> None:
    """Wait for something, or for the end of the process."""
    give_up = time.monotonic() + 120
    while not (happened() or child.ended()):
        assert time.monotonic() < give_up
        time.sleep(0.002)


def _said(run: Path) -> str:
    path = run.parent / f"{run.name}.txt"
    return path.read_text()[-2000:] if path.exists() else ""
