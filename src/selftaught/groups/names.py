"""CLUSTERS/names.csv: what people call the clusters; clusters with one name are one group.

The file has the columns cluster and name, a line a cluster; clusters without a line have no name.
"""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from selftaught.errors import FileError
from selftaught.files import read_bytes, write_bytes

NAMES = "names.csv"
_LIMIT = 2**24  # bytes


def read_names(folder: Path, ids_K: NDArray[np.int64]) -> dict[int, str]:
    """The name of each cluster that has one, by id; none where there is no such file.

    Raises:
        FileError: It is not such a table, or names clusters that are not there.
    """
    path = folder / NAMES
    if not path.exists():
        return {}
    text = read_bytes(path, _LIMIT).decode("utf-8-sig", errors="replace")
    lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text)))
    header = [cell.strip().lower() for cell in lines[0]] if lines else []
    if not {"cluster", "name"} <= set(header):
        raise FileError(
            f"{path} has no columns cluster and name", "let its first line be cluster,name"
        )
    names: dict[int, str] = {}
    for number, line in enumerate(lines[1:], 2):
        cells = dict(zip(header, (cell.strip() for cell in line), strict=False))
        if cells.get("name"):
            names |= {_known(cells.get("cluster", ""), ids_K, path, number, names): cells["name"]}
    return names


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
    if not cell.isdecimal() or int(cell) not in ids_K:
        found = f"{path}, line {number}: there is no cluster {cell!r}"
        raise FileError(found, f"clusters are {ids_K.min()} to {ids_K.max()}")
    if int(cell) in names:
        raise FileError(f"{path}, line {number}: cluster {cell} has two names", "leave one")
    return int(cell)


def write_names(folder: Path, names: Mapping[int, str]) -> None:
    """Write names.csv."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([("cluster", "name"), *sorted(names.items())])
    write_bytes(folder / NAMES, file.getvalue().encode())


def groups_of(names: Mapping[int, str]) -> dict[int, int]:
    """By id, the lowest id with the same name: the id of the group."""
    first: dict[str, int] = {}
    return {id_: first.setdefault(name, id_) for id_, name in sorted(names.items())}
