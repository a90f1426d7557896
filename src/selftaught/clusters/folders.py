"""Images laid out in folders, one a cluster: copies or links, never outside or over anything."""

import os
import shutil
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Literal

from selftaught.errors import DataError, FileError, shown
from selftaught.foundation.files import is_inside, new_folder
from selftaught.foundation.outputs import check_new

_LONGEST = 200  # bytes of a folder's name; file systems take 255


def lay_out(
    root: Path,
    paths: Sequence[str],
    folders: Sequence[str],
    out: Path,
    how: Literal["copy", "link"],
) -> None:
    """Put each image into OUT/FOLDER/PATH, all of them or none.

    Args:
        root: Where the images are; below it `paths` are found.
        paths: A path an image.
        folders: The name of its folder, of any characters.
        out: A folder that does not exist, or is empty.
        how: As copies, or as symbolic links.

    Raises:
        FileError: OUT exists or cannot be written to, or a path leads out of the root.
        DataError: An image is missing.
    """
    option = f"--{how}-to"
    check_new(out, option)
    try:
        with new_folder(out) as part:
            for path, name in zip(paths, plain_names(folders), strict=True):
                _put(is_inside(root, path), part / name / path, how)
    except OSError:
        check_new(out, option)  # whether another process has written there since
        raise


def _put(source: Path, target: Path, how: Literal["copy", "link"]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not source.is_file():
        raise DataError(f"{shown(str(source))} is missing", "restore it, or lay no images out")
    if how == "link":
        target.symlink_to(source.resolve())
    else:
        shutil.copy2(source, target)


def check_folders(given: Mapping[str, Path | None], data: str) -> None:
    """Whether images could be laid out, before any work.

    Args:
        given: A folder by the option that names it; None where it was not given.
        data: What is read: images that are laid out below it would be found there the next time.

    Raises:
        FileError: A folder exists, lies in another or in the images, or cannot be written.
    """
    folders = {option: folder for option, folder in given.items() if folder is not None}
    for option, folder in folders.items():
        check_new(folder, option)
        if os.path.isdir(data) and _within(folder, data):
            found = f"{option} {folder} lies in {data}, which is read"
            raise FileError(found, "name a folder outside of it")
    for (option, folder), (other, around) in permutations(folders.items(), 2):
        if _within(folder, around):
            found = (
                f"{option} {folder} and {other} {around} are one folder, or one lies in the other"
            )
            raise FileError(found, "name two")


def _within(path: str | Path, folder: str | Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def plain_names(folders: Sequence[str]) -> list[str]:
    """Names that are folders on any system; different ones stay different."""
    taken: dict[str, str] = {}
    used: set[str] = set()
    for name in dict.fromkeys(folders):
        plain = "".join(c if c.isalnum() or c in " -_" else "_" for c in name).strip()
        plain = first = plain.encode()[:_LONGEST].decode(errors="ignore").strip() or "_"
        number = 1
        while plain.casefold() in used:
            number += 1
            plain = f"{first}_{number}"
        used.add(plain.casefold())
        taken[name] = plain
    return [taken[name] for name in folders]
