"""PCA, whitening and unit length from their definitions, an entry at a time."""

import numpy as np


def whitened(x: np.ndarray, new: np.ndarray, size: int, floor: float) -> np.ndarray:
    """Rows of `new`, whitened by the covariance of `x` and divided by their lengths."""
    N, D = x.shape
    mean = [sum(row[d] for row in x) / N for d in range(D)]
    covariance = np.zeros((D, D))
    for row in x:
        for i in range(D):
            for j in range(D):
                covariance[i, j] += (row[i] - mean[i]) * (row[j] - mean[j]) / (N - 1)
    values, vectors = jacobi(covariance)
    order = sorted(range(D), key=lambda d: -values[d])[: min(size, D, N - 1)]
    out = []
    for row in new:
        y = []
        for d in order:
            v = vectors[:, d]
            sign = 1 if v[int(np.argmax(np.abs(v)))] > 0 else -1
            along = sum((row[i] - mean[i]) * v[i] for i in range(D))
            y.append(sign * along / np.sqrt(max(values[d], floor * max(values))))
        out.append(np.array(y) / np.sqrt(sum(a * a for a in y)))
    return np.array(out)


def jacobi(symmetric: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors (columns), by turning one off-diagonal entry to 0 at a time."""
    a, vectors = symmetric.copy(), np.eye(len(symmetric))
    for _ in range(100 * len(a) ** 2):
        off = np.abs(np.triu(a, 1))
        i, j = np.unravel_index(int(off.argmax()), off.shape)
        if off[i, j] <= 1e-15 * np.abs(a).max():
            break
        angle = 0.5 * np.arctan2(2 * a[i, j], a[j, j] - a[i, i])
        turn = np.eye(len(a))
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = np.sin(angle), -np.sin(angle)
        a, vectors = turn.T @ a @ turn, vectors @ turn
    return np.diag(a), vectors
