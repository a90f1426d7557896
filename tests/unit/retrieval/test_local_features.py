"""Local features: places and orientations by an image and the same turned, shrunk or stretched."""

import sys

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from selftaught.encoders.encoder import EncoderConfig, build_encoder
from selftaught.errors import ConfigError
from selftaught.retrieval.local_features import (
    Cells,
    Features,
    Local,
    cell_features,
    root_sift,
    sift,
)
from selftaught.retrieval.verify import verify
from tests.support.photographs import extreme, photographs


def crop() -> NDArray[np.uint8]:
    return photographs()[0][220:420, :240]


def test_keypoints_are_as_many_as_asked_for_and_the_strongest_come_first() -> None:
    many, few = sift(crop(), most=300), sift(crop(), most=50)
    assert len(many) == 300 and len(few) == 50
    assert many.xy_N2.shape == (300, 2) and many.descriptors_ND.shape == (300, 128)
    assert many.descriptors_ND.dtype == np.float32 and not many.upright
    np.testing.assert_array_equal(few.xy_N2, many.xy_N2[:50])
    assert (many.xy_N2 >= 0).all() and (many.xy_N2 <= [239, 199]).all()


def test_a_quarter_turn_turns_places_and_orientations() -> None:
    """Clockwise (x, y) becomes (H - 1 - y, x): any shift of half a pixel would show."""
    image = crop()
    straight, turned = sift(image, most=300), sift(np.rot90(image, -1).copy(), most=300)
    expected_N2 = np.stack([199 - straight.xy_N2[:, 1], straight.xy_N2[:, 0]], 1)
    n, m = np.nonzero(np.linalg.norm(expected_N2[:, None] - turned.xy_N2[None], axis=2) < 0.25)
    turn_M = np.exp(1j * (turned.angle_N[m] - straight.angle_N[n] - np.pi / 2))
    zoom_M = turned.scale_N[m] / straight.scale_N[n]
    same_M = (np.abs(turn_M - 1) < 0.05) & (np.abs(zoom_M - 1) < 0.05)
    assert len(set(n[same_M].tolist())) > 0.9 * len(straight)
    offset_M2 = (expected_N2[n] - turned.xy_N2[m])[same_M]
    assert np.abs(np.median(offset_M2, axis=0)).max() < 0.02


def test_places_are_those_of_the_image_before_it_was_shrunk() -> None:
    """A pixel that becomes two by two has its centre between them."""
    large = crop().repeat(2, axis=0).repeat(2, axis=1)
    whole, shrunk = sift(crop()), sift(large, longest=240)
    found = verify(whole, shrunk)
    assert found.inliers > 100
    np.testing.assert_allclose(found.transform_23, [[2, 0, 0.5], [0, 2, 0.5]], atol=0.1)
    i_M, j_M = found.pairs_M2[found.inlier_M].T
    assert np.median(shrunk.scale_N[j_M] / whole.scale_N[i_M]) == pytest.approx(2, rel=0.1)
    np.testing.assert_allclose(shrunk.tolerance_N[0], 2 * whole.tolerance_N[0])


def test_other_types_are_stretched_to_eight_bits() -> None:
    gray = crop().mean(axis=2, keepdims=True).astype(np.float32)
    low, high = gray.min(), gray.max()
    eight = np.rint((gray - low) / (high - low) * 255).astype(np.uint8)
    expected = sift(eight, most=100)
    for other in (gray / 1000, (eight.astype(np.uint16) * 7 + 50)):
        found = sift(other, most=100)
        np.testing.assert_allclose(found.xy_N2, expected.xy_N2)
        np.testing.assert_allclose(found.descriptors_ND, expected.descriptors_ND)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (11, 11), (12, 12), (13, 40)])
def test_small_images_have_few_keypoints_or_none(shape: tuple[int, int]) -> None:
    for value in (0, 255):
        flat = np.full((*shape, 3), value, np.uint8)
        assert len(sift(flat)) == 0 and sift(flat).descriptors_ND.shape == (0, 128)
    noise = extreme(np.random.default_rng(0), *shape)
    assert len(sift(noise)) <= 1000
    assert len(sift(np.zeros((*shape, 1), np.float32))) == 0


def test_cosines_of_root_sift_are_sums_of_geometric_means() -> None:
    raw = np.random.default_rng(0).integers(0, 256, (5, 128)).astype(np.float32)
    raw[4] = 0
    one = root_sift(raw)
    for i in range(4):
        for j in range(4):
            p, q = raw[i] / raw[i].sum(), raw[j] / raw[j].sum()
            expected = sum((a * b) ** 0.5 for a, b in zip(p.tolist(), q.tolist(), strict=True))
            assert float(one[i] @ one[j]) == pytest.approx(expected, rel=1e-5)
    assert not one[4].any()


def test_without_opencv_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ConfigError, match=r"pip install 'selftaught\[search\]'"):
        sift(crop())


# --- cells


def test_cells_lie_at_the_centres_of_their_parts_of_the_image() -> None:
    one, other = torch.ones(2, 2, 4), torch.ones(2, 1, 1)
    one[:, 0, 0] = 0
    found = cell_features([one, other], 20, 80)
    assert found.upright and not found.angle_N.any()
    expected = [*((20 * c + 9.5, 10 * r + 4.5) for r in range(2) for c in range(4)), (39.5, 9.5)]
    assert found.xy_N2.tolist() == [list(place) for place in expected[1:]]
    np.testing.assert_allclose(found.scale_N, [200**0.5] * 7 + [1600**0.5])
    np.testing.assert_allclose(np.linalg.norm(found.descriptors_ND, axis=1), 1, rtol=1e-6)


def test_an_encoder_describes_an_image_of_any_shape_at_several_sizes() -> None:
    encoder = build_encoder(EncoderConfig("resnet18", image_size=64, stem="standard"), seed=1)
    describe = Cells(encoder, "layer2", sizes=(1.0, 2.0))
    found = describe(crop())
    assert len(found) == 8 * 10 + 16 * 19  # 64 x 77 px and 128 x 154 px, in cells of 8
    assert found.descriptors_ND.shape[1] == 128
    assert not encoder.training
    assert len(describe(crop()[:1, :1])) == 8 * 8 + 16 * 16


def test_a_stage_or_a_size_that_is_not_there_is_refused() -> None:
    encoder = build_encoder(EncoderConfig("resnet18", image_size=64))
    with pytest.raises(ConfigError, match=r"unknown stage 'layer9'.*layer"):
        Cells(encoder, "layer9")
    transformer = build_encoder(EncoderConfig("vit_tiny_patch16_224"))
    with pytest.raises(ConfigError, match=r"cannot process an image of .*: use SIFT"):
        Cells(transformer)(crop())


# --- of many images


def test_features_are_computed_once_when_they_are_asked_for() -> None:
    read: list[int] = []

    def pixels(i: int) -> NDArray[np.uint8]:
        read.append(i)
        return crop()[i : i + 60, :80]

    features = Features(pixels, 3, keep=2)
    assert len(features) == 3 and not read
    assert isinstance(features[2], Local) and features[2] is features[2]
    assert read == [2]
    list(features)
    assert read == [2, 0, 1, 2]  # two are kept
