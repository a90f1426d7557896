"""J and F: worked out by hand, against loops over pixels, and against scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score

from selftaught.evaluation.masks import contour, contour_accuracy, region_similarity
from tests.oracles import masks as oracle


def box(size: tuple[int, int], top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def random_mask(numbers: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Noise, or a box, or nothing, or all."""
    kind = numbers.integers(8)
    if kind < 2:
        return np.full(size, bool(kind))
    if kind < 4:
        return numbers.random(size) < numbers.random()
    top, left = (numbers.integers(side) for side in size)
    return box(size, top, left, *(1 + numbers.integers(side) for side in size))


def both(found: np.ndarray, true: np.ndarray, tolerance: float = 0.008) -> tuple[float, float]:
    return region_similarity(found, true), contour_accuracy(found, true, tolerance=tolerance)


def slow(found: np.ndarray, true: np.ndarray, tolerance: float = 0.008) -> tuple[float, float]:
    return (
        oracle.region_similarity(found, true),
        oracle.contour_accuracy(found, true, tolerance),
    )


def test_contours_by_hand() -> None:
    # A pixel belongs to the contour if its right, lower or lower right neighbour differs.
    drawn = np.array([list("....."), list("..##."), list("..##."), list(".....")]) == "#"
    expected = np.array([list(".###."), list(".#.#."), list(".###."), list(".....")]) == "#"
    assert (contour(drawn) == expected).all()
    assert oracle.contour(drawn) == list(zip(*map(list, np.nonzero(expected)), strict=True))
    assert not contour(np.ones((3, 4), bool)).any() and not contour(np.zeros((3, 4), bool)).any()


def test_similarity_by_hand() -> None:
    # Two squares of 4 x 4, one shifted by 2: 8 pixels of 24 in common.
    size = (20, 20)
    found, true = box(size, 8, 8, 4, 4), box(size, 8, 10, 4, 4)
    # Contours are rings of 16 pixels, 5 x 5; 0.008 of the diagonal of 28.3 is up to one pixel. Of
    # the two rows of 5, 4 are near the other ring, of the nearer column the upper and the lower.
    for j, f in (both(found, true), slow(found, true)):
        assert j == pytest.approx(1 / 3)
        assert f == pytest.approx(10 / 16)
    for j, f in (both(found, true, 0.06), slow(found, true, 0.06)):
        assert (j, f) == (pytest.approx(1 / 3), 1.0)  # two pixels are near enough


def test_precision_and_recall_count_contours_alike() -> None:
    # One of two far squares is found: precision 1, recall 1/2, F = 2/3; and the other way round.
    size = (30, 30)
    one, two = box(size, 2, 2, 4, 4), box(size, 2, 2, 4, 4) | box(size, 20, 20, 4, 4)
    for j, f in (both(one, two), slow(one, two), both(two, one), slow(two, one)):
        assert (j, f) == (0.5, pytest.approx(2 / 3))


def test_masks_without_contour() -> None:
    nothing, everything, some = (
        np.zeros((9, 9), bool),
        np.ones((9, 9), bool),
        box((9, 9), 3, 3, 2, 2),
    )
    for similarity in (both, slow):
        assert similarity(nothing, nothing) == (1.0, 1.0)
        assert similarity(everything, everything) == (1.0, 1.0)
        assert similarity(nothing, some) == similarity(some, nothing) == (0.0, 0.0)
        assert similarity(everything, some)[1] == 0.0


def test_the_tolerance_is_rounded_up_to_pixels() -> None:
    size = (480, 854)  # DAVIS' frames: a diagonal of 979.6 pixels, 0.008 of it 7.84
    true = box(size, 100, 100, 200, 200)
    assert contour_accuracy(box(size, 108, 100, 200, 200), true) == 1.0
    assert contour_accuracy(box(size, 109, 100, 200, 200), true) < 1.0


@pytest.mark.slow
def test_five_hundred_random_pairs_equal_loops_and_scikit_learn() -> None:
    numbers = np.random.default_rng(0)
    for _ in range(500):
        size = (int(numbers.integers(1, 14)), int(numbers.integers(1, 14)))
        found, true = random_mask(numbers, size), random_mask(numbers, size)
        tolerance = float(numbers.choice([0.008, 0.1, 0.2]))
        j, f = both(found, true, tolerance)
        assert (j, f) == pytest.approx(slow(found, true, tolerance), abs=1e-12)
        expected = jaccard_score(true.ravel(), found.ravel(), zero_division=1.0)
        assert j == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 2**32 - 1))
def test_similarity_is_symmetric_and_one_of_a_mask_with_itself(seed: int) -> None:
    numbers = np.random.default_rng(seed)
    a, b = random_mask(numbers, (11, 9)), random_mask(numbers, (11, 9))
    assert both(a, a) == (1.0, 1.0)
    assert both(a, b) == pytest.approx(both(b, a))
    assert all(0 <= value <= 1 and math.isfinite(value) for value in both(a, b))
