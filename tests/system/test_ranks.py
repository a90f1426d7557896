"""D6: several processes, as torchrun starts them, are one run; and no process is left waiting."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from selftaught import cli
from selftaught.foundation.files import read_json
from selftaught.training.checkpoint import newest_checkpoint
from tests.support import misfortune
from tests.support.command_line import environment
from tests.support.kills import ended, metrics

pytestmark = pytest.mark.slow

STEPS, IMAGES_A_STEP = 10, 16
REPOSITORY = Path(__file__).parents[2]
OPTIONS = (
    *("--image-size", "16", "--batch-size", str(IMAGES_A_STEP), "--encoder", "resnet8"),
    *("--set", "network.width=4", "--set", "network.stem_stride=2", "--set", "options.hidden=32"),
    *("--set", "loop.log_every=1", "--set", "loop.checkpoint_seconds=0.001"),
    *("--set", f"loop.total_steps={STEPS}", "--device", "cpu"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


def torchrun(
    folder: Path, module: str, *arguments: object, **more: str
) -> "subprocess.CompletedProcess[str]":
    """`torchrun --nproc-per-node 2 -m MODULE ARGUMENTS --cache FOLDER/cache`."""
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", module)
    words = [sys.executable, "-m", *launcher, *map(str, arguments), "--cache", folder / "cache"]
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=REPOSITORY,
        env=environment(**more),
        check=False,
    )


@pytest.fixture(scope="module")
def two(folder: Path) -> Path:
    """A run of two processes, and that they spoke with one voice."""
    run = folder / "two"
    done = torchrun(folder, "selftaught.cli", "pretrain", "digits", *OPTIONS, "--out", run)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"{STEPS} steps in") == 1, done.stdout
    assert done.stderr.count(f"step {STEPS} of {STEPS}") == 1, done.stderr
    return run


def test_two_processes_make_one_run(two: Path) -> None:
    kept = {path.name for path in two.iterdir()}
    files = {"config.yaml", "images.parquet", "rejected.parquet", "metrics.jsonl", "log.txt"}
    assert kept == files | {".lock", "checkpoints", "encoder"}
    assert [line["step"] for line in metrics(two)] == list(range(1, STEPS + 1))
    found, damaged = newest_checkpoint(two / "checkpoints")
    assert found is not None and not damaged
    assert (found.step, found.state["processes"]) == (STEPS, 2)
    each = found.training["ring"].shape[0]
    assert each == 2 * STEPS * IMAGES_A_STEP // 2  # two views of its half of the images


def test_two_processes_equal_one(two: Path, folder: Path) -> None:
    run = folder / "one"
    where = ("--out", str(run), "--cache", str(folder / "cache"))
    assert cli.main(["pretrain", "digits", *OPTIONS, *where]) == 0
    losses = [(a["loss"], b["loss"]) for a, b in zip(metrics(run), metrics(two), strict=True)]
    assert max(abs(a - b) for a, b in losses) < 1e-4
    assert len({round(a, 4) for a, _ in losses}) == STEPS  # it is a curve
    assert {line["chance"] for line in metrics(run)} == {line["chance"] for line in metrics(two)}
    one, other = (
        newest_checkpoint(run / "checkpoints")[0],
        newest_checkpoint(two / "checkpoints")[0],
    )
    assert one is not None and other is not None and one.model.keys() == other.model.keys()
    for name, tensor in one.model.items():
        if "running" in name:
            assert (tensor - other.model[name]).abs().max() < 1e-3, name
    shapes = [read_json(path / "encoder/config.json") for path in (run, two)]
    assert shapes[0] == shapes[1]


def struck(folder: Path, how: str) -> tuple[Path, str]:
    """A run whose process 1 comes to grief; its folder and stderr, with nobody left waiting."""
    run, notes = folder / how, folder / f"{how}-notes"
    notes.mkdir()
    words = ("pretrain", "digits", *OPTIONS, "--out", run)
    more = {"MISFORTUNE": how, "FOLDER": str(notes)}
    done = torchrun(folder, "tests.support.misfortune", *words, **more)
    assert time.time() - (notes / "struck").stat().st_mtime < 60
    assert done.returncode != 0
    for rank in range(2):
        with pytest.raises(ProcessLookupError):
            os.kill(int((notes / f"pid-{rank}").read_text()), 0)
    return run, done.stderr


def test_D6_a_process_is_killed_and_both_go_on(two: Path, folder: Path) -> None:
    run, said = struck(folder, "killed")
    assert "SIGKILL" in said
    found, damaged = newest_checkpoint(run / "checkpoints")
    assert found is not None and found.step == misfortune.STEP and not damaged
    done = torchrun(folder, "selftaught.cli", "resume", run, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "rounds differently" not in done.stderr
    assert ended(run) == ended(two)


def test_D6_a_process_raises(folder: Path) -> None:
    run, said = struck(folder, "raising")
    assert misfortune.WORDS in said
    found, damaged = newest_checkpoint(run / "checkpoints")
    assert found is not None and found.step == misfortune.STEP and not damaged
