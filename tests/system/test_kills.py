"""R2: runs that are killed at random moments end as the run that nobody disturbed.

Children are real processes with a real command line, and so are the kills. All but the first are
forked from a process that has imported torch already: a kill costs a second in place of six.
"""

import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from selftaught.training.checkpoint import newest_checkpoint
from tests.support.command_line import command, environment, selftaught
from tests.support.forked import Server
from tests.support.kills import PAUSE, TRAIN, Ended, KillLoop, ended, metrics

pytestmark = pytest.mark.slow

ARGUMENTS = ("digits", *TRAIN["simclr"], "--set", "loop.total_steps=150")
STOPPED = 3


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def straight(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """How the run ends that nobody disturbs: no server, no pause."""
    run = tmp_path_factory.mktemp("straight") / "run"
    done = selftaught("pretrain", *ARGUMENTS, "--out", run, "--cache", cache)
    assert done.returncode == 0, done.stderr
    assert len(metrics(run)) == 150
    return ended(run)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(SELFTAUGHT_CHECKPOINT_PAUSE=str(PAUSE)) as server:
        yield server


def test_R2_25_kills(server: Server, cache: Path, straight: Ended, tmp_path: Path) -> None:
    loop = KillLoop(server, tmp_path, ARGUMENTS, cache, straight, random.Random(1))
    tally = loop.go(25)
    assert tally.kills == 25
    assert tally.in_writes >= 10
    assert tally.finished >= 1
    assert len(set(tally.steps)) >= 5  # the runs got on between the kills


def wait_for_first_line(process: "subprocess.Popen[str]", run: Path) -> None:
    give_up = time.monotonic() + 120
    while not line_count(run):
        assert process.poll() is None and time.monotonic() < give_up
        time.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_to_the_command_line(
    server: Server, cache: Path, straight: Ended, tmp_path: Path, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        command("pretrain", *ARGUMENTS, "--out", run, "--cache", cache),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(SELFTAUGHT_CHECKPOINT_PAUSE=str(PAUSE)),
    )
    wait_for_first_line(process, run)
    time.sleep(random.Random(int(number)).uniform(0, 0.3))
    process.send_signal(number)
    said, complaint = process.communicate(timeout=60)
    found, damaged = newest_checkpoint(run / "checkpoints")
    assert found is not None and damaged == []
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == STOPPED, complaint
        assert said == "" and "Traceback" not in complaint
        last = complaint.splitlines()[-1]
        assert f"stopped by {number.name} after step {found.step} of 150" in last
        assert f"selftaught resume {run}" in last
        assert found.step == metrics(run)[-1]["step"]  # all that was done is saved
    child = server.start("resume", run, "--cache", cache, said=tmp_path / "said.txt")
    assert child.wait() == 0, (tmp_path / "said.txt").read_text()
    assert ended(run) == straight


def line_count(run: Path) -> int:
    log = run / "metrics.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def test_a_signal_to_a_run_that_was_resumed(
    server: Server, cache: Path, straight: Ended, tmp_path: Path
) -> None:
    run, said = tmp_path / "run", tmp_path / "said.txt"
    child = server.start("pretrain", *ARGUMENTS, "--out", run, "--cache", cache, said=said)
    for _ in range(3):
        lines = line_count(run)
        while line_count(run) < lines + 5:
            assert not child.ended(), said.read_text()
            time.sleep(0.01)
        child.signal(signal.SIGTERM)
        assert child.wait() == STOPPED
        child = server.start("resume", run, "--cache", cache, "--threads", 1, said=said)
    assert child.wait() == 0
    assert ended(run) == straight


def test_the_comparison_notices_another_run(straight: Ended, cache: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with Server() as server:
        child = server.start("pretrain", *ARGUMENTS, "--seed", 1, "--out", run, "--cache", cache)
        assert child.wait() == 0
    other = ended(run)
    assert other.hashes.keys() == straight.hashes.keys()
    assert all(other.hashes[name] != straight.hashes[name] for name in other.hashes)
    assert other.lines != straight.lines
