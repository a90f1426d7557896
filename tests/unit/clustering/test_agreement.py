"""Agreement of labellings: definitions, another library, one cluster, k and c that differ."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics

from selftaught.clustering.agreement import ari, best_match_accuracy, entropy, nmi, purity, sizes
from selftaught.errors import UserError
from tests.oracles import agreement as oracle

LABELS = st.integers(2, 8).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 3), min_size=n, max_size=n)] * 2)
)


@settings(max_examples=40, deadline=None)
@given(LABELS)
def test_they_are_what_their_definitions_say(pair):
    a, b = pair
    assert best_match_accuracy(a, b) == pytest.approx(oracle.accuracy(a, b))
    assert purity(a, b) == pytest.approx(oracle.purity(a, b))
    assume(len(set(a)) > 1 and len(set(b)) > 1)
    for mean in ("geometric", "arithmetic"):
        assert nmi(a, b, mean) == pytest.approx(oracle.nmi(a, b, mean), abs=1e-9)
    assume(len(set(a)) < len(a) or len(set(b)) < len(b))
    assert ari(a, b) == pytest.approx(oracle.ari(a, b), abs=1e-9)


def test_values_worked_out_by_hand():
    a, b = [0, 0, 1, 1], [0, 0, 0, 1]
    # H(a) = ln 2; H(b) = 2 ln 2 - 3/4 ln 3; H(a, b) = 3/2 ln 2; I = 3/2 ln 2 - 3/4 ln 3
    h_a, h_b = math.log(2), 2 * math.log(2) - 0.75 * math.log(3)
    information = 1.5 * math.log(2) - 0.75 * math.log(3)
    assert nmi(a, b) == pytest.approx(information / math.sqrt(h_a * h_b))
    assert nmi(a, b, "arithmetic") == pytest.approx(2 * information / (h_a + h_b))
    assert best_match_accuracy(a, b) == purity(a, b) == 0.75
    assert ari(a, b) == 0  # pairs together: 2, 3, both 1 of 6; expected 1
    assert entropy(a, 2) == pytest.approx(1) and entropy(a, 4) == pytest.approx(0.5)


def test_the_default_is_the_papers_and_the_other_is_scikit_learns():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 3, 300), rng.integers(0, 40, 300)
    assert nmi(a, b, "arithmetic") == metrics.normalized_mutual_info_score(a, b)
    geometric = metrics.normalized_mutual_info_score(a, b, average_method="geometric")
    assert nmi(a, b) == geometric > nmi(a, b, "arithmetic")


@settings(max_examples=20, deadline=None)
@given(LABELS, st.permutations(range(4)))
def test_names_of_clusters_do_not_matter(pair, names):
    a, b = pair
    renamed = [names[x] for x in a]
    for measure in (nmi, ari, best_match_accuracy, purity):
        assert measure(renamed, b) == pytest.approx(measure(a, b))
    assert nmi(a, renamed) == ari(a, renamed) == best_match_accuracy(a, renamed) == pytest.approx(1)


@pytest.mark.parametrize("mean", ["geometric", "arithmetic"])
def test_one_cluster(mean):
    one, two = [3] * 6, [0, 0, 0, 0, 1, 1]
    assert nmi(one, one, mean) == 1
    assert nmi(one, two, mean) == nmi(two, one, mean) == 0
    assert ari(one, two) == 0
    assert best_match_accuracy(one, two) == purity(one, two) == pytest.approx(4 / 6)
    assert entropy([0] * 6, 1) == entropy([0] * 6, 5) == 0


@pytest.mark.parametrize(("k", "c"), [(2, 5), (5, 2)])
def test_k_and_the_number_of_classes_may_differ(k, c):
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, k, 60), rng.integers(0, c, 60)
    assert best_match_accuracy(a, b) == pytest.approx(oracle.accuracy(a.tolist(), b.tolist()))
    assert best_match_accuracy(a, b) <= purity(a, b)


def test_as_many_clusters_as_images_is_no_warning():
    every = list(range(20))
    assert nmi(every, every) == pytest.approx(1)
    assert nmi(every, [0, 1] * 10) == pytest.approx(math.sqrt(math.log(2) / math.log(20)))
    assert ari(every, [0, 1] * 10) == 0 and purity(every, [0, 1] * 10) == 1


def test_sizes_count_empty_clusters_too():
    labels = torch.tensor([0, 3, 3, 1])
    assert sizes(labels, 6).tolist() == [1, 1, 0, 2, 0, 0]
    assert sizes(labels.numpy().astype(np.uint8), 4).dtype == np.int64
    assert nmi(labels, labels.numpy()) == pytest.approx(1)


@pytest.mark.parametrize("labels", [[], [0.5, 1.0], [[0], [1]]])
def test_what_is_no_labelling_is_refused(labels):
    for figure in (lambda x: nmi(x, x), lambda x: entropy(x, 2)):
        with pytest.raises(UserError, match="pass one whole number per image"):
            figure(labels)
    with pytest.raises(UserError, match="there are 2 labels and 3: pass two for each image"):
        best_match_accuracy([0, 1], [0, 1, 1])
