"""k-means: the clusters of DeepCluster's clustering problem (Caron et al., ECCV 2018, Eq. 2).

    min_C  1/N sum_n min_y |f(x_n) - C y|^2,    y one of the K unit vectors

Lloyd's algorithm alternates labels y_n and centroids C, until labels stay or iterations end.

Shapes:  N vectors on all processes, n on this one, R in a block; D their size; K centroids, E of
         them empty, M drawn to be split, F of these chosen; B candidates. P > D: behind a vector
         stands 1 (nearest.py), so that sums_KP[:, D] are the sizes of the clusters.
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
from selftaught.foundation.distributed import agree, all_gather, rank, world
from selftaught.foundation.rng import Key, permutation, uniform

_CANDIDATES = 1024  # that k-means++ draws at once


@dataclass(frozen=True)
class Clustering:
    """What k-means found; tensors lie on the device that it worked on.

    Attributes:
        centroids_KD: C, float32, or float64 where the vectors were.
        labels_N: The nearest of these centroids of each vector, int64; ties go to the lower.
        objective: 1/N sum_n |x_n - C y_n|^2.
        repairs: How many empty clusters were filled on the way.
    """

    centroids_KD: Tensor
    labels_N: Tensor
    objective: float
    repairs: int

    @property
    def sizes(self) -> Tensor:
        """Vectors in each cluster, (K,) int64; 0 where a cluster is not in use."""
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

    An empty cluster is filled as the paper says: a random non-empty cluster's centroid is copied
    with a small perturbation, and its points are shared out between the two. Where too few vectors
    differ, clusters stay empty, and `sizes` says so.

    Over several processes every one calls with the same arguments, works on its stretch of the
    rows, and gets the whole answer, that of one process.

    Args:
        x_ND: A tensor, an array or a memory map, of any float type, or of whole numbers. Up to
            2 GiB are kept on the device as float32 (or float64); of more, a block at a time.
        k: How many clusters, at most N.
        seed: Keys all random choices.
        iterations: Of labels and centroids, at most; 0 finds the labels of a given start.
        start: k random vectors, or k-means++ (Arthur and Vassilvitskii 2007), or centroids (K, D).
        restarts: Runs from different starts, of which the one with the least objective is returned.
        spherical: Vectors and centroids have length 1: clusters of directions.
        device: Where the work is done; it must know float64.

    Raises:
        UserError: There are fewer vectors than clusters, values are not finite, or arguments do not
            fit together.
    """
    _check(x_ND, k, iterations, start, restarts)
    device = torch.device(device)
    with _full_precision(device):
        vectors = VectorBlocks(x_ND, device, spherical)
        runs = (_run(vectors, k, seed, iterations, start, again) for again in range(restarts))
        return min(runs, key=lambda run: run.objective)


@contextlib.contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Float32 products in float32, whatever training has chosen."""
    chosen = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(chosen)


def _check(x_ND: Any, k: int, iterations: int, start: Any, restarts: int) -> None:
    if x_ND.ndim != 2 or 0 in x_ND.shape:
        raise UserError(f"vectors of shape {tuple(x_ND.shape)}", "give one row a vector, (N, D)")
    if not 1 <= k <= len(x_ND):
        raise UserError(f"{len(x_ND)} vectors in {k} clusters", f"choose 1 to {len(x_ND)} clusters")
    if iterations < 0 or restarts < 1:
        raise UserError(f"{iterations} iterations, {restarts} restarts", "give at least 0 and 1")
    if isinstance(start, str):
        if start not in _STARTS:
            raise UserError(f"start {start!r}", f"choose {' or '.join(_STARTS)}, or give centroids")
    elif tuple(start.shape) != (k, x_ND.shape[1]):
        expected = f"give ({k}, {x_ND.shape[1]})"
        raise UserError(f"a start of shape {tuple(start.shape)}", expected)
    elif restarts > 1:
        raise UserError(f"{restarts} restarts from one start", "give 1, or no start")


def _run(
    vectors: VectorBlocks, k: int, seed: int, iterations: int, start: Any, again: int
) -> Clustering:
    """From one start to the end."""
    if isinstance(start, str):
        c_KD = vectors.exact(_STARTS[start](vectors, k, Key(seed, "kmeans/start", again)))
    else:
        c_KD = torch.as_tensor(start, device=vectors.device).double() - vectors.origin_D
    if vectors.spherical:
        unit_KD = unit_rows(c_KD + vectors.origin_D)
        unit_KD[~unit_KD.any(1), 0] = 1  # zeros have no direction: any will do
        c_KD = unit_KD - vectors.origin_D
    if not c_KD.isfinite().all():
        raise UserError("the start is not finite", "give other centroids")
    c_KD, repairs = _lloyd(vectors, c_KD, iterations, Key(seed, "kmeans/repair", again))
    return _answer(vectors, (c_KD + vectors.origin_D).to(vectors.dtype), repairs)


def _lloyd(vectors: VectorBlocks, c_KD: Tensor, iterations: int, key: Key) -> tuple[Tensor, int]:
    """Labels and centroids in turns; the centroids, and how many of them were repaired."""
    K, repairs = len(c_KD), 0
    labels_n = torch.full((vectors.n,), K, device=vectors.device)  # at first in a cluster too many
    own_KP = c_KD.new_zeros(K + 1, vectors.P)  # whose sums nobody needs
    for iteration in range(iterations):
        if not agree(_assign(vectors, c_KD, labels_n, own_KP)):
            break
        sums_KP = own_KP[:K].clone()
        sum_([sums_KP])
        keys = (
            Key(key.seed, f"{key.purpose}/{i}", key.epoch, iteration) for i in itertools.count()
        )
        repairs += _repair(vectors, labels_n, sums_KP, keys)
        c_KD = _means(vectors, sums_KP, c_KD)
    return c_KD, repairs


def _assign(vectors: VectorBlocks, c_KD: Tensor, labels_n: Tensor, own_KP: Tensor) -> bool:
    """Bring labels and this process's sums of each cluster up to date; whether any vector moved."""
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


def _means(vectors: VectorBlocks, sums_KP: Tensor, c_KD: Tensor) -> Tensor:
    """New centroids; that of an empty cluster stays, and one without a direction where it needs."""
    sizes_K1 = sums_KP[:, vectors.D, None].round()
    mean_KD, known_K1 = sums_KP[:, : vectors.D] / sizes_K1.clamp(min=1), sizes_K1 > 0
    if vectors.spherical:
        unit_KD = unit_rows(mean_KD + vectors.origin_D)
        mean_KD, known_K1 = unit_KD - vectors.origin_D, known_K1 & unit_KD.any(1, keepdim=True)
    return torch.where(known_K1, mean_KD, c_KD)


def _answer(vectors: VectorBlocks, centroids_KD: Tensor, repairs: int) -> Clustering:
    """Labels and objective of the centroids as they are returned, from the vectors as they came."""
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
    """Fill empty clusters with a share of others' vectors: the sums change; how many were filled.

    Clusters to be split are drawn with probability in proportion to their size less 1. One that has
    nothing to share, for all its vectors are equal, is not drawn again, and with each attempt more
    are drawn at once.
    """
    size_K, labels_n = sums_KP[:, vectors.D].round().cpu().numpy(), labels_n.clone()
    empty_E = np.flatnonzero(size_K == 0)
    splittable_K, wanted, repaired = size_K > 1, len(empty_E), 0
    while len(empty_E) and splittable_K.any():
        key = next(keys)
        split_M = _drawn(np.where(splittable_K, size_K - 1, 0), wanted, key)
        upper_MP, half_n = _shared_out(vectors, labels_n, sums_KP, split_M, key)
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


def _drawn(weight_K: NDArray[np.float64], most: int, key: Key) -> NDArray[np.int64]:
    """At most so many distinct clusters, one after the other in proportion to their weights.

    The order is that of exponential times with these rates (Efraimidis and Spirakis 2006).
    """
    cluster_M = np.flatnonzero(weight_K)
    time_M = -np.log1p(-uniform(key, cluster_M, 1)[:, 0]) / weight_K[cluster_M]
    return cluster_M[np.argsort(time_M, kind="stable")[:most]]


def _shared_out(
    vectors: VectorBlocks, labels_n: Tensor, sums_KP: Tensor, split_M: NDArray[np.int64], key: Key
) -> tuple[Tensor, Tensor]:
    """Share out clusters between two copies of their centroids, c + e and c - e.

    e is a random direction; however small it is, x is nearer to c + e where (x - c) . e > 0.

    Returns:
        The sums of what is nearer to c + e, (M, P), and which of the M clusters' c + e each of this
        process's vectors is nearer to, (n,), or -1.
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
    to_M = labels_n.new_full((M + 1,), -1)  # the last is what -1 looks up
    to_M[chosen_F] = torch.from_numpy(to_F).to(labels_n.device)
    new_n = to_M[half_n]
    labels_n.copy_(torch.where(new_n >= 0, new_n, labels_n))


# --- starts


def _random(vectors: VectorBlocks, k: int, key: Key) -> NDArray[np.int64]:
    """k rows of the N."""
    return permutation(key, vectors.N)[:k]


def _plus_plus(vectors: VectorBlocks, k: int, key: Key) -> NDArray[np.int64]:
    """k rows, each drawn in proportion to its squared distance from the nearest of those before.

    Many candidates are drawn at once, by the distances before any of them, and each is accepted
    with the ratio of its distance by now: the same distribution, in few passes over the vectors.
    """
    chosen = [int(uniform(key, np.array([0]), 1)[0, 0] * vectors.N)]
    far_n = torch.full((vectors.n,), torch.inf, dtype=torch.float64, device=vectors.device)
    _come_nearer(far_n, vectors, chosen)
    drawn = 1
    while len(chosen) < k:
        B = min(len(chosen), 2 * (k - len(chosen)), _CANDIDATES)
        numbers_B2 = uniform(key, np.arange(drawn, drawn := drawn + B), 2)
        row_B, far_B = _candidates(far_n, vectors, numbers_B2[:, 0])
        if not far_B[0]:  # all vectors coincide with chosen ones
            return np.append(chosen, np.setdiff1d(np.arange(vectors.N), chosen))[:k]
        accepted = _accepted(vectors.exact(row_B).cpu(), far_B, numbers_B2[:, 1])
        chosen += row_B[accepted][: k - len(chosen)].tolist()
        _come_nearer(far_n, vectors, row_B[accepted])
    return np.array(chosen)


def _candidates(
    far_n: Tensor, vectors: VectorBlocks, u_B: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows of the N where u_B (0 to 1) of the sum of all distances is reached, and their distance.

    Where all distances are 0, so is that of each candidate.
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


def _accepted(
    x_BD: Tensor, far_B: NDArray[np.float64], u_B: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Which candidates are taken, in order, when u_B (0 to 1) decides."""
    between_BB, now_B, accepted = _squared_distances(x_BD, x_BD).numpy(), far_B.copy(), []
    for b in range(len(far_B)):
        if u_B[b] * far_B[b] < now_B[b]:
            accepted.append(b)
            np.minimum(now_B, between_BB[b], out=now_B)
    return np.array(accepted)


def _come_nearer(far_n: Tensor, vectors: VectorBlocks, rows: Any) -> None:
    """Squared distances of this process's vectors from the nearest chosen row, with more rows."""
    c_KD = vectors.exact(np.asarray(rows))
    for part in vectors.blocks(len(c_KD)):
        x_RD = vectors.block(part)[:, : vectors.D].double()
        far_n[part] = torch.minimum(far_n[part], _squared_distances(x_RD, c_KD).amin(1))


def _squared_distances(x_RD: Tensor, c_KD: Tensor) -> Tensor:
    """(R, K) float64; 0 where rounding would be all there is."""
    scale_RK = x_RD.square().sum(1)[:, None] + c_KD.square().sum(1)
    far_RK = torch.addmm(scale_RK, x_RD, c_KD.T, alpha=-2)
    return torch.where(far_RK > 1e-13 * scale_RK, far_RK, 0)


_STARTS = {"random": _random, "k-means++": _plus_plus}
