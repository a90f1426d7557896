"""Options of the commands that judge an encoder: evaluate, report."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from selftaught.options.shared import (
    JsonOption,
    MachineOptions,
    OptionalFile,
    OverwriteOption,
    Run,
    SeedOption,
    Settings,
    Texts,
    command,
)


@command
class Evaluate(SeedOption, JsonOption, OverwriteOption, MachineOptions):
    """Measure an encoder on labelled images, next to its baselines.

    The baselines are the same network at random init, and raw pixels.

    Example:
        selftaught evaluate run labelled --protocol knn --protocol linear
    """

    run: Run
    """Run folder, encoder folder, or timm:NAME."""
    labelled: Annotated[str, Positional, arg(metavar="LABELLED")]
    """Class folders, or train/ and test/ of them; a table or .npz file with labels. For retrieval:
    queries with ground truth. For tracking: frames with masks."""
    protocol: Texts = ()
    """knn, linear, linear-sgd, fewshot, finetune, regression, clusters, layers or worth; retrieval
    and tracking need a data set in their own layout. Default: knn and linear, or regression if
    labels are numbers."""
    against: Annotated[tuple[str, ...], UseAppendAction, arg(metavar="RUN")] = ()
    """Another encoder to compare with, in the same forms."""
    label: Annotated[str | None, arg(metavar="COLUMN")] = None
    """Label column, if there are several."""
    few: Annotated[tuple[str, ...], UseAppendAction, arg(metavar="N|N%")] = ()
    """Train on this many images per class, or on a share of them, such as 1%."""
    epochs: int | None = None
    """Epochs for linear-sgd, finetune and worth's from-scratch network. Default: as in each
    paper."""
    whiten: Annotated[str | None, arg(metavar="DATA")] = None
    """For retrieval: images to learn PCA whitening from, never those searched."""
    verify: Literal["sift", "maps"] | None = None
    """For retrieval: re-rank the top results by their geometry."""
    set: Settings = ()
    """For retrieval: pool, longest, scales, expand, augment. For tracking: side,
    top."""
    out: OptionalFile = None
    """HTML page to write, with the tables and a plot."""


@command
class Report(MachineOptions):
    """Rebuild the HTML report of a run or of clusters.

    Example:
        selftaught report run
    """

    run: Annotated[Path, Positional, arg(metavar="RUN|CLUSTERS")]
    """Run folder, or clusters folder (the report then uses its names.csv)."""
