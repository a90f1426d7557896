"""Vectors from RUN and DATA: of images by an encoder, or from a table."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from selftaught.data.open_images import open_images_with_notice
from selftaught.data.store import Images
from selftaught.encoders.encoder import Encoder
from selftaught.encoders.fits import check_fits
from selftaught.encoders.folder import open_encoder
from selftaught.errors import ConfigError, DataError, FileError
from selftaught.foundation.files import read_columns
from selftaught.foundation.machine import Machine
from selftaught.vectors.parquet import read_vectors
from selftaught.vectors.vectors import Vectors, image_vectors, nan_to_none


def encode_images(encoder: Encoder, images: Images, machine: Machine) -> Vectors:
    """Encode images, after checking that the encoder accepts them.

    Raises:
        DataError: The encoder does not accept them, or vectors are not finite.
    """
    check_fits(encoder, images)
    return image_vectors(encoder, images, machine)


def open_vectors(
    run: str, data: str, machine: Machine, check: Callable[[int], object] | None = None
) -> Vectors:
    """Open the vectors of DATA by the encoder of RUN, or those of RUN if it is a table.

    Args:
        run: A run, an encoder folder, timm:NAME, or a table of vectors (.parquet).
        data: Images; those that a table was made from, for their pixels; "": none.
        machine: Where the encoder computes.
        check: Called with the number of images before they are encoded, to raise an error.

    Raises:
        ConfigError: RUN is an encoder, and DATA is empty.
        DataError: No image is usable, the encoder does not accept them, or vectors are not finite.
        FileError: The encoder does not exist, or the table has no vectors.
    """
    if is_table(run):
        return read_vectors(Path(run), open_images_with_notice(data, machine) if data else None)
    if not data:
        raise ConfigError(f"the encoder of {run} needs images", "pass DATA after it")
    encoder, images = open_encoder(run), open_images_with_notice(data, machine)
    if check is not None:
        check(len(images.checked))
    return encode_images(encoder, images, machine)


def open_matching_vectors(
    run: str, data: str, machine: Machine, *, encoder: str, made: str
) -> Vectors:
    """Open the vectors of DATA by a product's encoder, or those of DATA if it is a table.

    Args:
        run: Former location of the encoder; "" if unknown.
        data: Images, or a table of vectors (.parquet).
        machine: Where the encoder computes.
        encoder: New location of the encoder, if it has moved.
        made: Name of the product, for error messages.

    Raises:
        ConfigError: The location of the encoder is unknown.
        FileError: The encoder has moved, or a table cannot be read.
        DataError: As `open_vectors`.
    """
    if holds_vectors(data):
        return read_vectors(Path(data))
    if not encoder and not run:
        what = f"{made} was made from a table, so the location of its encoder is unknown"
        raise ConfigError(what, "pass --encoder, or a table of vectors as DATA")
    if not encoder and not run.startswith("timm:") and not Path(run).exists():
        what = f"{run}, the encoder of {made}, no longer exists"
        raise FileError(what, "pass its new location as --encoder")
    return open_vectors(encoder or run, data, machine)


def absolute_run(run: str) -> str:
    """RUN as an absolute path, or timm:NAME as it is; "" for a table."""
    if is_table(run):
        return ""
    return run if run.startswith("timm:") else str(Path(run).resolve())


def is_table(run: str) -> bool:
    """Whether RUN is a table of vectors."""
    return run.lower().endswith(".parquet")


def holds_vectors(data: str) -> bool:
    """Whether DATA is a table of vectors; a table without them is a list of images.

    Raises:
        FileError: It is named like a table, but is missing or not one.
    """
    return is_table(data) and "vector" in read_columns(Path(data))


def with_labels(vectors: Vectors, column: str | None) -> Vectors:
    """The vectors with labels from a column, or from the folders of the images.

    Args:
        vectors: Vectors of images, or of a table, which keep its column "label".
        column: The column, or "folders"; None keeps the labels.

    Raises:
        DataError: The column does not exist, or images are not in folders.
    """
    if column is None or (column == "label" and vectors.images is None and vectors.labels):
        return vectors
    if column == "folders":
        names = [PurePosixPath(path).parent.name or None for path in vectors.paths]
        if not any(names):
            raise DataError("the images are not in folders", "drop --label")
        return replace(vectors, labels=tuple(names))
    checked = None if vectors.images is None else vectors.images.checked
    columns = {} if checked is None else checked.source.columns
    if checked is None or column not in columns:
        known = ", ".join(columns) or "none"
        what = f"there is no column {column!r} (columns: {known})"
        raise DataError(what, "choose another --label, such as folders")
    values_N = columns[column][checked.index_N][vectors.row_N]
    return replace(vectors, labels=nan_to_none(values_N.tolist()))


def check_same_encoder(vectors: Vectors, encoder: str, what: str) -> None:
    """Check that vectors are from the encoder of `what`; warn if that is unknown.

    Raises:
        DataError: They are from another one.
    """
    if encoder and not vectors.encoder:
        warning = "These vectors do not name their encoder. It is assumed to be that of"
        print(f"{warning} {what}.", file=sys.stderr)
    if encoder and vectors.encoder and vectors.encoder != encoder:
        raise DataError(
            f"{what} has encoder {encoder[:12]}, these vectors are from {vectors.encoder[:12]}",
            "use the encoder it was made with",
        )
