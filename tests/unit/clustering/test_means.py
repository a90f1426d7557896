"""Means in blocks are those of whole float64 copies, and clusters the same whatever the blocks."""

import numpy as np
import pytest
import torch

from selftaught.clustering import means as module
from selftaught.clustering.means import mean, mean_squared_distance, means
from selftaught.clustering.power_iteration import power_iteration


@pytest.fixture(params=[1, 40, 2**20])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(module, "_BLOCK", request.param)
    return request.param


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.int64])
def test_means_are_numpy_s(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    x_ND = torch.from_numpy(100 + 9 * rng.normal(size=(61, 7))).to(dtype)
    label_N = rng.permutation(np.arange(61) % 5)
    x = x_ND.double().numpy()
    wanted = np.stack([x[label_N == k].mean(0) for k in range(5)])
    found = means(x_ND, torch.from_numpy(label_N))
    assert found.dtype == mean(x_ND).dtype == torch.float64
    np.testing.assert_allclose(found, wanted, rtol=1e-14)
    np.testing.assert_allclose(mean(x_ND), x.mean(0), rtol=1e-14)
    objective = ((x - wanted[label_N]) ** 2).sum(1).mean()
    squared = mean_squared_distance(x_ND, torch.from_numpy(label_N), found)
    assert squared == pytest.approx(objective, rel=1e-12)


def test_labels_summed_in_blocks_are_summed_in_the_same_order(block: int) -> None:
    x_ND = torch.randn(500, 7, generator=torch.Generator().manual_seed(block))
    label_N = torch.arange(500) % 3
    whole = torch.zeros(3, 7, dtype=torch.float64).index_add_(0, label_N, x_ND.double())
    assert torch.equal(means(x_ND, label_N), whole / torch.bincount(label_N)[:, None])


def test_a_graph_s_clusters_do_not_depend_on_blocks(block: int) -> None:
    x = np.random.default_rng(1).normal(size=(200, 4)) + 1000
    found = power_iteration(x, sigma=1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", 12)
        other = power_iteration(x, sigma=1.0)
    assert torch.equal(found.labels_N, other.labels_N)
    assert found.objective == pytest.approx(other.objective, rel=1e-12)
