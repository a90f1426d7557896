"""Comparison of masks: region similarity J and contour accuracy F.

Perazzi et al., "A benchmark dataset and evaluation methodology for video object segmentation",
CVPR 2016; Pont-Tuset et al. 2017 (arXiv 1704.00675) compute them per object
and their mean J&F.

Shapes:  H, W of a mask.
"""

import math

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

TOLERANCE = 0.008
"""Largest distance of matching contours, as a share of the image's diagonal."""


def region_similarity(found_HW: Mask, true_HW: Mask) -> float:
    """J: intersection over union; 1 if both are empty."""
    union = np.count_nonzero(found_HW | true_HW)
    return np.count_nonzero(found_HW & true_HW) / union if union else 1.0


def contour_accuracy(found_HW: Mask, true_HW: Mask, *, tolerance: float = TOLERANCE) -> float:
    """F: harmonic mean of the precision and the recall of contours.

    Precision is the share of the found contour's pixels with a pixel of the true contour within
    a disk; recall is the share of the true contour's pixels with one of the found. F is 1 if
    neither mask has a contour, 0 if only one has. The image's border is not a contour.

    Args:
        found_HW: The predicted mask.
        true_HW: The true mask.
        tolerance: Radius of the disk as a share of the diagonal, rounded up to whole pixels.
    """
    found, true = contour(found_HW), contour(true_HW)
    if not found.any() or not true.any():
        return float(found.any() == true.any())
    radius = math.ceil(tolerance * math.hypot(*found.shape))
    box = _bounding_box(found | true)
    found, true = found[box], true[box]
    precision, recall = _share_near(found, true, radius), _share_near(true, found, radius)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def contour(mask_HW: Mask) -> Mask:
    """Pixels whose right, lower or lower right neighbour lies on the other side, (H, W)."""
    wide = np.pad(mask_HW, ((0, 1), (0, 1)), mode="edge")
    right, below, diagonal = wide[:-1, 1:], wide[1:, :-1], wide[1:, 1:]
    differs: Mask = (mask_HW != right) | (mask_HW != below) | (mask_HW != diagonal)
    return differs


def _bounding_box(mask_HW: Mask) -> tuple[slice, slice]:
    """Bounding box of a mask; distances in it equal those in the image."""
    rows, columns = (np.flatnonzero(mask_HW.any(axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _share_near(these_HW: Mask, others_HW: Mask, radius: int) -> float:
    """Share of these pixels with one of the others within a radius."""
    from scipy.ndimage import distance_transform_edt

    near_HW = distance_transform_edt(~others_HW) <= radius
    return np.count_nonzero(these_HW & near_HW) / np.count_nonzero(these_HW)
