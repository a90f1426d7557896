"""Means in float64 of many vectors, block by block, without copying all of them.

Shapes:  N vectors, D their size; K labels.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

_BLOCK = 2**20  # numbers per block


def blocks(x_ND: Tensor) -> Iterator[slice]:
    """Slices of rows, about 8 MB each in float64."""
    step = max(1, _BLOCK // x_ND.shape[1])
    return (slice(start, start + step) for start in range(0, len(x_ND), step))


def mean(x_ND: Tensor) -> Tensor:
    """The mean of all vectors, (D,) float64."""
    return torch.stack([x_ND[part].double().sum(0) for part in blocks(x_ND)]).sum(0) / len(x_ND)


def means(x_ND: Tensor, label_N: Tensor) -> Tensor:
    """The mean vector of each label, (K, D) float64; labels are 0 .. K-1, without gaps."""
    size_K1 = torch.bincount(label_N)[:, None]
    sums_KD = torch.zeros(len(size_K1), x_ND.shape[1], dtype=torch.float64)
    for part in blocks(x_ND):
        sums_KD.index_add_(0, label_N[part], x_ND[part].double())
    return sums_KD / size_K1


def mean_squared_distance(x_ND: Tensor, label_N: Tensor, c_KD: Tensor) -> float:
    """1/N sum_n |x_n - c_label(n)|^2, for float64 centroids."""
    squared = ((x_ND[part].double() - c_KD[label_N[part]]).square().sum() for part in blocks(x_ND))
    return float(sum(squared, torch.zeros((), dtype=torch.float64))) / len(x_ND)
