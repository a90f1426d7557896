"""Retrieval by the words of the papers: an image, a region, a pixel at a time."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np


def average_precision(ranked: Sequence[int], positive: set[int], junk: set[int]) -> float:
    """Go down the ranking without the junk; add the trapezoid of each step of recall."""
    old_recall, old_precision, ap = 0.0, 1.0, 0.0
    found = seen = 0
    for image in ranked:
        if image in junk:
            continue
        seen += 1
        if image in positive:
            found += 1
        recall, precision = found / len(positive), found / seen
        ap += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
    return ap


def first_of(ranked: Sequence[int], junk: set[int], k: int) -> list[int]:
    """The first k images that are no junk."""
    return [image for image in ranked if image not in junk][:k]


def recall_at(ranked: Sequence[int], positive: set[int], junk: set[int], k: int) -> float:
    return float(any(image in positive for image in first_of(ranked, junk, k)))


def precision_at(ranked: Sequence[int], positive: set[int], junk: set[int], k: int) -> float:
    """Of the first k, or of those up to the last positive where it comes before the k-th."""
    every = first_of(ranked, junk, len(ranked))
    right = [image in positive for image in every]
    if True not in right:
        return 0.0
    last = max(rank for rank, yes in enumerate(right, start=1) if yes)
    first = right[: min(k, last)]
    return sum(first) / len(first)


def squares_along(short: int, long: int, overlap: Fraction) -> int:
    """How many of the largest squares: two or more, overlapping as nearly as can be so much."""
    if short == long:
        return 1
    best = min(
        range(2, 3 * long + 3),
        key=lambda m: (abs(1 - Fraction(long - short, (m - 1) * short) - overlap), m),
    )
    return best


def regions(
    height: int, width: int, levels: int, overlap: Fraction = Fraction(2, 5)
) -> list[tuple[int, int, int]]:
    """Top, left and side of all squares."""
    short, m = min(height, width), squares_along(*sorted((height, width)), overlap)
    found = []
    for level in range(1, levels + 1):
        side = max(1, int(Fraction(2 * short, level + 1)))
        rows = level if height <= width else level + m - 1
        columns = level if width <= height else level + m - 1
        for i in range(rows):
            for j in range(columns):
                top = int(Fraction(i * (height - side), rows - 1)) if rows > 1 else 0
                left = int(Fraction(j * (width - side), columns - 1)) if columns > 1 else 0
                found.append((top, left, side))
    return found


def unit(vector: np.ndarray) -> np.ndarray:
    length = np.sqrt(sum(float(value) ** 2 for value in vector))
    return vector / length if length else vector


def rmac(map_chw: np.ndarray, levels: int) -> np.ndarray:
    """The sum of the regions' maxima, each of unit length, made one of unit length."""
    channels, height, width = map_chw.shape
    total = np.zeros(channels)
    for top, left, side in regions(height, width, levels):
        largest = np.full(channels, -np.inf)
        for c in range(channels):
            for y in range(top, top + side):
                for x in range(left, left + side):
                    largest[c] = max(largest[c], map_chw[c, y, x])
        total += unit(largest)
    return unit(total)


def expanded(x: np.ndarray, found: np.ndarray, alpha: float) -> np.ndarray:
    """A vector and what it found, each weighted by its cosine with it to the power of alpha."""
    total = x.astype(float).copy()
    for other in found:
        cosine = sum(float(a) * float(b) for a, b in zip(x, other, strict=True))
        total += max(cosine, 0.0) ** alpha * other
    return unit(total)
