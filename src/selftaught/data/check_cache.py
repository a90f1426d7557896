"""What an earlier check found out about files: a table in the cache, by path, size and time."""

import contextlib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from selftaught.data.image_statistics import Look
from selftaught.errors import FileError
from selftaught.foundation import files

if TYPE_CHECKING:
    import pyarrow as pa

Stamp = tuple[int, int]
"""Size in bytes and modification time in nanoseconds."""

_VERSION = 1  # of what a look holds and of how images are decoded


class Known:
    """Looks at files of one folder, kept between runs.

    A damaged table is no error: the files are looked at again. Only looks at files that could be
    read are kept, since a permission may change without a trace in the file.
    """

    def __init__(self, cache: Path | None, root: Path, name: str) -> None:
        key = hashlib.sha256(os.fsencode(f"{root}\0{name}")).hexdigest()[:32]
        self._path = None if cache is None else cache / "checks" / f"{key}.parquet"
        self._looks: dict[bytes, tuple[int, int, Look]] = {}
        with contextlib.suppress(FileError, KeyError, TypeError):
            self._read()

    def get(self, name: str, stamp: Stamp | None) -> Look | None:
        """The look at a file that has this size and time; None where it must be looked at."""
        size, time, look = self._looks.get(os.fsencode(name), (None, None, None))
        return look if stamp is not None and (size, time) == stamp else None

    def write(
        self, names: Sequence[str], stamps: Sequence[Stamp | None], looks: Sequence[Look | None]
    ) -> None:
        """Keep looks for the next time; a cache that cannot be written to is not needed."""
        rows = [
            (os.fsencode(name), *stamp, look)
            for name, stamp, look in zip(names, stamps, looks, strict=True)
            if stamp is not None and look is not None and look.sha256
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
        if (table.schema.metadata or {}).get(b"made by") != _maker():
            return
        columns = [table[name].to_pylist() for name in ("name", "size", "time")]
        looks = zip(*(table[f.name].to_pylist() for f in fields(Look)), strict=True)
        for name, size, time, look in zip(*columns, looks, strict=True):
            self._looks[name] = (size, time, Look(*look))


def _table(rows: Sequence[tuple[bytes, int, int, Look]]) -> "pa.Table":
    import pyarrow as pa

    kinds = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bytes": pa.binary()}
    schema = {"name": pa.binary(), "size": pa.int64(), "time": pa.int64()}
    values = {name: [row[i] for row in rows] for i, name in enumerate(schema)}
    for field in fields(Look):
        schema[field.name] = kinds.get(type(field.default).__name__, pa.list_(pa.float64()))
        values[field.name] = [getattr(row[3], field.name) for row in rows]
    return pa.table(values, pa.schema(list(schema.items()), {"made by": _maker()}))


def _maker() -> bytes:
    """What else a look depends on: other decoders and another limit may judge otherwise."""
    decoders = [version(package) for package in ("pillow", "simplejpeg")]
    return f"{_VERSION} {decoders} {Image.MAX_IMAGE_PIXELS}".encode()
