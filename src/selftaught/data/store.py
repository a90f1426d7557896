"""Pixels by row: decoded once if they fit, else read from the encoded files, with equal results.

Decoded pixels are in one flat array, image after image, in memory or in a memory-mapped file of
the cache. Encoded files are read in place. Their bytes must be those that were checked: the first
read compares the hash, later reads compare size and modification time.

Shapes:  N images; n requested rows; H, W height and width as stored; C channels.
"""

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from selftaught.data import pixels
from selftaught.data.check_images import Checked
from selftaught.data.decode import as_channels, decode, read_image
from selftaught.data.pixels import BadRows, PixelReader, StoreLayout
from selftaught.errors import BadImage
from selftaught.foundation.machine import Machine, memory
from selftaught.views.raw import Pixels, Raw

Form = Literal["memory", "disk", "encoded"]

_MEMORY_SHARE = 0.25  # of all memory
_GAP = 2  # libjpeg shrinks to no less than this many store sizes, and our filter does the rest


class Store:
    """Pixels by row.

    Attributes:
        channels: C of every image.
        dtype: "uint8", "uint16" or "float32".
        sizes_N2: int64: height and width of each image as stored.
        shrinking: How images were shrunk, as text for hashes of the pixels.
    """

    def __init__(self, layout: StoreLayout) -> None:
        self.channels, self.dtype = layout.channels, layout.dtype
        self.sizes_N2, self.shrinking = layout.sizes_N2, layout.shrinking

    def __len__(self) -> int:
        return len(self.sizes_N2)

    def read(self, rows_n: NDArray[np.int64]) -> Raw:
        """The pixels of some rows, read-only by convention.

        Raises:
            BadImage: A file is damaged or missing, or has changed since its check.
        """
        raise NotImplementedError


class DecodedStore(Store):
    """Pixels in one flat array, in memory or memory-mapped; `bad` rows could not be decoded."""

    def __init__(self, layout: StoreLayout, flat_pixels: Pixels, bad: BadRows) -> None:
        super().__init__(layout)
        self._flat, self._starts_N, self._bad = flat_pixels, layout.starts_N, bad

    def read(self, rows_n: NDArray[np.int64]) -> Raw:
        """The pixels of some rows, without a copy."""
        if self._bad and (bad := [row for row in rows_n.tolist() if row in self._bad]):
            raise BadImage(self._bad[bad[0]].what, self._bad[bad[0]].reason)
        return Raw(self._flat, self._starts_N[rows_n], self.sizes_N2[rows_n], self.channels)


class EncodedStore(Store):
    """Files that are read in place and decoded on every read."""

    def __init__(self, layout: StoreLayout, image: PixelReader) -> None:
        super().__init__(layout)
        self._image = image

    def read(self, rows_n: NDArray[np.int64]) -> Raw:
        """Decode the pixels of some rows."""
        lengths_n = self.sizes_N2[rows_n].prod(axis=1) * self.channels
        ends_n, flat_pixels = np.cumsum(lengths_n), np.empty(lengths_n.sum(), self.dtype)
        raw = Raw(flat_pixels, ends_n - lengths_n, self.sizes_N2[rows_n], self.channels)
        for row, place in zip(rows_n.tolist(), raw.images(), strict=True):
            place[:] = self._image(row)
        return raw


class StandIns(Store):
    """A store that reads the next good image in place of one that has gone bad.

    Args:
        store: The store to read from.
        is_good: Whether a row can be read; may raise if too many rows cannot.
        on_bad: Called when a row that was good could not be read.
    """

    def __init__(
        self, store: Store, is_good: Callable[[int], bool], on_bad: Callable[[], object]
    ) -> None:
        self.channels, self.dtype = store.channels, store.dtype
        self.sizes_N2, self.shrinking = store.sizes_N2, store.shrinking
        self._store, self._is_good, self._on_bad = store, is_good, on_bad

    def read(self, rows_n: NDArray[np.int64]) -> Raw:
        """The pixels and sizes of these rows or their replacements."""
        while True:
            try:
                return self._store.read(rows_n)
            except BadImage:
                self._on_bad()
                rows_n = np.array([self._nearest_good(row) for row in rows_n.tolist()])

    def _nearest_good(self, row: int) -> int:
        order: list[int] = [*range(row, len(self)), *range(row)]
        return next(i for i in order if self._is_good(i))


@dataclass(frozen=True)
class Images:
    """Checked images and their pixels."""

    checked: Checked
    store: Store

    @property
    def content(self) -> str:
        """Hash of the pixels: equal for equal files checked and stored in the same way."""
        stored = f"{self.checked.content}/{self.store.shrinking}"
        return hashlib.sha256(stored.encode()).hexdigest()


def open_store(
    checked: Checked,
    machine: Machine,
    *,
    store_size: int | None = None,
    dct_scaling: bool = False,
    form: Form | None = None,
) -> Store:
    """The pixels of checked images.

    Args:
        checked: The images.
        machine: Threads for decoding, and the cache for decoded pixels.
        store_size: Shrink shorter sides to this many pixels, once.
        dct_scaling: Decode JPEGs at a half, a quarter or an eighth of their size if that leaves
            twice the store size (Pillow's `reducing_gap`): large photographs are read faster, with
            slightly different pixels. benchmarks/dct_scaling.py measures both.
        form: How pixels are stored. None: in memory if they need at most 25 % of it, else on disk
            if they need at most half of its free space, else as encoded files.
    """
    layout = StoreLayout.of(checked, store_size, dct_scaling=dct_scaling)
    image = _reader(checked, layout)
    if checked.source.array is not None and not layout.shrinks:
        return DecodedStore(layout, _flat_array(checked, layout), {})
    form = form or _best_form(layout, machine.cache)
    if form != "encoded" and machine.cache is not None:
        with contextlib.suppress(OSError):  # full or read-only disk: use the next form
            found = pixels.cached_pixels(layout, image, machine, in_memory=form == "memory")
            return DecodedStore(layout, *found)
    if form == "memory":
        return DecodedStore(layout, *pixels.decoded_pixels(layout, image, threads=machine.threads))
    return EncodedStore(layout, image)


# --- what fits


def _best_form(layout: StoreLayout, cache: Path | None) -> Form:
    if layout.size <= _MEMORY_SHARE * memory():
        return "memory"
    on_disk = cache is not None and layout.size <= pixels.DISK_SHARE * pixels.free_bytes(cache)
    return "disk" if on_disk else "encoded"


# --- the pixels of one row


def _reader(checked: Checked, layout: StoreLayout) -> PixelReader:
    """A function from a row to its pixels as stored."""
    at_least = _GAP * (layout.store_size or 0) if layout.dct_scaling else None
    is_array = checked.source.array is not None
    raw = _ArrayImages(checked) if is_array else _FileImages(checked, at_least)

    def image(row: int) -> Pixels:
        return _as_stored(raw(row), layout, row, checked.source.names[checked.index_N[row]])

    return image


def _as_stored(image_HWC: Pixels, layout: StoreLayout, row: int, name: str) -> Pixels:
    image_HWC = as_channels(image_HWC, layout.channels)
    height, width = layout.sizes_N2[row].tolist()
    if layout.shrinks and image_HWC.shape[:2] != (height, width):
        from selftaught.views.tensors import resize

        image_HWC = resize(image_HWC, height, width)
    image_HWC = np.ascontiguousarray(image_HWC, layout.dtype)
    if image_HWC.shape != (height, width, layout.channels):
        raise BadImage(name, "changed since it was checked")
    return image_HWC


class _ArrayImages:
    """Images of the user's array."""

    def __init__(self, checked: Checked) -> None:
        self._array, self._index_N = checked.source.array, checked.index_N

    def __call__(self, row: int) -> Pixels:
        assert self._array is not None
        image_HWC: Pixels = self._array[self._index_N[row]]
        return image_HWC


class _FileImages:
    """Images of files, refused if their bytes have changed since the check."""

    def __init__(self, checked: Checked, at_least: int | None) -> None:
        assert checked.source.root is not None
        self._root, self._names = checked.source.root, checked.source.names
        self._index_N, self._at_least = checked.index_N, at_least
        self._hashes = checked.images["sha256"].combine_chunks()
        self._stamps_N2 = np.full((len(checked), 2), -1, np.int64)  # size and modification time

    def __call__(self, row: int) -> Pixels:
        name = self._names[self._index_N[row]]
        path = self._root / name
        stamp, data = _stamp(path), read_image(path, name)
        if stamp != tuple(self._stamps_N2[row].tolist()):
            if hashlib.sha256(data).hexdigest() != self._hashes[row].as_py():
                raise BadImage(name, "changed since it was checked")
            self._stamps_N2[row] = stamp
        return decode(data, name, at_least=self._at_least)


def _stamp(path: Path) -> tuple[int, int]:
    """Size and modification time of a file; zeros if missing, which the reader then refuses."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _flat_array(checked: Checked, layout: StoreLayout) -> Pixels:
    """The user's array itself if it is used whole and unchanged, else a copy."""
    array = checked.source.array
    assert array is not None
    if not np.array_equal(checked.index_N, np.arange(len(array))):
        array = array[checked.index_N]
    if array.shape[3] != layout.channels:
        array = np.repeat(array, layout.channels, axis=3)
    return np.ascontiguousarray(array, layout.dtype).reshape(-1)
