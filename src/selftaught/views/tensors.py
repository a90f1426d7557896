"""From pixels and parameters to one float batch of views, in batched PyTorch on any device.

Definitions are torchvision's, on floats in [0, 1]. `apply` does a whole policy; the single
operations take one parameter an image and return new tensors.

Shapes:  N images; C channels; H, W height and width; S side of a view; B side of a box.
         A box is top, left, height, width in pixels. Raw images are (H, W, C), views (C, S, S).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from selftaught.errors import ConfigError
from selftaught.views.policy import Blur, Flip, Gray, Intensity, Jitter, Operation, Policy
from selftaught.views.sample import ViewParams

_LUMINANCE = (0.2989, 0.587, 0.114)  # torchvision's rounding of ITU-R BT.601
_WHOLE = {"cpu": 48 * 48, "cuda": 1 << 24}  # pixels up to which products beat cutting each box
_CHUNK = {"cpu": 1 << 19, "cuda": 1 << 28}  # numbers resampled at once: a core's cache, a GPU


def apply(
    images: Tensor | Sequence[Tensor], params: ViewParams, policy: Policy, intensity: Intensity
) -> Tensor:
    """Make one view of each image: (N, C, S, S) float32 on the images' device.

    Raw values between the intensity's low and high become 0 to 1, the rest is clipped; then come
    the box, resized with antialiasing, and the policy's operations in their order. Mirroring is
    done with the box wherever the policy names it, for it commutes with all other operations.

    Args:
        images: (N, H, W, C) or N tensors (H, W, C) of uint8, uint16 or float32; one at least.
        params: What `sample` drew for them.
        policy: What it drew from.
        intensity: Range of the raw values; mean and standard deviation of each channel.

    Raises:
        ConfigError: The intensity has not one mean, or one a channel.
    """
    device = images[0].device
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        x = _boxes(images, params, intensity)
        for operation in policy.operations:
            x = _operate(x, operation, params)
        return normalise(x, intensity) if policy.normalise else x


def to_unit(raw: Tensor, intensity: Intensity) -> Tensor:
    """Raw values as float32: the intensity's low is 0, its high is 1, the rest is clipped."""
    low, high = intensity.low, intensity.high
    x = raw.to(torch.float32)
    return ((x - low) if low else x).mul(1 / (high - low)).clamp_(0, 1)


def normalise(x_NCHW: Tensor, intensity: Intensity) -> Tensor:
    """(x - mean) / std for each channel.

    Raises:
        ConfigError: The intensity has not one mean, or one a channel.
    """
    channels, given = x_NCHW.shape[1], len(intensity.mean)
    if given not in (1, channels) or len(intensity.std) != given:
        raise ConfigError(
            f"the intensity has {given} means and {len(intensity.std)} standard deviations, "
            f"the images have {channels} channels",
            "give one of each a channel",
        )
    mean, std = (x_NCHW.new_tensor(v)[:, None, None] for v in (intensity.mean, intensity.std))
    return (x_NCHW - mean).div_(std)


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


def resized_crop(x_NCHW: Tensor, box_N4: Tensor, size: int, flip_N: Tensor | None = None) -> Tensor:
    """Each image's box as size x size pixels: antialiased bilinear that sees only the box.

    Two products with banded matrices, W_rows x W_columns^T; a mirrored view has its columns turned.
    """
    top, left, height, width = box_N4.to(torch.float32).T
    rows_NSH = resampling(top, height, size, x_NCHW.shape[2])
    columns_NSW = resampling(left, width, size, x_NCHW.shape[3], flip_N)
    return rows_NSH[:, None] @ x_NCHW @ columns_NSW[:, None].mT


def resampling(
    start_N: Tensor, length_N: Tensor, size: int, full: int, flip_N: Tensor | None = None
) -> Tensor:
    """Weights (N, size, full) that resize pixels start .. start + length - 1 to `size` pixels.

    The triangle filter of antialiased bilinear resizing, normalised to a sum of 1; where `flip_N`
    is set the last pixel comes first.
    """
    center_NS = torch.arange(size, device=start_N.device).add(0.5).expand(len(start_N), -1)
    if flip_N is not None:
        center_NS = torch.where(flip_N[:, None], size - center_NS, center_NS)
    scale_N11 = (length_N / size)[:, None, None]
    pixel_N1F = torch.arange(full, device=start_N.device) - start_N[:, None, None]
    inside_N1F = (pixel_N1F >= 0) & (pixel_N1F < length_N[:, None, None])
    distance_NSF = (pixel_N1F + 0.5 - scale_N11 * center_NS[:, :, None]).abs_()
    weights_NSF = distance_NSF.div_(-scale_N11.clamp(min=1)).add_(1).clamp_(min=0).mul_(inside_N1F)
    return weights_NSF.div_(weights_NSF.sum(dim=2, keepdim=True))


def flip(x_NCHW: Tensor, flip_N: Tensor) -> Tensor:
    """Left and right mirrored where asked."""
    return torch.where(flip_N[:, None, None, None], x_NCHW.flip(3), x_NCHW)


def _boxes(images: Tensor | Sequence[Tensor], params: ViewParams, intensity: Intensity) -> Tensor:
    pixels = images[0].shape[0] * images[0].shape[1]
    if isinstance(images, Tensor) and pixels <= _limit(_WHOLE, images.device):
        return _batched_boxes(images, params, intensity)
    return torch.stack(
        [
            _one_box(image, box, params.size, mirrored, intensity)
            for image, box, mirrored in zip(
                images, params.box_N4.tolist(), params.flip_N.tolist(), strict=True
            )
        ]
    )


def _batched_boxes(images_NHWC: Tensor, params: ViewParams, intensity: Intensity) -> Tensor:
    n, device = len(images_NHWC), images_NHWC.device
    step = max(1, _limit(_CHUNK, device) // images_NHWC[0].numel())
    box_N4 = torch.from_numpy(params.box_N4).to(device)
    flip_N = torch.from_numpy(params.flip_N).to(device)
    out = []
    for part in (slice(start, start + step) for start in range(0, n, step)):
        x_NHWC = to_unit(images_NHWC[part], intensity)
        x_NCHW = x_NHWC.permute(0, 3, 1, 2).contiguous()
        out.append(resized_crop(x_NCHW, box_N4[part], params.size, flip_N[part]))
    return torch.cat(out)


def _limit(limits: dict[str, int], device: torch.device) -> int:
    return limits["cpu" if device.type == "cpu" else "cuda"]


def _one_box(
    image_HWC: Tensor, box: list[int], size: int, mirrored: bool, intensity: Intensity
) -> Tensor:
    top, left, height, width = box
    raw_BBC = image_HWC[top : top + height, left : left + width]
    x_1CBB = to_unit(raw_BBC, intensity).permute(2, 0, 1)[None]
    x_CSS = _interpolate(x_1CBB.contiguous(), size, size)[0]
    return x_CSS.flip(2) if mirrored else x_CSS


def _interpolate(x_NCHW: Tensor, height: int, width: int) -> Tensor:
    if x_NCHW.shape[2:] == (height, width):
        return x_NCHW
    return F.interpolate(
        x_NCHW, (height, width), mode="bilinear", antialias=True, align_corners=False
    )


# --- colour


def brightness(x_NCHW: Tensor, factor_N: Tensor) -> Tensor:
    """Times the factor, clipped to [0, 1]."""
    return (x_NCHW * _column(factor_N)).clamp_(0, 1)


def contrast(x_NCHW: Tensor, factor_N: Tensor) -> Tensor:
    """Away from the image's mean, clipped to [0, 1].

    The mean is that of the luminance for 3 channels and that of all channels otherwise.
    """
    mean_NC = x_NCHW.mean(dim=(2, 3))
    three = x_NCHW.shape[1] == 3
    mean_N = mean_NC @ mean_NC.new_tensor(_LUMINANCE) if three else mean_NC.mean(dim=1)
    return _blend(x_NCHW, _column(mean_N), factor_N)


def saturation(x_NCHW: Tensor, factor_N: Tensor) -> Tensor:
    """Away from the luminance, clipped to [0, 1]. Three channels."""
    return _blend(x_NCHW, _luminance(x_NCHW), factor_N)


def hue(x_NCHW: Tensor, turns_N: Tensor) -> Tensor:
    """The hue of HSV shifted, in turns; saturation and value stay. Three channels in [0, 1].

    A channel is V - V S clip(2 - 6 d, 0, 1), where d is the distance in turns of the hue from the
    one where that channel is lowest: 1/2 for red, 5/6 for green, 1/6 for blue.
    """
    red, green, blue = _planes(x_NCHW)
    value = torch.maximum(red, green).maximum(blue)
    chroma = value - torch.minimum(red, green).minimum(blue)
    lowest = x_NCHW.new_tensor([1 / 2, 5 / 6, 1 / 6])[:, None, None]
    turns = _hue(x_NCHW, value, chroma).add_(_column(turns_N))
    d = turns - lowest
    d = d.sub_(d.round()).abs_()
    return value - d.mul_(-6).add_(2).clamp_(0, 1).mul_(chroma)


def _hue(x_NCHW: Tensor, value: Tensor, chroma: Tensor) -> Tensor:
    """Hue in turns; of gray, which has none, 0."""
    red, green, blue = _planes(x_NCHW)
    sixth = chroma.clamp(min=torch.finfo(x_NCHW.dtype).tiny).mul_(6).reciprocal_()
    from_red = (green - blue).mul_(sixth)
    from_green = (blue - red).mul_(sixth).add_(1 / 3)
    from_blue = (red - green).mul_(sixth).add_(2 / 3)
    is_red, is_green = _equal(value, red), _equal(value, green)
    return from_blue.lerp_(from_green, is_green).lerp_(from_red, is_red)


def _equal(a: Tensor, b: Tensor) -> Tensor:
    """1 where equal, 0 elsewhere: lerp with it chooses, several times as fast as torch.where."""
    return torch.eq(a, b, out=torch.empty_like(a))


def _planes(x_NCHW: Tensor) -> list[Tensor]:
    return [x_NCHW[:, c : c + 1] for c in range(x_NCHW.shape[1])]


def grayscale(x_NCHW: Tensor) -> Tensor:
    """The luminance in all three channels."""
    return _luminance(x_NCHW).expand_as(x_NCHW)


def _luminance(x_NCHW: Tensor) -> Tensor:
    red, green, blue = _planes(x_NCHW)
    r, g, b = _LUMINANCE
    return (red * r).add_(green, alpha=g).add_(blue, alpha=b)


def _blend(x_NCHW: Tensor, other: Tensor, factor_N: Tensor) -> Tensor:
    factor = _column(factor_N)
    return torch.addcmul(other * (1 - factor), x_NCHW, factor).clamp_(0, 1)


def _column(values_N: Tensor) -> Tensor:
    return values_N[:, None, None, None]


# --- blur


def blur(x_NCHW: Tensor, sigma_N: Tensor, width: int) -> Tensor:
    """Gaussian blur with a kernel of `width` (odd) pixels, reflected at the border.

    Two products with banded matrices, which hold the reflection. sigma is in pixels, above 0.
    """
    rows_NHH = _gaussian(sigma_N, width, x_NCHW.shape[2])
    columns_NWW = _gaussian(sigma_N, width, x_NCHW.shape[3])
    return rows_NHH[:, None] @ x_NCHW @ columns_NWW[:, None].mT


def _gaussian(sigma_N: Tensor, width: int, size: int) -> Tensor:
    """Weights (N, size, size) of a blur along one axis."""
    reach = width // 2
    assert reach < size, "the border is reflected once"
    tap_K = torch.arange(-reach, reach + 1, device=sigma_N.device)
    kernel_NK = torch.softmax(-0.5 * (tap_K / sigma_N[:, None]) ** 2, dim=1)
    source_SK = (torch.arange(size, device=sigma_N.device)[:, None] + tap_K).abs()
    source_SK = size - 1 - (size - 1 - source_SK).abs()
    weights_NSS = kernel_NK.new_zeros(len(sigma_N), size, size)
    index = source_SK.expand(len(sigma_N), -1, -1)
    return weights_NSS.scatter_add_(2, index, kernel_NK[:, None].expand(index.shape))


# --- a policy's operations, each for the images that it happens to


def _operate(x: Tensor, operation: Operation, params: ViewParams) -> Tensor:
    match operation:
        case Flip():  # done with the box
            return x
        case Jitter():
            return _jitter(x, operation, params)
        case Gray():
            return _where(x, params.gray_N & (x.shape[1] == 3), lambda part, rows: grayscale(part))
        case Blur():
            width, sigma_N = operation.width(params.size), torch.from_numpy(params.sigma_N)
            happens_N = (params.sigma_N > 0) & (width > 1)
            return _where(
                x, happens_N, lambda part, rows: blur(part, sigma_N[rows].to(x.device), width)
            )


_JITTER = (brightness, contrast, saturation, hue)


def _jitter(x: Tensor, jitter: Jitter, params: ViewParams) -> Tensor:
    """Images are sorted by the order of their operations, and each such group is done at once."""
    live, happens = _live(jitter, x.shape[1]), np.flatnonzero(params.jitter_N)
    if not live or not len(happens):
        return x
    order_N4 = params.order_N4[happens]
    order_NL = order_N4[np.isin(order_N4, live)].reshape(len(happens), len(live))
    code_N = order_NL @ 4 ** np.arange(len(live))
    by_code = code_N.argsort(kind="stable")
    rows_N = torch.from_numpy(happens[by_code]).to(x.device)
    factors_N4 = torch.from_numpy(params.factors_N4).to(x.device)[rows_N]
    x_N = x[rows_N]
    for group in _runs(code_N[by_code]):
        order = order_NL[by_code[group.start]].tolist()
        x_N[group] = _in_order(x_N[group], order, factors_N4[group])
    return x.index_copy_(0, rows_N, x_N)


def _in_order(x: Tensor, order: list[int], factors_N4: Tensor) -> Tensor:
    for k in order:
        x = _JITTER[k](x, factors_N4[:, k])
    return x


def _live(jitter: Jitter, channels: int) -> list[int]:
    """The operations that change anything: saturation and hue need three channels."""
    strengths = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    return [k for k in range(4 if channels == 3 else 2) if strengths[k]]


def _runs(code_N: NDArray[np.int64]) -> list[slice]:
    """The runs of equal codes."""
    edges = (np.flatnonzero(np.diff(code_N)) + 1).tolist()
    return [slice(*pair) for pair in zip([0, *edges], [*edges, len(code_N)], strict=True)]


def _where(
    x: Tensor, happens_N: NDArray[np.bool_], change: Callable[[Tensor, NDArray[np.int64]], Tensor]
) -> Tensor:
    rows = np.flatnonzero(happens_N)
    if not len(rows):
        return x
    rows_N = torch.from_numpy(rows).to(x.device)
    return x.index_copy_(0, rows_N, change(x[rows_N], rows))
