"""What RUN and DATA name, opened: images, or vectors from an encoder and images or from a table."""

import os
import sys
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from selftaught import assemble
from selftaught.config import Config, DataSettings
from selftaught.data.check import Checked, check
from selftaught.data.images import Source
from selftaught.data.store import Images
from selftaught.encoders.encoder import Encoder
from selftaught.encoders.folder import open_encoder
from selftaught.errors import ConfigError, DataError, FileError, shown
from selftaught.evaluation.evaluate import check_fits
from selftaught.files import read_columns
from selftaught.groups.clusters import Clusters
from selftaught.machine import cache_folder, pick_device
from selftaught.options import Machine
from selftaught.resolve import lasting
from selftaught.vectors import Vectors, gaps_as_none, of_images, of_table

_NAMED = 5  # images that are left out


def open_images(data: str, machine: Machine) -> Images:
    """The usable images of DATA; what is left out, and why, is said on stderr.

    Raises:
        DataError: There are none.
    """
    wanted = Config(data=DataSettings(lasting(data)))
    images = assemble.opened(wanted, machine.cache, machine.threads)
    _say_left_out(images.checked)
    return images


def open_files(paths: Sequence[Path], machine: Machine) -> Images:
    """These files, each once and all of them.

    Raises:
        DataError: One cannot be used.
    """
    real = dict.fromkeys(path.parent.resolve() / path.name for path in paths)
    root = Path(os.path.commonpath([path.parent for path in real]))
    source = Source(str(root), root, tuple(path.relative_to(root).as_posix() for path in real))
    cache, threads = cache_folder(machine.cache), machine.threads
    checked = check(source, cache=cache, threads=threads)
    for name, reason in zip(*checked.rejected.to_pydict().values(), strict=True):
        what = f"{shown(str(root / name))} cannot be used ({reason})"
        raise DataError(what, "restore it, or take it out of the set")
    return assemble.opened(Config(data=DataSettings(str(root))), cache, threads, checked)


def left_out(checked: Checked) -> str:
    """Which images could not be used, and why, in a sentence; "" where there are none."""
    columns = (checked.rejected[name].to_pylist() for name in ("path", "reason"))
    faults = [f"{shown(path)} ({reason})" for path, reason in zip(*columns, strict=True)]
    if not faults:
        return ""
    more = len(faults) - _NAMED
    which = ", ".join(faults[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")
    images = "1 image is" if len(faults) == 1 else f"{len(faults):,} images are"
    return f"{images} left out: {which}."


def _say_left_out(checked: Checked) -> None:
    if words := left_out(checked):
        print(words, file=sys.stderr)


def open_new_images(
    data: str, machine: Machine, known: Set[tuple[str, str]]
) -> tuple[Images | None, int]:
    """The usable images of DATA that are not known yet, and how many of them are.

    Args:
        data: Images, in any form.
        machine: Threads and cache.
        known: Path and SHA-256 of those that are.

    Returns:
        The images, in their order, rows 0 .. n-1; None where all are known.

    Raises:
        DataError: There are none at all.
    """
    wanted = Config(data=DataSettings(lasting(data)))
    looked = assemble.checked(wanted, machine.cache, machine.threads)
    _say_left_out(looked)
    columns = (looked.images[name].to_pylist() for name in ("path", "sha256"))
    new = np.flatnonzero([pair not in known for pair in zip(*columns, strict=True)])
    old = len(looked) - len(new)
    if not len(new):
        return None, old
    if old:
        images = looked.images.take(new).set_column(0, "row", [np.arange(len(new))])
        looked = replace(looked, index_N=looked.index_N[new], images=images)
    return assemble.opened(wanted, machine.cache, machine.threads, looked), old


def vectors_of(encoder: Encoder, images: Images, machine: Machine) -> Vectors:
    """The vectors of images by an encoder.

    Raises:
        DataError: The encoder does not take them, or vectors are not finite.
    """
    check_fits(encoder, images)
    return of_images(
        encoder,
        images,
        device=pick_device(machine.device),
        threads=machine.threads,
        cache=cache_folder(machine.cache),
    )


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
        return of_table(Path(run), open_images(data, machine) if data else None)
    if not data:
        raise ConfigError(f"images are missing for the encoder of {run}", "give DATA after it")
    encoder, images = open_encoder(run), open_images(data, machine)
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
        return of_table(Path(data))
    if not encoder and not run:
        found = f"{made} was made from a table: where its encoder is, is not known"
        raise ConfigError(found, "give --encoder, or a table of vectors as DATA")
    if not encoder and not run.startswith("timm:") and not Path(run).exists():
        found = f"{run}, the encoder of {made}, is not there any more"
        raise FileError(found, "say with --encoder where it is now")
    return open_vectors(encoder or run, data, machine)


def vectors_of_clusters(
    clusters: Clusters, folder: Path, machine: Machine, *, data: str = "", encoder: str = ""
) -> Vectors:
    """The vectors of what clusters were made from.

    Args:
        clusters: The clusters.
        folder: Where they are kept, for complaints.
        machine: Where the encoder computes.
        data: The images, or a table of vectors, in place of those; "": those.
        encoder: Where the encoder is now, if it is not where it was.

    Raises:
        UserError: As `vectors_for`, or it is not known, or not there.
    """
    made_from, table = (str(clusters.facts.get(name, "")) for name in ("data", "vectors"))
    wanted, made = data or made_from, str(folder)
    if not wanted:
        raise ConfigError(f"{made} does not say its images", "give --data")
    if not (data or encoder) and Path(table).is_file():
        wanted = table
    elif not data and is_table(wanted) and not Path(wanted).exists():
        found = f"{wanted} does not exist"
        raise DataError(found, f"{made} was made from it; say with --data where it is")
    if not clusters.run and made_from != table and holds_vectors(wanted):
        return _with_pictures(wanted, made_from, machine)
    try:
        return vectors_for(clusters.run, wanted, machine, encoder=encoder, made=made)
    except DataError as error:
        if data or Path(wanted).exists():
            raise
        raise DataError(
            error.what, f"{made} was made from it; say with --data where it is"
        ) from None


def _with_pictures(table: str, images: str, machine: Machine) -> Vectors:
    """The vectors of a table, and their images where those are still there."""
    try:
        return open_vectors(table, images, machine)
    except DataError:
        return open_vectors(table, "", machine)


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
