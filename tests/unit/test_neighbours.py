"""Exact neighbours against every pair in float64, with many ties and across the seams of blocks."""

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from selftaught import neighbours
from selftaught.neighbours import top_k
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
