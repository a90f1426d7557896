"""An encoder for another library, compared before it is handed over.

The folder that another library shall load is written under a temporary name, loaded by that library
and run on real images beside the encoder; it gets its name only if the outputs agree.
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
from selftaught.encoders.timm_models import timm_lacks
from selftaught.errors import ConfigError, DataError, FileError, did_you_mean
from selftaught.foundation import files

if TYPE_CHECKING:
    from selftaught.encoders.preprocess import Picture

TOLERANCE = 1e-5
"""The largest difference allowed, relative to the largest output, or to 1 where that is smaller."""

TORCHVISION = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
"""What torchvision builds to the same layers and names as timm."""

_BATCH = 32  # images at a time


def export_encoder(encoder: Encoder, to: str, folder: Path, images: "Sequence[Picture]") -> float:
    """Write a folder that another library loads as the same network.

    Args:
        encoder: What to hand over; it is left as it is.
        to: "timm" or "torchvision".
        folder: Where to; nothing may be there yet.
        images: Real images, raw as `Encoder.preprocess` takes them, to compare on.

    Returns:
        The largest difference between an output of the encoder and one of the reloaded network,
        divided by the largest output (by 1 where that is smaller): at most TOLERANCE.

    Raises:
        ConfigError: That library cannot express the network; the reason is named.
        DataError: There are no images.
        FileError: The outputs differ. In all cases nothing is left behind.
    """
    check_export(encoder, to)
    _, load, usage = _TARGETS[to]
    if not len(images):
        raise DataError("there are no images to compare on", "give some")
    ours = copy.deepcopy(encoder).float().cpu().eval()
    with files.new_folder(folder) as part:
        _write(ours, part, usage.format(name=encoder.config.architecture))
        difference = largest_difference(ours, load(ours, part), images)
        if not difference <= TOLERANCE:  # NaN differs too
            raise FileError(
                f"{to} gives other outputs than this encoder, by {difference:.1e} of the largest",
                "nothing was written; please report it",
            )
    return difference


def check_export(encoder: Encoder, to: str) -> None:
    """Whether that library can express the network.

    Raises:
        ConfigError: It cannot; the reason is named.
    """
    if to not in _TARGETS:
        raise ConfigError(f"there is no export to {to!r}", did_you_mean(to, _TARGETS))
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


def _why_not_timm(encoder: Encoder) -> str:
    """Why timm cannot build this network from a name; empty if it can."""
    config, remedy = encoder.config, "load it with selftaught"
    reason = timm_lacks(config)
    if config.front == "none" and config.architecture not in ("alexnet", "vgg16"):
        other = "--encoder resnet18 " if config.architecture in OWN else ""
        remedy = f"train with {other}--set network.stem=standard, or {remedy}"
    return f"{reason}; {remedy}" if reason else ""


def _why_not_torchvision(encoder: Encoder) -> str:
    """Why torchvision cannot build this network from a name; empty if it can."""
    config = encoder.config
    if config.front != "none":
        return _why_not_timm(encoder)
    if config.architecture in ("alexnet", "vgg16"):
        return f"its {config.architecture} has no batch norm; load it with selftaught"
    if config.architecture not in TORCHVISION:
        return f"of timm's networks only {', '.join(TORCHVISION)} are also torchvision's"
    if config.stem != "standard":
        return _why_not_timm(encoder)
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
    "timm": (_why_not_timm, _load_timm, ""),
    "torchvision": (_why_not_torchvision, _load_torchvision, _IN_TORCHVISION),
}
