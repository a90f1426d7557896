"""Exact neighbours against every pair in float64, with many ties and across the seams of blocks."""

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from selftaught.errors import UserError
from selftaught.pairwise import neighbours
from selftaught.pairwise.neighbours import PreparedVectors, similar_groups, similar_pairs, top_k
from tests.oracles import neighbours as oracle

Metric = Literal["cosine", "dot"]


def same(query: NDArray, base: NDArray, k: int, metric: Metric, own: NDArray | None = None) -> None:
    scores, rows = top_k(query, base, k, metric=metric, own=own)
    expected_scores, expected_rows = oracle.neighbours(query, base, k, metric, own)
    assert scores.dtype == np.float32 and rows.dtype == np.int64
    assert rows.tolist() == expected_rows.tolist()
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-6)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_small_whole_numbers_tie_all_the_time(data: st.DataObject) -> None:
    Q, B, D = (data.draw(st.integers(1, most)) for most in (5, 40, 4))
    seed, high = data.draw(st.integers(0, 10**6)), data.draw(st.integers(1, 3))
    rng = np.random.default_rng(seed)
    query, base = (rng.integers(-high, high + 1, (n, D)).astype(np.float32) for n in (Q, B))
    metric: Metric = data.draw(st.sampled_from(["cosine", "dot"]))
    own = rng.integers(0, B, Q) if B > 1 and data.draw(st.booleans()) else None
    k = data.draw(st.integers(1, B - (own is not None)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "_SCORES", data.draw(st.sampled_from([1, 50, 2**25])))
        patch.setattr(neighbours, "_NUMBERS", data.draw(st.sampled_from([1, 50, 2**20])))
        patch.setattr(neighbours, "_SPARE", data.draw(st.integers(1, 8)))
        patch.setattr(neighbours, "_L", 2)
        patch.setattr(neighbours, "_BASE", data.draw(st.sampled_from([2, 8, 64])))
        same(query, base, k, metric, own)


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("D", [3, 65, 512, 2048])
def test_copies_tie_exactly(metric: Metric, D: int) -> None:
    """A float32 product gives copies other last bits, according to where in a block they stand."""
    rng = np.random.default_rng(D)
    query, few = rng.normal(size=(7, D)).astype(np.float32), rng.normal(size=(3, D))
    base = few[rng.integers(0, 3, 300)].astype(np.float32)
    same(query, base, 10, metric)
    same(query, base, 250, metric)


@pytest.mark.parametrize("D", [4, 64, 2048])
def test_scores_that_differ_in_the_last_bits(D: int) -> None:
    rng = np.random.default_rng(D)
    query = rng.normal(size=(5, D)).astype(np.float32)
    one = rng.normal(size=D)
    base = (one + 1e-6 * rng.normal(size=(400, D))).astype(np.float32)
    same(query, base, 20, "cosine")


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_many_vectors_in_many_blocks(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    query, base = (np.maximum(rng.normal(size=(n, 32)), 0).astype(np.float32) for n in (57, 900))
    whole = top_k(query, base, 30, metric=metric)
    same(query, base, 30, metric)
    monkeypatch.setattr(neighbours, "_SCORES", 900 * 8)
    parts = top_k(query, base, 30, metric=metric)
    assert np.array_equal(whole[1], parts[1])
    np.testing.assert_allclose(whole[0], parts[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("k", [1, 10, 200])
def test_groups_of_scores_find_what_faiss_finds(k: int, own: bool) -> None:
    faiss = pytest.importorskip("faiss")
    x = np.random.default_rng(k).normal(size=(9_000, 24)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    index = faiss.IndexFlatIP(24)
    index.add(x)
    scores, rows = top_k(x[:300], x, k, metric="dot", own=np.arange(300) if own else None)
    expected_scores, expected_rows = index.search(x[:300], k + own)
    np.testing.assert_allclose(scores, expected_scores[:, int(own) :], atol=1e-6)
    assert (rows == expected_rows[:, int(own) :]).mean() > 0.999


def test_a_base_that_is_prepared_once() -> None:
    x = np.random.default_rng(0).normal(size=(90, 8)).astype(np.float32)
    base = PreparedVectors(x, "dot")
    assert np.array_equal(
        top_k(x[:9], base, 4, metric="dot")[1], top_k(x[:9], x, 4, metric="dot")[1]
    )
    with pytest.raises(AssertionError, match="prepared for dot"):
        top_k(x, base, 4)


def test_all_vectors_alike() -> None:
    """A network that has collapsed: every score ties."""
    base = np.full((500, 16), 0.3, np.float32)
    scores, rows = top_k(base, base, 20, own=np.arange(500))
    for row in (0, 7, 30, 499):
        assert rows[row].tolist() == [other for other in range(21) if other != row][:20]
    np.testing.assert_allclose(scores, 1, rtol=1e-6)


def test_zero_vectors_have_cosine_zero() -> None:
    base = np.array([[0, 0], [1, 0], [-1, 0]], np.float32)
    scores, rows = top_k(base, base, 3)
    assert rows.tolist() == [[0, 1, 2], [1, 0, 2], [2, 0, 1]]
    assert scores.tolist() == [[0, 0, 0], [1, 0, -1], [1, 0, -1]]


def test_a_query_does_not_find_itself() -> None:
    x = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    _, rows = top_k(x, x, 49, own=np.arange(50))
    assert all(sorted([*found, own]) == list(range(50)) for own, found in enumerate(rows.tolist()))
    _, some = top_k(x[10:20], x, 5, own=np.arange(10, 20))
    assert np.array_equal(some, rows[10:20, :5])


def test_what_it_takes_and_refuses() -> None:
    x = torch.rand(6, 3, dtype=torch.float64, requires_grad=True)
    assert np.array_equal(top_k(x, x, 2)[1], top_k(x.detach().numpy(), x, 2)[1])
    assert top_k(x[:0], x, 2)[1].shape == (0, 2)
    for k in (0, 7):
        with pytest.raises(AssertionError):
            top_k(x, x, k)
    with pytest.raises(AssertionError):
        top_k(x, x, 6, own=np.arange(6))


# --- pairs and groups


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_pairs_and_groups_of_small_whole_numbers(data: st.DataObject) -> None:
    N, D = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    x = rng.integers(-2, 3, (N, D)).astype(np.float32)
    least = data.draw(st.sampled_from([1.0, 0.9, 0.5**0.5, 0.5, 0.0]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "_L", 2)
        patch.setattr(neighbours, "_BASE", data.draw(st.sampled_from([2, 8, 64])))
        patch.setattr(neighbours, "_DENSE", data.draw(st.sampled_from([0, 3, 1000])))
        patch.setattr(neighbours, "_EDGES", data.draw(st.sampled_from([0, 1000])))
        found, cosines = similar_pairs(x, least)
        joined = similar_groups(x, least)
    expected = oracle.close_pairs(x, least)
    assert found.tolist() == [list(pair) for pair in expected]
    assert (cosines >= np.float32(least)).all()
    assert [group.rows.tolist() for group in joined] == oracle.groups(N, expected)


def test_a_group_is_led_by_the_row_in_its_middle() -> None:
    """Unit vectors at some angles: neighbours are alike, the ends are not."""
    angles = np.radians([50, 10, 30, 170, 175, 100, 260])
    x = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    found = similar_groups(3 * x, np.cos(np.radians(21)))
    assert [(group.rows.tolist(), group.medoid) for group in found] == [([0, 1, 2], 2), ([3, 4], 3)]


def test_all_rows_alike_are_one_group_however_many_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_EDGES", 1000)
    x = np.full((600, 16), 0.3, np.float32)
    (group,) = similar_groups(x, 1.0)
    assert group.rows.tolist() == list(range(600)) and group.medoid == 0
    assert len(similar_pairs(x, 1.0)[0]) == 600 * 599 // 2
    with pytest.raises(UserError, match="more than 1,000 pairs"):
        similar_pairs(x, 1.0, limit=1000)


def test_cosines_at_the_threshold_are_decided_exactly() -> None:
    """What a float32 product says of copies is often below 1."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(50, 512)).astype(np.float32)
    x = np.concatenate([x, 2 * x, x])
    found, cosines = similar_pairs(x, 1.0)
    assert {tuple(pair) for pair in found.tolist()} == {
        (i + 50 * a, i + 50 * b) for i in range(50) for a, b in ((0, 1), (0, 2), (1, 2))
    }
    assert (cosines == 1).all()
