"""Clips: folders of frames with masks of objects, in the DAVIS layout or a single clip.

    DATA/JPEGImages/.../CLIP/00000.jpg     DATA/Annotations/.../CLIP/00000.png
    DATA/00000.jpg                         DATA/masks/00000.png

A mask has the name of its frame; the first frame must have one. A mask is an indexed PNG as in
Pont-Tuset et al. 2017 (arXiv 1704.00675), where 0 is background, 1, 2, ... are objects and 255 is
not scored; or a grey PNG, where every value except 0 is an object.

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
from selftaught.errors import BadImage, DataError, printable

VOID = -1
"""Mask value that is neither background nor object, and not scored."""

_FRAMES, _MASKS = "JPEGImages", "Annotations"
_ALONE = "masks"  # the folder of a single clip
_MODES = ("1", "L", "P", "I", "I;16")  # Pillow modes with one number per pixel
_INDEXED, _INDEX_OF_VOID = "P", 255
_MOST = 100  # objects; grey photographs and smoothed edges have more values
_AS_MASK = "save it as an indexed PNG: 0 background, 1, 2, ... the objects"


@dataclass(frozen=True)
class Clip:
    """Frames of one size in order, and masks of some of them; read from disk on request.

    Attributes:
        name: Name of its folder.
        frames: Files of the frames.
        masks: Mask files by frame number; frame 0 always has one.
        size: H and W.
        objects: Values of the objects, as in the first mask, ascending.
    """

    name: str
    frames: tuple[Path, ...]
    masks: Mapping[int, Path]
    size: tuple[int, int]
    objects: tuple[int, ...]

    def frame(self, t: int) -> NDArray[Any]:
        """The pixels of frame t, (H, W, C) uint8, uint16 or float32; C is 1 or 3.

        Raises:
            DataError: The file cannot be read, or its size has changed.
        """
        return _frame(self.frames[t], self.size)

    def mask(self, t: int) -> NDArray[np.int32]:
        """The mask of frame t, (H, W): 0 background, the value of an object, or VOID.

        Raises:
            DataError: The file cannot be read, is not a mask, or differs in size from its frame.
        """
        return _mask(self.masks[t], self.size)


def read_clips(folder: Path) -> tuple[Clip, ...]:
    """The clips of a folder, by name, after a check of every frame and mask.

    Args:
        folder: A folder with JPEGImages/ and Annotations/, or a single clip: frames and masks/.

    Raises:
        DataError: A clip has no frames, no mask for its first frame or no object in that mask; a
            mask differs in size from its frame; a file cannot be read or leads out of the folder.
    """
    if not folder.is_dir():
        raise DataError(
            f"{_path_text(folder)} is not a folder", "pass a folder of frames with masks/"
        )
    if not (folder / _FRAMES).is_dir():
        return (_clip(folder, folder.resolve().name, folder, folder / _ALONE),)
    found: dict[str, Path] = {}
    for path in _folders_with_images(folder / _FRAMES):
        if path.name in found:
            raise DataError(
                f"the clip {printable(path.name)} exists twice ({_path_text(found[path.name])} and "
                f"{_path_text(path)})",
                "keep only one resolution of the clips",
            )
        found[path.name] = path
    if not found:
        raise _no_frames(folder / _FRAMES)
    return tuple(
        _clip(
            folder, name, found[name], folder / _MASKS / found[name].relative_to(folder / _FRAMES)
        )
        for name in sorted(found, key=natural_key)
    )


def natural_key(name: str) -> tuple[tuple[Any, ...], str]:
    """A sort key that compares numbers by value: frame2 comes before frame10."""
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
        raise _unreadable_file(frames[0], error) from None
    clip = Clip(name, frames, masks, size, _objects(masks[0], _mask(masks[0], size)))
    for t in range(1, len(frames)):
        clip.frame(t)
        if t in masks:
            clip.mask(t)
    return clip


# ---- which files


def _folders_with_images(top: Path) -> Iterator[Path]:
    """Folders below `top` that directly contain images; links to folders are not followed."""

    def refuse(error: OSError) -> None:
        raise _unreadable_folder(Path(error.filename), error)

    for folder, below, names in os.walk(top, onerror=refuse):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if any(_suffix(name) in SUFFIXES for name in names if not name.startswith(".")):
            yield Path(folder)


def _images(root: Path, folder: Path, suffixes: frozenset[str]) -> list[Path]:
    """The images directly in a folder, in natural order; none if the folder does not exist."""
    try:
        names = os.listdir(folder) if folder.is_dir() else []
    except OSError as error:
        raise _unreadable_folder(folder, error) from None
    names = [name for name in names if _suffix(name) in suffixes and not name.startswith(".")]
    paths = [folder / name for name in sorted(names, key=natural_key)]
    for path in paths:
        if not is_below(os.path.realpath(root), os.path.realpath(path)):
            raise DataError(
                f"{_path_text(path)} leads out of {_path_text(root)}", "copy the file into it"
            )
    return paths


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _numbers(frames: tuple[Path, ...]) -> dict[str, int]:
    """Frame numbers by file name without suffix."""
    numbers: dict[str, int] = {}
    for t, path in enumerate(frames):
        if path.stem in numbers:
            first = frames[numbers[path.stem]]
            raise DataError(
                f"frames {_path_text(path)} and {_path_text(first)} have the same name",
                f"keep one of them, and put masks into {_ALONE}/ or {_MASKS}/",
            )
        numbers[path.stem] = t
    return numbers


def _masks(
    root: Path, folder: Path, frames: tuple[Path, ...], numbers: Mapping[str, int]
) -> dict[int, Path]:
    """The masks of a folder by frame number."""
    paths = _images(root, folder, frozenset({".png"}))
    first = folder / f"{frames[0].stem}.png"
    if frames[0].stem not in {path.stem for path in paths}:
        raise DataError(f"the mask of the first frame is missing ({_path_text(first)})", _AS_MASK)
    for path in paths:
        if path.stem not in numbers:
            raise DataError(
                f"no frame belongs to the mask {_path_text(path)}",
                f"name each mask like its frame, for example {first.name}",
            )
    return {numbers[path.stem]: path for path in paths}


# ---- what is in them


def _frame(path: Path, size: tuple[int, int]) -> NDArray[Any]:
    try:
        pixels_HWC = decode_file(path, str(path))
    except BadImage as error:
        raise _unreadable_file(path, error) from None
    if pixels_HWC.shape[:2] != size:
        raise DataError(
            f"{_path_text(path)} has {_size_text(pixels_HWC.shape[:2])} pixels, "
            f"the first frame {_size_text(size)}",
            "resize all frames of the clip to one size",
        )
    return pixels_HWC


def _mask(path: Path, size: tuple[int, int]) -> NDArray[np.int32]:
    try:
        with open_image(read_image(path, str(path)), str(path), ("PNG",)) as image:
            mode, found = image.mode, image.size[::-1]
            usable = found == size and mode in _MODES  # a mask of another size is not decoded
            values_HW = np.array(image).astype(np.int32) if usable else None
    except BadImage as error:
        raise _unreadable_file(path, error) from None
    if values_HW is None and found != size:
        raise DataError(
            f"{_path_text(path)} has {_size_text(found)} pixels, its frame {_size_text(size)}",
            "save the mask at the size of its frame",
        )
    if values_HW is None:
        raise DataError(f"{_path_text(path)} is a colour image ({mode}), not a mask", _AS_MASK)
    if mode == _INDEXED:
        values_HW[values_HW == _INDEX_OF_VOID] = VOID
    return values_HW


def _objects(path: Path, mask_HW: NDArray[np.int32]) -> tuple[int, ...]:
    """The values of the objects in a first mask."""
    objects = [int(value) for value in np.unique(mask_HW) if value > 0]
    if not objects:
        what = f"{_path_text(path)}, the mask of the first frame, contains no object"
        raise DataError(
            what, "use the values 1, 2, ... for objects, 0 for background, 255 for void"
        )
    if len(objects) > _MOST:
        raise DataError(
            f"{_path_text(path)} has {len(objects)} values, but a mask has at most {_MOST} objects",
            "save it without smoothed edges, with one value per object",
        )
    return tuple(objects)


# ---- messages


def _path_text(path: Path) -> str:
    return printable(str(path))


def _size_text(size: tuple[int, ...]) -> str:
    return f"{size[1]} x {size[0]}"


def _no_frames(folder: Path) -> DataError:
    remedy = "put its frames there as images, such as 00000.jpg, 00001.jpg, ..."
    return DataError(f"{_path_text(folder)} contains no frames", remedy)


def _unreadable_file(path: Path, error: BadImage) -> DataError:
    return DataError(f"{_path_text(path)} cannot be read ({error.reason})", "restore the file")


def _unreadable_folder(folder: Path, error: OSError) -> DataError:
    what = f"the folder {_path_text(folder)} cannot be read ({error.strerror})"
    return DataError(what, "make it readable")
