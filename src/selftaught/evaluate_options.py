"""What `evaluate` takes: names, types, defaults and help text stand here once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from selftaught.options import Machine, Texts


@dataclass(frozen=True, kw_only=True)
class Evaluate(Machine):
    """Measure an encoder on labelled images, beside random init and raw pixels."""

    run: Positional[str]
    """RUN, an encoder folder, or timm:NAME."""
    labelled: Positional[str]
    """Class folders, train/ and test/ of them, a table with labels, or .npz with labels; for
    retrieval queries with their ground truth, for tracking frames with masks."""
    protocol: Texts = ()
    """knn, linear, linear-sgd, fewshot, finetune, regression, clusters, layers, worth; of folders
    of their own layout retrieval, tracking. By default knn and linear, of numbers regression."""
    against: Texts = ()
    """Another encoder to stand beside it: RUN, an encoder folder, or timm:NAME."""
    label: str | None = None
    """The label's column, where there are several."""
    few: Texts = ()
    """Train on this many images a class only, or on a share of them, such as 1%."""
    epochs: int | None = None
    """Of what is trained by steps: linear-sgd, finetune, the network from scratch in worth. By
    default their paper's."""
    seed: int = 0
    """Of everything random."""
    whiten: str | None = None
    """Retrieval: images that PCA-whitening is learned from, never those that are searched."""
    verify: Literal["sift", "maps"] | None = None
    """Retrieval: put what is found first in order by its geometry."""
    set: Texts = ()
    """NAME=VALUE: of retrieval pool, longest, scales, expand, augment; of tracking side, top."""
    out: Path | None = None
    """A page of the tables, with a picture (.html)."""
    json: bool = False
    """Print the rows as JSON."""
    overwrite: bool = False
    """Replace what is at --out."""
