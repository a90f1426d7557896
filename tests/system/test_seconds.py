"""`pretrain --seconds`: about that long, a number of steps fixed beforehand, and no trace of it."""

import re
from importlib import import_module

import pytest
import torch

from selftaught.cli import DONE
from selftaught.foundation.files import load_tensors
from selftaught.recipe import config
from selftaught.training import loop
from selftaught.training import training as step_of
from tests.support.runs import lines, newest, pretrain, resume

pytestmark = pytest.mark.slow

PRETRAIN = import_module(
    "selftaught.commands.pretrain"
)  # selftaught.pretrain is the API's function


def weights(run):
    return load_tensors(run / "encoder/model.safetensors")


def test_the_time_asked_for_fixes_the_steps(tmp_path, capsys):
    run = tmp_path / "run"
    assert pretrain("digits", tmp_path / "first", "--set", "loop.total_steps=2") == DONE
    assert pretrain("digits", run, "--seconds", "5") == DONE
    steps = config.read_config(run / "config.yaml").loop.total_steps
    said = capsys.readouterr()
    assert f"so {steps:,} steps fit into 5 s" in said.err
    assert newest(run).state["complete"]
    ended = newest(run).step  # the deadline may cut a few where the machine is shared
    assert 0 < ended <= steps
    assert re.search(rf"^{ended:,} steps in \d+ s", said.out, re.M)
    assert ("before the planned end" in said.out) is (ended < steps)


@pytest.mark.parametrize("epochs", [(), ("--set", "loop.epochs=3")])
def test_timing_leaves_no_trace(tmp_path, monkeypatch, epochs):
    """The same bits as a run of as many steps that was not timed: views, order, BN, optimizer."""
    monkeypatch.setattr(PRETRAIN, "steps_within", lambda *_: 8)
    timed, plain = tmp_path / "timed", tmp_path / "plain"
    assert pretrain("digits", timed, "--seconds", "60", *epochs) == DONE
    assert pretrain("digits", plain, "--set", "loop.total_steps=8", *epochs) == DONE
    one, other = newest(timed), newest(plain)
    assert one.step == other.step == 8
    for part in ("model", "training"):
        a, b = getattr(one, part), getattr(other, part)
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert all(torch.equal(t, weights(plain)[k]) for k, t in weights(timed).items())
    assert [x["loss"] for x in lines(timed)] == [x["loss"] for x in lines(plain)]
    assert config.read_config(timed / "config.yaml") == config.read_config(plain / "config.yaml")


def test_the_steps_timed_are_real_ones(tmp_path, monkeypatch):
    taken = []
    take = step_of.Training.take

    def watched(self, batch):
        take(self, batch)
        taken.append(self.step)

    monkeypatch.setattr(step_of.Training, "take", watched)
    monkeypatch.setattr(PRETRAIN, "steps_within", lambda *_: 3)
    assert pretrain("digits", tmp_path / "run", "--seconds", "60") == DONE
    assert len(taken) >= 20 + 3 and taken[-3:] == [1, 2, 3]


@pytest.mark.parametrize("schedule", ["cosine", pytest.param("constant", marks=pytest.mark.slow)])
def test_a_deadline_that_comes_early_is_said_and_the_encoder_is_whole(
    tmp_path, monkeypatch, capsys, schedule
):
    monkeypatch.setattr(PRETRAIN, "seconds_per_step", lambda _: 1e-5)
    run = tmp_path / "run"
    shape = ("--set", f"loop.schedule={schedule}")
    assert pretrain("digits", run, "--seconds", "2", *shape) == DONE
    planned = config.read_config(run / "config.yaml").loop.total_steps
    assert planned == loop.steps_within(2, 1e-5) > 100_000
    ended = newest(run)
    said = capsys.readouterr().out
    assert 0 < ended.step < planned
    assert f"Time ran out {planned - ended.step:,} steps before the planned end" in said
    assert ("but the learning rate had not yet reached 0." in said) is (schedule == "cosine")
    model = {k.removeprefix("encoder.trunk."): t for k, t in ended.model.items()}
    assert all(torch.equal(t, model[k]) for k, t in weights(run).items())
    assert resume(run) == DONE  # there is nothing to go on with
    assert "The run is complete" in capsys.readouterr().out and newest(run).step == ended.step


@pytest.mark.parametrize(("seconds", "a_step", "steps"), [(10, 0.1, 95), (1, 5, 1), (0.001, 1, 1)])
def test_how_many_steps_fit(seconds, a_step, steps):
    assert loop.steps_within(seconds, a_step) == steps
