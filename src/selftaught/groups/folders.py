"""Images laid out in folders, one a cluster: copies or links, never outside or over anything."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from selftaught.errors import DataError, FileError, shown
from selftaught.files import inside, new_folder

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
    if out.is_dir() and not out.is_symlink() and not any(out.iterdir()):
        out.rmdir()
    if os.path.lexists(out):
        raise FileError(f"{out} exists", "name an empty folder, or none: nothing is written over")
    names = plain_names(folders)
    with new_folder(out) as part:
        for path, name in zip(paths, names, strict=True):
            source, target = inside(root, path), part / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if not source.is_file():
                remedy = "restore it, or lay no images out"
                raise DataError(f"{shown(str(source))} is missing", remedy)
            if how == "link":
                target.symlink_to(source.resolve())
            else:
                shutil.copy2(source, target)


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
