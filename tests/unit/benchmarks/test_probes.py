"""The linear probe beside scikit-learn's: the same objective, and a script that measures it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks import probes

NUMBERS = np.random.default_rng(0)


def problem(classes: int, n: int = 200, D: int = 6) -> probes.Problem:
    labels = NUMBERS.integers(0, classes, n)
    x = NUMBERS.normal(size=(n, D)) * np.logspace(-1, 1, D) + np.eye(classes, D)[labels] + 3
    x[:, 2] = 7.0  # a dead unit
    return probes.Problem(x.astype(np.float32), labels)


def test_the_objective_is_its_definition() -> None:
    given = problem(3)
    W, b = NUMBERS.normal(size=(3, 6)), NUMBERS.normal(size=3)
    x = torch.from_numpy(given.x_nD).double()
    deviation = x.std(dim=0, correction=0)
    deviation[2] = torch.inf
    scores = (x - x.mean(dim=0)) / deviation @ torch.from_numpy(W).T + torch.from_numpy(b)
    expected = F.cross_entropy(scores, torch.from_numpy(given.labels_n)) + 0.05 * (W**2).sum()
    assert given.objective((W, b), 0.1) == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("strength", [1e-1, 1e-3])
def test_both_come_to_the_same_objective(classes: int, strength: float) -> None:
    given, taken = problem(classes), list[int]()
    ours = given.objective(probes.our_fit(given, strength, "cpu")(), strength)
    theirs = given.objective(probes.scikit_learns_fit(given, strength, 1000, taken)(), strength)
    zero = given.objective((np.zeros((classes, 6)), np.zeros(classes)), strength)
    assert ours == pytest.approx(theirs, rel=1e-3) and ours <= theirs * (1 + probes.TOLERANCE)
    assert ours < zero == pytest.approx(np.log(classes))
    assert 0 < taken[0] < 1000


@pytest.mark.slow
def test_the_script_measures_vectors_of_an_encoder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "ROWS", tmp_path / "rows.jsonl")
    images = NUMBERS.integers(0, 256, (150, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "train.npz", images=images, labels=np.arange(150) % 3)
    out = tmp_path / "out.json"
    where = ["--data", str(tmp_path), "--cache", str(tmp_path / "cache"), "--json", str(out)]
    how = ["--strengths", "0.1", "--iterations", "1000", "--threads", "1", "--repeats", "1"]
    probes.main([*where, *how, "--images", "120"])
    (row,) = json.loads(out.read_text())
    assert row["work"] == "logistic regression, 120 x 512, 3 classes, lambda 0.1, 1 thread"
    assert row["ours_value"] > 0 and row["rival"] == "scikit-learn, at most 1000 iterations"
    assert "of at most 1000 |" in capsys.readouterr().out
