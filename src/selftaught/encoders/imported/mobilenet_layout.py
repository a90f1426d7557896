"""MobileNetV2 (Sandler et al. 2018) under timm's names: torchvision's layout, and timm's own.

torchvision has one list of layers, features.0 to features.18; timm has a stem, seven stages of
blocks and a head. torchvision numbers the blocks consecutively, in the order of the stages.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from selftaught.encoders.encoder import EncoderConfig
from selftaught.encoders.imported.layouts import LayoutMatch, rename_tensors

_STAGES = (1, 2, 3, 4, 3, 3, 1)  # blocks per stage (table 2)
_BLOCKS = tuple((stage, block) for stage, many in enumerate(_STAGES) for block in range(many))
_ENDS = {"0.0": "conv_stem", "0.1": "bn1", "18.0": "conv_head", "18.1": "bn2"}
_FIRST = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}  # no layer widens its input
_OTHER = {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "2": "conv_pwl"}
_OTHER |= {"3": "bn3"}
_LAST = (1280, 320, 1, 1)  # conv_head


def match_torchvision_mobilenet(tensors: Mapping[str, Tensor], path: Path) -> LayoutMatch | None:
    """Rename and match: features.2.conv.0.1.bias becomes blocks.1.0.bn1.bias, and so on."""
    if "features.18.0.weight" not in tensors:
        return None
    ours = {f"features.{end}": name for end, name in _ENDS.items()}
    for place, (stage, block) in enumerate(_BLOCKS, start=1):
        for layer, name in (_FIRST if place == 1 else _OTHER).items():
            ours[f"features.{place}.conv.{layer}"] = f"blocks.{stage}.{block}.{name}"

    def our_name(name: str) -> str:
        layer, dot, tensor = name.rpartition(".")
        return f"{ours.get(layer, layer)}{dot}{tensor}"

    return _match(rename_tensors(tensors, our_name, path))


def match_timm_mobilenet(tensors: Mapping[str, Tensor], path: Path) -> LayoutMatch | None:
    """Match timm's names, by MobileNetV2's blocks and last convolution."""
    found = (re.match(r"blocks\.(\d+)\.(\d+)\.conv_dw\.weight$", name) for name in tensors)
    blocks = {(int(match[1]), int(match[2])) for match in found if match}
    last = tensors.get("conv_head.weight")
    ours = blocks == set(_BLOCKS) and last is not None and tuple(last.shape) == _LAST
    return _match(dict(tensors)) if ours else None


def _match(tensors: dict[str, Tensor]) -> LayoutMatch:
    return LayoutMatch(EncoderConfig("mobilenetv2_100", stem="standard"), tensors)
