"""Options of the commands that exchange encoders with other libraries: export, import."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from selftaught.options.shared import Folder, MachineOptions, OverwriteOption, Run, command


@command
class Export(OverwriteOption, MachineOptions):
    """Export an encoder to another library, and check its outputs there.

    Example:
        selftaught export run --to timm --out for_timm
    """

    run: Run
    """Run folder or encoder folder."""
    to: Literal["timm", "torchvision"]
    """Target library."""
    out: Folder
    """Folder to create."""
    data: Annotated[str, arg(metavar="DATA")] = ""
    """Images for comparing the outputs. Default: the run's training images."""


@command
class Import(OverwriteOption):
    """Convert another library's checkpoint to an encoder folder.

    Example:
        selftaught import resnet18.pth --out encoder
    """

    file: Annotated[Path, Positional, arg(metavar="FILE")]
    """A .pth, .pt or .tar file written by torch.save, or a .safetensors file; no code in it can
    run. ResNets, MobileNetV2, and DeepCluster's AlexNet and VGG-16 are recognised from their
    tensor names, whatever their prefix."""
    out: Folder
    """Encoder folder to create."""
    encoder: str | None = None
    """timm's name for the network, if the tensor names do not identify it."""
    image_size: int | None = None
    """Input size in pixels. Default: 224, or 32 with a small stem."""
    pixels: Literal["imagenet", "unit", "symmetric"] | None = None
    """Pixel range the network expects: imagenet (mean and std), unit (0 to 1), symmetric (-1
    to 1). Default: unit for SimCLR's own checkpoints, imagenet for others."""
