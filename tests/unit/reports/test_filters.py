"""What an encoder looks for: filters in their order and colours, and the images that excite it."""

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from selftaught.data.store import Images
from selftaught.encoders.encoder import Encoder, EncoderConfig, build_encoder, encoder_id
from selftaught.foundation.machine import Machine
from selftaught.reports.run import filters
from selftaught.reports.run.filters import Peaks
from selftaught.vectors.features import batch_views
from selftaught.views.policy import evaluation
from tests.support.html_page import Page
from tests.support.sets import array_set


def trunk_of(weights: torch.Tensor) -> Any:
    conv = nn.Conv2d(weights.shape[1], len(weights), weights.shape[2], bias=False)
    conv.weight.data = weights
    trunk: Any = nn.Sequential(conv)
    trunk.feature_info = []
    return trunk


def encoder_of(weights: torch.Tensor, front: str = "none") -> Encoder:
    config = replace(EncoderConfig("x", in_channels=weights.shape[1]), front=front)
    return Encoder(config, trunk_of(weights), dim=1)


def opened(uri: str) -> np.ndarray:
    import base64

    with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as image:
        return np.asarray(image).astype(int)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return array_set(tmp_path_factory.mktemp("filters"), 40, side=8)


# The first layer.


def test_filters_come_strongest_first() -> None:
    weights = torch.tensor([1.0, -3.0, 2.0])[:, None, None, None].expand(3, 3, 2, 2)
    found = filters.first_filters(encoder_of(weights))
    assert found is not None and found[:, 0, 0, 0].tolist() == [-3, 2, 1]


def test_networks_without_filters_have_no_section() -> None:
    assert filters.first_layer_sections(encoder_of(torch.ones(4, 3, 1, 1))) == []
    flat: Any = nn.Flatten()
    flat.feature_info = []
    assert filters.first_layer_sections(Encoder(EncoderConfig("x"), flat, dim=1)) == []


def test_each_filter_is_scaled_to_its_own_largest_weight_about_gray() -> None:
    w = torch.zeros(3, 3, 2, 2)
    w[0, 0, 0, 1], w[0, 2, 1, 1] = 4.0, -2.0
    w[1] = w[0] / 1000
    strong, weak, dead = filters.filter_pictures(w, gradients=False)
    assert np.array_equal(strong, weak) and (dead == 128).all()
    assert strong[0, 1].tolist() == [255, 128, 128] and strong[1, 1].tolist() == [128, 128, 64]
    assert (strong[:, 0] == 128).all()


def sobel_response(image_HW: np.ndarray, w_2kk: np.ndarray) -> float:
    """Of a filter at one place of an image, after the two Sobel filters: written out."""
    across = [[1, 0, -1], [2, 0, -2], [1, 0, -1]]
    total = 0.0
    for channel, kernel in enumerate((np.array(across), np.array(across).T)):
        for y, x in np.ndindex(w_2kk.shape[1:]):
            total += w_2kk[channel, y, x] * (kernel * image_HW[y : y + 3, x : x + 3]).sum()
    return total


@pytest.mark.parametrize(("right", "down"), [(1, 0), (0, 1), (-1, 0), (0, -1), (0.6, -0.8)])
def test_a_sobel_filter_has_the_colour_of_where_it_wants_the_image_brighter(
    right: float, down: float
) -> None:
    y, x = np.mgrid[:5, :5]
    w = np.array([right, down])[:, None, None] * -np.ones((2, 3, 3))
    responses = {
        (u, v): sobel_response(u * x + v * y, w)
        for u, v in [(1, 0), (0, 1), (-1, 0), (0, -1), (0.6, -0.8)]
    }
    assert max(responses, key=lambda at: responses[at]) == (right, down)
    (picture,) = filters.filter_pictures(torch.from_numpy(w).float()[None], gradients=True)
    wheel = filters.colour_wheel(101).astype(int)
    on_wheel = wheel[round(50 + 49 * down), round(50 + 49 * right)]
    assert np.abs(picture[1, 1].astype(int) - on_wheel).max() < 12
    assert np.abs(picture[1, 1].astype(int) - wheel[round(50 - 49 * down), 50]).max() > 100


def test_the_wheel_is_dark_in_its_middle_and_white_around() -> None:
    wheel = filters.colour_wheel(41)
    assert wheel[20, 20].max() < 20 and (wheel[0, 0] == 255).all()
    assert wheel[20, 38].tolist()[0] > 200 and wheel[20, 38, 1:].max() < 20  # red to the right


def test_the_section_says_what_is_drawn_and_sobel_has_a_legend() -> None:
    weights = torch.randn(20, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    (section,) = filters.first_layer_sections(encoder_of(weights))
    page = Page(section.html)
    words = "".join(page.words)
    assert "The 20 filters of the first layer, 5 x 5 pixels of 3 channels each" in words
    assert "middle grey is 0" in words and "wheel" not in words
    (sheet,) = page.all("img")
    step = 40 + 4  # eight pixels a pixel
    assert opened(sheet.attributes["src"]).shape == (2 * step + 4, 16 * step + 4, 3)
    (section,) = filters.first_layer_sections(encoder_of(weights[:, :2], front="sobel"))
    assert len(Page(section.html).all("img")) == 2
    assert "as on the wheel" in "".join(Page(section.html).words)


def test_of_very_many_filters_the_strongest_are_drawn() -> None:
    weights = torch.arange(1.0, 301)[:, None, None, None].expand(300, 1, 2, 2)
    words = "".join(Page(filters.first_layer_sections(encoder_of(weights))[0].html).words)
    assert "The 192 strongest of 300 filters" in words and "1 channel each" in words
    assert "from 600 to 218" in words


# The last stage.


def test_peaks_are_the_largest_of_a_map_and_where_they_are(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters, "_BATCH", 2)
    encoder = build_encoder(EncoderConfig("resnet8", image_size=16, options={"width": 4}), seed=0)
    encoder.train()
    before, rows = encoder_id(encoder), np.array([3, 8, 21])
    found = filters.peaks(encoder, images, rows, machine=Machine(device="cpu", threads=1))
    assert encoder.training and encoder_id(encoder) == before
    (x,) = batch_views(encoder, images, [rows], evaluation(16))
    with torch.no_grad():
        maps = encoder.eval().stages(x)["layer3"]
    assert found.size == tuple(maps.shape[2:]) == (4, 4)
    for i, channel in np.ndindex(3, maps.shape[1]):
        one = maps[i, channel]
        assert found.peak_nc[i, channel] == pytest.approx(one.max().item(), abs=1e-6)
        y, x_ = divmod(int(found.place_nc[i, channel]), 4)
        assert one[y, x_] == one.max()


def test_nine_are_the_strongest_and_ties_go_to_the_lower_row() -> None:
    peak = np.array([1, 5, 5, 2, 9, 0, 1, 1, 3, 4, 1, 1], np.float32)[:, None]
    found = Peaks(np.arange(12) * 10, peak, np.zeros((12, 1), np.int32), (2, 2))
    assert found.nine(0).tolist() == [4, 1, 2, 9, 8, 3, 0, 6, 7]


def test_centres_lie_in_the_middle_of_their_cells() -> None:
    place = np.array([[0], [5], [7]], np.int32)  # of two lines of four
    found = Peaks(np.arange(3), np.zeros((3, 1), np.float32), place, (2, 4))
    centres = found.centres(0, np.array([2, 0, 1]))
    assert centres.tolist() == [[0.875, 0.75], [0.125, 0.25], [0.375, 0.75]]


def test_channels_whose_nine_stand_out_are_chosen() -> None:
    numbers = np.random.default_rng(0)
    peak = numbers.uniform(0, 1, (200, 6)).astype(np.float32)
    peak[:9, 4] += 5  # nine images of their own
    peak[50:59, 1] += 3
    peak[:, 2] *= 1000  # strong, but for all images alike
    peak[:, 5] = 7.0  # tells nothing
    assert filters.selective_channels(peak, 2) == [1, 4]
    assert filters.selective_channels(peak, 10) == [0, 1, 2, 3, 4]
    assert filters.selective_channels(np.zeros((20, 3), np.float32)) == []


def test_the_section_shows_channels_with_the_names_of_their_images(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = build_encoder(EncoderConfig("resnet8", image_size=8, options={"width": 4}), seed=0)
    (section,) = filters.last_stage_sections(encoder, images)
    page = Page(section.html)
    words = "".join(page.words)
    assert "layer3: 16 channels of 2 x 2 positions" in words and "all 40 images" in words
    assert "The ring marks the centre" in words
    walls = page.all("img")
    assert len(walls) == 8
    for wall in walls:
        assert opened(wall.attributes["src"]).shape == (3 * 68 + 4, 3 * 68 + 4, 3)
        assert wall.attributes["alt"].count(",") == 8
    assert filters.last_stage_sections(encoder, images)[0].html == section.html
    monkeypatch.setattr(filters, "MOST_IMAGES", 30)
    (section,) = filters.last_stage_sections(encoder, images)
    assert "30 of 40 images, drawn at random," in "".join(Page(section.html).words)


def test_a_stage_of_one_position_has_no_ring(images: Images) -> None:
    encoder = build_encoder(
        EncoderConfig("resnet8", image_size=8, options={"width": 4, "stem_stride": 2}), seed=0
    )
    page = Page(filters.last_stage_sections(encoder, images)[0].html)
    assert "of 1 x 1 positions" in "".join(page.words)
    assert "The ring" not in "".join(page.words)


def test_sets_of_few_images_and_encoders_without_stages_have_no_section(
    images: Images, tmp_path: Path
) -> None:
    encoder = build_encoder(EncoderConfig("resnet8", image_size=8, options={"width": 4}), seed=0)
    assert filters.last_stage_sections(encoder, array_set(tmp_path, 9)) == []
    bare: Any = SimpleNamespace(strides={})
    assert filters.last_stage_sections(bare, images) == []
