"""Vectors of images as a table: what `selftaught embed` writes.

Shapes:  N usable images; D size of a vector.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from selftaught.encoders.encoder import encoder_id
from selftaught.errors import DataError, FileError
from selftaught.foundation.files import read_table
from selftaught.foundation.machine import CPU, Machine
from selftaught.vectors.features import features
from selftaught.vectors.vectors import Vectors, check_vectors, nan_to_none

if TYPE_CHECKING:
    import pyarrow as pa

    from selftaught.data.check_images import Checked
    from selftaught.data.store import Images
    from selftaught.encoders.encoder import Encoder

Labels = Mapping[int, Any]
"""Labels by row: names, class numbers or targets."""


def vector_table(
    encoder: "Encoder",
    images: "Images",
    machine: Machine = CPU,
    *,
    labels: Labels | None = None,
) -> "pa.Table":
    """A table with one vector per usable image.

    Args:
        encoder: f; a vector is f(x) of the evaluation view.
        images: The images; rejected ones have no row.
        machine: Where the encoder computes.
        labels: Labels by row. By default those that came with the images; {} for none.

    Returns:
        A table of N rows: row (int64), path (string), label (null if a row has none; the
        column is missing if no row has one), vector (a list of D float32). Its metadata
        "encoder_id" and "content" identify the encoder and the images.
    """
    import pyarrow as pa

    checked = images.checked
    vectors_ND = features(encoder, images, machine)
    columns = {"row": checked.images["row"], "path": checked.images["path"]}
    labels = _source_labels(checked) if labels is None else labels
    if labels:
        found = [labels.get(row) for row in range(len(checked))]
        columns["label"] = pa.array(found, from_pandas=True)  # NaN is not a label either
    flat = pa.array(vectors_ND.reshape(-1), pa.float32())
    columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, vectors_ND.shape[1])
    table = pa.table(columns)
    return table.replace_schema_metadata(
        {"encoder_id": encoder_id(encoder), "content": images.content}
    )


def _source_labels(checked: "Checked") -> Labels:
    """The column "label" of the source, by row."""
    column = checked.source.columns.get("label")
    return {} if column is None else dict(enumerate(column[checked.index_N].tolist()))


def read_vectors(path: Path, images: "Images | None" = None) -> Vectors:
    """The vectors of a table: column vector, and row, path and label if present.

    Args:
        path: A Parquet file.
        images: The images that the rows name, for their pixels.

    Raises:
        FileError: It cannot be read, or is not a table of vectors.
        DataError: Vectors are not finite, or the images are not those of the rows.
    """
    if not path.exists():
        raise FileError(f"{path} does not exist", "pass a table that selftaught embed wrote")
    table = read_table(path)
    x_ND = _matrix(table, path)
    check_vectors(x_ND, f"{path}: vectors", "remove those rows, or embed the images again")
    names = table.column_names
    rows = table["row"].to_pylist() if "row" in names else list(range(len(x_ND)))
    if len(set(rows)) != len(rows) or not all(isinstance(row, int) and row >= 0 for row in rows):
        raise FileError(f"{path}: its rows are not distinct numbers", "embed the images again")
    paths = tuple(map(str, table["path"].to_pylist() if "path" in names else rows))
    if images is not None:
        _check_rows(images, rows, paths, path)
    labels = _labels(table["label"]) if "label" in names else None
    encoder = (table.schema.metadata or {}).get(b"encoder_id", b"").decode(errors="replace")
    return Vectors(x_ND, np.array(rows, np.int64), paths, labels, encoder, images)


def _labels(column: "pa.ChunkedArray") -> tuple[Any, ...] | None:
    """The labels; None for a nested column, as lists are not labels."""
    import pyarrow as pa

    return None if pa.types.is_nested(column.type) else nan_to_none(column.to_pylist())


def _matrix(table: "pa.Table", path: Path) -> NDArray[np.float32]:
    """The column of vectors, (N, D).

    Raises:
        FileError: It is missing, or does not hold lists of numbers of equal length.
    """
    import pyarrow as pa

    if "vector" not in table.column_names or not table.num_rows:
        remedy = "pass a table that selftaught embed wrote"
        raise FileError(f"{path} has no vectors (a column named vector)", remedy)
    column = table["vector"].combine_chunks()
    lists = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    try:
        flat_n = np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.float32)
        lengths = set(column.value_lengths().to_pylist()) if lists else {column.type.list_size}
        (D,) = lengths
        return flat_n.reshape(len(column), D)
    except (AttributeError, TypeError, ValueError, pa.ArrowException):
        remedy = "use lists of numbers of equal length"
        raise FileError(f"{path}: its vectors do not have the same length", remedy) from None


def _check_rows(images: "Images", rows: Sequence[int], paths: Sequence[str], table: Path) -> None:
    """Check that each row of the table is that row of the images."""
    known = images.checked.images["path"].to_pylist()
    for row, name in zip(rows, paths, strict=True):
        if row >= len(known) or known[row] != name:
            data = images.checked.source.name
            raise DataError(
                f"{table}: row {row} is {name!r}, not that row of {data}",
                "pass the images that the table was made from, or none",
            )
