"""Export of an encoder to another library, with a comparison of the outputs.

The folder is written under a temporary name and loaded by the target library, which then runs on
real images alongside the encoder. The folder gets its name only if the outputs agree.
"""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from selftaught.encoders.card import model_card
from selftaught.encoders.encoder import OWN, Encoder
from selftaught.encoders.folder import CARD, CONFIG, WEIGHTS, config_to_json
from selftaught.encoders.timm_models import timm_mismatch
from selftaught.errors import ConfigError, DataError, FileError, did_you_mean
from selftaught.foundation import files

if TYPE_CHECKING:
    from selftaught.encoders.preprocess import Picture

TOLERANCE = 1e-5
"""Largest difference allowed, relative to the largest output, or to 1 if that is smaller."""

TORCHVISION = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
"""Networks with the same layers and names in torchvision as in timm."""

_BATCH = 32  # images per batch


def export_encoder(encoder: Encoder, to: str, folder: Path, images: "Sequence[Picture]") -> float:
    """Write a folder that another library loads as the same network.

    Args:
        encoder: The encoder to export; it stays unchanged.
        to: "timm" or "torchvision".
        folder: Output folder; it must not exist yet.
        images: Real images for the comparison, raw, as `Encoder.preprocess` accepts them.

    Returns:
        The largest difference between the outputs of the encoder and of the reloaded network,
        divided by the largest output (by 1 if that is smaller): at most TOLERANCE.

    Raises:
        ConfigError: The target library cannot express the network; the message says why.
        DataError: `images` is empty.
        FileError: The outputs differ. No error leaves files behind.
    """
    check_export(encoder, to)
    _, load, usage = _TARGETS[to]
    if not len(images):
        raise DataError("there are no images to compare outputs on", "pass at least one")
    ours = copy.deepcopy(encoder).float().cpu().eval()
    with files.new_folder(folder) as part:
        _write(ours, part, usage.format(name=encoder.config.architecture))
        difference = largest_difference(ours, load(ours, part), images)
        if not difference <= TOLERANCE:  # NaN differs too
            raise FileError(
                f"outputs of {to} and of this encoder differ by {difference:.1e} of the largest",
                "please report this (nothing was written)",
            )
    return difference


def check_export(encoder: Encoder, to: str) -> None:
    """Check that the target library can express the network.

    Raises:
        ConfigError: It cannot; the message says why.
    """
    if to not in _TARGETS:
        raise ConfigError(f"cannot export to {to!r}", did_you_mean(to, _TARGETS))
    reason = _TARGETS[to][0](encoder)
    if reason:
        raise ConfigError(f"{to} cannot express this encoder", reason)


def largest_difference(ours: Encoder, theirs: nn.Module, images: "Sequence[Picture]") -> float:
    """The largest |ours(x) - theirs(x)| over all images, relative to max(1, largest |ours(x)|)."""
    worst, largest = torch.tensor(0.0), torch.tensor(1.0)
    with torch.no_grad():
        for start in range(0, len(images), _BATCH):
            x = ours.preprocess(images[start : start + _BATCH])
            h: Tensor = ours(x)
            worst = torch.maximum(worst, (h - theirs(x)).abs().max())
            largest = torch.maximum(largest, h.abs().max())
    return (worst / largest).item()


def _write(encoder: Encoder, folder: Path, usage: str) -> None:
    files.save_tensors(folder / WEIGHTS, encoder.trunk.state_dict())
    files.write_json(folder / CONFIG, config_to_json(encoder))
    files.write_text(folder / CARD, model_card(encoder) + usage)


def _timm_obstacle(encoder: Encoder) -> str:
    """Why timm cannot build this network from a name; empty if it can."""
    config, remedy = encoder.config, "load it with selftaught"
    reason = timm_mismatch(config)
    if config.front == "none" and config.architecture not in ("alexnet", "vgg16"):
        other = "--encoder resnet18 " if config.architecture in OWN else ""
        remedy = f"train with {other}--set network.stem=standard, or {remedy}"
    return f"{reason}; {remedy}" if reason else ""


def _torchvision_obstacle(encoder: Encoder) -> str:
    """Why torchvision cannot build this network from a name; empty if it can."""
    config = encoder.config
    if config.front != "none":
        return _timm_obstacle(encoder)
    if config.architecture in ("alexnet", "vgg16"):
        return f"its {config.architecture} has no batch norm; load it with selftaught"
    if config.architecture not in TORCHVISION:
        return f"of timm's networks, torchvision has only {', '.join(TORCHVISION)}"
    if config.stem != "standard":
        return _timm_obstacle(encoder)
    if config.in_channels != 3:
        return f"its networks take 3 channels, this one takes {config.in_channels}"
    return ""


def _load_timm(encoder: Encoder, folder: Path) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return model.eval()


def _load_torchvision(encoder: Encoder, folder: Path) -> nn.Module:
    import torchvision

    model: Any = getattr(torchvision.models, encoder.config.architecture)(weights=None)
    model.fc = nn.Identity()
    model.load_state_dict(files.load_tensors(folder / WEIGHTS))
    evaluated: nn.Module = model.eval()
    return evaluated


_IN_TORCHVISION = """
```python
import torch
import torchvision
from safetensors.torch import load_file

model = torchvision.models.{name}(weights=None)
model.fc = torch.nn.Identity()
model.load_state_dict(load_file("FOLDER/model.safetensors"))
```

gives the same network in torchvision.
"""

_Target = tuple[Callable[[Encoder], str], Callable[[Encoder, Path], nn.Module], str]

_TARGETS: dict[str, _Target] = {
    "timm": (_timm_obstacle, _load_timm, ""),
    "torchvision": (_torchvision_obstacle, _load_torchvision, _IN_TORCHVISION),
}
