"""ResNets under timm's names, from files with layer names, with numbers, or with SimCLR's names.

torchvision and most training code name a ResNet's layers as timm does. Code that cuts the
classifier off with nn.Sequential(*network.children()) has numbers instead. Conversions of
google-research/simclr from TensorFlow have other names (net.1.blocks.0.net.4.weight); timm does
not have its networks with selective kernels or wider layers.
"""

import functools
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from selftaught.encoders.encoder import EncoderConfig
from selftaught.encoders.imported.layouts import PIXELS, LayoutMatch, rename_tensors

NETWORKS: dict[tuple[tuple[int, ...], int, tuple[int, ...]], str] = {
    ((2, 2, 2, 2), 2, (64, 64)): "resnet18",
    ((3, 4, 6, 3), 2, (64, 64)): "resnet34",
    ((3, 4, 6, 3), 3, (64, 64)): "resnet50",
    ((3, 4, 23, 3), 3, (64, 64)): "resnet101",
    ((3, 8, 36, 3), 3, (64, 64)): "resnet152",
    ((3, 4, 6, 3), 3, (128, 128)): "wide_resnet50_2",
    ((3, 4, 23, 3), 3, (128, 128)): "wide_resnet101_2",
    ((3, 4, 6, 3), 3, (128, 4)): "resnext50_32x4d",
    ((3, 4, 23, 3), 3, (256, 8)): "resnext101_32x8d",
    ((3, 4, 23, 3), 3, (256, 4)): "resnext101_64x4d",
}
"""By blocks per stage, convolutions per block (He et al. 2016, table 1), and the filters and input
channels of the first block's 3x3 convolution (Zagoruyko and Komodakis 2016, Xie et al. 2017)."""

_SMALL_SIDE = 32  # pixels of CIFAR's images, for which the small stem is made
_SMALL_STEM = (
    "Its first convolution is 3x3: the small stem is assumed, with stride 1, padding 1 and no "
    "max-pooling, which the tensors do not record."
)
_SIMCLR = {
    r"net\.0\.0\.": "conv1.",
    r"net\.0\.1\.0\.": "bn1.",
    r"net\.(\d)\.blocks\.(\d+)\.projection\.shortcut\.": r"layer\1.\2.downsample.0.",
    r"net\.(\d)\.blocks\.(\d+)\.projection\.bn\.0\.": r"layer\1.\2.downsample.1.",
    r"net\.(\d)\.blocks\.(\d+)\.net\.0\.(?=weight)": r"layer\1.\2.conv1.",
    r"net\.(\d)\.blocks\.(\d+)\.net\.1\.0\.": r"layer\1.\2.bn1.",
    r"net\.(\d)\.blocks\.(\d+)\.net\.2\.(?=weight)": r"layer\1.\2.conv2.",
    r"net\.(\d)\.blocks\.(\d+)\.net\.3\.0\.": r"layer\1.\2.bn2.",
    r"net\.(\d)\.blocks\.(\d+)\.net\.4\.(?=weight)": r"layer\1.\2.conv3.",
    r"net\.(\d)\.blocks\.(\d+)\.net\.5\.0\.": r"layer\1.\2.bn3.",
}


def match_layer_names(tensors: Mapping[str, Tensor], path: Path) -> LayoutMatch | None:
    """Match timm's names, conv1, bn1, layer1 to layer4; shortcut is renamed to downsample."""
    ours = rename_tensors(tensors, lambda name: name.replace(".shortcut.", ".downsample."), path)
    architecture = _architecture(ours)
    if not architecture:
        return None
    if ours["conv1.weight"].shape[2:] == (3, 3):
        config = EncoderConfig(architecture, image_size=_SMALL_SIDE, stem="small")
        return LayoutMatch(config, ours, (_SMALL_STEM,))
    return LayoutMatch(EncoderConfig(architecture, stem="standard"), ours)


def match_numbered_layers(tensors: Mapping[str, Tensor], path: Path) -> LayoutMatch | None:
    """Match numbers: 0 and 1 are conv1 and bn1; stages start at 4, or at 3 or 2 without pooling."""
    found = (re.match(r"(\d+)\.\d+\.conv1\.weight$", name) for name in tensors)
    stages = sorted({int(match[1]) for match in found if match})
    if len(stages) != 4 or stages not in [list(range(start, start + 4)) for start in (2, 3, 4)]:
        return None
    words = {"0": "conv1", "1": "bn1", f"{stages[-1] + 2}": "fc"}  # after the pooling
    words |= {f"{s}": f"layer{i}" for i, s in enumerate(stages, start=1)}
    match = match_layer_names(
        rename_tensors(tensors, functools.partial(_timm_name, words), path), path
    )
    pooled = stages[0] == 4
    return match if match and (pooled or match.config.stem == "small") else None


def match_simclr(tensors: Mapping[str, Tensor], path: Path) -> LayoutMatch | None:
    """Match the public conversions of google-research/simclr (Chen et al. 2020)."""
    match = match_layer_names(rename_tensors(tensors, _timm_name_from_simclr, path), path)
    if match is None or match.config.stem != "standard":
        return None
    config = EncoderConfig(match.config.architecture, stem="standard", intensity=PIXELS["unit"])
    return LayoutMatch(config, match.tensors)


def _timm_name(words: Mapping[str, str], name: str) -> str:
    first, dot, rest = name.partition(".")
    return f"{words.get(first, first)}{dot}{rest}"


def _timm_name_from_simclr(name: str) -> str:
    for theirs, ours in _SIMCLR.items():
        if match := re.match(theirs, name):
            return match.expand(ours) + name[match.end() :]
    return name


def _architecture(tensors: Mapping[str, Tensor]) -> str:
    """timm's name of the ResNet, by its blocks and the shape of the first; "" if unknown."""
    found = (re.match(r"layer([1-4])\.(\d+)\.conv(\d)\.weight$", name) for name in tensors)
    layers = [tuple(map(int, match.groups())) for match in found if match]
    stem, block = tensors.get("conv1.weight"), tensors.get("layer1.0.conv2.weight")
    if not layers or stem is None or block is None or stem.ndim != 4 or len(stem) != 64:
        return ""
    blocks = tuple(len({b for stage, b, _ in layers if stage == s}) for s in (1, 2, 3, 4))
    convolutions = max(conv for _, _, conv in layers)
    return NETWORKS.get((blocks, convolutions, tuple(block.shape[:2])), "")
