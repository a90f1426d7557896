"""The agreement of two labellings of the same images, and the spread of one labelling.

Only the partitions count, not the names of the clusters. If both sides have a single cluster, the
partitions are the same and NMI is 1; if only one side has, NMI is 0. Both hold for either mean.
Labels that are not whole numbers, or of different lengths, raise UserError.

Shapes:  N images; k clusters; c classes. Labels are whole numbers: tensors, arrays or lists.
"""

import warnings
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from selftaught.errors import UserError


def nmi(a_N: Any, b_N: Any, mean: Literal["geometric", "arithmetic"] = "geometric") -> float:
    """Normalised mutual information I(A; B) / mean(H(A), H(B)), 0 to 1.

    Args:
        a_N: Labels.
        b_N: Labels of the same images.
        mean: "geometric", sqrt(H(A) H(B)), is Caron et al.'s (ECCV 2018, section 4.1);
            "arithmetic" is scikit-learn's default since 0.22. The latter is never larger.
    """
    from sklearn.metrics import normalized_mutual_info_score

    a_N, b_N = _pair(a_N, b_N)
    with warnings.catch_warnings():  # sklearn warns if there are nearly as many clusters as images
        warnings.simplefilter("ignore", UserWarning)
        value = float(normalized_mutual_info_score(a_N, b_N, average_method=mean))
    return min(1.0, value)  # rounding may exceed it


def ari(a_N: Any, b_N: Any) -> float:
    """Adjusted Rand index (Hubert, Arabie 1985): 1 for equal partitions, 0 expected by chance."""
    from sklearn.metrics import adjusted_rand_score

    a_N, b_N = _pair(a_N, b_N)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return float(adjusted_rand_score(a_N, b_N))


def best_match_accuracy(clusters_N: Any, classes_N: Any) -> float:
    """Share of images in the class that is matched to their cluster.

    The best one-to-one matching (Kuhn 1955, the "Hungarian" method). k and c may differ: images of
    clusters or classes without a partner count as wrong.
    """
    from scipy.optimize import linear_sum_assignment

    table_kc = _contingency(clusters_N, classes_N)
    matched = linear_sum_assignment(table_kc, maximize=True)
    return float(table_kc[matched].sum() / table_kc.sum())


def purity(clusters_N: Any, classes_N: Any) -> float:
    """Share of images in the most frequent class of their cluster; grows with k to 1."""
    table_kc = _contingency(clusters_N, classes_N)
    return float(table_kc.max(1).sum() / table_kc.sum())


def entropy(labels_N: Any, k: int) -> float:
    """Entropy of the cluster sizes over ln k: 1 if all are equally large, 0 if one has all images.

    0 for a single cluster (k = 1).
    """
    share_k = sizes(labels_N, k) / len(labels_N)
    share_k = share_k[share_k > 0]
    return float(-(share_k * np.log(share_k)).sum() / np.log(k)) if k > 1 else 0.0


def sizes(labels_N: Any, k: int) -> NDArray[np.int64]:
    """Number of images in each of the clusters 0 .. k-1, (k,)."""
    counts = np.bincount(_labels(labels_N), minlength=k)
    assert len(counts) == k
    return counts.astype(np.int64)


def _contingency(a_N: Any, b_N: Any) -> NDArray[np.int64]:
    """Number of images that each cluster shares with each class, (k, c), without empty ones."""
    from sklearn.metrics.cluster import contingency_matrix

    return np.asarray(contingency_matrix(*_pair(a_N, b_N)), np.int64)


def _pair(a_N: Any, b_N: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    a_N, b_N = _labels(a_N), _labels(b_N)
    if len(a_N) != len(b_N):
        raise UserError(f"there are {len(a_N)} labels and {len(b_N)}", "pass two for each image")
    return a_N, b_N


def _labels(labels_N: Any) -> NDArray[np.int64]:
    array_N = np.asarray(labels_N)
    if array_N.ndim != 1 or not len(array_N) or array_N.dtype.kind not in "iu":
        what = f"the labels have shape {array_N.shape} and type {array_N.dtype}"
        raise UserError(what, "pass one whole number per image")
    return array_N.astype(np.int64)
