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
    """A folder of class folders, or of train/ and test/ folders that contain them; a table or .npz
    file with labels; or a named set such as digits. For retrieval: queries with ground truth. For
    tracking: frames with masks."""
    protocol: Texts = ()
    """knn, linear, linear-sgd, fewshot, finetune, regression, clusters, layers or worth; retrieval
    and tracking need a data set in their own layout. Default: knn and linear, or regression if the
    labels are fractional numbers."""
    against: Annotated[tuple[str, ...], UseAppendAction, arg(metavar="RUN")] = ()
    """Another encoder to compare with, in any form that RUN accepts."""
    label: Annotated[str | None, arg(metavar="COLUMN")] = None
    """Label column, if there are several."""
    few: Annotated[tuple[str, ...], UseAppendAction, arg(metavar="N|N%")] = ()
    """Train on N images per class, or on N% of the images."""
    epochs: int | None = None
    """Epochs for linear-sgd, finetune, and the network that worth trains from scratch. Default: as
    in each paper."""
    whiten: Annotated[str | None, arg(metavar="DATA")] = None
    """For retrieval: images to learn PCA whitening from; they must not be the ones searched."""
    verify: Literal["sift", "maps"] | None = None
    """For retrieval: re-rank the top results by geometry: SIFT keypoints, or the encoder's feature
    maps."""
    set: Settings = ()
    """For retrieval: pool, longest, scales, expand and augment. For tracking: side
    and top."""
    out: OptionalFile = None
    """HTML page to write, with the tables and a plot."""


@command
class Report(MachineOptions):
    """Rebuild the HTML report of a run or of clusters.

    Example:
        selftaught report run
    """

    run: Annotated[Path, Positional, arg(metavar="RUN|CLUSTERS")]
    """Run folder, or cluster folder (the report then uses the folder's names.csv)."""
