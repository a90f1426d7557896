"""J and F of two masks from their definitions, a pixel and a distance at a time."""

import math

import numpy as np


def region_similarity(found: np.ndarray, true: np.ndarray) -> float:
    pixels = [(bool(a), bool(b)) for a, b in zip(found.ravel(), true.ravel(), strict=True)]
    union = sum(a or b for a, b in pixels)
    return sum(a and b for a, b in pixels) / union if union else 1.0


def contour(mask: np.ndarray) -> list[tuple[int, int]]:
    """Pixels of which the right, lower or lower right neighbour, where there is one, differs."""
    height, width = mask.shape
    found = []
    for y in range(height):
        for x in range(width):
            neighbours = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            inside = [(i, j) for i, j in neighbours if i < height and j < width]
            if any(mask[i, j] != mask[y, x] for i, j in inside):
                found.append((y, x))
    return found


def contour_accuracy(found: np.ndarray, true: np.ndarray, tolerance: float) -> float:
    here, there = contour(found), contour(true)
    if not here and not there:
        return 1.0
    radius = math.ceil(tolerance * math.sqrt(found.shape[0] ** 2 + found.shape[1] ** 2))
    precision, recall = _near(here, there, radius), _near(there, here, radius)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _near(these: list[tuple[int, int]], those: list[tuple[int, int]], radius: int) -> float:
    hits = 0
    for y, x in these:
        hits += any((y - i) ** 2 + (x - j) ** 2 <= radius**2 for i, j in those)
    return hits / len(these) if these else 1.0
