"""Checkpoints of other programs, made into encoders: the only place where torch.load is called.

Known are two layouts. That of DeepCluster's released AlexNet and VGG-16 (Caron et al. 2018):
tensors under "state_dict"; features.module.0.weight and so on, since only the convolutions were
trained on several GPUs; top_layer, the classifier of the last epoch's pseudo-classes; sobel.0 and
sobel.1, the fixed filters. And that of torchvision's networks, read by `torchvisions.py`. Files of
before torch 0.4.1 do not count batches: num_batches_tracked starts at 0.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selftaught.encoders.encoder import Encoder, EncoderConfig, build
from selftaught.encoders.folder import load_weights
from selftaught.encoders.sobel import HORIZONTAL, VERTICAL
from selftaught.encoders.torchvisions import NETWORKS, translated
from selftaught.errors import ConfigError, FileError
from selftaught.files import load_tensors

_KNOWN = f"known are DeepCluster's AlexNet and VGG-16, and torchvision's {', '.join(NETWORKS)}"
_FIRST, _TOP = "features.0.weight", ("top_layer.weight", "top_layer.bias")
# filters and size of the first layer
_KERNELS: dict[tuple[int, ...], str] = {(96, 11, 11): "alexnet", (64, 3, 3): "vgg16"}
_TYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64}
_NAMED = 3  # names in a complaint


@dataclass(frozen=True)
class Imported:
    """An encoder from a checkpoint.

    Attributes:
        encoder: It.
        notes: What was done with the rest of the file, in sentences.
        layout: Whose it is, such as "a checkpoint of DeepCluster (Caron et al. 2018)".
        licence: What to mind, in a sentence.
    """

    encoder: Encoder
    notes: tuple[str, ...]
    layout: str
    licence: str


def read_checkpoint(path: Path, *, image_size: int | None = None) -> Imported:
    """The encoder in somebody else's checkpoint; nothing in the file can run.

    Args:
        path: A file of torch.save's (.pth, .pt, .tar), or .safetensors.
        image_size: Side of the encoder's input in pixels; None: 224.

    Returns:
        The encoder with ImageNet's mean and std, and what there is to say of the file.

    Raises:
        FileError: It is missing, damaged or unsafe; or it is no layout that is known, or lacks
            tensors of it or has others: they are named.
        ConfigError: The network cannot take images of that size.
    """
    tensors = _without_module(_state_dict(_read(path), path), path)
    name, renamed, note = translated(tensors)
    if not name:
        return _of_deepcluster(tensors, path, image_size)
    config = EncoderConfig(name, image_size=image_size or 224, stem="standard")
    return Imported(
        _loaded(config, renamed, path),
        (note,) if note else (),
        "a state_dict in torchvision's layout",
        "Mind the licence of whoever trained these weights: the file does not name it.",
    )


def _of_deepcluster(tensors: dict[str, Tensor], path: Path, image_size: int | None) -> Imported:
    config = _recognised(tensors, path)
    if image_size not in (None, config.image_size):
        raise ConfigError(
            f"{path}: its fully connected layers take images of {config.image_size} px",
            "leave out --image-size",
        )
    notes = []
    if config.front == "sobel":
        _check_sobel(tensors, path)
        notes.append("Its Sobel filters are those of the paper: kept as the encoder's front.")
    classes = [len(t) for n in _TOP if (t := tensors.pop(n, None)) is not None and t.ndim]
    if classes:
        notes.append(f"Left out: top_layer, the classifier of {classes[0]:,} pseudo-classes.")
    return Imported(
        _loaded(config, tensors, path),
        tuple(notes),
        "a checkpoint of DeepCluster (Caron et al. 2018)",
        "Mind its licence: what was released with DeepCluster is CC BY-NC 4.0.",
    )


def _loaded(config: EncoderConfig, tensors: dict[str, Tensor], path: Path) -> Encoder:
    """The encoder with these weights."""
    encoder = build(config)
    uncounted = _names_of_counts(encoder) - tensors.keys()
    tensors |= {name: torch.tensor(0) for name in uncounted}
    _check_names(encoder, tensors, path)
    load_weights(encoder, tensors, path)
    return encoder


def _read(path: Path) -> Any:
    """What is in the file, as tensors and plain values."""
    if not path.is_file():  # a pipe would be waited for
        raise FileError(
            f"there is no file {path}", "name a .pth, .pt or .safetensors file, no folder"
        )
    if path.suffix == ".safetensors":
        return load_tensors(path)
    try:
        _check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileError:
        raise
    except Exception as error:  # what a damaged or hostile file makes torch raise is not bounded
        unsafe = "GLOBAL" in str(error)
        reason = "holds more than tensors and numbers" if unsafe else "is damaged, or none at all"
        raise FileError(
            f"{path} cannot be read: as a file of torch.save's it {reason}",
            "give one that holds a state_dict, or .safetensors",
        ) from None


def _check_archive(path: Path) -> None:
    """An archive is no larger unpacked than packed: torch.save compresses nothing."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            claimed = sum(entry.file_size for entry in archive.infolist())
        if claimed > path.stat().st_size:
            raise FileError(f"{path} claims more bytes than it has", "fetch it again")


def _state_dict(value: Any, path: Path) -> dict[str, Tensor]:
    """The named tensors of what was read: under "state_dict", or all of it."""
    found = value.get("state_dict", value) if isinstance(value, Mapping) else value
    named = isinstance(found, Mapping) and all(isinstance(name, str) for name in found)
    if not named or not all(map(_is_plain, found.values())):
        raise FileError(f"{path} holds no state_dict of tensors", _KNOWN)
    return dict(found)


def _is_plain(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.dtype in _TYPES
    )


def _without_module(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Names without the "module" that DataParallel puts into them."""
    plain = {".".join(p for p in n.split(".") if p != "module"): t for n, t in tensors.items()}
    if len(plain) < len(tensors):
        raise FileError(f"{path} holds tensors twice, with and without module.", _KNOWN)
    return plain


def _recognised(tensors: Mapping[str, Tensor], path: Path) -> EncoderConfig:
    """Which network the tensors are of, by the filters of its first layer."""
    first = tensors.get(_FIRST, torch.zeros(0))
    out, channels, *kernel = first.shape if first.ndim == 4 else (0, 0)
    architecture = _KERNELS.get((out, *kernel))
    if architecture is None:
        raise FileError(f"{path} is of no network that can be imported", _KNOWN)
    sobel = any(name.startswith("sobel.") for name in tensors)
    if channels != (2 if sobel else 3):
        filters = "after Sobel filters" if sobel else "and no Sobel filters are in the file"
        raise FileError(f"{path}: {_FIRST} takes {channels} channels, {filters}", _KNOWN)
    return EncoderConfig(architecture, stem="standard", front="sobel" if sobel else "none")


def _check_sobel(tensors: dict[str, Tensor], path: Path) -> None:
    """Take the fixed filters out, once it is known that they are those of `sobel.py`."""
    expected = {
        "sobel.0.weight": torch.full((1, 3, 1, 1), 1 / 3),
        "sobel.0.bias": torch.zeros(1),
        "sobel.1.weight": torch.tensor([[HORIZONTAL], [VERTICAL]]),
        "sobel.1.bias": torch.zeros(2),
    }
    for name, filters in expected.items():
        found = tensors.pop(name, torch.zeros(0)).float()
        if found.shape != filters.shape or not torch.allclose(found, filters):
            raise FileError(f"{path}: {name} is not the paper's Sobel filter", _KNOWN)


def _names_of_counts(encoder: Encoder) -> set[str]:
    return {n for n in encoder.trunk.state_dict() if n.endswith(".num_batches_tracked")}


def _check_names(encoder: Encoder, tensors: Mapping[str, Tensor], path: Path) -> None:
    own, name = encoder.trunk.state_dict().keys(), encoder.config.architecture
    if missing := sorted(own - tensors.keys()):
        raise FileError(f"{path} lacks {_listed(missing)}", f"give a whole checkpoint of {name}")
    if unknown := sorted(tensors.keys() - own):
        raise FileError(
            f"{path} holds {_listed(unknown)}, which {name} does not have", "leave that out"
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
