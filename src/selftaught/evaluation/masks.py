"""Masks against masks: region similarity J and contour accuracy F.

Perazzi et al., "A benchmark dataset and evaluation methodology for video object segmentation",
CVPR 2016; Pont-Tuset et al. 2017 (arXiv 1704.00675) take them of each object
and their mean J&F.

Shapes:  H, W of a mask.
"""

import math

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

TOLERANCE = 0.008
"""How far apart contours may be, as a share of the image's diagonal."""


def region_similarity(found_HW: Mask, true_HW: Mask) -> float:
    """J: intersection over union; 1 where both are empty."""
    union = np.count_nonzero(found_HW | true_HW)
    return np.count_nonzero(found_HW & true_HW) / union if union else 1.0


def contour_accuracy(found_HW: Mask, true_HW: Mask, *, tolerance: float = TOLERANCE) -> float:
    """F: harmonic mean of the precision and the recall of contours.

    Precision is the share of the pixels of the found contour with one of the true contour within
    a disk, recall the share of the true contour's with one of the found. 1 where neither mask has
    a contour, 0 where one has. What is cut off by the image's border has no contour there.

    Args:
        found_HW: The mask in question.
        true_HW: The mask that it should be.
        tolerance: Radius of the disk as a share of the diagonal, rounded up to whole pixels.
    """
    found, true = contour(found_HW), contour(true_HW)
    if not found.any() or not true.any():
        return float(found.any() == true.any())
    radius = math.ceil(tolerance * math.hypot(*found.shape))
    box = _around(found | true)
    found, true = found[box], true[box]
    precision, recall = _share_near(found, true, radius), _share_near(true, found, radius)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def contour(mask_HW: Mask) -> Mask:
    """Pixels whose right, lower or lower right neighbour lies on the other side, (H, W)."""
    wide = np.pad(mask_HW, ((0, 1), (0, 1)), mode="edge")
    right, below, diagonal = wide[:-1, 1:], wide[1:, :-1], wide[1:, 1:]
    differs: Mask = (mask_HW != right) | (mask_HW != below) | (mask_HW != diagonal)
    return differs


def _around(mask_HW: Mask) -> tuple[slice, slice]:
    """The smallest box that holds a mask: distances within it are those within the image."""
    rows, columns = (np.flatnonzero(mask_HW.any(axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _share_near(these_HW: Mask, those_HW: Mask, radius: int) -> float:
    """The share of these pixels that have one of those within a radius."""
    from scipy.ndimage import distance_transform_edt

    near_HW = distance_transform_edt(~those_HW) <= radius
    return np.count_nonzero(these_HW & near_HW) / np.count_nonzero(these_HW)
