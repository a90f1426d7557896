"""Reads ground truth files and finds the images that they name.

Names are looked up among the images found below a folder. No path is ever built from a name, so a
third-party ground truth cannot lead outside.
"""

import math
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from selftaught.data.sources import find_images, is_below
from selftaught.errors import DataError, printable
from selftaught.foundation.files import read_bytes

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels of the image: left, top, right, bottom."""

_TEXT_LIMIT = 64 * 2**20  # bytes; the published ground truths have a few hundred kilobytes


def matching_files(folder: Path, pattern: str) -> list[Path]:
    """Files matching a pattern in a folder and its subfolders, sorted; hidden ones are left out."""
    found = [*folder.glob(pattern), *folder.glob(f"*/{pattern}")]
    names = ((path, path.relative_to(folder).parts) for path in found)
    return sorted(path for path, parts in names if not any(p.startswith(".") for p in parts))


def subfolder(folder: Path, names: Sequence[str]) -> Path | None:
    """The first existing subfolder among these names."""
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def single_path(paths: Sequence[Path]) -> Path:
    """The single path of a list.

    Raises:
        DataError: There are two or more.
    """
    if len(paths) > 1:
        raise two_truths_error(paths[0], paths[1])
    return paths[0]


def two_truths_error(first: Path, second: Path) -> DataError:
    """The error for two ground truths."""
    return DataError(
        f"{printable(str(first))} and {printable(str(second))} are two ground truths",
        "keep only one of them there",
    )


def file_text(path: Path) -> str:
    """The text of a file, without a byte order mark.

    Raises:
        DataError: The file is not UTF-8.
        FileError: The file is missing, unreadable, not a regular file, or larger than 64 MiB.
    """
    try:
        return read_bytes(path, _TEXT_LIMIT).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{printable(str(path))} is not UTF-8", "save it as UTF-8") from None


def text_lines(path: Path) -> list[tuple[str, str]]:
    """Non-empty lines, each with its place: "NAME_ok.txt, line 3".

    Raises:
        DataError, FileError: As `text_of`.
    """
    lines = enumerate(file_text(path).splitlines(), start=1)
    return [
        (line.strip(), f"{printable(str(path))}, line {n}") for n, line in lines if line.strip()
    ]


def parse_box(values: Sequence[Any], place: str) -> Box:
    """Convert four numbers to a box.

    Raises:
        DataError: The values are not four finite numbers, or the box is empty.
    """
    try:
        x1, y1, x2, y2 = (float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        x1 = y1 = x2 = y2 = math.nan
    if not (math.isfinite(x1 + y1 + x2 + y2) and x1 < x2 and y1 < y2):
        text = printable(" ".join(map(str, values)))
        remedy = "write four numbers in pixels, the upper left corner first"
        raise DataError(f"{place}: {text!r} is not a box x1 y1 x2 y2", remedy)
    return x1, y1, x2, y2


def box_text(box: Box) -> str:
    """A box as text, as in ground truth files."""
    return " ".join(f"{value:g}" for value in box)


class NamedImages:
    """Images below a folder, by the names that a ground truth may use.

    Args:
        folder: Their folder, with any subfolders.
        left_out: Stems of files to leave out.

    Attributes:
        folder: As in `Args`.
        paths: The images, sorted by name.
        dropped: Number of files left out.

    Raises:
        DataError: The folder has no images, or a link leads out of it.
    """

    def __init__(self, folder: Path, left_out: Collection[str] = ()) -> None:
        source = find_images(str(folder.absolute()))
        if source.root is None:
            raise DataError(f"{printable(str(folder))} contains arrays", "save the images as files")
        pure = [PurePosixPath(name) for name in source.names]
        pure = [name for name in pure if name.stem not in left_out]
        self.folder, self.dropped = folder, len(source) - len(pure)
        self.paths = tuple(source.root / name for name in pure)
        for path in self.paths:
            if path.is_symlink() and not is_below(str(source.root), os.path.realpath(path)):
                what = f"{printable(str(path))} is a link that leads out of its folder"
                raise DataError(what, "copy the file into the folder")
        self._tables = (  # the most specific name first
            _positions(str(name) for name in pure),
            _positions(str(name.with_suffix("")) for name in pure),
            _positions(name.name for name in pure),
            _positions(name.stem for name in pure),
        )

    def __contains__(self, name: str) -> bool:
        return any(name in table for table in self._tables)

    def position(self, name: str, place: str) -> int:
        """Position of the image with a name, which may lack its folder, its suffix, or both.

        Args:
            name: The name in the ground truth.
            place: Place of the name, for errors.

        Raises:
            DataError: No image or several images have this name.
        """
        found = next((table[name] for table in self._tables if name in table), [])
        if len(found) == 1:
            return found[0]
        if not found:
            folder = printable(str(self.folder))
            what = f"{place} names {printable(name)!r}, which is not below {folder}"
            raise DataError(what, "put the image there, or correct the name")
        both = " and ".join(printable(str(self.paths[i])) for i in found[:2])
        what = f"{place} names {printable(name)!r}, which could be {both}"
        raise DataError(what, "include its folder in the name")


def _positions(names: Iterable[str]) -> dict[str, list[int]]:
    table: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        table.setdefault(name, []).append(position)
    return table
