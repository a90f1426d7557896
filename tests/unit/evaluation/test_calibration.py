"""Temperature, calibration error and the interval of a share, against slow sums and scipy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selftaught.evaluation.calibration import (
    expected_calibration_error,
    reliability,
    temperature,
)
from selftaught.evaluation.metrics import share_interval


def drawn(M: int, K: int, T: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels that have the probabilities softmax(logits / T)."""
    numbers = np.random.default_rng(seed)
    logits_MK = numbers.normal(size=(M, K)) * 3
    p_MK = np.exp(logits_MK / T) / np.exp(logits_MK / T).sum(1, keepdims=True)
    labels_M = (p_MK.cumsum(1) < numbers.random((M, 1))).sum(1).clip(max=K - 1)
    return torch.from_numpy(logits_MK), torch.from_numpy(labels_M)


def slow_loss(logits_MK: torch.Tensor, labels_M: torch.Tensor, T: float) -> float:
    """Cross-entropy to softened targets, a number at a time."""
    M, K = logits_MK.shape
    soft = K / ((K - 1) * (M + 2))
    total = 0.0
    for logits_K, label in zip(logits_MK.tolist(), labels_M.tolist(), strict=True):
        log_sum = math.log(sum(math.exp(v / T) for v in logits_K))
        for k, value in enumerate(logits_K):
            target = soft / K + (1 - soft if k == label else 0)
            total -= target * (value / T - log_sum)
    return total / M


@pytest.mark.parametrize("T", [0.5, 1.0, 3.0])
def test_the_temperature_has_the_lowest_loss(T: float) -> None:
    logits_MK, labels_M = drawn(60, 4, T)
    found = temperature(logits_MK, labels_M)
    at = slow_loss(logits_MK, labels_M, found)
    grid = np.exp(np.linspace(math.log(found) - 2, math.log(found) + 2, 81))
    assert all(slow_loss(logits_MK, labels_M, t) >= at - 1e-9 for t in grid)


@pytest.mark.parametrize("T", [0.5, 2.0])
def test_the_temperature_that_made_labels_is_found(T: float) -> None:
    assert temperature(*drawn(20_000, 5, T)) == pytest.approx(T, rel=0.05)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 20), st.integers(0, 100))
def test_hotter_logits_get_a_higher_temperature(times: float, seed: int) -> None:
    logits_MK, labels_M = drawn(100, 3, 1.0, seed)
    plain = temperature(logits_MK, labels_M)
    assert temperature(logits_MK * times, labels_M) == pytest.approx(plain * times, rel=1e-3)


@pytest.mark.parametrize("M", [1, 10, 1000])
def test_after_images_that_were_all_right_the_next_may_be_wrong(M: int) -> None:
    logits_MK = torch.zeros(M, 3)
    logits_MK[:, 1] = 5
    T = temperature(logits_MK, torch.ones(M, dtype=torch.int64))
    confidence = (logits_MK / T).softmax(1)[:, 1].mean().item()
    assert confidence == pytest.approx((M + 1) / (M + 2), abs=1e-4)


def test_without_images_logits_stay() -> None:
    assert temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)) == 1


def test_the_error_by_hand() -> None:
    confidence_M = np.array([0.5, 0.54, 0.95, 1.0, 1.0])
    correct_M = np.array([True, False, True, True, False])
    # bins of a tenth: {0.5, 0.54} is right half the time; {0.95, 1, 1} two times of three
    expected = (abs(1 - 1.04) + abs(2 - 2.95)) / 5
    found = expected_calibration_error(confidence_M, correct_M, bins=10)
    assert found == pytest.approx(expected, abs=1e-12)
    bins = np.array(reliability(confidence_M, correct_M, bins=10))
    assert bins == pytest.approx(np.array([[0.52, 0.5, 2], [2.95 / 3, 2 / 3, 3]]))


def test_the_error_of_probabilities_that_are_true_is_small() -> None:
    logits_MK, labels_M = drawn(50_000, 4, 1.0)
    p_M, k_M = logits_MK.softmax(1).max(1)
    correct_M = (k_M == labels_M).numpy()
    assert expected_calibration_error(p_M.numpy(), correct_M) < 0.01
    assert expected_calibration_error(p_M.numpy() ** 2, correct_M) > 0.05


def test_the_error_of_no_image_is_none() -> None:
    assert math.isnan(expected_calibration_error(np.zeros(0), np.zeros(0, bool)))


@pytest.mark.parametrize(("hits", "images"), [(0, 1), (1, 1), (7, 10), (100, 100), (3, 5000)])
def test_the_interval_of_a_share_is_wilsons(hits: int, images: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(hits, images).proportion_ci(0.95, method="wilson")
    assert share_interval(hits, images) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_of_no_image_any_share_is_possible() -> None:
    assert share_interval(0, 0) == (0, 1)
