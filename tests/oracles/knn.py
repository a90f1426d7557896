"""The weighted vote of the nearest neighbours in loops, from its definition (Wu et al. 2018)."""

import math

import numpy as np


def vote(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, *, classes: int, k: int, tau: float
) -> np.ndarray:
    """Shares (M, K); of equal cosines the lower row is nearer."""
    scores = np.zeros((len(test), classes))
    for i, x in enumerate(test):
        cosines = []
        for row, y in enumerate(train):
            dot = sum(float(a) * float(b) for a, b in zip(x, y, strict=True))
            cosines.append((-dot / (_length(x) * _length(y)), row))
        for minus_cosine, row in sorted(cosines)[:k]:
            scores[i, labels[row]] += math.exp(-minus_cosine / tau)
        scores[i] /= sum(scores[i])
    return scores


def _length(x: np.ndarray) -> float:
    return math.sqrt(sum(float(a) ** 2 for a in x))
