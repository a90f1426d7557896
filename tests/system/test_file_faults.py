"""A1, A4, A5: real kills, a real limit of the kernel, real permissions, real other processes.

The children are forked from a server that has imported torch once, so that a kill takes a fraction
of a second.
"""

import contextlib
import io
import itertools
import multiprocessing
import os
import random
import resource
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from selftaught import api, cli
from selftaught.errors import FileError, StopRun
from selftaught.foundation import files, outputs
from selftaught.options.about import Methods
from selftaught.training import checkpoint
from selftaught.training.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint

pytestmark = pytest.mark.slow

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])

PAUSE = "SELFTAUGHT_CHECKPOINT_PAUSE"
NOBODY = 65534


def some(step: int, numbers: int = 170_000) -> Checkpoint:
    """A checkpoint of three times so many float32, by default 2 MB, that tells its step."""
    weight = torch.full((numbers,), float(step))
    weight[: min(9, numbers)] = torch.arange(min(9, numbers))
    return Checkpoint(
        step, {"step of state": step}, {"w": weight}, {"w/exp_avg": weight, "w/exp_avg_sq": weight}
    )


def assert_is(found: Checkpoint | None, step: int) -> None:
    expected = some(step)
    assert found is not None and found.step == step and found.state == expected.state
    assert torch.equal(found.model["w"], expected.model["w"])
    assert all(torch.equal(t, expected.training[name]) for name, t in found.training.items())


@contextlib.contextmanager
def child(work: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    """A process that does `work(connection, *arguments)`; killed in the end."""
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=work, args=(theirs, *arguments))
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        process.kill()
        process.join()
        ours.close()
        process.close()


def answer(work: Callable[..., None], *arguments: object) -> object:
    """What a child sends back."""
    with child(work, *arguments) as connection:
        assert connection.poll(60), "the child says nothing"
        return connection.recv()


# A1: killed at any moment.


def save_for_ever(connection: Connection, folder: Path, pause: str) -> None:
    """As a run does: clear up, go on from the newest, and save again and again."""
    os.environ[PAUSE] = pause
    files.remove_leftovers(folder)
    found, _ = newest_checkpoint(folder)
    assert found is not None
    connection.send("ready")
    for step in itertools.count(found.step + 1):
        save_checkpoint(folder, some(step))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def leftovers(folder: Path) -> set[str]:
    return {name for name in names(folder) if ".tmp-" in name}


def kill_once(folder: Path, pause: str, after: float) -> bool:
    """Let a child save and kill it; whether that was inside a write."""
    before = leftovers(folder)
    with child(save_for_ever, folder, pause) as connection:
        assert connection.poll(60) and connection.recv() == "ready"
        assert not before & leftovers(folder)
        time.sleep(after)
    return bool(leftovers(folder))


def assert_resumable(folder: Path, before: int) -> int:
    """Everything that has a checkpoint's name verifies, and the newest is not an older one."""
    found, sentences = newest_checkpoint(folder)
    assert sentences == []
    assert found is not None and found.step >= before
    assert_is(found, found.step)
    visible = set(names(folder)) - leftovers(folder)
    assert all(checkpoint._is_intact(folder / name) for name in visible)
    assert visible
    return found.step


def test_A1_25_kills_and_always_a_resumable_state(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    save_checkpoint(folder, some(1))
    draw, step, inside = random.Random(0), 1, 0
    for kill in range(25):
        pause = "0.03" if kill % 2 else "0"
        inside += kill_once(folder, pause, draw.uniform(0.02, 0.25))
        step = assert_resumable(folder, step)
    assert inside >= 10
    assert step > 10  # it was killed while it saved, not before
    save_checkpoint(
        folder, some(step + 1)
    )  # a kill may leave older ones, which the next save removes
    assert len(set(names(folder)) - leftovers(folder)) == 2


# A4: the disk is full.


def save_30(_: Methods) -> None:
    """A command, as api.py runs it."""
    save_checkpoint(Path(os.environ["FOLDER"]), some(30))


def save_with_limit(connection: Connection, folder: Path, largest: int) -> None:
    """Through the command line's own handling of errors: exit code, stderr."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    os.environ["FOLDER"] = str(folder)
    api.COMMANDS["methods"] = api.Command(Methods, f"{__name__}:save_30")
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = cli.main(["methods"])
    connection.send((code, said.getvalue()))


MODEL_SIZE, TRAINING_SIZE = 680_000, 1_360_000


@pytest.mark.parametrize(
    "largest", [0, 1, 4096, MODEL_SIZE - 1, MODEL_SIZE + 4096, TRAINING_SIZE - 1]
)
def test_A4_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, largest: int) -> None:
    folder = tmp_path / "checkpoints"
    for step in (10, 20):
        save_checkpoint(folder, some(step))
    code, said = answer(save_with_limit, folder, largest)  # type: ignore[misc]
    assert code == 3
    assert said.count("\n") == 1 and f"the disk of {folder} is full" in said
    assert "step 20 is untouched" in said and f"selftaught resume {tmp_path}" in said
    assert names(folder) == ["000010", "000020"]
    found, sentences = newest_checkpoint(folder)
    assert_is(found, 20)
    assert sentences == []


def test_A4_enough_room_is_enough(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    save_checkpoint(folder, some(20))
    assert answer(save_with_limit, folder, TRAINING_SIZE + 4096) == (0, "")
    assert_is(newest_checkpoint(folder)[0], 30)


# A5: folders that refuse, vanish, or belong to another process.


@pytest.fixture
def run() -> Iterator[Path]:
    """A run's folder that every user of the machine may read; tmp_path is its owner's alone."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    (place / "run").mkdir()
    save_checkpoint(place / "run" / "checkpoints", some(20))
    yield place / "run"
    for folder in [place, *place.rglob("*")]:
        folder.chmod(folder.stat().st_mode | stat.S_IWUSR)
    shutil.rmtree(place)


def refusals(connection: Connection, run: Path) -> None:
    """What is said where nothing may be written, by a process that is not root."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    said = {}
    for name, work in {
        "save": lambda: save_checkpoint(run / "checkpoints", some(30)),
        "claim": lambda: outputs.claim(run / "new", "a run", overwrite=False),
        "overwrite": lambda: outputs.claim(run / "checkpoints", "a run", overwrite=True),
        "lock": lambda: files.folder_lock(run).__enter__(),
    }.items():
        try:
            work()
            said[name] = "it was done"
        except (FileError, StopRun) as error:
            said[name] = f"{type(error).__name__}: {error}"
    connection.send(said)


def test_A5_a_read_only_folder(run: Path) -> None:
    for folder in (run / "checkpoints", run):
        folder.chmod(0o555)
    said = answer(refusals, run)
    assert isinstance(said, dict)
    assert said["save"].startswith(f"StopRun: the disk of {run / 'checkpoints'} cannot be written")
    assert "step 20 is untouched" in said["save"]
    for name in ("claim", "overwrite", "lock"):
        assert said[name].startswith(f"FileError: {run} cannot be written to (Permission denied)")
    assert names(run) == ["checkpoints"] and names(run / "checkpoints") == ["000020"]
    assert_is(newest_checkpoint(run / "checkpoints")[0], 20)


def test_A5_a_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="no longer exists"):
        save_checkpoint(tmp_path / "file" / "checkpoints", some(1))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").touch()
    with pytest.raises(StopRun, match="cannot be written to"):
        save_checkpoint(tmp_path / "run" / "checkpoints", some(1))


@pytest.mark.parametrize("what", ["run", "checkpoints"])
def test_A5_a_folder_that_is_deleted_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    save_checkpoint(run / "checkpoints", some(10))
    gone = {"run": run, "checkpoints": run / "checkpoints"}[what]
    monkeypatch.setattr("time.sleep", lambda _: shutil.rmtree(gone, ignore_errors=True))
    expected = FileError if what == "run" else StopRun
    with pytest.raises(expected, match="step 20") as error:
        save_checkpoint(run / "checkpoints", some(20))
    assert "\n" not in str(error.value)
    assert run.exists() == (what == "checkpoints")


def hold(connection: Connection, folder: Path) -> None:
    with files.folder_lock(folder):
        connection.send("held")
        connection.recv()  # for ever


def test_A5_two_processes_with_one_folder(tmp_path: Path) -> None:
    with child(hold, tmp_path) as connection:
        assert connection.poll(60) and connection.recv() == "held"
        with pytest.raises(FileError, match="another process is writing to") as error:
            files.folder_lock(tmp_path).__enter__()
        assert "\n" not in str(error.value)
        with pytest.raises(FileError, match="another process is writing to"):
            outputs.claim(tmp_path, "a run", overwrite=True)
        assert names(tmp_path) == [".lock"]
    with files.folder_lock(tmp_path):  # the kernel frees the lock of a process that was killed
        pass


def try_lock(connection: Connection, folder: Path) -> None:
    try:
        with files.folder_lock(folder):
            connection.send("locked")
    except FileError as error:
        connection.send(str(error))


def test_A5_a_lock_ends_with_its_block(tmp_path: Path) -> None:
    with files.folder_lock(tmp_path):
        assert "another process" in str(answer(try_lock, tmp_path))
    assert answer(try_lock, tmp_path) == "locked"
