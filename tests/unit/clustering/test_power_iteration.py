"""Power iteration clustering against exact fractions; copies, ties, real digits, refusals."""

from itertools import pairwise
from math import exp

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from sklearn.neighbors import NearestNeighbors

from selftaught.clustering import power_iteration as module
from selftaught.clustering.agreement import purity
from selftaught.clustering.kmeans import kmeans
from selftaught.clustering.power_iteration import GraphClusters, power_iteration
from selftaught.clustering.whitening import Whitening
from selftaught.errors import UserError
from tests.oracles import power_iteration as oracle


def partition(labels: list[int] | torch.Tensor) -> set[frozenset[int]]:
    labels = [int(label) for label in labels]
    return {frozenset(i for i, own in enumerate(labels) if own == one) for one in set(labels)}


def check_answer(x: NDArray, found: GraphClusters) -> None:
    """Sizes descend, centroids are means, and each cluster has its peak."""
    labels = found.labels_N.numpy()
    sizes = np.bincount(labels)
    assert found.sizes.tolist() == sizes.tolist() == sorted(sizes, reverse=True)
    first = [int(np.flatnonzero(labels == k)[0]) for k in range(len(sizes))]
    for k, (a, b) in enumerate(pairwise(first)):
        assert sizes[k] > sizes[k + 1] or a < b
    means = np.stack([x[labels == k].astype(float).mean(0) for k in range(len(sizes))])
    np.testing.assert_allclose(found.centroids_KD, means, rtol=1e-6, atol=1e-6)
    assert labels[found.peaks_K.numpy()].tolist() == list(range(len(sizes)))
    objective = ((x - means[labels]) ** 2).sum(1).mean()
    assert found.objective == pytest.approx(objective, rel=1e-5, abs=1e-9)


# --- against the definition


def test_the_oracle_and_ours_are_the_graph_worked_out_by_hand() -> None:
    """0 and 1 are each other's neighbour; 3 has the edge to 1 for itself."""
    x = np.array([[0.0], [1.0], [3.0]])
    pair, single = 2 * exp(-1), exp(-4)
    wanted = [[0, pair, 0], [pair, 0, single], [0, single, 0]]
    W = module.graph(torch.from_numpy(x), 1, 1.0)
    np.testing.assert_allclose(W.toarray(), wanted, rtol=1e-14)
    exact = oracle.graph(x, 1, 1.0)
    np.testing.assert_allclose(np.array(exact, float), wanted, rtol=1e-14)
    v = oracle.heights(exact, 0.5, 1)  # 1/2 (degree + 1), over its sum
    np.testing.assert_allclose(
        np.array(v, float) * (3 + 2 * pair + 2 * single), [1 + pair, 1 + pair + single, 1 + single]
    )
    assert oracle.pointers(exact, v) == [1, 1, 1]
    assert module.pointers(W, module.heights(W, 0.5, 1)).tolist() == [1, 1, 1]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_it_is_the_clustering_of_the_definition(data: st.DataObject) -> None:
    N, D, k = (data.draw(st.integers(1, most)) for most in (14, 3, 5))
    iterations = data.draw(st.integers(1, 4))
    alpha, sigma = data.draw(st.sampled_from([1e-3, 0.3])), data.draw(st.sampled_from([0.5, 2.0]))
    x = np.random.default_rng(data.draw(st.integers(0, 10**6))).normal(size=(N, D))
    found = power_iteration(x, neighbours=k, sigma=sigma, alpha=alpha, iterations=iterations)
    W = oracle.graph(x, min(k, N - 1), sigma)
    to = oracle.pointers(W, oracle.heights(W, alpha, iterations))
    peaks = [oracle.peak(to, i) for i in range(N)]
    assert partition(found.labels_N) == partition(peaks)
    assert found.peaks_K[found.labels_N].tolist() == peaks
    check_answer(x, found)


@pytest.mark.parametrize("iterations", [1, 5])
def test_differences_below_a_rounding_of_1_over_n_are_kept(iterations: int) -> None:
    """Weights of e^-36 to e^-49 among vectors as far apart as whitened ones are."""
    x = np.array([[0.0], [6.0], [12.1], [18.3], [24.6], [31.0]])
    W = module.graph(torch.from_numpy(x), 2, 1.0)
    found = module.heights(W, 1e-3, iterations)
    exact = oracle.heights(oracle.graph(x, 2, 1.0), 1e-3, iterations)
    differences = np.array([float(value - exact[0]) for value in exact])
    assert (np.abs(differences[1:]) < 1e-18).any()
    np.testing.assert_allclose(found - found[0], differences, rtol=1e-9, atol=1e-36)


def test_the_edges_are_those_of_scikit_learn_s_neighbours() -> None:
    x = np.random.default_rng(0).normal(size=(300, 6)) + 50
    W = module.graph(torch.from_numpy(x), 5, 2.0).toarray()
    nearest = NearestNeighbors(n_neighbors=5, algorithm="brute").fit(x)
    squared = nearest.kneighbors_graph(mode="distance").toarray() ** 2
    G = np.where(squared > 0, np.exp(-squared / 4), 0)
    np.testing.assert_allclose(W, G + G.T, rtol=1e-9, atol=1e-300)


def test_no_cluster_reaches_over_two_components_of_the_graph() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(80, 3)), 100 + rng.normal(size=(60, 3))])
    found = power_iteration(x, sigma=2.0)
    components = connected_components(csr_array(module.graph(torch.from_numpy(x), 5, 2.0)))[1]
    for label in set(found.labels_N.tolist()):
        assert len(set(components[found.labels_N.numpy() == label])) == 1
    assert 1 < len(found.sizes) < 40


# --- what it is for


def test_digits_fall_into_clusters_as_pure_as_those_of_k_means() -> None:
    from sklearn.datasets import load_digits

    x, classes = load_digits(return_X_y=True)
    x = Whitening.fit(x, 20)(x)
    narrow, wide = power_iteration(x), power_iteration(x, sigma=1.0)
    assert len(wide.sizes) < len(narrow.sizes) < 250
    k = len(narrow.sizes)
    assert purity(narrow.labels_N, classes) > purity(kmeans(x, k, seed=0).labels_N, classes)
    check_answer(x.numpy(), narrow)


def test_copies_stay_together() -> None:
    x = np.repeat(np.eye(3), [8, 30, 12], axis=0)
    order = np.random.default_rng(0).permutation(len(x))
    found = power_iteration(x[order])
    assert found.sizes.tolist() == [30, 12, 8]
    assert partition(found.labels_N) == partition(x[order].argmax(1).tolist())
    assert power_iteration(np.ones((100, 2))).sizes.tolist() == [100]


def test_rows_in_another_order_give_the_same_clusters() -> None:
    x = np.random.default_rng(1).normal(size=(200, 4))
    order = np.random.default_rng(2).permutation(200)
    direct, shuffled = power_iteration(x, sigma=1.0), power_iteration(x[order], sigma=1.0)
    back = torch.empty(200, dtype=torch.int64)
    back[order] = shuffled.labels_N
    assert partition(direct.labels_N) == partition(back)


def test_every_type_of_number_is_taken() -> None:
    half = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float16)
    wanted = power_iteration(half.astype(np.float32), sigma=1.0)
    for x in (half, torch.from_numpy(half), half.astype(np.float64)):
        assert torch.equal(power_iteration(x, sigma=1.0).labels_N, wanted.labels_N)
    assert wanted.centroids_KD.dtype == torch.float32
    assert power_iteration(half.astype(np.float64)).centroids_KD.dtype == torch.float64
    assert power_iteration(np.array([[0], [1], [9]]), sigma=2).sizes.tolist() == [3]


@pytest.mark.parametrize("N", [1, 2, 5, 6])
def test_few_vectors_have_few_neighbours(N: int) -> None:
    found = power_iteration(np.arange(N, dtype=float)[:, None], sigma=3.0)
    assert found.sizes.sum() == N and len(found.labels_N) == N


# --- refusals


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"sigma": 0.0}, "sigma above 0"),
        ({"sigma": float("nan")}, "sigma above 0"),
        ({"alpha": 1.0}, "alpha between 0 and 1"),
        ({"neighbours": 0}, "0 neighbours"),
        ({"iterations": -1}, "-1 iterations"),
        ({"sigma": 0.01}, "too far apart for sigma 0.01.*: use k-means, or a larger sigma"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        power_iteration(np.eye(5)[:, :4], **arguments)


@pytest.mark.parametrize("x", [np.zeros(3), np.zeros((0, 3)), np.zeros((3, 0))])
def test_other_shapes_are_refused(x: NDArray) -> None:
    with pytest.raises(UserError, match="one row per vector"):
        power_iteration(x)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused(bad: float) -> None:
    x = np.zeros((9, 2))
    x[4, 1] = bad
    with pytest.raises(UserError, match="not finite"):
        power_iteration(x)
