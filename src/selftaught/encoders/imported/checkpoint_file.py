"""Checkpoints of other programs, made into encoders: the only place where torch.load is called.

LAYOUTS find a network behind any prefix and at any depth of nested mappings. Any other network of
timm's is found by its own names if the user names it. A partial load is an error: it names tensors
that are missing, unknown or of another shape, unless they clearly belong to a head.
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
from selftaught.encoders.imported.deepcluster_layout import FIRST, match_deepcluster
from selftaught.encoders.imported.layouts import (
    LICENCE,
    PIXELS,
    LayoutMatch,
    NameLayout,
    PrefixedMatch,
    best_prefix,
    is_auxiliary,
    omission_note,
    prefix_note,
    recognise,
    strip_prefix,
)
from selftaught.encoders.imported.mobilenet_layout import (
    match_timm_mobilenet,
    match_torchvision_mobilenet,
)
from selftaught.encoders.imported.resnet_layout import (
    match_layer_names,
    match_numbered_layers,
    match_simclr,
)
from selftaught.encoders.timm_models import default_image_size, default_intensity
from selftaught.errors import ConfigError, FileError, printable
from selftaught.foundation.files import load_tensors

LAYOUTS = (
    NameLayout(
        "a state_dict in torchvision's layout", "features.0.0.weight", match_torchvision_mobilenet
    ),
    NameLayout("a state_dict in timm's layout", "conv_stem.weight", match_timm_mobilenet),
    NameLayout("a state_dict in torchvision's layout", "conv1.weight", match_layer_names),
    NameLayout(
        "a state_dict numbered in the order of torchvision's layers",
        "0.weight",
        match_numbered_layers,
    ),
    NameLayout("a conversion of SimCLR (Chen et al. 2020)", "net.0.0.weight", match_simclr),
    NameLayout(
        "a checkpoint of DeepCluster (Caron et al. 2018)",
        FIRST,
        match_deepcluster,
        "Check its licence: the files released with DeepCluster are CC BY-NC 4.0.",
    ),
)
"""In the order in which they are tried."""

_KNOWN = (
    "use a ResNet, MobileNetV2, or DeepCluster's AlexNet or VGG-16, or name another timm network "
    "with --encoder"
)
_PIXEL_NOTES = {
    "unit": "Pixels are scaled to 0 to 1, without mean and std.",
    "symmetric": "Pixels are scaled to -1 to 1, by mean 0.5 and std 0.5.",
}
_TYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_TYPES |= {torch.int64, torch.int32, torch.uint8, torch.bool}
_NAMED = 3  # names listed in an error
_DEPTH = 8  # levels of nested mappings


@dataclass(frozen=True)
class ImportedEncoder:
    """An encoder from a checkpoint.

    Attributes:
        encoder: The encoder.
        notes: Sentences on what was imported and what was left out.
        layout: Kind of file, such as "a checkpoint of DeepCluster (Caron et al. 2018)".
        licence: A sentence about the licence.
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
) -> ImportedEncoder:
    """Read the encoder in another program's checkpoint; no code in the file can run.

    Args:
        path: A torch.save file (.pth, .pt, .tar), or .safetensors.
        image_size: Side of the encoder's input in pixels; None: 32 for a ResNet with the small
            stem, the fixed size of a timm network that has one, 224 for others.
        encoder: Name of the network; None: recognised by names and shapes.
        pixels: One of PIXELS; None: "unit" for SimCLR, "imagenet" for others.

    Returns:
        The encoder with its preprocessing, and notes on the file.

    Raises:
        FileError: The file is missing, damaged or unsafe, its layout is unknown, or tensors are
            missing, unknown or of other shapes; the message names them.
        ConfigError: The network is unknown, or cannot process images of that size.
    """
    if encoder is not None:
        check_architecture(encoder)
    tensors = _without_module(_state_dict(_read(path), path), path)
    found = recognise(tensors, LAYOUTS, path, encoder)
    if found is None and encoder is None:
        raise FileError(f"the network in {path} is not recognised", _KNOWN)
    found = found or _match_own_names(encoder or "", tensors)
    built = build_encoder(_requested_config(found.match, image_size, pixels, path))
    kept, rest = _split_tensors(built, tensors, found)
    _load(built, kept, path)
    notes = (
        prefix_note(found.prefix),
        *found.match.notes,
        _pixel_note(built, chosen=pixels is not None),
        omission_note(rest, found.prefix),
    )
    return ImportedEncoder(built, tuple(filter(None, notes)), found.whose, found.licence)


def _match_own_names(architecture: str, tensors: Mapping[str, Tensor]) -> PrefixedMatch:
    """Match tensors with the names that a network of timm's, or one of our own, has itself."""
    if architecture in OWN:
        whose, config = "selftaught's", EncoderConfig(architecture)
    else:
        side = default_image_size(architecture)
        whose, config = "timm's", EncoderConfig(architecture, image_size=side, stem="standard")
    prefix = best_prefix(tensors, build_encoder(config).trunk.state_dict())
    match = LayoutMatch(config, strip_prefix(prefix, tensors))
    return PrefixedMatch(f"a state_dict in {whose} layout", prefix, match, LICENCE)


def _requested_config(
    match: LayoutMatch, image_size: int | None, pixels: str | None, path: Path
) -> EncoderConfig:
    """The match's configuration with the user's options."""
    config = match.config
    if match.one_size and image_size not in (None, config.image_size):
        raise ConfigError(
            f"{path}: {match.one_size} need images of {config.image_size} px",
            "drop --image-size",
        )
    intensity = PIXELS[pixels] if pixels else config.intensity
    return replace(config, image_size=image_size or config.image_size, intensity=intensity)


def _split_tensors(
    encoder: Encoder, tensors: Mapping[str, Tensor], found: PrefixedMatch
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors to load, by the encoder's names, and the rest, by the file's names."""
    own, inside = encoder.trunk.state_dict().keys(), found.match.tensors
    heads = {name for name in inside if name not in own and is_auxiliary(name)}
    outside = {n: t for n, t in tensors.items() if not n.startswith(found.prefix)}
    rest = outside | {f"{found.prefix}{name}": inside[name] for name in inside if name in heads}
    return {n: t for n, t in inside.items() if n not in heads}, rest


def _pixel_note(encoder: Encoder, *, chosen: bool) -> str:
    """A sentence on pixels that are not, or perhaps should not be, normalised as ImageNet's."""
    name, intensity = encoder.config.architecture, encoder.config.intensity
    for pixels, note in _PIXEL_NOTES.items():
        if intensity == PIXELS[pixels]:
            return note
    usual = default_intensity(name)
    if chosen or name in OWN or usual == intensity:
        return ""
    mean, std = (", ".join(f"{x:.3g}" for x in xs) for xs in (usual.mean, usual.std))
    return (
        f"Pixels are normalised by ImageNet's mean and std; timm's own weights of {name} use mean "
        f"{mean} and std {std}: see --pixels."
    )


def _load(encoder: Encoder, tensors: dict[str, Tensor], path: Path) -> None:
    """Load the weights into the encoder, after checking that all are present and fit."""
    own = encoder.trunk.state_dict()
    uncounted = {n for n in own if n.endswith(".num_batches_tracked")} - tensors.keys()
    tensors = tensors | {name: torch.tensor(0) for name in uncounted}
    _check(own, tensors, encoder.config.architecture, path)
    load_weights(encoder, tensors, path)


def _check(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], name: str, path: Path) -> None:
    if missing := sorted(own.keys() - tensors.keys()):
        raise FileError(
            f"{path} lacks {_name_list(missing)}",
            f"pass a complete checkpoint of {name}, or name its network with --encoder",
        )
    if unknown := sorted(tensors.keys() - own.keys()):
        raise FileError(
            f"{path} holds {_name_list(unknown)}, which {name} does not have",
            "remove that, or name its network with --encoder",
        )
    wrong = [n for n in own if own[n].shape != tensors[n].shape]
    if wrong:
        theirs, ours = tuple(tensors[wrong[0]].shape), tuple(own[wrong[0]].shape)
        more = f", and {len(wrong) - 1} more do not fit {name}" if len(wrong) > 1 else ""
        raise FileError(
            f"{path}: {wrong[0]} has shape {theirs}, not {ours}{more}",
            "name its network with --encoder, or set --image-size; networks whose first layer or "
            "kernels differ from the published ones are not supported",
        )


def _read(path: Path) -> Any:
    """The content of the file, as tensors and plain values."""
    if not path.is_file():  # reading a pipe would block
        raise FileError(
            f"{path} is not a file", "pass a .pth, .pt or .safetensors file, not a folder"
        )
    if path.suffix == ".safetensors":
        return load_tensors(path)
    try:
        _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error below says it in one line
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileError:
        raise
    except Exception as error:  # a damaged or hostile file can make torch raise anything
        unsafe = "GLOBAL" in str(error)
        reason = "holds more than tensors and numbers" if unsafe else "is damaged, or not one"
        raise FileError(
            f"{path} cannot be read as a torch.save file: it {reason}",
            "pass one that holds a state_dict, or .safetensors",
        ) from None


def _check_archive(path: Path) -> None:
    """Refuse an archive that claims more bytes than it has: torch.save does not compress."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            claimed = sum(entry.file_size for entry in archive.infolist())
            if claimed > path.stat().st_size:
                raise FileError(f"{path} claims more bytes than it has", "download it again")
            if (bad := archive.testzip()) is not None:  # torch.load does not verify checksums
                raise FileError(f"{path} is damaged ({printable(bad)})", "download it again")


def _state_dict(value: Any, path: Path) -> dict[str, Tensor]:
    """All named tensors in the content of a file, whatever else it contains.

    A mapping counts if it holds plain tensors by name and nothing else. In one that holds other
    mappings, their names become prefixes: {"teacher": {"backbone": {"conv1.weight": ...}}}.
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
    """The tensors without the "module" that DataParallel puts into their names."""
    plain = {".".join(p for p in n.split(".") if p != "module"): t for n, t in tensors.items()}
    if len(plain) < len(tensors):
        raise FileError(f"{path} has tensors both with and without module. in their names", _KNOWN)
    return plain


def _name_list(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
