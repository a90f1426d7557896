"""Decoded pixels in one flat array, image after image: in memory, or in a file of the cache.

The file is written atomically and has checksums in a second file; a missing or damaged file is
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
BadRows = dict[int, BadImage]
"""Rows whose files can no longer be read, and why."""

PixelReader = Callable[[int], Pixels]
"""A function from a row to its pixels as stored, (H, W, C)."""

PixelWriter = Callable[[int, Pixels], None]

DISK_SHARE = 0.5
"""Share of the free disk space that the cache may use."""

_ROWS = 64  # per task of a thread
_BLOCK = 2**26  # bytes per checksum


@dataclass(frozen=True)
class StoreLayout:
    """Layout of a flat array of all pixels, and the hash of its images."""

    content: str
    channels: int
    dtype: str
    sizes_N2: NDArray[np.int64]
    store_size: int | None
    shrinks: bool
    dct_scaling: bool

    @classmethod
    def of(cls, checked: "Checked", store_size: int | None, *, dct_scaling: bool) -> "StoreLayout":
        """The layout of checked images with shorter sides shrunk to `store_size` pixels."""
        columns = (checked.images[name].to_numpy() for name in ("height", "width"))
        sizes_N2 = np.stack([column.astype(np.int64) for column in columns], axis=1)
        stored_N2 = _shrunk_sizes(sizes_N2, store_size)
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
        """Number of values of each image."""
        lengths_N: NDArray[np.int64] = self.sizes_N2.prod(axis=1) * self.channels
        return lengths_N

    @property
    def length(self) -> int:
        """Number of values of all images."""
        return int(self.lengths_N.sum())

    @property
    def size(self) -> int:
        """Bytes of all pixels."""
        return self.length * np.dtype(self.dtype).itemsize

    @property
    def starts_N(self) -> NDArray[np.int64]:
        """Start of each image in the flat array."""
        return np.cumsum(self.lengths_N) - self.lengths_N

    @property
    def shrinking(self) -> str:
        """How images are shrunk, as text for keys and hashes of pixels."""
        return f"{self.store_size}/dct" if self.dct_scaling else str(self.store_size)

    @property
    def key(self) -> str:
        """The name of these pixels in the cache."""
        text = f"{self.content}/{self.channels}/{self.dtype}/{self.shrinking}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def _shrunk_sizes(sizes_N2: NDArray[np.int64], store_size: int | None) -> NDArray[np.int64]:
    """Sizes after shrinking: shorter sides to at most `store_size`, longer ones in proportion."""
    if store_size is None:
        return sizes_N2
    shorter_N1 = sizes_N2.min(axis=1, keepdims=True)
    smaller_N2 = (2 * sizes_N2 * store_size + shorter_N1) // (2 * shorter_N1)
    return np.where(shorter_N1 > store_size, smaller_N2, sizes_N2)


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk of a folder, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


# --- decoding everything once


def decoded_pixels(
    layout: StoreLayout, image: PixelReader, *, threads: int
) -> tuple[Pixels, BadRows]:
    """All pixels, in memory, and the rows that could not be decoded."""
    flat, starts_N = np.empty(layout.length, layout.dtype), layout.starts_N

    def put(row: int, pixels: Pixels) -> None:
        flat[starts_N[row] : starts_N[row] + pixels.size] = pixels.reshape(-1)

    return flat, _decode_all(layout, image, threads, put)


def _decode_all(layout: StoreLayout, image: PixelReader, threads: int, put: PixelWriter) -> BadRows:
    """Pass the pixels of every row to `put`, in parallel; returns the unreadable rows."""
    bad = BadRows()

    def decode_rows(start: int) -> None:
        for row in range(start, min(start + _ROWS, len(layout.sizes_N2))):
            try:
                put(row, image(row))
            except BadImage as error:
                bad[row] = error

    _map_in_threads(decode_rows, range(0, len(layout.sizes_N2), _ROWS), threads)
    return bad


def _file_writer(handle: int, layout: StoreLayout) -> PixelWriter:
    """A writer by pwrite: unlike with a memory map, a full disk raises and does not kill us."""
    starts_N = layout.starts_N * np.dtype(layout.dtype).itemsize

    def put(row: int, pixels: Pixels) -> None:
        view, at = pixels.reshape(-1).view(np.uint8).data, int(starts_N[row])
        while len(view):
            written = os.pwrite(handle, view, at)
            view, at = view[written:], at + written

    return put


def _map_in_threads(task: Callable[[Any], Any], items: Any, threads: int) -> list[Any]:
    pool = ThreadPoolExecutor(max(1, threads))
    try:
        return list(pool.map(task, items))
    finally:
        pool.shutdown(cancel_futures=True)


# --- the cache


def cached_pixels(
    layout: StoreLayout, image: PixelReader, machine: Machine, *, in_memory: bool
) -> tuple[Pixels, BadRows]:
    """All pixels from their file in the cache, which is written first if it is incomplete.

    Returns:
        The flat array, in memory or memory-mapped (privately, so writes do not reach the file);
        and the rows that could not be decoded.

    Raises:
        OSError: The disk would be full, or cannot be written to.
    """
    assert machine.cache is not None
    folder, threads = machine.cache / "store", machine.threads
    folder.mkdir(parents=True, exist_ok=True)
    path, bad = folder / f"{layout.key}.pixels", BadRows()
    with _exclusive_lock(path.with_suffix(".lock")):
        if not _is_complete(path, layout, threads):
            if layout.size > DISK_SHARE * free_bytes(folder):
                raise OSError(errno.ENOSPC, "the cache would fill the disk")
            bad = _write(path, layout, image, threads)
        if in_memory and world() == 1:  # several processes share the pages of the file
            return np.fromfile(path, layout.dtype), bad
        return np.memmap(path, layout.dtype, mode="c"), bad


@contextlib.contextmanager
def _exclusive_lock(path: Path) -> Iterator[None]:
    """Admit one process at a time; the others wait and then find its file."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_complete(path: Path, layout: StoreLayout, threads: int) -> bool:
    """Whether the file has all images, and its checksums match."""
    try:
        return path.stat().st_size == layout.size and bool(
            read_json(path.with_suffix(".json")) == {"crc32": _checksums(path, threads)}
        )
    except (OSError, FileError):
        return False


def _checksums(path: Path, threads: int) -> list[int]:
    with path.open("rb") as file:
        handle = file.fileno()
        return _map_in_threads(
            lambda start: zlib.crc32(os.pread(handle, _BLOCK, start)),
            range(0, path.stat().st_size, _BLOCK),
            threads,
        )


def _write(path: Path, layout: StoreLayout, image: PixelReader, threads: int) -> BadRows:
    """Write the file of pixels atomically; with bad rows it gets no checksums, so the next run
    tries those files again."""
    part, sums = path.with_name(f".{path.name}.tmp-{os.getpid()}"), path.with_suffix(".json")
    for leftover in path.parent.glob(f".{path.name}.tmp-*"):
        leftover.unlink()
    sums.unlink(missing_ok=True)
    try:
        with part.open("wb") as file:
            file.truncate(layout.size)
            bad = _decode_all(layout, image, threads, _file_writer(file.fileno(), layout))
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if not bad:
        write_json(sums, {"crc32": _checksums(path, threads)})
    return bad
