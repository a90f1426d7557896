"""What an encoder detects: the filters of its first layer, and what activates its last stage most.

The figures of Caron et al. 2018 and of much work before it. Eight channels of the last stage are
shown: those whose nine strongest images exceed the channel's usual activation most. Of a large set
a keyed sample is examined.

Shapes:  F filters of C channels and k x k pixels; N images of the set, n examined, B of a batch;
         c channels of a map, h, w positions; S side of a view.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from selftaught.data.store import Images
from selftaught.encoders.encoder import Encoder
from selftaught.foundation.machine import CPU, Machine
from selftaught.foundation.rng import Key, permutation
from selftaught.reports.page import Section
from selftaught.reports.run.sections import activation_section, filters_section
from selftaught.reports.sheets import RGB, contact_sheet, draw_ring, enlarge, pictures, wall
from selftaught.vectors.features import batch_views, evaluation_mode
from selftaught.views.policy import evaluation

MOST_IMAGES = 10_000
"""Images examined at most."""

_FILTERS, _FILTER_SIDE, _ACROSS = 192, 44, 16  # drawn at most; pixels of each; per row
_WHEEL = 88  # pixels of the legend
_CHANNELS, _NINE, _BATCH = 8, 9, 256
_VIEW_SIDE = 64  # pixels of each of the nine


# --- the first layer


def first_filters(encoder: Encoder) -> Tensor | None:
    """The weights (F, C, k, k) of the first convolution, strongest (L2 norm) first.

    None without a convolution, or if its filters are single pixels.
    """
    for part in encoder.trunk.modules():
        if isinstance(part, nn.Conv2d):
            w_FCkk = part.weight.detach().float().cpu()
            order = w_FCkk.flatten(1).norm(dim=1).argsort(descending=True, stable=True)
            return w_FCkk[order] if w_FCkk.shape[-1] > 1 else None
    return None


def filter_pictures(w_FCkk: Tensor, *, gradients: bool) -> list[RGB]:
    """Each filter as a picture, scaled to its own largest weight.

    Args:
        w_FCkk: The weights.
        gradients: Whether the two channels are the components of a Sobel front.
    """
    if gradients:
        return [direction_colours(-w_2kk.permute(1, 2, 0).numpy()) for w_2kk in w_FCkk]
    largest = w_FCkk.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
    return pictures(0.5 + w_FCkk / (2 * largest))


def direction_colours(gradient_HW2: NDArray[np.float32]) -> RGB:
    """Vectors (right, down) as colours: the hue is the direction, the brightness the length."""
    from matplotlib.colors import hsv_to_rgb

    right_HW, down_HW = gradient_HW2[..., 0], gradient_HW2[..., 1]
    length_HW = np.hypot(right_HW, down_HW)
    turn_HW = np.arctan2(-down_HW, right_HW) / (2 * np.pi) % 1  # counter-clockwise from the right
    value_HW = length_HW / max(length_HW.max(), 1e-12)
    rgb_HW3 = hsv_to_rgb(np.stack([turn_HW, np.ones_like(turn_HW), value_HW], axis=-1))
    picture_HW3: RGB = np.rint(rgb_HW3 * 255).astype(np.uint8)
    return picture_HW3


def colour_wheel(side: int = _WHEEL) -> RGB:
    """A colour wheel on white: the colour of each direction from the centre."""
    at = (np.arange(side, dtype=np.float32) + 0.5) * 2 / side - 1
    vectors_HW2 = np.stack(np.meshgrid(at, at), axis=-1)
    length_HW = np.hypot(vectors_HW2[..., 0], vectors_HW2[..., 1])
    disc_HW3 = direction_colours(np.where(length_HW[..., None] <= 1, vectors_HW2, 0))
    disc_HW3[length_HW > 1] = 255
    return disc_HW3


def first_layer_sections(encoder: Encoder) -> list[Section]:
    """The section of the first layer's filters, if there are filters to draw."""
    w_FCkk = first_filters(encoder)
    if w_FCkk is None:
        return []
    gradients = encoder.config.front == "sobel"
    F, C, k, _ = w_FCkk.shape
    norms = w_FCkk[:_FILTERS].flatten(1).norm(dim=1).tolist()
    shown = f"The {F} filters" if F <= _FILTERS else f"The {_FILTERS} strongest of {F} filters"
    words = (
        f"{shown} of the first layer, {k} x {k} pixels of {C} channel{'s' * (C > 1)} each, "
        f"strongest first (L2 norms from {norms[0]:.3g} to {norms[-1]:.3g}). Each is "
        "scaled to its own largest weight; "
    )
    words += (
        "black is 0. Their input is the brightness gradient from the Sobel filters. The colour "
        "shows in which direction the image must get brighter to activate the filter, as on the "
        "wheel."
        if gradients
        else "middle grey is 0."
    )
    legend = contact_sheet([[colour_wheel()]], side=_WHEEL) if gradients else None
    return [filters_section(filters_sheet(w_FCkk, gradients=gradients), words, legend=legend)]


def filters_sheet(w_FCkk: Tensor, *, gradients: bool) -> bytes:
    """The first 192 filters, side by side, as an image file."""
    k = w_FCkk.shape[-1]
    side = k * max(1, _FILTER_SIDE // k)
    drawn = filter_pictures(w_FCkk[:_FILTERS], gradients=gradients)
    large = [enlarge(picture_kk3, side) for picture_kk3 in drawn]
    lines = [large[start : start + _ACROSS] for start in range(0, len(large), _ACROSS)]
    return contact_sheet(lines, side=side)


# --- the last stage


@dataclass(frozen=True)
class Peaks:
    """How strongly each image activates each channel of a stage, at its best position.

    Attributes:
        rows_n: The images that were examined, in the order of their rows.
        peak_nc: float32.
        place_nc: The position, row by row: y * w + x.
        size: (h, w) of the map.
    """

    rows_n: NDArray[np.int64]
    peak_nc: NDArray[np.float32]
    place_nc: NDArray[np.int32]
    size: tuple[int, int]

    def nine(self, channel: int) -> NDArray[np.int64]:
        """Positions among the rows of the nine that activate a channel most, strongest first."""
        order: NDArray[np.int64] = np.argsort(-self.peak_nc[:, channel], kind="stable")
        return order[:_NINE]

    def centres(self, channel: int, which: NDArray[np.int64]) -> NDArray[np.float64]:
        """The best positions in their views: (x, y) from 0 to 1."""
        h, w = self.size
        place = self.place_nc[which, channel]
        return np.stack([(place % w + 0.5) / w, (place // w + 0.5) / h], axis=1)


def peaks(
    encoder: Encoder, images: Images, rows_n: NDArray[np.int64], machine: Machine = CPU
) -> Peaks:
    """The peak activations of the evaluation views of these images, in one pass."""
    stage = list(encoder.strides)[-1]
    weight = next(encoder.to(machine.device).parameters())
    parts = np.split(rows_n, range(_BATCH, len(rows_n), _BATCH))
    policy = evaluation(encoder.config.image_size)
    made = batch_views(encoder, images, parts, policy, threads=machine.threads)
    best: list[tuple[Tensor, Tensor]] = []
    plain = torch.autocast(weight.device.type, enabled=False)
    with evaluation_mode(encoder), contextlib.closing(made), plain:
        for x_BCSS in made:
            map_Bchw = encoder.stages(x_BCSS.to(weight.dtype))[stage]
            peak_Bc, place_Bc = map_Bchw.flatten(2).max(dim=2)
            best.append((peak_Bc.float().cpu(), place_Bc.int().cpu()))
    peak_nc, place_nc = (torch.cat(side).numpy() for side in zip(*best, strict=True))
    return Peaks(rows_n, peak_nc, place_nc, (map_Bchw.shape[2], map_Bchw.shape[3]))


def selective_channels(peak_nc: NDArray[np.float32], number: int = _CHANNELS) -> list[int]:
    """The channels whose nine strongest images stand out most, in the order of the channels.

    Measured by how many standard deviations the mean of the nine exceeds that of all images. A
    channel that all images activate equally is never chosen.
    """
    nine_9c = -np.sort(-peak_nc, axis=0)[:_NINE]
    deviation_c = peak_nc.std(axis=0)
    gain_c = (nine_9c.mean(axis=0) - peak_nc.mean(axis=0)) / np.maximum(deviation_c, 1e-12)
    gain_c[deviation_c <= 1e-6 * np.abs(peak_nc).max(initial=0)] = -1
    order = np.argsort(-gain_c, kind="stable")[:number]
    return sorted(int(channel) for channel in order if gain_c[channel] >= 0)


def last_stage_sections(encoder: Encoder, images: Images, machine: Machine = CPU) -> list[Section]:
    """The section of the images that activate the last stage most, if there are stages."""
    N = len(images.store)
    if not encoder.strides or N <= _NINE:
        return []
    rows_n = np.sort(permutation(Key(0, "report excitations"), N)[:MOST_IMAGES])
    found = peaks(encoder, images, rows_n, machine)
    channels = selective_channels(found.peak_nc)
    shown = {channel: found.nine(channel) for channel in channels}
    seen = _views(encoder, images, rows_n, shown.values())
    names = images.checked.images["path"]
    walls = []
    for channel, which in shown.items():
        centres = found.centres(channel, which) if max(found.size) > 1 else [None] * len(which)
        tiles = [
            draw_ring(enlarge(seen[i], _VIEW_SIDE), centre, side=_VIEW_SIDE)
            for i, centre in zip(which.tolist(), centres, strict=True)
        ]
        paths = [names[int(row)].as_py() for row in rows_n[which]]
        walls.append((f"channel {channel}", wall(tiles, side=_VIEW_SIDE), paths))
    return [activation_section(walls, _activation_text(encoder, found, N))]


def _views(
    encoder: Encoder,
    images: Images,
    rows_n: NDArray[np.int64],
    shown: Iterable[NDArray[np.int64]],
) -> dict[int, RGB]:
    """Pictures of the views of the images in the walls, by their position among the rows."""
    which = np.unique(np.concatenate(list(shown)))
    policy = evaluation(encoder.config.image_size)
    (x_BCSS,) = batch_views(encoder, images, [rows_n[which]], policy)
    return dict(zip(which.tolist(), pictures(x_BCSS, encoder.config.intensity), strict=True))


def _activation_text(encoder: Encoder, found: Peaks, N: int) -> str:
    stage, (h, w), n = list(encoder.strides)[-1], found.size, len(found.rows_n)
    sample = f"all {N:,} images" if n == N else f"{n:,} of {N:,} images, drawn at random,"
    words = (
        f"Channels of the last stage ({stage}: {found.peak_nc.shape[1]} channels of {h} x {w} "
        "positions), each with the nine images that activate it most, strongest first, as the "
        f"network sees them; {sample} were examined. The channels shown are those whose nine "
        "images exceed the channel's usual activation most."
    )
    ring = " The ring marks the centre of the activated position; the network sees more around it."
    return words + ring if max(h, w) > 1 else words
