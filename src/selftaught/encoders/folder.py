"""An encoder on disk: model.safetensors, config.json and README.md, loadable by name elsewhere.

config.json is in the form that timm reads from a local folder, with our own configuration beside
it under "selftaught"; the tensors carry timm's names. For a standard stem
`timm.create_model("local-dir:FOLDER", pretrained=True)` is the same network.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selftaught import files
from selftaught.encoders.encoder import Encoder, EncoderConfig, build
from selftaught.encoders.resnet import CIFAR_RESNETS
from selftaught.errors import ConfigError, FileError, UserError, nearest
from selftaught.views.policy import CenterCrop, Intensity, evaluation

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"

FORMAT = 1
"""Of our part of config.json; a later number is refused, an earlier one read."""

_PREFIX = "encoder.trunk."  # of a method's tensors in a checkpoint
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
    """Write an encoder folder, whole; one that is there is replaced once the new one is complete.

    Args:
        encoder: What to write.
        folder: Where to; its parent must exist.
        card: How it was made, in sentences, for the model card.
    """
    with files.new_folder(folder) as part:
        files.save_tensors(part / WEIGHTS, encoder.trunk.state_dict())
        save_config(encoder, part)
        files.write_text(part / CARD, model_card(encoder, card))
        _set_aside(folder)
    files.remove(_aside(folder))


def save_config(encoder: Encoder, folder: Path) -> None:
    """Write config.json alone: with it a run's checkpoints can be opened before the run ends."""
    folder.mkdir(exist_ok=True)
    files.write_json(folder / CONFIG, config_to_json(encoder))


def open_encoder(name: str) -> Encoder:
    """An encoder by name, in training mode as `build` gives it.

    Args:
        name: A run's folder (its encoder, or else its newest checkpoint's), an encoder folder, or
            "timm:NAME" for pretrained weights that are in the local cache already.

    Raises:
        FileError: There is none, or it is damaged; the error names the file and what is wrong.
        ConfigError: timm does not know NAME.
        UserError: The weights of NAME are not in the cache; the remedy fetches them.
    """
    if name.startswith("timm:"):
        return _pretrained(name.removeprefix("timm:"))
    folder, checkpoints = _locate(name)
    encoder = _build(folder / CONFIG)
    if (folder / WEIGHTS).exists() or checkpoints is None:
        load_weights(encoder, files.load_tensors(folder / WEIGHTS), folder / WEIGHTS)
    else:
        load_weights(encoder, *_newest_checkpoint(checkpoints))
    return encoder


def load_weights(encoder: Encoder, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put tensors with the trunk's names into an encoder, once all of them are known to be right.

    Raises:
        FileError: A tensor is missing, extra, of another shape or kind, or not finite everywhere.
    """
    own = encoder.trunk.state_dict()
    problem = _problem(own, tensors)
    if problem:
        raise FileError(f"{path}: {problem}", "restore the file, or train again")
    encoder.trunk.load_state_dict(dict(tensors))


def config_to_json(encoder: Encoder) -> dict[str, Any]:
    """config.json: what timm reads of a local folder, and our configuration."""
    config = encoder.config
    theirs = getattr(encoder.trunk, "pretrained_cfg", {})
    pretrained_cfg = {name: theirs[name] for name in _FROM_TIMM if theirs.get(name) is not None}
    size = config.image_size
    pretrained_cfg |= {
        "input_size": [config.in_channels, size, size],
        "mean": list(config.intensity.mean),
        "std": list(config.intensity.std),
        "crop_pct": _crop_fraction(size),
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
    """Our configuration from the contents of config.json; what a later version added is refused.

    Raises:
        FileError: It is none of ours, or a value has the wrong type.
    """
    ours = value.get("selftaught") if isinstance(value, dict) else None
    if not isinstance(ours, dict):
        raise FileError(f"{path} is not an encoder of selftaught", "name another folder")
    given = dict(ours)
    if given.pop("format", None) != FORMAT or given.keys() - {
        f.name for f in fields(EncoderConfig)
    }:
        raise FileError(f"{path} is of another version", "install the newest selftaught")
    intensity = _intensity(given.pop("intensity"), path) if "intensity" in given else Intensity()
    for name, found in {"architecture": None, **given}.items():
        if not isinstance(found, _TYPES[name]) or isinstance(found, bool):
            raise _mistyped(path, name)
    return EncoderConfig(**given, intensity=intensity)


def model_card(encoder: Encoder, card: str = "") -> str:
    """README.md of an encoder folder: what it is, what it eats, how to load it."""
    config = encoder.config
    low, high = config.intensity.low, config.intensity.high
    timms = is_timms(config)
    in_timm = _IN_TIMM if timms else _NOT_IN_TIMM.format(config.stem)
    return _CARD.format(
        library="timm" if timms else "selftaught",
        name=config.architecture,
        dim=encoder.dim,
        side=config.image_size,
        channels=config.in_channels,
        card=card.strip() or "An encoder made by selftaught.",
        percent=100 * _crop_fraction(config.image_size),
        range=f"{low:g} to {high:g}",
        mean=", ".join(f"{m:.4g}" for m in config.intensity.mean),
        std=", ".join(f"{s:.4g}" for s in config.intensity.std),
        in_timm=in_timm,
    )


def is_timms(config: EncoderConfig) -> bool:
    """Whether timm builds the very same network from the architecture's name."""
    return config.stem == "standard" and config.architecture not in CIFAR_RESNETS


def _crop_fraction(size: int) -> float:
    box = evaluation(size).box
    assert isinstance(box, CenterCrop)
    return box.fraction


def _aside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.old")


def _set_aside(folder: Path) -> None:
    if folder.exists():
        files.remove(_aside(folder))
        folder.rename(_aside(folder))


def _locate(name: str) -> tuple[Path, Path | None]:
    """The encoder folder of that name, and the checkpoints where it belongs to a run."""
    path = Path(name)
    if os.path.isfile(path / CONFIG):  # unlike Path.is_file, False for any name that cannot be
        checkpoints = path.absolute().parent / "checkpoints"
        return path, checkpoints if checkpoints.is_dir() else None
    for folder in (path / "encoder", _aside(path / "encoder")):  # .old: killed while replacing it
        if os.path.isfile(folder / CONFIG):
            return folder, path / "checkpoints"
    raise FileError(f"there is no encoder in {name!r}", _near(path))


def _near(path: Path) -> str:
    """A neighbouring folder, or a network of timm's, with about this name."""
    import timm

    if timm.is_model(path.name):
        return f"did you mean 'timm:{path.name}'?"
    siblings = [p.name for p in path.parent.iterdir()] if os.path.isdir(path.parent) else []
    siblings = [name for name in siblings if not name.startswith(".")]
    remedy = nearest(path.name, siblings)
    useful = remedy.startswith("did you mean") and not os.path.exists(path)
    return remedy if useful else "give a run's folder, an encoder folder or timm:NAME"


def _build(path: Path) -> Encoder:
    """A new encoder as config.json describes it."""
    config = config_from_json(files.read_json(path), path)
    try:
        return build(config)
    except ConfigError as error:
        raise FileError(f"{path}: {error.what}", error.remedy) from error


def _intensity(value: Any, path: Path) -> Intensity:
    if not isinstance(value, dict) or value.keys() != {f.name for f in fields(Intensity)}:
        raise _mistyped(path, "intensity")
    mean, std = value["mean"], value["std"]
    if not isinstance(mean, list) or not isinstance(std, list):
        raise _mistyped(path, "intensity")
    numbers = [value["low"], value["high"], *mean, *std]
    if not all(type(n) in (int, float) and math.isfinite(n) for n in numbers):
        raise _mistyped(path, "intensity")
    if value["low"] >= value["high"] or min(std, default=0) <= 0:
        raise _mistyped(path, "intensity")
    return Intensity(value["low"], value["high"], tuple(mean), tuple(std))


def _mistyped(path: Path, name: str) -> FileError:
    return FileError(f"{path}: {name} is missing or has a wrong value", "restore the file")


def _problem(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """What is wrong with tensors that shall take the place of `own`; empty if nothing is."""
    for name in own:
        if name not in tensors:
            return f"the tensor {name} is missing"
    for name, tensor in tensors.items():
        if name not in own:
            return f"the tensor {name} does not belong to this network"
        if tensor.shape != own[name].shape:
            return f"{name} has shape {tuple(tensor.shape)}, not {tuple(own[name].shape)}"
        if tensor.dtype.is_floating_point != own[name].dtype.is_floating_point:
            return f"{name} is of {tensor.dtype}, not {own[name].dtype}"
        if not torch.isfinite(tensor).all():
            return f"{name} holds values that are not finite"
    return ""


def _newest_checkpoint(folder: Path) -> tuple[dict[str, Tensor], Path]:
    """The trunk's tensors in the newest checkpoint whose weights are as they were written."""
    paths = sorted(folder.glob("[0-9]*"), key=lambda path: path.name.zfill(32), reverse=True)
    for path in (path / WEIGHTS for path in paths):
        if _verifies(path):
            tensors = files.load_tensors(path).items()
            return {n.removeprefix(_PREFIX): t for n, t in tensors if n.startswith(_PREFIX)}, path
    raise FileError(
        f"{folder.parent} has no encoder and no checkpoint that verifies", "start the run again"
    )


def _verifies(path: Path) -> bool:
    """Whether a checkpoint's weights have the checksum that its manifest names."""
    try:
        manifest = files.read_json(path.with_name("manifest.json"))
        return bool(manifest["files"][WEIGHTS]["sha256"] == files.sha256(path))
    except (FileError, OSError, LookupError, TypeError):
        return False


def _pretrained(name: str) -> Encoder:
    """timm's pretrained weights from the local cache; no network access."""
    import timm

    known = {*timm.list_models(), *timm.list_pretrained()}
    if name not in known:
        remedy = nearest(name, known)
        few = len(remedy) < 200  # with no near name it would list some thousand
        raise ConfigError(
            f"timm has no network {name!r}", remedy if few else "timm.list_pretrained() lists them"
        )
    cfg: Any = timm.get_pretrained_cfg(name)
    path = _cached(name, cfg)
    size = int(cfg.input_size[-1])
    intensity = Intensity(mean=tuple(cfg.mean), std=tuple(cfg.std))
    config = EncoderConfig(
        name.split(".")[0], image_size=size, stem="standard", intensity=intensity
    )
    encoder = build(config)
    load_weights(encoder, _headless(name, path), path)
    return encoder


def _cached(name: str, cfg: Any) -> Path:
    """Where the cache holds the weights as safetensors."""
    from huggingface_hub import try_to_load_from_cache

    if not cfg.hf_hub_id:
        raise UserError(f"timm has no safe weights of {name}", "choose another network")
    found = try_to_load_from_cache(cfg.hf_hub_id, WEIGHTS)
    if not isinstance(found, str):
        raise UserError(
            f"the weights of {name} are not in timm's cache",
            f"python -c \"import timm; timm.create_model('{name}', pretrained=True)\" fetches them",
        )
    return Path(found)


def _headless(name: str, path: Path) -> dict[str, Tensor]:
    """The tensors as timm reads them (some are renamed or resized), without the classifier."""
    import timm

    files.load_tensors(path)  # that it is safetensors, and whole, before timm opens it
    overlay = {"file": str(path), "custom_load": False}
    try:
        model: Any = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    except (KeyError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise FileError(f"{path} is not what timm expects ({reason})", "fetch it again") from error
    model.reset_classifier(0)
    tensors: dict[str, Tensor] = model.state_dict()
    return tensors


_CARD = """\
---
library_name: {library}
tags:
- image-feature-extraction
- self-supervised
---
# {name}, self-taught

{card}

It turns an image of {side} x {side} pixels and {channels} channel(s) into a vector of {dim}
numbers. There is no classifier. The weights belong to whoever trained them.

## Preprocessing

The central {percent:g} % of the shorter side, resized to {side} x {side} (bilinear, antialiased);
raw values from {range} become 0 to 1, then (x - mean) / std with mean {mean} and std {std}.
`encoder.preprocess` does all of it.

## Loading

```python
import selftaught

encoder = selftaught.load("FOLDER")
vectors = encoder(encoder.preprocess(images))
```

{in_timm}"""

_IN_TIMM = """\
```python
import timm

model = timm.create_model("local-dir:FOLDER", pretrained=True)
```

gives the same network; without `pretrained=True` timm builds it with random weights.
"""

_NOT_IN_TIMM = """\
timm cannot express this network (its stem is the {} one), so that only selftaught loads it.
"""
