"""The AlexNet and VGG-16 released with DeepCluster (Caron et al. 2018).

They hold features.module.0.weight and so on, since only the convolutions were trained on several
GPUs; top_layer, the classifier of the last epoch's pseudo-classes; sobel.0 and sobel.1, the fixed
filters. Files written before torch 0.4.1 do not count batches.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from selftaught.encoders.encoder import EncoderConfig
from selftaught.encoders.imported.layouts import LayoutMatch
from selftaught.encoders.sobel import HORIZONTAL, VERTICAL
from selftaught.errors import FileError

FIRST = "features.0.weight"
_TOP = ("top_layer.weight", "top_layer.bias")
# filters and size of the first layer
_KERNELS: dict[tuple[int, ...], str] = {(96, 11, 11): "alexnet", (64, 3, 3): "vgg16"}
_REMEDY = "pass a checkpoint that DeepCluster wrote"


def match_deepcluster(tensors: Mapping[str, Tensor], path: Path) -> LayoutMatch | None:
    """Match either network by the filters of its first layer.

    Raises:
        FileError: The Sobel filters are not the paper's, or they contradict the first layer.
    """
    config = _config(tensors, path)
    if config is None:
        return None
    rest, notes = dict(tensors), []
    if config.front == "sobel":
        _take_sobel(rest, path)
        notes.append("Its Sobel filters are those of the paper and precede the network.")
    classes = [len(t) for n in _TOP if (t := rest.pop(n, None)) is not None and t.ndim]
    if classes:
        notes.append(f"Left out: top_layer, the classifier of {classes[0]:,} pseudo-classes.")
    return LayoutMatch(config, rest, tuple(notes), one_size="its fully connected layers")


def _config(tensors: Mapping[str, Tensor], path: Path) -> EncoderConfig | None:
    first = tensors[FIRST]
    out, channels, *kernel = first.shape if first.ndim == 4 else (0, 0)
    architecture = _KERNELS.get((out, *kernel))
    if architecture is None:
        return None
    sobel = any(name.startswith("sobel.") for name in tensors)
    if channels != (2 if sobel else 3):
        filters = "despite its Sobel filters" if sobel else "but the file has no Sobel filters"
        raise FileError(f"{path}: {FIRST} takes {channels} channels, {filters}", _REMEDY)
    return EncoderConfig(architecture, stem="standard", front="sobel" if sobel else "none")


def _take_sobel(tensors: dict[str, Tensor], path: Path) -> None:
    """Remove the fixed filters, after checking that they are those of `sobel.py`."""
    expected = {
        "sobel.0.weight": torch.full((1, 3, 1, 1), 1 / 3),
        "sobel.0.bias": torch.zeros(1),
        "sobel.1.weight": torch.tensor([[HORIZONTAL], [VERTICAL]]),
        "sobel.1.bias": torch.zeros(2),
    }
    for name, filters in expected.items():
        found = tensors.pop(name, torch.zeros(0)).float()
        if found.shape != filters.shape or not torch.allclose(found, filters):
            raise FileError(f"{path}: {name} is not the paper's Sobel filter", _REMEDY)
