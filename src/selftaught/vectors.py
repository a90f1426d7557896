"""Vectors of images, however they came: from an encoder and its images, or from a table.

What is clustered, indexed and searched. A table is what `selftaught embed` writes, or any with a
column "vector" of lists of numbers.

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
from selftaught.errors import DataError, FileError, shown
from selftaught.features import features
from selftaught.files import read_table

if TYPE_CHECKING:
    import pyarrow as pa

    from selftaught.data.store import Images
    from selftaught.encoders.encoder import Encoder

_LARGEST = 1e15  # squares of larger numbers, summed, may leave float32


@dataclass(frozen=True, eq=False)
class Vectors:
    """A vector for each image.

    Attributes:
        x_ND: f(x), finite float32.
        row_N: int64: the images' rows in what they came from, each once.
        paths: The images' names there.
        labels: A label each, None where there is none; None where there are none at all.
        encoder: The identity of f (`encoder_id`); "" where the table does not say it.
        images: The images, row by row, where their pixels can be read.
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
        """Some of them, by their places here, in this order."""
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
        """The folder that paths are relative to; None where they are no files, or none is known."""
        return None if self.images is None else self.images.checked.source.root


def of_images(
    encoder: "Encoder",
    images: "Images",
    *,
    device: str = "cpu",
    threads: int = 2,
    cache: Path | None = None,
) -> Vectors:
    """f(x) of every usable image.

    Raises:
        DataError: The encoder's vectors are not finite, or an image has gone bad.
    """
    x_ND = features(encoder, images, device=device, threads=threads, cache=cache)
    _check_finite(x_ND, "the encoder's vectors", "choose another encoder")
    checked, column = images.checked, images.checked.source.columns.get("label")
    return Vectors(
        x_ND,
        np.arange(len(x_ND)),
        tuple(checked.images["path"].to_pylist()),
        None if column is None else gaps_as_none(column[checked.index_N].tolist()),
        encoder_id(encoder),
        images,
    )


def of_files(
    encoder: "Encoder", paths: Sequence[Path], *, device: str = "cpu"
) -> NDArray[np.float32]:
    """f(x) of a few image files, (n, D): pictures that are asked about, of any size and colour.

    Raises:
        BadImage: A file is missing or no image.
        DataError: The encoder does not take such an image, or its vector is not finite.
    """
    encoder = encoder.eval().to(device)
    x_nD = np.empty((len(paths), encoder.dim), np.float32)
    with torch.no_grad():
        for i, path in enumerate(paths):
            pixels_HWC = decode_file(path, str(path))
            x_nD[i] = encoder(encoder.preprocess(pixels_HWC)).float().cpu().numpy()[0]
            _check_finite(x_nD[i : i + 1], f"{shown(str(path))}: vectors", "choose another encoder")
    return x_nD


def of_table(path: Path, images: "Images | None" = None) -> Vectors:
    """The vectors of a table: column vector, and where there are such row, path and label.

    Args:
        path: A Parquet file.
        images: The images that the rows name, for their pixels.

    Raises:
        FileError: It cannot be read, or is no such table.
        DataError: Vectors are not finite, or the images are not those of the rows.
    """
    if not path.exists():
        raise FileError(f"{path} does not exist", "give what selftaught embed writes")
    table = read_table(path)
    x_ND = _matrix(table, path)
    _check_finite(x_ND, f"{path}: vectors", "leave those rows out, or embed the images anew")
    names = table.column_names
    rows = table["row"].to_pylist() if "row" in names else list(range(len(x_ND)))
    if len(set(rows)) != len(rows) or not all(isinstance(row, int) and row >= 0 for row in rows):
        raise FileError(f"{path}: its rows are not distinct numbers", "embed the images anew")
    paths = tuple(map(str, table["path"].to_pylist() if "path" in names else rows))
    if images is not None:
        _check_rows(images, rows, paths, path)
    labels = _labels(table["label"]) if "label" in names else None
    encoder = (table.schema.metadata or {}).get(b"encoder_id", b"").decode(errors="replace")
    return Vectors(x_ND, np.array(rows, np.int64), paths, labels, encoder, images)


def _labels(column: "pa.ChunkedArray") -> tuple[Any, ...] | None:
    """The labels; lists and the like are none, as `data.images` has it."""
    import pyarrow as pa

    return None if pa.types.is_nested(column.type) else gaps_as_none(column.to_pylist())


def _matrix(table: "pa.Table", path: Path) -> NDArray[np.float32]:
    """The column of vectors, (N, D).

    Raises:
        FileError: There is none, or it does not hold lists of equally many numbers.
    """
    import pyarrow as pa

    if "vector" not in table.column_names or not table.num_rows:
        remedy = "give what selftaught embed writes"
        raise FileError(f"{path} has no vectors (a column named vector)", remedy)
    column = table["vector"].combine_chunks()
    lists = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    try:
        flat_n = np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.float32)
        lengths = set(column.value_lengths().to_pylist()) if lists else {column.type.list_size}
        (D,) = lengths
        return flat_n.reshape(len(column), D)
    except (AttributeError, TypeError, ValueError, pa.ArrowException):
        remedy = "give lists of equally many numbers"
        raise FileError(f"{path}: its vectors are not of one length", remedy) from None


def _check_finite(x_ND: NDArray[np.float32], what: str, remedy: str) -> None:
    bad = np.flatnonzero(~np.isfinite(x_ND).all(1))
    if len(bad):
        found = f"{what} are not finite in {len(bad):,} rows, the first of them {bad[0]}"
        raise DataError(found, remedy)
    high_N, low_N = x_ND.max(axis=1, initial=0), x_ND.min(axis=1, initial=0)
    long = np.flatnonzero(np.maximum(high_N, -low_N) > _LARGEST)
    if len(long):
        found = f"{what} have numbers above {_LARGEST:g} in {len(long):,} rows, first in {long[0]}"
        raise DataError(found, "scale them down: only directions count")
    if len(x_ND) and not x_ND.any():
        raise DataError(f"{what} are all 0", remedy)


def _check_rows(images: "Images", rows: Sequence[int], paths: Sequence[str], table: Path) -> None:
    """Whether each row of the table is that image."""
    known = images.checked.images["path"].to_pylist()
    for row, name in zip(rows, paths, strict=True):
        if row >= len(known) or known[row] != name:
            data = images.checked.source.name
            raise DataError(
                f"{table}: row {row} is {name!r}, which is not that row of {data}",
                "give the images that the table was made from, or leave them out",
            )


def gaps_as_none(values: Sequence[Any]) -> tuple[Any, ...]:
    """Labels with None where there is none."""
    return tuple(None if value != value else value for value in values)  # NaN is no label
