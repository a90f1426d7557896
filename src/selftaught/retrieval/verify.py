"""Spatial verification: do two images show the same object in the same arrangement?

Philbin, Chum, Isard, Sivic, Zisserman, "Object retrieval with large vocabularies and fast spatial
matching", CVPR 2007, section 4. A match, a keypoint of the query and one of the candidate, gives a
hypothesis of how the query lies in the candidate. So there are only as many hypotheses as matches:
all are tried, and nothing is random. The best are refined. The result is the one that then explains
most matches, its inliers, after a fit in which doubtful inliers weigh less.

In the paper, matches are regions with equal visual words, whose shapes give upright transforms of
3 to 5 degrees of freedom. Here they are mutual nearest neighbours. SIFT's circles with an
orientation give similarities (4), refined to affine transforms (6). Cells of an encoder's maps have
no orientation and give translation and scale (3), refined likewise. The paper sorts images by the
idf of their inliers, this module by their number.

Shapes:  N keypoints; M matches; n candidates. A transform A_23 maps (x, y, 1) of the query to
         (x, y) of the candidate.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from selftaught.pairwise.neighbours import top_k
from selftaught.retrieval.local_features import F64, Features, Local
from selftaught.retrieval.transforms import (
    Bools,
    PointPairs,
    Rows,
    as_complex,
    refine,
    refine_weighted,
)

RATIO = 0.9
"""SIFT matches need a lower ratio of the nearest to the second nearest descriptor distance."""

LEAST = 4
"""Least number of inliers of a verified candidate, as in the paper."""

LEAST_CELLS, MOST_CELLS = 10, 20
"""Likewise for cells of maps, which tolerate a cell: a tenth of the query's, in this range.

Pairs of different photographs had at most 6 of 61 cells, or 18 of 221; parts of the same photograph
have at least 9 and 28. With a network that distinguishes little, they overlap.
"""

_STARTS = 5  # hypotheses to refine; matches explained by a refined one are skipped
_BLOCK = 2**16  # pairs of a hypothesis and a match whose values fit into a CPU cache


@dataclass(frozen=True, eq=False)
class GeometricMatch:
    """The geometric match of two images.

    Attributes:
        pairs_M2: Pairs of similar keypoints of query and candidate.
        inlier_M: Which of these pairs the transform explains.
        transform_23: float64, maps the query's places to the candidate's; None without pairs.
    """

    pairs_M2: Rows
    inlier_M: Bools
    transform_23: F64 | None

    @property
    def inliers(self) -> int:
        """Number of pairs that the transform explains."""
        return int(self.inlier_M.sum())


def verify(query: Local, candidate: Local, *, ratio: float | None = RATIO) -> GeometricMatch:
    """Match descriptors, and find the transform that explains most matches.

    Args:
        query: Local features of one image.
        candidate: Local features of the same kind of another image.
        ratio: As for `descriptor_pairs`; not used for cells of maps, which resemble their
            neighbours.
    """
    return geometric_match(
        query, candidate, descriptor_pairs(query, candidate, None if query.upright else ratio)
    )


# --- matches


def descriptor_pairs(query: Local, candidate: Local, ratio: float | None) -> Rows:
    """Pairs of keypoints whose descriptors are mutual nearest neighbours, most similar first.

    SIFT has several keypoints at one place, with different orientations: of pairs that share a
    place only the first is kept, so that all pairs are independent evidence.

    Args:
        query: Keypoints of the query.
        candidate: Keypoints of the candidate.
        ratio: Largest ratio of a query descriptor's distances to its nearest and second nearest
            neighbour (Lowe, IJCV 2004, section 7.1); None for no limit.

    Returns:
        (M, 2): indices of keypoints in the two images.
    """
    if not len(query) or not len(candidate):
        return np.empty((0, 2), np.int64)
    k = 1 if ratio is None else min(2, len(candidate))
    score_Nk, row_Nk = top_k(query.descriptors_ND, candidate.prepared, k, metric="dot")
    far_Nk = 1 - score_Nk.astype(np.float64)  # half of the squared distance
    kept_N = np.ones(len(query), np.bool_)
    if ratio is not None and k == 2:
        kept_N = far_Nk[:, 0] <= ratio**2 * far_Nk[:, 1]
    pairs_M2 = np.stack([np.flatnonzero(kept_N), row_Nk[kept_N, 0]], axis=1)
    pairs_M2 = pairs_M2[_are_mutual(query, candidate, pairs_M2)]
    order_M = np.argsort(far_Nk[pairs_M2[:, 0], 0], kind="stable")
    return _distinct(query, candidate, pairs_M2[order_M])


def _are_mutual(query: Local, candidate: Local, pairs_M2: Rows) -> Bools:
    """Whether the query's keypoint is also the nearest to the candidate's."""
    if not len(pairs_M2):
        return np.empty(0, np.bool_)
    rows_n, place_M = np.unique(pairs_M2[:, 1], return_inverse=True)
    row_n1 = top_k(candidate.descriptors_ND[rows_n], query.prepared, 1, metric="dot")[1]
    same_M: Bools = row_n1[place_M, 0] == pairs_M2[:, 0]
    return same_M


def _distinct(query: Local, candidate: Local, pairs_M2: Rows) -> Rows:
    """The first pair of each place in the query, then of these the first in the candidate."""
    for side, local in enumerate((query, candidate)):
        place_M = as_complex(local.xy_N2[pairs_M2[:, side]])
        pairs_M2 = pairs_M2[np.sort(np.unique(place_M, return_index=True)[1])]
    return pairs_M2


# --- hypotheses


def geometric_match(query: Local, candidate: Local, pairs_M2: Rows) -> GeometricMatch:
    """The transform that explains most of the given pairs, and its inliers.

    A pair is an inlier if the transformed place of the query is as near to the candidate's as both
    keypoints tolerate, each in its own image, and if the ratio of their scales equals the
    transform's up to a factor of 2.

    Args:
        query: Keypoints of the query.
        candidate: Keypoints of the candidate.
        pairs_M2: Indices of keypoints in the two images; of equally good hypotheses that of the
            first pair is refined first.
    """
    if not len(pairs_M2):
        return GeometricMatch(pairs_M2, np.empty(0, np.bool_), None)
    pairs = PointPairs.of(query, candidate, pairs_M2)
    hypothesis_M23, inliers_M = pairs.hypotheses, match_counts(pairs)
    known_M = np.zeros(len(pairs_M2), np.bool_)
    best_23, best_M = hypothesis_M23[0], known_M.copy()
    for m in _starts(inliers_M, known_M):
        A_23, inlier_M = refine(hypothesis_M23[m], pairs)
        known_M |= inlier_M
        if inlier_M.sum() > best_M.sum():
            best_23, best_M = A_23, inlier_M
    best_23, best_M = refine_weighted(best_23, pairs)
    return GeometricMatch(pairs_M2, best_M, best_23)


def match_counts(pairs: PointPairs) -> Rows:
    """Number of pairs that the hypothesis of each pair explains, (M,)."""
    hypothesis_M23 = pairs.hypotheses
    step = max(1, _BLOCK // len(hypothesis_M23))
    parts = range(0, len(hypothesis_M23), step)
    return np.concatenate([pairs.inliers(hypothesis_M23[m : m + step]).sum(1) for m in parts])


def _starts(inliers_M: Rows, known_M: Bools) -> Iterator[int]:
    """Matches with the best hypotheses, without those already explained at their turn."""
    started = 0
    for m in np.argsort(-inliers_M, kind="stable").tolist():
        if started < _STARTS and not known_M[m]:
            started += 1
            yield m


# --- re-ranking


def rerank(
    query: Local, candidates: Sequence[Local], *, first: int = 100, least: int | None = None
) -> Rows:
    """The order of candidates: verified ones first, by their number of inliers.

    Args:
        query: Local features of the query.
        candidates: Local features of the candidates, in their previous order.
        first: Number of candidates to verify; the others stay behind them.
        least: Least inliers of a verified candidate; None for `LEAST`, or see `LEAST_CELLS`.
            Candidates with fewer, and equals, keep their previous order.

    Returns:
        (n,) int64: positions among the candidates, a permutation.
    """
    verified = (verify(query, candidate).inliers for candidate in candidates[:first])
    return _order_by_inliers(query, np.fromiter(verified, np.int64), len(candidates), least)


def _order_by_inliers(query: Local, inliers_m: Rows, n: int, least: int | None) -> Rows:
    """The order of n candidates, of which the first m have been compared."""
    least = _least(query, least)
    inliers_n = np.zeros(n, np.int64)
    inliers_n[: len(inliers_m)] = np.where(inliers_m >= least, inliers_m, 0)
    return np.argsort(-inliers_n, kind="stable")


def _least(query: Local, least: int | None) -> int:
    """The least number of inliers of a verified image."""
    if least is not None:
        return least
    tenth = math.ceil(len(query) / 10)
    return min(max(LEAST_CELLS, tenth), MOST_CELLS) if query.upright else LEAST


class Verifier:
    """Reorders the results of a query by spatial verification.

    Each pair of images is compared only once, since several encoders find the same images.

    Args:
        queries: Local features of the queries, by position.
        database: Local features of the database images, by position.
        first: Number of results to verify.
        least: As for `rerank`.
    """

    def __init__(
        self, queries: Features, database: Features, *, first: int = 100, least: int | None = None
    ) -> None:
        self.queries, self.database, self.first, self.least = queries, database, first, least
        self._inliers = dict[tuple[int, int], int]()

    def __call__(self, query: int, found_n: Rows) -> Rows:
        """The given positions of the database in the order of `rerank`.

        Args:
            query: Position of the query.
            found_n: Positions in the database, best first.
        """
        head = found_n[: self.first].tolist()
        inliers_m = np.array([self.inliers(query, position) for position in head], np.int64)
        return found_n[_order_by_inliers(self.queries[query], inliers_m, len(found_n), self.least)]

    def inliers(self, query: int, position: int) -> int:
        """Number of matches of a query and a database image that one transform explains."""
        pair = query, position
        if pair not in self._inliers:
            self._inliers[pair] = self.match(query, position).inliers
        return self._inliers[pair]

    def is_verified(self, query: int, position: int) -> bool:
        """Whether a query and a database image have enough inliers."""
        return self.inliers(query, position) >= _least(self.queries[query], self.least)

    def match(self, query: int, position: int) -> GeometricMatch:
        """The match of a query with one database image."""
        return verify(self.queries[query], self.database[position])
