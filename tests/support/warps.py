"""Photographs seen from elsewhere: warps whose truth is known."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Warp:
    """An image, and where the places of the original lie in it.

    Attributes:
        image_HWC: What is seen.
        truth_23: (x, y, 1) of the original to (x, y) of this.
    """

    image_HWC: NDArray[np.uint8]
    truth_23: NDArray[np.float64]


def warped(image_HWC: NDArray[np.uint8], rng: np.random.Generator) -> Warp:
    """A scale from 0.6 to 1.6, a turn up to 45 degrees, a shear up to 0.2, and other brightness.

    The whole image is seen, on black.
    """
    zoom, turn = 0.6 * (1.6 / 0.6) ** rng.random(), np.radians(rng.uniform(-45, 45))
    shear, along = rng.uniform(-0.2, 0.2), np.radians(rng.uniform(0, 180))
    sheared_22 = _turn(along) @ np.array([[1, shear], [0, 1]]) @ _turn(-along)
    L_22 = zoom * _turn(turn) @ sheared_22
    corners_2C = L_22 @ corners(image_HWC)
    b_2 = 1 - corners_2C.min(1)
    width, height = np.ceil(np.ptp(corners_2C, axis=1)).astype(int) + 3
    truth_23 = np.column_stack([L_22, b_2])
    if zoom < 1:  # against aliasing
        image_HWC = cv2.GaussianBlur(image_HWC, (0, 0), 0.5 * (1 / zoom**2 - 1) ** 0.5)
    seen: Any = cv2.warpAffine(
        image_HWC, truth_23, (int(width), int(height)), flags=cv2.INTER_CUBIC
    )
    gain, offset = rng.uniform(0.7, 1.3), rng.uniform(-25, 25)
    return Warp((gain * seen + offset).clip(0, 255).astype(np.uint8), truth_23)


def corners(image_HWC: NDArray[Any]) -> NDArray[np.float64]:
    """x and y of its four corners, (2, 4)."""
    height, width = image_HWC.shape[:2]
    return np.array([[0, width - 1, width - 1, 0], [0, 0, height - 1, height - 1]], np.float64)


def miss(image_HWC: NDArray[Any], found_23: NDArray[Any], truth_23: NDArray[Any]) -> float:
    """By how many pixels a transform misses the worst of the image's corners."""
    xy1_3C = np.vstack([corners(image_HWC), np.ones(4)])
    return float(np.linalg.norm((found_23 - truth_23) @ xy1_3C, axis=0).max())


def _turn(angle: float) -> NDArray[np.float64]:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
