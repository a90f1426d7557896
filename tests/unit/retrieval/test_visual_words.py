"""A bag of visual words against slow loops, and against scikit-learn's idf."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfTransformer

from selftaught.errors import DataError, UserError
from selftaught.retrieval.local_features import Features, Local, sift
from selftaught.retrieval.visual_words import Words
from tests.oracles import words as oracle
from tests.support.photographs import photographs
from tests.support.warps import warped


def described(x_ND: NDArray) -> Local:
    """An image with these descriptors."""
    N = len(x_ND)
    return Local(np.zeros((N, 2)), np.ones(N), np.zeros(N), x_ND.astype(np.float32), np.ones(N))


def random_images(seed: int, n: int, D: int = 3) -> list[Local]:
    rng = np.random.default_rng(seed)
    return [described(rng.normal(size=(rng.integers(0, 12), D))) for _ in range(n)]


def test_the_oracle_on_numbers_worked_out_by_hand() -> None:
    assert oracle.nearest([1, 0], [[9, 9], [1, 1], [1, -1]]) == 1
    assert oracle.idf([[0, 0, 1], [1], []], 3) == pytest.approx([np.log(3), np.log(1.5), 0])
    assert oracle.weights([0, 0, 1], [3.0, 6.0]) == pytest.approx([2, 2])
    assert oracle.cosine([3, 4], [4, 3]) == pytest.approx(24 / 25)
    assert oracle.cosine([0, 0], [4, 3]) == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 9))
def test_scores_are_those_of_the_oracle(seed: int, n: int, k: int) -> None:
    images, rng = random_images(seed, n), np.random.default_rng(seed)
    centroids = rng.normal(size=(k, 3)).astype(np.float32)
    words = Words(centroids, images)
    documents = [
        [oracle.nearest(x, centroids.tolist()) for x in image.descriptors_ND.tolist()]
        for image in images
    ]
    for image, expected in zip(images, documents, strict=True):
        assert words.assign(image.descriptors_ND).tolist() == expected
    idf = oracle.idf(documents, k)
    np.testing.assert_allclose(words.idf_K, idf, atol=1e-12)
    weights = [oracle.weights(document, idf) for document in documents]
    for image, one in zip(images, weights, strict=True):
        expected_n = [oracle.cosine(one, other) for other in weights]
        np.testing.assert_allclose(words.rank(image), expected_n, atol=1e-12)


def test_weights_are_those_of_scikit_learn_but_for_its_one() -> None:
    """There idf is log(n / n_w) + 1, so that words of every image count."""
    images = [image for image in random_images(0, 40) if len(image)]
    words = Words(np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32), images)
    counts = np.stack([np.bincount(words.assign(i.descriptors_ND), minlength=6) for i in images])
    theirs = TfidfTransformer(smooth_idf=False, norm=None).fit(counts)
    np.testing.assert_allclose(words.idf_K, theirs.idf_ - 1, atol=1e-12)
    expected = theirs.transform(counts).toarray() - counts
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(words.file_nK.toarray(), expected, atol=1e-12)


def test_a_view_of_an_image_finds_it_first() -> None:
    rng = np.random.default_rng(0)
    boxes = [(top, left) for top in (0, 200) for left in (0, 300)]
    images = [
        image[top : top + 200, left : left + 300] for image in photographs() for top, left in boxes
    ]
    database = Features(images.__getitem__, len(images))
    words = Words.fit(database, 200, seed=0)
    assert words.centroids_KD.shape == (200, 128)
    for i, image in enumerate(images):
        scores = words.rank(sift(image))
        assert scores.argmax() == i and scores[i] == pytest.approx(1)
        assert words.rank(sift(warped(image, rng).image_HWC)).argmax() == i


def test_the_same_seed_makes_the_same_vocabulary() -> None:
    images = random_images(0, 60)
    one, again, other = (Words.fit(images, 4, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one.centroids_KD, again.centroids_KD)
    assert not np.array_equal(one.centroids_KD, other.centroids_KD)


def test_images_without_keypoints_score_nothing() -> None:
    nothing = described(np.empty((0, 3)))
    words = Words.fit([*random_images(1, 5), nothing], 3)
    assert words.rank(nothing).tolist() == [0] * 6
    assert all(words.rank(image)[5] == 0 for image in random_images(1, 5))


def test_a_word_of_every_image_says_nothing() -> None:
    images = [described(np.ones((2, 3))), described(np.ones((1, 3)))]
    words = Words(np.array([[1, 1, 1], [9, 9, 9]], np.float32), images)
    assert words.idf_K.tolist() == [0, 0]
    assert words.rank(images[0]).tolist() == [0, 0]


def test_too_few_descriptors_are_refused() -> None:
    with pytest.raises(DataError, match="no image has a keypoint"):
        Words.fit([described(np.empty((0, 3)))], 2)
    with pytest.raises(DataError, match="no image has a keypoint"):
        Words.fit([], 2)
    with pytest.raises(UserError, match="choose 1 to 2 clusters"):
        Words.fit([described(np.eye(3)[:2])], 5)
