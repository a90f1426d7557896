"""Normal random numbers added to a view: a function of key, draw and place in the view.

The words are those of `rng.philox`, made normal by the Box-Muller method. Logarithm, sine and
cosine are polynomials, because those of the C library process one number at a time.

Shapes:  V = C * P numbers of a view; B blocks of four numbers.
"""

from typing import Any

import numpy as np

from selftaught.views.fused.compiled import ONE, ZERO, Floats, compiled, part, rounded
from selftaught.views.fused.draws import philox_block

BLOCKS = 256  # processed at once
_BYTE = np.uint64(8)
_MIDDLE, _GRID = np.float32(0.5), np.float32(2.0**-24)

_SQUARE_ROOT_OF_HALF, _BITS = np.int32(0x3F3504F3), np.int32(23)  # as bits; of a mantissa
_LOG_2, _QUARTER = np.float32(0.6931471805599453), np.float32(1.5707963267948966)
_TWO, _FOUR = np.float32(2), np.float32(4)


@compiled
def add_noise(x_V: Floats, sigma: np.float32, draw: int, setting: Any, scratch: Any) -> None:
    """x + sigma * n, clipped to [0, 1]."""
    u = scratch.uniform
    a, b = part(u, 0, BLOCKS), part(u, BLOCKS, BLOCKS)
    c, d = part(u, 2 * BLOCKS, BLOCKS), part(u, 3 * BLOCKS, BLOCKS)
    for start in range(0, len(x_V), 4 * BLOCKS):
        _uniform(a, b, c, d, draw, start // 4, setting.key0, setting.key1)
        _normal(a, b)
        _normal(c, d)
        count = min(4 * BLOCKS, len(x_V) - start)
        _add(part(x_V, start, count), a, b, c, d, sigma)


@rounded
def _uniform(
    a_B: Floats, b_B: Floats, c_B: Floats, d_B: Floats, draw: int, first: int, key0: int, key1: int
) -> None:
    """Fill in numbers in (0, 1] from the four words of each counter (draw, block)."""
    for j in range(BLOCKS):
        a, b, c, d = philox_block(draw, first + j, key0, key1)
        a_B[j], b_B[j], c_B[j], d_B[j] = _fraction(a), _fraction(b), _fraction(c), _fraction(d)


@rounded
def _fraction(word: Any) -> np.float32:
    return (np.float32(np.int32(word >> _BYTE)) + _MIDDLE) * _GRID


@compiled
def _normal(u_B: Floats, v_B: Floats) -> None:
    """Turn pairs of uniform numbers into pairs of normal ones, in place."""
    for j in range(len(u_B)):
        radius = np.sqrt(max(-_TWO * _log(u_B[j]), ZERO))
        cosine, sine = _cosine_sine(v_B[j])
        u_B[j] = radius * cosine
        v_B[j] = radius * sine


@compiled
def _log(x: Any) -> Any:
    """Log of a normal float32: exponent plus a polynomial in the mantissa, sqrt(1/2) to sqrt(2).

    (Moshier, Cephes 2.8, logf).
    """
    bits = np.float32(x).view(np.int32)
    exponent = np.int32(np.int32(bits - _SQUARE_ROOT_OF_HALF) >> _BITS)
    z = np.int32(bits - np.int32(exponent << _BITS)).view(np.float32) - ONE
    p = z * np.float32(7.0376836292e-2) - np.float32(1.1514610310e-1)
    p = p * z + np.float32(1.1676998740e-1)
    p = p * z - np.float32(1.2420140846e-1)
    p = p * z + np.float32(1.4249322787e-1)
    p = p * z - np.float32(1.6668057665e-1)
    p = p * z + np.float32(2.0000714765e-1)
    p = p * z - np.float32(2.4999993993e-1)
    p = p * z + np.float32(3.3333331174e-1)
    return np.float32(exponent) * _LOG_2 + (z - _MIDDLE * z * z + p * z * z * z)


@compiled
def _cosine_sine(turns: Any) -> Any:
    """Cosine and sine of turns from 0 to 1, by polynomials around the nearest quarter turn.

    (Moshier, Cephes 2.8, sinf).
    """
    quarters = _FOUR * turns
    quarter = np.int32(quarters + _MIDDLE)
    x = (quarters - np.float32(quarter)) * _QUARTER
    z = x * x
    s = z * np.float32(-1.9515295891e-4) + np.float32(8.3321608736e-3)
    s = (s * z - np.float32(1.6666654611e-1)) * z * x + x
    c = z * np.float32(2.443315711809948e-5) - np.float32(1.388731625493765e-3)
    c = (c * z + np.float32(4.166664568298827e-2)) * z * z - _MIDDLE * z + ONE
    odd = (quarter & 1) == 1
    cosine, sine = (s, c) if odd else (c, s)
    cosine = -cosine if ((quarter + 1) & 2) == 2 else cosine
    sine = -sine if (quarter & 2) == 2 else sine
    return cosine, sine


@compiled
def _add(x: Floats, a_B: Floats, b_B: Floats, c_B: Floats, d_B: Floats, sigma: np.float32) -> None:
    """Add noise; the four numbers of a block belong to adjacent values of the view."""
    blocks = len(x) // 4
    for j in range(blocks):
        x[4 * j] = min(max(x[4 * j] + sigma * a_B[j], ZERO), ONE)
        x[4 * j + 1] = min(max(x[4 * j + 1] + sigma * b_B[j], ZERO), ONE)
        x[4 * j + 2] = min(max(x[4 * j + 2] + sigma * c_B[j], ZERO), ONE)
        x[4 * j + 3] = min(max(x[4 * j + 3] + sigma * d_B[j], ZERO), ONE)
    for rest in range(4 * blocks, len(x)):
        n = a_B[blocks] if rest % 4 == 0 else (b_B[blocks] if rest % 4 == 1 else c_B[blocks])
        x[rest] = min(max(x[rest] + sigma * n, ZERO), ONE)
