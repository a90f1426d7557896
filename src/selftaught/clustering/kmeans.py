"""k-means: the clusters of DeepCluster's clustering problem (Caron et al., ECCV 2018, Eq. 2).

    min_C  1/N sum_n min_y |f(x_n) - C y|^2,    y one of the K unit vectors

Lloyd's algorithm alternates labels y_n and centroids C until labels stay or iterations end.

Shapes:  N vectors on all processes, n on this one, R in a block; D their size; K centroids, E of
         them empty, M drawn for splitting, F of these chosen; B candidates. P > D: a 1 follows each
         vector (nearest_centroid.py), so that sums_KP[:, D] are the sizes of the clusters.
"""

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selftaught.clustering.nearest_centroid import Nearest, VectorBlocks, sum_, unit_rows
from selftaught.errors import UserError
from selftaught.foundation.distributed import all_gather, any_process, rank, world
from selftaught.foundation.rng import Key, permutation, uniform

_CANDIDATES = 1024  # drawn at once by k-means++


@dataclass(frozen=True)
class Clustering:
    """The result of k-means, on the device of the computation.

    Attributes:
        centroids_KD: C, float32, or float64 if the vectors were.
        labels_N: The index of each vector's nearest centroid, int64; ties go to the lower.
        objective: 1/N sum_n |x_n - C y_n|^2.
        repairs: Number of empty clusters that were filled.
    """

    centroids_KD: Tensor
    labels_N: Tensor
    objective: float
    repairs: int

    @property
    def sizes(self) -> Tensor:
        """Number of vectors in each cluster, (K,) int64; 0 for clusters not in use."""
        return torch.bincount(self.labels_N, minlength=len(self.centroids_KD))


@torch.no_grad()
def kmeans(
    x_ND: Tensor | NDArray[Any],
    k: int,
    *,
    seed: int,
    iterations: int = 20,
    start: Literal["random", "k-means++"] | Tensor | NDArray[Any] = "random",
    restarts: int = 1,
    spherical: bool = False,
    device: str | torch.device = "cpu",
) -> Clustering:
    """Cluster vectors by Lloyd's algorithm.

    Empty clusters are filled as in the paper: a random non-empty cluster's centroid is copied with
    a small perturbation, and its points are divided between the two. If too few vectors are
    distinct, clusters stay empty (see `sizes`).

    With several processes, each calls this with the same arguments, works on its own range of rows,
    and gets the whole result, the same as with one process.

    Args:
        x_ND: A tensor, an array or a memory map, of any float type, or of whole numbers. Up to
            2 GiB stay on the device as float32 (or float64); larger ones are read block by block.
        k: Number of clusters, at most N.
        seed: Keys all random choices.
        iterations: Maximum number of iterations; 0 finds the labels of a given start.
        start: k random vectors, or k-means++ (Arthur and Vassilvitskii 2007), or centroids (K, D).
        restarts: Number of runs from different starts; the one with the least objective wins.
        spherical: Scale vectors and centroids to length 1: clusters of directions.
        device: Device of the computation; it must support float64.

    Raises:
        UserError: There are fewer vectors than clusters, values are not finite, or arguments do not
            fit together.
    """
    _check(x_ND, k, iterations, start, restarts)
    device = torch.device(device)
    with _full_precision(device):
        vectors = VectorBlocks(x_ND, device, spherical)
        runs = (_run(vectors, k, seed, iterations, start, number) for number in range(restarts))
        return min(runs, key=lambda run: run.objective)


@contextlib.contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """A context with full float32 precision in products, whatever training has set."""
    chosen = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(chosen)


def _check(x_ND: Any, k: int, iterations: int, start: Any, restarts: int) -> None:
    if x_ND.ndim != 2 or 0 in x_ND.shape:
        raise UserError(f"vectors have shape {tuple(x_ND.shape)}", "pass one row per vector (N, D)")
    N, D = x_ND.shape
    if not 1 <= k <= N:
        raise UserError(f"{N} vectors cannot form {k} clusters", f"choose 1 to {N} clusters")
    if iterations < 0 or restarts < 1:
        what = f"{iterations} iterations and {restarts} restarts are too few"
        raise UserError(what, "use at least 0 and 1")
    if isinstance(start, str):
        if start not in _STARTS:
            remedy = f"choose {' or '.join(_STARTS)}, or pass centroids"
            raise UserError(f"start {start!r} is unknown", remedy)
    elif tuple(start.shape) != (k, D):
        raise UserError(f"the start has shape {tuple(start.shape)}", f"pass shape ({k}, {D})")
    elif restarts > 1:
        raise UserError(f"{restarts} restarts from one start are equal", "use 1, or no start")


def _run(
    vectors: VectorBlocks, k: int, seed: int, iterations: int, start: Any, number: int
) -> Clustering:
    """One run, from its start to the end."""
    if isinstance(start, str):
        c_KD = vectors.exact(_STARTS[start](vectors, k, Key(seed, "kmeans/start", number)))
    else:
        c_KD = torch.as_tensor(start, device=vectors.device).double() - vectors.origin_D
    if vectors.spherical:
        unit_KD = unit_rows(c_KD + vectors.origin_D)
        unit_KD[~unit_KD.any(1), 0] = 1  # zeros have no direction: use any
        c_KD = unit_KD - vectors.origin_D
    if not c_KD.isfinite().all():
        raise UserError("the start is not finite", "pass other centroids")
    c_KD, repairs = _lloyd(vectors, c_KD, iterations, Key(seed, "kmeans/repair", number))
    return _final_clustering(vectors, (c_KD + vectors.origin_D).to(vectors.dtype), repairs)


def _lloyd(vectors: VectorBlocks, c_KD: Tensor, iterations: int, key: Key) -> tuple[Tensor, int]:
    """Alternate labels and centroids; returns the centroids and the number of repairs."""
    K, repairs = len(c_KD), 0
    labels_n = torch.full((vectors.n,), K, device=vectors.device)  # at first in an extra cluster
    own_KP = c_KD.new_zeros(K + 1, vectors.P)  # the sums of the extra cluster are not used
    for iteration in range(iterations):
        if not any_process(_assign(vectors, c_KD, labels_n, own_KP)):
            break
        sums_KP = own_KP[:K].clone()
        sum_([sums_KP])
        keys = (
            Key(key.seed, f"{key.purpose}/{i}", key.epoch, iteration) for i in itertools.count()
        )
        repairs += _repair(vectors, labels_n, sums_KP, keys)
        c_KD = _new_centroids(vectors, sums_KP, c_KD)
    return c_KD, repairs


def _assign(vectors: VectorBlocks, c_KD: Tensor, labels_n: Tensor, own_KP: Tensor) -> bool:
    """Update the labels and this process's sums per cluster; returns whether any vector moved."""
    nearest, moved = Nearest(vectors, c_KD), False
    for rows in vectors.blocks(len(c_KD)):
        x_RP, before_R = vectors.block(rows), labels_n[rows]
        label_R = nearest(x_RP)
        moved_U = (label_R != before_R).nonzero()[:, 0]
        if len(moved_U):
            x_UP, moved = x_RP[moved_U].double(), True
            own_KP.index_add_(0, label_R[moved_U], x_UP)
            own_KP.index_add_(0, before_R[moved_U], x_UP, alpha=-1)
            before_R.copy_(label_R)
    return moved


def _new_centroids(vectors: VectorBlocks, sums_KP: Tensor, c_KD: Tensor) -> Tensor:
    """New centroids; empty clusters keep theirs, and spherical ones whose mean has no direction."""
    sizes_K1 = sums_KP[:, vectors.D, None].round()
    mean_KD, known_K1 = sums_KP[:, : vectors.D] / sizes_K1.clamp(min=1), sizes_K1 > 0
    if vectors.spherical:
        unit_KD = unit_rows(mean_KD + vectors.origin_D)
        mean_KD, known_K1 = unit_KD - vectors.origin_D, known_K1 & unit_KD.any(1, keepdim=True)
    return torch.where(known_K1, mean_KD, c_KD)


def _final_clustering(vectors: VectorBlocks, centroids_KD: Tensor, repairs: int) -> Clustering:
    """The result: labels and objective of the final centroids, from the exact vectors."""
    c_KD = centroids_KD.double() - vectors.origin_D
    nearest, total = Nearest(vectors, c_KD), c_KD.new_zeros(1)
    labels_n = torch.zeros(-(-vectors.N // world()), dtype=torch.int64, device=vectors.device)
    for rows in vectors.blocks(len(c_KD)):
        x_RP = vectors.block(rows)
        labels_n[rows] = label_R = nearest(x_RP, first=vectors.own.start + rows.start)
        total += torch.linalg.vector_norm(c_KD[label_R].sub_(x_RP[:, : vectors.D])).square()
    sum_([total])
    labels_N = all_gather(labels_n)[: vectors.N]
    return Clustering(centroids_KD, labels_N, total.item() / vectors.N, repairs)


# --- empty clusters


def _repair(vectors: VectorBlocks, labels_n: Tensor, sums_KP: Tensor, keys: Iterator[Key]) -> int:
    """Fill empty clusters with vectors of others (updates the sums); returns the number filled.

    Clusters to split are drawn with probability proportional to their size minus 1. A cluster that
    cannot be split because all its vectors are equal is not drawn again, and each attempt draws
    more clusters at once.
    """
    size_K, labels_n = sums_KP[:, vectors.D].round().cpu().numpy(), labels_n.clone()
    empty_E = np.flatnonzero(size_K == 0)
    splittable_K, wanted, repaired = size_K > 1, len(empty_E), 0
    while len(empty_E) and splittable_K.any():
        key = next(keys)
        split_M = _weighted_draw(np.where(splittable_K, size_K - 1, 0), wanted, key)
        upper_MP, half_n = _split_clusters(vectors, labels_n, sums_KP, split_M, key)
        moved_M = upper_MP[:, vectors.D].round().cpu().numpy()
        splittable_K[split_M] = shares_M = (moved_M > 0) & (moved_M < size_K[split_M])
        chosen_F = np.flatnonzero(shares_M)[: len(empty_E)]
        from_F, (to_F, empty_E) = split_M[chosen_F], np.split(empty_E, [len(chosen_F)])
        _move(labels_n, half_n, chosen_F, to_F, len(split_M))
        sums_KP[to_F] = upper_MP[chosen_F]
        sums_KP[from_F] -= upper_MP[chosen_F]
        size_K[to_F] = moved_M[chosen_F]
        size_K[from_F] -= moved_M[chosen_F]
        splittable_K[to_F] = True
        splittable_K &= size_K > 1
        repaired, wanted = repaired + len(to_F), 2 * wanted
    return repaired


def _weighted_draw(weight_K: NDArray[np.float64], most: int, key: Key) -> NDArray[np.int64]:
    """Up to `most` distinct clusters, drawn one after the other in proportion to their weights.

    The order is that of exponential times with these rates (Efraimidis and Spirakis 2006).
    """
    cluster_M = np.flatnonzero(weight_K)
    time_M = -np.log1p(-uniform(key, cluster_M, 1)[:, 0]) / weight_K[cluster_M]
    return cluster_M[np.argsort(time_M, kind="stable")[:most]]


def _split_clusters(
    vectors: VectorBlocks, labels_n: Tensor, sums_KP: Tensor, split_M: NDArray[np.int64], key: Key
) -> tuple[Tensor, Tensor]:
    """Divide each cluster between two copies of its centroid, c + e and c - e.

    e is a random direction; however small it is, x is nearer to c + e if (x - c) . e > 0.

    Returns:
        The sums of the vectors nearer to c + e, (M, P), and for each of this process's vectors the
        cluster (of the M) whose c + e it is nearer to, or -1, (n,).
    """
    D, split = vectors.D, torch.from_numpy(split_M).to(labels_n.device)
    e_MD = torch.from_numpy(uniform(key, split_M, 1 + D)[:, 1:] - 0.5).to(labels_n.device)
    c_MD = sums_KP[split, :D] / sums_KP[split, D, None].round()
    slot_K = labels_n.new_full((len(sums_KP),), -1)
    slot_K[split] = torch.arange(len(split), device=slot_K.device)
    slot_n, half_n = slot_K[labels_n], torch.full_like(labels_n, -1)
    upper_MP = sums_KP.new_zeros(len(split), vectors.P)
    for rows in vectors.blocks():
        own = (slot_n[rows] >= 0).nonzero()[:, 0]
        slot, x_RP = slot_n[rows][own], vectors.block(rows)[own].double()
        nearer = ((x_RP[:, :D] - c_MD[slot]) * e_MD[slot]).sum(1) > 0
        half_n[rows.start + own[nearer]] = slot[nearer]
        upper_MP.index_add_(0, slot[nearer], x_RP[nearer])
    sum_([upper_MP])
    return upper_MP, half_n


def _move(
    labels_n: Tensor, half_n: Tensor, chosen_F: NDArray[np.int64], to_F: NDArray[np.int64], M: int
) -> None:
    """Give the halves of the chosen clusters their new labels."""
    to_M = labels_n.new_full((M + 1,), -1)  # index -1 finds the last entry
    to_M[chosen_F] = torch.from_numpy(to_F).to(labels_n.device)
    new_n = to_M[half_n]
    labels_n.copy_(torch.where(new_n >= 0, new_n, labels_n))


# --- starts


def _random_rows(vectors: VectorBlocks, k: int, key: Key) -> NDArray[np.int64]:
    """k random rows of the N."""
    return permutation(key, vectors.N)[:k]


def _plus_plus_rows(vectors: VectorBlocks, k: int, key: Key) -> NDArray[np.int64]:
    """k rows, each drawn in proportion to its squared distance to the nearest row drawn before.

    Many candidates are drawn at once by the current distances, and each is accepted with
    probability updated distance / distance when drawn: the same distribution, in fewer passes.
    """
    chosen = [int(uniform(key, np.array([0]), 1)[0, 0] * vectors.N)]
    far_n = torch.full((vectors.n,), torch.inf, dtype=torch.float64, device=vectors.device)
    _update_distances(far_n, vectors, chosen)
    drawn = 1
    while len(chosen) < k:
        B = min(len(chosen), 2 * (k - len(chosen)), _CANDIDATES)
        numbers_B2 = uniform(key, np.arange(drawn, drawn := drawn + B), 2)
        row_B, far_B = _candidates(far_n, vectors, numbers_B2[:, 0])
        if not far_B[0]:  # all vectors coincide with chosen ones
            return np.append(chosen, np.setdiff1d(np.arange(vectors.N), chosen))[:k]
        accepted = _accepted_candidates(vectors.exact(row_B).cpu(), far_B, numbers_B2[:, 1])
        chosen += row_B[accepted][: k - len(chosen)].tolist()
        _update_distances(far_n, vectors, row_B[accepted])
    return np.array(chosen)


def _candidates(
    far_n: Tensor, vectors: VectorBlocks, u_B: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows of the N at which the share u_B (0 to 1) of the summed distances is reached.

    Also their distances, which are all 0 if every distance is 0.
    """
    upto_n = far_n.cumsum(0)
    own = upto_n[-1:] if vectors.n else far_n.new_zeros(1)
    until_W = all_gather(own).cumsum(0)
    target_B = torch.from_numpy(u_B).to(far_n.device) * until_W[-1]
    process_B = torch.searchsorted(until_W, target_B, right=True)
    mine = (process_B == rank()).nonzero()[:, 0]
    found_B2 = far_n.new_zeros(len(u_B), 2)
    if vectors.n:
        before = until_W[rank() - 1] if rank() else 0.0
        at = torch.searchsorted(upto_n, target_B[mine] - before, right=True).clamp(
            max=vectors.n - 1
        )
        found_B2[mine] = torch.stack([vectors.own.start + at.double(), far_n[at]], 1)
    sum_([found_B2])
    row_B, far_B = found_B2.cpu().numpy().T
    return row_B.round().astype(np.int64), far_B


def _accepted_candidates(
    x_BD: Tensor, far_B: NDArray[np.float64], u_B: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Indices of the accepted candidates, in order; u_B (0 to 1) decides."""
    between_BB, now_B, accepted = _squared_distances(x_BD, x_BD).numpy(), far_B.copy(), []
    for b in range(len(far_B)):
        if u_B[b] * far_B[b] < now_B[b]:
            accepted.append(b)
            np.minimum(now_B, between_BB[b], out=now_B)
    return np.array(accepted)


def _update_distances(far_n: Tensor, vectors: VectorBlocks, rows: Any) -> None:
    """Lower the squared distances of this process's vectors to the nearest chosen row, in place."""
    c_KD = vectors.exact(np.asarray(rows))
    for part in vectors.blocks(len(c_KD)):
        x_RD = vectors.block(part)[:, : vectors.D].double()
        far_n[part] = torch.minimum(far_n[part], _squared_distances(x_RD, c_KD).amin(1))


def _squared_distances(x_RD: Tensor, c_KD: Tensor) -> Tensor:
    """(R, K) float64; 0 where the value would be mere rounding error."""
    scale_RK = x_RD.square().sum(1)[:, None] + c_KD.square().sum(1)
    far_RK = torch.addmm(scale_RK, x_RD, c_KD.T, alpha=-2)
    return torch.where(far_RK > 1e-13 * scale_RK, far_RK, 0)


_STARTS = {"random": _random_rows, "k-means++": _plus_plus_rows}
