"""Vectors of images, from an encoder or a table: the input of clusters, indexes and searches.

A table is one that `selftaught embed` wrote, or any with a column "vector" of lists of numbers.

Shapes:  N images; D size of a vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from selftaught.data.decode import decode_file
from selftaught.encoders.encoder import encoder_id
from selftaught.errors import DataError, printable
from selftaught.foundation.machine import CPU, Machine
from selftaught.vectors.features import features

if TYPE_CHECKING:
    from selftaught.data.store import Images
    from selftaught.encoders.encoder import Encoder

_LARGEST = 1e15  # sums of squares of larger numbers may overflow float32


@dataclass(frozen=True, eq=False)
class Vectors:
    """One vector per image.

    Attributes:
        x_ND: f(x), finite float32.
        row_N: int64: the images' rows in their source, all different.
        paths: The images' names in their source.
        labels: One label per image, None if it has none; None if no image has one.
        encoder: The identity of f (`encoder_id`); "" if the table does not name it.
        images: The images, row by row, if their pixels can be read.
    """

    x_ND: NDArray[np.float32]
    row_N: NDArray[np.int64]
    paths: tuple[str, ...]
    labels: tuple[Any, ...] | None
    encoder: str
    images: "Images | None" = None

    def __len__(self) -> int:
        return len(self.x_ND)

    def part(self, rows_n: NDArray[np.int64]) -> "Vectors":
        """The vectors at these positions, in this order."""
        labels = None if self.labels is None else tuple(self.labels[i] for i in rows_n)
        paths = tuple(self.paths[i] for i in rows_n)
        return replace(
            self, x_ND=self.x_ND[rows_n], row_N=self.row_N[rows_n], paths=paths, labels=labels
        )

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the files below `root`; tables escape those that are not UTF-8."""
        if self.images is None:
            return self.paths
        checked = self.images.checked
        return tuple(checked.source.names[i] for i in checked.index_N[self.row_N].tolist())

    @property
    def root(self) -> Path | None:
        """The folder that paths are relative to; None if unknown, or if they are not files."""
        return None if self.images is None else self.images.checked.source.root


def image_vectors(
    encoder: "Encoder",
    images: "Images",
    machine: Machine = CPU,
) -> Vectors:
    """f(x) of every usable image.

    Raises:
        DataError: The encoder's vectors are not finite, or an image can no longer be read.
    """
    x_ND = features(encoder, images, machine)
    check_vectors(x_ND, "the encoder's vectors", "choose another encoder")
    checked, column = images.checked, images.checked.source.columns.get("label")
    return Vectors(
        x_ND,
        np.arange(len(x_ND)),
        tuple(checked.images["path"].to_pylist()),
        None if column is None else nan_to_none(column[checked.index_N].tolist()),
        encoder_id(encoder),
        images,
    )


def file_vectors(
    encoder: "Encoder", paths: Sequence[Path], *, device: str = "cpu"
) -> NDArray[np.float32]:
    """f(x) of a few image files of any size and colour, (n, D), such as queries.

    Raises:
        BadImage: A file is missing or not an image.
        DataError: The encoder does not accept an image, or its vector is not finite.
    """
    encoder = encoder.eval().to(device)
    x_nD = np.empty((len(paths), encoder.dim), np.float32)
    with torch.no_grad():
        for i, path in enumerate(paths):
            pixels_HWC = decode_file(path, str(path))
            x_nD[i] = encoder(encoder.preprocess(pixels_HWC)).float().cpu().numpy()[0]
            check_vectors(
                x_nD[i : i + 1], f"{printable(str(path))}: vectors", "choose another encoder"
            )
    return x_nD


def check_vectors(x_ND: NDArray[np.float32], what: str, remedy: str) -> None:
    """Check that vectors are finite, not too long and not all 0.

    Raises:
        DataError: They are not.
    """
    bad = np.flatnonzero(~np.isfinite(x_ND).all(1))
    if len(bad):
        found = f"{what} are not finite in {len(bad):,} rows, first in {bad[0]}"
        raise DataError(found, remedy)
    high_N, low_N = x_ND.max(axis=1, initial=0), x_ND.min(axis=1, initial=0)
    long = np.flatnonzero(np.maximum(high_N, -low_N) > _LARGEST)
    if len(long):
        found = f"{what} have numbers above {_LARGEST:g} in {len(long):,} rows, first in {long[0]}"
        raise DataError(found, "scale them down: only directions count")
    if len(x_ND) and not x_ND.any():
        raise DataError(f"{what} are all 0", remedy)


def nan_to_none(values: Sequence[Any]) -> tuple[Any, ...]:
    """Labels with None in place of NaN."""
    return tuple(None if value != value else value for value in values)  # only NaN
