"""The operations on a batch of views, each a function in batched PyTorch for any device.

Where torchvision has a functional form, the definition is the same, on floats in [0, 1]. Each takes
one parameter per image (or per channel of an image), returns a new tensor and never waits for the
device. The docstring says if an operation needs three channels.

Shapes:  N images; C channels; H, W height and width; K taps of a kernel; E pixels and channels of
         an image; B blocks of four of them.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_LUMINANCE = (0.2989, 0.587, 0.114)  # torchvision's rounding of ITU-R BT.601


def _column(values: Tensor) -> Tensor:
    """(N,) or (N, C), shaped to broadcast with (N, C, H, W)."""
    return values.reshape(len(values), -1, 1, 1)


# --- colour


def brightness(x_NCHW: Tensor, factor_N: Tensor) -> Tensor:
    """Multiply by the factor; clipped to [0, 1]."""
    return (x_NCHW * _column(factor_N)).clamp_(0, 1)


def contrast(x_NCHW: Tensor, factor_N: Tensor) -> Tensor:
    """Scale the difference from the image's mean by the factor; clipped to [0, 1].

    The mean is that of the luminance for 3 channels, and of all channels otherwise.
    """
    mean_NC11 = x_NCHW.mean(dim=(2, 3), keepdim=True)
    three = x_NCHW.shape[1] == 3
    mean_N111 = _luminance(mean_NC11) if three else mean_NC11.mean(dim=1, keepdim=True)
    return _blend(x_NCHW, mean_N111, factor_N)


def saturation(x_NCHW: Tensor, factor_N: Tensor) -> Tensor:
    """Scale the difference from the luminance by the factor; clipped to [0, 1]. Three channels."""
    return _blend(x_NCHW, _luminance(x_NCHW), factor_N)


def hue(x_NCHW: Tensor, turns_N: Tensor) -> Tensor:
    """Shift the hue of HSV, in turns; saturation and value stay. Three channels in [0, 1].

    A channel is V - V S clip(2 - 6 d, 0, 1), where d is the distance in turns between the hue and
    the hue at which that channel is lowest: 1/2 for red, 5/6 for green, 1/6 for blue.
    """
    red, green, blue = _planes(x_NCHW)
    value = torch.maximum(red, green).maximum(blue)
    chroma = value - torch.minimum(red, green).minimum(blue)
    turns = _hue(x_NCHW, value, chroma).add_(_column(turns_N))
    d = torch.cat([turns - lowest for lowest in (1 / 2, 5 / 6, 1 / 6)], dim=1)
    d = d.sub_(d.round()).abs_()
    return value - d.mul_(-6).add_(2).clamp_(0, 1).mul_(chroma)


def _hue(x_NCHW: Tensor, value: Tensor, chroma: Tensor) -> Tensor:
    """Hue in turns; 0 for gray, which has no hue."""
    red, green, blue = _planes(x_NCHW)
    sixth = chroma.clamp(min=torch.finfo(x_NCHW.dtype).tiny).mul_(6).reciprocal_()
    from_red = (green - blue).mul_(sixth)
    from_green = (blue - red).mul_(sixth).add_(1 / 3)
    from_blue = (red - green).mul_(sixth).add_(2 / 3)
    is_red, is_green = _equal(value, red), _equal(value, green)
    return from_blue.lerp_(from_green, is_green).lerp_(from_red, is_red)


def _equal(a: Tensor, b: Tensor) -> Tensor:
    """1 where equal, 0 elsewhere; lerp with it is faster than torch.where on a CPU."""
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


# --- channels, whatever they mean


def channel_jitter(x_NCHW: Tensor, gain_NC: Tensor, gamma_NC: Tensor, offset_NC: Tensor) -> Tensor:
    """gain * x ** gamma + offset for each channel, clipped to [0, 1].

    x is clamped first: rounding may have left it slightly below 0, where the power is undefined.
    """
    x = x_NCHW.clamp(min=0).pow_(_column(gamma_NC)).mul_(_column(gain_NC))
    return x.add_(_column(offset_NC)).clamp_(0, 1)


def band_drop(x_NCHW: Tensor, keep_NC: Tensor) -> Tensor:
    """Set the channels that are not kept to 0."""
    return x_NCHW * _column(keep_NC)


def solarise(x_NCHW: Tensor, threshold: float) -> Tensor:
    """1 - x for values from the threshold on."""
    return torch.where(x_NCHW < threshold, x_NCHW, 1 - x_NCHW)


# --- neighbourhoods


def blur(x_NCHW: Tensor, sigma_N: Tensor, width: int) -> Tensor:
    """Gaussian blur with a kernel of `width` (odd) pixels, reflected at the border.

    sigma is in pixels, above 0. Down the columns, then along the rows; the two pixels at the same
    distance have the same weight and are added first.
    """
    reach = width // 2
    assert reach < min(x_NCHW.shape[2:]), "the border is reflected once"
    tap_K = torch.arange(reach + 1, device=x_NCHW.device)
    weight_NK = torch.exp(-0.5 * (tap_K / sigma_N[:, None]) ** 2)
    weight_NK = weight_NK / (2 * weight_NK.sum(dim=1, keepdim=True) - weight_NK[:, :1])
    columns = _weighted(x_NCHW, weight_NK, dim=2)
    return _weighted(columns, weight_NK, dim=3)


def _weighted(x_NCHW: Tensor, weight_NK: Tensor, *, dim: int) -> Tensor:
    """Sums of the pixels up to K - 1 away along one axis, weighted by distance."""
    reach, size = weight_NK.shape[1] - 1, x_NCHW.shape[dim]
    padding = (reach, reach, 0, 0) if dim == 3 else (0, 0, reach, reach)
    padded = F.pad(x_NCHW, padding, mode="reflect")
    out = x_NCHW * _column(weight_NK[:, 0])
    for k in range(1, reach + 1):
        pair = padded.narrow(dim, reach - k, size) + padded.narrow(dim, reach + k, size)
        out.addcmul_(pair, _column(weight_NK[:, k]))
    return out


def needed_width(sigma: float, width: int) -> int:
    """Width (odd) of the part of the kernel whose weights are at least 1e-7 of the largest."""
    return min(width, 2 * int(sigma * math.sqrt(-2 * math.log(1e-7))) + 1)


def sobel(x_NCHW: Tensor) -> Tensor:
    """The magnitude of Sobel's gradient divided by 4, clipped to [0, 1]; the border is repeated."""
    x = F.pad(x_NCHW, (1, 1, 1, 1), mode="replicate")
    smooth_rows = x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]
    smooth_columns = x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]
    across = smooth_rows[..., 2:] - smooth_rows[..., :-2]
    down = smooth_columns[:, :, 2:] - smooth_columns[:, :, :-2]
    return torch.hypot(across, down).div_(4).clamp_(0, 1)


def cutout(x_NCHW: Tensor, box_N4: Tensor, fill_C11: Tensor) -> Tensor:
    """Fill a box (top, left, height, width in pixels) of each image with a value per channel.

    A box with height or width 0 changes nothing.
    """
    row_H1 = torch.arange(x_NCHW.shape[2], device=x_NCHW.device)[:, None]
    column_W = torch.arange(x_NCHW.shape[3], device=x_NCHW.device)
    top, left, height, width = (_column(edge_N) for edge_N in box_N4.T)
    rows = (row_H1 >= top) & (row_H1 < top + height)
    columns = (column_W >= left) & (column_W < left + width)
    return torch.where(rows & columns, fill_C11, x_NCHW)


# --- noise


def noise(
    x_NCHW: Tensor, sigma_N: Tensor, draws_N: Tensor, key: tuple[int, int] | Tensor
) -> Tensor:
    """Add Gaussian noise, a function of key, draw and pixel on any device; clipped to [0, 1].

    Four values at a time use the words of one Philox counter (draw, block), and become normal by
    the Box-Muller method in float32.
    """
    n, size = len(x_NCHW), x_NCHW[0].numel()
    words = torch.stack(_philox(draws_N, -(-size // 4), key), dim=2)  # (N, B, 4)
    uniform = (words >> 8).to(torch.float32).add_(0.5).mul_(2.0**-24)
    radius = uniform[..., 0::2].log().mul_(-2).sqrt_()
    angle = uniform[..., 1::2].mul(2 * math.pi)
    normal_NE = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=3).reshape(n, -1)
    normal = normal_NE[:, :size].reshape(x_NCHW.shape)
    return torch.addcmul(x_NCHW, normal, _column(sigma_N)).clamp_(0, 1)


_ROUNDS, _LOW = 10, 0xFFFFFFFF
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MULTIPLIERS = (0xD2511F53 - (1 << 32), 0xCD9E8D57 - (1 << 32))


def _philox(draws_N: Tensor, blocks: int, key: tuple[int, int] | Tensor) -> list[Tensor]:
    """Philox4x32-10 of the counters (draw, block), as in `rng.philox`: four words, (N, B) int64.

    Multipliers are reduced by 2^32 to keep every product within int64: the low word is the same,
    the high word is less by the factor.
    """
    # Without the mask, a compiled range would be multiplied as int32 (pytorch issue 175966).
    block_B = torch.arange(blocks, device=draws_N.device) & _LOW
    c0, c1 = draws_N[:, None] & _LOW, draws_N[:, None] >> 32
    c2, c3 = block_B.expand(len(draws_N), -1), torch.zeros_like(block_B)
    k0, k1 = key[0], key[1]
    for _ in range(_ROUNDS):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        high0, high1 = (product0 >> 32) + c0, (product1 >> 32) + c2
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, product1 & _LOW, high0 ^ c3 ^ k1, product0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return [c0, c1, c2, c3]
