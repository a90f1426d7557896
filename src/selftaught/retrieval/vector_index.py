"""An index on disk: vectors, what they are of, and who made them; opened and searched.

    INDEX/index.json             encoder, run, dim, count, parts with their SHA-256; written last
          parts/000000/          one for each time that images were added
              vectors.npy        (n, D) float32, memory-mapped
              rows.parquet       row, path, sha256, label where there is one
          approximate/000001.faiss   where there are more than `EXACT` vectors

Nothing is believed before it is checked: index.json names all else with its SHA-256, and no file
can run code. What index.json does not name does not belong to the index.

Shapes:  N vectors in all, n of a part; D their size; Q queries; k neighbours.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selftaught.errors import ConfigError, FileError
from selftaught.foundation import files
from selftaught.retrieval.approximate import Approximate, load_faiss
from selftaught.retrieval.parts import F32, Rows, StackedVectors

if TYPE_CHECKING:
    import pyarrow as pa

INDEX, PARTS, APPROXIMATE = "index.json", "parts", "approximate"
VECTORS, ROWS = "vectors.npy", "rows.parquet"
EXACT = 100_000  # up to so many vectors are searched exactly
FORMAT = 1

_AGAIN = "restore it, or build the index anew"
_NAME = re.compile(r"\d{6}")
_FIELDS = {"format": int, "encoder": str, "run": str, "dim": int, "count": int, "parts": list}
_PART_FIELDS = {"name": str, "count": int, "data": str, "root": (str, type(None)), "sha256": dict}
_APPROXIMATE_FIELDS = {"name": str, "sha256": str, "probes": int, "lists": int}


@dataclass(frozen=True, eq=False)
class Part:
    """What was added at once.

    Attributes:
        name: Its folder's name.
        x_ND: The vectors.
        table: Of the same length: row (in DATA), path, sha256, label where there is one.
        data: DATA, as it can be found again; "" where vectors came without images.
        root: The folder that paths are relative to; None where they are no files.
    """

    name: str
    x_ND: F32
    table: "pa.Table"
    data: str
    root: Path | None


class VectorIndex:
    """An index that was opened. Rows 0 .. N-1 are those of its parts, one after the other.

    Attributes:
        folder: Where it is.
        described: index.json.
        parts: What it consists of.
        stack: All vectors.
        approximate: How they are searched where there are many; None: exactly.
    """

    def __init__(self, folder: Path, described: Mapping[str, Any], parts: tuple[Part, ...]) -> None:
        self.folder, self.described, self.parts = folder, described, parts
        self.stack = StackedVectors([part.x_ND for part in parts])
        self.approximate: Approximate | None = None
        if kept := described.get("approximate"):
            path = folder / APPROXIMATE / f"{kept['name']}.faiss"
            inner = load_faiss(path, len(self.stack), self.stack.dim)
            self.approximate = Approximate(inner, self.stack, kept["probes"])

    def __len__(self) -> int:
        return len(self.stack)

    @property
    def encoder(self) -> str:
        """The identity of the encoder that made the vectors; "" where nobody knows."""
        return str(self.described["encoder"])

    def search(self, query_QD: F32, k: int, own: Rows | None = None) -> tuple[F32, Rows]:
        """The k rows with the highest cosine to each query, best first.

        Args:
            query_QD: Finite vectors of the index's encoder.
            k: How many; fewer where the index has fewer.
            own: (Q,) a row each query must not find.

        Returns:
            Cosines, (Q, k) float32, and rows, (Q, k) int64; ties go to the lower row. Where faiss
            finds fewer than k, -inf and -1 are behind them.
        """
        k = min(k, len(self) - (own is not None))
        if not k or not len(query_QD):
            return np.empty((len(query_QD), k), np.float32), np.empty((len(query_QD), k), np.int64)
        return (self.approximate or self.stack).top_k(query_QD, k, own)

    def path(self, row: int) -> str:
        """The name of a row's image."""
        return str(self._cell("path", row))

    def label(self, row: int) -> Any:
        """Its label; None where it has none."""
        part, _ = self.stack.place(row)
        return self._cell("label", row) if "label" in self.parts[part].table.column_names else None

    def part(self, row: int) -> Part:
        """What it was added with."""
        return self.parts[self.stack.place(row)[0]]

    def check_encoder(self, identity: str, name: str) -> None:
        """Whether vectors of an encoder can be compared with the index's.

        Args:
            identity: The encoder's.
            name: What the user calls it.

        Raises:
            ConfigError: They cannot.
        """
        if identity != self.encoder:
            raise ConfigError(
                f"{self.folder} holds vectors of another encoder than that of {name}",
                "give the encoder that it was built with, or build another index",
            )

    @cached_property
    def known(self) -> frozenset[tuple[str, str]]:
        """Path and SHA-256 of every image."""
        tables = [part.table for part in self.parts]
        pairs = (zip(t["path"].to_pylist(), t["sha256"].to_pylist(), strict=True) for t in tables)
        return frozenset(pair for part in pairs for pair in part)

    def _cell(self, column: str, row: int) -> Any:
        part, place = self.stack.place(row)
        return self.parts[part].table[column][place].as_py()


def open_index(folder: Path) -> VectorIndex:
    """Open an index, once every file has been found to be what index.json says.

    Raises:
        FileError: There is none, or a file is missing, damaged or another.
        ConfigError: It needs faiss, which is not installed.
    """
    described = read_description(folder)
    parts = tuple(_part(folder, named, described["dim"]) for named in described["parts"])
    if sum(len(part.x_ND) for part in parts) != described["count"]:
        raise FileError(f"{folder / INDEX} counts other vectors than there are", _AGAIN)
    if kept := described.get("approximate"):
        _check_sum(folder / APPROXIMATE / f"{kept['name']}.faiss", kept["sha256"])
    return VectorIndex(folder, described, parts)


def read_description(folder: Path) -> dict[str, Any]:
    """index.json, its fields checked.

    Raises:
        FileError: There is none, or it is damaged or of another version.
    """
    path = folder / INDEX
    if folder.is_dir() and not path.exists():
        remedy = "give the --out of selftaught index, or build it again"
        raise FileError(f"{folder} holds no finished index (no {INDEX})", remedy)
    found = files.read_json(path)
    if isinstance(found, dict) and found.get("format", FORMAT) != FORMAT:
        raise FileError(f"{path} is of another version of selftaught", "build the index anew")
    good = _has(found, _FIELDS) and found["parts"] and all(map(_is_part, found["parts"]))
    kept = found.get("approximate") if good else None
    if not good or not (kept is None or (_has(kept, _APPROXIMATE_FIELDS) and _named(kept))):
        raise FileError(f"{path} is damaged", _AGAIN)
    assert isinstance(found, dict)
    return found


def _has(found: Any, fields: Mapping[str, Any]) -> bool:
    """Whether it is an object with these fields, numbers of them not negative."""
    return isinstance(found, dict) and all(
        isinstance(found.get(name, ...), kind)
        and not (kind is int and (isinstance(found[name], bool) or found[name] < 0))
        for name, kind in fields.items()
    )


def _is_part(found: Any) -> bool:
    return _has(found, _PART_FIELDS) and _named(found) and found["sha256"].keys() == {VECTORS, ROWS}


def _named(found: Mapping[str, Any]) -> bool:
    """Whether the name is one of ours, which leads nowhere else."""
    return bool(_NAME.fullmatch(found["name"]))


def _part(folder: Path, named: Mapping[str, Any], dim: int) -> Part:
    place = folder / PARTS / named["name"]
    x_ND = _mapped(place / VECTORS, (named["count"], dim))
    for name, expected in named["sha256"].items():
        _check_sum(place / name, expected)
    table = files.read_table(place / ROWS)
    if table.num_rows != len(x_ND) or not {"row", "path", "sha256"} <= {*table.column_names}:
        raise FileError(f"{place / ROWS} is no table of these vectors", _AGAIN)
    root = None if named["root"] is None else Path(named["root"])
    return Part(named["name"], x_ND, table, named["data"], root)


def _mapped(path: Path, shape: tuple[int, int]) -> F32:
    """The vectors where they lie, once header and size are right.

    Raises:
        FileError: It is no such file, or of another size.
    """
    if not path.is_file():
        raise FileError(f"{path} is missing", _AGAIN)
    try:
        x_ND = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError) as error:
        reason = (str(error).splitlines() or ["damaged"])[0][:200]
        raise FileError(f"{path} cannot be read as vectors ({reason})", _AGAIN) from None
    order = x_ND.flags.c_contiguous and x_ND.offset + x_ND.nbytes == path.stat().st_size
    if x_ND.dtype != np.dtype("<f4") or x_ND.shape != shape or not order:
        raise FileError(f"{path} does not hold {shape[0]:,} vectors of {shape[1]} numbers", _AGAIN)
    vectors: F32 = x_ND
    return vectors


def _check_sum(path: Path, expected: str) -> None:
    """Whether the file's bytes are those that were written.

    Raises:
        FileError: They are not, or the file is missing.
    """
    if not path.is_file():
        raise FileError(f"{path} is missing", _AGAIN)
    if files.sha256(path) != expected:
        raise FileError(f"{path} is damaged (its SHA-256 is not the one in {INDEX})", _AGAIN)
