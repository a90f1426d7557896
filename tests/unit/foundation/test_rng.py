"""Keyed randomness: the reference's known answers, and independence of everything but the key."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from selftaught.foundation.rng import Key, permutation, philox, torch_seed, uniform, words
from selftaught.views.fused import draws as compiled

# Known answers of Philox4x32-10 that the authors publish with their own code (Random123).
KNOWN_ANSWERS = [
    line.split(" -> ")
    for line in """\
00000000 00000000 00000000 00000000 | 00000000 00000000 -> 6627e8d5 e169c58d bc57ac4c 9b00dbd8
ffffffff ffffffff ffffffff ffffffff | ffffffff ffffffff -> 408f276d 41c83b0e a20bc7c6 6d5451fd
243f6a88 85a308d3 13198a2e 03707344 | a4093822 299f31d0 -> d16cfe09 94fdcceb 5001e420 24126ea1
""".splitlines()
]
BASE = Key(seed=3, purpose="views/crop", epoch=5, view=1)
OTHERS = [
    Key(4, "views/crop", 5, 1),
    Key(3, "views/flip", 5, 1),
    Key(3, "views/crop", 6, 1),
    Key(3, "views/crop", 5, 0),
]
# This version's own values.
WORDS_OF_DRAW_7 = [3969394755, 220850389, 2232312237, 2053994232, 3098397739]
ORDER = [1, 6, 0, 4, 5, 2, 3, 7]
SEED = 5840289249947411996


def hexadecimal(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("inputs", "answer"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(inputs: str, answer: str) -> None:
    counter, key = map(hexadecimal, inputs.split("|"))
    for copies in (1, 3):  # alone, and among others
        counters_4N = np.repeat(np.array(counter, np.uint32)[:, None], copies, axis=1)
        counters_4N[:, 1:] += 5
        assert philox(counters_4N, (key[0], key[1]))[:, 0].tolist() == hexadecimal(answer)


DRAWS = st.lists(st.integers(0, 2**40), min_size=1, max_size=20)


@given(draws=DRAWS, n=st.integers(1, 9), data=st.data())
def test_a_draw_s_numbers_do_not_depend_on_its_batch(
    draws: list[int], n: int, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(draws))))
    draws_N = np.array(draws)
    together_Nn = words(BASE, draws_N, n)
    assert np.array_equal(words(BASE, draws_N[order], n), together_Nn[order])
    for draw, row_n in zip(draws, together_Nn, strict=True):
        assert np.array_equal(words(BASE, np.array([draw]), n)[0], row_n)


@given(n=st.integers(1, 8), more=st.integers(1, 8))
def test_asking_for_more_numbers_does_not_change_the_first(n: int, more: int) -> None:
    draws_N = np.arange(5)
    assert np.array_equal(words(BASE, draws_N, n + more)[:, :n], words(BASE, draws_N, n))


@given(
    draws=DRAWS, keys=st.lists(st.sampled_from([BASE, *OTHERS]), min_size=1), n=st.integers(1, 9)
)
def test_compiled_code_gives_the_same_numbers(draws: list[int], keys: list[Key], n: int) -> None:
    draws_N = np.array(draws)
    alone = [uniform(key, draws_N, n) for key in keys]
    assert np.array_equal(compiled.uniform_draws(keys, draws_N, n), np.stack(alone))


@pytest.mark.parametrize("other", OTHERS)
def test_every_part_of_the_key_matters(other: Key) -> None:
    draws_N = np.arange(1000)
    ours, theirs = uniform(BASE, draws_N, 1)[:, 0], uniform(other, draws_N, 1)[:, 0]
    assert not np.any(ours == theirs)
    assert abs(np.corrcoef(ours, theirs)[0, 1]) < 0.15  # 4.7 standard errors
    assert not np.array_equal(permutation(BASE, 1000), permutation(other, 1000))


def test_draws_beyond_32_bits_are_draws_of_their_own() -> None:
    draws_N = np.array([0, 1, 2**32, 2**32 + 1, 2**62])
    assert len({tuple(row) for row in words(BASE, draws_N, 4)}) == 5


def test_no_word_comes_twice_more_often_than_by_chance() -> None:
    """10^5 words of 32 bits: 1.2 pairs are equal on average, and 10 or more once in 10^7 times."""
    words_N = words(BASE, np.arange(25_000), 4).ravel()
    assert len(words_N) - len(np.unique(words_N)) < 10


@pytest.mark.parametrize("column", range(6))
def test_uniform_numbers_are_uniform(column: int) -> None:
    x_N = uniform(BASE, np.arange(20_000), 6)[:, column]
    assert x_N.dtype == np.float64 and x_N.min() >= 0 and x_N.max() < 1
    assert scipy.stats.kstest(x_N, "uniform").pvalue > 1e-3


def test_the_numbers_of_a_draw_and_of_its_neighbour_are_not_correlated() -> None:
    x_Nn = uniform(BASE, np.arange(20_000), 6)
    both_2nN = np.concatenate([x_Nn[:-1], x_Nn[1:]], axis=1).T
    off_diagonal = np.corrcoef(both_2nN) - np.eye(12)
    assert np.abs(off_diagonal).max() < 0.035  # 5 standard errors


@pytest.mark.parametrize("word", [0, 2**32 - 1])
def test_the_ends_of_the_interval(word: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selftaught.foundation.rng.words", lambda *_: np.array([[word]], np.uint32))
    assert 0 <= uniform(BASE, np.zeros(1, np.int64), 1)[0, 0] < 1


@settings(max_examples=50)
@given(seed=st.integers(0, 2**63), n=st.integers(0, 300))
def test_a_permutation_holds_every_row_once(seed: int, n: int) -> None:
    order = permutation(Key(seed, "order"), n)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(n))


def test_permutations_are_uniform() -> None:
    """Of 4 rows there are 24 orders, and 2,400 keys give each about 100 times."""
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(2400):
        order = tuple(permutation(Key(seed, "order"), 4).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    assert scipy.stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_a_permutation_uses_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The high word decides, then the low one, then the row."""
    pairs = np.array([[2, 0], [1, 9], [1, 3], [1, 3], [0, 2**32 - 1]], np.uint32)
    monkeypatch.setattr("selftaught.foundation.rng.words", lambda *_: pairs)
    assert permutation(BASE, 5).tolist() == [4, 2, 3, 1, 0]


def test_torch_seeds_are_distinct_and_in_range() -> None:
    seeds = {
        torch_seed(seed, step, rank, micro_batch)
        for seed in range(5)
        for step in range(50)
        for rank in range(4)
        for micro_batch in range(3)
    }
    assert len(seeds) == 5 * 50 * 4 * 3
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert any(seed >= 2**62 for seed in seeds) and any(seed < 2**62 for seed in seeds)


def test_the_streams_of_a_run_stay_what_they_are() -> None:
    """A change here would break the resuming of every run that exists."""
    assert words(BASE, np.array([7]), 5).tolist() == [WORDS_OF_DRAW_7]
    assert permutation(Key(0, "order", 1), 8).tolist() == ORDER
    assert torch_seed(1, 2, 3, 4) == SEED
