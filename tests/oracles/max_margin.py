"""Maximum margin clustering by trying: a support vector machine for every balanced labelling."""

from itertools import product

import numpy as np
from sklearn.svm import SVC


def best(x: np.ndarray, most: int, C: float) -> tuple[float, set[tuple[int, ...]]]:
    """The least objective with |sum y| <= most, and the labels of -1 and 1 that have it.

    The first label is -1: the other half of all labellings are the same partitions.
    """
    found = {}
    for rest in product((-1, 1), repeat=len(x) - 1):
        y = (-1, *rest)
        if abs(sum(y)) <= most and 1 in y:
            found[y] = objective(x, y, C)
    least = min(found.values())
    return least, {y for y, value in found.items() if value <= least + 1e-5 * max(1, least)}


def objective(x: np.ndarray, y: tuple[int, ...], C: float) -> float:
    """1/2 |w|^2 + C sum xi of the linear machine, from w itself."""
    machine = SVC(C=C, kernel="linear", tol=1e-5).fit(x, y)
    w, b = machine.coef_[0], machine.intercept_[0]
    slack = [max(0.0, 1 - label * (w @ row + b)) for row, label in zip(x, y, strict=True)]
    return float(w @ w / 2 + C * sum(slack))
