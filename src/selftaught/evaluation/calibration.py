"""Calibrated probabilities: temperature scaling and calibration error.

Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", ICML 2017: section 4.2
(temperature), section 2 (expected calibration error).

Shapes:  M images; K classes.
"""

import math
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_BINS = 15  # section 5
_FARTHEST = 7.0  # |ln T|


def temperature(logits_MK: Tensor, labels_M: Tensor) -> float:
    """The T whose softmax(logits / T) has the lowest cross-entropy; 1 without images.

    If every image is right, T would fall to 0 and all probabilities rise to 1. So targets are
    softened, as in Platt (1999): after M images that were all right, the mean probability of
    being right is (M + 1) / (M + 2), Laplace's rule of succession.
    """
    from scipy.optimize import minimize_scalar

    M, K = logits_MK.shape
    if not M or K < 2:
        return 1.0
    logits_MK, soft = logits_MK.double(), min(1.0, K / ((K - 1) * (M + 2)))

    def loss(log_t: float) -> float:
        scaled_MK = logits_MK / math.exp(log_t)
        return F.cross_entropy(scaled_MK, labels_M, label_smoothing=soft).item()

    # Convex in 1/T, so it has a single minimum in ln T.
    found = minimize_scalar(loss, bounds=(-_FARTHEST, _FARTHEST), method="bounded")
    return math.exp(float(found.x))


class Bin(NamedTuple):
    """Images of similar confidence, with their accuracy.

    Attributes:
        says: Their mean confidence.
        right: Share of the images that are right.
        images: Number of images.
    """

    says: float
    right: float
    images: int


def reliability(
    confidence_M: NDArray[np.float64], correct_M: NDArray[np.bool_], bins: int = _BINS
) -> list[Bin]:
    """Figure 1: non-empty bins of equal width, the least confident first."""
    bin_M = np.minimum((confidence_M * bins).astype(np.int64), bins - 1)
    images = np.bincount(bin_M, minlength=bins)
    says, right = (np.bincount(bin_M, of_M, minlength=bins) for of_M in (confidence_M, correct_M))
    return [
        Bin(float(says[i] / images[i]), float(right[i] / images[i]), int(images[i]))
        for i in np.flatnonzero(images)
    ]


def expected_calibration_error(
    confidence_M: NDArray[np.float64], correct_M: NDArray[np.bool_], bins: int = _BINS
) -> float:
    """Eq. 3: mean gap between confidence and accuracy over equal bins; nan without images."""
    if not len(confidence_M):
        return math.nan
    found = reliability(confidence_M, correct_M, bins)
    return sum(abs(one.right - one.says) * one.images for one in found) / len(confidence_M)
