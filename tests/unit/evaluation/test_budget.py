"""Few labels: how many are asked for, and which images have them."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selftaught.errors import ConfigError
from selftaught.evaluation.budget import DRAWS, Budget, budget, draws, partial_budgets
from selftaught.evaluation.trial import Trial

SET: Any = SimpleNamespace(content="a set")


def trial_of(sizes: list[int], seed: int = 0) -> Trial:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    shuffled = np.random.default_rng(0).permutation(labels)
    rows = np.arange(len(labels)) * 2
    return Trial(SET, rows, shuffled, rows + 1, len(sizes), seed=seed)


@pytest.mark.parametrize(
    ("words", "expected", "said"),
    [
        ("1", Budget(1), "1 label per class"),
        ("10", Budget(10), "10 labels per class"),
        ("1%", Budget(share=0.01), "1 % of the labels"),
        (" 2.5 % ", Budget(share=0.025), "2.5 % of the labels"),
    ],
)
def test_a_budget_is_a_number_or_a_share(words: str, expected: Budget, said: str) -> None:
    assert budget(words) == expected and str(expected) == said


@pytest.mark.parametrize("words", ["0", "-3", "0%", "ten", "", "1.5", "100%", "1e3", "1 %%"])
def test_what_is_neither_is_refused(words: str) -> None:
    with pytest.raises(
        ConfigError,
        match=r"few = .* is not a number of labels: pass a .* images per class, or a share",
    ):
        budget(words)


@given(st.lists(st.integers(2, 40), min_size=2, max_size=5), st.integers(1, 50))
def test_a_draw_has_so_many_images_of_each_class(sizes: list[int], each: int) -> None:
    trial = trial_of(sizes)
    trials, _ = draws(trial, Budget(each))
    assert len(trials) == DRAWS
    known = dict(zip(trial.train.tolist(), trial.labels.tolist(), strict=True))
    for drawn in trials:
        counts = np.bincount(drawn.labels, minlength=len(sizes))
        assert counts.tolist() == [min(size, each) for size in sizes]
        assert [known[row] for row in drawn.train.tolist()] == drawn.labels.tolist()
        assert (np.diff(drawn.train) > 0).all() and (drawn.test == trial.test).all()


def test_a_share_is_of_each_class_and_one_image_at_least() -> None:
    trials, note = draws(trial_of([1000, 90, 3]), Budget(share=0.1))
    assert all(np.bincount(drawn.labels).tolist() == [100, 9, 1] for drawn in trials)
    assert note == "mean of 5 draws of training images; at least one per class: 110 of 1093 images"
    assert draws(trial_of([1000, 90, 6]), Budget(share=0.1))[1] == note.partition(";")[0]


def test_draws_differ_and_are_keyed_by_the_seed() -> None:
    first, again, other = (
        [tuple(d.train) for d in draws(trial_of([50, 50], seed), Budget(5))[0]]
        for seed in (0, 0, 1)
    )
    assert first == again and len(set(first)) == DRAWS and not set(first) & set(other)


def test_a_larger_draw_has_the_smaller_one_in_it() -> None:
    small, large = (draws(trial_of([60, 60]), Budget(each))[0] for each in (5, 20))
    for few, more in zip(small, large, strict=True):
        assert set(few.train) < set(more.train)


def test_classes_with_fewer_images_are_said() -> None:
    assert "all images of classes with fewer than 5" in draws(trial_of([9, 3]), Budget(5))[1]


def test_budgets_that_would_be_the_whole_set_are_left_out() -> None:
    labels = np.repeat([0, 1], [10, 40])
    asked = [Budget(1), Budget(39), Budget(40), Budget(100), Budget(share=0.01)]
    assert partial_budgets(asked, labels) == [Budget(1), Budget(39), Budget(share=0.01)]
