"""k-means of several processes is that of one, and every process gets all of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from selftaught.clustering import nearest_centroid
from selftaught.clustering.kmeans import Clustering, kmeans
from tests.support import gloo

pytestmark = pytest.mark.slow


def overlapping(n: int = 900, D: int = 6, dtype: type = np.float32) -> NDArray:
    """Clusters that come one after the other, so that a process sees few of them."""
    rng = np.random.default_rng(0)
    return (3 + rng.normal(size=(n, D)) + 2 * np.sin(np.arange(n)[:, None] // 40)).astype(dtype)


def lattice() -> NDArray:
    """Small whole numbers: distances tie all the time."""
    return np.random.default_rng(1).integers(-2, 3, (301, 3)).astype(np.float32)


def few_distinct() -> NDArray:
    return overlapping(12)[np.random.default_rng(2).integers(0, 12, 200)]


def far_start(x: NDArray, k: int) -> NDArray:
    """All centroids but one have nothing."""
    return np.concatenate([x[:1], np.full((k - 1, x.shape[1]), 1e4, x.dtype)])


CASES: dict[str, tuple[NDArray, int, dict[str, Any]]] = {
    "random": (overlapping(), 20, {"restarts": 2}),
    "many clusters": (overlapping(), 600, {"iterations": 4}),
    "k-means++": (overlapping(), 40, {"start": "k-means++"}),
    "spherical": (overlapping(), 20, {"spherical": True}),
    "float64": (overlapping(dtype=np.float64), 15, {}),
    "ties": (lattice(), 9, {}),
    "repairs": (overlapping(), 17, {"start": far_start(overlapping(), 17)}),
    "few distinct": (few_distinct(), 30, {"start": "k-means++"}),
    "all alike": (np.ones((50, 3), np.float32), 7, {}),
    "fewer vectors than processes": (overlapping(3), 2, {}),
    "a process without vectors": (overlapping(6), 3, {"start": "k-means++"}),  # 2 + 2 + 2 + 0
}


def clustered(name: str) -> Clustering:
    x, k, options = CASES[name]
    return kmeans(x, k, seed=4, **options)


@pytest.mark.slow
@pytest.mark.parametrize("W", [2, 3, 4])
def test_labels_are_those_of_one_process(W: int) -> None:
    truth = {name: clustered(name) for name in CASES}
    assert truth["repairs"].repairs == 16
    for found in gloo.run(W, all_clustered):
        for name, wanted in truth.items():
            assert torch.equal(found[name].labels_N, wanted.labels_N), name
            torch.testing.assert_close(found[name].centroids_KD, wanted.centroids_KD)
            assert found[name].objective == pytest.approx(wanted.objective, rel=1e-9, abs=1e-12)
            assert found[name].repairs == wanted.repairs, name


def all_clustered() -> dict[str, Clustering]:
    return {name: clustered(name) for name in CASES}


def mapped(path: Path) -> tuple[Clustering, int]:
    """The clusters of a memory map, nothing of which is kept, and how many rows were read."""
    seen, read = set(), nearest_centroid.VectorBlocks.exact

    def watched(self: nearest_centroid.VectorBlocks, rows: Any) -> torch.Tensor:
        seen.update(range(rows.start, rows.stop) if isinstance(rows, slice) else ())
        return read(self, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest_centroid, "_HELD", 0)
        patch.setattr(nearest_centroid.VectorBlocks, "exact", watched)
        return kmeans(np.load(path, mmap_mode="r"), 12, seed=0), len(seen)


def test_each_process_reads_its_stretch_of_a_memory_map(tmp_path: Path) -> None:
    x = overlapping(n=801, dtype=np.float16)
    np.save(tmp_path / "x.npy", x)
    wanted = kmeans(x, 12, seed=0)
    found = gloo.run(2, mapped, tmp_path / "x.npy")
    assert [rows for _, rows in found] == [401, 400]
    for each, _ in found:
        assert torch.equal(each.labels_N, wanted.labels_N)
