"""Power iteration clustering by its definition, in fractions: every pair, every edge."""

from fractions import Fraction
from math import exp

import numpy as np

Matrix = list[list[Fraction]]


def graph(x: np.ndarray, k: int, sigma: float) -> Matrix:
    """G + G^T; weights are those of float64, and neighbours at the same distance the lower rows."""
    n = len(x)
    G = [[Fraction(0)] * n for _ in range(n)]
    for i in range(n):
        far = [(float(((x[i] - x[j]) ** 2).sum()), j) for j in range(n) if j != i]
        for squared, j in sorted(far)[:k]:
            G[i][j] = Fraction(exp(-squared / sigma**2))
    return [[G[i][j] + G[j][i] for j in range(n)] for i in range(n)]


def heights(W: Matrix, alpha: float, iterations: int) -> list[Fraction]:
    """v after so many iterations, from 1/N."""
    n, a = len(W), Fraction(alpha)
    v = [Fraction(1, n)] * n
    for _ in range(iterations):
        spread = [sum((W[i][j] * v[j] for j in range(n)), Fraction()) for i in range(n)]
        v = [a * s + (1 - a) * own for s, own in zip(spread, v, strict=True)]
        v = [value / sum(v) for value in v]
    return v


def pointers(W: Matrix, v: list[Fraction]) -> list[int]:
    """Where each row points; a local maximum to itself."""
    found = []
    for i in range(len(W)):
        edges = [j for j in range(len(W)) if W[i][j] > 0]
        higher = [j for j in edges if v[j] > v[i]]
        level = [j for j in edges if v[j] == v[i] and j < i]
        steepest = sorted(higher, key=lambda j: (-W[i][j] * (v[j] - v[i]), j))
        found.append((steepest or level or [i])[0])
    return found


def peak(to: list[int], i: int) -> int:
    """The local maximum that a row's pointers lead to."""
    while to[i] != i:
        i = to[i]
    return i
