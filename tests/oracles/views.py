"""Views by torchvision's functional forms, an image at a time, on float32 tensors."""

import torch
import torchvision.transforms.v2.functional as tv
from torch import Tensor

from selftaught.views.policy import Blur, Flip, Gray, Intensity, Jitter, Policy
from selftaught.views.sample import ViewParams

JITTER = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)


def view(
    image_HWC: Tensor, params: ViewParams, k: int, policy: Policy, intensity: Intensity
) -> Tensor:
    """View k of a raw image as (C, S, S), each operation in the policy's order."""
    span = intensity.high - intensity.low
    x = ((image_HWC.permute(2, 0, 1).float() - intensity.low) / span).clamp(0, 1)
    box, size = params.box_N4[k].tolist(), [params.size, params.size]
    x = tv.resized_crop(x, *box, size, antialias=True)
    for operation in policy.operations:
        x = _operate(x, operation, params, k)
    return tv.normalize(x, intensity.mean, intensity.std) if policy.normalise else x


def views(images: list[Tensor], params: ViewParams, policy: Policy, intensity: Intensity) -> Tensor:
    """One view of each image, (N, C, S, S)."""
    made = (view(image, params, k, policy, intensity) for k, image in enumerate(images))
    return torch.stack(list(made))


def _operate(x: Tensor, operation: object, params: ViewParams, k: int) -> Tensor:
    if isinstance(operation, Flip) and params.flip_N[k]:
        return tv.horizontal_flip(x)
    if isinstance(operation, Jitter) and params.jitter_N[k]:
        for which in params.order_N4[k].tolist():
            x = JITTER[which](x, float(params.factors_N4[k, which]))
        return x
    if isinstance(operation, Gray) and params.gray_N[k] and x.shape[0] == 3:
        return tv.rgb_to_grayscale(x, 3)
    width = operation.width(params.size) if isinstance(operation, Blur) else 1
    if width > 1 and params.sigma_N[k] > 0:
        return tv.gaussian_blur(x, [width, width], [float(params.sigma_N[k])] * 2)
    return x
