"""Descriptors of images of any size: R-MAC's regions, pooling, scales, boxes, whitening."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from selftaught.clustering.whitening import Whitening
from selftaught.data.open_images import open_images
from selftaught.data.retrieval_sets import Query
from selftaught.encoders.encoder import Encoder, EncoderConfig, build_encoder
from selftaught.errors import BadImage, ConfigError, DataError, UserError
from selftaught.evaluation import descriptors as d
from selftaught.evaluation.descriptors import (
    DescriptorSettings,
    ImageToDescribe,
    descriptors,
    learn_whitening,
)
from selftaught.evaluation.representation import raw_pixels
from selftaught.foundation.machine import Machine
from selftaught.views.policy import Intensity
from selftaught.views.tensors import resize
from tests.oracles import retrieval as oracle
from tests.support.photographs import photograph


class Glass(nn.Module):
    """A stand-in whose map is the image itself; it remembers the shapes that it saw."""

    def __init__(self, stages: tuple[str, ...] = ("early", "late")) -> None:
        super().__init__()
        self.scale, self.seen = nn.Parameter(torch.ones(())), list[tuple[int, ...]]()
        self.feature_info = [{"module": name, "reduction": 1} for name in stages]

    def forward_intermediates(self, x: Tensor, *, intermediates_only: bool) -> list[Tensor]:
        self.seen.append(tuple(x.shape))
        return [-x, x * self.scale]


def glass() -> Encoder:
    intensity = Intensity(0, 255, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return Encoder(EncoderConfig("glass", intensity=intensity), Glass(), dim=3)


def save(path: Path, height: int, width: int, seed: int = 0) -> tuple[ImageToDescribe, np.ndarray]:
    pixels = photograph(np.random.default_rng(seed), height, width)
    Image.fromarray(pixels).save(path)
    return ImageToDescribe(path), pixels


def asked(picture: ImageToDescribe, *box: float) -> ImageToDescribe:
    corners: Any = box or None
    query = Query("it", picture.path, corners, *[frozenset[int]()] * 3)
    return ImageToDescribe(picture.path, query)


# --- R-MAC's regions


def test_regions_of_a_square_by_hand() -> None:
    # Sides 6, 12/3 = 4 and 12/4 = 3; starts 0, 2 at level 2 and 0, 1.5, 3 at level 3.
    expected = [(0, 0, 6)]
    expected += [(top, left, 4) for top in (0, 2) for left in (0, 2)]
    expected += [(top, left, 3) for top in (0, 1, 3) for left in (0, 1, 3)]
    assert d.square_regions(6, 6) == expected == oracle.regions(6, 6, 3)


def test_regions_of_an_oblong_by_hand() -> None:
    # 6 x 9: two squares of side 6 overlap by a half, three by 3/4; a half is nearer to 0.4.
    expected = [(0, 0, 6), (0, 3, 6)]
    expected += [(top, left, 4) for top in (0, 2) for left in (0, 2, 5)]
    expected += [(top, left, 3) for top in (0, 1, 3) for left in (0, 2, 4, 6)]
    assert d.square_regions(6, 9) == expected == oracle.regions(6, 9, 3)
    upright = [(left, top, side) for top, left, side in expected]
    assert sorted(d.square_regions(9, 6)) == sorted(upright)


def test_how_many_squares_along_the_longer_side() -> None:
    # 10 x 16 overlaps by exactly 0.4; 5 x 9 by 0.2 or by 0.6, which are as far; 4 x 20 by 0.36.
    assert d.square_regions(10, 16, levels=1) == [(0, 0, 10), (0, 6, 10)]
    assert d.square_regions(5, 9, levels=1) == [(0, 0, 5), (0, 4, 5)]
    assert len(d.square_regions(4, 20, levels=1)) == 8
    assert oracle.squares_along(4, 20, oracle.Fraction(2, 5)) == 8


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5))
def test_regions_equal_the_oracle_and_lie_in_the_map(height: int, width: int, levels: int) -> None:
    found = d.square_regions(height, width, levels)
    assert found == oracle.regions(height, width, levels)
    for top, left, side in found:
        assert 0 <= top <= height - side and 0 <= left <= width - side and side >= 1


# --- pooling


@pytest.mark.parametrize(("height", "width"), [(12, 12), (9, 14), (17, 6)])
def test_rmac_equals_the_oracle(height: int, width: int, tmp_path: Path) -> None:
    picture, pixels = save(tmp_path / "it.png", height, width)
    recipe = DescriptorSettings(longest=max(height, width, 16))
    if max(height, width) < 16:
        pixels = resize(pixels.astype(np.float32), *sides(height, width, 16))
    (found,) = descriptors(glass(), [picture], recipe)
    expected = oracle.rmac(pixels.transpose(2, 0, 1) / 255, 3)
    assert found == pytest.approx(expected, abs=1e-5)
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-6)


def sides(height: int, width: int, longest: int) -> tuple[int, int]:
    scale = longest / max(height, width)
    return round(height * scale), round(width * scale)


def test_rmac_by_hand() -> None:
    """One channel has its largest value in a corner, the other is even: a map of 2 x 2."""
    map_chw = torch.tensor([[[4.0, 0.0], [0.0, 0.0]], [[3.0, 3.0], [3.0, 3.0]]])
    maxima = d.region_maxima(map_chw, levels=2)
    # Level 1 sees (4, 3); level 2 has sides of 4/3, a pixel each: (4, 3), then (0, 3) thrice.
    assert maxima.tolist() == [[4, 3], [4, 3], [0, 3], [0, 3], [0, 3]]
    total = 2 * np.array([0.8, 0.6]) + 3 * np.array([0, 1])
    assert d.unit_vectors(d.unit_vectors(maxima).sum(0)).numpy() == pytest.approx(
        total / np.linalg.norm(total)
    )


def test_generalised_means() -> None:
    map_chw = torch.tensor([[[1.0, 2.0]], [[0.0, -5.0]]])
    assert d.generalised_mean(map_chw, 3)[0] == pytest.approx((9 / 2) ** (1 / 3))
    assert d.generalised_mean(map_chw, 1)[0] == pytest.approx(1.5)
    assert d.generalised_mean(map_chw, 60)[0] == pytest.approx(2, rel=0.02)
    assert d.generalised_mean(map_chw, 3)[1] == pytest.approx(1e-6), "what is negative is nothing"


@pytest.mark.parametrize("pool", ["gem", "mean"])
def test_pools_of_one_region(pool: str, tmp_path: Path) -> None:
    picture, pixels = save(tmp_path / "it.png", 24, 16)
    x = pixels / 255
    expected = (x**3).mean((0, 1)) ** (1 / 3) if pool == "gem" else x.mean((0, 1))
    (found,) = descriptors(glass(), [picture], DescriptorSettings(pool, longest=24))
    assert found == pytest.approx(oracle.unit(expected), abs=1e-5)


def test_a_stage_may_be_chosen(tmp_path: Path) -> None:
    picture, _ = save(tmp_path / "it.png", 24, 16)
    late = descriptors(glass(), [picture], DescriptorSettings("mean", longest=24))
    early = descriptors(glass(), [picture], DescriptorSettings("mean", longest=24, stage="early"))
    assert early == pytest.approx(-late)
    with pytest.raises(ConfigError, match="no stage 'lade': did you mean 'late'"):
        descriptors(glass(), [picture], DescriptorSettings(stage="lade"))


# --- sizes, scales and boxes


def test_the_longer_side_is_scaled_at_each_scale(tmp_path: Path) -> None:
    pictures = [save(tmp_path / f"{n}.png", *size)[0] for n, size in enumerate(((20, 30), (60, 2)))]
    encoder = glass()
    descriptors(encoder, pictures, DescriptorSettings(longest=48, scales=(1, 0.5)))
    assert encoder.trunk.seen == [(1, 3, 32, 48), (1, 3, 16, 24), (1, 3, 48, 2), (1, 3, 24, 1)]


def test_descriptors_of_scales_are_averaged(tmp_path: Path) -> None:
    picture, _ = save(tmp_path / "it.png", 40, 30)
    one, half = (
        descriptors(glass(), [picture], DescriptorSettings(longest=side)).astype(float)
        for side in (40, 20)
    )
    both = descriptors(glass(), [picture], DescriptorSettings(longest=40, scales=(1, 0.5)))
    assert both[0] == pytest.approx(oracle.unit((one + half)[0] / 2), abs=1e-6)
    assert np.abs(one - half).max() > 1e-4


def test_a_query_is_cut_once_it_is_scaled(tmp_path: Path) -> None:
    picture, pixels = save(tmp_path / "it.png", 30, 40)
    encoder = glass()
    query = asked(picture, 10.4, 6, 30.2, 26)
    (found,) = descriptors(encoder, [query], DescriptorSettings("mean", longest=80))
    assert encoder.trunk.seen == [(1, 3, 40, 41)]
    scaled = resize(pixels.astype(np.float32), 60, 80)[12:52, 20:61]
    assert found == pytest.approx(oracle.unit(scaled.mean((0, 1))), abs=1e-5)
    whole = descriptors(encoder, [asked(picture), picture], DescriptorSettings("mean", longest=80))
    assert (whole[0] == whole[1]).all() and np.abs(whole[0] - found).max() > 1e-4


def test_the_smallest_box_has_a_pixel_and_none_leaves_the_image() -> None:
    image = np.arange(12).reshape(3, 4, 1)
    assert d.crop_to_box(image, (39.9, 29.9, 40, 30), (30, 40))[..., 0].tolist() == [[11]]
    assert d.crop_to_box(image, (-1, -1, 1, 1), (30, 40))[..., 0].tolist() == [[0]]
    assert d.crop_to_box(image, (0, 0, 41, 31), (30, 40)).shape == image.shape
    assert d.crop_to_box(image, (40.5, 0, 41, 31), (30, 40))[..., 0].tolist() == [[3], [7], [11]]


def test_threads_and_modes_change_nothing(tmp_path: Path) -> None:
    pictures = [save(tmp_path / f"{n}.png", 20 + n, 30, n)[0] for n in range(5)]
    encoder = build_encoder(EncoderConfig("resnet8", image_size=32, options={"width": 4}), seed=0)
    encoder.train()
    found = [
        descriptors(encoder, pictures, DescriptorSettings(longest=32), machine=Machine(threads=n))
        for n in (0, 1, 3)
    ]
    assert encoder.training and found[0].shape == (5, 16) and found[0].dtype == np.float32
    assert all((other == found[0]).all() for other in found[1:])


# --- whitening


def test_whitening_is_learned_from_regions_and_used_on_them(tmp_path: Path) -> None:
    pictures = [save(tmp_path / f"{n}.png", 20 + n, 30, n)[0] for n in range(8)]
    plain = DescriptorSettings(longest=32)
    whitening = learn_whitening(glass(), [p.path for p in pictures[:6]], plain, size=2)
    regions = []
    for picture in pictures[:6]:
        pixels = np.asarray(Image.open(picture.path), np.float32)
        x = torch.from_numpy(resize(pixels, *sides(*pixels.shape[:2], 32)) / 255).permute(2, 0, 1)
        regions.append(d.unit_vectors(d.region_maxima(x)))
    expected = Whitening.fit(torch.cat(regions), 2)
    assert torch.allclose(whitening.mean_D, expected.mean_D, atol=1e-6)
    found = descriptors(glass(), pictures, DescriptorSettings(longest=32, whitening=whitening))
    assert found.shape == (8, 2)
    white = whitening(regions[0])
    assert found[0] == pytest.approx(oracle.unit(white.sum(0).numpy()), abs=1e-5)


def test_a_whitening_of_another_size_is_refused(tmp_path: Path) -> None:
    picture, _ = save(tmp_path / "it.png", 20, 20)
    other = Whitening.fit(torch.randn(9, 5, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(UserError, match="pass rows of 5 numbers"):
        descriptors(glass(), [picture], DescriptorSettings(longest=20, whitening=other))
    assert not torch.is_inference_mode_enabled()
    with pytest.raises(UserError, match="pass one row per vector"):
        learn_whitening(glass(), [], DescriptorSettings())


# --- networks without maps, and those that cannot


def test_what_has_no_maps_is_described_by_its_vector(tmp_path: Path) -> None:
    pictures = [save(tmp_path / f"{n}.png", 40 + n, 50, n)[0] for n in range(3)]
    images = open_images(str(tmp_path), machine=Machine(cache=tmp_path / "cache"))
    subject = raw_pixels(images)
    expected = subject.vectors(images)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = descriptors(subject.encoder, pictures, DescriptorSettings())
    assert np.abs(found - expected).max() < 1e-5
    assert d.pooling_used(subject.encoder, DescriptorSettings()) == "vector"
    box = (0, 0, 25, 25)
    (cut,) = descriptors(subject.encoder, [asked(pictures[0], *box)], DescriptorSettings())
    Image.open(pictures[0].path).crop(box).save(tmp_path / "cut.png")
    (same,) = descriptors(
        subject.encoder, [ImageToDescribe(tmp_path / "cut.png")], DescriptorSettings()
    )
    assert (cut == same).all() and np.abs(cut - found[0]).max() > 1e-3


@pytest.mark.slow
def test_a_fixed_input_size_is_named_and_its_vector_can_be_asked_for(tmp_path: Path) -> None:
    picture, _ = save(tmp_path / "it.png", 40, 50)
    encoder = build_encoder(EncoderConfig("test_vit", image_size=32), seed=0)
    with pytest.raises(ConfigError, match=r"cannot process an image of 51 x 64 px.*pool=vector"):
        descriptors(encoder, [picture], DescriptorSettings(longest=64))
    assert not torch.is_inference_mode_enabled()
    (vector,) = descriptors(encoder, [picture], DescriptorSettings("vector"))
    with torch.no_grad():
        h = encoder.eval()(encoder.preprocess(Image.open(picture.path)))[0]
    assert vector == pytest.approx(oracle.unit(h.numpy()), abs=1e-5)


def test_images_too_small_for_a_network(tmp_path: Path) -> None:
    picture, _ = save(tmp_path / "it.png", 2, 50)
    encoder = build_encoder(
        EncoderConfig("alexnet", image_size=64, stem="standard", options={"fc": 16})
    )
    with pytest.raises(ConfigError, match="alexnet cannot process an image of 1 x 16 px"):
        descriptors(encoder, [picture], DescriptorSettings(longest=16))


RECIPES = [
    ({"pool": "gen"}, "no pooling 'gen': did you mean 'gem'"),
    ({"longest": 15}, "images of 15 px"),
    ({"longest": 9000}, "images of 9000 px"),
    ({"scales": ()}, r"scales = \(\)"),
    ({"scales": (1, 0)}, "use numbers above 0"),
    ({"scales": (1, 0.01)}, "images of 1024 and 10 px"),
    ({"levels": 0}, "levels = 0"),
    ({"overlap": 1.0}, "overlap = 1"),
    ({"p": 0.5}, "p = 0.5"),
    ({"p": float("nan")}, "p = nan"),
]


@pytest.mark.parametrize(("options", "said"), RECIPES)
def test_recipes_that_make_no_sense(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        DescriptorSettings(**options)


def test_images_that_cannot_be_described_are_named(tmp_path: Path) -> None:
    picture, _ = save(tmp_path / "it.png", 20, 20)
    with pytest.raises(DataError, match=r"box 0 0 30 20 .* it\.png|leaves its image .*it\.png"):
        descriptors(glass(), [asked(picture, 0, 0, 30, 20)], DescriptorSettings(longest=20))
    Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(tmp_path / "wide.png")
    with pytest.raises(DataError, match=r"wide\.png: an image has values from 40000"):
        descriptors(glass(), [ImageToDescribe(tmp_path / "wide.png")], DescriptorSettings())
    (tmp_path / "bad.jpg").write_text("<html>302 Found</html>")
    with pytest.raises(BadImage, match=r"bad\.jpg: not an image"):
        descriptors(glass(), [picture, ImageToDescribe(tmp_path / "bad.jpg")], DescriptorSettings())


def test_grey_images_are_repeated_for_a_network_of_colours(tmp_path: Path) -> None:
    Image.new("L", (20, 20), 90).save(tmp_path / "grey.png")
    (found,) = descriptors(
        glass(), [ImageToDescribe(tmp_path / "grey.png")], DescriptorSettings(longest=20)
    )
    assert found == pytest.approx(np.full(3, 3**-0.5))
