"""Checkpoints of other programs, made into encoders: the only place where torch.load is called.

What is read is found in a file however deep its mappings are, behind whatever prefix, by LAYOUTS;
any other network of timm's by its own names, once it is said which. Nothing is loaded in part: a
tensor that is missing, too many or of another shape is named, unless it is clearly of a head.
"""

import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selftaught.encoders.encoder import (
    OWN,
    Encoder,
    EncoderConfig,
    build_encoder,
    check_architecture,
)
from selftaught.encoders.folder import load_weights
from selftaught.encoders.imported.deepcluster_layout import FIRST, deepclusters
from selftaught.encoders.imported.layouts import (
    LICENCE,
    PIXELS,
    Found,
    LayoutMatch,
    NameLayout,
    best_prefix,
    is_aside,
    left_out,
    recognised,
    taken,
    under,
)
from selftaught.encoders.imported.mobilenet_layout import timms_mobilenet, torchvisions_mobilenet
from selftaught.encoders.imported.resnet_layout import (
    named_by_layers,
    named_by_numbers,
    named_by_simclr,
)
from selftaught.encoders.timm_models import usual_intensity, usual_side
from selftaught.errors import ConfigError, FileError, shown
from selftaught.foundation.files import load_tensors

LAYOUTS = (
    NameLayout(
        "a state_dict in torchvision's layout", "features.0.0.weight", torchvisions_mobilenet
    ),
    NameLayout("a state_dict in timm's layout", "conv_stem.weight", timms_mobilenet),
    NameLayout("a state_dict in torchvision's layout", "conv1.weight", named_by_layers),
    NameLayout("a state_dict in the order of torchvision's layers", "0.weight", named_by_numbers),
    NameLayout("a conversion of SimCLR's (Chen et al. 2020)", "net.0.0.weight", named_by_simclr),
    NameLayout(
        "a checkpoint of DeepCluster (Caron et al. 2018)",
        FIRST,
        deepclusters,
        "Mind its licence: what was released with DeepCluster is CC BY-NC 4.0.",
    ),
)
"""In the order in which they are tried."""

_KNOWN = (
    "known are ResNets, MobileNetV2, and DeepCluster's AlexNet and VGG-16; "
    "--encoder names another of timm's"
)
_SAID = {
    "unit": "Pixels become 0 to 1, without mean and std.",
    "symmetric": "Pixels become -1 to 1, by mean 0.5 and std 0.5.",
}
_TYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_TYPES |= {torch.int64, torch.int32, torch.uint8, torch.bool}
_NAMED = 3  # names in a complaint
_DEPTH = 8  # mappings in mappings


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


def read_checkpoint(
    path: Path,
    *,
    image_size: int | None = None,
    encoder: str | None = None,
    pixels: str | None = None,
) -> Imported:
    """The encoder in somebody else's checkpoint; nothing in the file can run.

    Args:
        path: A file of torch.save's (.pth, .pt, .tar), or .safetensors.
        image_size: Side of the encoder's input in pixels; None: 32 for a ResNet with the small
            stem, the side of a network of timm's that has only one, 224 for others.
        encoder: Which network it is; None: what its names and shapes say.
        pixels: One of PIXELS; None: "unit" for SimCLR's, "imagenet" for others.

    Returns:
        The encoder with its preprocessing, and what there is to say of the file.

    Raises:
        FileError: It is missing, damaged or unsafe; or it is no layout that is known, or lacks
            tensors of it or has others, or of other shapes: they are named.
        ConfigError: There is no such network, or it cannot take images of that size.
    """
    if encoder is not None:
        check_architecture(encoder)
    tensors = _without_module(_state_dict(_read(path), path), path)
    found = recognised(tensors, LAYOUTS, path, encoder)
    if found is None and encoder is None:
        raise FileError(f"{path} is of no network that can be imported", _KNOWN)
    found = found or _by_name(encoder or "", tensors)
    built = build_encoder(_as_asked(found.match, image_size, pixels, path))
    kept, rest = _parted(built, tensors, found)
    _load(built, kept, path)
    notes = (
        taken(found.prefix),
        *found.match.notes,
        _of_pixels(built, chosen=pixels is not None),
        left_out(rest, found.prefix),
    )
    return Imported(built, tuple(filter(None, notes)), found.whose, found.licence)


def _by_name(architecture: str, tensors: Mapping[str, Tensor]) -> Found:
    """The tensors under the names that a network of timm's, or one of our own, has itself."""
    if architecture in OWN:
        whose, config = "selftaught's", EncoderConfig(architecture)
    else:
        side = usual_side(architecture)
        whose, config = "timm's", EncoderConfig(architecture, image_size=side, stem="standard")
    prefix = best_prefix(tensors, build_encoder(config).trunk.state_dict())
    match = LayoutMatch(config, under(prefix, tensors))
    return Found(f"a state_dict in {whose} layout", prefix, match, LICENCE)


def _as_asked(
    match: LayoutMatch, image_size: int | None, pixels: str | None, path: Path
) -> EncoderConfig:
    """The match's configuration with the user's options."""
    config = match.config
    if match.one_size and image_size not in (None, config.image_size):
        raise ConfigError(
            f"{path}: {match.one_size} take images of {config.image_size} px",
            "leave out --image-size",
        )
    intensity = PIXELS[pixels] if pixels else config.intensity
    return replace(config, image_size=image_size or config.image_size, intensity=intensity)


def _parted(
    encoder: Encoder, tensors: Mapping[str, Tensor], found: Found
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the encoder is given, by its names; and what is left out, by the names of the file."""
    own, inside = encoder.trunk.state_dict().keys(), found.match.tensors
    heads = {name for name in inside if name not in own and is_aside(name)}
    outside = {n: t for n, t in tensors.items() if not n.startswith(found.prefix)}
    rest = outside | {f"{found.prefix}{name}": inside[name] for name in inside if name in heads}
    return {n: t for n, t in inside.items() if n not in heads}, rest


def _of_pixels(encoder: Encoder, *, chosen: bool) -> str:
    """A sentence on pixels that are not treated as ImageNet's, or perhaps should not be."""
    name, intensity = encoder.config.architecture, encoder.config.intensity
    for pixels, said in _SAID.items():
        if intensity == PIXELS[pixels]:
            return said
    usual = usual_intensity(name)
    if chosen or name in OWN or usual == intensity:
        return ""
    mean, std = (", ".join(f"{x:.3g}" for x in xs) for xs in (usual.mean, usual.std))
    return (
        f"Pixels are less ImageNet's mean, by its std; timm's own weights of {name} take mean "
        f"{mean} and std {std}: see --pixels."
    )


def _load(encoder: Encoder, tensors: dict[str, Tensor], path: Path) -> None:
    """Put the weights into the encoder, once all of them are known to be there and to fit."""
    own = encoder.trunk.state_dict()
    uncounted = {n for n in own if n.endswith(".num_batches_tracked")} - tensors.keys()
    tensors = tensors | {name: torch.tensor(0) for name in uncounted}
    _check(own, tensors, encoder.config.architecture, path)
    load_weights(encoder, tensors, path)


def _check(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], name: str, path: Path) -> None:
    if missing := sorted(own.keys() - tensors.keys()):
        raise FileError(
            f"{path} lacks {_listed(missing)}",
            f"give a whole checkpoint of {name}, or name its network with --encoder",
        )
    if unknown := sorted(tensors.keys() - own.keys()):
        raise FileError(
            f"{path} holds {_listed(unknown)}, which {name} does not have",
            "leave that out, or name its network with --encoder",
        )
    wrong = [n for n in own if own[n].shape != tensors[n].shape]
    if wrong:
        theirs, ours = tuple(tensors[wrong[0]].shape), tuple(own[wrong[0]].shape)
        more = f", and {len(wrong) - 1} more do not fit {name}" if len(wrong) > 1 else ""
        raise FileError(
            f"{path}: {wrong[0]} has shape {theirs}, not {ours}{more}",
            "name its network with --encoder, or its --image-size; networks whose first layer or "
            "kernels differ from the published ones are not known",
        )


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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong is said below, in one line
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
            if (bad := archive.testzip()) is not None:  # torch.load does not look at checksums
                raise FileError(f"{path} is damaged ({shown(bad)})", "fetch it again")


def _state_dict(value: Any, path: Path) -> dict[str, Tensor]:
    """All named tensors of what was read, whatever stands beside them.

    A mapping counts if it holds plain tensors by name and nothing else. One that holds other
    mappings gives their names a prefix: {"teacher": {"backbone": {"conv1.weight": ...}}}.
    """
    found: dict[str, Tensor] = {}
    level, seen = {"": value}, set()
    for _ in range(_DEPTH):
        below: dict[str, Any] = {}
        for prefix, inner in level.items():
            if id(inner) in seen or not isinstance(inner, Mapping):
                continue  # a mapping may hold itself
            seen.add(id(inner))
            if not all(isinstance(name, str) for name in inner):
                continue
            named = {f"{prefix}{name}": item for name, item in inner.items()}
            if all(map(_is_plain, named.values())):
                found |= named
            else:
                below |= {f"{name}.": item for name, item in named.items()}
        level = below
    if not found:
        raise FileError(f"{path} holds no state_dict of tensors", _KNOWN)
    return found


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


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
