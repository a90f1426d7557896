"""Clips: folders of frames with masks of objects, many as DAVIS lays them out, or one alone.

    DATA/JPEGImages/.../CLIP/00000.jpg     DATA/Annotations/.../CLIP/00000.png
    DATA/00000.jpg                         DATA/masks/00000.png

A mask has the name of its frame; the first frame must have one. It is an indexed PNG, as those of
Pont-Tuset et al. 2017 (arXiv 1704.00675): 0 is background, 1, 2, ... are objects, 255 is not
judged; or a grey one, where every value but 0 is an object.

Shapes:  H, W of a frame; C its channels.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selftaught.data.decode import SUFFIXES, decode_file, open_image, read_image
from selftaught.data.sources import is_below
from selftaught.errors import BadImage, DataError, shown

VOID = -1
"""In a mask: neither background nor object, and not judged."""

_FRAMES, _MASKS = "JPEGImages", "Annotations"
_ALONE = "masks"  # of a single clip
_MODES = ("1", "L", "P", "I", "I;16")  # Pillow's, of one number a pixel
_INDEXED, _INDEX_OF_VOID = "P", 255
_MOST = 100  # objects; grey pictures and smoothed edges have more values
_AS_MASK = "save it as an indexed PNG: 0 background, 1, 2, ... the objects"


@dataclass(frozen=True)
class Clip:
    """Frames of one size in their order, and masks of some of them; read from disk when asked.

    Attributes:
        name: Of its folder.
        frames: Their files.
        masks: Files by the number of the frame; that of frame 0 is among them.
        size: H and W.
        objects: Values that the objects have in the masks: those of the first mask, ascending.
    """

    name: str
    frames: tuple[Path, ...]
    masks: Mapping[int, Path]
    size: tuple[int, int]
    objects: tuple[int, ...]

    def frame(self, t: int) -> NDArray[Any]:
        """The pixels of frame t, (H, W, C) uint8, uint16 or float32; C is 1 or 3.

        Raises:
            DataError: The file cannot be read, or has another size by now.
        """
        return _frame(self.frames[t], self.size)

    def mask(self, t: int) -> NDArray[np.int32]:
        """The mask of frame t, (H, W): 0 background, the value of an object, or VOID.

        Raises:
            DataError: The file cannot be read, is no mask, or has another size than its frame.
        """
        return _mask(self.masks[t], self.size)


def read_clips(folder: Path) -> tuple[Clip, ...]:
    """The clips of a folder, by name, once every frame and mask of them has been looked at.

    Args:
        folder: One with JPEGImages/ and Annotations/, or a single clip: frames and masks/.

    Raises:
        DataError: A clip has no frames, no mask of its first frame or none of an object there; a
            mask has another size than its frame; a file cannot be read or leads out of the folder.
    """
    if not folder.is_dir():
        raise DataError(f"{_shown(folder)} is no folder", "give a folder of frames with masks/")
    if not (folder / _FRAMES).is_dir():
        return (_clip(folder, folder.resolve().name, folder, folder / _ALONE),)
    found: dict[str, Path] = {}
    for path in _folders_with_images(folder / _FRAMES):
        if path.name in found:
            raise DataError(
                f"the clip {shown(path.name)} is there twice: {_shown(found[path.name])} and "
                f"{_shown(path)}",
                "keep one resolution of the clips",
            )
        found[path.name] = path
    if not found:
        raise _no_frames(folder / _FRAMES)
    return tuple(
        _clip(
            folder, name, found[name], folder / _MASKS / found[name].relative_to(folder / _FRAMES)
        )
        for name in sorted(found, key=natural)
    )


def natural(name: str) -> tuple[tuple[Any, ...], str]:
    """A key to sort by in which numbers count by their size: frame2 comes before frame10."""
    parts: list[Any] = re.split(r"(\d+)", name)
    parts[1::2] = map(int, parts[1::2])
    return tuple(parts), name


def _clip(root: Path, name: str, frames_in: Path, masks_in: Path) -> Clip:
    frames = tuple(_images(root, frames_in, SUFFIXES))
    if not frames:
        raise _no_frames(frames_in)
    numbers = _numbers(frames)
    masks = _masks(root, masks_in, frames, numbers)
    try:
        size = decode_file(frames[0], str(frames[0])).shape[:2]
    except BadImage as error:
        raise _unreadable(frames[0], error) from None
    clip = Clip(name, frames, masks, size, _objects(masks[0], _mask(masks[0], size)))
    for t in range(1, len(frames)):
        clip.frame(t)
        if t in masks:
            clip.mask(t)
    return clip


# ---- which files


def _folders_with_images(top: Path) -> Iterator[Path]:
    """Folders below `top` that hold images themselves; links to folders are not followed."""

    def refuse(error: OSError) -> None:
        raise _closed(Path(error.filename), error)

    for folder, below, names in os.walk(top, onerror=refuse):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if any(_suffix(name) in SUFFIXES for name in names if not name.startswith(".")):
            yield Path(folder)


def _images(root: Path, folder: Path, suffixes: frozenset[str]) -> list[Path]:
    """The images directly in a folder, in natural order; none where there is no such folder."""
    try:
        names = os.listdir(folder) if folder.is_dir() else []
    except OSError as error:
        raise _closed(folder, error) from None
    names = [name for name in names if _suffix(name) in suffixes and not name.startswith(".")]
    paths = [folder / name for name in sorted(names, key=natural)]
    for path in paths:
        if not is_below(os.path.realpath(root), os.path.realpath(path)):
            raise DataError(f"{_shown(path)} leads out of {_shown(root)}", "copy the file into it")
    return paths


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _numbers(frames: tuple[Path, ...]) -> dict[str, int]:
    """The number of each frame by its name without the suffix."""
    numbers: dict[str, int] = {}
    for t, path in enumerate(frames):
        if path.stem in numbers:
            raise DataError(
                f"{_shown(path)} and {_shown(frames[numbers[path.stem]])} are frames of one name",
                f"keep one of them; masks belong into {_ALONE}/ or {_MASKS}/",
            )
        numbers[path.stem] = t
    return numbers


def _masks(
    root: Path, folder: Path, frames: tuple[Path, ...], numbers: Mapping[str, int]
) -> dict[int, Path]:
    """The masks of a folder by the number of their frame."""
    paths = _images(root, folder, frozenset({".png"}))
    first = folder / f"{frames[0].stem}.png"
    if frames[0].stem not in {path.stem for path in paths}:
        raise DataError(f"{_shown(first)}, the mask of the first frame, is missing", _AS_MASK)
    for path in paths:
        if path.stem not in numbers:
            raise DataError(
                f"{_shown(path)} is the mask of no frame", f"name it as its frame: {first.name}"
            )
    return {numbers[path.stem]: path for path in paths}


# ---- what is in them


def _frame(path: Path, size: tuple[int, int]) -> NDArray[Any]:
    try:
        pixels_HWC = decode_file(path, str(path))
    except BadImage as error:
        raise _unreadable(path, error) from None
    if pixels_HWC.shape[:2] != size:
        raise DataError(
            f"{_shown(path)} has {_by(pixels_HWC.shape[:2])} pixels, the first frame {_by(size)}",
            "bring all frames of a clip to one size",
        )
    return pixels_HWC


def _mask(path: Path, size: tuple[int, int]) -> NDArray[np.int32]:
    try:
        with open_image(read_image(path, str(path)), str(path), ("PNG",)) as image:
            mode, found = image.mode, image.size[::-1]
            usable = found == size and mode in _MODES  # of another size it is not even decoded
            values_HW = np.array(image).astype(np.int32) if usable else None
    except BadImage as error:
        raise _unreadable(path, error) from None
    if values_HW is None and found != size:
        raise DataError(
            f"{_shown(path)} has {_by(found)} pixels, its frame {_by(size)}",
            "save the mask at the size of its frame",
        )
    if values_HW is None:
        raise DataError(f"{_shown(path)} is a colour picture, no mask ({mode})", _AS_MASK)
    if mode == _INDEXED:
        values_HW[values_HW == _INDEX_OF_VOID] = VOID
    return values_HW


def _objects(path: Path, mask_HW: NDArray[np.int32]) -> tuple[int, ...]:
    """The values of the objects in a first mask."""
    objects = [int(value) for value in np.unique(mask_HW) if value > 0]
    if not objects:
        what = f"{_shown(path)}, the mask of the first frame, shows no object"
        raise DataError(what, "give objects the values 1, 2, ...; 0 is background, index 255 void")
    if len(objects) > _MOST:
        raise DataError(
            f"{_shown(path)} has {len(objects)} values, a mask has at most {_MOST} objects",
            "save it without smoothed edges: one value an object",
        )
    return tuple(objects)


# ---- what is said


def _shown(path: Path) -> str:
    return shown(str(path))


def _by(size: tuple[int, ...]) -> str:
    return f"{size[1]} x {size[0]}"


def _no_frames(folder: Path) -> DataError:
    remedy = "put its frames there as images: 00000.jpg, 00001.jpg, ..."
    return DataError(f"{_shown(folder)} holds no frames", remedy)


def _unreadable(path: Path, error: BadImage) -> DataError:
    return DataError(f"{_shown(path)} cannot be read ({error.reason})", "restore the file")


def _closed(folder: Path, error: OSError) -> DataError:
    what = f"the folder {_shown(folder)} cannot be read ({error.strerror})"
    return DataError(what, "make it readable")
