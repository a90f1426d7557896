"""Which images people are asked about: the uncertain and the uncovered, none of them twice."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selftaught.classifier.learn import Members
from selftaught.classifier.name_classifier import Predictions
from selftaught.classifier.questions import questions, uncovered_order, usual_similarity


def unit(x_NP: np.ndarray) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(np.asarray(x_NP, "f4")), dim=1)


def said_of(p_N: np.ndarray) -> Predictions:
    """Two names, of which the first has this probability, 0.5 or more."""
    p_N, zero_N = p_N.astype("f4"), np.zeros(len(p_N), np.int64)
    return Predictions(zero_N, zero_N + 1, p_N, 1 - p_N)


def members_of(own_N, name_N, sure_N=None, answered_N=None, confidence_N=None) -> Members:
    nobody_N = np.zeros(len(own_N), bool)
    return Members(
        ("cat", "dog"),
        np.array(own_N),
        np.array(name_N),
        np.zeros(len(own_N), "f4") if confidence_N is None else np.array(confidence_N, "f4"),
        nobody_N if sure_N is None else np.array(sure_N, bool),
        nobody_N if answered_N is None else np.array(answered_N, bool),
        0,
    )


@pytest.fixture
def scattered() -> tuple[torch.Tensor, Predictions, Members]:
    """200 images in 4 clusters, the last two without a name."""
    numbers = np.random.default_rng(0)
    own_N = np.sort(numbers.integers(0, 4, 200))
    name_N = np.where(own_N < 2, own_N, -1)
    sure_N = (name_N >= 0) & (numbers.random(200) < 0.5)
    found = members_of(own_N, name_N, sure_N, confidence_N=numbers.random(200))
    return unit(numbers.normal(size=(200, 8))), said_of(0.5 + numbers.random(200) / 2), found


def test_half_are_uncertain_and_half_uncovered(scattered) -> None:
    unit_ND, said, found = scattered
    asked = questions(unit_ND, said, found, 11)
    assert [q.uncertain for q in asked] == [True] * 6 + [False] * 5
    assert asked[0].place == int(said.gap_N.argmin())
    assert len({q.place for q in asked}) == 11
    assert not any(found.reliable_N[q.place] for q in asked if not q.uncertain)


def test_reasons_are_words(scattered) -> None:
    unit_ND, said, found = scattered
    for q in questions(unit_ND, said, found, 20):
        if q.uncertain:
            assert q.why.startswith(f"cat ({said.confidence_N[q.place]:.0%}) or dog (")
        elif found.name_N[q.place] == -1:
            size = (found.own_N == found.own_N[q.place]).sum()
            id_ = found.own_N[q.place]
            assert q.why == f"in cluster {id_}, which has {size} images and no name"
        else:
            assert "unlike all named images" in q.why


def test_what_was_answered_is_not_asked_again(scattered) -> None:
    unit_ND, said, found = scattered
    first = {q.place for q in questions(unit_ND, said, found, 20)}
    answered = np.isin(np.arange(200), list(first))
    again = members_of(found.own_N, found.name_N, found.confident_N, answered)
    assert not first & {q.place for q in questions(unit_ND, said, again, 20)}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 30))
def test_no_two_are_nearer_than_images_usually_are(seed: int, number: int) -> None:
    numbers = np.random.default_rng(seed)
    few_ND = numbers.normal(size=(20, 5))
    unit_ND = unit(few_ND[numbers.integers(0, 20, 120)] + numbers.normal(size=(120, 5)) * 0.1)
    own_N = numbers.integers(0, 3, 120)
    found = members_of(own_N, np.where(own_N < 2, own_N, -1), own_N == 0)
    asked = questions(unit_ND, said_of(0.5 + numbers.random(120) / 2), found, number)
    chosen = unit_ND[[q.place for q in asked]]
    cosines = (chosen @ chosen.T).fill_diagonal_(-1)
    assert 0 < len(asked) <= number
    assert cosines.max() <= usual_similarity(unit_ND, 0) + 1e-6


def test_the_usual_similarity_is_the_median_to_the_nearest() -> None:
    unit_ND = unit(np.random.default_rng(1).normal(size=(80, 4)))
    cosines = (unit_ND @ unit_ND.T).double().fill_diagonal_(-1).max(1).values
    assert usual_similarity(unit_ND, 0) == pytest.approx(float(np.median(cosines)), abs=1e-6)


def test_clusters_without_a_name_take_turns_with_what_is_unlike() -> None:
    own_N = [0, 0, 7, 7, 7, 5, 5, 9]
    found = members_of(
        own_N,
        [0, 0, -1, -1, -1, -1, -1, -1],
        [True, False] + [False] * 6,
        confidence_N=[0, 0, 0.1, 0.9, 0.5, 0.3, 0.4, 1],
    )
    like_N = np.array([1, 0.0, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], "f4")
    order = uncovered_order(found, like_N).tolist()
    nameless = [3, 6, 7, 4, 5, 2]  # 7 has three images, 5 two, 9 one; the most typical first
    unlike = [1, 7, 6, 5, 4, 3, 2]
    assert order[:12:2] == nameless and order[1:12:2] == unlike[:6] and order[12:] == [2]


def test_where_every_image_is_sure_nothing_is_uncovered() -> None:
    unit_ND = unit(np.random.default_rng(2).normal(size=(30, 4)))
    found = members_of([0] * 15 + [1] * 15, [0] * 15 + [1] * 15, [True] * 30)
    asked = questions(unit_ND, said_of(np.linspace(0.5, 1, 30)), found, 10)
    assert [q.uncertain for q in asked] == [True] * 5


def test_none_are_asked_about_if_none_are_wanted(scattered) -> None:
    assert questions(*scattered, 0) == []
