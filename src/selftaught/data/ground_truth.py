"""What the files of a ground truth say, and the images that they name.

Names are looked up among the images that were found below a folder; no path is ever made from one,
so that a ground truth of somebody else's cannot lead anywhere.
"""

import math
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from selftaught.data.sources import find_images, is_below
from selftaught.errors import DataError, shown
from selftaught.foundation.files import read_bytes

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels of the image: left, top, right, bottom."""

_TEXT_LIMIT = 64 * 2**20  # bytes; the published ground truths have a few hundred kilobytes


def files_in(folder: Path, pattern: str) -> list[Path]:
    """What fits the pattern in a folder and the folders in it, sorted; hidden ones are left out."""
    found = [*folder.glob(pattern), *folder.glob(f"*/{pattern}")]
    names = ((path, path.relative_to(folder).parts) for path in found)
    return sorted(path for path, parts in names if not any(p.startswith(".") for p in parts))


def subfolder(folder: Path, names: Sequence[str]) -> Path | None:
    """The first folder of these names that is there."""
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def only(paths: Sequence[Path]) -> Path:
    """The one path.

    Raises:
        DataError: There are two.
    """
    if len(paths) > 1:
        raise two(paths[0], paths[1])
    return paths[0]


def two(first: Path, second: Path) -> DataError:
    """What is said of two ground truths."""
    return DataError(
        f"{shown(str(first))} and {shown(str(second))} are two ground truths",
        "leave one of them, move the other away",
    )


def text_of(path: Path) -> str:
    """The text of a file, without the mark that some programs begin it with.

    Raises:
        DataError: It is not UTF-8.
        FileError: It is missing, unreadable, no regular file, or larger than 64 MiB.
    """
    try:
        return read_bytes(path, _TEXT_LIMIT).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{shown(str(path))} is not UTF-8", "save it as UTF-8") from None


def text_lines(path: Path) -> list[tuple[str, str]]:
    """Lines that are not empty, each with where it stands: "NAME_ok.txt, line 3".

    Raises:
        DataError, FileError: As `text_of`.
    """
    lines = enumerate(text_of(path).splitlines(), start=1)
    return [(line.strip(), f"{shown(str(path))}, line {n}") for n, line in lines if line.strip()]


def box_of(values: Sequence[Any], place: str) -> Box:
    """Four numbers as a box.

    Raises:
        DataError: They are not four finite numbers, or nothing lies between them.
    """
    try:
        x1, y1, x2, y2 = (float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        x1 = y1 = x2 = y2 = math.nan
    if not (math.isfinite(x1 + y1 + x2 + y2) and x1 < x2 and y1 < y2):
        said = shown(" ".join(map(str, values)))
        remedy = "give four numbers in pixels, the upper left corner first"
        raise DataError(f"{place}: {said!r} is no box x1 y1 x2 y2", remedy)
    return x1, y1, x2, y2


def box_in_words(box: Box) -> str:
    """The box as its files have it."""
    return " ".join(f"{value:g}" for value in box)


class NamedImages:
    """Images below a folder, and what a ground truth may call them.

    Args:
        folder: Where they are, in any folders.
        left_out: Stems of files that shall not be among them.

    Attributes:
        folder: The same.
        paths: The images, in the order of their names.
        dropped: How many files were left out.

    Raises:
        DataError: There are none, or one is a link that leads out of the folder.
    """

    def __init__(self, folder: Path, left_out: Collection[str] = ()) -> None:
        source = find_images(str(folder.absolute()))
        if source.root is None:
            raise DataError(f"{shown(str(folder))} holds arrays", "give images as files")
        pure = [PurePosixPath(name) for name in source.names]
        pure = [name for name in pure if name.stem not in left_out]
        self.folder, self.dropped = folder, len(source) - len(pure)
        self.paths = tuple(source.root / name for name in pure)
        for path in self.paths:
            if path.is_symlink() and not is_below(str(source.root), os.path.realpath(path)):
                what = f"{shown(str(path))} is a link that leads out of its folder"
                raise DataError(what, "copy the file there")
        self._tables = (  # the clearest name first
            _positions(str(name) for name in pure),
            _positions(str(name.with_suffix("")) for name in pure),
            _positions(name.name for name in pure),
            _positions(name.stem for name in pure),
        )

    def __contains__(self, name: str) -> bool:
        return any(name in table for table in self._tables)

    def position(self, name: str, place: str) -> int:
        """The image of that name, which may lack its folder, its suffix, or both.

        Args:
            name: What the ground truth says.
            place: Where it says so, for an error.

        Raises:
            DataError: There is none, or there are two.
        """
        found = next((table[name] for table in self._tables if name in table), [])
        if len(found) == 1:
            return found[0]
        if not found:
            what = f"{place} names {shown(name)!r}, which is not below {shown(str(self.folder))}"
            raise DataError(what, "put the image there, or correct the name")
        both = " and ".join(shown(str(self.paths[i])) for i in found[:2])
        raise DataError(f"{place} names {shown(name)!r}, which is {both}", "name its folder too")


def _positions(names: Iterable[str]) -> dict[str, list[int]]:
    table: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        table.setdefault(name, []).append(position)
    return table
