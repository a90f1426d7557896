"""Gaussian blur of one plane of a view: along the rows into another plane, back along the columns.

The two pixels at the same distance are added first, with three such pairs per pass. Negligible taps
are left out: at an average sigma, half of a kernel of 23 pixels.

Shapes:  P = S * S pixels of a plane, S its side; K taps, the middle and one side.
"""

import math
from typing import Any

import numpy as np

from selftaught.views.fused.compiled import Floats, compiled, part

PAIRS = 3  # per pass
_SMALLEST = 1e-7  # the smallest tap, if all sum to 1


@compiled
def gaussian(sigma: np.float32, reach: int, weights_K: Floats) -> int:
    """Fill in the weights of the middle and one side; returns the last one used."""
    total = 0.0
    for k in range(reach + 1):
        total += math.exp(-0.5 * (k / sigma) ** 2) * (2 if k else 1)
    last, sides = 0, 0.0
    for k in range(len(weights_K)):
        weight = math.exp(-0.5 * (k / sigma) ** 2) / total if k <= reach else 0.0
        weights_K[k] = weight if weight >= _SMALLEST else 0.0
        sides += 2 * float(weights_K[k]) if k else 0.0
        last = k if weight >= _SMALLEST else last
    weights_K[0] = 1 - sides  # the middle compensates for omitted taps
    return last


@compiled
def blur_plane(x_P: Floats, size: int, scratch: Any, reach: int) -> None:
    """Blur in place; the weights are `scratch.taps`, padded beyond `reach` to whole passes."""
    plane, padded, taps = scratch.plane_P, scratch.padded, scratch.taps
    for i in range(size):
        _blur_row(part(x_P, i * size, size), part(plane, i * size, size), padded, taps, reach)
    for i in range(size):
        _blur_across(part(x_P, i * size, size), plane, i, taps, reach)


@compiled
def _blur_row(x_S: Floats, out_S: Floats, padded: Floats, taps: Floats, reach: int) -> None:
    size, start = len(x_S), len(taps)
    for j in range(size):
        padded[start + j] = x_S[j]
    for k in range(1, reach + 1):
        padded[start - k] = x_S[k]
        padded[start + size - 1 + k] = x_S[size - 1 - k]
    _middle(out_S, x_S, taps[0])
    for k in range(1, reach + 1, PAIRS):
        low, high = start - k, start + k
        a, b = part(padded, low, size), part(padded, high, size)
        c, d = part(padded, low - 1, size), part(padded, high + 1, size)
        e, f = part(padded, low - 2, size), part(padded, high + 2, size)
        _pairs(out_S, (a, b), (c, d), (e, f), (taps[k], taps[k + 1], taps[k + 2]))


@compiled
def _blur_across(out_S: Floats, plane: Floats, i: int, taps: Floats, reach: int) -> None:
    size = len(out_S)
    _middle(out_S, part(plane, i * size, size), taps[0])
    for k in range(1, reach + 1, PAIRS):
        a, b = _row(plane, i - k, size), _row(plane, i + k, size)
        c, d = _row(plane, i - k - 1, size), _row(plane, i + k + 1, size)
        e, f = _row(plane, i - k - 2, size), _row(plane, i + k + 2, size)
        _pairs(out_S, (a, b), (c, d), (e, f), (taps[k], taps[k + 1], taps[k + 2]))


@compiled
def _row(plane: Floats, i: int, size: int) -> Any:
    """Row i; the border is reflected, without repeating the border row."""
    return part(plane, (size - 1 - abs(size - 1 - abs(i))) * size, size)


# --- the loops


@compiled
def _middle(out_S: Floats, x_S: Floats, weight: np.float32) -> None:
    for j in range(len(out_S)):
        out_S[j] = weight * x_S[j]


@compiled
def _pairs(out_S: Floats, first: Any, second: Any, third: Any, weights: Any) -> None:
    (a, b), (c, d), (e, f), (u, v, w) = first, second, third, weights
    for j in range(len(out_S)):
        out_S[j] += u * (a[j] + b[j]) + v * (c[j] + d[j]) + w * (e[j] + f[j])
