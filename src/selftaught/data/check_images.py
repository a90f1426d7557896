"""Checks every image once: which are usable, what is wrong with the others, and set statistics.

Usable images get the rows 0 .. N-1, which identify them everywhere else. Results are cached by
(path, size, modification time), so a second check only compares these.

Shapes:  N usable images.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from selftaught.data.check_cache import CheckCache, Stamp
from selftaught.data.decode import decode_with_notes, read_image
from selftaught.data.image_statistics import (
    ImageStatistics,
    intensity,
    measure_array,
    measure_image,
    sample_size,
    set_type,
)
from selftaught.data.sources import Source, is_below
from selftaught.errors import BadImage, DataError, FileError, printable
from selftaught.foundation import files
from selftaught.foundation.machine import Machine
from selftaught.views.policy import Intensity

if TYPE_CHECKING:
    import pyarrow as pa

_CHUNK = 32  # files per task: with one file each, tasks would cost more than their work
_REASONS = 3  # reasons in an error message


@dataclass(frozen=True)
class Checked:
    """Results of `check_images`.

    Attributes:
        source: The user's images.
        index_N: (N,) int64, row -> position in source.names.
        images: row, path, width, height, channels, dtype, note, sha256; channels and dtype are the
            file's own, a path that is not UTF-8 is escaped.
        rejected: path, reason.
        channels: Channels of all images after conversion (`decode.as_channels`).
        dtype: Type of all images after conversion: "uint8", "uint16" or "float32".
        intensity: The range of the values, and the channels' mean and std within it.
        notes: Remarks for the user, one sentence each.
    """

    source: Source
    index_N: NDArray[np.int64]
    images: "pa.Table"
    rejected: "pa.Table"
    channels: int
    dtype: str
    intensity: Intensity
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.index_N)

    @cached_property
    def content(self) -> str:
        """SHA-256 of hashes and shapes in order: the cache key of everything computed from them."""
        columns = ("sha256", "height", "width", "channels", "dtype")
        rows = zip(*(self.images[name].to_pylist() for name in columns), strict=True)
        return hashlib.sha256("\n".join(map(str, rows)).encode()).hexdigest()


def check_images(source: Source, machine: Machine, *, min_side: int = 1) -> Checked:
    """Decode every image once and report what was found.

    Args:
        source: The user's images.
        machine: Threads for decoding, and the cache for results.
        min_side: Images whose shorter side has fewer pixels are left out.

    Raises:
        DataError: No image is usable.
    """
    if source.array is not None:
        results = list(measure_array(source.array, sample_size(len(source))))
    else:
        results = _check_files(source, machine)
    results = _mark_small(results, min_side)
    results, dtype = _mark_other_types(results)
    index_N = np.array([i for i, found in enumerate(results) if not found.reason], np.int64)
    if not len(index_N):
        raise _none_usable(source, results)
    results = _note_copies(results, source.names)
    usable = [results[i] for i in index_N]
    channels = max(found.channels for found in usable)
    values, remarks = intensity(usable, channels, dtype)
    return Checked(
        source=source,
        index_N=index_N,
        images=_images_table(usable, [source.names[i] for i in index_N]),
        rejected=_rejected_table(results, source.names),
        channels=channels,
        dtype=dtype,
        intensity=values,
        notes=(*_notes(usable, [source.names[i] for i in index_N], channels), *remarks),
    )


def write_index(checked: Checked, folder: Path) -> None:
    """Write images.parquet and rejected.parquet, each atomically."""
    files.write_table(folder / "images.parquet", checked.images)
    files.write_table(folder / "rejected.parquet", checked.rejected)


def read_index(folder: Path) -> "pa.Table":
    """The usable images of a run, as `Checked.images`.

    Raises:
        FileError: images.parquet is missing, damaged or lacks a column.
    """
    table = files.read_table(folder / "images.parquet")
    if missing := _COLUMNS.keys() - set(table.column_names):
        raise FileError(
            f"{folder / 'images.parquet'} has no column {', '.join(sorted(missing))}",
            "restore the file from a backup",
        )
    return table


# ---- in words


def check_facts(checked: Checked) -> dict[str, Any]:
    """The results as plain values: texts and numbers, "notes" and "rejected"."""
    sides = [checked.images[name].to_numpy() for name in ("height", "width")]
    shorter, longer = np.minimum(*sides), np.maximum(*sides)
    intensity = checked.intensity
    columns = (checked.rejected[name].to_pylist() for name in ("path", "reason"))
    return {
        "usable images": len(checked),
        "left out": checked.rejected.num_rows,
        "shorter side": _sides_in_words(shorter),
        "longer side": _sides_in_words(longer),
        "channels": checked.channels,
        "values": f"{checked.dtype}, used from {intensity.low:g} to {intensity.high:g}",
        "channel mean": ", ".join(f"{value:.3f}" for value in intensity.mean),
        "channel std": ", ".join(f"{value:.3f}" for value in intensity.std),
        "notes": list(checked.notes),
        "rejected": list(zip(*columns, strict=True)),
    }


def _sides_in_words(sides_N: NDArray[np.int64]) -> str:
    """The sides of all images as text."""
    low, high = sides_N.min(), sides_N.max()
    return f"{low} px" if low == high else f"{low} to {high} px, median {np.median(sides_N):g}"


# ---- reading files


def _check_files(source: Source, machine: Machine) -> list[ImageStatistics]:
    """Cached results for unchanged files; the others are decoded."""
    assert source.root is not None
    known = CheckCache(machine.cache, source.root, source.name)
    stamps = [_stamp(source.root, name) for name in source.names]
    results: list[ImageStatistics | None] = [
        known.get(n, s) for n, s in zip(source.names, stamps, strict=True)
    ]
    todo = [i for i, found in enumerate(results) if found is None]
    if todo:
        try:
            for i, found in zip(todo, _decode_all(source, todo, machine.threads), strict=True):
                results[i] = found
        finally:  # an interrupted check continues where it stopped
            known.write(source.names, stamps, results)
    return [found for found in results if found is not None]


def _stamp(root: Path, name: str) -> Stamp | None:
    try:
        status = os.stat(f"{root}/{name}")
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _decode_all(source: Source, todo: list[int], threads: int) -> Iterator[ImageStatistics]:
    """Decode the files at these positions, yielding results in order."""
    sample = sample_size(len(source))
    root = str(source.root)

    def work(chunk: list[int]) -> list[ImageStatistics]:
        return [_check_file(root, source.names[i], sample) for i in chunk]

    chunks = [todo[i : i + _CHUNK] for i in range(0, len(todo), _CHUNK)]
    pool = ThreadPoolExecutor(max(1, threads), "check")
    try:
        for found in pool.map(work, chunks):
            yield from found
    finally:
        pool.shutdown(cancel_futures=True)


def _check_file(root: str, name: str, sample: int) -> ImageStatistics:
    path, sha256 = f"{root}/{name}", ""
    try:
        if not is_below(root, os.path.realpath(path)):
            return ImageStatistics(reason="a link that leads out of the folder")
        data = read_image(Path(path), name)
        sha256 = hashlib.sha256(data).hexdigest()
        return measure_image(decode_with_notes(data, name), sha256, sample)
    except BadImage as error:
        return ImageStatistics(reason=error.reason, sha256=sha256)


# ---- comparing images


def _mark_small(results: list[ImageStatistics], min_side: int) -> list[ImageStatistics]:
    return [
        replace(found, reason=f"smaller than {min_side} pixels")
        if not found.reason and min(found.width, found.height) < min_side
        else found
        for found in results
    ]


def _mark_other_types(results: list[ImageStatistics]) -> tuple[list[ImageStatistics], str]:
    """The set's type; images without a common value range with the others are left out."""
    dtype, eight = set_type([found for found in results if not found.reason])
    reason = "16 bits or float among 8-bit images" if eight else "8 bits among images of more"
    return [
        replace(found, reason=reason)
        if not found.reason and (found.dtype == "uint8") != eight
        else found
        for found in results
    ], dtype


def _note_copies(results: list[ImageStatistics], names: Sequence[str]) -> list[ImageStatistics]:
    """Add a note to every usable image that has the same bytes as an earlier one."""
    first: dict[str, str] = {}
    out = []
    for found, name in zip(results, names, strict=True):
        original = name if found.reason else first.setdefault(found.sha256, name)
        if original != name:
            words = [found.note] if found.note else []
            found = replace(found, note=", ".join([*words, f"copy of {utf8_name(original)}"]))
        out.append(found)
    return out


_SENTENCES = {
    "copy": "{} of the images are exact copies of others and are included, for example {}.",
    "constant": "{} of the images have one value in all pixels and are included, for example {}.",
    "animated": "{} of the images are animated; only the first frame is used, for example of {}.",
    "pages": "{} of the files have several pages; only the first is used, for example of {}.",
    "tiny": "{} of the images have a side below 8 pixels and are included, for example {}.",
    "16 bits read as 8": "{} of the colour images have 16 bits, read as 8, for example {}.",
}


def _notes(usable: list[ImageStatistics], names: list[str], channels: int) -> list[str]:
    notes = []
    for word, sentence in _SENTENCES.items():
        pairs = zip(usable, names, strict=True)
        having = [
            n for found, n in pairs if any(w.startswith(word) for w in found.note.split(", "))
        ]
        if having:
            notes.append(sentence.format(f"{len(having):,}", printable(having[0])))
    grey = sum(found.channels == 1 for found in usable)
    if channels > 1 and grey:
        notes.append(f"{grey:,} of the images are grey and are repeated in {channels} channels.")
    return notes


def _none_usable(source: Source, results: list[ImageStatistics]) -> DataError:
    pairs = list(zip(source.names, results, strict=True))[:_REASONS]
    reasons = "; ".join(f"{printable(name)}: {found.reason}" for name, found in pairs)
    more = f"; {len(results) - len(pairs)} more" if len(results) > len(pairs) else ""
    return DataError(
        f"none of the {len(results):,} images of {printable(source.name)} is usable "
        f"({reasons}{more})",
        "use images that other programs can open",
    )


# ---- tables

_ESCAPED = re.compile(r"\\x([89a-f][0-9a-f])")  # as `utf8_name` writes a byte
_COLUMNS = {
    "row": "int64",
    "path": "string",
    "width": "int64",
    "height": "int64",
    "channels": "int64",
    "dtype": "string",
    "note": "string",
    "sha256": "string",
}


def _images_table(usable: list[ImageStatistics], names: list[str]) -> "pa.Table":
    import pyarrow as pa

    values = {
        "row": range(len(usable)),
        "path": [utf8_name(name) for name in names],
    } | {column: [getattr(found, column) for found in usable] for column in list(_COLUMNS)[2:]}
    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in _COLUMNS.items()])
    return pa.table(values, schema)


def _rejected_table(results: list[ImageStatistics], names: Sequence[str]) -> "pa.Table":
    import pyarrow as pa

    left = [(utf8_name(n), x.reason) for n, x in zip(names, results, strict=True) if x.reason]
    paths, reasons = [p for p, _ in left], [r for _, r in left]
    schema = pa.schema([("path", pa.string()), ("reason", pa.string())])
    return pa.table({"path": paths, "reason": reasons}, schema)


def listed_path(root: Path, name: str) -> Path:
    """The path below root of the file that a table calls `name`, which need not exist.

    A name that `utf8_name` escaped is decoded, unless a file has exactly that name.
    """
    there, true = root / name, _ESCAPED.sub(lambda byte: chr(0xDC00 + int(byte[1], 16)), name)
    return there if true == name or os.path.lexists(there) else root / true


def utf8_name(name: str) -> str:
    """A file name as text for tables: bytes that are not UTF-8 become \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
