"""From pixels and parameters to one batch of views in compiled code, on a CPU.

Makes the same views as `tensors.apply_policy` for policies in the canonical order, many times as
fast (see `views.fused`). Any number of threads can call it at once, each with its own part of a
batch; it does not hold the global interpreter lock.

Shapes:  N images; C channels; S side of a view. A box is top, left, height, width in pixels.
"""

import contextlib
import sys
import threading
import time
from typing import Any, TypeVar

import numpy as np
import torch
from numba.core.event import Listener, install_listener
from numpy.typing import NDArray
from torch import Tensor

from selftaught.views.fused.compiled import call
from selftaught.views.fused.view import DrawnParams, Pixels, Setting, make, scratch_for
from selftaught.views.policy import (
    FUSED,
    Blur,
    Flip,
    Gray,
    Intensity,
    Jitter,
    Noise,
    Policy,
    check_channels,
)
from selftaught.views.raw import Raw
from selftaught.views.sample import ViewParams

_T = TypeVar("_T")


def fuses(policy: Policy) -> bool:
    """Whether `apply_compiled` supports a policy: any of `policy.FUSED`, in that order.

    The place of the mirror does not matter: both backends apply it with the box.
    """
    kinds = [type(operation) for operation in policy.operations if not isinstance(operation, Flip)]
    return kinds == [kind for kind in FUSED if kind in kinds]


def apply_compiled(
    raw: Raw,
    params: ViewParams,
    policy: Policy,
    intensity: Intensity,
    *,
    out: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Make one view of each image: (N, C, S, S), like `tensors.apply_policy`.

    Compiles on the first use of each pixel type, with a message on stderr; the code is cached on
    disk if possible. Pixels that are not finite give undefined values in their own view.

    Args:
        raw: The images: uint8, uint16 or float32.
        params: Their parameters from `sample`.
        policy: The policy of these parameters; `fuses(policy)` must hold.
        intensity: Range of the raw values; mean and standard deviation of each channel.
        out: Output: (N, C, S, S), contiguous, on the CPU.
        dtype: float32, or bfloat16: the same values, rounded once. Ignored if `out` is given.

    Raises:
        ConfigError: The intensity does not have one mean, or one per channel, or an operation does
            not suit this number of channels.
        ValueError: `out` has another shape or type, or is not contiguous, or `fuses(policy)` is
            false.
        IndexError: A box is outside its image or an image outside the pixels, or there is not one
            box per image.
    """
    check_channels(policy, raw.channels)
    if not fuses(policy):
        raise ValueError("the kernel does not support the policy's operations in this order")
    shape = (len(raw), raw.channels, params.size, params.size)
    out = torch.empty(shape, dtype=dtype) if out is None else out
    if out.shape != shape or not out.is_contiguous() or out.dtype not in _TYPES:
        raise ValueError(f"out must be {shape}, contiguous, float32 or bfloat16")
    pixels = _pixels(raw, params)
    setting = _setting(raw, params, policy, intensity)
    scratch = scratch_for(pixels, setting, out.dtype is torch.bfloat16)
    _run(pixels, _drawn_params(params, policy), setting, scratch, *_output_arrays(out))
    return out


_TYPES = (torch.float32, torch.bfloat16)


def _output_arrays(out: Tensor) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """The flat float32 and the flat uint16 array for the views; one of them is empty."""
    if out.dtype is torch.float32:
        return out.view(-1).numpy(), np.empty(0, np.uint16)
    return np.empty(0, np.float32), out.view(-1).view(torch.int16).numpy().view(np.uint16)


def _pixels(raw: Raw, params: ViewParams) -> Pixels:
    """The kernel's pixels, checked here because the kernel checks no index."""
    if not len(raw) == len(params) == len(raw.sizes_N2):
        raise IndexError(
            f"{len(raw)} images have {len(raw.sizes_N2)} sizes and {len(params)} boxes"
        )
    if raw.flat.ndim != 1 or not raw.flat.flags.c_contiguous:
        raise IndexError("the pixels are not one contiguous axis")
    height_N, width_N = raw.sizes_N2.T
    top_N, left_N, rows_N, columns_N = params.box_N4.T
    inside_N = (top_N >= 0) & (left_N >= 0) & (rows_N > 0) & (columns_N > 0)
    inside_N &= (top_N + rows_N <= height_N) & (left_N + columns_N <= width_N)
    end_N = raw.starts_N + height_N * width_N * raw.channels
    if not (inside_N & (raw.starts_N >= 0) & (end_N <= len(raw.flat))).all():
        raise IndexError("a box is outside its image, or an image outside the pixels")
    flat = np.asarray(raw.flat).view()
    flat.flags.writeable = False  # like a mapped file: for numba, writeable is another type
    contiguous = (raw.starts_N, width_N, params.box_N4, params.flip_N)
    return Pixels(flat, *map(np.ascontiguousarray, contiguous))


def _drawn_params(params: ViewParams, policy: Policy) -> DrawnParams:
    """The parameters for the kernel; operations that the policy lacks are switched off."""
    gray, noise = (_find(policy, kind) is not None for kind in (Gray, Noise))
    drawn: tuple[NDArray[Any], ...] = (
        params.draws_N,
        params.jitter_N,
        params.order_N4,
        params.factors_N4.reshape(-1),
        params.gray_N & gray,
        params.sigma_N,
        params.noise_N * np.float32(noise),
    )
    return DrawnParams(*map(np.ascontiguousarray, drawn))


def _setting(raw: Raw, params: ViewParams, policy: Policy, intensity: Intensity) -> Setting:
    channels, size = raw.channels, int(params.size)
    jitter, blur = _find(policy, Jitter), _find(policy, Blur)
    low, high = intensity.low, intensity.high
    mean_C, std_C = np.array(intensity.statistics(channels))
    if not policy.normalise:
        mean_C, std_C = np.zeros(channels), np.ones(channels)
    key0, key1 = params.noise_key
    return Setting(
        size=size,
        channels=channels,
        low=np.float32(low),
        gain=np.float32(1 / (high - low)),
        clipped=_clips(raw.flat.dtype, low, high),
        cubic=policy.interpolation == "bicubic",
        live_4=np.array([jitter is not None and n in jitter.live(channels) for n in range(4)]),
        reach=blur.width(size) // 2 if blur else 0,
        key0=key0,
        key1=key1,
        scale_C=(1 / std_C).astype(np.float32),
        shift_C=(-mean_C / std_C).astype(np.float32),
    )


def _clips(dtype: np.dtype[Any], low: float, high: float) -> bool:
    """Whether a raw value can lie outside the range, or its lower end is not 0."""
    return dtype.kind != "u" or low != 0 or high < np.iinfo(dtype).max


def _find(policy: Policy, kind: type[_T]) -> _T | None:
    return next((one for one in policy.operations if isinstance(one, kind)), None)


# --- compiling


_READY: set[np.dtype[Any]] = set()
_FIRST = threading.Lock()


def _run(pixels: Pixels, *rest: Any) -> None:
    """Call the kernel, in one thread at a time until it is compiled for this type of pixels."""
    dtype = pixels.flat.dtype
    if dtype in _READY:
        make(pixels, *rest)
        return
    announcer = _Announcer(dtype)
    with _FIRST, install_listener("numba:compile", announcer):
        call(make, pixels, *rest)
        _READY.add(dtype)
        if announcer.begun:
            _print_notice(f"Compiled in {announcer.ended - announcer.begun:.1f} s.")


class _Announcer(Listener):
    """Announces the compilation of the kernel; silent if it is loaded from the disk."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype, self.begun, self.ended = dtype, 0.0, 0.0

    def on_start(self, event: Any) -> None:
        """Announce the outermost function; numba reports every function."""
        if event.data["dispatcher"] is make:
            self.begun = time.perf_counter()
            _print_notice(
                f"Compiling the augmentations for {self.dtype} images (once per machine)."
            )

    def on_end(self, event: Any) -> None:
        """Note the time; the outermost function ends last."""
        self.ended = time.perf_counter()


def _print_notice(text: str) -> None:
    with contextlib.suppress(OSError):  # the reader has closed it
        print(text, file=sys.stderr, flush=True)
