"""DeepCluster's AlexNet and VGG-16 as plain calls on tensors with the released names.

Written from the description of the networks alone; it shares no code with the package. Evaluation
mode, so that dropout does nothing and batch norm uses its running statistics.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


def sobel(x: Tensor) -> Tensor:
    """Vertical and horizontal edges of the mean channel, an entry of the filters at a time."""
    gray = F.pad(x.mean(1), (1, 1, 1, 1))
    h, w = x.shape[2:]
    filters = ([1, 0, -1, 2, 0, -2, 1, 0, -1], [1, 2, 1, 0, 0, 0, -1, -2, -1])
    out = torch.zeros(len(x), 2, h, w, dtype=x.dtype)
    for channel, entries in enumerate(filters):
        for n, entry in enumerate(entries):
            i, j = divmod(n, 3)
            out[:, channel] += entry * gray[:, i : i + h, j : j + w]
    return out


def alexnet(x: Tensor, w: Weights, *, stride: int = 4) -> Tensor:
    """fc7 before its ReLU; `stride` of the first convolution."""
    x = F.max_pool2d(_conv(x, w, 0, stride=stride, padding=2), 3, 2)
    x = F.max_pool2d(_conv(x, w, 4, stride=1, padding=2), 3, 2)
    x = _conv(x, w, 8, stride=1, padding=1)
    x = _conv(x, w, 11, stride=1, padding=1)
    x = F.max_pool2d(_conv(x, w, 14, stride=1, padding=1), 3, 2)
    return _linear(F.relu(_linear(x.reshape(len(x), -1), w, 1)), w, 4)


def vgg16(x: Tensor, w: Weights) -> Tensor:
    """fc7 before its ReLU."""
    for block in ((0, 3), (7, 10), (14, 17, 20), (24, 27, 30), (34, 37, 40)):
        for n in block:
            x = _conv(x, w, n, stride=1, padding=1)
        x = F.max_pool2d(x, 2, 2)
    return _linear(F.relu(_linear(x.reshape(len(x), -1), w, 0)), w, 3)


def _conv(x: Tensor, w: Weights, n: int, *, stride: int, padding: int) -> Tensor:
    x = F.conv2d(x, w[f"features.{n}.weight"], w[f"features.{n}.bias"], stride, padding)
    norm = f"features.{n + 1}"
    mean, var = w[f"{norm}.running_mean"], w[f"{norm}.running_var"]
    x = (x - mean[:, None, None]) / (var + 1e-5).sqrt()[:, None, None]
    return F.relu(x * w[f"{norm}.weight"][:, None, None] + w[f"{norm}.bias"][:, None, None])


def _linear(x: Tensor, w: Weights, n: int) -> Tensor:
    return x @ w[f"classifier.{n}.weight"].T + w[f"classifier.{n}.bias"]
