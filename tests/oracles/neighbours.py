"""Nearest neighbours the slow way: every pair in float64, sorted."""

import numpy as np
from numpy.typing import NDArray


def neighbours(
    query_QD: NDArray, base_BD: NDArray, k: int, metric: str, own: NDArray | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scores rounded to float32, best first; of equal scores the lower row first."""
    scores_Qk, rows_Qk = [], []
    for q, query_D in enumerate(query_QD.astype(float)):
        pairs = []
        for b, base_D in enumerate(base_BD.astype(float)):
            score = float((query_D * base_D).sum())
            if metric == "cosine":
                length = float(np.sqrt((query_D**2).sum()) * np.sqrt((base_D**2).sum()))
                score = score / length if length else 0.0
            if own is None or own[q] != b:
                pairs.append((-float(np.float32(score)), b))
        best = sorted(pairs)[:k]
        scores_Qk.append([-score for score, _ in best])
        rows_Qk.append([b for _, b in best])
    return np.array(scores_Qk, np.float32), np.array(rows_Qk, np.int64)


def close_pairs(x_ND: NDArray, least: float) -> list[tuple[int, int]]:
    """Rows i < j whose cosine, rounded to float32, is `least` or more, one after the other."""
    x_ND, found = x_ND.astype(float), []
    for i in range(len(x_ND)):
        for j in range(i + 1, len(x_ND)):
            length = float(np.sqrt((x_ND[i] ** 2).sum()) * np.sqrt((x_ND[j] ** 2).sum()))
            cosine = float((x_ND[i] * x_ND[j]).sum()) / length if length else 0.0
            if np.float32(cosine) >= np.float32(least):
                found.append((i, j))
    return found


def groups(number: int, pairs: list[tuple[int, int]]) -> list[list[int]]:
    """Rows joined by pairs: sets are united until none changes; largest first, then lowest row."""
    sets = [{row} for row in range(number)]
    for i, j in pairs:
        one = next(s for s in sets if i in s)
        other = next(s for s in sets if j in s)
        if one is not other:
            sets.remove(other)
            one |= other
    return sorted((sorted(s) for s in sets if len(s) > 1), key=lambda rows: (-len(rows), rows[0]))
