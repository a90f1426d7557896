"""Figures of merit for weighted images, and their bootstrap intervals.

A resample is a count per test image, so a figure is computed for all resamples at once; its value
has all counts 1. Two representations are compared on the same resamples.

Shapes:  M test images; K classes; B resamples (columns of counts_MB, float32 whole numbers);
         P positive images; k clusters; J pairs of a cluster and a class that share images.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selftaught.foundation.rng import Key, uniform

Floats = NDArray[np.float32] | NDArray[np.float64]
Figure = Callable[[NDArray[Any], NDArray[np.float32]], NDArray[np.float64]]
"""From labels_M (classes, or float64 targets) and counts_MB to each resample's figure, (B,)."""

RESAMPLES = 1000
_Z95 = 1.959963984540054  # 97.5th percentile of the normal distribution


def accuracy(
    scores_MK: Floats, labels_M: NDArray[np.int64], counts_MB: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Share of images whose true class has the highest score, (B,)."""
    correct_M = scores_MK.argmax(axis=1) == labels_M
    found_B: NDArray[np.float64] = counts_MB[correct_M].sum(axis=0, dtype=float)
    return _share(found_B, counts_MB.sum(axis=0, dtype=float))


def balanced_accuracy(
    scores_MK: Floats, labels_M: NDArray[np.int64], counts_MB: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Mean recall over classes, (B,); absent classes do not count."""
    correct_M1 = (scores_MK.argmax(axis=1) == labels_M)[:, None]
    found_KB = grouped_sum(counts_MB * correct_M1, labels_M)
    shares_KB = _share(found_KB, grouped_sum(counts_MB, labels_M))
    return np.asarray(np.nanmean(shares_KB, axis=0), np.float64)


def mean_average_precision(
    scores_MK: Floats, labels_M: NDArray[np.int64], counts_MB: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Mean over classes of the average precision of each against the rest, (B,).

    Classes that a resample lacks do not count in it.
    """
    classes = np.unique(labels_M)
    per_class = [average_precision(scores_MK[:, k], labels_M == k, counts_MB) for k in classes]
    return np.asarray(np.nanmean(per_class, axis=0), np.float64)


def average_precision(
    scores_M: Floats, positive_M: NDArray[np.bool_], counts_MB: NDArray[np.float32]
) -> NDArray[np.float64]:
    """sum_n (R_n - R_{n-1}) P_n over the distinct thresholds n, (B,); nan without positives.

    Each positive adds the precision at the end of its group of equal scores.
    """
    order = np.argsort(-scores_M, kind="stable")
    counts_MB, positive_M, scores_M = counts_MB[order], positive_M[order], scores_M[order]
    weights_PB = counts_MB[positive_M]
    last_P = np.searchsorted(-scores_M, -scores_M[positive_M], side="right") - 1
    seen_PB = np.cumsum(counts_MB, axis=0)[last_P]
    hits_PB = np.cumsum(weights_PB, axis=0)[np.cumsum(positive_M)[last_P] - 1]
    found_B = (weights_PB * hits_PB / np.maximum(seen_PB, 1)).sum(axis=0, dtype=float)
    return _share(found_B, weights_PB.sum(axis=0, dtype=float))


def normalised_mutual_information(
    cluster_M: NDArray[np.int64], labels_M: NDArray[np.int64], counts_MB: NDArray[np.float32]
) -> NDArray[np.float64]:
    """I(cluster; label) over the arithmetic mean of their entropies, (B,)."""
    shared_JB, cluster_J, label_J = _shared_counts(cluster_M, labels_M, counts_MB)
    joint_JB = shared_JB / counts_MB.sum(axis=0, dtype=float)
    h_cluster, h_label = (_entropy(grouped_sum(joint_JB, part)) for part in (cluster_J, label_J))
    mean = (h_cluster + h_label) / 2
    information = np.maximum(h_cluster + h_label - _entropy(joint_JB), 0)
    return np.where(mean > 1e-12, information / np.maximum(mean, 1e-12), 0.0)


def adjusted_rand_index(
    cluster_M: NDArray[np.int64], labels_M: NDArray[np.int64], counts_MB: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Agreement on pairs of images, 0 for chance and 1 for identity (Hubert, Arabie 1985)."""
    shared_JB, cluster_J, label_J = _shared_counts(cluster_M, labels_M, counts_MB)
    both_B, cluster_B, label_B = (
        _pairs(sums).sum(axis=0)
        for sums in (shared_JB, grouped_sum(shared_JB, cluster_J), grouped_sum(shared_JB, label_J))
    )
    chance_B = cluster_B * label_B / np.maximum(_pairs(counts_MB.sum(axis=0, dtype=float)), 1)
    most_B = (cluster_B + label_B) / 2
    same_B = most_B <= chance_B  # all together in both, or all separate
    return np.where(same_B, 1.0, (both_B - chance_B) / np.where(same_B, 1, most_B - chance_B))


def matched_accuracy(
    cluster_M: NDArray[np.int64], labels_M: NDArray[np.int64], counts_MB: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Share of images whose cluster is matched to their class, rematched per resample, (B,).

    Each cluster is matched to one class at best (Kuhn 1955); unmatched clusters count as wrong.
    """
    from scipy.optimize import linear_sum_assignment

    shared_JB, cluster_J, label_J = _shared_counts(cluster_M, labels_M, counts_MB)
    table_kK = np.zeros((int(cluster_M.max()) + 1, int(labels_M.max()) + 1))
    matched_B = np.empty(counts_MB.shape[1])
    for b, shared_J in enumerate(shared_JB.T):
        table_kK[cluster_J, label_J] = shared_J
        matched_B[b] = table_kK[linear_sum_assignment(table_kK, maximize=True)].sum()
    return _share(matched_B, counts_MB.sum(axis=0, dtype=float))


def mean_absolute_error(
    predicted_M: Floats, targets_M: NDArray[np.float64], counts_MB: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Mean of |prediction - target|, (B,)."""
    error_M = np.abs(predicted_M - targets_M)
    return _share(error_M @ counts_MB, counts_MB.sum(axis=0, dtype=float))


def r_squared(
    predicted_M: Floats, targets_M: NDArray[np.float64], counts_MB: NDArray[np.float32]
) -> NDArray[np.float64]:
    """R2 = 1 - sum (y - prediction)^2 / sum (y - mean y)^2, (B,); nan if all y are equal."""
    y_M = targets_M - targets_M.mean()
    square_B, sum_B = y_M**2 @ counts_MB, y_M @ counts_MB
    spread_B = square_B - sum_B**2 / counts_MB.sum(axis=0, dtype=float)
    spread_B = np.where(
        spread_B > 1e-12 * square_B, spread_B, 0
    )  # smaller values are rounding errors
    return 1 - _share((predicted_M - targets_M) ** 2 @ counts_MB, spread_B)


def resampled_counts(images: int, resamples: int, seed: int) -> NDArray[np.float32]:
    """How often each image occurs in each bootstrap resample, (M, B)."""
    key = Key(seed, "evaluation/bootstrap")
    counts_MB = np.empty((images, resamples), np.float32)
    for b in range(resamples):
        drawn = (uniform(key, np.array([b]), images)[0] * images).astype(np.int64)
        counts_MB[:, b] = np.bincount(drawn, minlength=images)
    return counts_MB


def affordable_resamples(images: int, classes: int) -> int:
    """1,000, or fewer (at least 100) if that many would take minutes or gigabytes."""
    affordable = min(2e8 / (images * classes), 2.5e7 / images)
    return int(np.clip(affordable, 100, RESAMPLES))


def interval(values_B: NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % percentile interval; resamples without the figure do not count."""
    low, high = np.nanpercentile(values_B, [2.5, 97.5])
    return float(low), float(high)


def share_interval(hits: int, images: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927); its width is never 0."""
    if not images:
        return 0.0, 1.0
    share, z2 = hits / images, _Z95**2 / images
    middle, half = share + z2 / 2, (z2 * (share * (1 - share) + z2 / 4)) ** 0.5
    return max(0.0, (middle - half) / (1 + z2)), min(1.0, (middle + half) / (1 + z2))


def grouped_sum(values_MB: Floats, group_M: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums of the rows of each non-empty group, in ascending order of groups."""
    order = np.argsort(group_M, kind="stable")
    starts = np.flatnonzero(np.diff(group_M[order], prepend=-1))
    sums: NDArray[np.float64] = np.add.reduceat(values_MB[order], starts, axis=0).astype(float)
    return sums


def _shared_counts(
    cluster_M: NDArray[np.int64], labels_M: NDArray[np.int64], counts_MB: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Number of images shared by a cluster and a class, (J, B), with each cluster and class."""
    classes = int(labels_M.max()) + 1
    cells_J, cell_M = np.unique(cluster_M * classes + labels_M, return_inverse=True)
    return grouped_sum(counts_MB, cell_M), cells_J // classes, cells_J % classes


def _pairs(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Number of pairs of this many."""
    return counts * (counts - 1) / 2


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """part / whole; nan where whole is 0."""
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)


def _entropy(shares_KB: NDArray[np.float64]) -> NDArray[np.float64]:
    """-sum p log p of each column, in nats."""
    logs = np.log(shares_KB, out=np.zeros_like(shares_KB), where=shares_KB > 0)
    entropy: NDArray[np.float64] = -(shares_KB * logs).sum(axis=0)
    return entropy
