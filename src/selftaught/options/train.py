"""Options of the commands that lead to an encoder: check, preview, pretrain, resume."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from selftaught.options.shared import (
    Data,
    File,
    Folder,
    JsonOption,
    MachineOptions,
    OptionalFile,
    OverwriteOption,
    SeedOption,
    Settings,
    command,
)

Kept = Annotated[tuple[str, ...], UseAppendAction, arg(metavar="WORD")]


@command
class Check(JsonOption, OverwriteOption, MachineOptions):
    """Look at every image, report broken files, and recommend a recipe.

    Example:
        selftaught check photos --out checked
    """

    data: Data
    """Images: a folder, a .txt list, a .csv or .parquet table, an .npz file, or one of the data
    sets digits, elpv and mnist5k."""
    out: Folder
    """Output folder: images.parquet, rejected.parquet, check.json, and the recipe in
    config.yaml."""
    min_side: int = 1
    """Reject images whose shorter side has fewer than N pixels."""
    time_steps: bool = True
    """Skip the 20 timed training steps (no duration estimate)."""


@command
class Preview(SeedOption, OverwriteOption, MachineOptions):
    """Draw the augmented views of your images as a contact sheet.

    Example:
        selftaught preview photos --out views.png
    """

    data: Data
    """Images, in any form that check accepts."""
    out: File
    """Output image (.png)."""
    policy: str | None = None
    """simclr_imagenet, simclr_cifar, simclr_gray or deepcluster; figure: each operation by
    itself. Default: the views that pretrain would use."""
    image_size: int | None = None
    """Side of a view in pixels. Default: the recipe's."""
    keep: Kept = ()
    """colour, orientation or scale, as for pretrain."""
    set: Settings = ()
    """A views.* setting, as for pretrain."""
    rows: int = 8
    """Number of images on the sheet."""


@command
class Pretrain(OverwriteOption, MachineOptions):
    """Train an encoder on unlabelled images.

    With only DATA and --out, it uses the recipe that check recommends.

    Example:
        selftaught pretrain photos --out run --seconds 600
    """

    data: Data = ""
    """Images, in any form that check accepts. May be omitted if --config names them."""
    out: Folder
    """Run folder to create."""
    method: str | None = None
    """Training method; `selftaught methods` lists all methods. Default: simclr."""
    preset: str | None = None
    """A paper's recipe: simclr-imagenet, simclr-cifar10 or deepcluster-imagenet; or small, for
    machines without a GPU."""
    encoder: str | None = None
    """Network: resnet8, resnet20, alexnet, vgg16, or the name of any timm model."""
    image_size: int | None = None
    """Side of a view in pixels."""
    epochs: int | None = None
    """Passes over the images."""
    batch_size: int | None = None
    """Images per step, over all processes."""
    micro_batch: int | None = None
    """Images embedded at once, with their own batch statistics; the loss still sees the whole
    batch. 0: all."""
    seed: int | None = None
    """Random seed. Default: 0."""
    seconds: float | None = None
    """Training time in seconds, instead of --epochs; 20 steps are timed to find the number of
    steps."""
    lr: float | None = None
    """Learning rate before it is scaled for the batch size (loop.scaling)."""
    optimizer: Literal["sgd", "adamw", "lars"] | None = None
    """Optimisation algorithm."""
    store_size: int | None = None
    """Store the images with their shorter side shrunk to this many pixels."""
    init: Annotated[str | None, arg(metavar="RUN")] = None
    """Initial weights: run folder, encoder folder, or timm:NAME."""
    probe: Annotated[str | None, arg(metavar="LABELLED")] = None
    """Labelled images on which kNN accuracy is logged during training; the accuracy is never used
    to choose anything."""
    keep: Kept = ()
    """colour, orientation or scale: leave out the operations that would teach the encoder to
    ignore it."""
    set: Settings = ()
    """An option of the method (temperature=0.2), or a loop.*, views.*, network.* or data.*
    setting."""
    config: OptionalFile = None
    """Configuration to start from, such as another run's config.yaml."""


@command
class Resume(MachineOptions):
    """Continue a stopped run, bit for bit.

    The result is that of a run that was never stopped. Only --device, --threads and --cache may
    change. Another machine or device may round differently.

    Example:
        selftaught resume run
    """

    run: Annotated[Path, Positional, arg(metavar="RUN")]
    """Run folder."""
