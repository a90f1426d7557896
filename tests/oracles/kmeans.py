"""Lloyd's algorithm by its definition, in exact fractions: every vector, every centroid."""

from fractions import Fraction

import numpy as np

Vector = list[Fraction]


def lloyd(x: np.ndarray, start: np.ndarray, steps: int) -> tuple[list[Vector], list[int]] | None:
    """Centroids after some steps, and the labels of these; None if a cluster was ever empty."""
    vectors, centroids = _exact(x), _exact(start)
    for _ in range(steps):
        labels = nearest(vectors, centroids)
        if set(labels) != set(range(len(centroids))):
            return None
        for k in range(len(centroids)):
            members = [v for v, label in zip(vectors, labels, strict=True) if label == k]
            centroids[k] = [sum(column) / len(members) for column in zip(*members, strict=True)]
    return centroids, nearest(vectors, centroids)


def nearest(vectors: list[Vector], centroids: list[Vector]) -> list[int]:
    """The first of the nearest centroids of each vector."""
    labels = []
    for v in vectors:
        far = [squared_distance(v, c) for c in centroids]
        labels.append(far.index(min(far)))
    return labels


def objective(x: np.ndarray, centroids: np.ndarray) -> float:
    """1/N sum_n min_y |x_n - C y|^2."""
    vectors, exact = _exact(x), _exact(centroids)
    least = [min(squared_distance(v, c) for c in exact) for v in vectors]
    return float(sum(least, Fraction()) / len(least))


def labels_of(x: np.ndarray, centroids: np.ndarray) -> list[int]:
    """`nearest` of arrays."""
    return nearest(_exact(x), _exact(centroids))


def squared_distance(a: Vector, b: Vector) -> Fraction:
    return sum(((p - q) ** 2 for p, q in zip(a, b, strict=True)), Fraction())


def _exact(rows: np.ndarray) -> list[Vector]:
    return [[Fraction(float(value)) for value in row] for row in rows]
