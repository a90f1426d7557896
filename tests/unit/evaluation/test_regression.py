"""Ridge regression and its figures: against scikit-learn, loops, and what can be known."""

import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.metrics import mean_absolute_error, r2_score

from selftaught.evaluation import metrics
from selftaught.evaluation.protocols import regression
from selftaught.evaluation.trial import Trial
from tests.oracles.metrics import resampled

DIGITS = load_digits().data
IMAGES: Any = SimpleNamespace(content="digits")


def problem(numbers: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors of any shape and scale, one constant; targets; more vectors."""
    n, D = int(numbers.integers(3, 40)), int(numbers.integers(2, 60))
    mixed = numbers.normal(size=(D, D)) @ np.diag(numbers.exponential(size=D))
    x = (numbers.normal(size=(n + 9, D)) @ mixed + numbers.normal(size=D)).astype(np.float32)
    x[:, 0] = 7.0  # as of a dead unit
    y = x @ numbers.normal(size=D) + numbers.exponential() * numbers.normal(size=n + 9) + 3
    return x[:n], y[:n], x[n:]


def standard(x: np.ndarray, like: np.ndarray) -> np.ndarray:
    like = like.astype(float)
    deviation = like.std(axis=0)
    varies = deviation > 1e-5 * np.abs(like.mean(axis=0))
    return (x - like.mean(axis=0)) * np.divide(
        1, deviation, out=np.zeros(len(varies)), where=varies
    )


@pytest.mark.slow
def test_five_hundred_random_fits_equal_scikit_learns() -> None:
    numbers = np.random.default_rng(0)
    for _ in range(500):
        x, y, more = problem(numbers)
        found, strength = regression.ridge_predictions(*map(torch.from_numpy, (x, y, more)))
        ridge = Ridge(alpha=len(x) * strength, solver="svd").fit(standard(x, x), y)
        assert found.numpy() == pytest.approx(
            ridge.predict(standard(more, x)), abs=1e-6 * np.abs(y - y.mean()).max(), rel=1e-6
        )


@pytest.mark.slow
def test_the_strength_is_the_one_that_scikit_learn_chooses() -> None:
    numbers = np.random.default_rng(1)
    for _ in range(100):
        x, y, more = problem(numbers)
        _, strength = regression.ridge_predictions(*map(torch.from_numpy, (x, y, more)))
        total = np.count_nonzero(standard(x, x).std(axis=0))
        alphas = len(x) * total * np.array(regression.STRENGTHS)
        chosen = RidgeCV(alphas=alphas, scoring="neg_mean_squared_error").fit(standard(x, x), y)
        assert len(x) * strength == pytest.approx(chosen.alpha_, rel=1e-6)


def test_errors_of_images_left_out_are_those_of_fits_without_them() -> None:
    numbers = np.random.default_rng(2)
    for n, D in ((12, 5), (8, 20)):
        z = numbers.normal(size=(n, D))
        z = z - z.mean(axis=0)
        y = z[:, 0] + numbers.normal(size=n)
        y = y - y.mean()
        axes = regression.ridge_axes(torch.from_numpy(z))
        strengths = torch.tensor([0.03, 3.0], dtype=torch.float64)
        found = regression.left_out_errors(
            axes.project(torch.from_numpy(z)), axes.variance_r, torch.from_numpy(y), strengths
        )
        scaled = z / z.std(axis=0)
        for strength, error in zip(strengths.tolist(), found.tolist(), strict=True):
            slow = []
            for i in range(n):
                others = np.arange(n) != i
                ridge = Ridge(alpha=n * strength).fit(scaled[others], y[others])
                slow.append((ridge.predict(scaled[i : i + 1])[0] - y[i]) ** 2)
            assert error == pytest.approx(np.mean(slow), rel=1e-6)


def test_vectors_that_say_nothing_give_about_the_mean() -> None:
    numbers = np.random.default_rng(3)
    y = torch.from_numpy(numbers.normal(size=200) + 5)
    alike, _ = regression.ridge_predictions(torch.ones(200, 4), y, torch.ones(3, 4))
    assert alike.numpy() == pytest.approx([y.mean().item()] * 3)
    x = torch.from_numpy(numbers.normal(size=(250, 50)))
    noise, strength = regression.ridge_predictions(x[:200], y, x[200:])
    assert strength >= 5 and (noise - y.mean()).abs().max() < 0.2


# The figures.


def test_figures_by_hand() -> None:
    # Errors 1, 0, 2, 0: a mean of 3/4. Squares sum to 5; those around the mean 2.5 also: R2 = 0.
    # The second resample has the first image thrice: 3/4; 1 - 3 / (3 * 0.25^2 + 0.75^2 = 0.75).
    targets, predicted = np.array([1.0, 2, 3, 4]), np.array([2.0, 2, 1, 4])
    counts = np.array([[1, 3], [1, 1], [1, 0], [1, 0]], np.float32)
    assert metrics.mean_absolute_error(predicted, targets, counts) == pytest.approx([0.75, 0.75])
    assert metrics.r_squared(predicted, targets, counts) == pytest.approx([0.0, -3.0])


@pytest.mark.slow
def test_five_hundred_random_figures_equal_scikit_learns() -> None:
    numbers = np.random.default_rng(4)
    for _ in range(500):
        M = int(numbers.integers(3, 30))
        targets = numbers.normal(size=M) * numbers.exponential() + 100 * numbers.normal()
        predicted = targets + numbers.normal(size=M) * numbers.exponential()
        counts = np.ones((M, 3), np.float32)
        counts[:, 1:] = numbers.integers(0, 3, (M, 2))
        counts[:2] += 1  # two images at least, or there is no R2
        for ours, theirs in (
            (metrics.mean_absolute_error, mean_absolute_error),
            (metrics.r_squared, r2_score),
        ):
            found = ours(predicted, targets, counts)
            for b in range(3):
                expected = theirs(targets, predicted, sample_weight=counts[:, b])
                assert found[b] == pytest.approx(expected, rel=1e-9, abs=1e-9)
            slow = resampled(lambda p, y, f=theirs: f(y, p), predicted, targets, counts)
            assert found == pytest.approx(slow, rel=1e-9, abs=1e-9)


def test_there_is_no_r_squared_of_targets_that_are_all_alike() -> None:
    targets, predicted = np.array([0.1, 0.1, 0.7]), np.array([0.2, 0.1, 0.7])
    counts = np.array([[2, 1], [1, 1], [0, 1]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = metrics.r_squared(predicted, targets, counts)
    assert np.isnan(found[0]) and found[1] == pytest.approx(1 - 0.01 / 0.24)


# The protocol.


def figures(targets: np.ndarray) -> dict[str, float]:
    order = np.random.default_rng(0).permutation(len(DIGITS))
    train, test = np.sort(order[:1000]), np.sort(order[1200:])
    subject: Any = SimpleNamespace(vectors=lambda images: DIGITS.astype(np.float32))
    trial = Trial(IMAGES, train, targets[train], test, classes=1)
    answer = regression.regression(subject, trial)
    assert (answer.rows == test).all()
    ones = np.ones((len(test), 1), np.float32)
    return {name: float(f(targets[test], ones)[0]) for name, f in answer.figures.items()}


def test_what_is_linear_is_read_exactly_and_chance_is_not_read() -> None:
    ink = figures(DIGITS.mean(axis=1))
    assert ink["R2"] > 0.999 and ink["mean absolute error"] < 0.01
    chance = figures(np.random.default_rng(1).normal(size=len(DIGITS)))
    assert -0.02 < chance["R2"] < 0.02
    angle = figures(load_digits().target + 0.5)  # a number that is no linear map of the pixels
    assert 0.3 < angle["R2"] < 0.9
