"""What an epoch is drawn from: the paper's rule, the released code's, and the weights."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from selftaught.clustering.sampling import released_code_rows, uniform_over_clusters, weights
from selftaught.foundation.rng import Key

KEY = Key(3, "draws", 5)
LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=60).map(np.array)


def unequal(rng: np.random.Generator, k: int = 100, N: int = 20_000) -> NDArray[np.int64]:
    """Zipf's sizes with exponent 1.2, labels independent of the images' order."""
    share_k = np.arange(1, k + 1) ** -1.2
    return rng.choice(k, N, p=share_k / share_k.sum())


def shares(labels_N: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.bincount(labels_N[rows], minlength=100) / len(rows)


def test_the_released_code_follows_the_data_where_the_paper_is_uniform() -> None:
    labels_N = unequal(np.random.default_rng(0))
    data, paper, released = (
        shares(labels_N, rows)
        for rows in (
            np.arange(20_000),
            uniform_over_clusters(labels_N, KEY),
            released_code_rows(labels_N, KEY),
        )
    )
    assert data.max() == pytest.approx(0.270, abs=0.01)
    assert paper.max() == pytest.approx(0.010, abs=0.0002)
    assert released.max() == pytest.approx(0.269, abs=0.015)
    assert np.corrcoef(released, data)[0, 1] > 0.99


def test_sorted_by_cluster_both_agree() -> None:
    labels_N = np.sort(unequal(np.random.default_rng(1)))
    assert np.array_equal(uniform_over_clusters(labels_N, KEY), released_code_rows(labels_N, KEY))


def test_both_repeat_images_alike() -> None:
    labels_N = unequal(np.random.default_rng(2))
    seen = [
        len(set(draw(labels_N, KEY).tolist()))
        for draw in (uniform_over_clusters, released_code_rows)
    ]
    assert seen[0] == seen[1] and 7_000 < seen[0] < 8_000


@given(labels_N=LABELS)
def test_each_cluster_in_use_has_the_same_share(labels_N: NDArray[np.int64]) -> None:
    rows = uniform_over_clusters(labels_N, KEY)
    used, sizes = np.unique(labels_N, return_counts=True)
    most = len(labels_N) // len(used) + 1
    drawn = Counter(labels_N[rows].tolist())
    assert len(rows) == len(labels_N) and set(drawn) <= set(used.tolist())
    left_out = most * len(used) - len(labels_N)  # by cutting to N
    for cluster, size in zip(used.tolist(), sizes.tolist(), strict=True):
        assert most - left_out <= drawn[cluster] <= most
        images = [row for row in rows.tolist() if labels_N[row] == cluster]
        if size > most:
            assert len(set(images)) == len(images), "no image twice where there are enough"


@given(labels_N=LABELS)
def test_as_released_is_a_draw_of_positions(labels_N: NDArray[np.int64]) -> None:
    """Against the data set as the released code builds it: lists of images, one after the other."""
    lists = [[n for n, label in enumerate(labels_N) if label == k] for k in range(7)]
    images = [image for one in lists for image in one]
    expected = [images[position] for position in uniform_over_clusters(labels_N, KEY)]
    assert released_code_rows(labels_N, KEY).tolist() == expected


def test_epochs_and_seeds_draw_differently() -> None:
    labels_N = unequal(np.random.default_rng(3))
    draws = [
        uniform_over_clusters(labels_N, key)
        for key in (KEY, Key(3, "draws", 6), Key(4, "draws", 5))
    ]
    assert len({draw.tobytes() for draw in draws}) == 3
    assert np.array_equal(uniform_over_clusters(labels_N, KEY), draws[0])


@given(labels_N=LABELS)
def test_weighted_each_cluster_counts_the_same(labels_N: NDArray[np.int64]) -> None:
    weight_k = weights(torch.from_numpy(labels_N), 9).numpy()
    assert weight_k[labels_N].mean() == pytest.approx(1)
    sums = [weight_k[labels_N[labels_N == k]].sum() for k in np.unique(labels_N)]
    assert np.allclose(sums, len(labels_N) / len(sums))
