"""Spatial verification: do two images show the same thing in the same arrangement?

Philbin, Chum, Isard, Sivic, Zisserman, "Object retrieval with large vocabularies and fast spatial
matching", CVPR 2007, section 4. A match, a keypoint of the query and one of the candidate, makes a
hypothesis of how the query lies in the candidate. So there are no more hypotheses than matches: all
are tried, and nothing is random. The best of them are refined, and the one that then explains most
matches, its inliers, is the answer, once the doubtful ones among them weigh less.

There, matches are regions of equal visual words, whose shapes give transforms of 3 to 5 degrees of
freedom and are taken to be upright. Here they are mutual nearest neighbours; SIFT's circles with an
orientation give similarities (4), refined to affine transforms (6), and cells of an encoder's maps,
which have none, give translation and scale (3), refined to such only. There, images are sorted by
their inliers' idf; here by their number.

Shapes:  N keypoints; M matches; n candidates. A transform A_23 takes (x, y, 1) of the query to
         (x, y) of the candidate.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from selftaught.pairwise.neighbours import top_k
from selftaught.retrieval.local_features import F64, Features, Local
from selftaught.retrieval.transforms import Bools, PointPairs, Rows, as_complex, refined, sharpened

RATIO = 0.9
"""Of the distances of the nearest and the second nearest descriptor: matches of SIFT lie below."""

LEAST = 4
"""With fewer inliers a candidate counts as not verified, as in the paper."""

LEAST_CELLS, MOST_CELLS = 10, 20
"""Likewise of cells of maps, which tolerate a cell: a tenth of the query's, between these numbers.

Of pairs of different photographs the most had 6 of 61 cells, or 18 of 221; parts of one photograph
have 9 and 28 or more. With a network that tells little apart they overlap.
"""

_STARTS = 5  # hypotheses that are refined, of those whose match no refined one explains
_BLOCK = 2**16  # pairs of a hypothesis and a match whose numbers lie in a cache


@dataclass(frozen=True, eq=False)
class GeometricMatch:
    """How well two images match.

    Attributes:
        pairs_M2: Keypoints of query and candidate that look alike.
        inlier_M: Which of these pairs the transform explains.
        transform_23: float64, from the query's places to the candidate's; None without pairs.
    """

    pairs_M2: Rows
    inlier_M: Bools
    transform_23: F64 | None

    @property
    def inliers(self) -> int:
        """How many pairs the transform explains."""
        return int(self.inlier_M.sum())


def verify(query: Local, candidate: Local, *, ratio: float | None = RATIO) -> GeometricMatch:
    """Match descriptors, and find the transform that explains most of the matches.

    Args:
        query: Local features of one image.
        candidate: Local features, of the same kind, of another.
        ratio: As for `matched`. Cells of maps, which resemble their neighbours, go without.
    """
    return explained(query, candidate, matched(query, candidate, None if query.upright else ratio))


# --- matches


def matched(query: Local, candidate: Local, ratio: float | None) -> Rows:
    """Pairs of keypoints with descriptors that are each other's nearest, most alike first.

    SIFT has several keypoints at one place, with other orientations: of pairs with one place in
    common only the first is kept, so that each is evidence of its own.

    Args:
        query: One image's keypoints.
        candidate: The other's.
        ratio: The query's descriptor must be nearer to its nearest neighbour than this share of its
            distance from the second nearest (Lowe, IJCV 2004, section 7.1); None: it need not.

    Returns:
        (M, 2): indices of keypoints in each of the two.
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
    pairs_M2 = pairs_M2[_mutual(query, candidate, pairs_M2)]
    order_M = np.argsort(far_Nk[pairs_M2[:, 0], 0], kind="stable")
    return _apart(query, candidate, pairs_M2[order_M])


def _mutual(query: Local, candidate: Local, pairs_M2: Rows) -> Bools:
    """Whether the query's keypoint is the nearest of the candidate's as well."""
    if not len(pairs_M2):
        return np.empty(0, np.bool_)
    asked, place_M = np.unique(pairs_M2[:, 1], return_inverse=True)
    row_n1 = top_k(candidate.descriptors_ND[asked], query.prepared, 1, metric="dot")[1]
    same_M: Bools = row_n1[place_M, 0] == pairs_M2[:, 0]
    return same_M


def _apart(query: Local, candidate: Local, pairs_M2: Rows) -> Rows:
    """The first pair of each place in the query, and of these the first of each in the other."""
    for side, local in enumerate((query, candidate)):
        place_M = as_complex(local.xy_N2[pairs_M2[:, side]])
        pairs_M2 = pairs_M2[np.sort(np.unique(place_M, return_index=True)[1])]
    return pairs_M2


# --- hypotheses


def explained(query: Local, candidate: Local, pairs_M2: Rows) -> GeometricMatch:
    """The transform that explains most of the given pairs, and which ones.

    A pair is an inlier where the query's place, transformed, comes as near to the candidate's as
    both keypoints tolerate, each in its own image, and where the ratio of their scales is the
    transform's up to a factor of 2.

    Args:
        query: One image's keypoints.
        candidate: The other's.
        pairs_M2: Indices of keypoints in each of the two; of equally good hypotheses the one of the
            first pair is refined first.
    """
    if not len(pairs_M2):
        return GeometricMatch(pairs_M2, np.empty(0, np.bool_), None)
    pairs = PointPairs.of(query, candidate, pairs_M2)
    hypothesis_M23, inliers_M = pairs.hypotheses, match_counts(pairs)
    known_M = np.zeros(len(pairs_M2), np.bool_)
    best_23, best_M = hypothesis_M23[0], known_M.copy()
    for m in _starts(inliers_M, known_M):
        A_23, inlier_M = refined(hypothesis_M23[m], pairs)
        known_M |= inlier_M
        if inlier_M.sum() > best_M.sum():
            best_23, best_M = A_23, inlier_M
    best_23, best_M = sharpened(best_23, pairs)
    return GeometricMatch(pairs_M2, best_M, best_23)


def match_counts(pairs: PointPairs) -> Rows:
    """How many pairs the hypothesis of each explains, (M,)."""
    hypothesis_M23 = pairs.hypotheses
    step = max(1, _BLOCK // len(hypothesis_M23))
    parts = range(0, len(hypothesis_M23), step)
    return np.concatenate([pairs.agree(hypothesis_M23[m : m + step]).sum(1) for m in parts])


def _starts(inliers_M: Rows, known_M: Bools) -> Iterator[int]:
    """Matches with the best hypotheses, but none that is known when its turn comes."""
    started = 0
    for m in np.argsort(-inliers_M, kind="stable").tolist():
        if started < _STARTS and not known_M[m]:
            started += 1
            yield m


# --- re-ranking


def rerank(
    query: Local, candidates: Sequence[Local], *, first: int = 100, least: int | None = None
) -> Rows:
    """The order of candidates: verified ones first, those with most inliers at the top.

    Args:
        query: Local features of the query.
        candidates: Those of the candidates, best first so far.
        first: So many are verified; the others stay behind them.
        least: Inliers of a verified one; None: `LEAST`, or as `LEAST_CELLS` says. What has fewer
            stays in its old order, as do equals.

    Returns:
        (n,) int64: positions among the candidates, a permutation.
    """
    verified = (verify(query, candidate).inliers for candidate in candidates[:first])
    return _by_inliers(query, np.fromiter(verified, np.int64), len(candidates), least)


def _by_inliers(query: Local, inliers_m: Rows, n: int, least: int | None) -> Rows:
    """The order of n candidates, of which the first m were verified."""
    least = _least(query, least)
    inliers_n = np.zeros(n, np.int64)
    inliers_n[: len(inliers_m)] = np.where(inliers_m >= least, inliers_m, 0)
    return np.argsort(-inliers_n, kind="stable")


def _least(query: Local, least: int | None) -> int:
    """With so many inliers an image counts as verified."""
    if least is not None:
        return least
    tenth = math.ceil(len(query) / 10)
    return min(max(LEAST_CELLS, tenth), MOST_CELLS) if query.upright else LEAST


class Verifier:
    """Reorders what was found for a query by spatial verification.

    What a pair of images has in common is worked out once, however often it is asked for: several
    encoders find the same images.

    Args:
        queries: Local features of the queries, by position.
        database: Those of what they are looked for in.
        first: So many of what was found are verified.
        least: As for `rerank`.
    """

    def __init__(
        self, queries: Features, database: Features, *, first: int = 100, least: int | None = None
    ) -> None:
        self.queries, self.database, self.first, self.least = queries, database, first, least
        self._inliers = dict[tuple[int, int], int]()

    def __call__(self, query: int, found_n: Rows) -> Rows:
        """The same positions of the database in the order of `rerank`.

        Args:
            query: Position of the query.
            found_n: Positions in the database, best first.
        """
        head = found_n[: self.first].tolist()
        inliers_m = np.array([self.inliers(query, position) for position in head], np.int64)
        return found_n[_by_inliers(self.queries[query], inliers_m, len(found_n), self.least)]

    def inliers(self, query: int, position: int) -> int:
        """Matches of a query and an image of the database that one transform explains."""
        pair = query, position
        if pair not in self._inliers:
            self._inliers[pair] = self.match(query, position).inliers
        return self._inliers[pair]

    def verified(self, query: int, position: int) -> bool:
        """Whether they have enough in common to be shown first."""
        return self.inliers(query, position) >= _least(self.queries[query], self.least)

    def match(self, query: int, position: int) -> GeometricMatch:
        """How a query matches one image of the database."""
        return verify(self.queries[query], self.database[position])
