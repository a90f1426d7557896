"""Small pictures of images and contact sheets of views, as the bytes of image files.

One channel is shown gray, two as the gray of their mean, three as red, green and blue; of more, the
first three. Raw values go through the intensity's range, as they do on their way to the network.

Shapes:  N images; C channels; H, W height and width; S side of a view. Raw images are (H, W, C).
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from selftaught.report.page import data_uri
from selftaught.report.sections import Picture
from selftaught.views.policy import Intensity
from selftaught.views.tensors import resize, to_unit

_GAP = 4  # pixels between the pictures of a sheet
_PAPER = 255  # a sheet's background


def thumbnail(image_HWC: NDArray[Any], intensity: Intensity, *, side: int = 64) -> bytes:
    """A raw image as a WebP file whose longer side is `side` pixels."""
    return _file(_small(image_HWC, intensity, side), "WEBP", quality=85)


def picture(
    image_HWC: NDArray[Any], intensity: Intensity, *, name: str, words: str = "", side: int = 64
) -> Picture:
    """A raw image as a picture of the report."""
    return Picture(data_uri(thumbnail(image_HWC, intensity, side=side)), name, words)


def views_sheet(
    images_raw: Sequence[NDArray[Any]],
    views: Sequence[Tensor],
    intensity: Intensity,
    *,
    normalised: bool = True,
    side: int = 96,
) -> bytes:
    """A contact sheet, as a PNG file: a line an image, the image first and then its views.

    Args:
        images_raw: N raw images (H, W, C).
        views: One tensor (N, C, S, S) a view, as the network gets them.
        intensity: What made the views; its mean and std are taken back.
        normalised: Whether the views were normalised.
        side: Longer side of each picture in pixels.
    """
    raw = [_small(image, intensity, side) for image in images_raw]
    seen = [_seen(view, intensity if normalised else None) for view in views]
    return contact_sheet([list(row) for row in zip(raw, *seen, strict=True)], side=side)


def contact_sheet(rows: Sequence[Sequence[NDArray[np.uint8]]], *, side: int = 96) -> bytes:
    """Lines of uint8 pictures (H, W, 3), each fitted into a square, as a PNG file.

    Args:
        rows: The lines from the top; they may differ in length.
        side: Side of the squares in pixels.
    """
    step = side + _GAP
    across = max((len(row) for row in rows), default=0)
    sheet_HW3 = np.full((len(rows) * step + _GAP, across * step + _GAP, 3), _PAPER, np.uint8)
    for r, row in enumerate(rows):
        for c, image_HW3 in enumerate(row):
            fitted_HW3 = _fitted(image_HW3, side)
            h, w = fitted_HW3.shape[:2]
            top, left = _GAP + r * step + (side - h) // 2, _GAP + c * step + (side - w) // 2
            sheet_HW3[top : top + h, left : left + w] = fitted_HW3
    return _file(sheet_HW3, "PNG", optimize=True)


def _small(image_HWC: NDArray[Any], intensity: Intensity, side: int) -> NDArray[np.uint8]:
    """A raw image as an RGB picture; made small first, for it may be a large photograph."""
    raw_HWC = torch.from_numpy(_fitted(image_HWC, side))
    return _shown(to_unit(raw_HWC, intensity).numpy())


def _seen(view_NCSS: Tensor, intensity: Intensity | None) -> list[NDArray[np.uint8]]:
    view_NSSC = view_NCSS.detach().float().cpu().permute(0, 2, 3, 1).numpy()
    if intensity is not None:
        view_NSSC = view_NSSC * np.array(intensity.std) + np.array(intensity.mean)
    return [_shown(view_SSC) for view_SSC in view_NSSC]


def _shown(unit_HWC: NDArray[Any]) -> NDArray[np.uint8]:
    """Values 0 to 1 of any number of channels as an RGB picture."""
    channels = unit_HWC.shape[2]
    three = channels >= 3
    picture_HWC = unit_HWC[..., :3] if three else unit_HWC.mean(axis=2, keepdims=True)
    shown_HWC: NDArray[np.uint8] = np.rint(picture_HWC.clip(0, 1) * 255).astype(np.uint8)
    return shown_HWC if three else shown_HWC.repeat(3, axis=2)


def _fitted(image_HWC: NDArray[Any], side: int) -> NDArray[Any]:
    """The picture with its longer side at `side` pixels and its aspect kept."""
    h, w = image_HWC.shape[:2]
    scale = side / max(h, w)
    return resize(image_HWC, max(1, round(h * scale)), max(1, round(w * scale)))


def _file(image_HW3: NDArray[np.uint8], kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image_HW3).save(buffer, kind, **options)
    return buffer.getvalue()
