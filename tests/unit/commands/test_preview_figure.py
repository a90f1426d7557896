"""The paper's figure on images of every kind: which rows, what they say, and what is drawn."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selftaught.commands.preview import draw_figure, operations_figure
from selftaught.recipe.config import ViewSettings
from selftaught.recipe.view_settings import OPERATIONS
from selftaught.reports.run.run_page import preview_sheet
from selftaught.views.policy import CenterCrop, Flip, Jitter, Policy, RandomCrop, ViewSpec
from tests.support.sets import array_set

pytestmark = pytest.mark.slow

PAPER = [
    *("original", "crop and resize", "crop, resize and flip", "colour drop", "colour jitter"),
    *("rotate", "cutout", "Gaussian noise", "Gaussian blur", "Sobel filtering"),
]
OURS = ["solarise", "channel jitter", "band drop"]
NAMES, GAP = 180, 4


def test_the_rows_are_those_of_the_paper_in_their_order() -> None:
    shown = operations_figure(ViewSettings(), 32, 3)
    assert [row.name for row in shown.paper] == PAPER
    assert [row.name for row in shown.ours] == OURS
    assert shown.left_out == []


def test_each_row_is_one_operation_that_always_happens() -> None:
    rows = operations_figure(ViewSettings(brightness=0.1, crop_scale=(0.3, 0.4)), 32, 3)
    crops = [row.policy for row in rows.paper if row.policy.box != CenterCrop()]
    assert [policy.box for policy in crops] == [RandomCrop((0.3, 0.4))] * 2
    assert [policy.operations for policy in crops] == [(), (Flip(1.0),)]
    assert rows.paper[0].policy.operations == ()
    kinds = {Flip}
    for row in [*rows.paper[3:], *rows.ours]:
        (operation,) = row.policy.operations
        assert operation.p == 1.0 and row.policy.box == CenterCrop()
        kinds.add(type(operation))
    assert kinds == set(OPERATIONS)
    assert rows.paper[4].policy.operations == (Jitter(0.1, 0.8, 0.8, 0.2, 1.0),)
    assert rows.paper[4].words == "±0.1, ±0.8, hue ±0.2"


@pytest.mark.parametrize(
    ("channels", "missing"),
    [(1, ["colour drop", "band drop"]), (2, ["colour drop"]), (5, ["colour drop"])],
)
def test_what_makes_no_sense_is_named_with_the_reason(channels: int, missing: list[str]) -> None:
    shown = operations_figure(ViewSettings(), 32, channels)
    assert [reason.partition(" (")[0] for reason in shown.left_out] == missing
    assert "these have" in shown.left_out[0]
    assert [row.name for row in (*shown.paper, *shown.ours)] == [
        name for name in PAPER + OURS if name not in missing
    ]
    assert "hue" not in shown.paper[3].words


def test_blur_of_one_pixel_is_not_shown() -> None:
    assert operations_figure(ViewSettings(), 20, 3).left_out == []
    assert "one pixel" in operations_figure(ViewSettings(), 19, 3).left_out[0]


def test_what_keep_excludes_is_not_shown() -> None:
    shown = operations_figure(ViewSettings(crop_scale=(0.5, 0.5)), 32, 3, ["orientation", "scale"])
    assert shown.left_out == [
        "crop, resize and flip (--keep orientation)",
        "rotate (--keep orientation)",
    ]
    assert shown.paper[1].words == "area 0.5"
    colour = operations_figure(ViewSettings(), 32, 3, ["colour"])
    assert [row.name for row in colour.paper[3:]] == [
        *("rotate", "cutout", "Gaussian noise", "Gaussian blur")
    ]
    assert colour.ours == []
    asked = operations_figure(ViewSettings(), 32, 3, ["colour"], ["views.jitter"])
    assert [row.name for row in asked.paper[3:5]] == ["colour jitter", "rotate"]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_picture_shows_what_its_rows_say(tmp_path: Path, channels: int) -> None:
    images = array_set(tmp_path, 6, side=32, channels=channels)
    shown = operations_figure(ViewSettings(), 32, channels)
    with Image.open(io.BytesIO(draw_figure(shown, images, size=32, seed=3, number=4))) as file:
        drawn = np.asarray(file)
    rows = len(shown.paper) + len(shown.ours)
    assert drawn.shape == (rows * 100 + 2 * GAP + 9, NAMES + 4 * 100 + GAP, 3)

    def cell(row: int, column: int) -> np.ndarray:
        top, left = GAP + 100 * row, NAMES + GAP + 100 * column
        return drawn[top : top + 96 : 3, left : left + 96 : 3]

    stored = images.store.read(np.arange(6)).images()
    originals = [image[..., :3].repeat(3 // min(channels, 3), 2) for image in stored]
    for column in range(4):
        assert any(np.array_equal(cell(0, column), image) for image in originals)
        assert np.array_equal(cell(2, column), cell(1, column)[:, ::-1])
        for row in range(3, len(shown.paper)):
            assert not np.array_equal(cell(row, column), cell(0, column)), shown.paper[row].name


def test_the_sheet_of_views_without_normalisation_is_the_same_picture(tmp_path: Path) -> None:
    """They were shown as if a mean had been taken off, far too bright."""
    images, sheets = array_set(tmp_path, 4, side=32), []
    for normalise in (True, False):
        spec = ViewSpec(Policy(CenterCrop(), normalise=normalise), 32)
        drawn = preview_sheet(images, spec, images.checked.intensity, seed=0, number=2)
        with Image.open(io.BytesIO(drawn)) as file:
            sheets.append(np.asarray(file).astype(int))
    assert np.abs(sheets[0] - sheets[1]).max() <= 1
