"""--init: a run continues from another's encoder, and lives on when that is gone."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import selftaught
from selftaught.cli import main
from selftaught.foundation.files import load_tensors
from selftaught.training import loop
from tests.support.runs import lines, pretrain, resume

STEPS = ("--set", "loop.total_steps=12")


def continued(out: Path, init: Path) -> int:
    where = ("--out", out, "--cache", out.parent / "cache", "--init", init)
    how = ("--batch-size", "16", "--set", "loop.log_every=1", *STEPS)
    return main(["pretrain", "digits", *map(str, (*where, *how))])


@pytest.mark.slow
def test_a_run_continues_from_an_encoder_and_outlives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pretrain("digits", tmp_path / "first", *STEPS) == 0
    assert continued(tmp_path / "straight", tmp_path / "first") == 0
    first, straight = (selftaught.load(tmp_path / name) for name in ("first", "straight"))
    assert first.config == straight.config
    weights = zip(first.parameters(), straight.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in weights)

    monkeypatch.setattr(loop.Loop, "report", stop_after(6))
    assert continued(tmp_path / "stopped", tmp_path / "first") == 3
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "first")
    assert resume(tmp_path / "stopped") == 0
    ends = [tmp_path / name / "encoder/model.safetensors" for name in ("straight", "stopped")]
    whole, resumed = map(load_tensors, ends)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    losses = [[line["loss"] for line in lines(end.parents[1])] for end in ends]
    assert losses[0] == losses[1]


def stop_after(steps: int) -> Callable[[loop.Loop, object], None]:
    """A report that asks for a stop, as a signal would."""
    report = loop.Loop.report

    def asked(self: loop.Loop, batch: object) -> None:
        report(self, batch)
        if self.training.step == steps:
            os.kill(os.getpid(), signal.SIGTERM)

    return asked
