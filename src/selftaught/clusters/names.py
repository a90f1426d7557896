"""CLUSTERS/names.csv: the user's names of clusters; clusters with the same name are merged.

The file has the columns cluster and name, one line per cluster; clusters without a line have no
name. Blanks around a name are ignored, and several between words count as one.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from selftaught.errors import FileError, printable
from selftaught.foundation.files import read_bytes, write_bytes

NAMES = "names.csv"
_LIMIT = 2**24  # bytes
_DIGITS = 18  # of an id: numpy takes no more, and int refuses thousands
_ID = re.compile(rf"(\d{{1,{_DIGITS}}})([.,]0*)?")  # spreadsheets make 3.0 of 3
_NUMBERED = re.compile(rf"cluster (\d{{1,{_DIGITS}}})", re.IGNORECASE)
_FORMULA = "=", "@"  # a spreadsheet would run a cell that begins with one of these


def read_names(folder: Path, ids_K: NDArray[np.int64]) -> dict[int, str]:
    """The name of each cluster that has one, by id; empty if the file does not exist.

    Raises:
        FileError: The file is not such a table, or names clusters that do not exist.
    """
    path = folder / NAMES
    if not path.exists():
        return {}
    names: dict[int, str] = {}
    for number, cells in table_lines(path, ("cluster", "name")):
        place = f"{path}, line {number}"
        name = checked_name(cells.get("name", ""), place)
        if name:
            id_ = _read_id(cells.get("cluster", ""), ids_K, place)
            _check_name(id_, name, names, place)
            names[id_] = name
    return names


def checked_name(cell: str, place: str, what: str = "name") -> str:
    """The name in a cell, with single blanks.

    Args:
        cell: The cell as the user wrote it.
        place: The file and the line, for the error.
        what: What the column holds, for the error.

    Raises:
        FileError: It begins like a formula.
    """
    name = single_blanks(cell)
    if name.startswith(_FORMULA):
        found = f"{place}: a spreadsheet would run the {what} {printable(name)} as a formula"
        raise FileError(found, f"choose one that does not begin with {name[0]}")
    return name


def single_blanks(name: str) -> str:
    """A name without blanks around it and with one between words; line breaks stay."""
    return re.sub(r"[^\S\r\n]+", " ", name).strip()


def cluster_number(name: str) -> int | None:
    """The N of "cluster N", the folder name of a cluster without a name; else None."""
    found = _NUMBERED.fullmatch(name)
    return int(found[1]) if found else None


def table_lines(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The lines of a table written by a spreadsheet: line numbers, and cells by column.

    Args:
        path: A text file whose cells are separated by commas, semicolons or tabs.
        columns: Columns that its first line must have, in lower case and any order.

    Raises:
        FileError: The file cannot be read, is not UTF-8, or lacks a column.
    """
    try:
        text = read_bytes(path, _LIMIT).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise FileError(f"{path} is not UTF-8", "save it as CSV UTF-8") from None
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text)))
    except csv.Error as error:
        raise FileError(f"{path} is not a table ({error})", "save it again as CSV UTF-8") from None
    header = [cell.strip().lower() for cell in lines[0]] if lines else []
    if not set(columns) <= set(header):
        found = f"{path} does not have the columns {' and '.join(columns)}"
        raise FileError(found, f"write {','.join(columns)} as its first line")
    for number, line in enumerate(lines[1:], 2):
        yield number, dict(zip(header, (cell.strip() for cell in line), strict=False))


def _delimiter(text: str) -> str:
    first = text.partition("\n")[0]
    return max(",;\t", key=first.count)  # spreadsheets in many countries write semicolons


def _read_id(cell: str, ids_K: NDArray[np.int64], place: str) -> int:
    """The id in a cell.

    Raises:
        FileError: No cluster has this id.
    """
    found = _ID.fullmatch(cell)
    if found is None or int(found[1]) not in ids_K:
        what = f"{place}: cluster {cell[: _DIGITS + 2]!r} does not exist"
        raise FileError(what, f"choose a cluster from {ids_K.min()} to {ids_K.max()}")
    return int(found[1])


def _check_name(id_: int, name: str, names: Mapping[int, str], place: str) -> None:
    """Check a cluster's name against the names read so far.

    Raises:
        FileError: It has another name, or the name is the number of another cluster.
    """
    if names.get(id_, name) != name:
        raise FileError(f"{place}: cluster {id_} has two names", "remove one")
    if cluster_number(name) not in (None, id_):
        found = f"{place}: the name {name!r} of cluster {id_} is the number of another cluster"
        raise FileError(found, "choose another name, or give both the same name to merge them")


def write_names(folder: Path, names: Mapping[int, str]) -> None:
    """Write names.csv."""
    write_bytes(folder / NAMES, table_bytes([("cluster", "name"), *sorted(names.items())]))


def table_bytes(lines: Iterable[Sequence[object]]) -> bytes:
    """A table for spreadsheets and `table_lines`; without its BOM, spreadsheets guess another
    encoding."""
    file = io.StringIO(newline="")
    plain = csv.writer(file, lineterminator="\n")
    careful = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for line in lines:  # a lone carriage return ends a line, and only `careful` quotes it
        (careful if any("\r" in str(cell) for cell in line) else plain).writerow(line)
    return file.getvalue().encode("utf-8-sig")


def label_text(label: object) -> str:
    """A label as people write it: a table with gaps turns whole numbers into floats."""
    return f"{label:.0f}" if isinstance(label, float) and label.is_integer() else str(label)


def names_differing_in_case(names: Iterable[str]) -> list[list[str]]:
    """Sorted lists of names that differ only in case."""
    similar: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        similar.setdefault(name.casefold(), []).append(name)
    return [spellings for spellings in similar.values() if len(spellings) > 1]


def merged_ids(names: Mapping[int, str]) -> dict[int, int]:
    """By id, the lowest id with the same name: the id after merging."""
    first: dict[str, int] = {}
    return {id_: first.setdefault(name, id_) for id_, name in sorted(names.items())}
