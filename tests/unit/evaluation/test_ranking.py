"""Rankings judged: average precision by hand, by its oracle, and on rankings good and bad."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selftaught.evaluation import ranking
from selftaught.evaluation.metrics import resampled_counts
from tests.oracles import retrieval as oracle

# Ranking, positives, junk, and the average precision worked out by hand.
BY_HAND = [
    # One step of recall from 0 to 1 at precision (1 + 1) / 2.
    ([7, 1, 2], {7}, set(), 1.0),
    # Before the hit, precision is 0; at it 1/2: (0 + 1/2) / 2.
    ([1, 7, 2], {7}, set(), 1 / 4),
    # Hits at 1 and 3: (1 + 1) / 2 / 2 + (1/2 + 2/3) / 2 / 2.
    ([7, 1, 8], {7, 8}, set(), 1 / 2 + 7 / 24),
    # The junk between them is not there.
    ([7, 9, 8], {7, 8}, {9}, 1.0),
    ([9, 1, 7], {7}, {9}, 1 / 4),
    # The second is never found: recall stops at 1/2.
    ([7, 1], {7, 8}, set(), 1 / 2),
    # Junk is passed over even where it is called positive, which still counts as one.
    ([7, 8], {7, 8}, {8}, 1 / 2),
    ([1, 2], {7}, set(), 0.0),
]


@pytest.mark.parametrize(("ranked", "positive", "junk", "value"), BY_HAND)
def test_average_precision_by_hand(
    ranked: list[int], positive: set[int], junk: set[int], value: float
) -> None:
    assert oracle.average_precision(ranked, positive, junk) == pytest.approx(value)
    found = ranking.retrieval_average_precision(np.array(ranked), positive, junk)
    assert found == pytest.approx(value)


def case(seed: int) -> tuple[np.ndarray, set[int], set[int]]:
    """A ranking of up to 40 images, some of them positive, some junk."""
    numbers = np.random.default_rng(seed)
    n = int(numbers.integers(1, 41))
    ranked, kind = numbers.permutation(n), numbers.integers(0, 4, n)
    positive = set(np.flatnonzero(kind == 0).tolist()) or {int(ranked[0])}
    return ranked, positive, set(np.flatnonzero(kind == 1).tolist()) - positive


def test_five_hundred_rankings_equal_the_oracle() -> None:
    for seed in range(500):
        ranked, positive, junk = case(seed)
        part = ranked[: len(ranked) - seed % 3]  # not always all of it
        found = ranking.retrieval_average_precision(part, frozenset(positive), frozenset(junk))
        expected = oracle.average_precision(part.tolist(), positive, junk)
        assert found == pytest.approx(expected, abs=1e-12)
        for k in (1, 5, 10):
            assert ranking.recall_at(part, positive, junk, k) == oracle.recall_at(
                part.tolist(), positive, junk, k
            )
            assert ranking.precision_at(part, positive, junk, k) == pytest.approx(
                oracle.precision_at(part.tolist(), positive, junk, k)
            )


@given(st.integers(0, 10**6))
def test_best_worst_and_what_changes_nothing(seed: int) -> None:
    ranked, positive, junk = case(seed)
    is_positive = np.isin(ranked, list(positive))
    best = np.concatenate([ranked[is_positive], ranked[~is_positive]])
    worst = np.concatenate([ranked[~is_positive], ranked[is_positive]])
    values = [ranking.retrieval_average_precision(r, positive, junk) for r in (worst, ranked, best)]
    assert 0 < values[0] <= values[1] <= values[2] == 1
    is_junk = np.isin(ranked, list(junk))
    junk_first = np.concatenate([ranked[is_junk], ranked[~is_junk]])
    assert ranking.retrieval_average_precision(junk_first, positive, junk) == values[1]
    assert ranking.retrieval_average_precision(ranked[~is_junk], positive) == values[1]


def test_recall_and_precision_by_hand() -> None:
    ranked, positive, junk = np.array([9, 1, 7, 2, 8, 3]), {7, 8}, {9}
    assert [ranking.recall_at(ranked, positive, junk, k) for k in (1, 2, 5)] == [0, 1, 1]
    precisions = [ranking.precision_at(ranked, positive, junk, k) for k in (1, 2, 3, 4, 10)]
    assert precisions == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2, 1 / 2])
    assert ranking.precision_at(np.array([1, 2]), {7}, set(), 5) == 0


def test_a_query_without_positives_has_no_value() -> None:
    ranked = np.arange(3)
    assert np.isnan(ranking.retrieval_average_precision(ranked, set(), {1}))
    assert np.isnan(ranking.recall_at(ranked, set(), {1}, 1))
    assert np.isnan(ranking.precision_at(ranked, set(), {1}, 1))


def test_the_setups_of_the_revisited_protocol() -> None:
    easy, hard, junk = frozenset({0, 1}), frozenset({2}), frozenset({3})
    setups = ranking.revisited_setups(easy, hard, junk)
    assert tuple(setups) == ranking.SETUPS
    assert setups["easy"] == ({0, 1}, {2, 3})
    assert setups["medium"] == ({0, 1, 2}, {3})
    assert setups["hard"] == ({2}, {0, 1, 3})
    ranked = np.array([2, 3, 4, 0, 1])  # the hard one, junk, a wrong one, the easy ones
    values = {n: ranking.retrieval_average_precision(ranked, *setup) for n, setup in setups.items()}
    # Easy: wrong, right, right: (0 + 1/2) / 4 + (1/2 + 2/3) / 4.
    assert values["easy"] == pytest.approx((1 / 2 + 7 / 6) / 4)
    assert values["hard"] == 1
    # Medium: right, wrong, right, right.
    assert values["medium"] == pytest.approx((2 + 1 / 2 + 2 / 3 + 2 / 3 + 3 / 4) / 6)


def test_the_mean_over_resampled_queries() -> None:
    values = np.array([1.0, np.nan, 0.5, 0.0])
    counts = np.array([[1, 0, 2], [1, 4, 1], [1, 0, 1], [1, 0, 0]], np.float32)
    means = ranking.mean_over_queries(values, None, counts)
    assert means[0] == pytest.approx(0.5) and np.isnan(means[1])
    assert means[2] == pytest.approx(2.5 / 3)
    drawn = resampled_counts(4, 50, 0)
    for b, mean in enumerate(ranking.mean_over_queries(values, None, drawn)):
        repeated = np.repeat(values, drawn[:, b].astype(int))
        there = repeated[~np.isnan(repeated)]
        assert mean == pytest.approx(there.mean()) if len(there) else np.isnan(mean)
