"""Pictures of images and contact sheets, read back with Pillow."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from selftaught.reports.page import data_uri
from selftaught.reports.run.sections import Neighbourhood, neighbours_section, views_section
from selftaught.reports.sheets import (
    SheetLine,
    contact_sheet,
    draw_ring,
    labelled_sheet,
    picture,
    thumbnail,
    views_sheet,
    wall,
)
from selftaught.views.policy import CenterCrop, Intensity, Policy
from selftaught.views.sample import sample
from selftaught.views.tensors import apply_policy
from tests.support.photographs import photograph

RNG = np.random.default_rng(0)
SIDE, GAP = 96, 4


def opened(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "RGB"
        return np.asarray(image).astype(int)


def cell(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    top, left = GAP + row * (SIDE + GAP), GAP + column * (SIDE + GAP)
    return sheet[top : top + SIDE, left : left + SIDE]


@pytest.mark.parametrize(
    ("size", "shown"), [((40, 80), (32, 64)), ((1, 1), (64, 64)), ((1, 500), (1, 64))]
)
def test_a_thumbnails_longer_side_is_fixed(size, shown):
    data = thumbnail(RNG.integers(0, 256, (*size, 3), np.uint8), Intensity())
    assert opened(data).shape == (*shown, 3)
    assert len(data) < 20_000


@pytest.mark.parametrize(("channels", "expected"), [(1, (10, 10, 10)), (2, (60, 60, 60))])
def test_one_and_two_channels_are_gray(channels, expected):
    image = np.array([10, 110], np.uint8)[:channels].reshape(1, 1, -1).repeat(64, 0).repeat(64, 1)
    assert np.abs(opened(thumbnail(image, Intensity())) - expected).max() <= 3


@pytest.mark.parametrize("channels", [3, 4, 5])
def test_the_first_three_channels_are_red_green_and_blue(channels):
    image = np.array([200, 60, 20, 255, 0], np.uint8)[:channels].reshape(1, 1, -1)
    shown = opened(thumbnail(image.repeat(64, 0).repeat(64, 1), Intensity()))
    assert np.abs(shown - (200, 60, 20)).max() <= 6


def test_raw_values_go_through_the_range():
    image = np.array([[1000, 1500, 2000, 9000]], np.uint16)[:, :, None].repeat(4, 0)
    sheet = opened(views_sheet([image], [], Intensity(1000, 2000), side=4))
    assert np.abs(sheet[4:8, 4:8, 0] - [0, 128, 255, 255]).max() <= 1


def test_a_data_uri_holds_the_file():
    for kind, data in (
        ("webp", thumbnail(np.zeros((3, 3, 1), np.uint8), Intensity())),
        ("png", contact_sheet([])),
    ):
        head, tail = data_uri(data).split(",")
        assert head == f"data:image/{kind};base64" and base64.b64decode(tail) == data


def test_a_contact_sheet_centres_pictures_on_white():
    rows = [[np.zeros((10, 20, 3), np.uint8)] * 2, [np.full((5, 5, 3), 7, np.uint8)]]
    sheet = opened(contact_sheet(rows, side=SIDE))
    assert sheet.shape == (2 * 100 + 4, 2 * 100 + 4, 3)
    wide = cell(sheet, 0, 1)
    assert (wide[24:72] == 0).all() and (wide[:24] == 255).all() and (wide[72:] == 255).all()
    assert (cell(sheet, 1, 0) == 7).all() and (cell(sheet, 1, 1) == 255).all()
    assert (sheet[:GAP] == 255).all() and (sheet[:, :GAP] == 255).all()


def test_a_labelled_sheet_has_its_names_to_the_left_and_a_rule_between_blocks():
    dots = RNG.integers(0, 256, (2, 8, 8, 3), np.uint8)
    blocks = [
        [SheetLine("one", "", dots), SheetLine("two", "of few words", dots[:1])],
        [SheetLine("", "", dots)],
    ]
    sheet = opened(labelled_sheet(blocks, side=16))
    names, step, rule = 180, 16 + GAP, 9
    assert sheet.shape == (3 * step + 2 * GAP + rule, names + 2 * step + GAP, 3)
    for row, column in ((0, 0), (0, 1), (1, 0), (2, 0), (2, 1)):
        top = GAP + row * step + (rule + GAP) * (row > 1)
        left = names + GAP + column * step
        shown = sheet[top : top + 16, left : left + 16]
        assert (shown == dots[column].repeat(2, 0).repeat(2, 1)).all()
    ink = (sheet[:, :names] < 128).any(axis=(1, 2))
    assert (
        ink[:step].any() and ink[step : 2 * step].any() and not ink[2 * step + rule + GAP :].any()
    )
    middle = 2 * step + GAP + GAP
    assert (sheet[middle, GAP:-GAP] < 255).all() and (sheet[middle, :GAP] == 255).all()


def test_pictures_that_do_not_fit_by_whole_pixels_are_resized():
    line = SheetLine("", "", [np.full((10, 5, 3), 50, np.uint8)])
    sheet = opened(labelled_sheet([[line]], side=16))[GAP : GAP + 16, 180 + GAP : 180 + GAP + 16]
    assert (sheet[:, 4:12] == 50).all() and (sheet[:, :4] == 255).all()


def test_a_ring_lies_about_its_place_and_leaves_the_rest():
    gray = np.full((20, 40, 3), 128, np.uint8)
    marked = draw_ring(gray, (0.75, 0.5), side=80).astype(int)
    assert marked.shape == (40, 80, 3)
    changed = np.argwhere((marked != 128).any(axis=2))
    assert np.abs(changed.mean(axis=0) - (20, 60)).max() < 0.5
    assert np.hypot(*(changed - (20, 60)).T).min() > 3 and np.ptp(changed, axis=0).max() <= 14
    assert marked.max() == 255 and marked.min() == 20
    assert (draw_ring(gray, None, side=80) == 128).all() and (gray == 128).all()


def test_a_wall_has_three_pictures_a_line():
    tiles = [np.full((8, 8, 3), value, np.uint8) for value in (10, 60, 110, 160)]
    sheet = opened(wall(tiles, side=32))
    assert sheet.shape == (2 * 36 + 4, 3 * 36 + 4, 3)
    for i, value in enumerate((10, 60, 110, 160)):
        top, left = 4 + i // 3 * 36, 4 + i % 3 * 36
        assert np.abs(sheet[top + 8 : top + 24, left + 8 : left + 24] - value).max() <= 4
    assert (sheet[50:, 60:] > 245).all()


@pytest.mark.parametrize("normalise", [True, False])
def test_views_are_shown_as_images_again(normalise):
    images = [photograph(RNG, 96, 96) for _ in range(3)]
    policy = Policy(CenterCrop(), normalise=normalise)
    how = {"sizes_N2": np.full((3, 2), 96), "draws_N": np.arange(3), "seed": 0}
    params = sample(policy, size=96, **how)
    batch = torch.from_numpy(np.stack(images))
    view = apply_policy(batch, params, policy, Intensity())
    sheet = opened(views_sheet(images, [view, 1 - 0 * view], Intensity(), normalised=normalise))
    for row, image in enumerate(images):
        assert np.abs(cell(sheet, row, 0) - image).max() == 0
        assert np.abs(cell(sheet, row, 1) - image).max() <= 1
    assert views_section(views_sheet(images, [view], Intensity())).title == "Views"


def test_a_sheet_needs_as_many_views_as_images():
    with pytest.raises(ValueError, match="zip"):
        views_sheet([np.zeros((4, 4, 3), np.uint8)], [torch.zeros(2, 3, 4, 4)], Intensity())


def test_a_picture_fits_the_reports_sections():
    one = picture(photograph(RNG, 50, 60), Intensity(), name="a/b.png", words="0.91")
    assert (one.name, one.words) == ("a/b.png", "0.91")
    assert one.uri in neighbours_section([Neighbourhood(one, [one])]).html
