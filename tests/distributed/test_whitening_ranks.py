"""Processes that share the rows fit one process's whitening, and all of them the same bits."""

import numpy as np
import pytest
import torch
from torch import Tensor

from selftaught.clustering.whitening import Whitening
from tests.support import gloo


def rows(N: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(N, 6)) @ rng.normal(size=(6, 6)) + 5).astype(np.float32)


def fitted(N: int) -> dict[str, Tensor]:
    return Whitening.fit(rows(N)).tensors()


@pytest.mark.slow
@pytest.mark.parametrize(("world", "N"), [(2, 50), (2, 51), (4, 50), (4, 3), (3, 1)])
def test_ranks_agree_with_one_process(world: int, N: int) -> None:
    truth = fitted(N)
    found = gloo.run(world, fitted, N)
    for state in found:
        for name in truth:
            assert torch.equal(state[name], found[0][name])
            torch.testing.assert_close(state[name], truth[name], rtol=1e-10, atol=1e-10)
