"""The number of clusters: found where there is one, and not where there is none."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score, silhouette_score

from selftaught.clustering import choose_k as module
from selftaught.clustering.choose_k import Choice, Point, choose_k
from selftaught.clustering.kmeans import kmeans
from selftaught.errors import UserError

pytestmark = pytest.mark.slow


def blobs(k: int, D: int, apart: float, n: int = 600, seed: int = 0) -> NDArray[np.float32]:
    """Round clusters of deviation 1, no two centres nearer than `apart`."""
    rng = np.random.default_rng(seed)
    centres: list[NDArray] = []
    while len(centres) < k:
        new = rng.normal(size=D) * apart * (k if D < 3 else 2) / D**0.5
        if all(np.linalg.norm(new - other) >= apart for other in centres):
            centres.append(new)
    return (np.stack(centres)[rng.integers(0, k, n)] + rng.normal(size=(n, D))).astype(np.float32)


def unit(x: NDArray) -> NDArray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def without_clusters(name: str, seed: int) -> NDArray:
    rng = np.random.default_rng(seed)
    return {
        "normal": lambda: rng.normal(size=(400, 20)),
        "elongated": lambda: rng.normal(size=(400, 5)) * [6, 2, 1, 1, 1],
        "square": lambda: rng.random((400, 2)),
        "line": lambda: rng.random((400, 1)),
        "ring": lambda: unit(rng.normal(size=(400, 2))),
        "sphere": lambda: unit(rng.normal(size=(400, 20))),
        "exponential": lambda: rng.exponential(size=(400, 2)),
        "heavy tails": lambda: rng.standard_t(3, size=(400, 5)),
        "one outlier": lambda: np.r_[rng.normal(size=(300, 4)), [[100, 0, 0, 0]]],
        "few": lambda: rng.normal(size=(30, 3)),
    }[name]()


NONE = [
    *("normal", "elongated", "square", "line", "ring"),
    *("sphere", "exponential", "heavy tails", "one outlier", "few"),
]


def check(found: Choice) -> None:
    ks = [point.k for point in found.points]
    assert ks == sorted(set(ks)) and 1 <= len(ks) <= 14 and found.k in ks
    assert found.clear == next(point for point in found.points if point.k == found.k).clear
    assert f"k = {found.k}" in found.sentence and "\n" not in found.sentence


# --- what it says


@pytest.mark.parametrize(
    ("k", "D", "apart"), [(2, 1, 8), (2, 40, 8), (3, 2, 8), (5, 10, 7), (7, 3, 8), (10, 50, 8)]
)
def test_round_clusters_are_counted(k: int, D: int, apart: float) -> None:
    found = choose_k(blobs(k, D, apart), seed=0)
    check(found)
    assert (found.k, found.clear) == (k, True)
    assert f"k = {k}: " in found.sentence and "reproducible with other images" in found.sentence


def test_of_many_clusters_the_number_is_about_right() -> None:
    """k-means itself misses some of them, and finds the rest with more clusters than there are."""
    found = choose_k(blobs(30, 64, 9, n=1800), seed=0)
    assert found.clear and 27 <= found.k <= 40


def test_clusters_of_directions_are_counted() -> None:
    found = choose_k(unit(blobs(6, 30, 9)), seed=0)
    assert (found.k, found.clear) == (6, True)


@pytest.mark.parametrize("name", NONE)
def test_data_without_clusters_have_no_clear_number(name: str) -> None:
    for seed in range(2):
        found = choose_k(without_clusters(name, seed), seed=seed)
        check(found)
        assert not found.clear
        assert found.sentence.startswith("No number of clusters ")


def test_real_digits_have_about_ten() -> None:
    from sklearn.datasets import load_digits

    found = choose_k(load_digits().data, seed=0)
    assert found.clear and 8 <= found.k <= 12


def test_copies_are_one_cluster_each() -> None:
    for counts in ([20, 20, 20], [5, 95]):
        found = choose_k(np.repeat(np.eye(3)[: len(counts)], counts, axis=0), seed=0)
        assert (found.k, found.clear) == (len(counts), True)
        assert found.points[-1].k == len(counts) and found.points[-1].objective == 0


@pytest.mark.parametrize(
    ("x", "why"),
    [
        (np.ones((50, 3)), "k = 1: all 50 vectors are equal."),
        (np.ones((1, 3)), "k = 1: only one vector."),
        (np.eye(9), "k = 1: 9 vectors are too few to look for clusters (10 are needed)."),
        (np.eye(2), "k = 1: 2 vectors are too few to look for clusters (10 are needed)."),
    ],
)
def test_where_there_is_nothing_to_choose_it_says_so(x: NDArray, why: str) -> None:
    assert choose_k(x, seed=0) == Choice(1, False, (), why, len(x))


def test_a_dozen_vectors_in_three_groups_are_three() -> None:
    rng = np.random.default_rng(0)
    found = choose_k(np.repeat(10 * np.eye(3), 4, axis=0) + rng.normal(size=(12, 3)), seed=0)
    assert (found.k, found.clear) == (3, True)
    assert found.sentence.endswith("; more were not tried.")


def point(k: int, stability: float, silhouette: float = 0.5) -> Point:
    return Point(k, stability, silhouette, 0.2, 1.0, 1.0)


def test_the_sentences() -> None:
    points = (point(2, 0.5), point(8, 0.9, 0.4), point(10, 0.93), point(14, 0.85, 0.4))
    assert module._choice((*points, point(20, 0.4)), 100, 100).sentence == (
        "k = 10: 8 to 14 clusters are reproducible with other images (ARI 0.93 at 10) and "
        "separated by gaps (silhouette 0.50, compared with 0.20 for data without clusters); "
        "20 or more are not."
    )
    again = (*points, point(20, 0.4), point(30, 0.9, 0.45))
    assert module._choice(again, 100, 2000).sentence.endswith(
        "; the same holds for 30. Based on 100 of 2,000 vectors."
    )
    assert module._choice((point(3, 0.5), point(5, 0.6)), 9, 9).sentence == (
        "No number of clusters from 3 to 5 stands out: there are gaps, but other images give "
        "other clusters. Start with k = 5, where they agree best (ARI 0.60; 0.8 would be clear)."
    )
    assert module._choice((point(2, 0.99, 0.21),), 9, 9).sentence == (
        "No number of clusters (only 2 tried) stands out: no reproducible gaps exceed those of "
        "data without clusters (silhouette 0.21 compared with 0.20 at 2). k = 2 is only a starting "
        "point."
    )


@pytest.mark.parametrize(
    ("silhouette", "reference", "stands"),
    [
        *((0.5, 0.3, True), (0.5, 0.34, False), (1.0, 0.9, True), (0.0, 0.0, False)),
        *((-0.1, -0.2, False), (0.02, -0.01, True), (0.04, 0.021, False)),
    ],
)
def test_what_stands_out(silhouette: float, reference: float, stands: bool) -> None:
    assert Point(2, 1.0, silhouette, reference, 1.0, 0.0).stands_out is stands


# --- how it looks


def test_a_point_holds_what_scikit_learn_and_k_means_say() -> None:
    x = torch.from_numpy(blobs(4, 6, 5, n=301))
    found = module._Candidates(x, 3).point(4)
    whole = kmeans(x, 4, seed=3, start="k-means++", restarts=6)
    assert found.objective == whole.objective
    assert found.silhouette == pytest.approx(silhouette_score(x, whole.labels_N), abs=1e-6)
    aris = []
    for cut in range(4):
        order = module.permutation(module.Key(3, "choice/halves", cut), 301)
        labels = []
        for half in (order[:150], order[150:]):
            centres = kmeans(x[half], 4, seed=3, start="k-means++", restarts=6).centroids_KD
            labels.append(torch.cdist(x.double(), centres.double()).argmin(1))
        aris.append(adjusted_rand_score(*labels))
    assert found.stability == pytest.approx(np.mean(aris), abs=1e-3)


def test_data_without_clusters_have_the_spread_of_the_vectors() -> None:
    x = torch.from_numpy(blobs(3, 4, 9, n=5000)) * torch.tensor([5.0, 1, 1, 1]) + 30
    normal, box = module.unclustered_data(x, 0)
    np.testing.assert_allclose(np.cov(normal.T), np.cov(x.T), atol=0.05 * np.cov(x.T).max())
    np.testing.assert_allclose(normal.mean(0), x.mean(0), atol=0.06 * x.std(0).max())
    axes = np.linalg.svd((x - x.mean(0)).numpy(), full_matrices=False)[2].T
    along, boxed = (x - x.mean(0)).numpy() @ axes, (box - x.mean(0)).numpy() @ axes
    np.testing.assert_allclose(boxed.min(0), along.min(0), atol=0.01 * np.ptp(along[:, 0]))
    np.testing.assert_allclose(boxed.max(0), along.max(0), atol=0.01 * np.ptp(along[:, 0]))
    on_sphere = module.unclustered_data(torch.nn.functional.normalize(x) * 2, 0)
    for y in on_sphere:
        np.testing.assert_allclose(torch.linalg.vector_norm(y, dim=1), 2, rtol=1e-5)


def test_candidates_close_in_on_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lead falls to both sides of 37, whatever the coarse candidates were."""

    class Peaked:
        def point(self, k: int) -> Point:
            return point(k, 1.0, 0.9 - abs(np.log(k / 37)) / 9)

    for largest in (45, 90, 128):
        points = module._sweep(Peaked(), largest)
        assert len(points) <= 14 and abs(module._best(points).k - 37) <= 2
    assert [p.k for p in module._sweep(Peaked(), 2)] == [2]
    assert [p.k for p in module._sweep(Peaked(), 5)] == [2, 3, 4, 5]


def test_the_seed_decides_and_every_form_is_taken(tmp_path: Path) -> None:
    x = blobs(3, 4, 7, n=90)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r", allow_pickle=False)
    wanted = choose_k(x, seed=1)
    assert choose_k(mapped, seed=1) == choose_k(torch.from_numpy(x), seed=1) == wanted
    assert choose_k(x, seed=2).points != wanted.points
    assert choose_k(x.astype(np.float16), seed=1).k == 3


def test_of_many_vectors_a_sample_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROWS", 60)
    found = choose_k(blobs(3, 4, 7, n=900), seed=0)
    assert (found.k, found.rows) == (3, 60)
    assert found.sentence.endswith(" Based on 60 of 900 vectors.")
    monkeypatch.setattr(module, "_NUMBERS", 400)
    assert choose_k(blobs(3, 8, 7, n=900), seed=0, most=4).rows == 50


def test_the_largest_candidate_may_be_given() -> None:
    assert [p.k for p in choose_k(blobs(3, 4, 7, n=90), seed=0, most=4).points] == [2, 3, 4]


@pytest.mark.parametrize(
    ("x", "most", "complaint"),
    [
        (np.zeros(4), None, "one row per vector"),
        (np.zeros((0, 4)), None, "one row per vector"),
        (np.full((20, 2), np.nan), None, "not finite"),
        (np.eye(20), 1, "at most 1 clusters leave no choice: use 2 or more"),
    ],
)
def test_what_cannot_be_is_refused(x: NDArray, most: int | None, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        choose_k(x, seed=0, most=most)
