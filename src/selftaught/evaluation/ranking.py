"""Quality of rankings: average precision as in VGG's program, recall and precision at k.

Philbin, Chum, Isard, Sivic, Zisserman, "Object retrieval with large vocabularies and fast spatial
matching", CVPR 2007, whose program compute_ap is used for all results on Oxford5k and Paris6k;
and the setups of Radenovic, Iscen, Tolias, Avrithis, Chum, "Revisiting Oxford and Paris: large-
scale image retrieval benchmarking", CVPR 2018, section 3.

Shapes:  n ranked images; P of them positive; Q queries; B resamples (columns of counts_QB).
"""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

Positions = Collection[int]
"""Distinct positions of images in the database."""

SETUPS = ("easy", "medium", "hard")


def retrieval_average_precision(
    ranked_n: NDArray[np.int64], positive: Positions, junk: Positions = ()
) -> float:
    """The area under precision and recall by the trapezoidal rule; nan without positives.

    Junk is removed from the ranking, even if it is also positive. At each other image recall is the
    share of positives found so far, precision the share of positives among the images so far, and
    (recall - recall before) (precision before + precision) / 2 is added; before the first image
    recall is 0 and precision 1.

    Args:
        ranked_n: Positions in the database, best first. Positives that are missing count as never
            found.
        positive: Right images.
        junk: Images that do not count.
    """
    if not positive:
        return float("nan")
    rank_P = _ranks(ranked_n, positive, junk)
    hits_P = np.arange(len(rank_P))  # that come before
    before_P = np.divide(hits_P, rank_P, out=np.ones(len(rank_P)), where=rank_P > 0)
    after_P = (hits_P + 1) / (rank_P + 1)
    return float((before_P + after_P).sum() / 2 / len(positive))


def recall_at(ranked_n: NDArray[np.int64], positive: Positions, junk: Positions, k: int) -> float:
    """1 if one of the first k images is right, else 0; nan without positives.

    Recall@k of place recognition (Arandjelovic et al., CVPR 2016, section 5); junk is skipped.
    """
    if not positive:
        return float("nan")
    return float((_ranks(ranked_n, positive, junk) < k).any())


def precision_at(
    ranked_n: NDArray[np.int64], positive: Positions, junk: Positions, k: int
) -> float:
    """Share of the first k images that are right; nan without positives.

    If the last positive image comes before the k-th, only the images up to it count, as in the
    authors' program: queries with few positives can reach 1 too.
    """
    if not positive:
        return float("nan")
    rank_P = _ranks(ranked_n, positive, junk)
    if not len(rank_P):
        return 0.0
    k = min(k, int(rank_P[-1]) + 1)
    return float((rank_P < k).sum() / k)


def revisited_setups(
    easy: frozenset[int], hard: frozenset[int], junk: frozenset[int]
) -> dict[str, tuple[frozenset[int], frozenset[int]]]:
    """Positives and junk of each of `SETUPS` (Radenovic et al. 2018, section 3.3).

    Easy: easy images are positive, hard ones junk. Medium: both positive. Hard: reverse of easy.
    """
    return {
        "easy": (easy, junk | hard),
        "medium": (easy | hard, junk),
        "hard": (hard, junk | easy),
    }


def mean_over_queries(
    values_Q: NDArray[np.float64],
    labels_Q: NDArray[np.int64] | None,
    counts_QB: NDArray[np.float32],
) -> NDArray[np.float64]:
    """Mean of each resample, (B,): a `metrics.Figure` once the values are bound.

    Args:
        values_Q: Value per query; queries without positives are nan and left out.
        labels_Q: Unused: the values are final.
        counts_QB: How often each query occurs in each resample.
    """
    there_Q = np.isfinite(values_Q)
    counts_QB = counts_QB[there_Q]
    queries_B = counts_QB.sum(axis=0, dtype=float)
    total_B = values_Q[there_Q] @ counts_QB.astype(float)
    mean_B: NDArray[np.float64] = np.full_like(total_B, np.nan)
    np.divide(total_B, queries_B, out=mean_B, where=queries_B > 0)
    return mean_B


def _ranks(ranked_n: NDArray[np.int64], positive: Positions, junk: Positions) -> NDArray[np.int64]:
    """Ascending ranks of the positives, from 0, without junk."""
    kept = ranked_n[~np.isin(ranked_n, _array(junk))]
    return np.flatnonzero(np.isin(kept, _array(positive)))


def _array(positions: Positions) -> NDArray[np.int64]:
    return np.fromiter(positions, np.int64, len(positions))
