"""Spatial verification against plain trigonometry, and on photographs warped in known ways."""

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from math import pi
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from selftaught.encoders.encoder import EncoderConfig, build_encoder
from selftaught.retrieval import transforms, verify
from selftaught.retrieval.local_features import Cells, Features, Local, sift
from selftaught.retrieval.transforms import PointPairs, refine, refine_weighted
from selftaught.retrieval.verify import (
    GeometricMatch,
    Verifier,
    descriptor_pairs,
    geometric_match,
    match_counts,
    rerank,
)
from selftaught.views.tensors import resize
from tests.oracles import neighbours as neighbours_oracle
from tests.oracles import verify as oracle
from tests.support.photographs import photograph, photographs
from tests.support.warps import miss, warped

pytestmark = pytest.mark.slow

EYE = np.eye(128, dtype=np.float32)


def made(rng: np.random.Generator, N: int, *, upright: bool = False) -> Local:
    """Keypoints anywhere, each with a descriptor of its own."""
    return Local(
        rng.uniform(0, 100, (N, 2)),
        np.exp(rng.uniform(0, 2, N)),
        np.zeros(N) if upright else rng.uniform(0, 2 * pi, N),
        EYE[:N],
        rng.uniform(1, 6, N),
        upright,
    )


def moved(local: Local, a: complex, b: complex) -> Local:
    """What a similarity a z + b makes of keypoints."""
    y = a * (local.xy_N2 @ [1, 1j]) + b
    return replace(
        local,
        xy_N2=np.stack([y.real, y.imag], 1),
        scale_N=local.scale_N * abs(a),
        angle_N=local.angle_N if local.upright else local.angle_N + np.angle(a),
        tolerance_N=local.tolerance_N * abs(a),
    )


def same(N: int) -> NDArray[np.int64]:
    return np.stack([np.arange(N)] * 2, 1)


def mixed(one: Local, other: Local, first: int) -> Local:
    """The first keypoints of one, the rest of the other."""
    fields = ("xy_N2", "scale_N", "angle_N", "descriptors_ND", "tolerance_N")
    parts = {
        name: np.concatenate([getattr(one, name)[:first], getattr(other, name)[first:]])
        for name in fields
    }
    return replace(one, **parts)


# --- hypotheses


def test_the_oracle_on_three_matches_worked_out_by_hand() -> None:
    """A quarter turn, twice as large: (1, 0) to (0, 2); so (0, 1) must come to (-2, 0)."""
    queries = [(1.0, 0.0, 1.0, 0.0), (0.0, 1.0, 3.0, 0.0), (0.0, 1.0, 1.0, 0.0)]
    candidates = [(0.0, 2.0, 2.0, pi / 2), (-2.0, 0.0, 6.0, pi / 2), (-2.0, 1.0, 2.0, 0.0)]
    (p, q, u), (r, s, v) = oracle.similarity(queries[0], candidates[0])
    assert (p, q, u, r, s, v) == pytest.approx((0, -2, 0, 2, 0, 0), abs=1e-12)
    third = queries[2], candidates[2]  # off by 1 there, by 1/2 here
    transform = (p, q, u), (r, s, v)
    assert oracle.explains(transform, *third, near=0.51, far=1.01, most_zoom=2)
    assert not oracle.explains(transform, *third, near=0.49, far=1.01, most_zoom=2)
    assert not oracle.explains(transform, *third, near=0.51, far=0.99, most_zoom=2)
    larger = (-2.0, 1.0, 4.1, 0.0)
    assert not oracle.explains(transform, queries[2], larger, near=9, far=9, most_zoom=2)
    assert oracle.counts(queries, candidates, [0.6] * 3, [1.1] * 3, 2.0) == [3, 3, 2]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 25), st.booleans())
def test_every_hypothesis_counts_what_the_oracle_counts(seed: int, N: int, upright: bool) -> None:
    rng = np.random.default_rng(seed)
    query = made(rng, N, upright=upright)
    a = complex(rng.uniform(0.5, 2)) if upright else complex(*rng.normal(size=2))
    near = moved(query, a, complex(*rng.normal(0, 50, 2)))
    near = replace(near, xy_N2=near.xy_N2 + rng.normal(0, 2 * abs(a), (N, 2)))
    candidate = mixed(near, made(rng, N, upright=upright), int(rng.integers(N + 1)))
    keypoints = [
        list(zip(*x.xy_N2.T.tolist(), x.scale_N.tolist(), x.angle_N.tolist(), strict=True))
        for x in (query, candidate)
    ]
    limits = query.tolerance_N.tolist(), candidate.tolerance_N.tolist()
    expected = oracle.counts(*keypoints, *limits, transforms.ZOOM)
    for block in (1, 40, 2**16):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(verify, "_BLOCK", block)
            assert match_counts(PointPairs.of(query, candidate, same(N))).tolist() == expected


# --- fits


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 30))
def test_fits_are_weighted_least_squares(seed: int, M: int) -> None:
    """Against one system of equations for x and y together, in the numbers to be found."""
    rng = np.random.default_rng(seed)
    z, noise = (rng.normal(0, spread, (M, 2)) @ [1, 1j] for spread in (100, 0.3))
    y, weight = (1.1 + 0.3j) * z + (5 - 7j) + noise, rng.uniform(0.1, 3, M)
    x_M, y_M, one, zero = z.real, z.imag, np.ones(M), np.zeros(M)
    root_2M = np.sqrt(np.tile(weight, 2))
    b_2M = root_2M * np.concatenate([y.real, y.imag])

    def solved(*columns: tuple[NDArray[Any], NDArray[Any]]) -> NDArray[Any]:
        rows = [root_2M * np.concatenate(column) for column in columns]
        return np.linalg.lstsq(np.stack(rows, 1), b_2M)[0]

    def same_as(fit: transforms.Fit, expected: Any) -> None:
        np.testing.assert_allclose(fit(z, y, weight), expected, atol=1e-7)

    p, r, u, v = solved((x_M, y_M), (-y_M, x_M), (one, zero), (zero, one))
    same_as(transforms._rotated_similarity, [[p, -r, u], [r, p, v]])
    p, u, v = solved((x_M, y_M), (one, zero), (zero, one))
    same_as(transforms._translation_and_scale, [[p, 0, u], [0, p, v]])
    if M < 6:
        assert transforms._affine(z, y, weight) is None
    else:
        of_x = [(x_M, zero), (y_M, zero), (one, zero)]
        expected = solved(*of_x, *((b, a) for a, b in of_x)).reshape(2, 3)
        same_as(transforms._affine, expected)


def test_places_that_determine_nothing_are_not_fitted() -> None:
    affine, turned, upright = (
        transforms._affine,
        transforms._rotated_similarity,
        transforms._translation_and_scale,
    )
    line, point, one = np.arange(8) * (1 + 2j), np.full(8, 3 + 4j), np.ones(8)
    assert affine(line, 2 * line, one) is None
    turn_23 = turned(line, 2j * line, one)
    assert turn_23 is not None
    np.testing.assert_allclose(turn_23, [[0, -2, 0], [2, 0, 0]], atol=1e-12)
    for fit in (affine, turned, upright):
        assert fit(point, line, one) is None and fit(line, point, one) is None
        assert fit(line[:0], line[:0], one[:0]) is None
    assert upright(line, -line, one) is None
    z = np.exp(2j * pi * np.arange(8) / 8)
    assert affine(z, z.conj(), one) is None  # mirrored
    assert affine(z, z.real * 4 + 1j * z.imag, one) is None  # stretched
    assert affine(z, z.real * 2 + 1j * z.imag, one) is not None


def test_a_wrong_pair_within_the_tolerance_does_not_bend_the_transform() -> None:
    rng = np.random.default_rng(0)
    query = replace(made(rng, 25), tolerance_N=np.full(25, 5.0))
    candidate = moved(query, 1.1 + 0.2j, 3)
    candidate.xy_N2[:] += rng.normal(0, 0.1, (25, 2))
    candidate.xy_N2[[0, 1, 2]] += 4
    pairs = PointPairs.of(query, candidate, same(25))
    truth_23 = np.array([[1.1, -0.2, 3], [0.2, 1.1, 0]])
    bent_23, _ = refine(pairs.hypotheses[20], pairs)
    found_23, inlier_M = refine_weighted(bent_23, pairs)
    corners = np.zeros((100, 100))
    assert miss(corners, bent_23, truth_23) > 1 > 5 * miss(corners, found_23, truth_23)
    assert inlier_M.sum() >= 23


def test_a_refined_hypothesis_explains_no_less() -> None:
    rng, seen = np.random.default_rng(0), 0
    for _ in range(100):
        query = made(rng, 40)
        near = moved(query, 1 + 0.2j, 3)
        near = replace(
            near,
            xy_N2=near.xy_N2 @ [[1, 0.1], [0, 1]] + rng.normal(0, 1, (40, 2)),
            angle_N=near.angle_N + rng.normal(0, 0.1, 40),
        )
        pairs = PointPairs.of(query, mixed(near, made(rng, 40), 30), same(40))
        before = match_counts(pairs)
        for m in (0, 10, 35):
            A_23, inlier_M = refine(pairs.hypotheses[m], pairs)
            assert inlier_M.sum() >= before[m]
            assert np.array_equal(inlier_M, pairs.inliers(A_23[None])[0])
            seen += inlier_M.sum() > before[m] + 5
    assert seen > 100


# --- matches


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([None, 0.8, 1.0]))
def test_matches_are_mutual_and_below_the_ratio(seed: int, ratio: float | None) -> None:
    rng = np.random.default_rng(seed)
    n, m = rng.integers(1, 20, 2)
    one, other = made(rng, n), made(rng, m)
    x, y = (np.abs(rng.normal(size=(k, 4))) for k in (n, m))
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
    one = replace(one, descriptors_ND=x.astype(np.float32))
    other = replace(other, descriptors_ND=y.astype(np.float32))
    there = neighbours_oracle.neighbours(one.descriptors_ND, other.descriptors_ND, 1, "dot")[1]
    back = neighbours_oracle.neighbours(other.descriptors_ND, one.descriptors_ND, 1, "dot")[1]
    expected = {(i, j) for i, j in enumerate(there[:, 0].tolist()) if back[j, 0] == i}
    if ratio is not None and m > 1:
        far = np.linalg.norm(x[:, None] - y[None], axis=2)
        near_2 = np.sort(far, axis=1)[:, :2]
        expected = {(i, j) for i, j in expected if near_2[i, 0] <= ratio * near_2[i, 1]}
    pairs = descriptor_pairs(one, other, ratio)
    assert {(i, j) for i, j in pairs.tolist()} == expected
    alike = (one.descriptors_ND[pairs[:, 0]] * other.descriptors_ND[pairs[:, 1]]).sum(1)
    assert (np.diff(alike) < 1e-6).all()


def test_keypoints_at_one_place_give_one_match() -> None:
    one = made(np.random.default_rng(0), 4)
    twice = replace(one, xy_N2=one.xy_N2[[0, 0, 1, 2]])
    assert descriptor_pairs(twice, one, None).tolist() == [[0, 0], [2, 2], [3, 3]]
    assert descriptor_pairs(one, twice, None).tolist() == [[0, 0], [2, 2], [3, 3]]


# --- photographs


def parts() -> list[NDArray[np.uint8]]:
    """Eight parts of photographs that have nothing in common."""
    boxes = [(top, left) for top in (0, 200) for left in (0, 300)]
    return [
        image[top : top + 200, left : left + 300] for image in photographs() for top, left in boxes
    ]


@pytest.fixture(scope="module")
def photos() -> list[Local]:
    return [sift(part) for part in parts()]


def test_an_image_lies_in_itself_as_it_is(photos: list[Local]) -> None:
    found = verify.verify(photos[0], photos[0])
    assert found.inliers == len(found.pairs_M2) > 100
    np.testing.assert_allclose(found.transform_23, np.eye(2, 3), atol=1e-9)


def test_other_images_are_not_verified(photos: list[Local]) -> None:
    for one, other in permutations(photos, 2):
        assert verify.verify(one, other).inliers < verify.LEAST


def test_the_other_way_round_is_the_inverse() -> None:
    rng = np.random.default_rng(3)
    image = photograph(rng, 200, 240)
    warp = warped(image, rng)
    one, other = sift(image), sift(warp.image_HWC)
    there = verify.verify(one, other, ratio=None)
    back = verify.verify(other, one, ratio=None)
    whole = [np.vstack([found.transform_23, [0, 0, 1]]) for found in (there, back)]
    np.testing.assert_allclose(whole[0] @ whole[1], np.eye(3), atol=0.5)
    assert abs(there.inliers - back.inliers) <= 0.1 * there.inliers


def with_outliers(
    rng: np.random.Generator, one: Local, other: Local, share: float
) -> GeometricMatch:
    """Verified after a share of the matches were given another keypoint, drawn at random."""
    pairs = descriptor_pairs(one, other, verify.RATIO)
    wrong = rng.permutation(len(pairs))[: round(share * len(pairs))]
    pairs[wrong, 1] = rng.integers(0, len(other), len(wrong))
    return geometric_match(one, other, pairs)


def test_warps_of_photographs_are_found_among_outliers() -> None:
    """Within 3 px at the corners, although 30 % of the matches are wrong, in 95 % of 500 warps."""
    rng, misses = np.random.default_rng(0), []
    for k in range(500):
        if k % 10 == 0:
            image = photograph(rng, 240, 320)
            original = sift(image)
        warp = warped(image, rng)
        found = with_outliers(rng, original, sift(warp.image_HWC), 0.3)
        misses.append(
            np.inf if found.transform_23 is None else miss(image, found.transform_23, warp.truth_23)
        )
    assert (np.array(misses) <= 3).mean() >= 0.95


@pytest.mark.parametrize("zoom", [0.6, 1.0, 1.5])
def test_cells_of_an_encoder_find_a_part_of_an_image(zoom: float) -> None:
    encoder = build_encoder(EncoderConfig("resnet18", image_size=128, stem="standard"), seed=0)
    describe = Cells(encoder, "layer2")
    whole = photographs()[0][:400, :600]
    inside = describe(whole)
    for top, left in ((0, 0), (50, 120), (130, 210)):
        part = whole[top : top + 260, left : left + 380]
        query = describe(resize(part, round(260 * zoom), round(380 * zoom)))
        found = verify.verify(query, inside)
        A_23 = found.transform_23
        assert A_23 is not None and A_23[0, 1] == A_23[1, 0] == 0 and A_23[0, 0] == A_23[1, 1]
        at_2 = A_23 @ [190 * zoom - 0.5, 130 * zoom - 0.5, 1]
        assert np.abs(at_2 - [left + 189.5, top + 129.5]).max() < inside.scale_N.min()
        assert A_23[0, 0] == pytest.approx(1 / zoom, rel=0.1)


# --- where there is little to go by


def test_without_keypoints_nothing_is_explained(photos: list[Local]) -> None:
    nothing = sift(np.zeros((50, 50, 3), np.uint8))
    for one, other in ((nothing, photos[0]), (photos[0], nothing), (nothing, nothing)):
        found = verify.verify(one, other)
        assert found.inliers == 0 and found.transform_23 is None
        assert found.pairs_M2.shape == (0, 2) and found.inlier_M.shape == (0,)


@pytest.mark.parametrize("upright", [False, True])
def test_one_match_is_its_own_hypothesis(upright: bool) -> None:
    one = made(np.random.default_rng(0), 1, upright=upright)
    other = moved(one, 2 if upright else 2j, 5)
    found = verify.verify(one, other)
    assert found.inliers == 1 and found.pairs_M2.tolist() == [[0, 0]]
    expected = [[2, 0, 5], [0, 2, 0]] if upright else [[0, -2, 5], [2, 0, 0]]
    np.testing.assert_allclose(found.transform_23, expected, atol=1e-9)


PLACES: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "one place": lambda t: np.zeros((len(t), 2)),
    "a line": lambda t: np.stack([t, 2 * t], 1),
    "a line along x": lambda t: np.stack([t, 0 * t], 1),
    "two places": lambda t: np.stack([t % 2, 0 * t], 1),
}


@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize("upright", [False, True])
def test_places_without_breadth_are_explained_by_a_similarity(places: str, upright: bool) -> None:
    one = made(np.random.default_rng(0), 12, upright=upright)
    one = replace(one, xy_N2=10 * PLACES[places](np.arange(12.0)))
    a = 1.5 if upright else 1.2 + 0.9j
    found = geometric_match(one, moved(one, a, 3 - 1j), same(12))
    assert found.inliers == 12
    expected = [[np.real(a), -np.imag(a), 3], [np.imag(a), np.real(a), -1]]
    np.testing.assert_allclose(found.transform_23, expected, atol=1e-9)


@pytest.mark.parametrize("upright", [False, True])
def test_the_same_match_many_times_is_no_trouble(upright: bool) -> None:
    one = made(np.random.default_rng(0), 2, upright=upright)
    found = geometric_match(one, moved(one, 2, 1), np.zeros((50, 2), np.int64))
    assert found.inliers == 50
    np.testing.assert_allclose(found.transform_23, [[2, 0, 1], [0, 2, 0]], atol=1e-9)


def test_all_query_places_onto_one_place_is_no_transform() -> None:
    """A hypothesis of next to no scale would take them all there."""
    rng = np.random.default_rng(0)
    one = made(rng, 30)
    other = replace(made(rng, 30), xy_N2=np.full((30, 2), 7.0), scale_N=np.full(30, 1e-6))
    assert geometric_match(one, other, same(30)).inliers < 5


# --- re-ranking


def ranked(
    monkeypatch: pytest.MonkeyPatch,
    inliers: list[int],
    *,
    upright: bool = False,
    cells: int = 1,
    **rules: int,
) -> list[int]:
    """The order of candidates with so many inliers."""

    def counted(query: Local, candidate: Any) -> GeometricMatch:
        return GeometricMatch(same(candidate), np.ones(candidate, np.bool_), None)

    monkeypatch.setattr(verify, "verify", counted)
    candidates: Any = inliers
    query = made(np.random.default_rng(0), cells, upright=upright)
    return rerank(query, candidates, **rules).tolist()


def test_verified_ones_come_first_and_all_else_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    inliers = [3, 9, 0, 20, 7, 9, 50]
    assert ranked(monkeypatch, inliers, least=8) == [6, 3, 1, 5, 0, 2, 4]
    assert ranked(monkeypatch, inliers, least=1) == [6, 3, 1, 5, 4, 0, 2]
    assert ranked(monkeypatch, inliers, least=8, first=5) == [3, 1, 0, 2, 4, 5, 6]
    assert ranked(monkeypatch, inliers, least=99) == list(range(7))
    assert ranked(monkeypatch, inliers, first=0) == list(range(7))
    assert ranked(monkeypatch, inliers) == ranked(monkeypatch, inliers, least=verify.LEAST)
    assert ranked(monkeypatch, []) == []


def test_cells_need_more_inliers(monkeypatch: pytest.MonkeyPatch) -> None:
    inliers = [verify.LEAST_CELLS - 1, verify.LEAST_CELLS]
    assert ranked(monkeypatch, inliers[::-1]) == [0, 1]
    assert ranked(monkeypatch, inliers, upright=True) == [1, 0]
    assert ranked(monkeypatch, [verify.LEAST, 9], upright=True) == [0, 1]
    assert ranked(monkeypatch, [14, 15], upright=True, cells=150) == [1, 0]
    assert ranked(monkeypatch, [13, 14], upright=True, cells=150) == [0, 1]
    assert ranked(monkeypatch, [19, 20], upright=True, cells=900) == [1, 0]


def test_a_verifier_finds_the_photograph_that_a_query_is_a_view_of() -> None:
    rng, read = np.random.default_rng(0), []
    images = parts()
    views = [warped(image, rng).image_HWC for image in images[:3]]

    def pixels(i: int) -> NDArray[np.uint8]:
        read.append(i)
        return images[i]

    verifier = Verifier(Features(views.__getitem__, 3), Features(pixels, 8), first=5)
    found = np.array([7, 4, 1, 0, 6, 2, 3, 5])
    assert verifier(1, found).tolist() == [1, 7, 4, 0, 6, 2, 3, 5]
    assert sorted(read) == [0, 1, 4, 6, 7]
    assert verifier(2, found).tolist() == found.tolist()  # beyond the first five
    assert len(read) == 5
    assert verifier(0, found[:0]).tolist() == []
    assert verifier.match(0, 0).inliers > 20 and len(read) == 5
