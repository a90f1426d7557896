"""Pixels by row: decoded once where they fit, encoded files where they do not; the same either way.

Decoded pixels lie in one flat array, image after image, in memory or in a memory-mapped file of the
cache. Files are read in place: their bytes must be those that were checked, by their hash when they
are first read, and by size and time of change after that.

Shapes:  N images; n rows asked for; H, W height and width as stored; C channels.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from selftaught.data.check import Checked, check
from selftaught.data.decode import BadImage, as_channels, decode, read_image
from selftaught.data.images import find
from selftaught.distributed import world
from selftaught.errors import FileError
from selftaught.files import read_json, write_json
from selftaught.views.tensors import resize

Pixels = NDArray[Any]
Form = Literal["memory", "disk", "encoded"]
Put = Callable[[int, Pixels], None]

_MEMORY_SHARE, _DISK_SHARE = 0.25, 0.5  # of all memory; of the disk space that is free
_ROWS = 64  # a task of a thread
_BLOCK = 2**26  # bytes of a checksum


class Store:
    """Pixels by row.

    Attributes:
        channels: C of every image.
        dtype: "uint8", "uint16" or "float32".
        sizes_N2: int64: height and width of each image as stored.
        store_size: What the shorter sides were shrunk to, in pixels; None: nothing was shrunk.
    """

    def __init__(self, layout: "_Layout") -> None:
        self.channels, self.dtype = layout.channels, layout.dtype
        self.sizes_N2, self.store_size = layout.sizes_N2, layout.store_size

    def __len__(self) -> int:
        return len(self.sizes_N2)

    def read(self, rows_n: NDArray[np.int64]) -> Pixels | list[Pixels]:
        """The pixels of some rows.

        Returns:
            (n, H, W, C) if all images of the store have one size, else n arrays (H, W, C).

        Raises:
            BadImage: A file is damaged, missing or another than the one that was checked.
        """
        raise NotImplementedError

    @property
    def one_size(self) -> bool:
        """Whether all images have the same height and width."""
        return bool((self.sizes_N2 == self.sizes_N2[0]).all())


class DecodedStore(Store):
    """Pixels in one flat array, in memory or memory-mapped; `bad` rows could not be decoded."""

    def __init__(self, layout: "_Layout", flat: Pixels, bad: dict[int, BadImage]) -> None:
        super().__init__(layout)
        self._flat, self._ends_N, self._bad = flat, np.cumsum(layout.lengths_N), bad
        shape = (len(self), *self.sizes_N2[0].tolist(), self.channels)
        self._whole = flat.reshape(shape) if self.one_size else None

    def read(self, rows_n: NDArray[np.int64]) -> Pixels | list[Pixels]:
        """The pixels of some rows: a copy for images of one size, else views of the array."""
        if self._bad and (bad := [row for row in rows_n.tolist() if row in self._bad]):
            raise BadImage(self._bad[bad[0]].what, self._bad[bad[0]].reason)
        return [self._image(row) for row in rows_n] if self._whole is None else self._whole[rows_n]

    def _image(self, row: np.int64) -> Pixels:
        (height, width), end = self.sizes_N2[row].tolist(), self._ends_N[row]
        start = end - height * width * self.channels
        return self._flat[start:end].reshape(height, width, self.channels)


class EncodedStore(Store):
    """Files read in place and decoded each time."""

    def __init__(self, layout: "_Layout", image: Callable[[int], Pixels]) -> None:
        super().__init__(layout)
        self._image, self._stack = image, self.one_size

    def read(self, rows_n: NDArray[np.int64]) -> Pixels | list[Pixels]:
        """The pixels of some rows, decoded now."""
        images = [self._image(row) for row in rows_n.tolist()]
        return np.stack(images) if self._stack and images else images


@dataclass(frozen=True)
class Images:
    """Images that were checked, and their pixels."""

    checked: Checked
    store: Store

    @property
    def content(self) -> str:
        """What the pixels are, as a hash: equal for equal files checked and stored alike."""
        stored = f"{self.checked.content}/{self.store.store_size}"
        return hashlib.sha256(stored.encode()).hexdigest()


def open_images(
    data: str,
    *,
    cache: Path,
    threads: int = 2,
    min_side: int = 1,
    store_size: int | None = None,
    form: Form | None = None,
) -> Images:
    """Find, check and store the images that the user names.

    Args:
        data: Any form of DATA.
        cache: Folder for decoded pixels and the results of the check.
        threads: Threads that decode.
        min_side: Images with a shorter side below it, in pixels, are rejected.
        store_size: Shrink shorter sides to it, in pixels, once.
        form: How pixels are kept; None: in memory if they take at most 25 % of it, else on disk if
            they take at most half of what is free there, else as the files that they are.

    Raises:
        DataError: There are no usable images.
    """
    checked = check(find(data), cache=cache, threads=threads, min_side=min_side)
    store = open_store(checked, cache=cache, threads=threads, store_size=store_size, form=form)
    return Images(checked, store)


def open_store(
    checked: Checked,
    *,
    cache: Path,
    threads: int = 2,
    store_size: int | None = None,
    form: Form | None = None,
) -> Store:
    """The pixels of checked images; see `open_images`."""
    layout = _Layout.of(checked, store_size)
    image = _reader(checked, layout)
    if checked.source.array is not None and not layout.shrinks:
        return DecodedStore(layout, _flat_array(checked, layout), {})
    form = form or _form(layout, cache)
    if form != "encoded":
        with contextlib.suppress(OSError):  # a full or read-only disk: one form further down
            return _from_cache(layout, image, form, cache, threads)
    if form == "memory":
        flat = np.empty(layout.length, layout.dtype)
        return DecodedStore(layout, flat, _decode_into(layout, image, threads, _into(flat, layout)))
    return EncodedStore(layout, image)


# --- what is stored, and where


@dataclass(frozen=True)
class _Layout:
    """What a flat array of all pixels looks like."""

    content: str
    channels: int
    dtype: str
    sizes_N2: NDArray[np.int64]
    store_size: int | None
    shrinks: bool

    @classmethod
    def of(cls, checked: Checked, store_size: int | None) -> "_Layout":
        columns = (checked.images[name].to_numpy() for name in ("height", "width"))
        sizes_N2 = np.stack([column.astype(np.int64) for column in columns], axis=1)
        stored_N2 = _shrunk(sizes_N2, store_size)
        shrinks = bool((stored_N2 != sizes_N2).any())
        return cls(checked.content, checked.channels, checked.dtype, stored_N2, store_size, shrinks)

    @property
    def lengths_N(self) -> NDArray[np.int64]:
        lengths_N: NDArray[np.int64] = self.sizes_N2.prod(axis=1) * self.channels
        return lengths_N

    @property
    def length(self) -> int:
        return int(self.lengths_N.sum())

    @property
    def size(self) -> int:
        """Bytes of all pixels."""
        return self.length * np.dtype(self.dtype).itemsize

    @property
    def key(self) -> str:
        """The name of these pixels in the cache."""
        text = f"{self.content}/{self.channels}/{self.dtype}/{self.store_size}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def _shrunk(sizes_N2: NDArray[np.int64], store_size: int | None) -> NDArray[np.int64]:
    """Shorter sides above `store_size` become it, longer ones in proportion."""
    if store_size is None:
        return sizes_N2
    shorter_N1 = sizes_N2.min(axis=1, keepdims=True)
    smaller_N2 = (2 * sizes_N2 * store_size + shorter_N1) // (2 * shorter_N1)
    return np.where(shorter_N1 > store_size, smaller_N2, sizes_N2)


def _form(layout: _Layout, cache: Path) -> Form:
    if layout.size <= _MEMORY_SHARE * _memory():
        return "memory"
    return "disk" if layout.size <= _DISK_SHARE * _free(cache) else "encoded"


def _memory() -> int:
    """Bytes of memory that this process may use, at most."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits)


def _free(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


# --- the pixels of one row


def _reader(checked: Checked, layout: _Layout) -> Callable[[int], Pixels]:
    """A function from a row to its pixels as they are stored."""
    raw = _ArrayImages(checked) if checked.source.array is not None else _FileImages(checked)

    def image(row: int) -> Pixels:
        return _stored(raw(row), layout, row, checked.source.names[checked.index_N[row]])

    return image


def _stored(image_HWC: Pixels, layout: _Layout, row: int, name: str) -> Pixels:
    image_HWC = as_channels(image_HWC, layout.channels)
    height, width = layout.sizes_N2[row].tolist()
    if layout.shrinks and image_HWC.shape[:2] != (height, width):
        image_HWC = resize(image_HWC, height, width)
    image_HWC = np.ascontiguousarray(image_HWC, layout.dtype)
    if image_HWC.shape != (height, width, layout.channels):
        raise BadImage(name, "changed since it was checked")
    return image_HWC


class _ArrayImages:
    """Images of an array that the user named."""

    def __init__(self, checked: Checked) -> None:
        self._array, self._index_N = checked.source.array, checked.index_N

    def __call__(self, row: int) -> Pixels:
        assert self._array is not None
        image_HWC: Pixels = self._array[self._index_N[row]]
        return image_HWC


class _FileImages:
    """Images of files, if they still hold the bytes that were checked."""

    def __init__(self, checked: Checked) -> None:
        assert checked.source.root is not None
        self._root, self._names = checked.source.root, checked.source.names
        self._index_N = checked.index_N
        self._hashes = checked.images["sha256"].combine_chunks()
        self._stamps_N2 = np.full((len(checked), 2), -1, np.int64)  # size and time of change

    def __call__(self, row: int) -> Pixels:
        name = self._names[self._index_N[row]]
        path = self._root / name
        stamp, data = _stamp(path), read_image(path, name)
        if stamp != tuple(self._stamps_N2[row].tolist()):
            if hashlib.sha256(data).hexdigest() != self._hashes[row].as_py():
                raise BadImage(name, "changed since it was checked")
            self._stamps_N2[row] = stamp
        return decode(data, name)


def _stamp(path: Path) -> tuple[int, int]:
    """A file's size and time of change; of a missing file, which no reader will accept, zeros."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _flat_array(checked: Checked, layout: _Layout) -> Pixels:
    """The user's array itself where all of it is used as it is, else a copy."""
    array = checked.source.array
    assert array is not None
    if not np.array_equal(checked.index_N, np.arange(len(array))):
        array = array[checked.index_N]
    if array.shape[3] != layout.channels:
        array = np.repeat(array, layout.channels, axis=3)
    return np.ascontiguousarray(array, layout.dtype).reshape(-1)


# --- decoding everything once


def _decode_into(
    layout: _Layout, image: Callable[[int], Pixels], threads: int, put: Put
) -> dict[int, BadImage]:
    """Hand every row's pixels to `put`, in parallel; the rows that cannot be read any more."""
    bad: dict[int, BadImage] = {}

    def decode_rows(start: int) -> None:
        for row in range(start, min(start + _ROWS, len(layout.sizes_N2))):
            try:
                put(row, image(row))
            except BadImage as error:
                bad[row] = error

    _in_parallel(decode_rows, range(0, len(layout.sizes_N2), _ROWS), threads)
    return bad


def _into(flat: Pixels, layout: _Layout) -> Put:
    ends_N, lengths_N = np.cumsum(layout.lengths_N), layout.lengths_N

    def put(row: int, pixels: Pixels) -> None:
        flat[ends_N[row] - lengths_N[row] : ends_N[row]] = pixels.reshape(-1)

    return put


def _into_file(handle: int, layout: _Layout) -> Put:
    """Written, not mapped: a disk that is full raises an error instead of killing the process."""
    itemsize = np.dtype(layout.dtype).itemsize
    starts_N = (np.cumsum(layout.lengths_N) - layout.lengths_N) * itemsize

    def put(row: int, pixels: Pixels) -> None:
        view, at = pixels.reshape(-1).view(np.uint8).data, int(starts_N[row])
        while len(view):
            written = os.pwrite(handle, view, at)
            view, at = view[written:], at + written

    return put


def _in_parallel(task: Callable[[Any], Any], items: Any, threads: int) -> list[Any]:
    pool = ThreadPoolExecutor(max(1, threads))
    try:
        return list(pool.map(task, items))
    finally:
        pool.shutdown(cancel_futures=True)


# --- the cache


def _from_cache(
    layout: _Layout, image: Callable[[int], Pixels], form: Form, cache: Path, threads: int
) -> DecodedStore:
    """The store from its file in the cache, which is written first where it is missing or damaged.

    Raises:
        OSError: The disk is full, or cannot be written to.
    """
    folder = cache / "store"
    folder.mkdir(parents=True, exist_ok=True)
    path, bad = folder / f"{layout.key}.pixels", dict[int, BadImage]()
    with _alone(path.with_suffix(".lock")):
        if not _whole(path, layout, threads):
            if layout.size > _DISK_SHARE * _free(folder):
                raise OSError("the cache would fill the disk")
            bad = _write(path, layout, image, threads)
        if form == "memory" and world() == 1:  # several processes share the pages of the file
            return DecodedStore(layout, np.fromfile(path, layout.dtype), bad)
        return DecodedStore(layout, np.memmap(path, layout.dtype, mode="c"), bad)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time; the others wait, and then find what it has written."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _whole(path: Path, layout: _Layout, threads: int) -> bool:
    """Whether the file has every image and every byte that was written."""
    try:
        return path.stat().st_size == layout.size and bool(
            read_json(path.with_suffix(".json")) == {"crc32": _checksums(path, threads)}
        )
    except (OSError, FileError):
        return False


def _checksums(path: Path, threads: int) -> list[int]:
    with path.open("rb") as file:
        handle = file.fileno()
        return _in_parallel(
            lambda start: zlib.crc32(os.pread(handle, _BLOCK, start)),
            range(0, path.stat().st_size, _BLOCK),
            threads,
        )


def _write(
    path: Path, layout: _Layout, image: Callable[[int], Pixels], threads: int
) -> dict[int, BadImage]:
    """Write the file of pixels, whole or not at all. With bad rows it gets no checksums: the next
    run tries those files again."""
    part, sums = path.with_name(f".{path.name}.tmp-{os.getpid()}"), path.with_suffix(".json")
    for leftover in path.parent.glob(f".{path.name}.tmp-*"):
        leftover.unlink()
    sums.unlink(missing_ok=True)
    try:
        with part.open("wb") as file:
            file.truncate(layout.size)
            bad = _decode_into(layout, image, threads, _into_file(file.fileno(), layout))
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if not bad:
        write_json(sums, {"crc32": _checksums(path, threads)})
    return bad
