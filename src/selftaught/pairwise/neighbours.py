"""Exact nearest neighbours: float32 products propose, float64 decides where they are too close.

The last bits of a float32 product depend on how it was blocked, and would order ties at random. So
scores that are too close are computed again in float64 and rounded to float32; ties go to the lower
row, for any blocks and threads.

Choosing the best of many scores costs as much as computing them, unless each is read only once:
while a block of them is in a cache, the largest of every L is taken, and the m best scores are
among the m groups with the largest ones.

Shapes:  Q queries, of which q in a block; B rows of the base, b in a block; D their size; k
         neighbours; m >= k proposals; G groups of L rows; P pairs of rows, h of groups with pairs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selftaught.errors import UserError

_SCORES = 2**25  # scores held at once: 128 MiB
_BASE = 2048  # rows of the base per block: their scores with some queries fit caches
_L = 64  # rows of a group
_NUMBERS = 2**20  # numbers of vectors gathered at once
_SPARE = 8  # proposals beyond k
_ERROR = 2.0  # x sqrt(D) 2^-24 |q| |b|: twice the largest seen (1.0; for any D from 4 to 8,192)
_DENSE = 2**15  # with more doubtful pairs in a block, all of its scores are computed exactly
_EDGES = 2**22  # pairs collected before they are joined into groups

Metric = Literal["cosine", "dot"]


class PreparedVectors:
    """Vectors as given, and their unit vectors if the metric is cosine.

    Prepare a base once to search it repeatedly.

    Args:
        x_ND: Finite vectors.
        metric: As for `top_k`.
    """

    def __init__(self, x_ND: NDArray[Any] | Tensor, metric: Metric = "cosine") -> None:
        self.metric = metric
        if isinstance(x_ND, np.ndarray) and not x_ND.flags.writeable:
            x_ND = np.array(x_ND)  # torch warns of read-only arrays
        self.x_ND = torch.as_tensor(x_ND).detach().cpu().float().contiguous()
        length_N = torch.linalg.vector_norm(self.x_ND, dim=1, dtype=torch.float64)
        if metric == "cosine":
            self.scale_N = torch.where(length_N > 0, 1 / length_N, 0)
            self.unit_ND = torch.empty_like(self.x_ND)
            for rows in _blocks(len(self.x_ND), max(1, _NUMBERS // max(1, self.x_ND.shape[1]))):
                self.unit_ND[rows] = (self.x_ND[rows] * self.scale_N[rows, None]).float()
        else:
            self.scale_N, self.unit_ND = torch.ones_like(length_N), self.x_ND
        self.length_N = self.scale_N * length_N

    def __len__(self) -> int:
        return len(self.x_ND)

    @property
    def error(self) -> float:
        """Upper bound of the rounding error of a unit vector's product with any of these."""
        longest = self.length_N.max().item() if len(self) else 0.0
        return float(_ERROR * 2.0**-24 * self.x_ND.shape[1] ** 0.5 * longest)


def top_k(
    query_QD: NDArray[Any] | Tensor,
    base_BD: NDArray[Any] | Tensor | PreparedVectors,
    k: int,
    *,
    metric: Metric = "cosine",
    own: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k rows of the base with the highest scores for each query, best first.

    Args:
        query_QD: Finite vectors.
        base_BD: Finite vectors, or `PreparedVectors` for the metric.
        k: At most B, or B - 1 with `own`: the caller clips it.
        metric: "cosine", where a zero vector scores 0 with all others, or "dot".
        own: (Q,) the base row that each query must not find: itself.

    Returns:
        Scores, (Q, k) float32, and rows of the base, (Q, k) int64. Ties go to the lower row.
    """
    base = base_BD if isinstance(base_BD, PreparedVectors) else PreparedVectors(base_BD, metric)
    assert base.metric == metric, f"the base was prepared for {base.metric}"
    query = base if query_QD is base_BD else PreparedVectors(query_QD, metric)
    allowed = len(base) - (own is not None)
    assert 1 <= k <= allowed, f"k = {k} of {allowed} rows"
    own_Q = None if own is None else torch.as_tensor(own, dtype=torch.int64)
    scores_Qk, rows_Qk = torch.empty(len(query), k), torch.empty(len(query), k, dtype=torch.int64)
    q = max(1, min(len(query), _SCORES // len(base)))
    scores_qGL = torch.empty(q, -(-len(base) // _L), _L)
    scores_qGL.view(q, -1)[:, len(base) :] = -torch.inf
    for queries in _blocks(len(query), q):
        own_q = None if own_Q is None else own_Q[queries]
        scores_Qk[queries], rows_Qk[queries] = _block_top_k(
            query, base, k, queries, own_q, scores_qGL
        )
    return scores_Qk.numpy(), rows_Qk.numpy()


def _prepare(x_ND: NDArray[Any] | Tensor | PreparedVectors) -> PreparedVectors:
    return x_ND if isinstance(x_ND, PreparedVectors) else PreparedVectors(x_ND)


def _blocks(number: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, number)) for start in range(0, number, size))


def _block_top_k(
    query: PreparedVectors,
    base: PreparedVectors,
    k: int,
    queries: slice,
    own_q: Tensor | None,
    scores_qGL: Tensor,
) -> tuple[Tensor, Tensor]:
    """The neighbours of some queries; `scores_qGL` is scratch memory."""
    scores_qGL = scores_qGL[: queries.stop - queries.start]
    m = min(k + _SPARE, len(base))
    scores_qm, rows_qm = _proposals(query.unit_ND[queries], base.unit_ND, m, own_q, scores_qGL)
    margin_q = (2 * base.error * query.length_N[queries]).float()
    unsure_q = scores_qm[:, -1] >= scores_qm[:, k - 1] - margin_q
    if m == len(base):
        unsure_q[:] = False  # every row is a proposal
    _rescore(query, base, queries.start, scores_qm, rows_qm, _close_mask(scores_qm, margin_q))
    scores_qk, rows_qk = _best(scores_qm, rows_qm, k)
    step, unsure = max(1, _SCORES // (2 * len(base))), unsure_q.nonzero()[:, 0]
    for part in torch.split(unsure, step) if len(unsure) else ():
        own = None if own_q is None else own_q[part]
        scores_qk[part], rows_qk[part] = _exact_top_k(query, base, queries.start + part, own, k)
    return scores_qk, rows_qk


def _proposals(
    query_qD: Tensor, base_BD: Tensor, m: int, own_q: Tensor | None, scores_qGL: Tensor
) -> tuple[Tensor, Tensor]:
    """The m highest scores in float32, best first, and their rows, (q, m) each."""
    B, (q, G, L) = len(base_BD), scores_qGL.shape
    scores_qB, most_qG = scores_qGL.view(q, -1)[:, :B], scores_qGL.new_empty(q, G)
    few = 2 * m < G
    for rows in _blocks(B, _BASE):
        torch.mm(query_qD, base_BD[rows].T, out=scores_qB[:, rows])
        if few:  # while they are in a cache
            groups = slice(rows.start // L, -(-rows.stop // L))
            torch.amax(scores_qGL[:, groups], 2, out=most_qG[:, groups])
    every_q = torch.arange(q)
    if own_q is not None:
        scores_qB[every_q, own_q] = -torch.inf
        most_qG[every_q, own_q // L] = scores_qGL[every_q, own_q // L].amax(1)
    if not few:
        return scores_qB.topk(m)
    group_qm = most_qG.topk(m, sorted=False).indices
    flat = (group_qm + every_q[:, None] * G).view(-1)
    scores_qm, place_qm = scores_qGL.view(-1, L)[flat].view(q, m * L).topk(m)
    return scores_qm, group_qm.gather(1, place_qm // L) * L + place_qm % L


def _close_mask(scores_qm: Tensor, margin_q: Tensor) -> Tensor:
    """Which proposals, best first, may have to swap places with the one before or after."""
    step_q = scores_qm[:, :-1] - scores_qm[:, 1:] <= margin_q[:, None]
    close_qm = torch.zeros_like(scores_qm, dtype=torch.bool)
    close_qm[:, :-1] |= step_q
    close_qm[:, 1:] |= step_q
    return close_qm & scores_qm.isfinite()


def _rescore(
    query: PreparedVectors,
    base: PreparedVectors,
    first: int,
    scores_qm: Tensor,
    rows_qm: Tensor,
    close_qm: Tensor,
) -> None:
    """Replace close scores by exact ones; the queries start at `first`."""
    q_P, m_P = close_qm.nonzero(as_tuple=True)
    scores_qm[q_P, m_P] = exact_scores(query, base, first + q_P, rows_qm[q_P, m_P])


def exact_scores(query: PreparedVectors, base: PreparedVectors, i_P: Tensor, j_P: Tensor) -> Tensor:
    """Scores of pairs of a query i and a row j, in float64 and rounded to float32, (P,)."""
    scores_P = torch.empty(len(i_P))
    for part in _blocks(len(i_P), max(1, _NUMBERS // query.x_ND.shape[1])):
        i, j = i_P[part], j_P[part]
        products_PD = query.x_ND[i].double() * base.x_ND[j]
        scores_P[part] = (products_PD.sum(1) * query.scale_N[i] * base.scale_N[j]).float()
    return scores_P


def _best(scores_qm: Tensor, rows_qm: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best, ties to the lower row."""
    rows_qm, by_row_qm = rows_qm.sort(dim=1)
    best = scores_qm.gather(1, by_row_qm).sort(dim=1, descending=True, stable=True)
    return best.values[:, :k], rows_qm.gather(1, best.indices)[:, :k]


def _exact_top_k(
    query: PreparedVectors, base: PreparedVectors, queries: Tensor, own_q: Tensor | None, k: int
) -> tuple[Tensor, Tensor]:
    """The neighbours by exact scores, for queries with many rows close to the k-th score."""
    scores_qB = torch.empty(len(queries), len(base))
    for rows in _blocks(len(base), max(1, _NUMBERS // base.x_ND.shape[1])):
        scores_qB[:, rows] = _exact_block(query, base, queries, rows)
    if own_q is not None:
        scores_qB.scatter_(1, own_q[:, None], -torch.inf)
    last_q1 = scores_qB.topk(k).values[:, -1:]
    above_qB, ties_qB = scores_qB > last_q1, scores_qB == last_q1
    room_q1 = k - above_qB.sum(dim=1, keepdim=True)
    chosen_qB = above_qB | (ties_qB & (ties_qB.cumsum(dim=1) <= room_q1))
    rows_qk = chosen_qB.nonzero()[:, 1].view(len(queries), k)
    return _best(scores_qB.gather(1, rows_qk), rows_qk, k)


def _exact_block(
    query: PreparedVectors, base: PreparedVectors, queries: Tensor | slice, rows: slice
) -> Tensor:
    """All scores of some queries with some rows, as `exact_scores`, (q, b)."""
    products_qb = query.x_ND[queries].double() @ base.x_ND[rows].double().T
    return (products_qb * query.scale_N[queries, None] * base.scale_N[rows]).float()


# --- all similar pairs


@dataclass(frozen=True, eq=False)
class SimilarGroup:
    """Connected rows: each is similar to another one of them.

    Attributes:
        rows: (n,) int64 in ascending order, at least two.
        medoid: The row that is most similar to all of them on average; of several, the lowest.
    """

    rows: NDArray[np.int64]
    medoid: int


def similar_pairs(
    x_ND: NDArray[Any] | Tensor | PreparedVectors, least: float, *, limit: int = 10**7
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """All pairs of rows whose cosine is `least` or more; float64 decides, rounded to float32.

    Args:
        x_ND: Finite vectors; a zero vector's cosine is 0 with all.
        least: The cosine.
        limit: Maximum number of pairs.

    Returns:
        Rows i < j, (P, 2) int64, ordered by i, then j; and their cosines, (P,) float32, good to
        about 1e-6.

    Raises:
        UserError: There are more than `limit` pairs.
    """
    found, number = [], 0
    for i_P, j_P, score_P in _close_pairs(_prepare(x_ND), least):
        number += len(i_P)
        if number > limit:
            what = f"more than {limit:,} pairs have a cosine of {least:g} or more"
            raise UserError(what, "choose a higher cosine")
        found.append((torch.stack([i_P, j_P], 1), score_P))
    rows_P2 = torch.cat([rows for rows, _ in found] or [torch.empty(0, 2, dtype=torch.int64)])
    score_P = torch.cat([score for _, score in found] or [torch.empty(0)])
    order_P = np.lexsort((rows_P2[:, 1].numpy(), rows_P2[:, 0].numpy()))
    return rows_P2.numpy()[order_P], score_P.numpy()[order_P]


def similar_groups(
    x_ND: NDArray[Any] | Tensor | PreparedVectors, least: float
) -> list[SimilarGroup]:
    """Groups of near-duplicates, joined by pairs with a cosine of `least` or more, largest first.

    Memory is bounded by the vectors', for any number of pairs. Groups of the same size are in the
    order of their first rows.
    """
    x, held, number = _prepare(x_ND), [], 0
    first_N = np.arange(len(x))
    for i_P, j_P, _ in _close_pairs(x, least):
        held.append((i_P.numpy(), j_P.numpy()))
        number += len(i_P)
        if number > max(_EDGES, len(x)):
            first_N, held, number = connected_components(first_N, held), [], 0
    first_N = connected_components(first_N, held)
    several = group_rows(first_N)
    return [SimilarGroup(rows, _medoid(x, rows)) for rows in several]


def connected_components(
    first_N: NDArray[np.int64], held: list[tuple[NDArray[np.int64], NDArray[np.int64]]]
) -> NDArray[np.int64]:
    """The lowest row of each row's group, after joining these pairs."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    N = len(first_N)
    i_P = np.concatenate([np.arange(N), *(i for i, _ in held)])
    j_P = np.concatenate([first_N, *(j for _, j in held)])
    graph = coo_array((np.ones(len(i_P), np.int8), (i_P, j_P)), shape=(N, N))
    number, label_N = connected_components(graph, directed=False)
    lowest = np.full(number, N)
    np.minimum.at(lowest, label_N, np.arange(N))
    first: NDArray[np.int64] = lowest[label_N]
    return first


def group_rows(first_N: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Ascending rows of each group of at least two: largest group first, then by first row."""
    order_N = np.argsort(first_N, kind="stable")
    starts = np.flatnonzero(np.diff(first_N[order_N], prepend=-1))
    several = [rows for rows in np.split(order_N, starts[1:]) if len(rows) > 1]
    return sorted(several, key=lambda rows: (-len(rows), rows[0]))


def _medoid(x: PreparedVectors, rows_n: NDArray[np.int64]) -> int:
    """The row whose cosines with all of them have the highest sum."""
    unit_nD = x.x_ND[torch.from_numpy(rows_n)] * x.scale_N[rows_n, None]
    return int(rows_n[(unit_nD @ unit_nD.sum(0)).float().argmax()])


def _close_pairs(x: PreparedVectors, least: float) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The pairs of `similar_pairs`, block by block: rows i < j and cosines, (P,) each."""
    B, b = len(x), _BASE * 2
    room_qGL = torch.empty(_BASE // 2, -(-b // _L), _L)
    for queries in _blocks(B, len(room_qGL)):
        unit_qD = x.unit_ND[queries]
        for start in range(queries.start // _L * _L, B, b):
            rows = slice(start, min(start + b, B))
            scores_qGL = room_qGL[: len(unit_qD), : -(-(rows.stop - start) // _L)]
            found = _block_pairs(x, least, queries, rows, scores_qGL)
            if len(found[0]):
                yield found


def _block_pairs(
    x: PreparedVectors, least: float, queries: slice, rows: slice, scores_qGL: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs between two blocks of rows."""
    b, margin = rows.stop - rows.start, 2 * x.error
    scores_qb = scores_qGL.view(len(scores_qGL), -1)
    scores_qb[:, b:] = -torch.inf
    torch.mm(x.unit_ND[queries], x.unit_ND[rows].T, out=scores_qb[:, :b])
    q_h, G_h = (scores_qGL.amax(2) >= least - margin).nonzero(as_tuple=True)
    scores_hL = scores_qGL[q_h, G_h]
    h_P, l_P = (scores_hL >= least - margin).nonzero(as_tuple=True)
    i_P, j_P = queries.start + q_h[h_P], rows.start + G_h[h_P] * _L + l_P
    later_P = j_P > i_P
    i_P, j_P, score_P = i_P[later_P], j_P[later_P], scores_hL[h_P, l_P][later_P]
    doubt_U = ((score_P - least).abs() <= margin).nonzero()[:, 0]
    if len(doubt_U) > _DENSE:
        score_P = _exact_block(x, x, queries, rows)[i_P - queries.start, j_P - rows.start]
    else:
        score_P[doubt_U] = exact_scores(x, x, i_P[doubt_U], j_P[doubt_U])
    enough_P = score_P >= np.float32(least)
    return i_P[enough_P], j_P[enough_P], score_P[enough_P]
