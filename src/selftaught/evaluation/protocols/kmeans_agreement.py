"""Do clusters agree with classes? k-means on unit vectors, one cluster per class.

The figures are NMI, the adjusted Rand index, and the accuracy of clusters matched to classes.

Clustering uses no labels, so all labelled images take part, and few labels change nothing.

Shapes:  N vectors, D their size.
"""

import warnings
from functools import partial

import numpy as np
from numpy.typing import NDArray

from selftaught.evaluation.metrics import (
    adjusted_rand_index,
    matched_accuracy,
    normalised_mutual_information,
)
from selftaught.evaluation.representation import Representation
from selftaught.evaluation.trial import ProtocolAnswer, Trial

_STARTS = 10
_FIGURES = {
    "NMI": normalised_mutual_information,
    "ARI": adjusted_rand_index,
    "accuracy": matched_accuracy,
}


def clusters(subject: Representation, trial: Trial) -> ProtocolAnswer:
    """The best of ten runs of k-means, k the number of classes."""
    rows = np.sort(np.concatenate([trial.train, trial.test]))
    cluster_N = kmeans_clusters(subject.vectors(trial.images)[rows], trial.classes, seed=trial.seed)
    figures = {name: partial(figure, cluster_N) for name, figure in _FIGURES.items()}
    note = f"k-means with k = {trial.classes} on unit vectors, the best of {_STARTS} starts"
    return ProtocolAnswer(rows, figures, note, split="all labelled images")


def kmeans_clusters(vectors_ND: NDArray[np.float32], k: int, *, seed: int) -> NDArray[np.int64]:
    """The cluster of each vector, by its direction: (N,) in 0 .. k-1."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.preprocessing import normalize

    means = KMeans(min(k, len(vectors_ND)), n_init=_STARTS, random_state=seed)
    with warnings.catch_warnings():  # fewer distinct vectors than clusters is fine
        warnings.simplefilter("ignore", ConvergenceWarning)
        return np.asarray(means.fit_predict(normalize(vectors_ND)), np.int64)
