"""k nearest neighbours vote. Wu, Xiong, Yu, Lin, CVPR 2018 (arXiv 1805.01978), section 3.4.

Shapes:  n training vectors, M test vectors, D their size; k neighbours; K classes.
"""

import numpy as np
from numpy.typing import NDArray

from selftaught.pairwise.neighbours import top_k

NEIGHBOURS = 200
TEMPERATURE = 0.07


def knn_vote(
    train_nD: NDArray[np.float32],
    labels_n: NDArray[np.int64],
    test_MD: NDArray[np.float32],
    *,
    classes: int,
    k: int = NEIGHBOURS,
    tau: float = TEMPERATURE,
) -> NDArray[np.float64]:
    """Each neighbour votes for its class with the weight exp(cosine / tau): (M, K), sums of 1.

    Args:
        train_nD: Vectors to search.
        labels_n: Their classes, 0 .. K-1.
        test_MD: Vectors to classify.
        classes: K.
        k: Number of neighbours that vote; all vectors vote if there are fewer.
        tau: Temperature.
    """
    cosine_Mk, index_Mk = top_k(test_MD, train_nD, min(k, len(train_nD)), metric="cosine")
    weight_Mk = np.exp((cosine_Mk.astype(float) - 1) / tau)
    cell_Mk = np.arange(len(test_MD))[:, None] * classes + labels_n[index_Mk]
    scores = np.bincount(cell_Mk.ravel(), weight_Mk.ravel(), minlength=len(test_MD) * classes)
    scores_MK = scores.reshape(len(test_MD), classes)
    normalised: NDArray[np.float64] = scores_MK / scores_MK.sum(axis=1, keepdims=True)
    return normalised


def knn_accuracy(
    vectors_ND: NDArray[np.float32],
    labels_N: NDArray[np.int64],
    train: NDArray[np.int64],
    test: NDArray[np.int64],
) -> float:
    """The share of test rows that the vote classifies correctly: a cheap check during training."""
    classes = int(labels_N.max()) + 1
    scores_MK = knn_vote(vectors_ND[train], labels_N[train], vectors_ND[test], classes=classes)
    return float((scores_MK.argmax(axis=1) == labels_N[test]).mean())
