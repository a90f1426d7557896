"""Power iteration clustering on a nearest-neighbour graph, which determines how many clusters.

The variant tested with DeepCluster (Caron et al., ECCV 2018, appendix, "graph clustering"; after
Lin and Cohen, ICML 2010, and Douze et al. 2017):

    w_ij = exp(-|x_i - x_j|^2 / sigma^2) where j is among the nearest neighbours of i, else 0 (G)
    v <- (1/N, .., 1/N), then repeatedly  v <- N1(alpha (G + G^T) v + (1 - alpha) v)
    i points to argmax_j w_ij (v_j - v_i), unless it is a local maximum: no v_j > v_i

N1(v) = v / |v|_1. Clusters are the connected components of the pointers, with one local maximum
each. They are many, of a dozen to a few dozen vectors; a larger sigma makes fewer.

Details that the paper leaves open, or that differ from it:

* The pointers follow the edges of G + G^T, on which v diffuses; the paper writes G for both.
* There are 200 iterations. In the limit v would be the leading eigenvector, which is 0 outside one
  component of the graph and useless there: the method relies on early stopping.
* Neighbours of equal height would each be a maximum. They all point to the lowest row among them,
  so that copies of an image stay together.
* Clusters of one image are kept, not merged into others.

Shapes:  N vectors, D their size; L = D + 1; k neighbours; K clusters; E edges, A of them
         allowed.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selftaught.clustering.means import blocks, mean, mean_squared_distance, means
from selftaught.errors import UserError
from selftaught.pairwise.neighbours import top_k

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_BLOCK = 2**20  # numbers gathered at once


@dataclass(frozen=True)
class GraphClusters:
    """The result of power iteration clustering, the largest cluster first.

    Attributes:
        centroids_KD: Means of the members, float32, or float64 if the vectors were. A vector need
            not be nearest to its own centroid: clusters follow the graph.
        labels_N: The cluster of each vector, int64; among equally large clusters the one with the
            earliest row comes first.
        peaks_K: The row of each cluster's local maximum, int64: its densest point.
        objective: 1/N sum_n |x_n - C y_n|^2, as for k-means.
    """

    centroids_KD: Tensor
    labels_N: Tensor
    peaks_K: Tensor
    objective: float

    @property
    def sizes(self) -> Tensor:
        """Number of vectors in each cluster, (K,) int64, descending."""
        return torch.bincount(self.labels_N, minlength=len(self.centroids_KD))


@torch.no_grad()
def power_iteration(
    x_ND: Tensor | NDArray[Any],
    *,
    neighbours: int = 5,
    sigma: float = 0.2,
    alpha: float = 1e-3,
    iterations: int = 200,
) -> GraphClusters:
    """Cluster vectors by the local maxima of a diffusion on their nearest neighbours.

    Nothing is random. N^2 products find the neighbours, with two float32 copies of the vectors and
    128 MiB of scores at a time; everything else is sparse or done in blocks.

    Args:
        x_ND: Finite vectors, of any float type or whole numbers: DeepCluster's are whitened and of
            length 1 (`Whitening`), and the default of sigma is meant for those.
        neighbours: Edges from each vector, at most N - 1 (the paper: 5).
        sigma: Bandwidth, in the units of the distances (the paper: 0.2).
        alpha: Share of the graph in each iteration (the paper: 0.001).
        iterations: Number of iterations; with 0 all heights are equal and clusters are chains of
            rows.

    Raises:
        UserError: The shape is wrong, values are not finite, arguments are out of range, or sigma
            is too small compared with the distances, so that no edge is left.
    """
    x_ND = torch.as_tensor(x_ND).detach().cpu()
    _check(x_ND, neighbours, sigma, alpha, iterations)
    if len(x_ND) == 1:
        return _graph_clusters(x_ND, np.zeros(1, np.int64))
    W = graph(x_ND, min(neighbours, len(x_ND) - 1), sigma)
    return _graph_clusters(x_ND, pointers(W, heights(W, alpha, iterations)))


def _check(x_ND: Tensor, neighbours: int, sigma: float, alpha: float, iterations: int) -> None:
    if x_ND.ndim != 2 or 0 in x_ND.shape:
        raise UserError(f"vectors have shape {tuple(x_ND.shape)}", "pass one row per vector (N, D)")
    if not x_ND.isfinite().all():
        raise UserError("some vectors are not finite", "remove those rows")
    if neighbours < 1 or iterations < 0:
        what = f"{neighbours} neighbours and {iterations} iterations are too few"
        raise UserError(what, "use at least 1 and 0")
    if not (sigma > 0 and 0 < alpha < 1):
        raise UserError(
            f"sigma {sigma} or alpha {alpha} is out of range",
            "use a sigma above 0 and an alpha between 0 and 1",
        )


def graph(x_ND: Tensor, neighbours: int, sigma: float) -> "csr_array":
    """G + G^T, (N, N), float64: exp(-d^2 / sigma^2) between nearest neighbours, without loops.

    Raises:
        UserError: All weights are 0 in float64.
    """
    from scipy.sparse import csr_array

    rows_Nk = _nearest(x_ND, neighbours)
    i_E = np.repeat(np.arange(len(x_ND)), neighbours)
    weights_E = np.exp(-_squared_distances(x_ND, i_E, rows_Nk.ravel()) / sigma**2)
    if not weights_E.any():
        what = f"all vectors are too far apart for sigma {sigma:g}, so the graph has no edges"
        raise UserError(what, "use k-means, or a larger sigma from Python")
    G = csr_array((weights_E, (i_E, rows_Nk.ravel())), shape=(len(x_ND), len(x_ND)))
    W: csr_array = (G + G.T).tocsr()
    W.eliminate_zeros()
    return W


def _nearest(x_ND: Tensor, k: int) -> NDArray[np.int64]:
    """The k other rows nearest to each row, those with the largest x.y - |y|^2 / 2."""
    N, D = x_ND.shape
    query_NL, mean_D = torch.ones(N, D + 1), mean(x_ND)  # centred for more precise products
    for part in blocks(x_ND):
        query_NL[part, :D] = (x_ND[part].double() - mean_D).float()
    base_NL = query_NL.clone()
    for part in blocks(x_ND):
        base_NL[part, D] = -(query_NL[part, :D].double().square().sum(1).float() / 2)
    return top_k(query_NL, base_NL, k, metric="dot", own=np.arange(N))[1]


def _squared_distances(
    x_ND: Tensor, i_E: NDArray[np.int64], j_E: NDArray[np.int64]
) -> NDArray[np.float64]:
    found_E, step = np.empty(len(i_E)), max(1, _BLOCK // x_ND.shape[1])
    for start in range(0, len(i_E), step):
        part = slice(start, start + step)
        difference = x_ND[i_E[part]].double() - x_ND[j_E[part]].double()
        found_E[part] = difference.square().sum(1).numpy()
    return found_E


def heights(W: "csr_array", alpha: float, iterations: int) -> NDArray[np.float64]:
    """v minus a constant common to all, (N,): only differences of v matter.

    v is stored as c + u. Whitened vectors are far apart, and a vector with edges of 1e-17 is higher
    than one with edges of 1e-18 by less than the rounding error of 1/N: only u resolves that.
    """
    N = W.shape[0]
    c, u_N, degree_N = 1 / N, np.zeros(N), W.sum(1)
    for _ in range(iterations):
        u_N = alpha * (c * degree_N + W @ u_N) + (1 - alpha) * u_N
        c = (1 - alpha) * c
        total = N * c + u_N.sum()  # |v|_1: no entry is negative
        c, u_N = c / total, u_N / total
    return u_N


def pointers(W: "csr_array", v_N: NDArray[np.float64]) -> NDArray[np.int64]:
    """The row to which each row points, (N,); a local maximum points to itself."""
    i_E = np.repeat(np.arange(len(v_N)), np.diff(W.indptr))
    j_E = W.indices.astype(np.int64)
    rise_E = v_N[j_E] - v_N[i_E]
    higher_E, level_E = rise_E > 0, (rise_E == 0) & (j_E < i_E)
    to_N = _best_edges(i_E, j_E, np.zeros_like(rise_E), level_E, np.arange(len(v_N)))
    return _best_edges(i_E, j_E, W.data * rise_E, higher_E, to_N)


def _best_edges(
    i_E: NDArray[np.int64],
    j_E: NDArray[np.int64],
    value_E: NDArray[np.float64],
    allowed_E: NDArray[np.bool_],
    otherwise_N: NDArray[np.int64],
) -> NDArray[np.int64]:
    """The j of each row's allowed edge with the largest value, ties to the lower j."""
    i_A, j_A, value_A = i_E[allowed_E], j_E[allowed_E], value_E[allowed_E]
    order_A = np.lexsort((j_A, -value_A, i_A))
    row, first = np.unique(i_A[order_A], return_index=True)
    to_N = otherwise_N.copy()
    to_N[row] = j_A[order_A[first]]
    return to_N


def _graph_clusters(x_ND: Tensor, to_N: NDArray[np.int64]) -> GraphClusters:
    """The result: connected components of the pointers, numbered by size."""
    labels_N = torch.from_numpy(_largest_first(_components(to_N)))
    centroids_KD = means(x_ND, labels_N)
    peaks_N = torch.from_numpy(np.flatnonzero(to_N == np.arange(len(to_N))))
    peaks_K = torch.empty(len(centroids_KD), dtype=torch.int64)
    peaks_K[labels_N[peaks_N]] = peaks_N
    objective = mean_squared_distance(x_ND, labels_N, centroids_KD)
    return GraphClusters(centroids_KD.to(_dtype(x_ND)), labels_N, peaks_K, objective)


def _components(to_N: NDArray[np.int64]) -> NDArray[np.int64]:
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    N = len(to_N)
    pointed = csr_array((np.ones(N, bool), (np.arange(N), to_N)), shape=(N, N))
    return np.asarray(connected_components(pointed, directed=False)[1], np.int64)


def _largest_first(labels_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same partition, numbered by descending size; ties in the order of their first rows."""
    _, first_K, size_K = np.unique(labels_N, return_index=True, return_counts=True)
    rank_K = np.empty(len(size_K), np.int64)
    rank_K[np.lexsort((first_K, -size_K))] = np.arange(len(size_K))
    return rank_K[labels_N]


def _dtype(x_ND: Tensor) -> torch.dtype:
    return torch.float64 if x_ND.dtype == torch.float64 else torch.float32
