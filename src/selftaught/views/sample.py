"""The random parameters of a batch of views, drawn at once, each keyed by its own draw.

An image's parameters depend on (seed, epoch, draw, view) and its size, never on its batch or on the
policy's other operations: each operation draws under its own purpose.

Shapes:  N images; C channels; A attempts at a box. A box is top, left, height, width in pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selftaught.foundation.rng import Key, uniform
from selftaught.views.policy import (
    BandDrop,
    Blur,
    Box,
    CenterCrop,
    ChannelJitter,
    CornerCrop,
    Cutout,
    Flip,
    Gray,
    Jitter,
    Noise,
    Policy,
    RandomCrop,
    Rotate,
    Sobel,
    Solarise,
    check_channels,
)

_FEW = 32  # for fewer draws, loading compiled code is not worthwhile
_ATTEMPTS = 10  # torchvision's RandomResizedCrop
_SAME = (1.0, 1.0, 1.0, 0.0)  # factors and hue shift that change nothing


@dataclass(frozen=True)
class _Numbers:
    """Numbers in [0, 1) for a purpose, n for each image or for some images: (N, n).

    `draw` prepares the first four per image for all purposes of a policy.
    """

    seed: int
    epoch: int
    view: int
    draws_N: NDArray[np.int64]
    size: int
    channels: int
    fours: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def draw(self, purposes: Sequence[str]) -> None:
        """Draw the first four numbers of some purposes, all at once."""
        keys = [self.key(purpose) for purpose in purposes]
        self.fours.update(zip(purposes, self._uniform(keys, self.draws_N, 4), strict=True))

    def __call__(
        self, purpose: str, n: int, rows: NDArray[Any] | None = None
    ) -> NDArray[np.float64]:
        if n <= 4 and rows is None and purpose in self.fours:
            return self.fours[purpose][:, :n]
        draws_N = self.draws_N if rows is None else self.draws_N[rows]
        return self._uniform([self.key(purpose)], draws_N, n)[0]

    def _uniform(
        self, keys: Sequence[Key], draws_N: NDArray[np.int64], n: int
    ) -> list[NDArray[np.float64]]:
        """n numbers under each key for some draws, (K, N, n); both ways give the same bits."""
        if len(self.draws_N) < _FEW:
            return [uniform(key, draws_N, n) for key in keys]
        from selftaught.views.fused import draws

        return list(draws.uniform_draws(keys, draws_N, n))

    def key(self, purpose: str) -> Key:
        return Key(self.seed, f"views/{purpose}", self.epoch, self.view)

    def happens(self, operation: Any, purpose: str) -> NDArray[np.bool_]:
        """Whether an operation happens to each image."""
        happens_N: NDArray[np.bool_] = self(purpose, 1)[:, 0] < operation.p
        return happens_N


@dataclass(frozen=True)
class ViewParams:
    """The parameters of N views of size x size; identity values if an operation does not happen.

    Attributes:
        size: Height and width of the views in pixels.
        draws_N: int64: position of each image in the epoch's global order.
        noise_key: Philox key of the noise; the draw and the pixel are its counter.
        box_N4: int64: top, left, height, width of the crop, in pixels of the stored image.
        flip_N: bool: whether the view is mirrored left to right.
        quarters_N: int64: turns by 90 degrees, counter-clockwise, 0 to 3.
        jitter_N: bool: whether the colours are jittered.
        order_N4: int64: a permutation of 0 brightness, 1 contrast, 2 saturation, 3 hue; the first
            comes first.
        factors_N4: float32: factors of brightness, contrast and saturation; shift of hue in turns.
        gain_NC, gamma_NC, offset_NC: float32: gain * x ** gamma + offset of each channel.
        keep_NC: bool: whether a channel is kept.
        gray_N: bool: whether the colours are dropped.
        solarise_N: bool: whether bright values are inverted.
        sigma_N: float32: sigma of the blur, in pixels of the view; 0: none.
        noise_N: float32: sigma of the noise, in units of [0, 1]; 0: none.
        sobel_N: bool: whether the view is the gradient's magnitude.
        cutout_N4: int64: top, left, height, width of the cutout, in pixels of the view.
    """

    size: int
    draws_N: NDArray[np.int64]
    noise_key: tuple[int, int]
    box_N4: NDArray[np.int64]
    flip_N: NDArray[np.bool_]
    quarters_N: NDArray[np.int64]
    jitter_N: NDArray[np.bool_]
    order_N4: NDArray[np.int64]
    factors_N4: NDArray[np.float32]
    gain_NC: NDArray[np.float32]
    gamma_NC: NDArray[np.float32]
    offset_NC: NDArray[np.float32]
    keep_NC: NDArray[np.bool_]
    gray_N: NDArray[np.bool_]
    solarise_N: NDArray[np.bool_]
    sigma_N: NDArray[np.float32]
    noise_N: NDArray[np.float32]
    sobel_N: NDArray[np.bool_]
    cutout_N4: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.box_N4)

    def __getitem__(self, part: slice) -> "ViewParams":
        """The parameters of a part of the batch."""
        arrays = {name: value[part] for name, value in self._arrays().items()}
        return ViewParams(size=self.size, noise_key=self.noise_key, **arrays)

    def _arrays(self) -> dict[str, NDArray[Any]]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


def sample(
    policy: Policy,
    *,
    size: int,
    sizes_N2: NDArray[np.int64],
    draws_N: NDArray[np.int64],
    seed: int,
    epoch: int = 0,
    view: int = 0,
    boxes_N4: NDArray[np.int64] | None = None,
    channels: int = 3,
) -> ViewParams:
    """Draw the parameters of one view of each image.

    Args:
        policy: The operations and their ranges.
        size: Height and width of the views in pixels.
        sizes_N2: Height and width of each image in pixels.
        draws_N: Position of each image in the epoch's global order.
        seed: The run's seed.
        epoch: The epoch, from 0.
        view: Number of the view among those of an image, from 0.
        boxes_N4: A first crop of each image; the policy's box is inside it.
        channels: C of the images.

    Raises:
        ConfigError: An operation does not suit this number of channels.
    """
    check_channels(policy, channels)
    numbers = _Numbers(seed, epoch, view, draws_N, size, channels)
    used = [_DRAW[type(operation)] for operation in policy.operations]
    numbers.draw(["crop", *(purpose for _, purposes in used for purpose in purposes)])
    inside_N2 = sizes_N2 if boxes_N4 is None else boxes_N4[:, 2:]
    box_N4 = _boxes(policy.box, inside_N2, numbers)
    if boxes_N4 is not None:
        box_N4[:, :2] += boxes_N4[:, :2]
    arrays = _identity(len(draws_N), channels) | {"draws_N": draws_N, "box_N4": box_N4}
    for operation, (draw, _) in zip(policy.operations, used, strict=True):
        arrays |= draw(operation, numbers)
    return ViewParams(size=size, noise_key=numbers.key("noise/field").words(), **arrays)


def _identity(n: int, channels: int) -> dict[str, NDArray[Any]]:
    """The parameters with which no operation changes anything."""
    return {
        "flip_N": np.zeros(n, bool),
        "quarters_N": np.zeros(n, np.int64),
        "jitter_N": np.zeros(n, bool),
        "order_N4": np.tile(np.arange(4), (n, 1)),
        "factors_N4": np.tile(np.array(_SAME, np.float32), (n, 1)),
        "gain_NC": np.ones((n, channels), np.float32),
        "gamma_NC": np.ones((n, channels), np.float32),
        "offset_NC": np.zeros((n, channels), np.float32),
        "keep_NC": np.ones((n, channels), bool),
        "gray_N": np.zeros(n, bool),
        "solarise_N": np.zeros(n, bool),
        "sigma_N": np.zeros(n, np.float32),
        "noise_N": np.zeros(n, np.float32),
        "sobel_N": np.zeros(n, bool),
        "cutout_N4": np.zeros((n, 4), np.int64),
    }


def _boxes(box: Box, sizes_N2: NDArray[np.int64], numbers: _Numbers) -> NDArray[np.int64]:
    if not isinstance(box, RandomCrop):
        return _fixed_boxes(box, sizes_N2)
    first_N14 = numbers("crop", 4)[:, None]
    box_N4, fits_N = _first_fit(box, sizes_N2, first_N14)
    if not fits_N.all():  # most boxes fit at once: draw more attempts for the rest only
        rest_N = ~fits_N
        tries_NA4 = numbers("crop", 4 * _ATTEMPTS, rest_N).reshape(-1, _ATTEMPTS, 4)
        tried_N4, fits_N = _first_fit(box, sizes_N2[rest_N], tries_NA4)
        if not fits_N.all():
            largest_N4 = _largest_boxes(box, sizes_N2[rest_N], tries_NA4[:, -1, 2:])
            tried_N4 = np.where(fits_N[:, None], tried_N4, largest_N4)
        box_N4[rest_N] = tried_N4
    return box_N4


def _first_fit(
    crop: RandomCrop, sizes_N2: NDArray[np.int64], uniform_NA4: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The first of A random boxes that fits in the image, and whether one fits."""
    u_area, u_ratio, u_top, u_left = np.moveaxis(uniform_NA4, 2, 0)
    area = sizes_N2.prod(axis=1)[:, None] * _scale_to(crop.scale, u_area)
    log_low, log_high = np.log(crop.ratio)
    ratio = np.exp(_scale_to((log_low, log_high), u_ratio))
    h, w = np.rint(np.sqrt(area / ratio)), np.rint(np.sqrt(area * ratio))
    height, width = sizes_N2[:, :1], sizes_N2[:, 1:]
    fits_NA = (h > 0) & (h <= height) & (w > 0) & (w <= width)
    top, left = np.floor(u_top * (height - h + 1)), np.floor(u_left * (width - w + 1))
    boxes_NA4 = np.stack([top, left, h, w], axis=2)
    box_N4 = boxes_NA4[np.arange(len(sizes_N2)), fits_NA.argmax(axis=1)]
    return box_N4.astype(np.int64), fits_NA.any(axis=1)


def _largest_boxes(
    crop: RandomCrop, sizes_N2: NDArray[np.int64], uniform_N2: NDArray[np.float64]
) -> NDArray[np.int64]:
    """The largest box with an allowed aspect ratio, at a random place, so that views differ."""
    height, width = sizes_N2.T
    low, high = min(crop.ratio), max(crop.ratio)
    narrow, flat = np.rint(width / low), np.rint(height * high)  # 0 if the ratio is extreme
    h = np.where(width / height < low, np.maximum(1, narrow), height).astype(np.int64)
    w = np.where(width / height > high, np.maximum(1, flat), width).astype(np.int64)
    top, left = np.floor(uniform_N2.T * (height - h + 1, width - w + 1)).astype(np.int64)
    return np.stack([top, left, h, w], axis=1)


def _fixed_boxes(crop: CenterCrop | CornerCrop, sizes_N2: NDArray[np.int64]) -> NDArray[np.int64]:
    side_N1 = np.maximum(1, np.rint(crop.fraction * sizes_N2.min(axis=1, keepdims=True)))
    at = (crop.bottom, crop.right) if isinstance(crop, CornerCrop) else (0.5, 0.5)
    corner_N2 = np.rint((sizes_N2 - side_N1) * at)
    return np.concatenate([corner_N2, side_N1, side_N1], axis=1).astype(np.int64)


def _flip(flip: Flip, numbers: _Numbers) -> dict[str, NDArray[Any]]:
    return {"flip_N": numbers.happens(flip, "flip")}


def _rotate(rotate: Rotate, numbers: _Numbers) -> dict[str, NDArray[Any]]:
    happens, u = numbers("rotate", 2).T
    quarters_N = 1 + (3 * u).astype(np.int64)
    return {"quarters_N": np.where(happens < rotate.p, quarters_N, 0)}


def _jitter(jitter: Jitter, numbers: _Numbers) -> dict[str, NDArray[Any]]:
    happens_N = numbers.happens(jitter, "jitter")
    order_N4 = numbers("jitter/order", 4).argsort(axis=1, kind="stable")
    strengths = (jitter.brightness, jitter.contrast, jitter.saturation)
    ranges = [(max(0.0, 1 - s), 1 + s) for s in strengths] + [(-jitter.hue, jitter.hue)]
    low, high = np.array(ranges).T
    factors_N4 = _scale_to((low, high), numbers("jitter/factors", 4))
    happens_N1 = happens_N[:, None]
    return {
        "jitter_N": happens_N,
        "order_N4": np.where(happens_N1, order_N4, np.arange(4)),
        "factors_N4": np.where(happens_N1, factors_N4, _SAME).astype(np.float32),
    }


def _channel_jitter(jitter: ChannelJitter, numbers: _Numbers) -> dict[str, NDArray[Any]]:
    happens_N1 = numbers.happens(jitter, "channels")[:, None]
    u_3NC = np.moveaxis(
        numbers("channels/factors", 3 * numbers.channels).reshape(-1, 3, numbers.channels), 1, 0
    )
    ranges = {"gain_NC": jitter.gain, "gamma_NC": jitter.gamma, "offset_NC": jitter.offset}
    return {
        name: np.where(happens_N1, _scale_to(bounds, u_NC), float(name != "offset_NC")).astype(
            np.float32
        )
        for (name, bounds), u_NC in zip(ranges.items(), u_3NC, strict=True)
    }


def _band_drop(drop: BandDrop, numbers: _Numbers) -> dict[str, NDArray[Any]]:
    happens_N1 = numbers.happens(drop, "bands")[:, None]
    u_NC = numbers("bands/each", numbers.channels)
    dropped_NC = happens_N1 & (u_NC < drop.share) & (u_NC < u_NC.max(axis=1, keepdims=True))
    return {"keep_NC": ~dropped_NC}


def _gray(gray: Gray, numbers: _Numbers) -> dict[str, NDArray[Any]]:
    return {"gray_N": numbers.happens(gray, "gray")}


def _solarise(solarise: Solarise, numbers: _Numbers) -> dict[str, NDArray[Any]]:
    return {"solarise_N": numbers.happens(solarise, "solarise")}


def _blur(blur: Blur, numbers: _Numbers) -> dict[str, NDArray[Any]]:
    return {"sigma_N": _sigma(blur, "blur", numbers)}


def _noise(noise: Noise, numbers: _Numbers) -> dict[str, NDArray[Any]]:
    return {"noise_N": _sigma(noise, "noise", numbers)}


def _sigma(operation: Blur | Noise, purpose: str, numbers: _Numbers) -> NDArray[np.float32]:
    happens, u = numbers(purpose, 2).T
    sigma_N = np.where(happens < operation.p, _scale_to(operation.sigma, u), 0)
    return sigma_N.astype(np.float32)


def _sobel(sobel: Sobel, numbers: _Numbers) -> dict[str, NDArray[Any]]:
    return {"sobel_N": numbers.happens(sobel, "sobel")}


def _cutout(cutout: Cutout, numbers: _Numbers) -> dict[str, NDArray[Any]]:
    """Squares centred on any pixel of the view, clipped to the view."""
    size, (happens, u_side, u_row, u_column) = numbers.size, numbers("cutout", 4).T
    side_N1 = np.rint(_scale_to(cutout.side, u_side) * size)[:, None]
    center_N2 = np.floor(np.stack([u_row, u_column], axis=1) * size)
    first_N2 = center_N2 - side_N1 // 2
    low_N2, high_N2 = first_N2.clip(0, size), (first_N2 + side_N1).clip(0, size)
    box_N4 = np.concatenate([low_N2, high_N2 - low_N2], axis=1).astype(np.int64)
    return {"cutout_N4": np.where((happens < cutout.p)[:, None], box_N4, 0)}


def _scale_to(bounds: tuple[Any, Any], u: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = bounds
    between: NDArray[np.float64] = low + (high - low) * u
    return between


_DRAW: dict[type, tuple[Callable[[Any, _Numbers], dict[str, NDArray[Any]]], tuple[str, ...]]] = {
    Flip: (_flip, ("flip",)),
    Rotate: (_rotate, ("rotate",)),
    Jitter: (_jitter, ("jitter", "jitter/order", "jitter/factors")),
    ChannelJitter: (_channel_jitter, ("channels",)),
    BandDrop: (_band_drop, ("bands", "bands/each")),
    Gray: (_gray, ("gray",)),
    Solarise: (_solarise, ("solarise",)),
    Blur: (_blur, ("blur",)),
    Noise: (_noise, ("noise",)),
    Sobel: (_sobel, ("sobel",)),
    Cutout: (_cutout, ("cutout",)),
}
"""The function that draws an operation, and its purposes with up to four numbers per image."""
