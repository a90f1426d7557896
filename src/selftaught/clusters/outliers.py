"""Near-duplicates and outliers among images.

Near-duplicates. The distance of two vectors is d = 1 - cosine. It is measured in units of the local
distance between images, d_ij / sqrt(s_i s_j), as in self-tuning spectral clustering (Zelnik-Manor
and Perona 2004), where s_i is i's distance to its 10th neighbour. If many copies make this tiny,
s_i is half the median of those distances that do not belong to copies. Distances are at least what
float32 can resolve, and images that near are copies at any scale. By vectors alone, a pair is a
near-duplicate up to NEAR of these units. With pictures, pairs up to CANDIDATE are compared, and the
pictures decide (`gray.py`).

Outliers. An image can be extreme in three ways: far from its 20th neighbour in the 64 directions in
which vectors vary most (so up to 20 similar outliers can still be found, and noise in the other
directions does not count); and, with pictures, much less or much more detailed than the others.
Each becomes a surprise, -ln of the share of images expected to be as extreme if the upper half of
the values continued as it falls from its 50 % to its 90 % point: like a normal distribution for
distances, which are sums of many parts; exponentially for detail, the logarithm of a ratio of
energies. A surprise above ln N is expected of less than one image in N: these are the outliers.

Shapes:  N images; D size of a vector; P pairs; F directions; k neighbours; S side of a picture.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selftaught.clusters.gray import crop_correlations, detail_scores
from selftaught.pairwise.neighbours import connected_components, group_rows, top_k

NEAR, CANDIDATE = 0.3, 0.6
"""Units of distance up to which two images are near-duplicates, or are compared by pictures."""

SAME = 0.95
"""Correlation from which two pictures count as the same photograph."""

_CROWD = 20  # up to this many similar images can all be outliers

FEWEST = 2 * _CROWD
"""The least number of images among which outliers are found."""

Pictures = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""From rows to gray pictures (n, S, S), as `gray_pictures` makes them."""

_SCALE_RANK = 10  # the neighbour whose distance is the unit
_CHECKED = 5  # neighbours of each image that may be its duplicates
_SMALLEST = 1e-6  # about the float32 error of 1 - cosine of equal vectors
_TAIL = (0.5, 0.9)
_BLOCK = 1024


@dataclass(frozen=True, eq=False)
class DuplicatePairs:
    """Pairs of images, the most similar first.

    Attributes:
        rows_P2: int64: two rows, the lower first.
        cosine_P: float32, of their vectors.
        correlation_P: float32, of their pictures; NaN without pictures.
    """

    rows_P2: NDArray[np.int64]
    cosine_P: NDArray[np.float32]
    correlation_P: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rows_P2)


def near_duplicates(x_ND: NDArray[Any], *, pictures: Pictures | None = None) -> DuplicatePairs:
    """Pairs of images that show the same picture, slightly changed.

    Args:
        x_ND: Finite vectors.
        pictures: The images' gray pictures, to compare both images of a pair.

    Returns:
        Pairs, by falling cosine. Many copies of one image do not give all of their pairs, but
        enough for `duplicate_groups` to join them all, as long as each is near some other.
    """
    N = len(x_ND)
    if N < 2:
        return _sorted_pairs(np.zeros((0, 2), np.int64), np.zeros(0, np.float32))
    k = min(_SCALE_RANK, N - 1)
    cosine_Nk, rows_Nk = top_k(x_ND, x_ND, k, own=np.arange(N))
    distance_Nk = np.maximum(1 - cosine_Nk, _SMALLEST)
    scale_N = _local_scale(distance_Nk[:, -1])
    units_Nk = distance_Nk / np.sqrt(scale_N[:, None] * scale_N[rows_Nk])
    close_Nk = units_Nk <= (NEAR if pictures is None else CANDIDATE)
    close_Nk |= distance_Nk <= _SMALLEST  # whatever the scale, which is tiny if all have copies
    close_Nk[:, _CHECKED:] = False
    i_P, rank_P = close_Nk.nonzero()
    both_P2 = np.sort(np.stack([i_P, rows_Nk[i_P, rank_P]], 1), axis=1)
    rows_P2, first_P = np.unique(both_P2, axis=0, return_index=True)
    found = _sorted_pairs(rows_P2, cosine_Nk[i_P, rank_P][first_P])
    return found if pictures is None else _confirmed_pairs(found, pictures)


def duplicate_groups(pairs: DuplicatePairs, images: int) -> list[NDArray[np.int64]]:
    """Groups of at least two images joined by pairs: the largest first, rows rising in each."""
    i_P, j_P = pairs.rows_P2.T
    return group_rows(connected_components(np.arange(images), [(i_P, j_P)]))


def outlier_scores(
    x_ND: NDArray[Any], *, pictures: Pictures | None = None, k: int = _CROWD, directions: int = 64
) -> NDArray[np.float32]:
    """How surprising each image is among the others.

    Args:
        x_ND: Finite vectors.
        pictures: The images' gray pictures, for their detail; None: only vectors count.
        k: Up to this many similar images can all be outliers.
        directions: F, the number of principal components used.

    Returns:
        (N,) the largest of each image's surprises in nats (see the module), ln 2 if none is
        extreme. All are 0 with fewer than 2 k images.
    """
    N = len(x_ND)
    if 2 * k > N:
        return np.zeros(N, np.float32)
    y_NF = PrincipalDirections.of(x_ND, directions)(x_ND)
    far_N = _kth_distance(y_NF, y_NF, k, own=np.arange(N))
    score_N = _normal_surprise(far_N, far_N)
    if pictures is not None:
        blocks = [np.arange(start, min(start + _BLOCK, N)) for start in range(0, N, _BLOCK)]
        detail_N = np.concatenate([detail_scores(pictures(rows)) for rows in blocks])
        score_N = np.maximum(
            score_N, np.maximum(_exponential_surprise(-detail_N), _exponential_surprise(detail_N))
        )
    return score_N.astype(np.float32)


def outlier_scores_against(
    x_ND: NDArray[Any], known_MD: NDArray[Any], *, k: int = _CROWD, directions: int = 64
) -> NDArray[np.float32]:
    """How surprising each new image is among known ones, by vectors alone.

    Args:
        x_ND: Finite vectors of the new images.
        known_MD: Vectors of the known images.
        k: Up to this many similar images can all be outliers.
        directions: F, the number of principal components of the known vectors used.

    Returns:
        (N,) surprises in nats, as from `outlier_scores`; all 0 with fewer than 2 k known images.
    """
    if 2 * k > len(known_MD):
        return np.zeros(len(x_ND), np.float32)
    principal = PrincipalDirections.of(known_MD, directions)
    y_NF, known_MF = principal(x_ND), principal(known_MD)
    usual_M = _kth_distance(known_MF, known_MF, k, own=np.arange(len(known_MF)))
    return _normal_surprise(_kth_distance(y_NF, known_MF, k), usual_M).astype(np.float32)


def outlier_flags(
    score_N: NDArray[np.floating[Any]], known: int | None = None
) -> NDArray[np.bool_]:
    """Which images are outliers: surprise above ln of the number of known images (default: N)."""
    return np.asarray(score_N > np.log(max(2, len(score_N) if known is None else known)))


def _local_scale(far_N: NDArray[np.float32]) -> NDArray[np.float32]:
    """The unit of distance at each image: to its last neighbour, but at least half the median."""
    usual = np.median(far_N[far_N > _SMALLEST]) if (far_N > _SMALLEST).any() else _SMALLEST
    return np.asarray(np.maximum(far_N, usual / 2), np.float32)


def _sorted_pairs(rows_P2: NDArray[np.int64], cosine_P: NDArray[np.float32]) -> DuplicatePairs:
    order_P = np.argsort(-cosine_P, kind="stable")
    nan_P = np.full(len(rows_P2), np.nan, np.float32)
    return DuplicatePairs(rows_P2[order_P], cosine_P[order_P], nan_P)


def _confirmed_pairs(pairs: DuplicatePairs, pictures: Pictures) -> DuplicatePairs:
    """The pairs whose pictures are the same."""
    parts = [slice(start, start + _BLOCK) for start in range(0, len(pairs), _BLOCK)]
    found = [
        crop_correlations(*(pictures(rows) for rows in pairs.rows_P2[part].T)) for part in parts
    ]
    correlation_P = np.concatenate([np.zeros(0, np.float32), *found])
    same_P = correlation_P >= SAME
    return DuplicatePairs(pairs.rows_P2[same_P], pairs.cosine_P[same_P], correlation_P[same_P])


@dataclass(frozen=True, eq=False)
class PrincipalDirections:
    """The F directions in which unit vectors vary most: their mean and axes."""

    mean_D: NDArray[np.float32]
    axis_DF: NDArray[np.float32]

    @staticmethod
    def of(x_ND: NDArray[Any], directions: int) -> "PrincipalDirections":
        """The directions of these vectors."""
        x = _unit_rows(x_ND)
        mean_D = x.mean(0)
        x -= mean_D
        _, axis_DD = np.linalg.eigh((x.T @ x).astype(np.float64))
        return PrincipalDirections(mean_D, axis_DD[:, -directions:].astype(np.float32))

    def __call__(self, x_ND: NDArray[Any]) -> NDArray[np.float32]:
        """Coordinates of vectors in these directions, (N, F)."""
        return np.asarray((_unit_rows(x_ND) - self.mean_D) @ self.axis_DF)


def _unit_rows(x_ND: NDArray[Any]) -> NDArray[np.float32]:
    x = np.array(x_ND, np.float32)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return x


def _kth_distance(
    y_NF: NDArray[np.float32],
    base_MF: NDArray[np.float32],
    k: int,
    own: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Euclidean distance of each row to the k-th nearest row of the base.

    The nearest b to a has the largest a . b - |b|^2 / 2: a dot product of longer vectors.
    """
    squared_N1 = (y_NF.astype(np.float64) ** 2).sum(1, keepdims=True)
    query = np.concatenate([y_NF, np.ones_like(squared_N1)], 1)
    half_M1 = (base_MF.astype(np.float64) ** 2).sum(1, keepdims=True) / 2
    base = np.concatenate([base_MF, -half_M1], 1)
    best_Nk, _ = top_k(query, base, k, metric="dot", own=own)
    squared_N = np.maximum(squared_N1[:, 0] - 2 * best_Nk[:, -1].astype(np.float64), 0)
    return np.asarray(np.sqrt(squared_N))


def _normal_surprise(value_N: NDArray[Any], usual_M: NDArray[Any]) -> NDArray[np.float64]:
    """-ln P(value or more), if the upper half of the usual values is normally distributed."""
    from scipy.special import log_ndtr, ndtri

    beyond_N = _beyond_middle(value_N, usual_M)
    surprise_N: NDArray[np.float64] = -log_ndtr(-beyond_N * ndtri(_TAIL[1]))
    return surprise_N


def _exponential_surprise(value_N: NDArray[Any]) -> NDArray[np.float64]:
    """-ln P(value or more), if the upper half of the values is exponentially distributed."""
    rate = np.log((1 - _TAIL[0]) / (1 - _TAIL[1]))
    return _beyond_middle(value_N, value_N) * float(rate) - float(np.log(1 - _TAIL[0]))


def _beyond_middle(value_N: NDArray[Any], usual_M: NDArray[Any]) -> NDArray[np.float64]:
    """Distance above the usual median, in units of the 90 % point's distance; 0 below it."""
    middle, high = np.quantile(usual_M, _TAIL)
    if not high > middle:  # almost half are equal: the spread of the others is unknown
        return np.zeros(len(value_N))
    return np.asarray(np.maximum(value_N - middle, 0) / (high - middle))
