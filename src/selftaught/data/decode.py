"""Decodes one file to pixels, safely; damaged, huge and non-image files are refused.

simplejpeg decodes JPEG: it gives Pillow's pixels bit for bit and refuses the truncated files that
Pillow refuses. Pillow, with a list of allowed formats, decodes everything else and every JPEG that
simplejpeg rejects. Pillow's limits are respected and its globals left alone.
A large JPEG may be decoded at a half, a quarter or an eighth of its size: libjpeg then omits the
high frequencies of each block, which is faster than decoding at full size and shrinking.

Shapes:  H height, W width, C channels: 1 for grey, 3 for colour.
"""

import contextlib
import io
import os
import re
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from selftaught.errors import BadImage

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
"""Formats that are opened, whatever the file name says; EPS, for example, would run Ghostscript."""

SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "tif", "tiff", "bmp", "gif"),
        *("ppm", "pgm", "pbm", "pnm", "jp2", "j2k", "avif"),
    )
)
"""Suffixes of image files, in lower case; files may use any case."""

_BYTES_LIMIT = 2**30  # per file; the largest image that Pillow allows has 2/3 of it uncompressed
_PARTS = (8, 4, 2)  # the scales that libjpeg computes fast
_ORIENTATION = 0x0112  # the tag in EXIF and TIFF
_ANIMATIONS = ("GIF", "PNG", "WEBP", "AVIF")
_SIXTEEN = re.compile(r";16[BLN]?$")
_OTHERS = {
    b"%!PS": "EPS",
    b"%PDF": "PDF",
    b"8BPS": "PSD",
    b"\x00\x00\x01\x00": "ICO",
    b"SIMPLE  =": "FITS",
    b"\x89HDF": "HDF5",
}
# Exceptions that Pillow's plug-ins raise on hostile bytes, found by fuzzing.
_PILLOW_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError),
    *(AttributeError, AssertionError, RuntimeError, MemoryError, struct.error, zlib.error),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)


@dataclass(frozen=True)
class DecodedImage:
    """An image with notes on how it was read.

    Attributes:
        pixels: (H, W, C) uint8, uint16 or float32, upright, contiguous and writable.
        notes: Any of "animated", "pages" (only the first is used) and "16 bits read as 8".
    """

    pixels: NDArray[Any]
    notes: tuple[str, ...] = ()


def decode(data: bytes, name: str, *, at_least: int | None = None) -> NDArray[Any]:
    """The pixels of an image, upright, without alpha (over white).

    Args:
        data: All bytes of the file.
        name: Name of the file in errors.
        at_least: Decode a JPEG at libjpeg's smallest scale whose shorter side has at least this
            many pixels. None: full size. Other formats are always decoded at full size.

    Returns:
        (H, W, C) uint8, uint16 or float32; C is 1 for grey images and 3 for all others.

    Raises:
        BadImage: The bytes are not an image of an allowed type, are damaged, or have too many
            pixels.
    """
    return decode_with_notes(data, name, at_least=at_least).pixels


def decode_with_notes(data: bytes, name: str, *, at_least: int | None = None) -> DecodedImage:
    """As `decode`, with notes.

    Raises:
        BadImage: As `decode`.
    """
    if not data:
        raise BadImage(name, "empty")
    fast = _fast_jpeg(data, name, at_least) if data.startswith(b"\xff\xd8\xff") else None
    decoded = fast or _decode_with_pillow(data, name)
    if decoded.pixels.dtype == np.float32 and not np.isfinite(decoded.pixels).all():
        raise BadImage(name, "holds values that are not finite")
    return decoded


def decode_file(path: Path, name: str) -> NDArray[Any]:
    """The pixels of a file; never waits for a pipe and never reads a device.

    Raises:
        BadImage: As `decode`; or the file is missing, unreadable or not a regular file.
    """
    return decode(read_image(path, name), name)


def from_pillow(image: Image.Image, name: str = "the image") -> NDArray[Any]:
    """The pixels of an image opened by Pillow, equal to `decode` of its file.

    Raises:
        BadImage: As `decode`.
    """
    try:
        with _strict_warnings():
            image.load()
            pixels = _pixels(image)
            turn = _orientation(image)  # after loading: a TIFF is upright by now
    except _PILLOW_ERRORS as error:
        raise BadImage(name, _reason(error, b"")) from None
    if pixels is None:
        raise BadImage(name, f"unsupported type ({image.mode})")
    return _upright(pixels, turn)


def read_image(path: Path, name: str) -> bytes:
    """The bytes of a regular file of at most 1 GiB.

    Raises:
        BadImage: The file is missing, unreadable, larger, or not a regular file.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            folder = stat.S_ISDIR(mode)
            raise BadImage(name, "an unreadable folder" if folder else "not a regular file")
        with open(path, "rb", opener=_open_nonblocking) as file:
            status = os.fstat(file.fileno())  # the file may have been replaced since
            if not stat.S_ISREG(status.st_mode):
                raise BadImage(name, "not a regular file")
            if status.st_size > _BYTES_LIMIT:
                raise BadImage(name, "larger than 1 GiB")
            return file.read()
    except FileNotFoundError:
        raise BadImage(name, "missing") from None
    except OSError as error:
        raise BadImage(name, f"unreadable ({error.strerror})") from None


def as_channels(image_HWC: NDArray[Any], channels: int) -> NDArray[Any]:
    """An image with the data set's number of channels; grey is repeated if others have colour.

    Args:
        image_HWC: (H, W, C).
        channels: C, or any number if C is 1.

    Returns:
        (H, W, channels); the image itself if nothing changes.
    """
    if image_HWC.shape[2] == channels:
        return image_HWC
    assert image_HWC.shape[2] == 1, "only grey can be repeated"
    return np.repeat(image_HWC, channels, axis=2)


def _open_nonblocking(path: str, flags: int) -> int:
    """Open without blocking, in case the file has become a pipe since its check."""
    return os.open(path, flags | os.O_NONBLOCK)


def _fast_jpeg(data: bytes, name: str, at_least: int | None) -> DecodedImage | None:
    """Decode a JPEG with simplejpeg; None if it is CMYK or damaged, which is left to Pillow."""
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, RuntimeError):
        return None
    if space in ("CMYK", "YCCK"):
        return None
    _check_size(width, height, name)
    small = _scaled_size(height, width, at_least)
    try:
        pixels = simplejpeg.decode_jpeg(data, "GRAY" if space == "Gray" else "RGB", **small)
    except (ValueError, RuntimeError):
        return None
    # Marker bytes cannot occur within a scan, so this finds every APP1 segment (EXIF, XMP).
    turn = _jpeg_orientation(data) if b"\xff\xe1" in data else 1
    return DecodedImage(_upright(pixels, turn))


def _scaled_size(height: int, width: int, at_least: int | None) -> dict[str, int]:
    """Size arguments for simplejpeg; libjpeg rounds sides up."""
    for part in _PARTS:
        h, w = -(-height // part), -(-width // part)
        if at_least and min(h, w) >= at_least:
            return {"min_height": h, "min_width": w}
    return {}


def _jpeg_orientation(data: bytes) -> int:
    try:
        with _strict_warnings(), Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return _orientation(image)
    except _PILLOW_ERRORS:
        return 1


@contextlib.contextmanager
def open_image(data: bytes, name: str, formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    """Open an image with Pillow without loading it; exceptions of Pillow become BadImage."""
    try:
        with _strict_warnings(), Image.open(io.BytesIO(data), formats=formats) as image:
            _check_size(*image.size, name)
            yield image
    except BadImage:
        raise
    except _PILLOW_ERRORS as error:
        raise BadImage(name, _reason(error, data)) from None


def _decode_with_pillow(data: bytes, name: str) -> DecodedImage:
    with open_image(data, name) as image:
        notes = _notes(image)
        image.load()
        pixels = _pixels(image)
        turn = _orientation(image)  # after loading: a TIFF is upright by now
    if pixels is None:
        raise BadImage(name, f"unsupported type ({image.mode})")
    return DecodedImage(_upright(pixels, turn), notes)


def _check_size(width: int, height: int, name: str) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise BadImage(name, f"over the pixel limit ({width} x {height})")


def _reason(error: BaseException, data: bytes) -> str:
    text = str(error).lower()
    if isinstance(error, UnidentifiedImageError):
        return _unidentified_reason(data)
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "over the pixel limit"
    if isinstance(error, EOFError) or "truncated" in text or "not enough" in text:
        return "truncated"
    return "truncated" if _shorter_than_declared(data) else "damaged"


def _shorter_than_declared(data: bytes) -> bool:
    """Whether a WebP (RIFF) file ends before the size in its header."""
    return data[:4] == b"RIFF" and int.from_bytes(data[4:8], "little") + 8 > len(data)


def _unidentified_reason(data: bytes) -> str:
    for start, kind in _OTHERS.items():
        if data.startswith(start):
            return f"unsupported type ({kind})"
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1"):
        return "unsupported type (HEIC)"
    if data[128:132] == b"DICM":
        return "unsupported type (DICOM)"
    return "not an image"


def _notes(image: Image.Image) -> tuple[str, ...]:
    """Notes on an image that is open but not loaded yet."""
    notes = []
    if image.format in _ANIMATIONS and getattr(image, "is_animated", False):
        notes.append("animated")
    if image.format == "TIFF" and getattr(image, "n_frames", 1) > 1:
        notes.append("pages")
    if notes:
        image.seek(0)
    tiles = getattr(image, "tile", None)
    mode = tiles[0][3] if tiles else ""
    raw = mode[0] if isinstance(mode, tuple) and mode else mode
    if image.mode in ("RGB", "RGBA", "LA") and isinstance(raw, str) and _SIXTEEN.search(raw):
        notes.append("16 bits read as 8")
    return tuple(notes)


def _pixels(image: Image.Image) -> NDArray[Any] | None:
    """Pixels (H, W, C) of a loaded image of any mode; None if it has no sensible conversion."""
    if image.mode.startswith("I;16"):
        return np.array(image).astype(np.uint16)[..., None]
    if image.mode == "I":
        return _from_int32(np.array(image))[..., None]
    if image.mode == "F":
        return np.array(image, np.float32)[..., None]
    if image.has_transparency_data:
        grey = image.mode in ("1", "L", "LA", "La")
        return _one_if_grey(_over_white(np.array(image.convert("LA" if grey else "RGBA"))), image)
    if image.mode in ("1", "L"):
        return np.array(image.convert("L"))[..., None]
    if image.mode in ("RGB", "RGBX", "P", "CMYK", "YCbCr", "HSV"):
        return _one_if_grey(np.array(image.convert("RGB")), image)
    return None


def _from_int32(pixels_HW: NDArray[np.int32]) -> NDArray[Any]:
    """Convert to uint16 if all values fit, else to float32, exact up to 2^24."""
    fits = pixels_HW.size and pixels_HW.min() >= 0 and pixels_HW.max() <= 65535
    return pixels_HW.astype(np.uint16 if fits else np.float32)


def _over_white(pixels_HWA: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Colour * alpha + white * (1 - alpha), rounded; alpha is the last channel."""
    wide = pixels_HWA.astype(np.uint16)
    colour, alpha = wide[..., :-1], wide[..., -1:]
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _one_if_grey(pixels_HWC: NDArray[np.uint8], image: Image.Image) -> NDArray[np.uint8]:
    """Reduce an image to one channel if it has a palette of greys only."""
    if image.mode in ("P", "PA") and (pixels_HWC == pixels_HWC[..., :1]).all():
        return pixels_HWC[..., :1].copy()
    return pixels_HWC


def _orientation(image: Image.Image) -> int:
    """Orientation 1 .. 8 from EXIF or XMP; 1 if they are damaged, as the pixels may be intact."""
    try:
        turn = image.getexif().get(_ORIENTATION, 1)
    except _PILLOW_ERRORS:
        return 1
    return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1


def _upright(pixels_HWC: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Mirror (for 2, 4, 5 and 7) and rotate according to EXIF's table."""
    if orientation in (2, 5, 7, 4):
        pixels_HWC = pixels_HWC[:, ::-1]
    quarters = {3: 2, 4: 2, 5: 1, 6: -1, 7: -1, 8: 1}.get(orientation, 0)
    return np.ascontiguousarray(np.rot90(pixels_HWC, quarters))


_FILTERS: tuple[tuple[Any, ...], ...] = (
    ("ignore", None, Warning, re.compile(r"PIL\."), 0),
    ("error", None, Image.DecompressionBombWarning, None, 0),
)
_lock = threading.Lock()
_inside = 0
_added: list[tuple[Any, ...]] = []


@contextlib.contextmanager
def _strict_warnings() -> Iterator[None]:
    """Turn Pillow's warning about too many pixels into an error and silence its other warnings.

    Python's filters belong to the whole process, and `warnings.catch_warnings` in several threads
    corrupts them. Here the first thread to enter adds two filters, which affect only Pillow, and
    the last thread to leave removes them.
    """
    global _inside
    with _lock:
        _inside += 1
        if _inside == 1:
            _added[:] = [f for f in _FILTERS if f not in warnings.filters]
            warnings.filterwarnings("ignore", module=r"PIL\.")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _remove(_added)


def _remove(filters: list[tuple[Any, ...]]) -> None:
    present = cast("list[tuple[Any, ...]]", warnings.filters)
    for entry in filters:
        with contextlib.suppress(ValueError):
            present.remove(entry)
