"""Near-duplicates and outliers: definitions beside slow ones, and planted ones that are found."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.distance import cdist
from scipy.stats import expon, norm
from sklearn.datasets import load_digits, load_sample_images
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from selftaught.clusters import outliers
from selftaught.clusters.gray import SIDE, crop_correlations, detail_scores, gray_pictures
from selftaught.clusters.outliers import (
    duplicate_groups,
    near_duplicates,
    outlier_flags,
    outlier_scores,
)
from selftaught.data.open_images import open_images
from selftaught.foundation.machine import Machine


def vectors(n: int, d: int = 48, *, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def patches(n: int, side: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """Patches of a photograph without those of its sky, (n, side, side, 3)."""
    photograph = load_sample_images().images[0]
    height, width = photograph.shape[:2]
    rng = np.random.default_rng(seed)
    tops, lefts = rng.integers(0, height - side, 4 * n), rng.integers(0, width - side, 4 * n)
    cut = [photograph[t : t + side, x : x + side] for t, x in zip(tops, lefts, strict=True)]
    return np.stack([patch for patch in cut if patch.std() > 30][:n])


def near(x_ND: NDArray[Any], spread: float, *, seed: int = 1) -> NDArray[np.float32]:
    return (x_ND + spread * vectors(*x_ND.shape, seed=seed)).astype(np.float32)


# Near-duplicates by vectors


def test_pairs_are_those_of_the_definition() -> None:
    x_ND = np.concatenate([vectors(300), near(vectors(300)[:40], 0.3)])
    d_NN = np.maximum(cdist(x_ND.astype(float), x_ND.astype(float), "cosine"), 1e-6)
    np.fill_diagonal(d_NN, np.inf)
    sorted_NN = np.sort(d_NN, 1)
    scale_N = np.maximum(sorted_NN[:, 9], np.median(sorted_NN[:, 9]) / 2)
    first_five_NN = (d_NN <= sorted_NN[:, 4:5]) & (
        d_NN / np.sqrt(np.outer(scale_N, scale_N)) <= outliers.NEAR
    )
    expected = {tuple(sorted(map(int, pair))) for pair in np.argwhere(first_five_NN)}
    found = near_duplicates(x_ND)
    assert {tuple(pair) for pair in found.rows_P2.tolist()} == expected and len(expected) > 20
    i_P, j_P = found.rows_P2.T
    np.testing.assert_allclose(found.cosine_P, 1 - d_NN[i_P, j_P], atol=1e-6)
    assert (np.diff(found.cosine_P) <= 0).all() and (i_P < j_P).all()
    assert np.isnan(found.correlation_P).all()


def test_copies_are_found_and_what_is_merely_close_is_not() -> None:
    x_ND = vectors(500)
    x_ND = np.concatenate([x_ND, near(x_ND[:50], 0.1)])
    pairs = near_duplicates(x_ND)
    assert sorted(map(tuple, pairs.rows_P2.tolist())) == [(i, 500 + i) for i in range(50)]
    dense_ND = vectors(1, 48) + 0.05 * vectors(500)  # all are close, none stands out
    assert len(near_duplicates(dense_ND)) == 0


def test_many_copies_of_one_image_are_one_group() -> None:
    x_ND = vectors(400)
    x_ND = np.concatenate([x_ND, np.repeat(x_ND[7:8], 30, axis=0), near(x_ND[[9]], 0.05)])
    groups = duplicate_groups(near_duplicates(x_ND), len(x_ND))
    assert [group.tolist() for group in groups] == [[7, *range(400, 430)], [9, 430]]


def exact_copies(times: tuple[int, ...], pictured: bool) -> list[list[int]]:
    """The groups found among images that are there so many times each, one after the other."""
    shown = as_gray(patches(len(times), SIDE)).repeat(times, axis=0)
    x_ND = vectors(len(times)).repeat(times, axis=0)
    pairs = near_duplicates(x_ND, pictures=(lambda rows: shown[rows]) if pictured else None)
    return sorted(group.tolist() for group in duplicate_groups(pairs, len(x_ND)))


@pytest.mark.slow
@pytest.mark.parametrize("pictured", [False, True])
def test_exact_copies_are_found_however_many_images_have_them(pictured: bool) -> None:
    assert exact_copies((2,), pictured) == [[0, 1]]
    assert exact_copies((2, 1), pictured) == [[0, 1]]
    assert exact_copies((12,) * 4, pictured) == [list(range(i, i + 12)) for i in range(0, 48, 12)]
    most = (11,) * 20 + (2,) * 10 + (1,) * 100
    starts = np.concatenate([[0], np.cumsum(most)])
    found = [list(range(a, a + n)) for a, n in zip(starts, most, strict=False) if n > 1]
    assert exact_copies(most, pictured) == found


def test_changed_copies_are_found_where_most_images_have_exact_ones() -> None:
    x_ND = np.concatenate([vectors(40), vectors(20, seed=2).repeat(12, axis=0)])
    x_ND = np.concatenate([x_ND, near(x_ND[[3, 40]], 0.1)])
    groups = sorted(g.tolist() for g in duplicate_groups(near_duplicates(x_ND), len(x_ND)))
    assert groups[:2] == [[3, 280], [*range(40, 52), 281]] and len(groups) == 21


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_few_images_are_no_error(n: int) -> None:
    x_ND = vectors(n)
    assert len(near_duplicates(x_ND)) == 0
    assert duplicate_groups(near_duplicates(x_ND), n) == []
    assert not outlier_flags(outlier_scores(x_ND)).any()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100))
def test_scale_and_order_of_vectors_do_not_matter(seed: int, factor: float) -> None:
    x_ND = np.concatenate([vectors(60, 8, seed=seed), near(vectors(60, 8, seed=seed)[:9], 0.1)])
    order_N = np.random.default_rng(seed).permutation(len(x_ND))
    pairs = {tuple(pair) for pair in near_duplicates(x_ND).rows_P2.tolist()}
    again = order_N[near_duplicates(factor * x_ND[order_N]).rows_P2]
    assert {tuple(sorted(pair)) for pair in again.tolist()} == pairs and pairs
    score_N = outlier_scores(x_ND, k=5)
    np.testing.assert_allclose(
        outlier_scores(factor * x_ND[order_N], k=5), score_N[order_N], rtol=1e-2, atol=1e-2
    )


# Pictures


def as_gray(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return images.mean(axis=3).astype(np.float32) / 255


def crop(image: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(image).crop((3, 9, 118, 124))


CHANGES: dict[str, Callable[[NDArray[np.uint8]], Image.Image]] = {
    "crop": crop,
    "small": lambda image: Image.fromarray(image).resize((90, 90)),
    "dark": lambda image: Image.fromarray((image * 0.8).astype(np.uint8)),
}


def square(image: Image.Image) -> NDArray[np.float32]:
    return np.asarray(image.convert("L").resize((128, 128)), np.float32) / 255


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_picture_is_the_same_and_another_is_not(change: str) -> None:
    images = patches(20, 128)
    originals = as_gray(images)
    changed = np.stack([square(CHANGES[change](image)) for image in images])
    assert (crop_correlations(originals, changed) >= outliers.SAME).mean() >= 0.95
    np.testing.assert_allclose(
        crop_correlations(changed, originals), crop_correlations(originals, changed), atol=1e-6
    )
    assert crop_correlations(originals, np.roll(changed, 1, axis=0)).max() < outliers.SAME


def test_correlation_is_pearsons_at_the_best_place() -> None:
    whole, cropped = as_gray(patches(2, 32))
    small = {
        side: np.asarray(Image.fromarray(x).resize((side, side), Image.Resampling.BILINEAR))
        for side in range(26, 33)
        for x in [cropped]
    }
    expected = max(
        np.corrcoef(a[t : t + side, x : x + side].ravel(), b.ravel())[0, 1]
        for side, shrunk in small.items()
        for a, b in [(whole, shrunk)]
        for t in range(33 - side)
        for x in range(33 - side)
    )
    swapped = {
        side: np.asarray(Image.fromarray(whole).resize((side, side), Image.Resampling.BILINEAR))
        for side in range(26, 33)
    }
    other = max(
        np.corrcoef(cropped[t : t + side, x : x + side].ravel(), shrunk.ravel())[0, 1]
        for side, shrunk in swapped.items()
        for t in range(33 - side)
        for x in range(33 - side)
    )
    found = crop_correlations(whole[None], cropped[None])[0]
    assert found == pytest.approx(max(expected, other), abs=1e-4)


def test_a_flat_picture_is_like_nothing() -> None:
    flat, photograph = np.full((1, 64, 64), 0.5, np.float32), as_gray(patches(1, 64))
    assert crop_correlations(flat, photograph) == crop_correlations(flat, flat) == 0


def test_pictures_decide_between_close_vectors() -> None:
    x_ND = vectors(300)
    x_ND = np.concatenate([x_ND, near(x_ND[:20], 0.1)])
    shown = as_gray(patches(320, 64))
    shown[300:310] = shown[:10]  # of 20 close pairs, 10 also look the same
    pairs = near_duplicates(x_ND, pictures=lambda rows: shown[rows])
    assert sorted(map(tuple, pairs.rows_P2.tolist())) == [(i, 300 + i) for i in range(10)]
    assert pairs.correlation_P.min() > 0.999
    assert (np.diff(pairs.cosine_P) <= 0).all()


def test_detail_orders_blurred_sharp_and_noisy_pictures_whatever_their_contrast() -> None:
    image = patches(1, 128)[0]
    small = Image.fromarray(image).resize((32, 32))
    blurred = square(small.resize((128, 128), Image.Resampling.BILINEAR))
    sharp = square(Image.fromarray(image))
    noise = np.random.default_rng(0).random((128, 128), np.float32)
    detail_n = detail_scores(np.stack([blurred, sharp, noise]))
    assert detail_n[0] + 0.5 < detail_n[1] and detail_n[1] + 0.1 < detail_n[2]
    np.testing.assert_allclose(
        detail_scores(np.stack([0.3 * sharp + 0.1])), detail_n[1:2], rtol=1e-3
    )


def test_a_flat_picture_has_the_usual_detail() -> None:
    shown = np.concatenate([as_gray(patches(9, 64)), np.zeros((2, 64, 64), np.float32)])
    assert (detail_scores(shown)[9:] == np.median(detail_scores(shown[:9]))).all()
    assert (detail_scores(shown[9:]) == 0).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_gray_pictures_of_a_store(dtype: Any, tmp_path: Path) -> None:
    images = patches(5, 64).astype(dtype) * (257 if dtype == np.uint16 else 1)
    images[3] = 9  # flat
    np.savez(tmp_path / "x.npz", images=images)
    store = open_images(str(tmp_path / "x.npz"), machine=Machine(cache=tmp_path / "cache")).store
    made = gray_pictures(store, np.array([4, 3, 0]))
    assert made.shape == (3, SIDE, SIDE) and made.dtype == np.float32
    assert (made[1] == 0).all()
    for picture, row in zip(made[[0, 2]], (4, 0), strict=True):
        expected = as_gray(images[row : row + 1].astype(np.float64))[0]
        enlarged = np.asarray(Image.fromarray(expected).resize((SIDE, SIDE)), np.float32)
        assert np.corrcoef(picture.ravel(), enlarged.ravel())[0, 1] > 0.98
        assert picture.min() >= 0 and picture.max() <= 1


# Outliers


def test_scores_are_those_of_the_definition() -> None:
    x_ND = near(vectors(30)[np.random.default_rng(3).integers(0, 30, 400)], 0.4)
    shown = as_gray(patches(400, 32))
    unit_ND = x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)
    y_NF = PCA(6, svd_solver="full").fit_transform(unit_ND.astype(float))
    kth_N = NearestNeighbors(n_neighbors=21).fit(y_NF).kneighbors(y_NF)[0][:, -1]
    detail_N = detail_scores(shown)
    middle, high = np.quantile(kth_N, (0.5, 0.9))
    sigma = (high - middle) / norm.ppf(0.9)
    distance_N = -norm.logsf(np.maximum(kth_N, middle), middle, sigma)
    both = []
    for value_N in (detail_N, -detail_N):
        middle, high = np.quantile(value_N, (0.5, 0.9))
        tail = expon(middle, (high - middle) / np.log(5))
        both.append(-tail.logsf(np.maximum(value_N, middle)) + np.log(2))
    vectors_alone = outlier_scores(x_ND, directions=6)
    np.testing.assert_allclose(vectors_alone, distance_N, rtol=1e-3)
    found = outlier_scores(x_ND, directions=6, pictures=lambda rows: shown[rows])
    np.testing.assert_allclose(found, np.max([distance_N, *both], axis=0), rtol=1e-3)


def test_a_small_crowd_far_from_all_is_found_and_the_rest_is_not() -> None:
    x_ND = near(vectors(10)[np.random.default_rng(3).integers(0, 10, 1000)], 0.7)
    x_ND[:12] = near(vectors(1, seed=9).repeat(12, axis=0), 0.1)  # they have each other
    flagged_N = outlier_flags(outlier_scores(x_ND))
    assert flagged_N[:12].all() and flagged_N[12:].sum() <= 2


def test_of_normal_and_of_exponential_values_less_than_a_few_are_surprising() -> None:
    rng = np.random.default_rng(0)
    normal = [
        outlier_flags(outliers._normal_surprise(value, value)).sum()
        for value in rng.normal(3, 2, (200, 2000))
    ]
    exponential = [
        outlier_flags(outliers._exponential_surprise(rng.exponential(2, 2000))).sum()
        for _ in range(200)
    ]
    assert 0.3 < np.mean(normal) < 2 and 0.3 < np.mean(exponential) < 2


def test_equal_images_are_not_surprising() -> None:
    assert not outlier_flags(outlier_scores(np.ones((100, 5), np.float32))).any()
    assert not outlier_flags(outlier_scores(np.zeros((100, 5), np.float32))).any()


def test_a_blurred_image_among_sharp_ones_is_found_by_its_picture() -> None:
    images = patches(300, 64)
    images[5] = np.asarray(Image.fromarray(images[5]).resize((8, 8)).resize((64, 64)))
    shown, x_ND = as_gray(images), vectors(300)
    assert not outlier_flags(outlier_scores(x_ND))[5]
    score_N = outlier_scores(x_ND, pictures=lambda rows: shown[rows])
    assert outlier_flags(score_N)[5] and score_N.argmax() == 5


def test_a_digit_turned_to_noise_is_found_by_its_vector() -> None:
    digits_ND = load_digits().data.astype(np.float32)
    digits_ND[17] = np.random.default_rng(0).permutation(digits_ND[17])
    assert outlier_scores(digits_ND).argsort()[::-1][:20].tolist().count(17) == 1


def test_new_images_are_as_surprising_as_they_are_among_the_known_ones():
    """Those that are known score as in `outlier_scores` (their own place is a neighbour too)."""
    rng = np.random.default_rng(4)
    known_MD = rng.normal(size=(600, 8)).astype(np.float32) + 3
    new_ND = np.concatenate([known_MD[:300], np.full((3, 8), -3, np.float32)])
    among_N = outliers.outlier_scores_against(new_ND, known_MD)
    np.testing.assert_allclose(among_N[:300], outlier_scores(known_MD, k=19)[:300], atol=0.4)
    flagged_N = outlier_flags(among_N, known=600)
    assert flagged_N[300:].all() and flagged_N[:300].sum() <= 3
    assert not outliers.outlier_scores_against(new_ND, known_MD[:39]).any()
