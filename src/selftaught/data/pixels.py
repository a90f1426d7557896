"""Decoded pixels in one flat array, image after image: in memory, or in a file of the cache.

The file is written whole or not at all, with checksums beside it; a missing or damaged one is
written again.

Shapes:  N images; H, W height and width as stored; C channels.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from selftaught.errors import BadImage, FileError
from selftaught.foundation.distributed import world
from selftaught.foundation.files import read_json, write_json
from selftaught.foundation.machine import Machine

if TYPE_CHECKING:
    from selftaught.data.check_images import Checked

Pixels = NDArray[Any]
Bad = dict[int, BadImage]
"""Rows whose files cannot be read any more, and why."""

Image = Callable[[int], Pixels]
"""From a row to its pixels as they are stored, (H, W, C)."""

Put = Callable[[int, Pixels], None]

DISK_SHARE = 0.5
"""Of the disk space that is free: what the cache may take."""

_ROWS = 64  # a task of a thread
_BLOCK = 2**26  # bytes of a checksum


@dataclass(frozen=True)
class StoreLayout:
    """What a flat array of all pixels looks like, and the hash of the images that are in it."""

    content: str
    channels: int
    dtype: str
    sizes_N2: NDArray[np.int64]
    store_size: int | None
    shrinks: bool
    dct_scaling: bool

    @classmethod
    def of(cls, checked: "Checked", store_size: int | None, *, dct_scaling: bool) -> "StoreLayout":
        """The layout of checked images whose shorter sides are shrunk to `store_size` pixels."""
        columns = (checked.images[name].to_numpy() for name in ("height", "width"))
        sizes_N2 = np.stack([column.astype(np.int64) for column in columns], axis=1)
        stored_N2 = _shrunk(sizes_N2, store_size)
        shrinks = bool((stored_N2 != sizes_N2).any())
        return cls(
            content=checked.content,
            channels=checked.channels,
            dtype=checked.dtype,
            sizes_N2=stored_N2,
            store_size=store_size,
            shrinks=shrinks,
            dct_scaling=shrinks and dct_scaling,
        )

    @property
    def lengths_N(self) -> NDArray[np.int64]:
        """Numbers of each image."""
        lengths_N: NDArray[np.int64] = self.sizes_N2.prod(axis=1) * self.channels
        return lengths_N

    @property
    def length(self) -> int:
        """Numbers of all images."""
        return int(self.lengths_N.sum())

    @property
    def size(self) -> int:
        """Bytes of all pixels."""
        return self.length * np.dtype(self.dtype).itemsize

    @property
    def starts_N(self) -> NDArray[np.int64]:
        """Where the numbers of each image begin."""
        return np.cumsum(self.lengths_N) - self.lengths_N

    @property
    def shrinking(self) -> str:
        """How images are shrunk, as a text that stands for it wherever pixels are named."""
        return f"{self.store_size}/dct" if self.dct_scaling else str(self.store_size)

    @property
    def key(self) -> str:
        """The name of these pixels in the cache."""
        text = f"{self.content}/{self.channels}/{self.dtype}/{self.shrinking}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def _shrunk(sizes_N2: NDArray[np.int64], store_size: int | None) -> NDArray[np.int64]:
    """Shorter sides above `store_size` become it, longer ones in proportion."""
    if store_size is None:
        return sizes_N2
    shorter_N1 = sizes_N2.min(axis=1, keepdims=True)
    smaller_N2 = (2 * sizes_N2 * store_size + shorter_N1) // (2 * shorter_N1)
    return np.where(shorter_N1 > store_size, smaller_N2, sizes_N2)


def free(folder: Path) -> int:
    """Bytes that are free on the disk where a folder is or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


# --- decoding everything once


def decoded(layout: StoreLayout, image: Image, *, threads: int) -> tuple[Pixels, Bad]:
    """All pixels, in memory only, and the rows that could not be decoded."""
    flat, starts_N = np.empty(layout.length, layout.dtype), layout.starts_N

    def put(row: int, pixels: Pixels) -> None:
        flat[starts_N[row] : starts_N[row] + pixels.size] = pixels.reshape(-1)

    return flat, _decode_all(layout, image, threads, put)


def _decode_all(layout: StoreLayout, image: Image, threads: int, put: Put) -> Bad:
    """Hand every row's pixels to `put`, in parallel; the rows that cannot be read any more."""
    bad = Bad()

    def decode_rows(start: int) -> None:
        for row in range(start, min(start + _ROWS, len(layout.sizes_N2))):
            try:
                put(row, image(row))
            except BadImage as error:
                bad[row] = error

    _in_parallel(decode_rows, range(0, len(layout.sizes_N2), _ROWS), threads)
    return bad


def _into_file(handle: int, layout: StoreLayout) -> Put:
    """Written, not mapped: a disk that is full raises an error instead of killing the process."""
    starts_N = layout.starts_N * np.dtype(layout.dtype).itemsize

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


def cached(
    layout: StoreLayout, image: Image, machine: Machine, *, in_memory: bool
) -> tuple[Pixels, Bad]:
    """All pixels from their file in the cache, which is written first where it is not whole.

    Returns:
        The flat array, memory-mapped (private: it may be written to, the file stays as it is) or
        not; and the rows that could not be decoded.

    Raises:
        OSError: The disk would be full, or cannot be written to.
    """
    assert machine.cache is not None
    folder, threads = machine.cache / "store", machine.threads
    folder.mkdir(parents=True, exist_ok=True)
    path, bad = folder / f"{layout.key}.pixels", Bad()
    with _alone(path.with_suffix(".lock")):
        if not _whole(path, layout, threads):
            if layout.size > DISK_SHARE * free(folder):
                raise OSError(errno.ENOSPC, "the cache would fill the disk")
            bad = _write(path, layout, image, threads)
        if in_memory and world() == 1:  # several processes share the pages of the file
            return np.fromfile(path, layout.dtype), bad
        return np.memmap(path, layout.dtype, mode="c"), bad


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time; the others wait, and then find what it has written."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _whole(path: Path, layout: StoreLayout, threads: int) -> bool:
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


def _write(path: Path, layout: StoreLayout, image: Image, threads: int) -> Bad:
    """Write the file of pixels, whole or not at all. With bad rows it gets no checksums: the next
    run tries those files again."""
    part, sums = path.with_name(f".{path.name}.tmp-{os.getpid()}"), path.with_suffix(".json")
    for leftover in path.parent.glob(f".{path.name}.tmp-*"):
        leftover.unlink()
    sums.unlink(missing_ok=True)
    try:
        with part.open("wb") as file:
            file.truncate(layout.size)
            bad = _decode_all(layout, image, threads, _into_file(file.fileno(), layout))
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if not bad:
        write_json(sums, {"crc32": _checksums(path, threads)})
    return bad
