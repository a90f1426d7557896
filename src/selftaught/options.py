"""What each command takes, as dataclasses: names, types, defaults and help text stand here once.

The command line parses into these, and the Python functions of the same names take the same fields.
Light on purpose: nothing here imports torch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction

Texts = Annotated[tuple[str, ...], UseAppendAction]
"""An option that may be given several times."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where the work is done."""

    device: str = "auto"
    """cpu, cuda, cuda:1; auto takes an accelerator where there is one."""
    threads: int = 2
    """Data threads; results do not depend on their number."""
    cache: Path | None = None
    """Where decoded images are kept; by default in the user's cache folder. Safe to delete."""


@dataclass(frozen=True, kw_only=True)
class Check(Machine):
    """Look at every image: what is in there, what is broken, which recipe fits."""

    data: Positional[str]
    """Images: a folder, list.txt, table.csv, file.npz, or digits, elpv, mnist5k."""
    out: Path
    """Folder for images.parquet, rejected.parquet, check.json and the recipe, config.yaml."""
    min_side: int = 1
    """Reject images whose shorter side has fewer pixels."""
    time_steps: bool = True
    """Train 20 steps to say how long the recipe takes here; --no-time-steps leaves them out."""
    json: bool = False
    """Print one JSON object in place of text."""
    overwrite: bool = False
    """Replace what is at --out."""


@dataclass(frozen=True, kw_only=True)
class Views(Machine):
    """Draw what the network will see: a contact sheet of views of your own images."""

    data: Positional[str]
    """Images, in any form that check takes."""
    out: Path
    """The picture to write (.png)."""
    policy: str | None = None
    """simclr_imagenet, simclr_cifar, simclr_gray, deepcluster; figure: each operation alone."""
    image_size: int | None = None
    """Side of a view in pixels; by default the recipe's."""
    keep: Texts = ()
    """colour, orientation or scale, as for pretrain."""
    set: Texts = ()
    """views.NAME=VALUE, as for pretrain."""
    rows: int = 8
    """Images on the sheet."""
    seed: int = 0
    """Of the views."""
    overwrite: bool = False
    """Replace what is at --out."""


@dataclass(frozen=True, kw_only=True)
class Pretrain(Machine):
    """Train an encoder on unlabelled images. Without flags, with the recipe that check prints."""

    data: Positional[str] = ""
    """Images, in any form that check takes; may come from --config."""
    out: Path
    """The run's folder."""
    method: str | None = None
    """How to train: see selftaught methods. By default simclr."""
    preset: str | None = None
    """A paper's recipe: simclr-imagenet, simclr-cifar10, deepcluster-imagenet; or small, for
    machines without a GPU."""
    encoder: str | None = None
    """resnet8, resnet20, alexnet, vgg16, or any timm model by name."""
    image_size: int | None = None
    """Side of a view in pixels."""
    epochs: int | None = None
    """Passes over the images."""
    batch_size: int | None = None
    """Images a step, over all processes."""
    micro_batch: int | None = None
    """Images embedded at once, with their own batch statistics; the loss sees all. 0: all."""
    seed: int | None = None
    """Of everything random. By default 0."""
    seconds: float | None = None
    """Time for training: 20 steps are timed and fix the number of steps. In place of --epochs."""
    lr: float | None = None
    """Learning rate before batch scaling (loop.scaling)."""
    optimizer: Literal["sgd", "adamw", "lars"] | None = None
    """The optimizer."""
    store_size: int | None = None
    """Keep the images with their shorter side shrunk to this many pixels."""
    init: str | None = None
    """Weights to start from: RUN, an encoder folder, or timm:NAME."""
    probe: str | None = None
    """Labelled images: their kNN accuracy is logged now and then, and never used to choose."""
    keep: Texts = ()
    """colour, orientation or scale: leave out what would teach the encoder to ignore it."""
    set: Texts = ()
    """NAME=VALUE: a method's option (temperature=0.2), or loop.*, views.*, network.*, data.*"""
    config: Path | None = None
    """A configuration to start from, such as another run's config.yaml."""
    overwrite: bool = False
    """Replace what is at --out."""


@dataclass(frozen=True, kw_only=True)
class Resume(Machine):
    """Go on with a stopped run, bit for bit; only device and threads may change."""

    run: Positional[Path]
    """The run's folder."""


@dataclass(frozen=True, kw_only=True)
class Embed(Machine):
    """Write a vector for every image."""

    run: Positional[str]
    """RUN, an encoder folder, or timm:NAME."""
    data: Positional[str]
    """Images, in any form that check takes."""
    out: Path
    """The table to write (.parquet): row, path, label where there is one, vector."""
    overwrite: bool = False
    """Replace what is at --out."""


@dataclass(frozen=True, kw_only=True)
class Export(Machine):
    """Hand the encoder to another library; refused unless the outputs match."""

    run: Positional[str]
    """RUN or an encoder folder."""
    to: Literal["timm", "torchvision"]
    """The library that shall load it."""
    out: Path
    """The folder to write."""
    data: str = ""
    """Real images for the comparison; by default those that the run was trained on."""
    overwrite: bool = False
    """Replace what is at --out."""


@dataclass(frozen=True, kw_only=True)
class Import:
    """Make somebody else's checkpoint an encoder folder; its names tell which network it is."""

    file: Positional[Path]
    """A .pth, .pt or .tar of torch.save's, or .safetensors; nothing in it can run. Known by their
    names, behind any prefix: ResNets, MobileNetV2, DeepCluster's AlexNet and VGG-16."""
    out: Path
    """The encoder folder to write."""
    encoder: str | None = None
    """Which network it is, by timm's name; for networks that the file's names do not tell."""
    image_size: int | None = None
    """Side in pixels of the images that it shall take; by default 224 (32 with a small stem)."""
    pixels: Literal["imagenet", "unit", "symmetric"] | None = None
    """What pixels become: less ImageNet's mean, by its std; 0 to 1; -1 to 1. By default as the
    layout says: unit for SimCLR's, imagenet for others."""
    overwrite: bool = False
    """Replace what is at --out."""


@dataclass(frozen=True, kw_only=True)
class Report(Machine):
    """Write the report of a run, or of clusters, anew: one self-contained HTML file."""

    run: Positional[Path]
    """The folder of a run; or of clusters, whose names.csv it shows."""


@dataclass(frozen=True, kw_only=True)
class Demo(Machine):
    """The whole story on real photographs that an installed package ships."""

    out: Path
    """Folder for everything that the demo writes."""
    data: Literal["elpv", "mnist5k"] = "elpv"
    """elpv: solar cells, some of them defective; mnist5k: handwritten digits."""
    seconds: float = 120.0
    """Time for training."""
    seed: int = 0
    """Of everything random."""
    overwrite: bool = False
    """Replace what is at --out."""


@dataclass(frozen=True, kw_only=True)
class Info:
    """What a run folder or an encoder folder holds."""

    run: Positional[str]
    """RUN, an encoder folder, or timm:NAME."""
    json: bool = False
    """Print one JSON object in place of text."""


@dataclass(frozen=True, kw_only=True)
class Methods:
    """The methods that pretrain knows, with their options."""

    json: bool = False
    """Print one JSON object in place of text."""
