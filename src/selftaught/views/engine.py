"""From pixels to views: on a CPU in the calling thread, for a GPU in two parts.

On a CPU the fused kernel makes the views that it supports, and PyTorch the rest. For a GPU, pixels
are copied from pinned memory, once for all views of an image, and become views there.

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
"""One view of each image: the parameters, and the policy that they were drawn from."""

Finish = Callable[[], list[Tensor]]
"""Returns the requested views, (N, C, S, S) float32 each, on their device."""


class Buffers:
    """Memory for views, reused once nothing holds it; thread-safe.

    Reuse is faster: the system clears each page of fresh memory at its first use.
    """

    def __init__(self) -> None:
        self._free: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """A float32 tensor with undefined content.

        It wraps an array that lives as long as anything holds the memory, including other tensors
        and autograd's graph. When the array is deleted, the buffer is free.
        """
        free = self._free[shape]
        try:
            buffer = free.pop()
        except IndexError:
            buffer = torch.empty(shape)
        array = buffer.numpy()
        weakref.finalize(array, free.append, buffer).atexit = False
        return torch.from_numpy(array)


def make_views(
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
        params: Their parameters.
        policy: The policy of these parameters.
        intensity: Range of the raw values; mean and standard deviation of each channel.
        buffers: Memory for the kernel; None: it allocates fresh memory.

    Raises:
        ConfigError: The intensity does not have one mean, or one per channel.
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
        device: Device of the views.
        compiled: Whether torch compiles the operations on a GPU.
    """

    def __init__(
        self, intensity: Intensity, device: torch.device, *, compiled: bool = False
    ) -> None:
        self.intensity, self.device, self.compiled = intensity, device, compiled
        self.buffers = Buffers()

    def begin(self, pixels: Sequence[Raw], wanted: Sequence[Wanted]) -> Finish:
        """Do a thread's work ahead of time; calling the result does the rest.

        On a CPU this makes the views. For a GPU, which is busy with a step, it packs the pixels.

        Args:
            pixels: The pixels for each view, or one for all views.
            wanted: The requested views.

        Raises:
            ConfigError: The intensity does not have one mean, or one per channel.
        """
        if self.device.type != "cpu":
            packed = [_PackedPixels.of(raw, pinned=self.device.type == "cuda") for raw in pixels]
            return lambda: self.finish(packed, wanted)
        views = [
            make_views(raw, params, policy, self.intensity, buffers=self.buffers)
            for raw, (params, policy) in zip(_one_per_view(pixels, wanted), wanted, strict=True)
        ]
        return lambda: views

    def finish(self, packed: "Sequence[_PackedPixels]", wanted: Sequence[Wanted]) -> list[Tensor]:
        """Copy the pixels to the device and make the views there."""
        from selftaught.views import tensors

        pixels = [one.on(self.device) for one in packed]
        return [
            tensors.apply_policy(images, params, policy, self.intensity, compiled=self.compiled)
            for images, (params, policy) in zip(_one_per_view(pixels, wanted), wanted, strict=True)
        ]


def _one_per_view(pixels: Sequence[T], wanted: Sequence[Wanted]) -> Sequence[T]:
    return pixels if len(pixels) > 1 else [pixels[0]] * len(wanted)


@dataclass(frozen=True)
class _PackedPixels:
    """Pixels of some images in one tensor, ready to be copied to a device."""

    flat: Tensor
    shapes: list[tuple[int, int, int]]

    @classmethod
    def of(cls, raw: Raw, *, pinned: bool) -> "_PackedPixels":
        """A copy, in memory that a GPU can read directly if `pinned`.

        torch reuses freed pinned memory, but only after the copies from it have finished. So no
        image is overwritten during its copy.
        """
        rows = [image.reshape(-1) for image in raw.images()]
        dtype = getattr(torch, raw.flat.dtype.name)
        flat = torch.empty(sum(map(len, rows)), dtype=dtype, pin_memory=pinned)
        np.concatenate(rows, out=flat.numpy())
        return cls(flat, [(height, width, raw.channels) for height, width in raw.sizes_N2.tolist()])

    def on(self, device: torch.device) -> Tensor | list[Tensor]:
        """(N, H, W, C) or N tensors (H, W, C); the copy may still be running on return."""
        flat = self.flat.to(device, non_blocking=True)
        if len(set(self.shapes)) == 1:
            return flat.view(-1, *self.shapes[0])
        parts = torch.split(flat, [math.prod(shape) for shape in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]
