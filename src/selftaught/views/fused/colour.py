"""Operations on single pixels, in place, on tiles: parts of planes that stay in the cache.

Definitions are those of `views.operations`.

Shapes:  V = C * P numbers of a view, P = S * S pixels per plane; C channels; T pixels of a tile.
"""

from typing import Any, NamedTuple

import numpy as np

from selftaught.views.fused.compiled import ONE, SIX, TWO, ZERO, Floats, compiled, part

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # as in ViewParams.order_N4
_RED, _GREEN, _BLUE = np.float32(0.2989), np.float32(0.587), np.float32(0.114)
_THREE, _FOUR, _FIVE = np.float32(3), np.float32(4), np.float32(5)


class Tile(NamedTuple):
    """Pixels start to start + length - 1 of each plane of a view."""

    x_V: Floats
    plane: int
    start: int
    length: int


@compiled
def _plane(tile: Tile, c: int) -> Any:
    return part(tile.x_V, c * tile.plane + tile.start, tile.length)


@compiled
def jitter_plan(k: int, drawn: Any, setting: Any, codes_4: Any) -> tuple[int, int]:
    """Fill in the jitter operations to apply; returns their number and the place of contrast, which
    equals that number if it is not among them."""
    count, contrast = 0, -1
    if drawn.jitter_N[k]:
        for j in range(4):
            code = drawn.order_N4[k, j]
            if setting.live_4[code]:
                contrast = count if code == CONTRAST else contrast
                codes_4[count] = code
                count += 1
    return count, count if contrast < 0 else contrast


@compiled
def jitter_tile(tile: Tile, setting: Any, codes: Any, factors_4: Any) -> None:
    """Apply operations other than contrast, in their order."""
    for code in codes:
        if code == BRIGHTNESS:
            for c in range(setting.channels):
                _brightness(_plane(tile, c), factors_4[code])
        elif code == SATURATION:
            _saturation(_plane(tile, 0), _plane(tile, 1), _plane(tile, 2), factors_4[code])
        else:
            _hue(_plane(tile, 0), _plane(tile, 1), _plane(tile, 2), factors_4[code])


@compiled
def contrast_sum(tile: Tile, channels: int) -> float:
    """Sum over a tile of the values whose mean contrast needs."""
    if channels == 3:
        red, green, blue = _sum(_plane(tile, 0)), _sum(_plane(tile, 1)), _sum(_plane(tile, 2))
        return float(_RED * red + _GREEN * green + _BLUE * blue)
    every = 0.0
    for c in range(channels):
        every += float(_sum(_plane(tile, c)))
    return every / channels


@compiled
def contrast_tile(tile: Tile, channels: int, mean: np.float32, factor: np.float32) -> None:
    """Scale the difference from the mean by the factor."""
    for c in range(channels):
        _contrast(_plane(tile, c), mean, factor)


@compiled
def gray_tile(tile: Tile) -> None:
    """Set all three channels to the luminance."""
    _gray(_plane(tile, 0), _plane(tile, 1), _plane(tile, 2))


@compiled
def normalise_tile(tile: Tile, setting: Any) -> None:
    """(x - mean) / std of each channel."""
    for c in range(setting.channels):
        _scale(_plane(tile, c), setting.scale_C[c], setting.shift_C[c])


# --- the loops


@compiled
def _brightness(x_T: Floats, factor: np.float32) -> None:
    for j in range(len(x_T)):
        x_T[j] = min(max(x_T[j] * factor, ZERO), ONE)


@compiled
def _contrast(x_T: Floats, mean: np.float32, factor: np.float32) -> None:
    other = mean * (ONE - factor)
    for j in range(len(x_T)):
        x_T[j] = min(max(x_T[j] * factor + other, ZERO), ONE)


@compiled
def _saturation(red_T: Floats, green_T: Floats, blue_T: Floats, factor: np.float32) -> None:
    rest = ONE - factor
    for j in range(len(red_T)):
        r, g, b = red_T[j], green_T[j], blue_T[j]
        other = (_RED * r + _GREEN * g + _BLUE * b) * rest
        red_T[j] = min(max(r * factor + other, ZERO), ONE)
        green_T[j] = min(max(g * factor + other, ZERO), ONE)
        blue_T[j] = min(max(b * factor + other, ZERO), ONE)


@compiled
def _hue(red_T: Floats, green_T: Floats, blue_T: Floats, turns: np.float32) -> None:
    """Shift the hue. Hues are multiplied by 6 chroma: no division is needed, and gray stays gray.

    Hue, shift and the hue at which a channel is lowest add up to at most 9 sixths of a turn, so the
    distance to the nearest whole turn is |d| or |6 - |d||.
    """
    shift = SIX * (turns - np.float32(round(turns)))
    for j in range(len(red_T)):
        r, g, b = red_T[j], green_T[j], blue_T[j]
        value = max(max(r, g), b)
        chroma = value - min(min(r, g), b)
        hue = _FOUR * chroma + (r - g)
        hue = TWO * chroma + (b - r) if value == g else hue
        hue = (g - b if value == r else hue) + shift * chroma
        red_T[j] = _channel(value, chroma, hue - _THREE * chroma)
        green_T[j] = _channel(value, chroma, hue - _FIVE * chroma)
        blue_T[j] = _channel(value, chroma, hue - chroma)


@compiled
def _channel(value: Any, chroma: Any, d: Any) -> Any:
    near = min(abs(d), abs(SIX * chroma - abs(d)))
    return value - min(max(TWO * chroma - near, ZERO), chroma)


@compiled
def _gray(red_T: Floats, green_T: Floats, blue_T: Floats) -> None:
    for j in range(len(red_T)):
        x = _RED * red_T[j] + _GREEN * green_T[j] + _BLUE * blue_T[j]
        red_T[j] = x
        green_T[j] = x
        blue_T[j] = x


@compiled
def _sum(x_T: Floats) -> np.float32:
    every = ZERO
    for j in range(len(x_T)):
        every += x_T[j]
    return every


@compiled
def _scale(x_T: Floats, scale: np.float32, shift: np.float32) -> None:
    for j in range(len(x_T)):
        x_T[j] = x_T[j] * scale + shift
