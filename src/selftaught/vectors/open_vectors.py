"""What RUN and DATA name, opened: images, or vectors from an encoder and images or from a table."""

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
from selftaught.vectors.vectors import Vectors, gaps_as_none, image_vectors

_NAMED = 5  # images that are left out


def vectors_of(encoder: Encoder, images: Images, machine: Machine) -> Vectors:
    """The vectors of images by an encoder.

    Raises:
        DataError: The encoder does not take them, or vectors are not finite.
    """
    check_fits(encoder, images)
    return image_vectors(encoder, images, machine)


def open_vectors(
    run: str, data: str, machine: Machine, check: Callable[[int], object] | None = None
) -> Vectors:
    """The vectors of DATA by the encoder of RUN; or those of a table, RUN.

    Args:
        run: A run, an encoder folder, timm:NAME, or a table of vectors (.parquet).
        data: Images. Of a table they are those that it was made from, for their pixels; "": none.
        machine: Where the encoder computes.
        check: Called with the number of images before they are encoded; what it raises is raised.

    Raises:
        ConfigError: There is an encoder without images.
        DataError: No image can be used, the encoder does not take them, or vectors are not finite.
        FileError: There is no such encoder, or the table is none of vectors.
    """
    if is_table(run):
        return read_vectors(Path(run), open_images_with_notice(data, machine) if data else None)
    if not data:
        raise ConfigError(f"images are missing for the encoder of {run}", "give DATA after it")
    encoder, images = open_encoder(run), open_images_with_notice(data, machine)
    if check is not None:
        check(len(images.checked))
    return vectors_of(encoder, images, machine)


def vectors_for(run: str, data: str, machine: Machine, *, encoder: str, made: str) -> Vectors:
    """The vectors of DATA by the encoder that something was made with; or DATA, a table of them.

    Args:
        run: Where that encoder was; "" where it is not known.
        data: Images, or a table of vectors (.parquet).
        machine: Where the encoder computes.
        encoder: Where it is now, if it is not where it was.
        made: What was made with it, for complaints.

    Raises:
        ConfigError: It is not known where the encoder is.
        FileError: It is not where it was, or a table cannot be read.
        DataError: As `open_vectors`.
    """
    if holds_vectors(data):
        return read_vectors(Path(data))
    if not encoder and not run:
        found = f"{made} was made from a table: where its encoder is, is not known"
        raise ConfigError(found, "give --encoder, or a table of vectors as DATA")
    if not encoder and not run.startswith("timm:") and not Path(run).exists():
        found = f"{run}, the encoder of {made}, is not there any more"
        raise FileError(found, "say with --encoder where it is now")
    return open_vectors(encoder or run, data, machine)


def absolute_run(run: str) -> str:
    """Where the encoder will be found from any folder; "" of a table."""
    if is_table(run):
        return ""
    return run if run.startswith("timm:") else str(Path(run).resolve())


def is_table(run: str) -> bool:
    """Whether RUN is a table of vectors."""
    return run.lower().endswith(".parquet")


def holds_vectors(data: str) -> bool:
    """Whether DATA is a table of vectors; a table without them is a list of images.

    Raises:
        FileError: It is called a table, and is missing or none.
    """
    return is_table(data) and "vector" in read_columns(Path(data))


def with_labels(vectors: Vectors, column: str | None) -> Vectors:
    """The same with the labels of a column, or of the folders that images lie in.

    Args:
        vectors: Of images; of a table they keep its column "label".
        column: The column; "folders"; None leaves the labels as they are.

    Raises:
        DataError: There is no such column, or images lie in no folders.
    """
    if column is None or (column == "label" and vectors.images is None and vectors.labels):
        return vectors
    if column == "folders":
        names = [PurePosixPath(path).parent.name or None for path in vectors.paths]
        if not any(names):
            raise DataError("the images lie in no folders", "leave --label out")
        return replace(vectors, labels=tuple(names))
    checked = None if vectors.images is None else vectors.images.checked
    columns = {} if checked is None else checked.source.columns
    if checked is None or column not in columns:
        known = ", ".join(columns) or "none"
        raise DataError(f"there is no column {column!r} (columns: {known})", "or give folders")
    values_N = columns[column][checked.index_N][vectors.row_N]
    return replace(vectors, labels=gaps_as_none(values_N.tolist()))


def same_encoder(vectors: Vectors, encoder: str, what: str) -> None:
    """Whether vectors are of the encoder that something was made with; said where nobody knows.

    Raises:
        DataError: They are of another one.
    """
    if encoder and not vectors.encoder:
        words = "These vectors do not say which encoder made them: they are taken for those of"
        print(f"{words} {what}.", file=sys.stderr)
    if encoder and vectors.encoder and vectors.encoder != encoder:
        raise DataError(
            f"{what} is of encoder {encoder[:12]}, these vectors are of {vectors.encoder[:12]}",
            "give the encoder that it was made with",
        )
