"""Exact nearest neighbours: float32 products propose, float64 decides where they are too close.

The last bits of a float32 product depend on how it was blocked, and would order ties at random. So
whatever it cannot tell apart is scored again in float64 and rounded to float32; equal scores go to
the lower row, whatever the blocks and the threads.

Shapes:  Q queries, of which q in a block; B rows of the base; D their size; k neighbours;
         m >= k proposals; P pairs of a query and a row.
"""

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SCORES = 2**25  # scores held at once: 128 MiB
_NUMBERS = 2**20  # numbers of vectors gathered at once
_SPARE = 8  # proposals beyond k
_ERROR = 2.0  # x sqrt(D) 2^-24 |q| |b|: twice the largest seen (1.0; D of 4 to 8,192, all alike)


def top_k(
    query_QD: NDArray[Any] | Tensor,
    base_BD: NDArray[Any] | Tensor,
    k: int,
    *,
    metric: Literal["cosine", "dot"] = "cosine",
    own: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k rows of the base with the highest scores for each query, best first.

    Args:
        query_QD: Finite vectors.
        base_BD: Finite vectors.
        k: At most B, or B - 1 with `own`: the caller clips it.
        metric: "cosine", where a zero vector scores 0 with all others, or "dot".
        own: (Q,) a base row each query must not find: itself.

    Returns:
        Scores, (Q, k) float32, and rows of the base, (Q, k) int64. Ties go to the lower row.
    """
    query, base = _Vectors(query_QD, metric), _Vectors(base_BD, metric)
    allowed = len(base) - (own is not None)
    assert 1 <= k <= allowed, f"k = {k} of {allowed} rows"
    own_Q = None if own is None else torch.as_tensor(own, dtype=torch.int64)
    scores_Qk, rows_Qk = torch.empty(len(query), k), torch.empty(len(query), k, dtype=torch.int64)
    for queries in torch.split(torch.arange(len(query)), max(1, _SCORES // len(base))):
        own_q = None if own_Q is None else own_Q[queries]
        scores_Qk[queries], rows_Qk[queries] = _block(query, base, k, queries, own_q)
    return scores_Qk.numpy(), rows_Qk.numpy()


class _Vectors:
    """Vectors as they came, and what makes them unit vectors where the metric is cosine."""

    def __init__(self, x_ND: NDArray[Any] | Tensor, metric: str) -> None:
        self.x_ND = torch.as_tensor(x_ND).detach().cpu().float().contiguous()
        length_N = torch.linalg.vector_norm(self.x_ND, dim=1, dtype=torch.float64)
        if metric == "cosine":
            self.scale_N = torch.where(length_N > 0, 1 / length_N, 0)
            self.unit_ND = (self.x_ND * self.scale_N[:, None]).float()
        else:
            self.scale_N, self.unit_ND = torch.ones_like(length_N), self.x_ND
        self.length_N = self.scale_N * length_N

    def __len__(self) -> int:
        return len(self.x_ND)


def _block(
    query: _Vectors, base: _Vectors, k: int, queries: Tensor, own_q: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The neighbours of some queries."""
    proposed_qB = _without(own_q, query.unit_ND[queries] @ base.unit_ND.T)
    scores_qm, rows_qm = proposed_qB.topk(min(k + _SPARE, len(base)))
    error = _ERROR * 2.0**-24 * query.x_ND.shape[1] ** 0.5 * base.length_N.max()
    margin_q = (2 * error * query.length_N[queries]).float()
    unsure_q = scores_qm[:, -1] >= scores_qm[:, k - 1] - margin_q
    if scores_qm.shape[1] == len(base):
        unsure_q[:] = False  # every row is among them
    _rescore(query, base, queries, scores_qm, rows_qm, _close(scores_qm, margin_q))
    scores_qk, rows_qk = _ranked(scores_qm, rows_qm, k)
    step, unsure = max(1, _SCORES // (2 * len(base))), unsure_q.nonzero()[:, 0]
    for part in (unsure[start : start + step] for start in range(0, len(unsure), step)):
        own = None if own_q is None else own_q[part]
        scores_qk[part], rows_qk[part] = _dense(query, base, queries[part], own, k)
    return scores_qk, rows_qk


def _without(own_q: Tensor | None, scores_qB: Tensor) -> Tensor:
    return scores_qB if own_q is None else scores_qB.scatter_(1, own_q[:, None], -torch.inf)


def _close(scores_qm: Tensor, margin_q: Tensor) -> Tensor:
    """Which proposals, best first, may have to change places with the one before or after."""
    step_q = scores_qm[:, :-1] - scores_qm[:, 1:] <= margin_q[:, None]
    close_qm = torch.zeros_like(scores_qm, dtype=torch.bool)
    close_qm[:, :-1] |= step_q
    close_qm[:, 1:] |= step_q
    return close_qm & scores_qm.isfinite()


def _rescore(
    query: _Vectors,
    base: _Vectors,
    queries: Tensor,
    scores_qm: Tensor,
    rows_qm: Tensor,
    close_qm: Tensor,
) -> None:
    """Replace close scores by exact ones, rounded to float32."""
    q_P, m_P = close_qm.nonzero(as_tuple=True)
    for part in torch.split(torch.arange(len(q_P)), max(1, _NUMBERS // query.x_ND.shape[1])):
        q, m = q_P[part], m_P[part]
        i, j = queries[q], rows_qm[q, m]
        products_PD = query.x_ND[i].double() * base.x_ND[j]
        scores_qm[q, m] = (products_PD.sum(1) * query.scale_N[i] * base.scale_N[j]).float()


def _ranked(scores_qm: Tensor, rows_qm: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best, ties to the lower row."""
    rows_qm, by_row_qm = rows_qm.sort(dim=1)
    best = scores_qm.gather(1, by_row_qm).sort(dim=1, descending=True, stable=True)
    return best.values[:, :k], rows_qm.gather(1, best.indices)[:, :k]


def _dense(
    query: _Vectors, base: _Vectors, queries: Tensor, own_q: Tensor | None, k: int
) -> tuple[Tensor, Tensor]:
    """All scores exact: for queries with many rows of about the k-th score."""
    scores_qB, query_qD = torch.empty(len(queries), len(base)), query.x_ND[queries].double()
    for start in range(0, len(base), max(1, _NUMBERS // query_qD.shape[1])):
        rows = slice(start, start + max(1, _NUMBERS // query_qD.shape[1]))
        products_qB = query_qD @ base.x_ND[rows].double().T
        scores_qB[:, rows] = products_qB * query.scale_N[queries, None] * base.scale_N[rows]
    _without(own_q, scores_qB)
    last_q1 = scores_qB.topk(k).values[:, -1:]
    above_qB, ties_qB = scores_qB > last_q1, scores_qB == last_q1
    room_q1 = k - above_qB.sum(dim=1, keepdim=True)
    chosen_qB = above_qB | (ties_qB & (ties_qB.cumsum(dim=1) <= room_q1))
    rows_qk = chosen_qB.nonzero()[:, 1].view(len(queries), k)
    return _ranked(scores_qB.gather(1, rows_qk), rows_qk, k)
