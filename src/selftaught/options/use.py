"""Options of the commands that use an encoder: embed, cluster, assign, classify, index, search."""

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
    OptionalFolder,
    OverwriteOption,
    Run,
    SeedOption,
    command,
)

Clusters = Annotated[Path, Positional, arg(metavar="CLUSTERS")]
MovedEncoder = Annotated[str, arg(metavar="RUN")]
OlderClusters = Annotated[Path | None, arg(metavar="CLUSTERS")]
Column = Annotated[str | None, arg(metavar="COLUMN")]


@command
class Embed(OverwriteOption, MachineOptions):
    """Write one vector per image.

    Example:
        selftaught embed run photos --out vectors.parquet
    """

    run: Run
    """Run folder, encoder folder, or timm:NAME."""
    data: Data
    """Images, in any form that check accepts."""
    out: File
    """Table to write (.parquet): row, path, label if known, vector."""


@command
class Cluster(SeedOption, JsonOption, OverwriteOption, MachineOptions):
    """Cluster images and save the clusters, with an HTML report.

    Example:
        selftaught cluster run photos --out clusters
    """

    run: Run
    """Run folder, encoder folder, timm:NAME, or a table of vectors (.parquet)."""
    data: Data = ""
    """Images, in any form that check accepts; may be omitted with a table of vectors."""
    out: Folder
    """Cluster folder to create."""
    k: int | Literal["auto"] = "auto"
    """Number of clusters; auto tries several and explains its choice."""
    by: Literal["kmeans", "power-iteration", "max-margin"] = "kmeans"
    """Algorithm. power-iteration finds k itself; max-margin makes 2 clusters of similar size from
    at most 5,000 images."""
    space: Literal["unit", "whitened"] = "unit"
    """Vectors scaled to unit length, or whitened first, as in DeepCluster."""
    match: OlderClusters = None
    """Older clusters: a cluster that shares most of its images with an older one takes over the
    older one's id and name."""
    label: Column = None
    """Label column, or the word folders for folder names: the report compares the clusters with
    these labels."""


@command
class Assign(JsonOption, OverwriteOption, MachineOptions):
    """Assign images to saved clusters, and mark outliers.

    Example:
        selftaught assign clusters new_photos --out table.csv
    """

    clusters: Annotated[Path, Positional, arg(metavar="CLUSTERS|CLASSIFIER")]
    """Cluster folder (with names.csv if the clusters have names) or classifier folder. With a
    classifier, the table has name, confidence and second choice."""
    data: Data
    """Images, in any form that check accepts, or a table of vectors (.parquet)."""
    out: File
    """Table to write (.parquet or .csv): cluster, name, distance, confidence, outlier."""
    encoder: MovedEncoder = ""
    """New location of the encoder, if it has moved."""
    match: OlderClusters = None
    """Older clusters: use their ids where the clusters share most of their images."""
    label: Column = None
    """Label column, or the word folders for folder names: report how often the cluster's name
    matches the label."""
    copy_to: OptionalFolder = None
    """New folder: copy each image into a subfolder for its cluster."""
    link_to: OptionalFolder = None
    """Like --copy-to, but with symbolic links."""


@command
class Classify(SeedOption, JsonOption, OverwriteOption, MachineOptions):
    """Train a classifier on named clusters; suggest images to label.

    Example:
        selftaught classify clusters --out classifier
    """

    clusters: Clusters
    """Cluster folder whose names.csv names at least two clusters."""
    out: Folder
    """Classifier folder to create; selftaught assign accepts it."""
    data: Annotated[str, arg(metavar="DATA")] = ""
    """Images, or a table of vectors. Default: the images the clusters were made from."""
    encoder: MovedEncoder = ""
    """New location of the encoder, if it has moved."""
    ask: int = 100
    """Number of images to suggest for labelling, in ask.csv (fill in its label column) and
    ask.html."""
    answers: Annotated[tuple[str, ...], UseAppendAction, arg(metavar="FILE")] = ()
    """An ask.csv with labels filled in, to train on as well."""


@command
class Index(JsonOption, OverwriteOption, MachineOptions):
    """Build a search index of your images.

    Example:
        selftaught index run photos --out index
    """

    run: Run
    """Run folder, encoder folder, timm:NAME, or a table that embed wrote (.parquet)."""
    data: Data = ""
    """Images, in any form that check accepts; may be omitted with a table of vectors."""
    out: Folder
    """Index folder to create, or to extend with --add."""
    add: bool = False
    """Add to an existing index; images that it already has are skipped."""


@command
class Search(JsonOption, OverwriteOption, MachineOptions):
    """Find the images most similar to a query image, or near-duplicates.

    Example:
        selftaught search index query.jpg --out sheet.png
    """

    index: Annotated[Path, Positional, arg(metavar="INDEX")]
    """Index folder."""
    query: Annotated[tuple[str, ...], Positional, arg(metavar="QUERY")] = ()
    """Image files, or rows of the index, such as row:17."""
    top: int = 10
    """Results per query."""
    verify: Literal["sift", "maps"] | None = None
    """Re-rank the top results by geometry: SIFT keypoints, or the encoder's feature maps."""
    first: int = 100
    """Number of top results to verify."""
    duplicates: float | None = None
    """Instead of queries: list groups of near-duplicates, each image linked to another by a cosine
    similarity of at least X (try 0.98)."""
    encoder: Annotated[str | None, arg(metavar="RUN")] = None
    """New location of the encoder, if it has moved."""
    out: OptionalFile = None
    """Contact sheet to write (.png)."""
