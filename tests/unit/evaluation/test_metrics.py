"""Figures of merit and their intervals, against loops and scikit-learn."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    adjusted_rand_score,
    average_precision_score,
    balanced_accuracy_score,
    normalized_mutual_info_score,
)

from selftaught.clustering import agreement
from selftaught.evaluation import metrics
from tests.oracles import metrics as oracle


def case(M: int = 60, K: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores on a coarse grid, so that there are ties, and labels that they know a little of."""
    numbers = np.random.default_rng(seed)
    labels = numbers.integers(0, K, M)
    labels[:K] = np.arange(K)
    scores = numbers.normal(size=(M, K)) + 1.5 * np.eye(K)[labels]
    return np.round(scores, 1), labels


# The oracle, by hand.


def test_average_precision_by_hand() -> None:
    # Hits at ranks 1 and 3: (1/1 + 2/3) / 2.
    scores, positive = np.array([0.9, 0.8, 0.7, 0.1]), np.array([True, False, True, False])
    assert oracle.average_precision(scores, positive) == pytest.approx(5 / 6)
    # All scores equal: one threshold, the share of positives.
    assert oracle.average_precision(np.ones(4), positive) == pytest.approx(1 / 2)


# Values: a count of 1 for each image.


@pytest.mark.parametrize("seed", range(5))
def test_values_equal_scikit_learn(seed: int) -> None:
    scores, labels = case(seed=seed)
    ones, found = np.ones((len(labels), 1), np.float32), scores.argmax(axis=1)
    expected = [
        (metrics.accuracy, accuracy_score(labels, found)),
        (metrics.balanced_accuracy, balanced_accuracy_score(labels, found)),
        (
            metrics.mean_average_precision,
            average_precision_score(np.eye(4)[labels], scores, average="macro"),
        ),
        (
            metrics.mean_average_precision,
            np.mean([oracle.average_precision(scores[:, k], labels == k) for k in range(4)]),
        ),
    ]
    for figure, value in expected:
        assert figure(scores, labels, ones)[0] == pytest.approx(value, abs=1e-6)
    nmi = metrics.normalised_mutual_information(found, labels, ones)[0]
    assert nmi == pytest.approx(normalized_mutual_info_score(labels, found), abs=1e-9)
    ari = metrics.adjusted_rand_index(found, labels, ones)[0]
    assert ari == pytest.approx(adjusted_rand_score(labels, found), abs=1e-9)
    matched = metrics.matched_accuracy(found, labels, ones)[0]
    assert matched == pytest.approx(agreement.best_match_accuracy(found, labels), abs=1e-9)
    best = max(np.mean(np.array(names)[found] == labels) for names in permutations(range(4)))
    assert matched == pytest.approx(best, abs=1e-9)


def test_clusters_that_say_nothing_or_everything() -> None:
    labels, ones = np.array([0, 0, 1, 1, 2]), np.ones((5, 1), np.float32)
    one, every = np.zeros(5, np.int64), np.arange(5)
    for cluster, other, expected in ((one, one, 1), (every, every, 1), (one, labels, 0)):
        assert metrics.adjusted_rand_index(cluster, other, ones)[0] == expected
    assert metrics.matched_accuracy(one, labels, ones)[0] == 0.4, "one cluster is one class"
    assert metrics.matched_accuracy(every, labels, ones)[0] == 0.6, "two clusters have no class"


# Resamples.


@pytest.mark.parametrize("seed", range(3))
def test_resamples_equal_repeated_images(seed: int) -> None:
    scores, labels = case(M=40, seed=seed)
    counts, found = metrics.resampled_counts(40, 30, seed), scores.argmax(axis=1)
    assert (counts.sum(axis=0) == 40).all()

    def mean_precision(answers: np.ndarray, truth: np.ndarray) -> float:
        there = np.unique(truth)
        return float(np.mean([oracle.average_precision(answers[:, k], truth == k) for k in there]))

    pairs = [
        (metrics.accuracy, lambda a, t: accuracy_score(t, a.argmax(axis=1)), scores),
        (
            metrics.balanced_accuracy,
            lambda a, t: np.mean([(a.argmax(axis=1) == k)[t == k].mean() for k in np.unique(t)]),
            scores,
        ),
        (metrics.mean_average_precision, mean_precision, scores),
        (
            metrics.normalised_mutual_information,
            lambda a, t: normalized_mutual_info_score(t, a),
            found,
        ),
        (metrics.adjusted_rand_index, lambda a, t: adjusted_rand_score(t, a), found),
        (metrics.matched_accuracy, agreement.best_match_accuracy, found),
    ]
    for figure, slow, answers in pairs:
        expected = oracle.resampled(slow, answers, labels, counts)
        assert figure(answers, labels, counts) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), min_size=2, max_size=9)
)
def test_average_precision_of_counts_equals_repetition(
    images: list[tuple[int, bool, int]],
) -> None:
    scores, positive, counts = (np.array(column) for column in zip(*images, strict=True))
    value = metrics.average_precision(
        scores.astype(float), positive, counts[:, None].astype(np.float32)
    )[0]
    repeated = np.repeat(positive, counts)
    if not repeated.any():
        assert np.isnan(value)
    else:
        slow = oracle.average_precision(np.repeat(scores, counts), repeated)
        assert value == pytest.approx(slow, abs=1e-6)


def test_a_resample_without_a_class_leaves_it_out() -> None:
    scores, labels = np.eye(2)[[0, 1, 1]], np.array([0, 1, 0])
    counts = np.array([[0.0], [3.0], [0.0]], np.float32)  # only the second image, which is found
    assert metrics.balanced_accuracy(scores, labels, counts)[0] == 1
    assert metrics.mean_average_precision(scores, labels, counts)[0] == 1


def test_resamples_are_keyed_and_prefixes_of_one_another() -> None:
    counts = metrics.resampled_counts(25, 8, seed=3)
    assert (metrics.resampled_counts(25, 5, seed=3) == counts[:, :5]).all()
    assert (metrics.resampled_counts(25, 8, seed=4) != counts).any()


def test_the_interval_covers_a_known_share_nineteen_times_of_twenty() -> None:
    numbers, covered = np.random.default_rng(0), 0
    counts = metrics.resampled_counts(300, 1000, seed=0)
    for _ in range(200):
        correct = numbers.random(300) < 0.7
        scores = np.stack([~correct, correct], axis=1).astype(float)
        low, high = metrics.interval(metrics.accuracy(scores, np.ones(300, int), counts))
        covered += low <= 0.7 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_fewer_resamples_where_as_many_would_take_too_long() -> None:
    assert metrics.affordable_resamples(10_000, 10) == 1000
    assert metrics.affordable_resamples(10_000, 100) == 200
    assert metrics.affordable_resamples(50_000, 1000) == 100
