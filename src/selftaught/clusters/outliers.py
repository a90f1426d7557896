"""Images that stand out: near-duplicates, and those that are unlike all others.

Near-duplicates. The distance of two vectors is d = 1 - cosine. d_ij counts in units of how far
apart images are where the two lie: d_ij / sqrt(s_i s_j), as in self-tuning spectral clustering
(Zelnik-Manor and Perona 2004), where s_i is i's distance to its 10th neighbour. Where so many are
copies of each other that this is tiny, s_i is half the median of those distances that are no
copies'. No d is below what float32 can tell, and what is so near is a copy at any scale. By vectors
alone a pair is a near-duplicate up to NEAR of these units. With pictures more pairs are looked at,
up to CANDIDATE, and the pictures decide (`pictures.py`).

Outliers. Three things that an image may be in an extreme degree: far from its 20th neighbour among
the 64 directions in which vectors vary most (so up to 20 alike can still be found, and what is
noise in most directions does not count); and, with pictures, having much less or much more detail
than the others. Each is turned into a surprise, -ln of the share of images that would be as
extreme, if the upper half of the values fell off as it begins to, from its 50 % to its 90 % point:
as a normal distribution for distances, sums of many parts; exponentially for detail, the logarithm
of a ratio of energies. Less than one such image in N is to be expected where a surprise is above
ln N: these are the outliers.

Shapes:  N images; D size of a vector; P pairs; F directions; k neighbours; S side of a picture.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selftaught.clusters.gray import correlations, detail
from selftaught.pairwise.neighbours import connected_components, together, top_k

NEAR, CANDIDATE = 0.3, 0.6
"""Units of distance up to which two images are near-duplicates; or are compared by pictures."""

SAME = 0.95
"""Correlation of two pictures from which on they are of one photograph."""

_CROWD = 20  # so many alike are still no crowd

FEWEST = 2 * _CROWD
"""Images that there must be for outliers to be told."""

Pictures = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""From rows to gray pictures (n, S, S), as `pictures.gray` makes them."""

_SCALE_RANK = 10  # the neighbour whose distance is the unit
_LOOKED_AT = 5  # neighbours of each image that may be its duplicates
_SMALLEST = 1e-6  # about what float32 makes of 1 - cosine of equal vectors
_TAIL = (0.5, 0.9)
_BLOCK = 1024


@dataclass(frozen=True, eq=False)
class DuplicatePairs:
    """Pairs of images, the most alike first.

    Attributes:
        rows_P2: int64: two rows, the lower first.
        cosine_P: float32, of their vectors.
        correlation_P: float32, of their pictures; NaN where there were none.
    """

    rows_P2: NDArray[np.int64]
    cosine_P: NDArray[np.float32]
    correlation_P: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rows_P2)


def near_duplicates(x_ND: NDArray[Any], *, pictures: Pictures | None = None) -> DuplicatePairs:
    """Pairs of images that show the same picture, changed a little.

    Args:
        x_ND: Finite vectors.
        pictures: Where to look at both images of a pair.

    Returns:
        Pairs, by falling cosine. Of many copies of one image not all pairs are among them, but
        enough to put all into one of `duplicate_groups`, as long as each is near to some other.
    """
    N = len(x_ND)
    if N < 2:
        return _pairs(np.zeros((0, 2), np.int64), np.zeros(0, np.float32))
    k = min(_SCALE_RANK, N - 1)
    cosine_Nk, rows_Nk = top_k(x_ND, x_ND, k, own=np.arange(N))
    distance_Nk = np.maximum(1 - cosine_Nk, _SMALLEST)
    scale_N = _scale(distance_Nk[:, -1])
    units_Nk = distance_Nk / np.sqrt(scale_N[:, None] * scale_N[rows_Nk])
    close_Nk = units_Nk <= (NEAR if pictures is None else CANDIDATE)
    close_Nk |= distance_Nk <= _SMALLEST  # whatever the scale: it is tiny where all have copies
    close_Nk[:, _LOOKED_AT:] = False
    i_P, rank_P = close_Nk.nonzero()
    both_P2 = np.sort(np.stack([i_P, rows_Nk[i_P, rank_P]], 1), axis=1)
    rows_P2, first_P = np.unique(both_P2, axis=0, return_index=True)
    found = _pairs(rows_P2, cosine_Nk[i_P, rank_P][first_P])
    return found if pictures is None else _confirmed(found, pictures)


def duplicate_groups(pairs: DuplicatePairs, images: int) -> list[NDArray[np.int64]]:
    """Images joined by pairs, two at least: the largest group first, rows rising in each."""
    i_P, j_P = pairs.rows_P2.T
    return together(connected_components(np.arange(images), [(i_P, j_P)]))


def outlier_scores(
    x_ND: NDArray[Any], *, pictures: Pictures | None = None, k: int = _CROWD, directions: int = 64
) -> NDArray[np.float32]:
    """How surprising each image is among the others.

    Args:
        x_ND: Finite vectors.
        pictures: For the images' detail too; without, only vectors count.
        k: How many alike are still no crowd.
        directions: F, how many principal components are looked at.

    Returns:
        (N,) the largest of its surprises in nats, ln 2 where it is extreme in nothing: see the
        module. All are 0 where there are fewer than 2 k images.
    """
    N = len(x_ND)
    if 2 * k > N:
        return np.zeros(N, np.float32)
    y_NF = Principal.of(x_ND, directions)(x_ND)
    far_N = _kth_distance(y_NF, y_NF, k, own=np.arange(N))
    score_N = _normal_surprise(far_N, far_N)
    if pictures is not None:
        blocks = [np.arange(start, min(start + _BLOCK, N)) for start in range(0, N, _BLOCK)]
        detail_N = np.concatenate([detail(pictures(rows)) for rows in blocks])
        score_N = np.maximum(score_N, np.maximum(_surprise(-detail_N), _surprise(detail_N)))
    return score_N.astype(np.float32)


def scores_among(
    x_ND: NDArray[Any], known_MD: NDArray[Any], *, k: int = _CROWD, directions: int = 64
) -> NDArray[np.float32]:
    """How surprising each new image is among known ones, by vectors alone.

    Args:
        x_ND: Finite vectors of the new images.
        known_MD: Those of the known ones.
        k: How many alike are still no crowd.
        directions: F, how many principal components of the known vectors are looked at.

    Returns:
        (N,) surprises in nats, as `outlier_scores`; all 0 where fewer than 2 k are known.
    """
    if 2 * k > len(known_MD):
        return np.zeros(len(x_ND), np.float32)
    principal = Principal.of(known_MD, directions)
    y_NF, known_MF = principal(x_ND), principal(known_MD)
    usual_M = _kth_distance(known_MF, known_MF, k, own=np.arange(len(known_MF)))
    return _normal_surprise(_kth_distance(y_NF, known_MF, k), usual_M).astype(np.float32)


def outlier_flags(
    score_N: NDArray[np.floating[Any]], known: int | None = None
) -> NDArray[np.bool_]:
    """Which images stand out: surprises above ln of how many are known, by default of them all."""
    return np.asarray(score_N > np.log(max(2, len(score_N) if known is None else known)))


def _scale(far_N: NDArray[np.float32]) -> NDArray[np.float32]:
    """The unit of distance at each image: to its last neighbour, or half the usual one there."""
    usual = np.median(far_N[far_N > _SMALLEST]) if (far_N > _SMALLEST).any() else _SMALLEST
    return np.asarray(np.maximum(far_N, usual / 2), np.float32)


def _pairs(rows_P2: NDArray[np.int64], cosine_P: NDArray[np.float32]) -> DuplicatePairs:
    order_P = np.argsort(-cosine_P, kind="stable")
    nan_P = np.full(len(rows_P2), np.nan, np.float32)
    return DuplicatePairs(rows_P2[order_P], cosine_P[order_P], nan_P)


def _confirmed(pairs: DuplicatePairs, pictures: Pictures) -> DuplicatePairs:
    """Those whose pictures are the same."""
    parts = [slice(start, start + _BLOCK) for start in range(0, len(pairs), _BLOCK)]
    found = [correlations(*(pictures(rows) for rows in pairs.rows_P2[part].T)) for part in parts]
    correlation_P = np.concatenate([np.zeros(0, np.float32), *found])
    same_P = correlation_P >= SAME
    return DuplicatePairs(pairs.rows_P2[same_P], pairs.cosine_P[same_P], correlation_P[same_P])


@dataclass(frozen=True, eq=False)
class Principal:
    """The F directions in which unit vectors vary most: their mean and axes."""

    mean_D: NDArray[np.float32]
    axis_DF: NDArray[np.float32]

    @staticmethod
    def of(x_ND: NDArray[Any], directions: int) -> "Principal":
        """Those of these vectors."""
        x = _unit(x_ND)
        mean_D = x.mean(0)
        x -= mean_D
        _, axis_DD = np.linalg.eigh((x.T @ x).astype(np.float64))
        return Principal(mean_D, axis_DD[:, -directions:].astype(np.float32))

    def __call__(self, x_ND: NDArray[Any]) -> NDArray[np.float32]:
        """Vectors along them, (N, F)."""
        return np.asarray((_unit(x_ND) - self.mean_D) @ self.axis_DF)


def _unit(x_ND: NDArray[Any]) -> NDArray[np.float32]:
    x = np.array(x_ND, np.float32)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return x


def _kth_distance(
    y_NF: NDArray[np.float32],
    base_MF: NDArray[np.float32],
    k: int,
    own: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Euclidean distance of each row to the k-th nearest of the base.

    The nearest b to a has the largest a . b - |b|^2 / 2: a product of longer vectors.
    """
    squared_N1 = (y_NF.astype(np.float64) ** 2).sum(1, keepdims=True)
    query = np.concatenate([y_NF, np.ones_like(squared_N1)], 1)
    half_M1 = (base_MF.astype(np.float64) ** 2).sum(1, keepdims=True) / 2
    base = np.concatenate([base_MF, -half_M1], 1)
    best_Nk, _ = top_k(query, base, k, metric="dot", own=own)
    squared_N = np.maximum(squared_N1[:, 0] - 2 * best_Nk[:, -1].astype(np.float64), 0)
    return np.asarray(np.sqrt(squared_N))


def _normal_surprise(value_N: NDArray[Any], usual_M: NDArray[Any]) -> NDArray[np.float64]:
    """-ln P(value or more), with the upper half of the usual values as a normal distribution's."""
    from scipy.special import log_ndtr, ndtri

    beyond_N = _beyond_middle(value_N, usual_M)
    surprise_N: NDArray[np.float64] = -log_ndtr(-beyond_N * ndtri(_TAIL[1]))
    return surprise_N


def _surprise(value_N: NDArray[Any]) -> NDArray[np.float64]:
    """-ln P(value or more), with the upper half of the values as an exponential distribution's."""
    rate = np.log((1 - _TAIL[0]) / (1 - _TAIL[1]))
    return _beyond_middle(value_N, value_N) * float(rate) - float(np.log(1 - _TAIL[0]))


def _beyond_middle(value_N: NDArray[Any], usual_M: NDArray[Any]) -> NDArray[np.float64]:
    """How far above the usual median, in units of how far its 90 % point is; 0 below it."""
    middle, high = np.quantile(usual_M, _TAIL)
    if not high > middle:  # almost half of them are alike: nothing says how the others spread
        return np.zeros(len(value_N))
    return np.asarray(np.maximum(value_N - middle, 0) / (high - middle))
