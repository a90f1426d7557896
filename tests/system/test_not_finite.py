"""NaN: an image that holds one is left out, and a step that makes one is not taken (N6)."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.datasets import load_digits

from selftaught.cli import DONE, STOPPED, USER, main
from selftaught.encoders.folder import open_encoder
from selftaught.methods import REGISTRY
from selftaught.training import training as step_of
from tests.support import poisoned
from tests.support.runs import lines, newest, pretrain, resume

pytestmark = pytest.mark.slow

AT = 7


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(REGISTRY, "poisoned", poisoned.PLACE)


@pytest.fixture
def data(tmp_path):
    """48 digits as float32: three steps an epoch."""
    images = load_digits().images[:48].astype(np.float32)
    np.savez(tmp_path / "digits.npz", images=images)
    return tmp_path / "digits.npz"


@pytest.fixture
def steps(monkeypatch):
    """Weights and optimizer state after each step, by the number of steps done."""
    found = {}
    take = step_of.Training.take

    def watched(self, batch):
        take(self, batch)
        state = dict(self.method.named_parameters()) | self.checkpoint().training
        found[self.step] = {k: t.detach().clone() for k, t in state.items() if k != "ring"}

    monkeypatch.setattr(step_of.Training, "take", watched)
    return found


def poisoned_run(data, out, poison, *more):
    chosen = ("--method", "poisoned", "--set", f"poison={poison}", "--set", f"at={AT}")
    return pretrain(data, out, *chosen, "--set", "loop.total_steps=30", *more)


@pytest.mark.parametrize("poison", ["loss", "gradient", "row"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lars"])
def test_the_step_is_not_taken(data, tmp_path, steps, poison, optimizer):
    run = tmp_path / "run"
    log_rarely = ("--set", "loop.log_every=100")  # the flag is read one step late
    assert poisoned_run(data, run, poison, "--optimizer", optimizer, *log_rarely) == STOPPED
    assert max(steps) == AT
    assert any(not torch.equal(t, steps[AT - 2][name]) for name, t in steps[AT - 1].items())
    assert all(torch.equal(t, steps[AT - 1][name]) for name, t in steps[AT].items())


@pytest.mark.parametrize("log_every", [1, 100])
def test_the_run_stops_with_its_work_saved_and_names_the_images(
    data, tmp_path, steps, capsys, log_every
):
    run = tmp_path / "run"
    assert poisoned_run(data, run, "row", "--set", f"loop.log_every={log_every}") == STOPPED
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("selftaught: ") and f"step {AT} is not finite" in said
    assert all(line["step"] < AT for line in lines(run))
    saved = newest(run)
    assert saved.step == 6 and all(t.isfinite().all() for t in saved.model.values())
    for name, tensor in saved.model.items():
        assert name not in steps[6] or torch.equal(tensor, steps[6][name])
    open_encoder(str(run))
    found = json.loads((run / "not_finite.json").read_text())
    names = pq.read_table(run / "images.parquet")["path"].to_pylist()
    assert found["step"] == AT and len(found["images"]) == 16
    assert all(names[image["row"]] == image["path"] for image in found["images"])
    assert f"rows {found['images'][0]['row']}, " in said and said.endswith("not_finite.json)")


def test_resumed_as_it_was_it_stops_at_the_same_step(data, tmp_path, capsys):
    run = tmp_path / "run"
    assert poisoned_run(data, run, "loss") == STOPPED
    before, found = newest(run), (run / "not_finite.json").read_text()
    for _ in range(2):
        assert resume(run) == STOPPED
        assert f"step {AT} is not finite" in capsys.readouterr().err
        assert (run / "not_finite.json").read_text() == found
        after = newest(run)
        assert after.step == before.step
        assert all(torch.equal(after.model[k], t) for k, t in before.model.items())
    assert [line["step"] for line in lines(run)] == list(range(1, AT))


def test_the_images_named_are_those_of_the_step(data, tmp_path, monkeypatch):
    run, rows = tmp_path / "run", {}
    take = step_of.Training.take

    def watched(self, batch):
        rows[self.step + 1] = batch.rows.tolist()
        take(self, batch)

    monkeypatch.setattr(step_of.Training, "take", watched)
    assert poisoned_run(data, run, "loss", "--set", "loop.log_every=100") == STOPPED
    found = json.loads((run / "not_finite.json").read_text())
    assert [image["row"] for image in found["images"]] == rows[AT]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_that_is_not_finite_is_left_out(tmp_path, value):
    images = load_digits().images[:48].astype(np.float32)
    images[5, 3, 3] = value
    images[40] = value
    np.savez(tmp_path / "holes.npz", images=images)
    run = tmp_path / "run"
    assert pretrain(tmp_path / "holes.npz", run, "--set", "loop.total_steps=6") == DONE
    rejected = pq.read_table(run / "rejected.parquet").to_pylist()
    assert [r["path"] for r in rejected] == ["00005", "00040"]
    assert all("not finite" in r["reason"] for r in rejected)
    assert "00005" not in pq.read_table(run / "images.parquet")["path"].to_pylist()
    assert all(np.isfinite(line["loss"]) for line in lines(run))


def test_images_that_are_all_not_finite_are_refused(tmp_path, capsys):
    np.savez(tmp_path / "nan.npz", images=np.full((8, 8, 8), np.nan, np.float32))
    out = Path(tmp_path / "checked")
    assert main(["check", str(tmp_path / "nan.npz"), "--out", str(out)]) == USER
    assert "not finite" in capsys.readouterr().err
