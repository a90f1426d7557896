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
