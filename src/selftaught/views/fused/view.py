"""One view after the other: the box, then tile by tile the operations on pixels, blur and noise.

A tile is a few rows that stay in the cache. Contrast needs the mean of the whole view, so it ends
one sweep over the tiles and starts another.

Shapes:  N views; C channels; V = C * P numbers of a view, P = S * S pixels per plane, S its side.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from selftaught.views.fused import colour
from selftaught.views.fused.blur import PAIRS, blur_plane, gaussian
from selftaught.views.fused.box import SLOTS, Box, make_filter, mirror_filter, resample
from selftaught.views.fused.colour import CONTRAST, Tile
from selftaught.views.fused.compiled import (
    ZERO,
    Floats,
    borrowed,
    compiled,
    entry,
    inlined,
    part,
    sources,
)
from selftaught.views.fused.noise import BLOCKS, add_noise

_TILE = 1024  # pixels


class Pixels(NamedTuple):
    """Raw pixels and their crops; see `raw.Raw` and `sample.ViewParams`."""

    flat: NDArray[Any]
    starts_N: NDArray[np.int64]
    widths_N: NDArray[np.int64]
    box_N4: NDArray[np.int64]
    flip_N: NDArray[np.bool_]


class DrawnParams(NamedTuple):
    """The operations on each view; see `sample.ViewParams`."""

    draws_N: NDArray[np.int64]
    jitter_N: NDArray[np.bool_]
    order_N4: NDArray[np.int64]
    factors: Floats
    gray_N: NDArray[np.bool_]
    sigma_N: Floats
    noise_N: Floats


class Setting(NamedTuple):
    """The parameters that are the same for all views.

    Attributes:
        size: S.
        channels: C.
        low: The raw value that becomes 0.
        gain: The factor of raw values minus `low`.
        clipped: Whether the result can be below 0 or above 1.
        cubic: Whether the box is resized bicubically.
        live_4: Which operations of the jitter change anything.
        reach: Half the width of the blur's kernel.
        key0, key1: The key of the noise.
        scale_C, shift_C: x * scale + shift normalises.
    """

    size: int
    channels: int
    low: np.float32
    gain: np.float32
    clipped: bool
    cubic: bool
    live_4: NDArray[np.bool_]
    reach: int
    key0: int
    key1: int
    scale_C: Floats
    shift_C: Floats


class Scratch(NamedTuple):
    """Memory of one call, reused by each view."""

    row_first_S: NDArray[np.int64]
    row_weights: Floats
    column_first_S: NDArray[np.int64]
    column_weights: Floats
    row: Floats
    ring: Floats
    codes_4: NDArray[np.int64]
    taps: Floats
    padded: Floats
    plane_P: Floats
    uniform: Floats
    x_V: Floats


def scratch_for(pixels: Pixels, setting: Setting, half: bool) -> Scratch:
    """As large as the largest box needs it."""
    size, channels = setting.size, setting.channels
    height, width = pixels.box_N4[:, 2:].max(axis=0, initial=1).tolist()
    support = 4 if setting.cubic else 2
    rows, columns = (math.ceil(support * max(1.0, n / size)) + 1 for n in (height, width))
    taps = setting.reach + PAIRS
    return Scratch(
        row_first_S=np.zeros(size, np.int64),
        row_weights=np.zeros(size * rows, np.float32),
        column_first_S=np.zeros(size, np.int64),
        column_weights=np.zeros(size * columns, np.float32),
        row=np.zeros((width + columns) * channels, np.float32),
        ring=np.zeros(SLOTS * channels * size, np.float32),
        codes_4=np.zeros(4, np.int64),
        taps=np.zeros(taps, np.float32),
        padded=np.zeros(size + 2 * taps, np.float32),
        plane_P=np.zeros(size * size, np.float32),
        uniform=np.zeros(4 * BLOCKS, np.float32),
        x_V=np.zeros(channels * size * size if half else 0, np.float32),
    )


@inlined
def _box(k: int, pixels: Pixels, setting: Setting, scratch: Scratch) -> Box:
    """The box of view k; fills in the filters of its rows and columns."""
    size, channels, cubic = setting.size, setting.channels, setting.cubic
    top, left = pixels.box_N4[k, 0], pixels.box_N4[k, 1]
    height, width = pixels.box_N4[k, 2], pixels.box_N4[k, 3]
    stride = pixels.widths_N[k] * channels
    first_S, weights = scratch.column_first_S, scratch.column_weights
    rows = make_filter(height, size, cubic, scratch.row_first_S, scratch.row_weights)
    columns = make_filter(width, size, cubic, first_S, weights)
    for u in range(size):
        first_S[u] *= channels
    if pixels.flip_N[k]:
        mirror_filter(first_S, weights, size, columns)
    _clear(part(scratch.row, width * channels, columns * channels))
    _clear(scratch.ring)
    start = pixels.starts_N[k] + top * stride + left * channels
    raw = part(pixels.flat, start, len(pixels.flat) - start)
    return Box(raw, height, width * channels, stride, rows, columns)


@inlined
def _make_view(
    k: int, pixels: Pixels, drawn: DrawnParams, setting: Setting, scratch: Scratch, x_V: Floats
) -> None:
    size, channels, codes_4 = setting.size, setting.channels, scratch.codes_4
    rows, factors_4 = max(1, _TILE // size), part(drawn.factors, 4 * k, 4)
    count, contrast = colour.jitter_plan(k, drawn, setting, codes_4)
    before, after = part(codes_4, 0, contrast), part(codes_4, contrast + 1, count - contrast - 1)
    box = _box(k, pixels, setting, scratch)
    total, done = 0.0, 0
    for row in range(0, size, rows):
        last = min(row + rows, size)
        tile = Tile(x_V, size * size, row * size, (last - row) * size)
        done = resample(box, setting, scratch, x_V, (row, last), done)
        colour.jitter_tile(tile, setting, before, factors_4)
        if contrast < count:
            total += colour.contrast_sum(tile, channels)
        else:
            _finish_tile(k, tile, drawn, setting)
    if contrast < count:
        mean = np.float32(total / (size * size))
        for row in range(0, size, rows):
            tile = Tile(x_V, size * size, row * size, (min(row + rows, size) - row) * size)
            colour.contrast_tile(tile, channels, mean, factors_4[CONTRAST])
            colour.jitter_tile(tile, setting, after, factors_4)
            _finish_tile(k, tile, drawn, setting)
    _blur_and_noise(k, drawn, setting, scratch, x_V)


@inlined
def _finish_tile(k: int, tile: Tile, drawn: DrawnParams, setting: Setting) -> None:
    """Gray and normalise. Blur may follow, because its weights sum to 1; noise must come before."""
    if drawn.gray_N[k]:
        colour.gray_tile(tile)
    if drawn.noise_N[k] == ZERO:
        colour.normalise_tile(tile, setting)


@inlined
def _blur_and_noise(
    k: int, drawn: DrawnParams, setting: Setting, scratch: Scratch, x_V: Floats
) -> None:
    """Blur the view and add noise."""
    size, plane = setting.size, setting.size * setting.size
    if setting.reach > 0 and drawn.sigma_N[k] > ZERO:
        reach = gaussian(drawn.sigma_N[k], setting.reach, scratch.taps)
        _clear(scratch.padded)
        for c in range(setting.channels):
            blur_plane(part(x_V, c * plane, plane), size, scratch, reach)
    if drawn.noise_N[k] > ZERO:
        add_noise(x_V, drawn.noise_N[k], drawn.draws_N[k], setting, scratch)
        colour.normalise_tile(Tile(x_V, plane, 0, plane), setting)


@compiled
def _clear(x: Floats) -> None:
    """Set to 0: remains of another view have weight 0, but 0 times NaN is NaN."""
    for j in range(len(x)):
        x[j] = ZERO


@compiled
def _to_half(x_V: Floats, half_V: NDArray[np.uint16]) -> None:
    """Round to the nearest bfloat16, ties to even."""
    for j in range(len(x_V)):
        bits = np.float32(x_V[j]).view(np.uint32)
        half_V[j] = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16


def _compile_make(sources: int) -> Callable[..., int]:
    def make(
        pixels: Pixels, drawn: DrawnParams, setting: Setting, scratch: Scratch, x: Any, half: Any
    ) -> int:
        pixels, drawn = borrowed(pixels), borrowed(drawn)
        setting, scratch = borrowed(setting), borrowed(scratch)
        size, halved = setting.channels * setting.size * setting.size, len(half) > 0
        for k in range(len(pixels.starts_N)):
            x_V = part(scratch.x_V, 0, size) if halved else part(x, k * size, size)
            _make_view(k, pixels, drawn, setting, scratch, x_V)
            if halved:
                _to_half(x_V, part(half, k * size, size))
        return sources

    return entry(make)


make = _compile_make(sources())
"""make(pixels, drawn, setting, scratch, x, half): makes one view of each image.

The views are written to the flat array x as float32, or, rounded once, to the flat uint16 array
half as the bits of bfloat16; the other array is empty.
"""
