"""Spatial verification on small photographs of many things, and along a corridor."""

import csv
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from selftaught.retrieval.local_features import Features, sift
from selftaught.retrieval.verify import (
    LEAST,
    RATIO,
    Verifier,
    descriptor_pairs,
    geometric_match,
    verify,
)
from selftaught.retrieval.visual_words import Words
from tests.support.real_images import unpacked
from tests.support.warps import miss, warped

pytestmark = [pytest.mark.data, pytest.mark.slow]


def pixels(file: Path) -> NDArray[np.uint8]:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[NDArray[np.uint8]]:
    """Every 65th of Imagenette's validation images, 128 px a side."""
    folder = unpacked("imagenette_128", tmp_path_factory.mktemp("real"))
    return [pixels(file) for file in sorted((folder / "val").rglob("*.*"))[::65]]


def test_small_photographs_are_found_in_their_warps(photographs: list[NDArray[np.uint8]]) -> None:
    """Where there are 100 keypoints, and 30 % of the matches are wrong."""
    rng, misses = np.random.default_rng(0), []
    for image in photographs:
        original = sift(image)
        for _ in range(3 if len(original) >= 100 else 0):
            warp = warped(image, rng)
            other = sift(warp.image_HWC)
            pairs = descriptor_pairs(original, other, RATIO)
            wrong = rng.permutation(len(pairs))[: round(0.3 * len(pairs))]
            pairs[wrong, 1] = rng.integers(0, len(other), len(wrong))
            found_23 = geometric_match(original, other, pairs).transform_23
            misses.append(np.inf if found_23 is None else miss(image, found_23, warp.truth_23))
    assert len(misses) > 100
    print(len(misses), np.mean(np.array(misses) <= 3), np.median(misses))
    assert np.mean(np.array(misses) <= 3) >= 0.95


def test_photographs_of_different_things_are_not_verified(
    photographs: list[NDArray[np.uint8]],
) -> None:
    local = [sift(image) for image in photographs[::2]]
    inliers = [verify(one, other).inliers for one, other in combinations(local, 2)]
    assert len(inliers) > 400
    assert np.mean(np.array(inliers) >= LEAST) < 0.005


def test_places_along_a_corridor_are_ranked_better(tmp_path: Path) -> None:
    """By words, then verified: mean average precision of the published right references."""
    folder = unpacked("vpr_corridor", tmp_path) / "corridor"
    queries, references = (sorted((folder / name).glob("*.jpg")) for name in ("query", "ref"))
    right: dict[int, set[int]] = {}
    with (folder / "ground_truth.csv").open() as file:
        for line in csv.DictReader(file):
            right.setdefault(int(line["query"]), set()).add(int(line["reference"]))
    asked, database = (
        Features(lambda i, files=files: pixels(files[i]), len(files))
        for files in (queries, references)
    )
    words, verifier = Words.fit(database, 500), Verifier(asked, database, first=30)
    before, after = [], []
    for q, truth in list(right.items())[::2]:
        order = np.argsort(-words.rank(asked[q]), kind="stable")
        before.append(precision(order, truth))
        after.append(precision(verifier(q, order), truth))
    print(np.mean(before), np.mean(after))
    assert np.mean(before) > 0.3  # of 111 references about 5 are right: chance is 0.05
    assert np.mean(after) > np.mean(before) + 0.02


def precision(order_n: NDArray[np.int64], right: set[int]) -> float:
    """Average precision."""
    hit_n = np.isin(order_n, list(right))
    return float((np.cumsum(hit_n) / np.arange(1, len(hit_n) + 1))[hit_n].mean())
