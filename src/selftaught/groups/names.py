"""CLUSTERS/names.csv: what people call the clusters; clusters with one name are one group.

The file has the columns cluster and name, a line a cluster; clusters without a line have no name.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from selftaught.errors import FileError
from selftaught.files import read_bytes, write_bytes

NAMES = "names.csv"
_LIMIT = 2**24  # bytes
_DIGITS = 18  # of an id


def read_names(folder: Path, ids_K: NDArray[np.int64]) -> dict[int, str]:
    """The name of each cluster that has one, by id; none where there is no such file.

    Raises:
        FileError: It is not such a table, or names clusters that are not there.
    """
    path = folder / NAMES
    if not path.exists():
        return {}
    names: dict[int, str] = {}
    for number, cells in table_lines(path, ("cluster", "name")):
        if cells.get("name"):
            names |= {_known(cells.get("cluster", ""), ids_K, path, number, names): cells["name"]}
    return names


def table_lines(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The lines of a table as a spreadsheet writes it: their numbers, and cells by column.

    Args:
        path: A text file whose cells are parted by commas, semicolons or tabs.
        columns: What its first line must have, in small letters; the order is free.

    Raises:
        FileError: It cannot be read, is not UTF-8, or a column is missing.
    """
    try:
        text = read_bytes(path, _LIMIT).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise FileError(f"{path} is not UTF-8", "save it as CSV UTF-8") from None
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text)))
    except csv.Error as error:
        raise FileError(f"{path} is no table ({error})", "write it anew") from None
    header = [cell.strip().lower() for cell in lines[0]] if lines else []
    if not set(columns) <= set(header):
        found = f"{path} has no columns {' and '.join(columns)}"
        raise FileError(found, f"let its first line be {','.join(columns)}")
    for number, line in enumerate(lines[1:], 2):
        yield number, dict(zip(header, (cell.strip() for cell in line), strict=False))


def _delimiter(text: str) -> str:
    first = text.partition("\n")[0]
    return max(",;\t", key=first.count)  # spreadsheets of many countries write semicolons


def _known(
    cell: str, ids_K: NDArray[np.int64], path: Path, number: int, names: Mapping[int, str]
) -> int:
    """The id in a cell.

    Raises:
        FileError: It is none, or has a name already.
    """
    # int refuses thousands of digits, and numpy more than 18
    if not cell.isdecimal() or len(cell) > _DIGITS or int(cell) not in ids_K:
        found = f"{path}, line {number}: there is no cluster {cell[: _DIGITS + 2]!r}"
        raise FileError(found, f"clusters are {ids_K.min()} to {ids_K.max()}")
    if int(cell) in names:
        raise FileError(f"{path}, line {number}: cluster {cell} has two names", "leave one")
    return int(cell)


def write_names(folder: Path, names: Mapping[int, str]) -> None:
    """Write names.csv."""
    write_bytes(folder / NAMES, table_bytes([("cluster", "name"), *sorted(names.items())]))


def table_bytes(lines: Iterable[Sequence[object]]) -> bytes:
    """A table that spreadsheets open and `table_lines` reads; without its BOM they take it for
    another encoding."""
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\n").writerows(lines)
    return file.getvalue().encode("utf-8-sig")


def as_name(label: object) -> str:
    """A label as people write it: whole numbers of a table with gaps are floats there."""
    return f"{label:.0f}" if isinstance(label, float) and label.is_integer() else str(label)


def groups_of(names: Mapping[int, str]) -> dict[int, int]:
    """By id, the lowest id with the same name: the id of the group."""
    first: dict[str, int] = {}
    return {id_: first.setdefault(name, id_) for id_, name in sorted(names.items())}
