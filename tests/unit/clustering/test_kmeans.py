"""k-means against exact fractions, scikit-learn and faiss; ties, empty clusters, forms of input."""

import os
import subprocess
import sys
import warnings
from collections import Counter
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from selftaught.clustering import kmeans as module
from selftaught.clustering import nearest_centroid
from selftaught.clustering.kmeans import Clustering, kmeans
from selftaught.clustering.nearest_centroid import VectorBlocks
from selftaught.errors import UserError
from selftaught.foundation.rng import Key
from tests.oracles import kmeans as oracle

TYPES = [np.float32, np.float64]


def blobs(n: int, D: int, k: int, seed: int = 0, dtype: type = np.float32) -> NDArray:
    """Vectors around k centres, that overlap."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(k, D))[rng.integers(0, k, n)] + rng.normal(size=(n, D))).astype(dtype)


def distances(x: NDArray, centroids: NDArray) -> NDArray[np.float64]:
    """All squared distances, (N, K), a centroid at a time."""
    return np.stack([((x.astype(float) - c) ** 2).sum(1) for c in centroids.astype(float)], axis=1)


def check_nearest(x: NDArray, found: Clustering) -> None:
    """Each label is a nearest of the returned centroids; no lower one equals it."""
    centroids, labels = found.centroids_KD.double().numpy(), found.labels_N.numpy()
    far = distances(x, centroids)
    own = far[np.arange(len(x)), labels]
    scale = (x.astype(float) ** 2).sum(1) + (centroids**2).sum(1).max()
    assert (own - far.min(axis=1) <= 1e-12 * scale).all()
    for label in set(labels.tolist()):
        assert not (centroids[:label] == centroids[label]).all(axis=1).any()
    assert found.objective == pytest.approx(own.mean(), rel=1e-6, abs=1e-12 * scale.mean())


# --- against others


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_small_whole_numbers_are_clustered_as_exact_fractions_are(data: st.DataObject) -> None:
    """They tie all the time; a tie goes to the lower index, in every step."""
    N, D, steps = (data.draw(st.integers(1, most)) for most in (14, 3, 4))
    k, dtype = data.draw(st.integers(1, min(N, 4))), data.draw(st.sampled_from(TYPES))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    x = rng.integers(-3, 4, (N, D)).astype(dtype) + data.draw(st.sampled_from([0, 1000]))
    start = x[rng.permutation(N)[:k]]
    exact = oracle.lloyd(x, start, steps)
    assume(exact is not None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest_centroid, "_GROUPED", data.draw(st.sampled_from([0, 512])))
        patch.setattr(nearest_centroid, "_L", data.draw(st.sampled_from([2, 64])))
        found = kmeans(x, k, seed=0, iterations=steps, start=start)
    wanted = np.array(exact[0], float)
    np.testing.assert_allclose(found.centroids_KD, wanted, rtol=1e-6, atol=1e-6)
    assert found.centroids_KD.dtype == torch.from_numpy(x).dtype
    assert found.labels_N.tolist() == oracle.labels_of(x, found.centroids_KD.numpy())
    if dtype is np.float64:
        assert found.labels_N.tolist() == exact[1]
    assert found.objective == pytest.approx(
        oracle.objective(x, found.centroids_KD.numpy()), rel=1e-6, abs=1e-9
    )


@pytest.mark.parametrize(("k", "spread"), [(7, 1.0), (60, 1.0), (60, 0.01)])
def test_in_float64_labels_are_those_of_scikit_learn(k: int, spread: float) -> None:
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    x = 5 + spread * blobs(2500, 12, 20, dtype=np.float64)
    start = x[:k]
    for steps in (1, 4, 9):
        rival = KMeans(k, init=start, n_init=1, max_iter=steps, tol=0, algorithm="lloyd")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            rival.fit(x)
        found = kmeans(x, k, seed=0, iterations=steps, start=start)
        assert found.repairs == 0
        assert np.array_equal(found.labels_N, rival.labels_)
        np.testing.assert_allclose(found.centroids_KD, rival.cluster_centers_, rtol=1e-9)
        assert found.objective == pytest.approx(rival.inertia_ / len(x), rel=1e-9)


@pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")  # of faiss's bindings
@pytest.mark.parametrize("offset", [0.0, 30.0])
@pytest.mark.parametrize("k", [40, 600])
def test_in_float32_the_objective_and_labels_are_those_of_faiss(k: int, offset: float) -> None:
    import faiss

    x = blobs(6000, 16, 80) + np.float32(offset)
    start, steps = x[:k].copy(), 6
    rival = faiss.Clustering(16, k)
    rival.niter, rival.max_points_per_centroid, rival.min_points_per_centroid = steps, 10**6, 1
    faiss.copy_array_to_vector((start - np.float32(offset)).ravel(), rival.centroids)
    index = faiss.IndexFlatL2(16)
    rival.train(x - np.float32(offset), index)
    squared, labels = index.search(x - np.float32(offset), 1)
    found = kmeans(x, k, seed=0, iterations=steps, start=start)
    assert found.repairs == 0
    assert found.objective == pytest.approx(squared.mean(dtype=float), rel=1e-5)
    assert (found.labels_N.numpy() == labels[:, 0]).mean() >= 0.999


@pytest.mark.parametrize("k", [50, 700])
def test_float32_gives_what_float64_gives(k: int) -> None:
    """Whatever a float32 product cannot tell apart, float64 decides, in each iteration."""
    x = blobs(4000, 24, 30) + np.float32(3)
    one, other = (kmeans(y, k, seed=0, iterations=8) for y in (x, x.astype(np.float64)))
    assert torch.equal(one.labels_N, other.labels_N)
    torch.testing.assert_close(one.centroids_KD, other.centroids_KD.float(), rtol=1e-6, atol=1e-6)
    assert one.objective == pytest.approx(other.objective, rel=1e-7)


# --- properties


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_objective_never_rises_and_labels_are_nearest(data: st.DataObject) -> None:
    N, D = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 6))
    k, dtype = data.draw(st.integers(1, N)), data.draw(st.sampled_from([*TYPES, np.float16]))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    x = rng.normal(size=(N, D)) * data.draw(st.sampled_from([1, 1e-4, 30]))
    x = x[rng.integers(0, data.draw(st.integers(1, N)), N)].astype(dtype)  # some twice and more
    spherical, start = data.draw(st.booleans()), data.draw(st.sampled_from(["random", "k-means++"]))
    if spherical:
        x[0] = 0
    far = data.draw(st.booleans())
    chosen = (x[:k] + 100 * rng.integers(0, 2, (k, 1))).astype(dtype) if far else start
    found = [
        kmeans(x, k, seed=3, iterations=t, start=chosen, spherical=spherical) for t in range(6)
    ]
    scale = 1 if spherical else (x.astype(float) ** 2).sum(1).mean()
    for before, after in pairwise(found):
        assert after.objective <= before.objective * (1 + 1e-6) + 1e-12 * scale
        assert after.repairs >= before.repairs
    lengths = np.linalg.norm(x.astype(float), axis=1, keepdims=True)
    rows = x.astype(float) / np.where(lengths > 0, lengths, 1) if spherical else x
    for each in found:
        check_nearest(rows, each)
        assert each.sizes.sum() == N and each.centroids_KD.shape == (k, D)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 10**6))
def test_every_cluster_that_can_be_filled_is(N: int, distinct: int, seed: int) -> None:
    """All but one start far away: as many clusters are in use as vectors differ, or k."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(distinct, 3))[rng.integers(0, distinct, N)]
    k = int(rng.integers(1, N + 1))
    start = np.concatenate([x[:1], np.full((k - 1, 3), 1e3)])
    found = kmeans(x, k, seed=seed, iterations=15, start=start)
    most = min(k, len(np.unique(x, axis=0)))
    assert (found.sizes > 0).sum() == most
    assert found.repairs >= most - 1
    if most < k:
        assert found.objective < 1e-20


def test_repairs_are_counted_and_share_points_out() -> None:
    x = blobs(500, 4, 3)
    start = np.full((8, 4), 50, np.float32)
    start[5] = 0
    one = kmeans(x, 8, seed=1, iterations=1, start=start)
    assert one.repairs == 7 and (one.sizes > 0).all()
    assert kmeans(x, 8, seed=1, iterations=20, start=start).repairs == 7
    alone = kmeans(x, 1, seed=0, iterations=1).objective
    assert one.objective < alone
    two = kmeans(x, 8, seed=2, iterations=1, start=start)
    assert not torch.equal(one.labels_N, two.labels_N)  # which cluster is split, and how, is drawn


def test_what_is_moved_comes_from_somewhere() -> None:
    vectors = VectorBlocks(blobs(200, 3, 4), torch.device("cpu"), False)
    labels_n = torch.arange(200) % 3
    sums_KP = torch.zeros(9, vectors.P, dtype=torch.float64)
    sums_KP.index_add_(0, labels_n, vectors.block(slice(0, 200)).double())
    total_P = sums_KP.sum(0)
    keys = (Key(0, f"test/{i}") for i in range(20))
    assert module._repair(vectors, labels_n, sums_KP, keys) == 6
    torch.testing.assert_close(sums_KP.sum(0), total_P)
    assert (sums_KP[:, 3] >= 1).all() and sums_KP[:, 3].sum() == 200


def test_large_clusters_are_split_more_often() -> None:
    """In proportion to the size less 1: never that of one vector."""
    weight_K = np.array([0.0, 1, 3, 0, 4])
    drawn = [module._weighted_draw(weight_K, 1, Key(seed, "test"))[0] for seed in range(2000)]
    share = np.bincount(drawn, minlength=5) / 2000
    np.testing.assert_allclose(share, weight_K / 8, atol=0.04)
    both = module._weighted_draw(weight_K, 9, Key(0, "test")).tolist()
    assert sorted(both) == [1, 2, 4]


@pytest.mark.parametrize("dtype", [*TYPES, np.float16])
@pytest.mark.parametrize("start", ["random", "k-means++"])
def test_all_vectors_alike(start: str, dtype: type) -> None:
    x = np.full((4000, 32), 0.3, dtype)
    found = kmeans(x, 300, seed=0, start=start)
    assert found.sizes.tolist() == [4000] + 299 * [0]
    assert found.objective == 0 and found.repairs == 0
    assert (found.centroids_KD == x[0].astype(float)).all()


def test_as_many_clusters_as_vectors_and_one() -> None:
    x = blobs(30, 5, 4)
    for start in ("random", "k-means++"):
        each = kmeans(x, 30, seed=0, start=start)
        assert each.objective < 1e-12 and sorted(each.labels_N.tolist()) == list(range(30))
    one = kmeans(x, 1, seed=0)
    np.testing.assert_allclose(one.centroids_KD[0], x.mean(0), rtol=1e-5)
    assert one.objective == pytest.approx(x.var(0).sum(), rel=1e-5)
    lonely = kmeans(x[:1], 1, seed=0)
    assert lonely.labels_N.tolist() == [0] and np.array_equal(lonely.centroids_KD, x[:1])


def test_a_thousand_copies_do_not_lose_the_others() -> None:
    x = np.concatenate([np.zeros((1000, 8)), blobs(50, 8, 5, dtype=np.float64) + 3])
    found = kmeans(x, 20, seed=0)
    assert (found.sizes > 0).all()
    assert found.sizes[found.labels_N[0]] == 1000


def test_directions_are_clustered_whatever_their_length() -> None:
    x = blobs(2000, 10, 6)
    longer = x * np.random.default_rng(0).uniform(0.1, 10, (2000, 1)).astype(np.float32)
    one, other = (kmeans(y, 9, seed=0, spherical=True) for y in (x, longer))
    assert (one.labels_N == other.labels_N).float().mean() > 0.999
    torch.testing.assert_close(torch.linalg.vector_norm(one.centroids_KD, dim=1), torch.ones(9))
    cosines = torch.nn.functional.normalize(torch.from_numpy(x), dim=1) @ one.centroids_KD.T
    assert torch.equal(cosines.argmax(1), one.labels_N)
    assert one.objective == pytest.approx(2 - 2 * cosines.amax(1).mean().item(), rel=1e-5)


# --- what is drawn


def test_the_seed_decides_and_nothing_else() -> None:
    x = blobs(400, 6, 8)
    torch.manual_seed(1)
    state, first = torch.get_rng_state(), kmeans(x, 12, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    np.random.seed(2)
    assert torch.equal(kmeans(x, 12, seed=5).centroids_KD, first.centroids_KD)
    assert not torch.equal(kmeans(x, 12, seed=6).centroids_KD, first.centroids_KD)


@pytest.mark.slow
def test_k_means_plus_plus_draws_by_the_squared_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    """How often each sequence of three out of five comes is what the definition says."""
    x = np.array([[0.0, 0], [1, 0], [0, 2], [5, 5], [5, 6]])
    far = distances(x, x)
    exact = {}
    for a, b, c in permutations(range(5), 3):
        two = np.minimum(far[a], far[b])
        exact[a, b, c] = (1 / 5) * far[a, b] / far[a].sum() * two[c] / two.sum()
    assert sum(exact.values()) == pytest.approx(1)
    vectors, runs = VectorBlocks(x, torch.device("cpu"), False), 1500
    monkeypatch.setattr(module, "min", lambda *numbers: 4, raising=False)  # candidates at once
    drawn = Counter(
        tuple(module._plus_plus_rows(vectors, 3, Key(seed, "test")).tolist())
        for seed in range(runs)
    )
    chi = sum((drawn[order] - runs * p) ** 2 / (runs * p) for order, p in exact.items())
    assert set(drawn) <= set(exact) and chi < 100  # 59 degrees of freedom; 99.9 % lie below 98


def test_k_means_plus_plus_starts_better_than_chance() -> None:
    x = 20 * np.eye(30)[np.arange(3000) % 30] + blobs(3000, 30, 1, dtype=np.float64)
    plain, careful = (
        np.mean([kmeans(x, 30, seed=s, iterations=0, start=start).objective for s in range(5)])
        for start in ("random", "k-means++")
    )
    assert careful < 0.7 * plain


def test_the_best_of_several_starts_is_returned() -> None:
    x = blobs(300, 3, 12)
    found = kmeans(x, 12, seed=0, restarts=6)
    assert found.objective == min(kmeans(x, 12, seed=0, restarts=r).objective for r in range(1, 7))
    assert found.objective < kmeans(x, 12, seed=0).objective


# --- forms of input


@pytest.mark.slow
@pytest.mark.parametrize("k", [3, pytest.param(600, marks=pytest.mark.slow)])
def test_blocks_do_not_matter(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = blobs(700, 7, 20)
    for start in ("random", "k-means++"):
        whole = kmeans(x, k, seed=0, start=start, iterations=5)
        with monkeypatch.context() as patch:
            patch.setattr(nearest_centroid, "_HELD", 0)
            patch.setattr(nearest_centroid, "_GROUPED", 0 if k == 3 else 10**9)
            read_again = kmeans(x, k, seed=0, start=start, iterations=5)
            patch.setattr(
                VectorBlocks, "blocks", lambda self, k=0: (slice(i, i + 1) for i in range(self.n))
            )
            by_one = kmeans(x, k, seed=0, start=start, iterations=5)
        for other in (read_again, by_one):
            assert torch.equal(whole.labels_N, other.labels_N)
            torch.testing.assert_close(whole.centroids_KD, other.centroids_KD)


@pytest.mark.filterwarnings("error")
def test_tensors_arrays_and_maps_of_any_type(tmp_path: Path) -> None:
    half = blobs(700, 9, 5).astype(np.float16)
    np.save(tmp_path / "x.npy", half)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    wanted = kmeans(half.astype(np.float32), 6, seed=0)
    wide = np.zeros((700, 20), np.float32)
    wide[:, ::2][:, :9] = half
    graph = torch.from_numpy(half).float().requires_grad_() * 1
    for x in (half, mapped, torch.from_numpy(half), wide[:, ::2][:, :9], graph):
        found = kmeans(x, 6, seed=0)
        assert torch.equal(found.labels_N, wanted.labels_N)
        assert found.centroids_KD.dtype == torch.float32 and not found.centroids_KD.requires_grad
    whole = np.random.default_rng(0).integers(0, 255, (90, 4), np.uint8)
    assert torch.equal(
        kmeans(whole, 5, seed=0).labels_N, kmeans(whole.astype(np.float32), 5, seed=0).labels_N
    )
    bf16 = torch.from_numpy(half).bfloat16()
    assert torch.equal(kmeans(bf16, 5, seed=0).labels_N, kmeans(bf16.float(), 5, seed=0).labels_N)


def test_the_precision_that_training_chose_does_not_matter() -> None:
    x = blobs(900, 64, 10)
    wanted = kmeans(x, 30, seed=0)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
            found = kmeans(torch.from_numpy(x), 30, seed=0)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(found.labels_N, wanted.labels_N)
    assert torch.equal(found.centroids_KD, wanted.centroids_KD)


def test_vectors_far_from_the_origin_keep_their_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of such numbers alone would have no digit right, and leave all to float64."""
    x, unsure = blobs(1000, 8, 6) + np.float32(2000), []
    decide = nearest_centroid.Nearest._decisions

    def counted(self: nearest_centroid.Nearest, x_UD: torch.Tensor) -> torch.Tensor:
        unsure.append(len(x_UD))
        return decide(self, x_UD)

    monkeypatch.setattr(nearest_centroid.Nearest, "_decisions", counted)
    found = kmeans(x, 10, seed=0, iterations=10)
    assert sum(unsure) < 50  # of 11,000
    check_nearest(x, found)
    near = kmeans(x.astype(np.float64) - 2000, 10, seed=0, iterations=10)
    assert torch.equal(found.labels_N, near.labels_N)


def test_the_last_labels_are_those_of_the_vectors_as_they_came() -> None:
    """Less the mean, 3,000, they would have lost the digits that tell these centroids apart."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.random((5000, 1)), 6000 + rng.random((5000, 1))]).astype(np.float32)
    start = rng.permutation(np.linspace(0.01, 0.98, 20, dtype=np.float32))[:, None]
    found = kmeans(x, 20, seed=0, start=start, iterations=0)
    wanted = distances(x, found.centroids_KD.numpy()).argmin(1)
    rounded = distances(x - np.float32(3000), found.centroids_KD.numpy() - np.float32(3000))
    assert (rounded.argmin(1) != wanted)[:5000].sum() > 3
    assert np.array_equal(found.labels_N, wanted)


MEMORY = """
import sys
import numpy as np, torch
from selftaught.clustering import nearest_centroid as nearest
from selftaught.clustering.kmeans import kmeans

def anonymous():
    return int(open("/proc/self/status").read().partition("RssAnon:")[2].split()[0]) / 1024

most, read = 0, nearest.VectorBlocks.exact
def watched(self, rows):
    global most
    x = read(self, rows)
    most = max(most, anonymous())
    return x
x = np.load(sys.argv[1], mmap_mode="r")
kmeans(x[:2000], 10, seed=0, iterations=1)
nearest._HELD, nearest.VectorBlocks.exact, before = 0, watched, anonymous()
found = kmeans(x, 10, seed=0, iterations=1)
print(most - before, len(found.labels_N))
"""


@pytest.mark.slow
def test_of_a_memory_map_one_block_at_a_time_is_in_memory(tmp_path: Path) -> None:
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float16, (400_000, 256))
    for start in range(0, 400_000, 50_000):
        x[start : start + 50_000] = np.random.default_rng(start).normal(size=(50_000, 256))
    x.flush()
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "x.npy")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    mib, rows = done.stdout.split()
    assert float(mib) < 60 and int(rows) == 400_000  # the file takes 195, in float32 390


# --- refusals


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"k": 6}, "5 vectors cannot form 6 clusters: choose 1 to 5"),
        ({"k": 0}, "choose 1 to 5"),
        ({"iterations": -1}, "-1 iterations"),
        ({"restarts": 0}, "0 restarts"),
        ({"start": "kmeans++"}, r"choose random or k-means\+\+"),
        ({"start": np.zeros((2, 3))}, r"pass shape \(2, 2\)"),
        ({"start": np.zeros((2, 2)), "restarts": 2}, "restarts from one start"),
        ({"start": np.full((2, 2), np.nan)}, "start is not finite"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        kmeans(np.eye(5)[:, :2], **{"k": 2, "seed": 0, **arguments})


def test_vectors_too_long_to_be_squared_are_refused() -> None:
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    expected = kmeans(x, 3, seed=0).labels_N
    assert torch.equal(kmeans(x * np.float32(2.0**50), 3, seed=0).labels_N, expected)
    with pytest.raises(UserError, match=r"too long .*divide all vectors by this length"):
        kmeans(x * np.float32(2.0**100), 3, seed=0)
    assert torch.equal(kmeans(x.astype(float) * 2.0**100, 3, seed=0).labels_N, expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_are_refused(bad: float) -> None:
    x = np.zeros((40, 3), np.float32)
    x[17, 1] = bad
    with pytest.raises(UserError, match="not finite"):
        kmeans(x, 2, seed=0)


@pytest.mark.parametrize("shape", [(5,), (5, 2, 2), (0, 3), (3, 0)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="one row per vector"):
        kmeans(np.zeros(shape), 1, seed=0)


@pytest.mark.slow
def test_neither_faiss_nor_scikit_learn_is_imported() -> None:
    program = (
        "import sys, numpy as np; from selftaught.clustering.kmeans import kmeans;"
        "kmeans(np.eye(4), 2, seed=0); print({'faiss', 'sklearn', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
