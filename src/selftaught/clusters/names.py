"""CLUSTERS/names.csv: what people call the clusters; clusters with one name are one group.

The file has the columns cluster and name, a line a cluster; clusters without a line have no name.
Blanks around a name, and more than one between its words, are no part of it.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from selftaught.errors import FileError, shown
from selftaught.foundation.files import read_bytes, write_bytes

NAMES = "names.csv"
_LIMIT = 2**24  # bytes
_DIGITS = 18  # of an id: numpy takes no more, and int refuses thousands
_ID = re.compile(rf"(\d{{1,{_DIGITS}}})([.,]0*)?")  # spreadsheets make 3.0 of 3
_NUMBERED = re.compile(rf"cluster (\d{{1,{_DIGITS}}})", re.IGNORECASE)
_FORMULA = "=", "@"  # a spreadsheet runs what begins so


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
        place = f"{path}, line {number}"
        name = checked_name(cells.get("name", ""), place)
        if name:
            id_ = _known(cells.get("cluster", ""), ids_K, place)
            _check(id_, name, names, place)
            names[id_] = name
    return names


def checked_name(cell: str, place: str, what: str = "name") -> str:
    """The name in a cell, its blanks made single.

    Args:
        cell: As people wrote it.
        place: The file and the line.
        what: What it is called there.

    Raises:
        FileError: It begins like a formula.
    """
    name = single_blanks(cell)
    if name.startswith(_FORMULA):
        found = f"{place}: the {what} {shown(name)} is a formula to a spreadsheet"
        raise FileError(found, f"let it not begin with {name[0]}")
    return name


def single_blanks(name: str) -> str:
    """A name without blanks around it, and with one between words; lines stay lines."""
    return re.sub(r"[^\S\r\n]+", " ", name).strip()


def numbered(name: str) -> int | None:
    """The N of "cluster N", which is what a cluster without a name is called; else None."""
    found = _NUMBERED.fullmatch(name)
    return int(found[1]) if found else None


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


def _known(cell: str, ids_K: NDArray[np.int64], place: str) -> int:
    """The id in a cell.

    Raises:
        FileError: It is none.
    """
    found = _ID.fullmatch(cell)
    if found is None or int(found[1]) not in ids_K:
        what = f"{place}: there is no cluster {cell[: _DIGITS + 2]!r}"
        raise FileError(what, f"clusters are {ids_K.min()} to {ids_K.max()}")
    return int(found[1])


def _check(id_: int, name: str, names: Mapping[int, str], place: str) -> None:
    """Whether a cluster can have a name, after those that were read.

    Raises:
        FileError: It has another, or the name is the number of another cluster.
    """
    if names.get(id_, name) != name:
        raise FileError(f"{place}: cluster {id_} has two names", "leave one")
    if numbered(name) not in (None, id_):
        found = f"{place}: the name of cluster {id_} is {name!r}, which is another cluster"
        raise FileError(found, "give both one name to join them, or another name")


def write_names(folder: Path, names: Mapping[int, str]) -> None:
    """Write names.csv."""
    write_bytes(folder / NAMES, table_bytes([("cluster", "name"), *sorted(names.items())]))


def table_bytes(lines: Iterable[Sequence[object]]) -> bytes:
    """A table that spreadsheets open and `table_lines` reads; without its BOM they take it for
    another encoding."""
    file = io.StringIO(newline="")
    plain = csv.writer(file, lineterminator="\n")
    careful = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for line in lines:  # a lone carriage return ends a line, and only careful quotes it
        (careful if any("\r" in str(cell) for cell in line) else plain).writerow(line)
    return file.getvalue().encode("utf-8-sig")


def as_name(label: object) -> str:
    """A label as people write it: whole numbers of a table with gaps are floats there."""
    return f"{label:.0f}" if isinstance(label, float) and label.is_integer() else str(label)


def differ_in_case(names: Iterable[str]) -> list[list[str]]:
    """Names that are the same but for capital letters: those of each kind, in their order."""
    alike: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        alike.setdefault(name.casefold(), []).append(name)
    return [spelt for spelt in alike.values() if len(spelt) > 1]


def groups_of(names: Mapping[int, str]) -> dict[int, int]:
    """By id, the lowest id with the same name: the id of the group."""
    first: dict[str, int] = {}
    return {id_: first.setdefault(name, id_) for id_, name in sorted(names.items())}
