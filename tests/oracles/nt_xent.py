"""Algorithm 1 of SimCLR (Chen et al. 2020) as slow and obvious loops in float64.

The paper's order: rows 2k and 2k+1 (2k-1 and 2k where counting begins at one) are the two views of
image k.
"""

import math

import numpy as np
from numpy.typing import NDArray


def interleave(z0: NDArray[np.float64], z1: NDArray[np.float64]) -> NDArray[np.float64]:
    """The paper's order of rows from the first views and the second views."""
    return np.array([row for pair in zip(z0, z1, strict=True) for row in pair])


def similarity(z: NDArray[np.float64]) -> list[list[float]]:
    """s_ij = z_i . z_j / (|z_i| |z_j|), pair by pair."""
    lengths = [math.sqrt(float(row @ row)) for row in z]
    return [
        [float(a @ b) / (la * lb) for b, lb in zip(z, lengths, strict=True)]
        for a, la in zip(z, lengths, strict=True)
    ]


def pair_loss(s: list[list[float]], i: int, j: int, tau: float) -> float:
    """l(i, j) = -log( exp(s_ij / tau) / sum_{k != i} exp(s_ik / tau) )."""
    denominator = 0.0
    for k in range(len(s)):
        if k != i:
            denominator += math.exp(s[i][k] / tau)
    return -math.log(math.exp(s[i][j] / tau) / denominator)


def loss(s: list[list[float]], tau: float) -> float:
    """L = 1/2N sum_k [ l(2k-1, 2k) + l(2k, 2k-1) ]."""
    total = 0.0
    for k in range(0, len(s), 2):
        total += pair_loss(s, k, k + 1, tau) + pair_loss(s, k + 1, k, tau)
    return total / len(s)


def nt_xent(z0: NDArray[np.float64], z1: NDArray[np.float64], tau: float) -> float:
    """The loss of Algorithm 1 for first views z0 and second views z1, (N, D) each."""
    return loss(similarity(interleave(z0, z1)), tau)
