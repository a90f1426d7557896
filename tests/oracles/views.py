"""Views an image at a time: torchvision's functional forms on float32, or the slow and obvious.

Rotation, solarising, blur, erasing, resizing and colour are torchvision's, the gradient is SciPy's;
noise is Philox in Python's integers, a counter after the other.
"""

import math

import numpy as np
import torch
import torchvision.transforms.v2.functional as tv
from scipy import ndimage
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode

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


def view(
    image_HWC: Tensor, params: ViewParams, k: int, policy: Policy, intensity: Intensity
) -> Tensor:
    """View k of a raw image as (C, S, S): the box, the mirror, the operations in their order."""
    span = intensity.high - intensity.low
    x = ((image_HWC.permute(2, 0, 1).float() - intensity.low) / span).clamp(0, 1)
    box, size = params.box_N4[k].tolist(), [params.size, params.size]
    mode = InterpolationMode(policy.interpolation)
    x = tv.resized_crop(x, *box, size, interpolation=mode, antialias=True).clamp(0, 1)
    if params.flip_N[k]:
        x = tv.horizontal_flip(x)
    for operation in policy.operations:
        x = _operate(x, operation, params, k, intensity)
    return tv.normalize(x, intensity.mean, intensity.std) if policy.normalise else x


def views(images: list[Tensor], params: ViewParams, policy: Policy, intensity: Intensity) -> Tensor:
    """One view of each image, (N, C, S, S)."""
    made = (view(image, params, k, policy, intensity) for k, image in enumerate(images))
    return torch.stack(list(made))


def _operate(
    x: Tensor, operation: Operation, params: ViewParams, k: int, intensity: Intensity
) -> Tensor:
    match operation:
        case Flip():
            return x
        case Rotate():
            return torch.rot90(x, int(params.quarters_N[k]), (1, 2))
        case Jitter():
            return jitter(x, params.order_N4[k].tolist(), params.factors_N4[k].tolist())
        case ChannelJitter():
            numbers = (params.gain_NC[k], params.gamma_NC[k], params.offset_NC[k])
            return channel_jitter(x, *(n.tolist() for n in numbers))
        case BandDrop():
            return torch.stack(
                [x[c] if keep else 0 * x[c] for c, keep in enumerate(params.keep_NC[k])]
            )
        case Gray():
            return tv.rgb_to_grayscale(x, 3) if params.gray_N[k] else x
        case Solarise():
            return tv.solarize(x, operation.threshold) if params.solarise_N[k] else x
        case Blur():
            return blur(x, float(params.sigma_N[k]), operation.width(params.size))
        case Noise():
            return noise(x, float(params.noise_N[k]), int(params.draws_N[k]), params.noise_key)
        case Sobel():
            return sobel(x) if params.sobel_N[k] else x
        case Cutout():
            mean_C11 = torch.tensor(intensity.mean)[:, None, None]
            return tv.erase(x, *params.cutout_N4[k].tolist(), mean_C11)


def jitter(x: Tensor, order: list[int], factors: list[float]) -> Tensor:
    """torchvision's for 1 and 3 channels; for others brightness, and contrast about their mean."""
    theirs = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    for which in order:
        if len(x) in (1, 3):
            x = theirs[which](x, factors[which])
        elif which < 2:
            center = 0 if which == 0 else x.double().mean()
            x = ((x.double() - center) * factors[which] + center).clamp(0, 1).float()
    return x


def channel_jitter(x: Tensor, gain: list[float], gamma: list[float], offset: list[float]) -> Tensor:
    """Each channel apart; rounding may have left x a hair below 0."""
    x = x.clamp(min=0)
    made = [tv.adjust_gamma(x[c : c + 1], gamma[c]) * gain[c] + offset[c] for c in range(len(x))]
    return torch.cat(made).clamp(0, 1)


def blur(x: Tensor, sigma: float, width: int) -> Tensor:
    """torchvision's; none without a sigma."""
    return tv.gaussian_blur(x, [width, width], [sigma, sigma]) if sigma and width > 1 else x


def sobel(x: Tensor) -> Tensor:
    """The length of SciPy's gradient over 4."""
    down, across = (
        np.stack([ndimage.sobel(plane, axis, mode="nearest") for plane in x.double().numpy()])
        for axis in (0, 1)
    )
    return torch.from_numpy(np.sqrt(down**2 + across**2) / 4).clamp(0, 1).float()


def noise(x: Tensor, sigma: float, draw: int, key: tuple[int, int]) -> Tensor:
    """x plus sigma times normal numbers, four values (in the order of memory) a counter."""
    if not sigma:
        return x
    normal: list[float] = []
    for block in range(-(-x.numel() // 4)):
        normal += normals(philox((draw % 2**32, draw >> 32, block, 0), key))
    field = torch.tensor(normal[: x.numel()], dtype=torch.float64).reshape(x.shape)
    return (x.double() + sigma * field).clamp(0, 1).float()


def normals(words: tuple[int, ...]) -> list[float]:
    """Box and Muller: two pairs of words become two pairs of normal numbers."""
    u = [float(np.float32(word >> 8) + np.float32(0.5)) / 2**24 for word in words]
    made = []
    for first, second in ((u[0], u[1]), (u[2], u[3])):
        radius, angle = math.sqrt(-2 * math.log(first)), 2 * math.pi * second
        made += [radius * math.cos(angle), radius * math.sin(angle)]
    return made


def philox(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    """Philox4x32-10 (Salmon et al., SC 2011) of one counter, in Python's integers."""
    c, (k0, k1) = counter, key
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = (b >> 32 ^ c[1] ^ k0, b % 2**32, a >> 32 ^ c[3] ^ k1, a % 2**32)
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c
