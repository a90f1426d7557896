"""Images as arrays in .npz files; headers are read first, so that no file can fill the memory.

Shapes:  n images; H height, W width, C channels.
"""

import math
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from selftaught.errors import DataError, printable
from selftaught.foundation.machine import memory

ArraySet = tuple[tuple[str, ...], NDArray[Any], dict[str, NDArray[Any]]]
"""Names, images (n, H, W, C), columns."""

_TYPES = (np.uint8, np.uint16, np.float32)
_TEST = ("test.npz", "val.npz")
_MEMORY_SHARE = 0.5  # of the machine's memory, for the arrays of one set
_DAMAGE = (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)


def npz_in(folder: Path) -> bool:
    """Whether a folder is a set of array files: train.npz and test.npz or val.npz."""
    return (folder / "train.npz").is_file() and any((folder / n).is_file() for n in _TEST)


def array_sets(folder: Path) -> ArraySet:
    """Read train.npz and test.npz (or val.npz) as one set with a column "split".

    Raises:
        DataError: A file is damaged or unsafe, or the images differ in shape or type.
    """
    test = next(folder / name for name in _TEST if (folder / name).is_file())
    parts = {"train": array_set(folder / "train.npz"), test.stem: array_set(test)}
    (_, train, columns), (_, other, other_columns) = parts.values()
    if train.shape[1:] != other.shape[1:] or train.dtype != other.dtype:
        raise DataError(
            f"{printable(str(folder))}: train.npz contains {_kind(train)}, "
            f"{test.name} {_kind(other)}",
            "save both with the same shape and type",
        )
    names = tuple(f"{split}/{name}" for split, part in parts.items() for name in part[0])
    shared = {
        k: np.concatenate([columns[k], other_columns[k]]) for k in columns if k in other_columns
    }
    split = np.array([s for s, part in parts.items() for _ in part[0]], object)
    return names, np.concatenate([train, other]), shared | {"split": split}


def array_set(path: Path) -> ArraySet:
    """Read `images` of one file, with `labels` and other columns of the same length.

    Raises:
        DataError: The file has no `images`, is damaged, would need too much memory, contains
            Python objects, or its images have an unsupported type or shape.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            members = _headers(archive, path)
            images = _images(_read(archive, "images"), path)
            columns = {
                "label" if name == "labels" else name: _read(archive, name)
                for name, shape in members.items()
                if name != "images" and shape == images.shape[:1]
            }
    except DataError:
        raise
    except _DAMAGE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise _file_error(
            path, f"is damaged ({reason})", "write it again with numpy.savez"
        ) from None
    columns = {k: v.astype(object) if v.dtype.kind in "US" else v for k, v in columns.items()}
    return tuple(f"{i:05d}" for i in range(len(images))), images, columns


def _headers(archive: zipfile.ZipFile, path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of all arrays, from their headers only."""
    shapes, claimed = {}, 0
    for info in archive.infolist():
        if not info.filename.endswith(".npy"):
            continue
        with archive.open(info) as member:
            shape, dtype = _header(member)
        if dtype.hasobject:
            what = f"contains Python objects in {info.filename}"
            raise _file_error(path, what, "save plain arrays")
        claimed += math.prod(shape) * dtype.itemsize
        shapes[info.filename.removesuffix(".npy")] = shape
    if "images" not in shapes:
        known = ", ".join(sorted(shapes)) or "nothing"
        what = f"has no array 'images' (it has {known})"
        raise _file_error(path, what, "save the images under that name")
    if claimed > _MEMORY_SHARE * memory():
        raise _file_error(
            path,
            f"would need {claimed / 2**30:.1f} GiB of memory",
            "split it, or save the images as files",
        )
    return shapes


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(member)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"array format {version}")
    shape, _, dtype = read(member)
    return shape, dtype


def _read(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(f"{name}.npy") as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def _images(images: NDArray[Any], path: Path) -> NDArray[Any]:
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or 0 in images.shape:
        raise _file_error(
            path, f"contains images of shape {images.shape}", "save (n, H, W, C) or (n, H, W)"
        )
    if images.dtype.newbyteorder("=") not in _TYPES:
        raise _file_error(
            path, f"contains images of type {images.dtype}", "save uint8, uint16 or float32"
        )
    return np.ascontiguousarray(images, images.dtype.newbyteorder("="))


def _kind(images: NDArray[Any]) -> str:
    return f"{images.dtype} of shape {images.shape[1:]}"


def _file_error(path: Path, what: str, remedy: str) -> DataError:
    return DataError(f"{printable(str(path))} {what}", remedy)
