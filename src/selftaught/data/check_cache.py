"""Results of earlier checks of files: a table in the cache, by path, size and modification time."""

import contextlib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from selftaught.data.image_statistics import ImageStatistics
from selftaught.errors import FileError
from selftaught.foundation import files

if TYPE_CHECKING:
    import pyarrow as pa

Stamp = tuple[int, int]
"""Size in bytes and modification time in nanoseconds."""

_VERSION = 1  # of the fields of a result and of the way images are decoded


class CheckCache:
    """Results for the files of one folder, stored between runs.

    A damaged table is ignored, and the files are checked again. Only results for readable files
    are stored, because a permission may change without a trace in the file.
    """

    def __init__(self, cache: Path | None, root: Path, name: str) -> None:
        key = hashlib.sha256(os.fsencode(f"{root}\0{name}")).hexdigest()[:32]
        self._path = None if cache is None else cache / "checks" / f"{key}.parquet"
        self._results: dict[bytes, tuple[int, int, ImageStatistics]] = {}
        with contextlib.suppress(FileError, KeyError, TypeError):
            self._read()

    def get(self, name: str, stamp: Stamp | None) -> ImageStatistics | None:
        """The result for a file of this size and time; None if it must be checked."""
        size, time, result = self._results.get(os.fsencode(name), (None, None, None))
        return result if stamp is not None and (size, time) == stamp else None

    def write(
        self,
        names: Sequence[str],
        stamps: Sequence[Stamp | None],
        results: Sequence[ImageStatistics | None],
    ) -> None:
        """Store results for the next check; failure to write is ignored."""
        rows = [
            (os.fsencode(name), *stamp, result)
            for name, stamp, result in zip(names, stamps, results, strict=True)
            if stamp is not None and result is not None and result.sha256
        ]
        if self._path is None:
            return
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            files.write_table(self._path, _table(rows))

    def _read(self) -> None:
        if self._path is None or not self._path.exists():
            return
        table = files.read_table(self._path)
        if (table.schema.metadata or {}).get(b"made by") != _versions():
            return
        columns = [table[name].to_pylist() for name in ("name", "size", "time")]
        results = zip(*(table[f.name].to_pylist() for f in fields(ImageStatistics)), strict=True)
        for name, size, time, result in zip(*columns, results, strict=True):
            self._results[name] = (size, time, ImageStatistics(*result))


def _table(rows: Sequence[tuple[bytes, int, int, ImageStatistics]]) -> "pa.Table":
    import pyarrow as pa

    kinds = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bytes": pa.binary()}
    schema = {"name": pa.binary(), "size": pa.int64(), "time": pa.int64()}
    values = {name: [row[i] for row in rows] for i, name in enumerate(schema)}
    for field in fields(ImageStatistics):
        schema[field.name] = kinds.get(type(field.default).__name__, pa.list_(pa.float64()))
        values[field.name] = [getattr(row[3], field.name) for row in rows]
    return pa.table(values, pa.schema(list(schema.items()), {"made by": _versions()}))


def _versions() -> bytes:
    """Versions and limits that results depend on: other decoders may judge differently."""
    decoders = [version(package) for package in ("pillow", "simplejpeg")]
    return f"{_VERSION} {decoders} {Image.MAX_IMAGE_PIXELS}".encode()
