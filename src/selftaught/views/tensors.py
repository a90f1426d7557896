"""From pixels and parameters to one float batch of views, in batched PyTorch on any device.

`apply_policy` applies a whole policy, each operation (`views/operations.py`) to the images chosen
for it. `apply_everywhere` is the part that can be compiled: it applies all operations to all images
and selects the right results, so that shapes do not change from batch to batch.

Shapes:  N images, n some of them; C channels; H, W height and width; S side of a view; B side of a
         box; F pixels of an image along one axis. A box is top, left, height, width in pixels.
         Raw images are (H, W, C), views (C, S, S).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from selftaught.views import operations as op
from selftaught.views.policy import (
    BandDrop,
    Blur,
    ChannelJitter,
    Cutout,
    Flip,
    Gray,
    Intensity,
    Jitter,
    Noise,
    Operation,
    Policy,
    Rotate,
    Sobel,
    Solarise,
)
from selftaught.views.sample import ViewParams

_WHOLE = {"cpu": 48 * 48, "cuda": 1 << 24}  # up to this many pixels, products beat single crops
_CHUNK = {"cpu": 1 << 19, "cuda": 1 << 28}  # numbers processed at once: a core's cache, a GPU

Numbers = Mapping[str, Any]
"""The fields of a ViewParams, as NumPy arrays or as tensors on a device."""


def apply_policy(
    images: Tensor | Sequence[Tensor],
    params: ViewParams,
    policy: Policy,
    intensity: Intensity,
    *,
    compiled: bool = False,
) -> Tensor:
    """Make one view of each image: (N, C, S, S) float32 on the images' device.

    Raw values between the intensity's low and high become 0 to 1, the rest is clipped; then come
    the box, resized with antialiasing, and the policy's operations in their order. Mirroring is
    part of the box: it comes first, wherever the policy lists it. The host never waits for the
    device: all choices that depend on the parameters are made on the host.

    Args:
        images: (N, H, W, C) or N tensors (H, W, C) of uint8, uint16 or float32; at least one.
        params: Their parameters from `sample`.
        policy: The policy of these parameters.
        intensity: Range of the raw values; mean and standard deviation of each channel.
        compiled: Use `apply_everywhere`, compiled by torch. Worthwhile on a GPU.

    Raises:
        ConfigError: The intensity does not have one mean, or one per channel.
    """
    device = images[0].device
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        x = _crops(images, params, policy, intensity)
        if compiled:
            return _compiled_operations()(x, policy, on_device(params, device), intensity)
        return _operate(x, policy, vars(params), intensity, _change_some)


def on_device(params: ViewParams, device: torch.device) -> dict[str, Tensor]:
    """The parameters as tensors; the copy to a GPU may still be running on return."""
    fields = {name: value for name, value in vars(params).items() if name != "size"}
    return {name: _device_tensor(value, device) for name, value in fields.items()}


def apply_everywhere(
    x_NCSS: Tensor, policy: Policy, numbers: Numbers, intensity: Intensity
) -> Tensor:
    """Apply the policy's operations in order, after the box and the mirror, and `normalise`.

    Computes every operation for every image and selects by the parameters (from `on_device`). For
    torch.compile.
    """
    return _operate(x_NCSS, policy, numbers, intensity, _change_all)


@cache
def _compiled_operations() -> Callable[..., Tensor]:
    compiled: Callable[..., Tensor] = torch.compile(apply_everywhere, dynamic=False)
    return compiled


def _device_tensor(values: Any, device: torch.device) -> Tensor:
    return torch.tensor(values).to(device, non_blocking=True)


def to_unit(raw: Tensor, intensity: Intensity) -> Tensor:
    """Raw values as float32: the intensity's low becomes 0, its high 1, the rest is clipped."""
    low, high = intensity.low, intensity.high
    x = raw.to(torch.float32)
    return ((x - low) if low else x).mul(1 / (high - low)).clamp_(0, 1)


def standardise(x_NCHW: Tensor, intensity: Intensity) -> Tensor:
    """(x - mean) / std for each channel.

    Raises:
        ConfigError: The intensity does not have one mean, or one per channel.
    """
    mean_C11, std_C11 = _statistics(x_NCHW, intensity)
    return (x_NCHW - mean_C11).div_(std_C11)


def _statistics(x_NCHW: Tensor, intensity: Intensity) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, (C, 1, 1)."""
    pair = torch.tensor(intensity.statistics(x_NCHW.shape[1]), dtype=x_NCHW.dtype)
    mean_C11, std_C11 = pair[:, :, None, None].to(x_NCHW.device, non_blocking=True)
    return mean_C11, std_C11


def resize(image_HWC: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Antialiased bilinear resize of a uint8, uint16 or float32 image; integers are rounded."""
    planes = (
        torch.from_numpy(image_HWC[..., c].astype(np.float32)) for c in range(image_HWC.shape[2])
    )
    resized = [_interpolate(plane[None, None], height, width)[0, 0].numpy() for plane in planes]
    out_HWC = np.stack(resized, axis=2)
    if image_HWC.dtype.kind == "u":
        out_HWC = np.rint(out_HWC).clip(0, np.iinfo(image_HWC.dtype).max)
    return out_HWC.astype(image_HWC.dtype)


# --- box, resize, mirror


def resized_crop(
    x_NCHW: Tensor,
    box_N4: Tensor,
    size: int,
    flip_N: Tensor | None = None,
    interpolation: str = "bilinear",
) -> Tensor:
    """Each image's box as size x size pixels, antialiased; pixels outside the box have no effect.

    Two products with banded matrices, W_rows x W_columns^T; mirrored views have reversed columns.
    Bicubic results are clipped to [0, 1].
    """
    top, left, height, width = box_N4.to(torch.float32).T
    kernel = _KERNELS[interpolation]
    rows_NSH = resampling(top, height, size, x_NCHW.shape[2], kernel)
    columns_NSW = resampling(left, width, size, x_NCHW.shape[3], kernel, flip_N)
    out = rows_NSH[:, None] @ x_NCHW @ columns_NSW[:, None].mT
    return out.clamp_(0, 1) if interpolation == "bicubic" else out


def _triangle(distance: Tensor) -> Tensor:
    return distance.neg_().add_(1).clamp_(min=0)


def _cubic(distance: Tensor) -> Tensor:
    """Keys 1981 with a = -1/2, as in Pillow: one polynomial up to 1, another from 1 to 2."""
    d = distance.clamp_(max=2)
    near = d.mul(1.5).sub_(2.5).mul_(d).mul_(d).add_(1)
    far = d.mul(-0.5).add_(2.5).mul_(d).sub_(4).mul_(d).add_(2)
    return torch.where(d < 1, near, far)


_KERNELS = {"bilinear": _triangle, "bicubic": _cubic}


def resampling(
    start_N: Tensor,
    length_N: Tensor,
    size: int,
    full: int,
    kernel: Callable[[Tensor], Tensor] = _triangle,
    flip_N: Tensor | None = None,
) -> Tensor:
    """Weights (N, size, full) that resize pixels start .. start + length - 1 to `size` pixels.

    The kernel's values at distances in pixels of the coarser grid, normalised to a sum of 1, which
    gives antialiasing. If `flip_N` is set, the last pixel comes first.
    """
    center_NS = torch.arange(size, device=start_N.device).add(0.5).expand(len(start_N), -1)
    if flip_N is not None:
        center_NS = torch.where(flip_N[:, None], size - center_NS, center_NS)
    scale_N11 = (length_N / size)[:, None, None]
    pixel_N1F = torch.arange(full, device=start_N.device) - start_N[:, None, None]
    inside_N1F = (pixel_N1F >= 0) & (pixel_N1F < length_N[:, None, None])
    distance_NSF = (pixel_N1F + 0.5 - scale_N11 * center_NS[:, :, None]).abs_()
    weights_NSF = kernel(distance_NSF.div_(scale_N11.clamp(min=1))).mul_(inside_N1F)
    return weights_NSF.div_(weights_NSF.sum(dim=2, keepdim=True))


def _crops(
    images: Tensor | Sequence[Tensor], params: ViewParams, policy: Policy, intensity: Intensity
) -> Tensor:
    pixels = images[0].shape[0] * images[0].shape[1]
    if isinstance(images, Tensor) and pixels <= _limit(_WHOLE, images.device):
        return _batched_crops(images, params, policy, intensity)
    return torch.stack(
        [
            _one_crop(image, box, params.size, mirrored, policy, intensity)
            for image, box, mirrored in zip(
                images, params.box_N4.tolist(), params.flip_N.tolist(), strict=True
            )
        ]
    )


def _batched_crops(
    images_NHWC: Tensor, params: ViewParams, policy: Policy, intensity: Intensity
) -> Tensor:
    device = images_NHWC.device
    box_N4, flip_N = _device_tensor(params.box_N4, device), _device_tensor(params.flip_N, device)
    out = []
    for part in _chunks(len(images_NHWC), images_NHWC):
        x_NHWC = to_unit(images_NHWC[part], intensity)
        x_NCHW = x_NHWC.permute(0, 3, 1, 2).contiguous()
        box_n4, flip_n = box_N4[part], flip_N[part]
        out.append(resized_crop(x_NCHW, box_n4, params.size, flip_n, policy.interpolation))
    return torch.cat(out)


def _chunks(count: int, x: Tensor) -> list[slice]:
    """Slices of `count` things as large as an element of x, of the size that is fastest."""
    step = max(1, _limit(_CHUNK, x.device) // x[0].numel())
    return [slice(start, start + step) for start in range(0, count, step)]


def _limit(limits: dict[str, int], device: torch.device) -> int:
    return limits["cpu" if device.type == "cpu" else "cuda"]


def _one_crop(
    image_HWC: Tensor,
    box: list[int],
    size: int,
    mirrored: bool,
    policy: Policy,
    intensity: Intensity,
) -> Tensor:
    top, left, height, width = box
    raw_BBC = image_HWC[top : top + height, left : left + width]
    x_1CBB = to_unit(raw_BBC, intensity).permute(2, 0, 1)[None]
    x_CSS = _interpolate(x_1CBB.contiguous(), size, size, policy.interpolation)[0]
    return x_CSS.flip(2) if mirrored else x_CSS


def _interpolate(x_NCHW: Tensor, height: int, width: int, mode: str = "bilinear") -> Tensor:
    if x_NCHW.shape[2:] == (height, width):
        return x_NCHW
    x = F.interpolate(x_NCHW, (height, width), mode=mode, antialias=True, align_corners=False)
    return x.clamp_(0, 1) if mode == "bicubic" else x


# --- a policy's operations, each for the images chosen for it


def _operate(
    x: Tensor,
    policy: Policy,
    numbers: Numbers,
    intensity: Intensity,
    choose: Callable[..., Tensor],
) -> Tensor:
    for operation in policy.operations:
        for change in _changes(operation, numbers, x, intensity):
            x = choose(x, *change)
    return standardise(x, intensity) if policy.normalise else x


def _change_some(
    x: Tensor, happens_N: NDArray[np.bool_], change: Callable[..., Tensor], *numbers: NDArray[Any]
) -> Tensor:
    """Replace x by change(x, *numbers) where it happens; the other images are not computed."""
    rows = np.flatnonzero(happens_N)
    for part in _chunks(len(rows), x):
        index_n = _device_tensor(rows[part], x.device)
        numbers_n = [_device_tensor(values_N[rows[part]], x.device) for values_N in numbers]
        x.index_copy_(0, index_n, change(x[index_n], *numbers_n))
    return x


def _change_all(
    x: Tensor, happens_N: Tensor, change: Callable[..., Tensor], *numbers: Tensor
) -> Tensor:
    """Replace x by change(x, *numbers) where it happens; it is computed for all images."""
    return torch.where(happens_N[:, None, None, None], change(x, *numbers), x)


def _changes(
    operation: Operation, numbers: Numbers, x: Tensor, intensity: Intensity
) -> Iterator[tuple[Any, ...]]:
    """The steps of an operation: the images it happens to, the function, and its parameters."""
    match operation:
        case Flip():  # applied with the box
            return
        case Rotate():
            for quarters in (1, 2, 3):
                turn = partial(torch.rot90, k=quarters, dims=(2, 3))
                yield numbers["quarters_N"] == quarters, turn
        case Jitter():
            yield from _jitter(operation, numbers, x.shape[1])
        case ChannelJitter():
            gain, gamma = numbers["gain_NC"], numbers["gamma_NC"]
            offset = numbers["offset_NC"]
            changed_NC = (gain != 1) | (gamma != 1) | (offset != 0)
            yield changed_NC.any(1), op.channel_jitter, gain, gamma, offset
        case BandDrop():
            yield ~numbers["keep_NC"].all(1), op.band_drop, numbers["keep_NC"]
        case Gray():
            yield numbers["gray_N"], op.grayscale
        case Solarise():
            yield numbers["solarise_N"], partial(op.solarise, threshold=operation.threshold)
        case Blur():
            yield from _blur(numbers["sigma_N"], operation.width(x.shape[2]))
        case Noise():
            change = partial(op.noise, key=numbers["noise_key"])
            yield numbers["noise_N"] > 0, change, numbers["noise_N"], numbers["draws_N"]
        case Sobel():
            yield numbers["sobel_N"], op.sobel
        case Cutout():
            box_N4 = numbers["cutout_N4"]
            fill = partial(op.cutout, fill_C11=_statistics(x, intensity)[0])
            yield box_N4[:, 2] > 0, fill, box_N4


_JITTER = (op.brightness, op.contrast, op.saturation, op.hue)


def _jitter(jitter: Jitter, numbers: Numbers, channels: int) -> Iterator[tuple[Any, ...]]:
    """The steps of the colour jitter; saturation and hue need three channels.

    On the host, images with the same order are processed together. On a device, each of the four
    places in the order has one step per operation, for the images with that operation there.
    """
    live = jitter.live(channels)
    if not live:
        return
    jitter_N, order_N4, factors_N4 = (
        numbers[name] for name in ("jitter_N", "order_N4", "factors_N4")
    )
    if not isinstance(order_N4, Tensor):
        order_NL = order_N4[np.isin(order_N4, live)].reshape(len(order_N4), len(live))
        for order_L in np.unique(order_NL, axis=0):
            happens_N = jitter_N & (order_NL == order_L).all(1)
            yield happens_N, partial(_jitter_in_order, order=order_L.tolist()), factors_N4
        return
    for place, k in product(range(4), live):
        yield jitter_N & (order_N4[:, place] == k), _JITTER[k], factors_N4[:, k]


def _jitter_in_order(x: Tensor, factors_N4: Tensor, order: list[int]) -> Tensor:
    for k in order:
        x = _JITTER[k](x, factors_N4[:, k])
    return x


def _blur(sigma_N: Any, width: int) -> Iterator[tuple[Any, ...]]:
    """The steps of the blur; on the host, images that need the same width are together."""
    if isinstance(sigma_N, Tensor):
        yield sigma_N > 0, partial(op.blur, width=width), sigma_N
        return
    width_N = np.array([op.needed_width(sigma, width) for sigma in sigma_N.tolist()])
    for one in range(3, width + 1, 2):
        yield width_N == one, partial(op.blur, width=one), sigma_N
