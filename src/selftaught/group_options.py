"""What the commands that make groups and find images take; as `options`, which says how."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from selftaught.options import Machine, Texts


@dataclass(frozen=True, kw_only=True)
class Cluster(Machine):
    """Group images, and keep the groups: a report, and what sorts new images into them."""

    run: Positional[str]
    """RUN, an encoder folder, timm:NAME, or a table of vectors (.parquet)."""
    data: Positional[str] = ""
    """Images, in any form that check takes; of a table the images that it was made from."""
    out: Path
    """The folder to write."""
    k: int | Literal["auto"] = "auto"
    """How many clusters; auto tries several, and says why it takes one."""
    by: Literal["kmeans", "power-iteration", "max-margin"] = "kmeans"
    """The algorithm; power-iteration finds k itself; max-margin makes 2 clusters of at most 5,000
    images, whose sizes differ by at most 10 % of them."""
    space: Literal["unit", "whitened"] = "unit"
    """Vectors made equally long; or, as in DeepCluster, whitened before that."""
    match: Path | None = None
    """Older CLUSTERS: clusters that share most images keep their ids and names."""
    label: str | None = None
    """A column of labels, or folders: the report says how clusters agree with them."""
    seed: int = 0
    """Of everything random."""
    json: bool = False
    """Print one JSON object in place of text."""
    overwrite: bool = False
    """Replace what is at --out."""


@dataclass(frozen=True, kw_only=True)
class Assign(Machine):
    """Sort images into clusters that are kept: cluster, name, distance, confidence, outliers."""

    clusters: Positional[Path]
    """The --out of selftaught cluster, with names.csv where clusters have names; or that of
    selftaught classify: then the table has name, confidence, second."""
    data: Positional[str]
    """Images, in any form that check takes, or a table of vectors (.parquet)."""
    out: Path
    """The table to write: .parquet or .csv."""
    encoder: str = ""
    """Where their encoder is now, if it is not where it was."""
    match: Path | None = None
    """Older CLUSTERS whose ids are wanted in place of these, where clusters share most images."""
    label: str | None = None
    """A column of labels, or folders: how often the name of the cluster is the label."""
    copy_to: Path | None = None
    """A new folder: a copy of each image in the folder of its cluster."""
    link_to: Path | None = None
    """The same with symbolic links."""
    json: bool = False
    """Print one JSON object in place of text."""
    overwrite: bool = False
    """Replace what is at --out."""


@dataclass(frozen=True, kw_only=True)
class Classify(Machine):
    """Learn the names of clusters, say how surely, and list what to look at next."""

    clusters: Positional[Path]
    """The --out of selftaught cluster; its names.csv names two clusters or more."""
    out: Path
    """The folder to write; selftaught assign takes it."""
    data: str = ""
    """Images, or a table of vectors; by default what the clusters were made from."""
    encoder: str = ""
    """Where the clusters' encoder is now, if it is not where it was."""
    ask: int = 100
    """How many images to ask about: ask.csv, whose column label waits for answers, and ask.html."""
    answers: Texts = ()
    """An ask.csv with labels filled in: it teaches too. May be given several times."""
    seed: int = 0
    """Of everything random."""
    json: bool = False
    """Print one JSON object in place of text."""
    overwrite: bool = False
    """Replace what is at --out."""


@dataclass(frozen=True, kw_only=True)
class Index(Machine):
    """Make images searchable: their vectors, kept in a folder that is opened in no time."""

    run: Positional[str]
    """RUN, an encoder folder, timm:NAME, or a table that embed has written (.parquet)."""
    data: Positional[str] = ""
    """Images, in any form that check takes; of a table those that it was made from."""
    out: Path
    """The index's folder."""
    add: bool = False
    """Add to the index that is there; images that it has already are left out."""
    json: bool = False
    """Print one JSON object in place of text."""
    overwrite: bool = False
    """Replace what is at --out."""


@dataclass(frozen=True, kw_only=True)
class Search(Machine):
    """Find the images of an index that are most like others, or its near-duplicates."""

    index: Positional[Path]
    """The --out of index."""
    query: Positional[tuple[str, ...]] = ()
    """Image files, or rows of the index such as row:17."""
    top: int = 10
    """Images to find for each."""
    verify: Literal["sift", "maps"] | None = None
    """Show those first that lie like the query, by SIFT's keypoints or the encoder's maps."""
    first: int = 100
    """How many of those found are verified."""
    duplicates: float | None = None
    """In place of queries: groups of the index's images whose cosine is this or more (0.98)."""
    encoder: str | None = None
    """Where the index's encoder is now, if it is not where it was."""
    out: Path | None = None
    """A contact sheet to write (.png)."""
    json: bool = False
    """Print one JSON object in place of text."""
    overwrite: bool = False
    """Replace what is at --out."""
