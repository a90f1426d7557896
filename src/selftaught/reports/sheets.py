"""Thumbnails and contact sheets of views, as the bytes of image files.

One channel is drawn in grey, two as the grey of their mean, three as red, green and blue, and of
more channels the first three. Raw values are scaled by the intensity's range, as for the network.

Shapes:  N images; C channels; H, W height and width; S side of a view. Raw images are (H, W, C).
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from selftaught.reports.page import Thumbnail, data_uri
from selftaught.views.policy import Intensity
from selftaught.views.tensors import resize, to_unit

RGB = NDArray[np.uint8]
"""An RGB image, (H, W, 3)."""

_GAP = 4  # pixels between the pictures of a sheet
_PAPER = 255  # a sheet's background
_INK, _PALE, _RULE = (20, 20, 20), (110, 110, 110), (170, 170, 170)
_RING = 5  # pixels: radius of the ring that marks a position
_NAMES, _SIZES = (
    180,
    (16, 13),
)  # pixels: width of the column of names; font sizes of names and notes


@dataclass(frozen=True)
class SheetLine:
    """A row of a sheet: its name, a note below the name, and its uint8 pictures (H, W, 3)."""

    name: str
    words: str
    pictures: Sequence[NDArray[np.uint8]]


def thumbnail(image_HWC: NDArray[Any], intensity: Intensity, *, side: int = 64) -> bytes:
    """A raw image as a WebP file whose longer side is `side` pixels."""
    return _file(_resized_picture(image_HWC, intensity, side), "WEBP", quality=85)


def picture(
    image_HWC: NDArray[Any], intensity: Intensity, *, name: str, words: str = "", side: int = 64
) -> Thumbnail:
    """A thumbnail of a raw image for the report."""
    return Thumbnail(data_uri(thumbnail(image_HWC, intensity, side=side)), name, words)


def views_sheet(
    images_raw: Sequence[NDArray[Any]],
    views: Sequence[Tensor],
    intensity: Intensity,
    *,
    normalised: bool = True,
    side: int = 96,
) -> bytes:
    """A contact sheet as a PNG file: one row per image, the image first and then its views.

    Args:
        images_raw: N raw images (H, W, C).
        views: One tensor (N, C, S, S) per view, as the network gets them.
        intensity: The intensity of the views; the normalisation by its mean and std is undone.
        normalised: Whether the views were normalised.
        side: Longer side of each picture, in pixels.
    """
    raw = [_resized_picture(image, intensity, side) for image in images_raw]
    seen = [pictures(view, intensity if normalised else None) for view in views]
    return contact_sheet([list(row) for row in zip(raw, *seen, strict=True)], side=side)


def contact_sheet(rows: Sequence[Sequence[NDArray[np.uint8]]], *, side: int = 96) -> bytes:
    """Rows of uint8 pictures (H, W, 3), each fitted into a square, as a PNG file.

    Args:
        rows: The rows from the top; they may differ in length.
        side: Side of the squares in pixels.
    """
    return _file(_grid(rows, side), "PNG", optimize=True)


def labelled_sheet(blocks: Sequence[Sequence[SheetLine]], *, side: int = 96) -> bytes:
    """Rows of pictures with their names to the left, as a PNG file, with a rule between blocks.

    Smaller pictures are enlarged pixel by pixel if the side is a multiple of theirs.

    Args:
        blocks: Blocks of one or more rows.
        side: Side of the squares in pixels.
    """
    parts = []
    for block in blocks:
        grid_HW3 = _grid([[enlarge(p, side) for p in line.pictures] for line in block], side)
        names_HW3 = _names([(line.name, line.words) for line in block], side)
        parts.append(np.concatenate([names_HW3, grid_HW3], axis=1))
    width = max(part.shape[1] for part in parts)
    rule_HW3 = np.full((2 * _GAP + 1, width, 3), _PAPER, np.uint8)
    rule_HW3[_GAP, _GAP:-_GAP] = _RULE
    wide = [
        np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=_PAPER) for p in parts
    ]
    stacked = [wide[0]]
    for part in wide[1:]:
        stacked += [rule_HW3, part]
    return _file(np.concatenate(stacked), "PNG", optimize=True)


def wall(tiles: Sequence[RGB], *, side: int, across: int = 3) -> bytes:
    """Pictures in rows of three, each fitted into a square, as a WebP file."""
    lines = [tiles[start : start + across] for start in range(0, len(tiles), across)]
    return _file(_grid(lines, side), "WEBP", quality=85)


def draw_ring(image_HW3: RGB, centre: Sequence[float] | None, *, side: int) -> RGB:
    """The picture resized to `side` pixels, with a ring around a position (x, y), each 0 to 1."""
    canvas = Image.fromarray(_fit_side(image_HW3, side))
    if centre is None:
        return np.array(canvas)
    x, y, draw = canvas.width * centre[0], canvas.height * centre[1], ImageDraw.Draw(canvas)
    for radius, colour in ((_RING + 1, _INK), (_RING, (_PAPER,) * 3)):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour)
    return np.array(canvas)


def enlarge(image_HW3: RGB, side: int) -> RGB:
    """The picture with every pixel repeated, if that gives exactly the side."""
    times, rest = divmod(side, max(image_HW3.shape[:2]))
    return image_HW3 if rest else image_HW3.repeat(times, 0).repeat(times, 1)


def picture_tile(image_HWC: NDArray[Any], *, side: int = 96) -> RGB:
    """A raw image as a picture: 8 bits unchanged, other types stretched to the range they use."""
    low, high = (0.0, 255.0) if image_HWC.dtype == np.uint8 else _range(image_HWC)
    return _resized_picture(image_HWC, Intensity(low, high), side)


def blank_tile(*, side: int = 96) -> RGB:
    """An empty tile, for an image that no longer exists."""
    empty_HW3 = np.full((side, side, 3), _PAPER, np.uint8)
    empty_HW3[[0, -1]], empty_HW3[:, [0, -1]] = _RULE, _RULE
    return empty_HW3


def pictures(view_NCSS: Tensor, normalised: Intensity | None = None) -> list[NDArray[np.uint8]]:
    """Views as RGB pictures; the normalisation by an intensity's mean and std is undone."""
    view_NSSC = view_NCSS.detach().float().cpu().permute(0, 2, 3, 1).numpy()
    if normalised is not None:
        view_NSSC = view_NSSC * np.array(normalised.std) + np.array(normalised.mean)
    return [_to_picture(view_SSC) for view_SSC in view_NSSC]


def _grid(rows: Sequence[Sequence[NDArray[np.uint8]]], side: int) -> NDArray[np.uint8]:
    """Rows of pictures, each centred in a square."""
    step = side + _GAP
    across = max((len(row) for row in rows), default=0)
    sheet_HW3 = np.full((len(rows) * step + _GAP, across * step + _GAP, 3), _PAPER, np.uint8)
    for r, row in enumerate(rows):
        for c, image_HW3 in enumerate(row):
            fitted_HW3 = _fit_side(image_HW3, side)
            h, w = fitted_HW3.shape[:2]
            top, left = _GAP + r * step + (side - h) // 2, _GAP + c * step + (side - w) // 2
            sheet_HW3[top : top + h, left : left + w] = fitted_HW3
    return sheet_HW3


def _names(lines: Sequence[tuple[str, str]], side: int) -> NDArray[np.uint8]:
    """The column of names, each with its note below, for the left of a grid."""
    step = side + _GAP
    large, small = (ImageFont.load_default(size=size) for size in _SIZES)
    canvas = Image.new("RGB", (_NAMES, len(lines) * step + _GAP), (_PAPER,) * 3)
    draw = ImageDraw.Draw(canvas)
    for r, (name, words) in enumerate(lines):
        middle = _GAP + r * step + side // 2
        shift = _SIZES[0] // 2 if words else 0
        draw.text((_NAMES - 8, middle - shift), name, fill=_INK, font=large, anchor="rm")
        draw.text((_NAMES - 8, middle + 10), words, fill=_PALE, font=small, anchor="rm")
    return np.asarray(canvas)


def _resized_picture(image_HWC: NDArray[Any], intensity: Intensity, side: int) -> NDArray[np.uint8]:
    """A raw image as an RGB picture; resized first, since it may be a large photograph."""
    raw_HWC = torch.from_numpy(_fit_side(image_HWC, side))
    return _to_picture(to_unit(raw_HWC, intensity).numpy())


def _to_picture(unit_HWC: NDArray[Any]) -> NDArray[np.uint8]:
    """An RGB picture from values 0 to 1 in any number of channels."""
    channels = unit_HWC.shape[2]
    three = channels >= 3
    picture_HWC = unit_HWC[..., :3] if three else unit_HWC.mean(axis=2, keepdims=True)
    shown_HWC: NDArray[np.uint8] = np.rint(picture_HWC.clip(0, 1) * 255).astype(np.uint8)
    return shown_HWC if three else shown_HWC.repeat(3, axis=2)


def _range(image_HWC: NDArray[Any]) -> tuple[float, float]:
    low, high = float(image_HWC.min()), float(image_HWC.max())
    return low, high if high > low else low + 1


def _fit_side(image_HWC: NDArray[Any], side: int) -> NDArray[Any]:
    """The picture resized to a longer side of `side` pixels, with its aspect ratio."""
    h, w = image_HWC.shape[:2]
    scale = side / max(h, w)
    return resize(image_HWC, max(1, round(h * scale)), max(1, round(w * scale)))


def _file(image_HW3: NDArray[np.uint8], kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image_HW3).save(buffer, kind, **options)
    return buffer.getvalue()
