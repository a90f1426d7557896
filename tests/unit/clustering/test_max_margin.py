"""Maximum margin clustering against every labelling; balance, kernels, real digits, refusals."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.datasets import load_digits, make_moons
from sklearn.metrics.pairwise import rbf_kernel

from selftaught.clustering import max_margin as module
from selftaught.clustering.agreement import best_match_accuracy
from selftaught.clustering.kmeans import kmeans
from selftaught.clustering.max_margin import max_margin
from selftaught.errors import UserError
from tests.oracles import max_margin as oracle

pytestmark = pytest.mark.slow


def signs(labels: torch.Tensor) -> tuple[int, ...]:
    return tuple((2 * labels - 1).tolist())


# --- against every labelling


def test_the_oracle_is_the_margin_worked_out_by_hand() -> None:
    """Two at 0 and 2: w = 1, all beyond the margin. At 0 and 1, w = 2 would cost 2; C stops it."""
    assert oracle.objective(np.array([[0.0], [2.0]]), (-1, 1), 1.0) == pytest.approx(0.5)
    assert oracle.objective(np.array([[0.0], [1.0]]), (-1, 1), 100.0) == pytest.approx(2.0)
    least, labels = oracle.best(np.array([[0.0], [0.1], [2.0], [2.1]]), 0, 1.0)
    assert labels == {(-1, -1, 1, 1)} and least == pytest.approx(0.5 * (2 / 1.9) ** 2, rel=1e-4)


@pytest.mark.parametrize("seed", range(8))
def test_it_is_nearly_the_best_of_all_balanced_labellings(seed: int) -> None:
    """Vectors without any clusters, where alternating is at its worst."""
    N = 7 + seed % 4
    x = np.random.default_rng(seed).normal(size=(N, 2)) * 0.7
    least, _ = oracle.best(x, module._size_difference(0.3, N), 1.0)
    found = max_margin(x, seed=0, balance=0.3)
    assert found.objective == pytest.approx(oracle.objective(x, signs(found.labels_N), 1.0), 1e-3)
    assert least * (1 - 1e-3) <= found.objective <= least * 1.1


@pytest.mark.parametrize("seed", range(4))
def test_of_separate_groups_it_is_the_best_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.normal(size=(5, 2)), np.array([7, 3]) + rng.normal(size=(5, 2))])
    found = max_margin(x, seed=seed, C=0.5)
    least, labels = oracle.best(x, 0, 0.5)
    assert (
        signs(found.labels_N) in labels
        and best_match_accuracy(found.labels_N, [0] * 5 + [1] * 5) == 1
    )
    assert found.objective == pytest.approx(least, rel=1e-3)


def test_the_objective_is_that_of_a_general_optimiser() -> None:
    rng = np.random.default_rng(0)
    x, y, C = rng.normal(size=(30, 3)), np.r_[-np.ones(14), np.ones(16)].astype(int), 0.7

    def primal(wb: NDArray) -> float:
        return wb[:3] @ wb[:3] / 2 + C * np.maximum(0, 1 - y * (x @ wb[:3] + wb[3])).sum()

    start = np.zeros(4)
    for _ in range(4):
        start = minimize(primal, start, method="Nelder-Mead", options={"maxiter": 4000}).x
    gram = module.gram(torch.from_numpy(x), "linear", None)
    assert module.objective(gram, y, C) == pytest.approx(primal(start), rel=1e-3)


def test_the_kernel_is_that_of_scikit_learn() -> None:
    x = np.random.default_rng(0).normal(size=(40, 3)) + 5
    ours = module.gram(torch.from_numpy(x), "rbf", 0.3)
    np.testing.assert_allclose(ours, rbf_kernel(x, gamma=0.3), rtol=1e-9)
    far = ((x[:, None] - x) ** 2).sum(2)[np.triu_indices(40, 1)]
    by_median = module.gram(torch.from_numpy(x), "rbf", None)
    np.testing.assert_allclose(by_median, rbf_kernel(x, gamma=1 / np.median(far)), rtol=1e-9)


def test_the_cut_has_the_least_absolute_loss_of_all() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        w, most = rng.normal(size=11), int(rng.integers(0, 5)) * 2 + 1
        found = module._best_cut(w, most)
        s = np.sort(w)
        bs = [-(s[cut - 1] + s[cut]) / 2 for cut in range(1, 11) if abs(11 - 2 * cut) <= most]
        least = min(bs, key=lambda b: np.abs(np.sign(w + b) - (w + b)).sum())
        assert found.tolist() == np.sign(w + least).tolist()


# --- what it is for


@pytest.mark.parametrize("pair", [(3, 8), (2, 7), (8, 9)])
def test_it_tells_digits_apart_better_than_k_means(pair: tuple[int, int]) -> None:
    x, y = load_digits(return_X_y=True)
    chosen = np.isin(y, pair)
    x, y = x[chosen] / 16, y[chosen]
    found = best_match_accuracy(max_margin(x, seed=0).labels_N, y)
    assert found > best_match_accuracy(kmeans(x, 2, seed=0, restarts=5).labels_N, y)
    assert found > 0.95


def test_two_moons_need_a_kernel() -> None:
    x, y = make_moons(200, noise=0.05, random_state=0)
    assert best_match_accuracy(max_margin(x, seed=0, kernel="rbf", gamma=10.0).labels_N, y) == 1
    assert best_match_accuracy(max_margin(x, seed=0).labels_N, y) < 0.95


@pytest.mark.parametrize(("N", "balance"), [(2, 0.0), (3, 0.0), (9, 0.0), (10, 0.35), (11, 0.99)])
def test_the_balance_is_kept(N: int, balance: float) -> None:
    x = np.random.default_rng(N).normal(size=(N, 2))
    x[0] += 30  # alone, if it may be
    found = max_margin(x, seed=0, balance=balance)
    ones = int(found.labels_N.sum())
    assert 0 < ones < N and abs(2 * ones - N) <= max(balance * N, N % 2)
    assert found.labels_N[0] == 0 and found.labels_N.dtype == torch.int64


def test_copies_of_one_vector_are_cut_somewhere() -> None:
    for kernel in ("linear", "rbf"):
        assert max_margin(np.ones((6, 2)), seed=0, kernel=kernel).labels_N.sum() == 3


def test_every_form_is_taken_and_the_seed_decides() -> None:
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    wanted = max_margin(x, seed=1)
    for other in (torch.from_numpy(x), x.astype(np.float64), x + np.float32(0)):
        found = max_margin(other, seed=1)
        assert torch.equal(found.labels_N, wanted.labels_N) and found.objective == wanted.objective


# --- refusals


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"balance": 1.0}, "balance from 0 to below 1"),
        ({"C": 0.0}, "the others above 0"),
        ({"gamma": -1.0}, "the others above 0"),
        ({"kernel": "poly"}, "choose linear or rbf"),
        ({"starts": 0}, "0 starts"),
        ({"rounds": 0}, "0 rounds"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        max_margin(np.eye(6), seed=0, **arguments)


@pytest.mark.parametrize(
    ("x", "complaint"),
    [
        (np.zeros(3), "one row per vector"),
        (np.zeros((1, 3)), "use 2 to 5,000"),
        (np.zeros((5001, 1)), "use 2 to 5,000"),
        (np.full((4, 2), np.inf), "not finite"),
    ],
)
def test_other_vectors_are_refused(x: NDArray, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        max_margin(x, seed=0)
