"""The box of a view, resampled directly from raw pixels.

If the box is higher than the view, rows of raw pixels are mixed and each mixed row is resampled.
Otherwise each row is resampled once, and the resampled rows are mixed. So the expensive part, along
a row, is done as rarely as possible.

Shapes:  V = C * P numbers of a view, P = S * S pixels per plane, S its side; C channels; K taps.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from selftaught.views.fused.compiled import ONE, ZERO, Floats, compiled, inlined, part, rounded

SLOTS = 4  # resampled rows held if rows are mixed last: the taps of a bicubic filter


class Box(NamedTuple):
    """A box: `raw` starts at its first pixel, rows are `stride` apart and have `width` numbers."""

    raw: Any
    height: int
    width: int
    stride: int
    row_taps: int
    column_taps: int


@rounded
def make_filter(length: int, size: int, cubic: bool, first_S: Any, weights: Floats) -> int:
    """Fill in first pixel and weights for each of `size` pixels; returns the number of taps K.

    The centre is rounded to float32, as in torchvision; everything else is float64. Weights of
    pixel u are weights[u * K : (u + 1) * K]; taps beyond the box have weight 0.
    """
    scale = _as_float32(length / size)
    stretch = max(scale, 1.0)
    support = 2 * stretch if cubic else stretch
    taps = math.ceil(2 * support)
    for u in range(size):
        center = _as_float32(scale * (u + 0.5))
        first = max(math.floor(center - support + 0.5), 0)
        first_S[u] = first
        weights_K, total = part(weights, u * taps, taps), 0.0
        for k in range(taps):
            distance = abs(first + k + 0.5 - center) / stretch
            weight = _weight(distance, cubic) if first + k < length else 0.0
            weights_K[k] = weight
            total += weight
        for k in range(taps):
            weights_K[k] /= np.float32(total)
    return taps


@rounded
def _as_float32(x: float) -> float:
    """x > 0 rounded to the 24 bits of float32. (The compiler would drop a conversion to float32 and
    back when it inlines this into a function whose sums may be reordered.)"""
    bits = np.float64(x).view(np.int64)
    bits += 0xFFFFFFF + ((bits >> 29) & 1)
    return np.int64(bits & ~0x1FFFFFFF).view(np.float64)


@rounded
def _weight(d: float, cubic: bool) -> float:
    """The triangle, or Keys' cubic with a = -0.5."""
    if not cubic:
        return max(1 - d, 0.0)
    if d < 1:
        return (1.5 * d - 2.5) * d * d + 1
    return ((-0.5 * d + 2.5) * d - 4) * d + 2 if d < 2 else 0.0


@compiled
def mirror_filter(first_S: Any, weights: Floats, size: int, taps: int) -> None:
    """Mirror a filter: the last pixel comes first."""
    for u in range(size // 2):
        v = size - 1 - u
        first_S[u], first_S[v] = first_S[v], first_S[u]
        a, b = part(weights, u * taps, taps), part(weights, v * taps, taps)
        for k in range(taps):
            a[k], b[k] = b[k], a[k]


@inlined
def resample(box: Box, setting: Any, scratch: Any, x_V: Floats, rows: Any, done: int) -> int:
    """Make rows rows[0] to rows[1] - 1 of the view; `done` is the previous result, initially 0."""
    size = setting.size
    for i in range(rows[0], rows[1]):
        if box.height > size:
            _mix_first(box, setting, scratch, x_V, i)
        else:
            done = _mix_last(box, setting, scratch, x_V, i, done)
    if setting.cubic:
        for c in range(setting.channels):
            _clip(part(x_V, (c * size + rows[0]) * size, (rows[1] - rows[0]) * size))
    return done


@inlined
def _mix_first(box: Box, setting: Any, scratch: Any, x_V: Floats, i: int) -> None:
    row, taps, last = part(scratch.row, 0, box.width), box.row_taps, box.height - 1
    weights_K = part(scratch.row_weights, i * taps, taps)
    for j in range(box.width):
        row[j] = ZERO
    for k in range(0, taps, 2):
        first = scratch.row_first_S[i] + k
        a = part(box.raw, min(first, last) * box.stride, box.width)
        b = part(box.raw, min(first + 1, last) * box.stride, box.width)
        weight_a, weight_b = weights_K[k], weights_K[k + 1] if k + 1 < taps else ZERO
        if setting.clipped:
            _add_units(row, a, b, weight_a, weight_b, setting.low, setting.gain)
        else:
            _add(row, a, b, weight_a * setting.gain, weight_b * setting.gain)
    _resample_row(box, setting, scratch, x_V, i * setting.size, setting.size * setting.size)


@inlined
def _mix_last(box: Box, setting: Any, scratch: Any, x_V: Floats, i: int, done: int) -> int:
    """Make row i from resampled rows in a ring; `done` of them so far. Returns the new number."""
    size, first, ring = setting.size, scratch.row_first_S[i], scratch.ring
    slot = size * setting.channels
    while done < min(first + box.row_taps, box.height):
        raw = part(box.raw, done * box.stride, box.width)
        _to_unit(part(scratch.row, 0, box.width), raw, setting.low, setting.gain)
        _resample_row(box, setting, scratch, part(ring, done % SLOTS * slot, slot), 0, size)
        done += 1
    w = part(scratch.row_weights, i * box.row_taps, box.row_taps)
    a, b = first % SLOTS * slot, (first + 1) % SLOTS * slot
    d, e = (first + 2) % SLOTS * slot, (first + 3) % SLOTS * slot
    for at in range(0, slot, size):
        out = part(x_V, (at + i) * size, size)
        _mix(out, part(ring, a + at, size), part(ring, b + at, size), w[0], w[1])
        if setting.cubic:
            _add(out, part(ring, d + at, size), part(ring, e + at, size), w[2], w[3])
    return done


@inlined
def _resample_row(box: Box, setting: Any, scratch: Any, out: Floats, at: int, plane: int) -> None:
    """Resample the interleaved `scratch.row` to a row of each plane; common taps are unrolled."""
    row, first_S, weights = scratch.row, scratch.column_first_S, scratch.column_weights
    size, taps, channels = setting.size, box.column_taps, setting.channels
    if channels != 3:
        for c in range(channels):
            channel = part(row, c, len(row) - c)
            _columns(channel, first_S, weights, taps, channels, part(out, c * plane + at, size))
        return
    red, green = part(out, at, size), part(out, plane + at, size)
    blue = part(out, 2 * plane + at, size)
    if taps == 2:
        _columns_3(row, first_S, weights, 2, red, green, blue)
    elif taps == 3:
        _columns_3(row, first_S, weights, 3, red, green, blue)
    elif taps == 4:
        _columns_3(row, first_S, weights, 4, red, green, blue)
    elif taps == 5:
        _columns_3(row, first_S, weights, 5, red, green, blue)
    else:
        _columns_3(row, first_S, weights, taps, red, green, blue)


# --- the loops


@compiled
def _columns_3(
    row: Floats, first_S: Any, weights: Floats, taps: int, red: Floats, green: Floats, blue: Floats
) -> None:
    """Resample a row of three channels; unsigned indices save numba's test for negative ones."""
    for u in range(len(red)):
        at, weights_K = np.uint64(first_S[u]), part(weights, u * taps, taps)
        r = g = b = ZERO
        for k in range(taps):
            weight = weights_K[k]
            r += weight * row[at + np.uint64(3 * k)]
            g += weight * row[at + np.uint64(3 * k + 1)]
            b += weight * row[at + np.uint64(3 * k + 2)]
        red[u] = r
        green[u] = g
        blue[u] = b


@compiled
def _columns(
    row: Floats, first_S: Any, weights: Floats, taps: int, channels: int, out: Floats
) -> None:
    for u in range(len(out)):
        at, total, weights_K = np.uint64(first_S[u]), ZERO, part(weights, u * taps, taps)
        for k in range(taps):
            total += weights_K[k] * row[at + np.uint64(k * channels)]
        out[u] = total


@compiled
def _mix(out: Floats, a: Floats, b: Floats, weight_a: np.float32, weight_b: np.float32) -> None:
    for j in range(len(out)):
        out[j] = weight_a * a[j] + weight_b * b[j]


@compiled
def _add(out: Floats, a: Any, b: Any, weight_a: np.float32, weight_b: np.float32) -> None:
    for j in range(len(out)):
        out[j] += weight_a * np.float32(a[j]) + weight_b * np.float32(b[j])


@compiled
def _add_units(
    out: Floats,
    a: Any,
    b: Any,
    weight_a: np.float32,
    weight_b: np.float32,
    low: np.float32,
    gain: np.float32,
) -> None:
    """Like `_add`, for raw values that are first clipped to the intensity's range."""
    for j in range(len(out)):
        x = min(max((np.float32(a[j]) - low) * gain, ZERO), ONE)
        y = min(max((np.float32(b[j]) - low) * gain, ZERO), ONE)
        out[j] += weight_a * x + weight_b * y


@compiled
def _to_unit(out: Floats, raw: Any, low: np.float32, gain: np.float32) -> None:
    for j in range(len(out)):
        out[j] = min(max((np.float32(raw[j]) - low) * gain, ZERO), ONE)


@compiled
def _clip(x: Floats) -> None:
    for j in range(len(x)):
        x[j] = min(max(x[j], ZERO), ONE)
