"""Images sorted into one folder per cluster, as copies or links; nothing is ever overwritten."""

import os
import shutil
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Literal

from selftaught.errors import DataError, FileError, printable
from selftaught.foundation.files import new_folder, path_inside
from selftaught.foundation.outputs import check_new

_LONGEST = 200  # bytes of a folder's name; file systems take 255


def sort_into_folders(
    root: Path,
    paths: Sequence[str],
    folders: Sequence[str],
    out: Path,
    how: Literal["copy", "link"],
) -> None:
    """Put each image into OUT/FOLDER/PATH, all of them or none.

    Args:
        root: The folder of the images, to which `paths` are relative.
        paths: One path per image.
        folders: The folder name of each image, of any characters.
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
            for path, name in zip(paths, folder_names(folders), strict=True):
                _copy_or_link(path_inside(root, path), part / name / path, how)
    except OSError:
        check_new(out, option)  # another process may have written there since
        raise


def _copy_or_link(source: Path, target: Path, how: Literal["copy", "link"]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not source.is_file():
        raise DataError(
            f"{printable(str(source))} is missing", "restore it, or drop --copy-to and --link-to"
        )
    if how == "link":
        target.symlink_to(source.resolve())
    else:
        shutil.copy2(source, target)


def check_folders(given: Mapping[str, Path | None], data: str) -> None:
    """Check, before any work, that images can be sorted into these folders.

    Args:
        given: Folder by option; None if the option was not given.
        data: The input: images sorted into a folder below it would be read again the next time.

    Raises:
        FileError: A folder exists, lies in another or in the images, or cannot be written.
    """
    folders = {option: folder for option, folder in given.items() if folder is not None}
    for option, folder in folders.items():
        check_new(folder, option)
        if os.path.isdir(data) and _is_within(folder, data):
            found = f"{option} {folder} is inside the input folder {data}"
            raise FileError(found, "choose a folder outside it")
    for (option, folder), (other, around) in permutations(folders.items(), 2):
        if _is_within(folder, around):
            found = f"{option} {folder} and {other} {around} are the same folder or nested"
            raise FileError(found, "choose two separate folders")


def _is_within(path: str | Path, folder: str | Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def folder_names(folders: Sequence[str]) -> list[str]:
    """Folder names that are valid on any system; different names stay different."""
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
