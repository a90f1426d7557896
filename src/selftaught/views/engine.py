"""From pixels to views: on a CPU in the thread that asks, for a GPU in two parts.

On a CPU the fused kernel makes what it can, and PyTorch the rest. To a GPU pixels travel, from
pinned memory and once for all views of an image, and become views there.

Shapes:  N images; H, W height and width, C channels; S side of a view.
"""

import math
import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from selftaught.views.policy import Intensity, Policy
from selftaught.views.raw import Raw
from selftaught.views.sample import ViewParams

T = TypeVar("T")

Wanted = tuple[ViewParams, Policy]
"""One view of each image: the numbers, and the policy that they were drawn from."""

Finish = Callable[[], list[Tensor]]
"""Hands over the views that were wanted, (N, C, S, S) float32 each, on their device."""


class Buffers:
    """Memory for views, handed out again once nothing holds it; asked by several threads.

    Fresh memory comes from the system page by page, and each is cleared at its first touch.
    """

    def __init__(self) -> None:
        self._free: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """A float32 tensor of any content.

        It is made from an array, which lives as long as anything holds the memory: other tensors
        and autograd's graph too. When the array goes, the buffer is free.
        """
        free = self._free[shape]
        try:
            buffer = free.pop()
        except IndexError:
            buffer = torch.empty(shape)
        array = buffer.numpy()
        weakref.finalize(array, free.append, buffer).atexit = False
        return torch.from_numpy(array)


def make(
    raw: Raw,
    params: ViewParams,
    policy: Policy,
    intensity: Intensity,
    *,
    buffers: Buffers | None = None,
) -> Tensor:
    """One view of each image, (N, C, S, S) float32, on the CPU.

    Args:
        raw: The images.
        params: What was drawn for them.
        policy: What it was drawn from.
        intensity: Range of the raw values; mean and standard deviation of each channel.
        buffers: Where the kernel may take memory from; None: it takes fresh memory.

    Raises:
        ConfigError: The intensity has not one mean, or one a channel.
    """
    from selftaught.views import kernels, tensors

    if not kernels.fuses(policy):
        return tensors.apply_policy(raw.tensors(), params, policy, intensity)
    shape = (len(raw), raw.channels, params.size, params.size)
    out = buffers.take(shape) if buffers else None
    return kernels.apply_compiled(raw, params, policy, intensity, out=out)


class Engine:
    """Makes views for a device, partly in threads.

    Args:
        intensity: Range of the raw values; mean and standard deviation of each channel.
        device: Where the views are wanted.
        compiled: Whether torch compiles what a GPU does.
    """

    def __init__(
        self, intensity: Intensity, device: torch.device, *, compiled: bool = False
    ) -> None:
        self.intensity, self.device, self.compiled = intensity, device, compiled
        self.buffers = Buffers()

    def begin(self, pixels: Sequence[Raw], wanted: Sequence[Wanted]) -> Finish:
        """What a thread does ahead of time; calling the result does the rest.

        On a CPU views are made now. For a GPU, which is at the step, pixels are made ready.

        Args:
            pixels: Those of each view, or one for all of them.
            wanted: The views.

        Raises:
            ConfigError: The intensity has not one mean, or one a channel.
        """
        if self.device.type != "cpu":
            packed = [_Packed.of(raw, pinned=self.device.type == "cuda") for raw in pixels]
            return lambda: self.finish(packed, wanted)
        views = [
            make(raw, params, policy, self.intensity, buffers=self.buffers)
            for raw, (params, policy) in zip(_of_each(pixels, wanted), wanted, strict=True)
        ]
        return lambda: views

    def finish(self, packed: "Sequence[_Packed]", wanted: Sequence[Wanted]) -> list[Tensor]:
        """Pixels go to the device, and become views there."""
        from selftaught.views import tensors

        pixels = [one.on(self.device) for one in packed]
        return [
            tensors.apply_policy(images, params, policy, self.intensity, compiled=self.compiled)
            for images, (params, policy) in zip(_of_each(pixels, wanted), wanted, strict=True)
        ]


def _of_each(pixels: Sequence[T], wanted: Sequence[Wanted]) -> Sequence[T]:
    return pixels if len(pixels) > 1 else [pixels[0]] * len(wanted)


@dataclass(frozen=True)
class _Packed:
    """Pixels of some images, one after the other, as they travel."""

    flat: Tensor
    shapes: list[tuple[int, int, int]]

    @classmethod
    def of(cls, raw: Raw, *, pinned: bool) -> "_Packed":
        """A copy in memory that a GPU can read by itself.

        torch keeps pinned memory that was freed and hands it out again, but not before the copies
        from it are over. So buffers are reused, and no image is overwritten on its way.
        """
        rows = [image.reshape(-1) for image in raw.images()]
        dtype = getattr(torch, raw.flat.dtype.name)
        flat = torch.empty(sum(map(len, rows)), dtype=dtype, pin_memory=pinned)
        np.concatenate(rows, out=flat.numpy())
        return cls(flat, [(height, width, raw.channels) for height, width in raw.sizes_N2.tolist()])

    def on(self, device: torch.device) -> Tensor | list[Tensor]:
        """(N, H, W, C) or N tensors (H, W, C), on their way while this returns."""
        flat = self.flat.to(device, non_blocking=True)
        if len(set(self.shapes)) == 1:
            return flat.view(-1, *self.shapes[0])
        parts = torch.split(flat, [math.prod(shape) for shape in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]
