"""Sampling the images of an epoch by cluster, against trivial parametrisation.

If most images are in a few clusters, a network that ignores its input and always predicts these is
nearly right. Caron et al. (ECCV 2018, section 3.3) sample uniformly over the clusters.

Shapes:  N images; S clusters in use; M = N // S + 1 draws of each.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selftaught.foundation.rng import Key, permutation, uniform


def uniform_over_clusters(labels_N: NDArray[np.int64], key: Key) -> NDArray[np.int64]:
    """N rows, equally many from each cluster in use, in random order.

    M of each cluster, without repetition if it has more than M; shuffled, then the first N.
    """
    N = len(labels_N)
    shuffled_N = permutation(key, N)
    by_cluster_N = shuffled_N[np.argsort(labels_N[shuffled_N], kind="stable")]
    sizes_S1 = np.unique(labels_N, return_counts=True)[1][:, None]
    M = N // len(sizes_S1) + 1
    u_SM = uniform(replace(key, purpose=f"{key.purpose}/again"), np.arange(len(sizes_S1)), M)
    place_SM = np.where(sizes_S1 > M, np.arange(M), (u_SM * sizes_S1).astype(np.int64))
    first_S1 = np.cumsum(sizes_S1)[:, None] - sizes_S1
    drawn = by_cluster_N[(first_S1 + place_SM).reshape(-1)]
    order = permutation(replace(key, purpose=f"{key.purpose}/order"), len(drawn))
    rows_N: NDArray[np.int64] = drawn[order[:N]]
    return rows_N


def released_code_rows(labels_N: NDArray[np.int64], key: Key) -> NDArray[np.int64]:
    """The same rows, read as positions in the order of the clusters, as in the released code.

    So the draw follows the data: each cluster is drawn about as often as it has images, unless the
    images are in the order of their clusters.
    """
    return np.argsort(labels_N, kind="stable")[uniform_over_clusters(labels_N, key)]


def weights(labels_N: Tensor, k: int) -> Tensor:
    """Weight of an image's loss by its cluster, when every image is drawn once, (k,).

    N / (S size): all clusters in use have the same total, and the mean over all images is 1. The
    paper's equivalent of uniform sampling (section 3.3).
    """
    sizes_k = torch.bincount(labels_N, minlength=k)
    return len(labels_N) / (torch.count_nonzero(sizes_k) * sizes_k.clamp_min(1))
