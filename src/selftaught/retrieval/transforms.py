"""Transforms from one image to another: hypotheses from pairs of keypoints, and fits to pairs.

A single pair of keypoints with scales and orientations gives a similarity (Philbin et al., CVPR
2007, section 4: one match is enough for a hypothesis). A transform explains a pair if it maps one
place to the other within their tolerance and changes the scale as the keypoints do. An affine
transform is fitted to the explained pairs by least squares, repeatedly (the local optimisation of
LO-RANSAC: Chum, Matas, Kittler, DAGM 2003).

Shapes:  M pairs; H transforms. A_23 maps (x, y, 1) of the first image to (x, y) of the second. As
         complex numbers, x + iy, places are z in the first and y in the second image, and a
         similarity is a z + b.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selftaught.retrieval.local_features import F64, Local

ZOOM = 2.0
"""Factor by which the ratio of a pair's scales may differ from the transform's scale."""

_ROUNDS, _WEIGHTED = 20, 5  # iterations of refinement at most, without and with weights
_LEAST_KEPT = 0.9  # share of the inliers, with weights
_SHARPEST = 0.01  # share of the tolerance; smaller errors count the same
_AFFINE = 6  # least pairs for an affine fit
_THIN = 0.05  # least spread of places across a line, relative to that along it
_STRETCH = 3.0  # largest ratio of the axes of an affine transform

Rows = NDArray[np.int64]
Bools = NDArray[np.bool_]
Complex = NDArray[np.complex128]
Fit = Callable[[Complex, Complex, F64], F64 | None]


@dataclass(frozen=True, eq=False)
class PointPairs:
    """Pairs of keypoints.

    Attributes:
        z_M: Places in the first image.
        y_M: Places in the second image.
        a_M: Ratio of the scales and difference of the orientations, as a complex number.
        near_M: Tolerance in the first image, in pixels.
        far_M: Tolerance in the second image, in pixels.
        upright: Whether keypoints have no orientation.
    """

    z_M: Complex
    y_M: Complex
    a_M: Complex
    near_M: F64
    far_M: F64
    upright: bool

    @classmethod
    def of(cls, first: Local, second: Local, pairs_M2: Rows) -> "PointPairs":
        """The pairs of two images' keypoints given by their indices."""
        assert first.upright == second.upright, "local features of two kinds"
        i_M, j_M = pairs_M2.T
        zoom_M = second.scale_N[j_M] / first.scale_N[i_M]
        turn_M = second.angle_N[j_M] - first.angle_N[i_M]
        return cls(
            as_complex(first.xy_N2[i_M]),
            as_complex(second.xy_N2[j_M]),
            zoom_M * np.exp(1j * turn_M),
            first.tolerance_N[i_M],
            second.tolerance_N[j_M],
            first.upright,
        )

    @property
    def hypotheses(self) -> F64:
        """The similarity given by each pair, (M, 2, 3)."""
        return _similarity(self.a_M, self.y_M - self.a_M * self.z_M)

    @cached_property
    def xy1_3M(self) -> F64:
        """Homogeneous places in the first image."""
        return np.stack([self.z_M.real, self.z_M.imag, np.ones(len(self.z_M))])

    @cached_property
    def log_zoom_M(self) -> F64:
        """Logarithm of the ratio of scales."""
        return np.asarray(np.log(np.abs(self.a_M)))

    def errors(self, A_H23: F64) -> F64:
        """The error of each transform for each pair, relative to the tolerance, (H, M).

        The error in the first image is the error in the second divided by the transform's scale,
        which is the square root of its determinant.
        """
        miss_x_HM = A_H23[:, 0] @ self.xy1_3M - self.y_M.real
        miss_y_HM = A_H23[:, 1] @ self.xy1_3M - self.y_M.imag
        limit_HM = np.minimum(self.far_M, _zoom(A_H23)[:, None] * self.near_M)
        return np.asarray(np.sqrt(miss_x_HM**2 + miss_y_HM**2) / limit_HM)

    def inliers(self, A_H23: F64) -> Bools:
        """Which pairs each transform explains in place and scale, (H, M)."""
        log_zoom_H1 = np.log(_zoom(A_H23))[:, None]
        as_large_HM: Bools = np.abs(self.log_zoom_M - log_zoom_H1) <= np.log(ZOOM)
        return as_large_HM & (self.errors(A_H23) <= 1)


def _zoom(A_H23: F64) -> F64:
    """The scale of each transform, (H,)."""
    area_H = A_H23[:, 0, 0] * A_H23[:, 1, 1] - A_H23[:, 0, 1] * A_H23[:, 1, 0]
    return np.asarray(np.sqrt(np.abs(area_H)))


def refine(A_23: F64, pairs: PointPairs) -> tuple[F64, Bools]:
    """Refit to the explained pairs while their number does not decrease.

    Returns:
        The transform, and which pairs it explains, (M,).
    """
    inlier_M = pairs.inliers(A_23[None])[0]
    for _ in range(_ROUNDS):
        fit = _fit(pairs, inlier_M, np.ones(inlier_M.sum()), inlier_M.sum())
        if fit is None:
            break
        converged = np.array_equal(fit[1], inlier_M)
        A_23, inlier_M = fit
        if converged:
            break
    return A_23, inlier_M


def refine_weighted(A_23: F64, pairs: PointPairs) -> tuple[F64, Bools]:
    """Refit to the explained pairs with less weight for larger errors.

    Wrong pairs within the tolerance would distort the transform. Weights are Cauchy's, with twice
    the median error as scale; a tenth of the pairs may be lost.

    Returns:
        As for `refine`.
    """
    inlier_M = pairs.inliers(A_23[None])[0]
    least = _LEAST_KEPT * inlier_M.sum()
    for _ in range(_WEIGHTED):
        weight_m = _weights(pairs.errors(A_23[None])[0, inlier_M])
        fit = _fit(pairs, inlier_M, weight_m, least)
        if fit is None:
            break
        A_23, inlier_M = fit
    return A_23, inlier_M


def _weights(error_M: F64) -> F64:
    scale = max(2 * float(np.median(error_M)), _SHARPEST) if len(error_M) else 1.0
    return 1 / (1 + np.square(error_M / scale))


def _fit(
    pairs: PointPairs, inlier_M: Bools, weight_m: F64, least: float
) -> tuple[F64, Bools] | None:
    """The first fit that explains at least `least` pairs, and the pairs it explains."""
    fits: Sequence[Fit] = (
        (_translation_and_scale,) if pairs.upright else (_affine, _rotated_similarity)
    )
    for fit in fits:
        A_23 = fit(pairs.z_M[inlier_M], pairs.y_M[inlier_M], weight_m)
        if A_23 is not None:
            new_M = pairs.inliers(A_23[None])[0]
            if new_M.sum() >= least:
                return A_23, new_M
    return None


# --- weighted least squares; None if the places do not determine a transform


def _affine(z_M: Complex, y_M: Complex, weight_M: F64) -> F64 | None:
    """An affine transform; None if mirrored, stretched too far, or fitted to places on a line."""
    if len(z_M) < _AFFINE:
        return None
    z, y = np.average(z_M, weights=weight_M), np.average(y_M, weights=weight_M)
    from_2M, to_2M = _real(z_M - z), _real(y_M - y)
    spread_22 = weight_M * from_2M @ from_2M.T
    thin, thick = np.linalg.eigvalsh(spread_22)
    if thin <= _THIN**2 * thick:
        return None
    L_22 = np.linalg.solve(spread_22, weight_M * from_2M @ to_2M.T).T.astype(np.float64)
    most, least = np.linalg.svd(L_22, compute_uv=False)
    if np.linalg.det(L_22) <= 0 or most > _STRETCH * least:
        return None
    return np.column_stack([L_22, _real(y) - L_22 @ _real(z)])


def _rotated_similarity(z_M: Complex, y_M: Complex, weight_M: F64) -> F64 | None:
    """A similarity."""
    return _linear(z_M, y_M, weight_M, lambda a: a)


def _translation_and_scale(z_M: Complex, y_M: Complex, weight_M: F64) -> F64 | None:
    """Translation and scale."""
    return _linear(z_M, y_M, weight_M, lambda a: max(a.real, 0))


def _linear(
    z_M: Complex, y_M: Complex, weight_M: F64, allowed: Callable[[complex], complex]
) -> F64 | None:
    """a z + b with a = sum conj(dz) dy / sum |dz|^2, or the nearest allowed a."""
    if not len(z_M):
        return None
    z, y = np.average(z_M, weights=weight_M), np.average(y_M, weights=weight_M)
    spread = np.vdot(z_M - z, weight_M * (z_M - z)).real
    a = allowed(complex(np.vdot(z_M - z, weight_M * (y_M - y)) / spread)) if spread > 0 else 0
    only_a = np.array([a], np.complex128)
    return _similarity(only_a, y - only_a * z)[0] if a else None


def _similarity(a_H: Complex, b_H: Complex) -> F64:
    """The similarities a z + b as transforms, (H, 2, 3)."""
    rows = [[a_H.real, -a_H.imag, b_H.real], [a_H.imag, a_H.real, b_H.imag]]
    return np.moveaxis(np.array(rows, np.float64), 2, 0)


def as_complex(xy_M2: F64) -> Complex:
    """Places as complex numbers, (M,)."""
    z_M: Complex = xy_M2[:, 0] + 1j * xy_M2[:, 1]
    return z_M


def _real(z: Any) -> F64:
    """Real and imaginary parts, (2, ...)."""
    return np.stack([z.real, z.imag])
