"""Which numbers: the parameters of a batch of views, drawn at once, each keyed by its own draw.

An image's parameters depend on (seed, epoch, draw, view) and its size, never on the batch it is in
or on what else the policy does: each operation draws under a purpose of its own.

Shapes:  N images; A attempts at a box. A box is top, left, height, width in pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selftaught.rng import Key, uniform
from selftaught.views.policy import Blur, Box, CenterCrop, Flip, Gray, Jitter, Policy, RandomCrop

_ATTEMPTS = 10  # torchvision's RandomResizedCrop
_SAME = (1.0, 1.0, 1.0, 0.0)  # factors and hue shift that change nothing


@dataclass(frozen=True)
class _Numbers:
    """Numbers in [0, 1) for some purpose, n for each image, or for some of them: (N, n)."""

    seed: int
    epoch: int
    view: int
    draws_N: NDArray[np.int64]

    def __call__(
        self, purpose: str, n: int, rows: NDArray[Any] | slice = slice(None)
    ) -> NDArray[np.float64]:
        key = Key(self.seed, f"views/{purpose}", self.epoch, self.view)
        return uniform(key, self.draws_N[rows], n)


@dataclass(frozen=True)
class ViewParams:
    """How N views of size x size are made; identity values where an operation does not happen.

    Attributes:
        size: Height and width of the views in pixels.
        box_N4: int64: top, left, height, width of what is seen, in pixels of the stored image.
        flip_N: bool: mirrored left and right.
        jitter_N: bool: whether the colours are jittered.
        order_N4: int64: a permutation of 0 brightness, 1 contrast, 2 saturation, 3 hue; the first
            comes first.
        factors_N4: float32: factors of brightness, contrast and saturation; shift of hue in turns.
        gray_N: bool: whether the colours are dropped.
        sigma_N: float32: of the blur, in pixels of the view; 0: none.
    """

    size: int
    box_N4: NDArray[np.int64]
    flip_N: NDArray[np.bool_]
    jitter_N: NDArray[np.bool_]
    order_N4: NDArray[np.int64]
    factors_N4: NDArray[np.float32]
    gray_N: NDArray[np.bool_]
    sigma_N: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.box_N4)

    def __getitem__(self, part: slice) -> "ViewParams":
        """The same for a part of the batch."""
        arrays = {f.name: getattr(self, f.name)[part] for f in fields(self) if f.name != "size"}
        return ViewParams(size=self.size, **arrays)


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
) -> ViewParams:
    """Draw how one view of each image is made.

    Args:
        policy: What may be done; it names each operation once at most.
        size: Height and width of the views in pixels.
        sizes_N2: Height and width of each image in pixels.
        draws_N: Position of each image in the epoch's global order.
        seed: The run's seed.
        epoch: The epoch, from 0.
        view: Which of the views of an image, from 0.
        boxes_N4: What to cut from each image first; the policy's box is one inside it.
    """

    numbers = _Numbers(seed, epoch, view, draws_N)
    inside_N2 = sizes_N2 if boxes_N4 is None else boxes_N4[:, 2:]
    box_N4 = _boxes(policy.box, inside_N2, numbers)
    if boxes_N4 is not None:
        box_N4[:, :2] += boxes_N4[:, :2]
    arrays = _identity(len(draws_N))
    for operation in policy.operations:
        arrays |= _DRAW[type(operation)](operation, numbers)
    return ViewParams(size=size, box_N4=box_N4, **arrays)


def _identity(n: int) -> dict[str, NDArray[Any]]:
    return {
        "flip_N": np.zeros(n, bool),
        "jitter_N": np.zeros(n, bool),
        "order_N4": np.tile(np.arange(4), (n, 1)),
        "factors_N4": np.tile(np.array(_SAME, np.float32), (n, 1)),
        "gray_N": np.zeros(n, bool),
        "sigma_N": np.zeros(n, np.float32),
    }


def _boxes(box: Box, sizes_N2: NDArray[np.int64], numbers: _Numbers) -> NDArray[np.int64]:
    if isinstance(box, CenterCrop):
        return _center_boxes(box, sizes_N2)
    first_N14 = numbers("crop", 4)[:, None]
    box_N4, fits_N = _first_fit(box, sizes_N2, first_N14)
    if not fits_N.all():  # most fit at once: the other attempts are drawn for the rest only
        again_N = ~fits_N
        tries_NA4 = numbers("crop", 4 * _ATTEMPTS, again_N).reshape(-1, _ATTEMPTS, 4)
        box_N4[again_N], fits_again_N = _first_fit(box, sizes_N2[again_N], tries_NA4)
        fits_N[again_N] = fits_again_N
    box_N4[~fits_N] = _fallback_boxes(box, sizes_N2[~fits_N])
    return box_N4


def _first_fit(
    crop: RandomCrop, sizes_N2: NDArray[np.int64], uniform_NA4: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The first of A random boxes that lies inside the image, and whether there is one."""
    u_area, u_ratio, u_top, u_left = np.moveaxis(uniform_NA4, 2, 0)
    area = sizes_N2.prod(axis=1)[:, None] * _between(crop.scale, u_area)
    log_low, log_high = np.log(crop.ratio)
    ratio = np.exp(_between((log_low, log_high), u_ratio))
    h, w = np.rint(np.sqrt(area / ratio)), np.rint(np.sqrt(area * ratio))
    height, width = sizes_N2[:, :1], sizes_N2[:, 1:]
    fits_NA = (h > 0) & (h <= height) & (w > 0) & (w <= width)
    top, left = np.floor(u_top * (height - h + 1)), np.floor(u_left * (width - w + 1))
    boxes_NA4 = np.stack([top, left, h, w], axis=2)
    box_N4 = boxes_NA4[np.arange(len(sizes_N2)), fits_NA.argmax(axis=1)]
    return box_N4.astype(np.int64), fits_NA.any(axis=1)


def _fallback_boxes(crop: RandomCrop, sizes_N2: NDArray[np.int64]) -> NDArray[np.int64]:
    """The largest central box whose aspect ratio is allowed."""
    height, width = sizes_N2.T
    low, high = min(crop.ratio), max(crop.ratio)
    h = np.where(width / height < low, np.rint(width / low), height).astype(np.int64)
    w = np.where(width / height > high, np.rint(height * high), width).astype(np.int64)
    return np.stack([(height - h) // 2, (width - w) // 2, h, w], axis=1)


def _center_boxes(crop: CenterCrop, sizes_N2: NDArray[np.int64]) -> NDArray[np.int64]:
    side_N1 = np.maximum(1, np.rint(crop.fraction * sizes_N2.min(axis=1, keepdims=True)))
    corner_N2 = np.rint((sizes_N2 - side_N1) / 2)
    return np.concatenate([corner_N2, side_N1, side_N1], axis=1).astype(np.int64)


def _flip(flip: Flip, numbers: _Numbers) -> dict[str, NDArray[Any]]:
    return {"flip_N": numbers("flip", 1)[:, 0] < flip.p}


def _jitter(jitter: Jitter, numbers: _Numbers) -> dict[str, NDArray[Any]]:
    happens_N = numbers("jitter", 1)[:, 0] < jitter.p
    order_N4 = numbers("jitter/order", 4).argsort(axis=1, kind="stable")
    strengths = (jitter.brightness, jitter.contrast, jitter.saturation)
    ranges = [(max(0.0, 1 - s), 1 + s) for s in strengths] + [(-jitter.hue, jitter.hue)]
    low, high = np.array(ranges).T
    factors_N4 = _between((low, high), numbers("jitter/factors", 4))
    happens_N1 = happens_N[:, None]
    return {
        "jitter_N": happens_N,
        "order_N4": np.where(happens_N1, order_N4, np.arange(4)),
        "factors_N4": np.where(happens_N1, factors_N4, _SAME).astype(np.float32),
    }


def _gray(gray: Gray, numbers: _Numbers) -> dict[str, NDArray[Any]]:
    return {"gray_N": numbers("gray", 1)[:, 0] < gray.p}


def _blur(blur: Blur, numbers: _Numbers) -> dict[str, NDArray[Any]]:
    happens, u = numbers("blur", 2).T
    return {"sigma_N": np.where(happens < blur.p, _between(blur.sigma, u), 0).astype(np.float32)}


def _between(bounds: tuple[Any, Any], u: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = bounds
    between: NDArray[np.float64] = low + (high - low) * u
    return between


_DRAW: dict[type, Callable[[Any, _Numbers], dict[str, NDArray[Any]]]] = {
    Flip: _flip,
    Jitter: _jitter,
    Gray: _gray,
    Blur: _blur,
}
