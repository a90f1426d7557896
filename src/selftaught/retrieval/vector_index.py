"""An index on disk: vectors, their images and their encoder; opened and searched.

    INDEX/index.json             encoder, run, dim, count, parts with their SHA-256; written last
          parts/000000/          one per addition of images
              vectors.npy        (n, D) float32, memory-mapped
              rows.parquet       row, path, sha256, and label if there is one
          approximate/000001.faiss   if there are more than `EXACT` vectors

Every file is checked before use: index.json lists all others with their SHA-256, and no file can
run code. Files that index.json does not list are not part of the index.

Shapes:  N vectors in total, n in a part; D dimensions; Q queries; k neighbours.
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
EXACT = 100_000  # up to this many vectors are searched exactly
FORMAT = 1

_RESTORE = "restore it, or rebuild the index"
_NAME = re.compile(r"\d{6}")
_FIELDS = {"format": int, "encoder": str, "run": str, "dim": int, "count": int, "parts": list}
_PART_FIELDS = {"name": str, "count": int, "data": str, "root": (str, type(None)), "sha256": dict}
_APPROXIMATE_FIELDS = {"name": str, "sha256": str, "probes": int, "lists": int}


@dataclass(frozen=True, eq=False)
class Part:
    """The content of one addition.

    Attributes:
        name: Its folder's name.
        x_ND: The vectors.
        table: Of the same length: row (in DATA), path, sha256, and label if there is one.
        data: The absolute name of DATA; "" if vectors came without images.
        root: The folder that paths are relative to; None if they are not files.
    """

    name: str
    x_ND: F32
    table: "pa.Table"
    data: str
    root: Path | None


class VectorIndex:
    """An opened index. Rows 0 .. N-1 are those of its parts, one after the other.

    Attributes:
        folder: The folder of the index.
        described: The content of index.json.
        parts: The parts of the index.
        stack: All vectors.
        approximate: The approximate index for many vectors; None for exact search.
    """

    def __init__(self, folder: Path, described: Mapping[str, Any], parts: tuple[Part, ...]) -> None:
        self.folder, self.described, self.parts = folder, described, parts
        self.stack = StackedVectors([part.x_ND for part in parts])
        self.approximate: Approximate | None = None
        if entry := described.get("approximate"):
            path = folder / APPROXIMATE / f"{entry['name']}.faiss"
            inner = load_faiss(path, len(self.stack), self.stack.dim)
            self.approximate = Approximate(inner, self.stack, entry["probes"])

    def __len__(self) -> int:
        return len(self.stack)

    @property
    def encoder(self) -> str:
        """The identity of the encoder that made the vectors; "" if unknown."""
        return str(self.described["encoder"])

    def search(self, query_QD: F32, k: int, own: Rows | None = None) -> tuple[F32, Rows]:
        """The k rows with the highest cosine similarity to each query, best first.

        Args:
            query_QD: Finite vectors of the index's encoder.
            k: Number of results; limited by the size of the index.
            own: (Q,) a row per query that must not be found.

        Returns:
            Cosines, (Q, k) float32, and rows, (Q, k) int64; ties go to the lower row. If faiss
            finds fewer than k, the rest are -inf and -1.
        """
        k = min(k, len(self) - (own is not None))
        if not k or not len(query_QD):
            return np.empty((len(query_QD), k), np.float32), np.empty((len(query_QD), k), np.int64)
        return (self.approximate or self.stack).top_k(query_QD, k, own)

    def path(self, row: int) -> str:
        """The name of a row's image."""
        return str(self._cell("path", row))

    def label(self, row: int) -> Any:
        """The label of a row's image; None without one."""
        part, _ = self.stack.place(row)
        return self._cell("label", row) if "label" in self.parts[part].table.column_names else None

    def part(self, row: int) -> Part:
        """The part that contains a row."""
        return self.parts[self.stack.place(row)[0]]

    def check_encoder(self, identity: str, name: str) -> None:
        """Check that vectors of an encoder can be compared with the index's.

        Args:
            identity: The identity of the encoder.
            name: The user's name of the encoder.

        Raises:
            ConfigError: The index has another encoder.
        """
        if identity != self.encoder:
            raise ConfigError(
                f"the vectors of {self.folder} come from another encoder than that of {name}",
                "pass the encoder the index was built with, or build another index",
            )

    @cached_property
    def known(self) -> frozenset[tuple[str, str]]:
        """The path and SHA-256 of every image."""
        tables = [part.table for part in self.parts]
        pairs = (zip(t["path"].to_pylist(), t["sha256"].to_pylist(), strict=True) for t in tables)
        return frozenset(pair for part in pairs for pair in part)

    def _cell(self, column: str, row: int) -> Any:
        part, place = self.stack.place(row)
        return self.parts[part].table[column][place].as_py()


def open_index(folder: Path) -> VectorIndex:
    """Open an index, after checking every file against index.json.

    Raises:
        FileError: The index does not exist, or a file is missing, damaged or replaced.
        ConfigError: The index needs faiss, which is not installed.
    """
    described = read_description(folder)
    parts = tuple(_part(folder, named, described["dim"]) for named in described["parts"])
    if sum(len(part.x_ND) for part in parts) != described["count"]:
        raise FileError(f"{folder / INDEX} has a wrong count of vectors", _RESTORE)
    if entry := described.get("approximate"):
        _check_sum(folder / APPROXIMATE / f"{entry['name']}.faiss", entry["sha256"])
    return VectorIndex(folder, described, parts)


def read_description(folder: Path) -> dict[str, Any]:
    """The content of index.json, with its fields checked.

    Raises:
        FileError: index.json is missing, damaged or of another version.
    """
    path = folder / INDEX
    if folder.is_dir() and not path.exists():
        remedy = "pass the output folder of selftaught index, or rebuild the index"
        raise FileError(f"{folder} is not a complete index ({INDEX} is missing)", remedy)
    found = files.read_json(path)
    if isinstance(found, dict) and found.get("format", FORMAT) != FORMAT:
        raise FileError(f"{path} is from another version of selftaught", "rebuild the index")
    good = _has_fields(found, _FIELDS) and found["parts"] and all(map(_is_part, found["parts"]))
    entry = found.get("approximate") if good else None
    if not good or not (
        entry is None or (_has_fields(entry, _APPROXIMATE_FIELDS) and _has_our_name(entry))
    ):
        raise FileError(f"{path} is damaged", _RESTORE)
    assert isinstance(found, dict)
    return found


def _has_fields(found: Any, fields: Mapping[str, Any]) -> bool:
    """Whether it is an object with these fields, without negative numbers."""
    return isinstance(found, dict) and all(
        isinstance(found.get(name, ...), kind)
        and not (kind is int and (isinstance(found[name], bool) or found[name] < 0))
        for name, kind in fields.items()
    )


def _is_part(found: Any) -> bool:
    return (
        _has_fields(found, _PART_FIELDS)
        and _has_our_name(found)
        and found["sha256"].keys() == {VECTORS, ROWS}
    )


def _has_our_name(found: Mapping[str, Any]) -> bool:
    """Whether the name is one of ours, which cannot lead out of the folder."""
    return bool(_NAME.fullmatch(found["name"]))


def _part(folder: Path, named: Mapping[str, Any], dim: int) -> Part:
    place = folder / PARTS / named["name"]
    x_ND = _map_vectors(place / VECTORS, (named["count"], dim))
    for name, expected in named["sha256"].items():
        _check_sum(place / name, expected)
    table = files.read_table(place / ROWS)
    if table.num_rows != len(x_ND) or not {"row", "path", "sha256"} <= {*table.column_names}:
        raise FileError(f"{place / ROWS} does not match the vectors", _RESTORE)
    root = None if named["root"] is None else Path(named["root"])
    return Part(named["name"], x_ND, table, named["data"], root)


def _map_vectors(path: Path, shape: tuple[int, int]) -> F32:
    """The memory-mapped vectors, after checking header and size.

    Raises:
        FileError: The file is missing, or not an array of this shape.
    """
    if not path.is_file():
        raise FileError(f"{path} is missing", _RESTORE)
    try:
        x_ND = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError) as error:
        reason = (str(error).splitlines() or ["damaged"])[0][:200]
        raise FileError(f"{path} cannot be read as vectors ({reason})", _RESTORE) from None
    order = x_ND.flags.c_contiguous and x_ND.offset + x_ND.nbytes == path.stat().st_size
    if x_ND.dtype != np.dtype("<f4") or x_ND.shape != shape or not order:
        raise FileError(
            f"{path} does not hold {shape[0]:,} vectors of {shape[1]} dimensions", _RESTORE
        )
    vectors: F32 = x_ND
    return vectors


def _check_sum(path: Path, expected: str) -> None:
    """Check that the file's bytes are those that were written.

    Raises:
        FileError: The file has changed or is missing.
    """
    if not path.is_file():
        raise FileError(f"{path} is missing", _RESTORE)
    if files.sha256(path) != expected:
        raise FileError(f"{path} is damaged (its SHA-256 differs from {INDEX})", _RESTORE)
