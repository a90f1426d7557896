"""DeepCluster that is killed within and after a clustering ends as the run that nobody disturbed.

AlexNet, so that its dropout matters too. Processes, command lines and kills are real ones.
"""

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from selftaught.foundation.files import load_tensors
from selftaught.training.checkpoint import MODEL, Checkpoint, newest_checkpoint
from tests.support import dies
from tests.support.command_line import environment, selftaught
from tests.support.forked import Server
from tests.support.kills import PAUSE, TRAIN, Ended, KillLoop, ended, metrics
from tests.support.runs import lines

pytestmark = pytest.mark.slow

N, BATCH, EPOCHS = 64, 16, 2
EPOCH = N // BATCH
ARGUMENTS = (
    *("--method", "deepcluster", "--set", "k=6", "--encoder", "alexnet", "--image-size", 32),
    *("--set", "network.fc=32", "--batch-size", BATCH, "--epochs", EPOCHS),
    *("--set", "loop.log_every=1", "--device", "cpu", "--threads", 1),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place, rng = tmp_path_factory.mktemp("place"), np.random.default_rng(0)
    labels = np.arange(N) % 4
    pixels = rng.integers(0, 60, (N, 32, 32, 3)) + 60 * labels[:, None, None, None]
    np.savez(place / "images.npz", images=pixels.astype(np.uint8), labels=labels)
    return place


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


def train(place: Path, run: Path) -> tuple[object, ...]:
    return ("pretrain", place / "images.npz", *ARGUMENTS, "--out", run, "--cache", place / "cache")


@pytest.fixture(scope="module")
def straight(place: Path) -> Ended:
    """How the run ends that nobody disturbs, in a process that nothing was done to."""
    done = selftaught(*train(place, place / "straight"))
    assert done.returncode == 0, done.stderr
    assert len(metrics(place / "straight")) == EPOCHS * EPOCH
    return ended(place / "straight")


def killed(place: Path, run: Path, point: str) -> Checkpoint:
    """A run that died at a point, and the checkpoint that it left."""
    command = [sys.executable, "-m", "tests.support.dies", *map(str, train(place, run))]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env=environment(DIES=point)
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert lines(run)[-1]["step"] == dies.EPOCH * EPOCH
    found, damaged = newest_checkpoint(run / "checkpoints")
    assert found is not None and damaged == [] and found.step == dies.EPOCH * EPOCH
    return found


@pytest.mark.parametrize("point", dies.POINTS)
def test_killed_at_the_beginning_of_an_epoch(
    server: Server, place: Path, straight: Ended, tmp_path: Path, point: str
) -> None:
    run, said = tmp_path / "run", tmp_path / "said.txt"
    left = killed(place, run, point)
    clustered = point == "training"
    assert left.state["begun"] == (dies.EPOCH if clustered else dies.EPOCH - 1)
    child = server.start("resume", run, "--cache", place / "cache", said=said)
    assert child.wait() == 0, said.read_text()
    assert ended(run) == straight
    first = next(line for line in lines(run) if line["step"] == left.step + 1)
    assert (first["begin_seconds"] == 0) is clustered, "what was clustered is not clustered again"


def test_labels_and_centroids_are_in_what_was_compared(place: Path, straight: Ended) -> None:
    last = place / "straight/checkpoints" / f"{EPOCHS * EPOCH:06d}"
    assert f"checkpoints/{last.name}/{MODEL}" in straight.hashes
    model = load_tensors(last / MODEL)
    assert len(model["labels_N"]) == N and len(model["centroids_KP"]) == 6
    assert {"nmi_last", "nmi_labels", "objective", "entropy"} <= straight.lines[-1].keys()


def test_R2_10_kills_of_deepcluster(tmp_path: Path) -> None:
    """At random moments, and within checkpoints, those between clustering and training included."""
    cache = tmp_path / "cache"
    arguments = ("digits", *TRAIN["deepcluster"], "--set", "loop.total_steps=340")
    done = selftaught("pretrain", *arguments, "--out", tmp_path / "straight", "--cache", cache)
    assert done.returncode == 0, done.stderr
    expected = ended(tmp_path / "straight")
    with Server(SELFTAUGHT_CHECKPOINT_PAUSE=str(PAUSE)) as server:
        loop = KillLoop(server, tmp_path, arguments, cache, expected, random.Random(2))
        tally = loop.go(10)
    assert tally.kills == 10 and tally.in_writes >= 3
