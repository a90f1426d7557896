"""Random images to make views of: crops of real photographs, and extremes of 8-bit noise."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_sample_images

SIZES = ((1, 1), (1, 50), (50, 1), (2, 3), (7, 7), (17, 23), (32, 32), (33, 31), (48, 48), (64, 96))


@cache
def photographs() -> list[NDArray[np.uint8]]:
    """The two photographs that come with scikit-learn, (427, 640, 3)."""
    return list(load_sample_images().images)


def photograph(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """A crop of a real photograph, (height, width, 3)."""
    whole = photographs()[rng.integers(2)]
    top, left = rng.integers(whole.shape[0] - height + 1), rng.integers(whole.shape[1] - width + 1)
    return whole[top : top + height, left : left + width].copy()


def extreme(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Only 0 and 255, or noise, or one colour, or grays, (height, width, 3)."""
    shape: Any = (height, width, 3)
    kind = rng.integers(4)
    if kind == 0:
        return np.where(rng.random(shape) < 0.5, 0, 255).astype(np.uint8)
    if kind == 1:
        return rng.integers(0, 256, shape, np.uint8)
    if kind == 2:
        return np.broadcast_to(rng.choice([0, 1, 254, 255], 3), shape).astype(np.uint8)
    return rng.integers(0, 256, (height, width, 1), np.uint8).repeat(3, axis=2)


def random_images(
    count: int, seed: int, size: tuple[int, int] | None = None
) -> list[NDArray[np.uint8]]:
    """Half photographs, half extremes, (H, W, 3) of one size or of all `SIZES`."""
    rng = np.random.default_rng(seed)
    kinds = (photograph, extreme)
    sizes = [size or SIZES[rng.integers(len(SIZES))] for _ in range(count)]
    return [kinds[k % 2](rng, *one) for k, one in enumerate(sizes)]
