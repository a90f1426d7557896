"""SimCLR's ResNets as plain calls on tensors with the names of their public conversions.

Written from the papers (He et al. 2016; Chen et al. 2020) and the names alone; it shares no code
with the package. Evaluation mode: batch norm uses its running statistics.
"""

import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


def resnet(x: Tensor, w: Weights) -> Tensor:
    """The average of the last stage's map, from x with pixels from 0 to 1."""
    x = F.relu(_norm(F.conv2d(x, w["net.0.0.weight"], stride=2, padding=3), w, "net.0.1.0"))
    x = F.max_pool2d(x, 3, 2, 1)
    for stage in (1, 2, 3, 4):
        block = 0
        while f"net.{stage}.blocks.{block}.net.0.weight" in w:
            stride = 2 if stage > 1 and block == 0 else 1
            x = _bottleneck(x, w, f"net.{stage}.blocks.{block}", stride)
            block += 1
    return x.mean((2, 3))


def _bottleneck(x: Tensor, w: Weights, name: str, stride: int) -> Tensor:
    """1x1, 3x3 (which has the stride) and 1x1; the first of a stage projects its input."""
    y = F.relu(_norm(F.conv2d(x, w[f"{name}.net.0.weight"]), w, f"{name}.net.1.0"))
    y = F.conv2d(y, w[f"{name}.net.2.weight"], stride=stride, padding=1)
    y = F.relu(_norm(y, w, f"{name}.net.3.0"))
    y = _norm(F.conv2d(y, w[f"{name}.net.4.weight"]), w, f"{name}.net.5.0")
    if f"{name}.projection.shortcut.weight" in w:
        x = F.conv2d(x, w[f"{name}.projection.shortcut.weight"], stride=stride)
        x = _norm(x, w, f"{name}.projection.bn.0")
    return F.relu(x + y)


def _norm(x: Tensor, w: Weights, name: str) -> Tensor:
    mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
    x = (x - mean[:, None, None]) / (var + 1e-5).sqrt()[:, None, None]
    return x * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]
