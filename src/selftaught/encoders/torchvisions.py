"""State dicts in torchvision's layout, under timm's names: MobileNetV2 and the ResNets.

torchvision names a ResNet's layers as timm does; so do many who release one. MobileNetV2 (Sandler
et al. 2018) is one list of layers there, features.0 to features.18, where timm has a stem, seven
stages of blocks and a head: the blocks are numbered through in the order of the stages.
"""

import re
from collections.abc import Mapping

from torch import Tensor

_STAGES = (1, 2, 3, 4, 3, 3, 1)  # blocks a stage of MobileNetV2 (its table 2)
_BLOCKS = tuple((stage, block) for stage, many in enumerate(_STAGES) for block in range(many))
_ENDS = {"0.0": "conv_stem", "0.1": "bn1", "18.0": "conv_head", "18.1": "bn2"}
_FIRST = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}  # nothing widens its input
_OTHER = {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "2": "conv_pwl"}
_OTHER |= {"3": "bn3"}

_RESNETS: dict[tuple[tuple[int, ...], int], str] = {
    ((2, 2, 2, 2), 2): "resnet18",
    ((3, 4, 6, 3), 2): "resnet34",
    ((3, 4, 6, 3), 3): "resnet50",
    ((3, 4, 23, 3), 3): "resnet101",
    ((3, 8, 36, 3), 3): "resnet152",
}
"""By blocks a stage and convolutions a block (He et al. 2016, table 1)."""

NETWORKS = ("MobileNetV2", "ResNet-18, -34, -50, -101 and -152")
"""What is known, in words."""


def translated(tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor], str]:
    """A state dict of torchvision's under timm's names, without the classifier.

    Args:
        tensors: Tensors by torchvision's names.

    Returns:
        timm's name of the network, the tensors by its names, and a sentence on what was left out;
        "", {} and "" where it is none of these networks. A name that it does not have stays.
    """
    name, head, renamed = _resnet(tensors), "fc", dict(tensors)
    if "features.0.0.weight" in tensors and "features.18.0.weight" in tensors:
        name, head, renamed = "mobilenetv2_100", "classifier.1", _as_mobilenet(tensors)
    if not name:
        return "", {}, ""
    left_out = (renamed.pop(f"{head}.{part}", None) for part in ("weight", "bias"))
    top = [tensor for tensor in left_out if tensor is not None]
    classes = f", the classifier of {len(top[0]):,} classes" if top and top[0].ndim else ""
    return name, renamed, f"Left out: {head}{classes}." if top else ""


def _as_mobilenet(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """features.2.conv.0.1.bias becomes blocks.1.0.bn1.bias, and so on."""
    ours = {f"features.{end}": name for end, name in _ENDS.items()}
    for place, (stage, block) in enumerate(_BLOCKS, start=1):
        for layer, name in (_FIRST if place == 1 else _OTHER).items():
            ours[f"features.{place}.conv.{layer}"] = f"blocks.{stage}.{block}.{name}"
    parts = {name: name.rpartition(".") for name in tensors}
    return {f"{ours.get(p[0], p[0])}{p[1]}{p[2]}": tensors[n] for n, p in parts.items()}


def _resnet(tensors: Mapping[str, Tensor]) -> str:
    """Which ResNet it is, by its blocks; "" if it is none."""
    found = (re.match(r"layer([1-4])\.(\d+)\.conv(\d)\.weight$", name) for name in tensors)
    layers = [tuple(map(int, match.groups())) for match in found if match]
    if "conv1.weight" not in tensors or not layers:
        return ""
    blocks = tuple(len({b for stage, b, _ in layers if stage == s}) for s in (1, 2, 3, 4))
    return _RESNETS.get((blocks, max(conv for _, _, conv in layers)), "")
