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
from selftaught.vectors.vectors import Vectors, check_vectors, gaps_as_none

if TYPE_CHECKING:
    import pyarrow as pa

    from selftaught.data.check_images import Checked
    from selftaught.data.store import Images
    from selftaught.encoders.encoder import Encoder

Labels = Mapping[int, Any]
"""A label by row: a name, a class number or a target."""


def vector_table(
    encoder: "Encoder",
    images: "Images",
    machine: Machine = CPU,
    *,
    labels: Labels | None = None,
) -> "pa.Table":
    """A vector for every usable image.

    Args:
        encoder: f; a vector is f(x) of the evaluation view.
        images: The images, of which rejected ones have no row.
        machine: Where the encoder computes.
        labels: Labels by row. By default those that came along with the images; {} for none.

    Returns:
        A table of N rows: row (int64), path (string), label (null where a row has none; no such
        column where no row has one), vector (a list of D float32). Its metadata are "encoder_id"
        and "content", which say what the vectors are of.
    """
    import pyarrow as pa

    checked = images.checked
    vectors_ND = features(encoder, images, machine)
    columns = {"row": checked.images["row"], "path": checked.images["path"]}
    labels = _own_labels(checked) if labels is None else labels
    if labels:
        found = [labels.get(row) for row in range(len(checked))]
        columns["label"] = pa.array(found, from_pandas=True)  # NaN is no label either
    flat = pa.array(vectors_ND.reshape(-1), pa.float32())
    columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, vectors_ND.shape[1])
    table = pa.table(columns)
    return table.replace_schema_metadata(
        {"encoder_id": encoder_id(encoder), "content": images.content}
    )


def _own_labels(checked: "Checked") -> Labels:
    """The column "label" of the source, by row."""
    column = checked.source.columns.get("label")
    return {} if column is None else dict(enumerate(column[checked.index_N].tolist()))


def read_vectors(path: Path, images: "Images | None" = None) -> Vectors:
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
    check_vectors(x_ND, f"{path}: vectors", "leave those rows out, or embed the images anew")
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
