"""Every image looked at once: which are usable, what is wrong with the others, what all are like.

Usable images get the rows 0 .. N-1, which name them everywhere after this. What was found is kept
in the cache by (path, size, modification time), so that a second check only asks for these.

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

from selftaught.data.check_cache import Known, Stamp
from selftaught.data.decode import decode_noting, read_image
from selftaught.data.image_statistics import (
    Look,
    array_looks,
    intensity,
    look,
    sample_size,
    set_type,
)
from selftaught.data.sources import Source, is_below
from selftaught.errors import BadImage, DataError, FileError, shown
from selftaught.foundation import files
from selftaught.foundation.machine import Machine
from selftaught.views.policy import Intensity

if TYPE_CHECKING:
    import pyarrow as pa

_CHUNK = 32  # files a task: a million tasks would cost more than they do
_REASONS = 3  # that an error names


@dataclass(frozen=True)
class Checked:
    """What `check` found.

    Attributes:
        source: What the user named.
        index_N: (N,) int64, row -> position in source.names.
        images: row, path, width, height, channels, dtype, note, sha256; channels and dtype are the
            file's own, a path that is not UTF-8 is escaped.
        rejected: path, reason.
        channels: Of all images after conversion (`decode.as_channels`).
        dtype: Of all images after conversion: "uint8", "uint16" or "float32".
        intensity: The range of the values, and the channels' mean and std within it.
        notes: What people should know, a sentence each.
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
        """SHA-256 of hashes and shapes in order: what is computed from the images is kept by it."""
        columns = ("sha256", "height", "width", "channels", "dtype")
        rows = zip(*(self.images[name].to_pylist() for name in columns), strict=True)
        return hashlib.sha256("\n".join(map(str, rows)).encode()).hexdigest()


def check_images(source: Source, machine: Machine, *, min_side: int = 1) -> Checked:
    """Decode every image once and say what is in there.

    Args:
        source: What the user named.
        machine: Threads that decode, and the cache for results.
        min_side: Images whose shorter side has fewer pixels are left out.

    Raises:
        DataError: No image is usable.
    """
    if source.array is not None:
        looks = list(array_looks(source.array, sample_size(len(source))))
    else:
        looks = _look_at_files(source, machine)
    looks = _too_small(looks, min_side)
    looks, dtype = _one_type(looks)
    usable = np.array([i for i, found in enumerate(looks) if not found.reason], np.int64)
    if not len(usable):
        raise _nothing(source, looks)
    looks = _copies(looks, source.names)
    kept = [looks[i] for i in usable]
    channels = max(found.channels for found in kept)
    values, remarks = intensity(kept, channels, dtype)
    return Checked(
        source=source,
        index_N=usable,
        images=_images_table(kept, [source.names[i] for i in usable]),
        rejected=_rejected_table(looks, source.names),
        channels=channels,
        dtype=dtype,
        intensity=values,
        notes=(*_notes(kept, [source.names[i] for i in usable], channels), *remarks),
    )


def write_index(checked: Checked, folder: Path) -> None:
    """Write images.parquet and rejected.parquet, whole or not at all each."""
    files.write_table(folder / "images.parquet", checked.images)
    files.write_table(folder / "rejected.parquet", checked.rejected)


def read_index(folder: Path) -> "pa.Table":
    """The usable images of a run, as `Checked.images`.

    Raises:
        FileError: images.parquet is missing, damaged or another table.
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
    """What the check found, as plain values: texts and numbers, "notes" and "rejected"."""
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
    """The sides of all images in words."""
    low, high = sides_N.min(), sides_N.max()
    return f"{low} px" if low == high else f"{low} to {high} px, median {np.median(sides_N):g}"


# ---- looking


def _look_at_files(source: Source, machine: Machine) -> list[Look]:
    """What is known of files that have not changed; the others are decoded."""
    assert source.root is not None
    known = Known(machine.cache, source.root, source.name)
    stamps = [_stamp(source.root, name) for name in source.names]
    looks: list[Look | None] = [known.get(n, s) for n, s in zip(source.names, stamps, strict=True)]
    todo = [i for i, found in enumerate(looks) if found is None]
    if todo:
        try:
            for i, found in zip(todo, _decode_all(source, todo, machine.threads), strict=True):
                looks[i] = found
        finally:  # an interrupted check goes on where it was
            known.write(source.names, stamps, looks)
    return [found for found in looks if found is not None]


def _stamp(root: Path, name: str) -> Stamp | None:
    try:
        status = os.stat(f"{root}/{name}")
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _decode_all(source: Source, todo: list[int], threads: int) -> Iterator[Look]:
    """Looks at the files of these positions, in order."""
    sample = sample_size(len(source))
    root = str(source.root)

    def work(chunk: list[int]) -> list[Look]:
        return [_look_at(root, source.names[i], sample) for i in chunk]

    chunks = [todo[i : i + _CHUNK] for i in range(0, len(todo), _CHUNK)]
    pool = ThreadPoolExecutor(max(1, threads), "check")
    try:
        for found in pool.map(work, chunks):
            yield from found
    finally:
        pool.shutdown(cancel_futures=True)


def _look_at(root: str, name: str, sample: int) -> Look:
    path, sha256 = f"{root}/{name}", ""
    try:
        if not is_below(root, os.path.realpath(path)):
            return Look(reason="a link that leads out of the folder")
        data = read_image(Path(path), name)
        sha256 = hashlib.sha256(data).hexdigest()
        return look(decode_noting(data, name), sha256, sample)
    except BadImage as error:
        return Look(reason=error.reason, sha256=sha256)


# ---- judging


def _too_small(looks: list[Look], min_side: int) -> list[Look]:
    return [
        replace(found, reason=f"smaller than {min_side} pixels")
        if not found.reason and min(found.width, found.height) < min_side
        else found
        for found in looks
    ]


def _one_type(looks: list[Look]) -> tuple[list[Look], str]:
    """The set's type; images that have no common range with the others are left out."""
    dtype, eight = set_type([found for found in looks if not found.reason])
    reason = "16 bits or float among 8-bit images" if eight else "8 bits among images of more"
    return [
        replace(found, reason=reason)
        if not found.reason and (found.dtype == "uint8") != eight
        else found
        for found in looks
    ], dtype


def _copies(looks: list[Look], names: Sequence[str]) -> list[Look]:
    """A note on every usable image whose bytes an earlier one has."""
    first: dict[str, str] = {}
    out = []
    for found, name in zip(looks, names, strict=True):
        original = name if found.reason else first.setdefault(found.sha256, name)
        if original != name:
            words = [found.note] if found.note else []
            found = replace(found, note=", ".join([*words, f"copy of {encodable(original)}"]))
        out.append(found)
    return out


_SENTENCES = {
    "copy": "{} of the images are copies of others (the same bytes) and are kept, for example {}.",
    "constant": "{} of the images have one value in all pixels and are kept, for example {}.",
    "animated": "{} of the images are animated: the first frame is used, for example of {}.",
    "pages": "{} of the files have several pages: the first is used, for example of {}.",
    "tiny": "{} of the images have a side below 8 pixels and are kept, for example {}.",
    "16 bits read as 8": "{} of the colour images have 16 bits, read as 8, for example {}.",
}


def _notes(kept: list[Look], names: list[str], channels: int) -> list[str]:
    notes = []
    for word, sentence in _SENTENCES.items():
        pairs = zip(kept, names, strict=True)
        having = [
            n for found, n in pairs if any(w.startswith(word) for w in found.note.split(", "))
        ]
        if having:
            notes.append(sentence.format(f"{len(having):,}", shown(having[0])))
    grey = sum(found.channels == 1 for found in kept)
    if channels > 1 and grey:
        notes.append(f"{grey:,} of the images are grey and are repeated in {channels} channels.")
    return notes


def _nothing(source: Source, looks: list[Look]) -> DataError:
    pairs = list(zip(source.names, looks, strict=True))[:_REASONS]
    reasons = "; ".join(f"{shown(name)}: {found.reason}" for name, found in pairs)
    more = f"; {len(looks) - len(pairs)} more" if len(looks) > len(pairs) else ""
    return DataError(
        f"none of the {len(looks):,} images of {shown(source.name)} is usable ({reasons}{more})",
        "give images that other programs can open",
    )


# ---- tables

_ESCAPED = re.compile(r"\\x([89a-f][0-9a-f])")  # as `encodable` writes a byte
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


def _images_table(kept: list[Look], names: list[str]) -> "pa.Table":
    import pyarrow as pa

    values = {
        "row": range(len(kept)),
        "path": [encodable(name) for name in names],
    } | {column: [getattr(found, column) for found in kept] for column in list(_COLUMNS)[2:]}
    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in _COLUMNS.items()])
    return pa.table(values, schema)


def _rejected_table(looks: list[Look], names: Sequence[str]) -> "pa.Table":
    import pyarrow as pa

    left = [(encodable(n), x.reason) for n, x in zip(names, looks, strict=True) if x.reason]
    paths, reasons = [p for p, _ in left], [r for _, r in left]
    schema = pa.schema([("path", pa.string()), ("reason", pa.string())])
    return pa.table({"path": paths, "reason": reasons}, schema)


def found_as(root: Path, name: str) -> Path:
    """The file below root that a table calls `name`, be it there or not.

    A name that `encodable` escaped is that of no file, unless there is one of that very name.
    """
    there, true = root / name, _ESCAPED.sub(lambda byte: chr(0xDC00 + int(byte[1], 16)), name)
    return there if true == name or os.path.lexists(there) else root / true


def encodable(name: str) -> str:
    """A file's name as text for tables: bytes that are not UTF-8 become \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
