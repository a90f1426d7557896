"""Average precision and bootstrap resamples from their definitions, an image at a time."""

from collections.abc import Callable

import numpy as np


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """sum_n (R_n - R_{n-1}) P_n, a threshold at each distinct score, from the highest."""
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        taken = [i for i, score in enumerate(scores) if score >= threshold]
        hits = sum(bool(positive[i]) for i in taken)
        recall = hits / sum(map(bool, positive))
        total += (recall - recall_before) * hits / len(taken)
        recall_before = recall
    return total


def resampled(
    figure: Callable[[np.ndarray, np.ndarray], float],
    answers: np.ndarray,
    labels: np.ndarray,
    counts: np.ndarray,
) -> list[float]:
    """The figure of each resample (a column of counts), made by repeating images."""
    values = []
    for column in counts.T:
        chosen = [i for i, count in enumerate(column) for _ in range(int(count))]
        values.append(figure(answers[chosen], labels[chosen]))
    return values
