"""An encoder folder: model.safetensors, config.json and README.md.

config.json has the form that timm reads from a local folder, plus our own configuration under
"selftaught"; the tensors have timm's names. For a timm network in its standard form,
`timm.create_model("local-dir:FOLDER", pretrained=True)` loads the same network.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selftaught.encoders.encoder import OWN, Encoder, EncoderConfig, build_encoder, crop_fraction
from selftaught.errors import ConfigError, FileError, did_you_mean
from selftaught.foundation import files
from selftaught.views.policy import Intensity

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"

FORMAT = 1
"""Version of our part of config.json; later versions are refused."""

_PREFIX = "encoder.trunk."  # before the trunk's tensors in a checkpoint
_FROM_TIMM = ("first_conv", "classifier", "fixed_input_size", "pool_size")
_TYPES: dict[str, tuple[type, ...]] = {
    "architecture": (str,),
    "in_channels": (int,),
    "image_size": (int,),
    "stem": (str,),
    "options": (dict,),
    "front": (str,),
}


def save_encoder(encoder: Encoder, folder: Path, *, card: str = "") -> None:
    """Write an encoder folder; an existing one is replaced once the new one is complete.

    Args:
        encoder: The encoder to save.
        folder: Output folder; its parent must exist.
        card: Sentences for the model card on how the encoder was made.
    """
    from selftaught.encoders.card import model_card

    with files.new_folder(folder) as part:
        files.save_tensors(part / WEIGHTS, encoder.trunk.state_dict())
        save_config(encoder, part)
        files.write_text(part / CARD, model_card(encoder, card))
        _move_to_backup(folder)
    files.remove(_backup(folder))


def save_config(encoder: Encoder, folder: Path) -> None:
    """Write config.json alone, so that a run's checkpoints can be opened before the run ends."""
    folder.mkdir(exist_ok=True)
    files.write_json(folder / CONFIG, config_to_json(encoder))


def open_encoder(name: str) -> Encoder:
    """Open an encoder by name; it is in training mode, as `build_encoder` returns it.

    Args:
        name: A run folder (its encoder, or else that of its newest checkpoint), an encoder folder,
            or "timm:NAME" for pretrained weights in the local cache.

    Raises:
        FileError: It is missing or damaged; the message names the file and the fault.
        ConfigError: timm does not know NAME.
        UserError: The weights of NAME are not in the cache; the remedy downloads them.
    """
    if name.startswith("timm:"):
        from selftaught.encoders.timm_models import pretrained_weights

        config, tensors, path = pretrained_weights(name.removeprefix("timm:"))
        encoder = build_encoder(config)
        load_weights(encoder, tensors, path)
        return encoder
    folder, checkpoints = _locate(name)
    encoder = _build_from_json(folder / CONFIG)
    if (folder / WEIGHTS).exists() or checkpoints is None:
        load_weights(encoder, files.load_tensors(folder / WEIGHTS), folder / WEIGHTS)
    else:
        load_weights(encoder, *_newest_checkpoint(checkpoints))
    return encoder


def load_weights(encoder: Encoder, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load tensors with the trunk's names into an encoder, after checking all of them.

    Raises:
        FileError: A tensor is missing, unknown, not finite, or of another shape or kind.
    """
    own = encoder.trunk.state_dict()
    problem = _problem(own, tensors)
    if problem:
        raise FileError(f"{path}: {problem}", "restore the file, or train again")
    encoder.trunk.load_state_dict(dict(tensors))


def config_to_json(encoder: Encoder) -> dict[str, Any]:
    """The content of config.json: what timm reads from a local folder, and our configuration."""
    config = encoder.config
    theirs = getattr(encoder.trunk, "pretrained_cfg", {})
    pretrained_cfg = {name: theirs[name] for name in _FROM_TIMM if theirs.get(name) is not None}
    size = config.image_size
    pretrained_cfg |= {
        "input_size": [config.in_channels, size, size],
        "mean": list(config.intensity.mean),
        "std": list(config.intensity.std),
        "crop_pct": crop_fraction(size),
        "interpolation": "bilinear",
        "num_classes": 0,
    }
    return {
        "architecture": config.architecture,
        "num_classes": 0,
        "num_features": encoder.dim,
        "pretrained_cfg": pretrained_cfg,
        "selftaught": {"format": FORMAT, **asdict(config)},
    }


def config_from_json(value: Any, path: Path) -> EncoderConfig:
    """Our configuration from the content of config.json; additions of later versions are refused.

    Raises:
        FileError: It is not a selftaught encoder, or a value has the wrong type.
    """
    ours = value.get("selftaught") if isinstance(value, dict) else None
    if not isinstance(ours, dict):
        raise FileError(f"{path} is not a selftaught encoder", "choose another folder")
    given = dict(ours)
    if given.pop("format", None) != FORMAT or given.keys() - {
        f.name for f in fields(EncoderConfig)
    }:
        raise FileError(f"{path} is from another version", "install the newest selftaught")
    intensity = _intensity(given.pop("intensity"), path) if "intensity" in given else Intensity()
    for name, found in {"architecture": None, **given}.items():
        if not isinstance(found, _TYPES[name]) or isinstance(found, bool):
            raise _value_error(path, name)
    return EncoderConfig(**given, intensity=intensity)


def _backup(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.old")


def _move_to_backup(folder: Path) -> None:
    if folder.exists():
        files.remove(_backup(folder))
        folder.rename(_backup(folder))


def _locate(name: str) -> tuple[Path, Path | None]:
    """The encoder folder with this name, and the checkpoints if it belongs to a run."""
    path = Path(name)
    if os.path.isfile(path / CONFIG):  # unlike Path.is_file, False for an impossible name
        checkpoints = path.absolute().parent / "checkpoints"
        return path, checkpoints if checkpoints.is_dir() else None
    for folder in (path / "encoder", _backup(path / "encoder")):  # .old: killed while replacing it
        if os.path.isfile(folder / CONFIG):
            return folder, path / "checkpoints"
    raise FileError(f"no encoder found in {name!r}", _suggestion(path))


def _suggestion(path: Path) -> str:
    """A remedy that names a similar folder next to it, or a similar network of timm's."""
    import timm

    if timm.is_model(path.name) and path.name not in OWN:
        return f"did you mean 'timm:{path.name}'?"
    siblings = [p.name for p in path.parent.iterdir()] if os.path.isdir(path.parent) else []
    siblings = [name for name in siblings if not name.startswith(".")]
    remedy = did_you_mean(path.name, siblings)
    useful = remedy.startswith("did you mean") and not os.path.exists(path)
    return remedy if useful else "pass a run folder, an encoder folder or timm:NAME"


def _build_from_json(path: Path) -> Encoder:
    """Build the encoder that config.json describes."""
    config = config_from_json(files.read_json(path), path)
    try:
        return build_encoder(config)
    except ConfigError as error:
        raise FileError(f"{path}: {error.what}", error.remedy) from error


def _intensity(value: Any, path: Path) -> Intensity:
    if not isinstance(value, dict) or value.keys() != {f.name for f in fields(Intensity)}:
        raise _value_error(path, "intensity")
    mean, std = value["mean"], value["std"]
    if not isinstance(mean, list) or not isinstance(std, list):
        raise _value_error(path, "intensity")
    numbers = [value["low"], value["high"], *mean, *std]
    if not all(type(n) in (int, float) and math.isfinite(n) for n in numbers):
        raise _value_error(path, "intensity")
    if value["low"] >= value["high"] or min(std, default=0) <= 0:
        raise _value_error(path, "intensity")
    return Intensity(value["low"], value["high"], tuple(mean), tuple(std))


def _value_error(path: Path, name: str) -> FileError:
    return FileError(f"{path}: {name} is missing or invalid", "restore the file")


def _problem(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """What is wrong with tensors that should replace `own`; empty if nothing is."""
    for name in own:
        if name not in tensors:
            return f"the tensor {name} is missing"
    for name, tensor in tensors.items():
        if name not in own:
            return f"the tensor {name} does not belong to this network"
        if tensor.shape != own[name].shape:
            return f"{name} has shape {tuple(tensor.shape)}, not {tuple(own[name].shape)}"
        if tensor.dtype.is_floating_point != own[name].dtype.is_floating_point:
            return f"{name} has type {tensor.dtype}, not {own[name].dtype}"
        if not torch.isfinite(tensor).all():
            return f"{name} has values that are not finite"
    return ""


def _newest_checkpoint(folder: Path) -> tuple[dict[str, Tensor], Path]:
    """The trunk's tensors and the file of the newest checkpoint whose weights are intact."""
    paths = sorted(folder.glob("[0-9]*"), key=lambda path: path.name.zfill(32), reverse=True)
    for path in (path / WEIGHTS for path in paths):
        if _is_intact(path):
            tensors = files.load_tensors(path).items()
            return {n.removeprefix(_PREFIX): t for n, t in tensors if n.startswith(_PREFIX)}, path
    raise FileError(
        f"{folder.parent} has no encoder and no intact checkpoint", "start the run again"
    )


def _is_intact(path: Path) -> bool:
    """Whether a checkpoint's weights have the checksum in its manifest."""
    try:
        manifest = files.read_json(path.with_name("manifest.json"))
        return bool(manifest["files"][WEIGHTS]["sha256"] == files.sha256(path))
    except (FileError, OSError, LookupError, TypeError):
        return False
