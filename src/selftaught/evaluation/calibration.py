"""Probabilities that mean what they say: temperature scaling, and how far off they are.

Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", ICML 2017: section 4.2
(temperature), section 2 (expected calibration error).

Shapes:  M images; K classes.
"""

import math

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_BINS = 15  # section 5
_FARTHEST = 7.0  # |ln T|


def temperature(logits_MK: Tensor, labels_M: Tensor) -> float:
    """The T whose softmax(logits / T) has the lowest cross-entropy; 1 without images.

    Where every image is right T would fall to 0 and all probabilities rise to 1. So targets are
    softened, as Platt (1999) does: after M images that were all right, the mean probability of
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

    # Convex in 1/T, and so with a single valley in ln T.
    found = minimize_scalar(loss, bounds=(-_FARTHEST, _FARTHEST), method="bounded")
    return math.exp(float(found.x))


def expected_calibration_error(
    confidence_M: NDArray[np.float64], correct_M: NDArray[np.bool_], bins: int = _BINS
) -> float:
    """Eq. 3: mean gap of confidence and accuracy over bins of equal width; nan without images."""
    if not len(confidence_M):
        return math.nan
    bin_M = np.minimum((confidence_M * bins).astype(np.int64), bins - 1)
    gap_M: NDArray[np.float64] = correct_M - confidence_M.astype(np.float64)
    return float(np.abs(np.bincount(bin_M, gap_M, minlength=bins)).sum() / len(gap_M))
