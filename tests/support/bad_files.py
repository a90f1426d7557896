"""A factory of the files that break image loaders, each with what must become of it."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def photograph(seed: int = 0, height: int = 40, width: int = 48, channels: int = 3) -> np.ndarray:
    """(H, W, C) uint8: smooth colours and some noise, another for every seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 215, (-(-height // 8), -(-width // 8), channels))
    smooth = np.kron(coarse, np.ones((8, 8, 1)))[:height, :width]
    return np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)


def encoded(image: Image.Image | np.ndarray, kind: str, **options) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_good(folder: Path, number: int = 200, channels: int = 3) -> list[str]:
    """Small photographs, every second a JPEG; their names."""
    names = []
    for i in range(number):
        kind, suffix = (("JPEG", "JPG"), ("PNG", "png"))[i % 2]
        name = f"good/{i % 3}/{i:03d}.{suffix}"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(photograph(i, channels=channels), kind))
        names.append(name)
    return names


def bomb(side: int) -> bytes:
    """A PNG of side x side black pixels, one bit each, in a few kilobytes."""
    packer, row = zlib.compressobj(9), bytes(1 + (side + 7) // 8)
    packed = b"".join([packer.compress(row) for _ in range(side)]) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def png_of_sixteen_bit_colour(values: list[int]) -> bytes:
    """One pixel; Pillow reads such files and does not write them."""
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    packed = zlib.compress(b"\0" + struct.pack(">HHH", *values))
    chunks = ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def corrupted(jpeg: bytes) -> bytes:
    """40 bytes in the middle replaced, none of them a marker: it decodes, to garbage."""
    middle = len(jpeg) // 2
    return jpeg[:middle] + bytes(range(1, 41)) + jpeg[middle + 40 :]


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _palette_with_hole() -> Image.Image:
    image = Image.fromarray(photograph(1)).quantize(8)
    image.info["transparency"] = 0
    return image


def _with_alpha(mode: str) -> Image.Image:
    image = Image.fromarray(photograph(2)).convert(mode)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


JPEG = encoded(photograph(100), "JPEG")
PNG = encoded(photograph(101), "PNG")
_SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>'
_EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"
_LIMIT = "over the pixel limit"
_WIDE = "16 bits or float among 8-bit images"

# Name, bytes, and the reason why it is left out ("": it is used).
MEASURED: list[tuple[str, Callable[[], bytes], str]] = [
    ("empty.jpg", lambda: b"", "empty"),
    ("text.jpg", lambda: b"not a picture\n" * 9, "not an image"),
    ("header.jpg", lambda: JPEG[:20], "not an image"),
    ("zeros.png", lambda: bytes(5000), "not an image"),
    ("svg.png", lambda: _SVG, "not an image"),
    ("half.jpg", lambda: JPEG[: len(JPEG) // 2], "truncated"),
    ("without 100 bytes.jpg", lambda: JPEG[:-100], "truncated"),
    ("without 1 byte.jpg", lambda: JPEG[:-1], "truncated"),
    ("half.png", lambda: PNG[: len(PNG) // 2], "truncated"),
    ("corrupted.jpg", lambda: corrupted(JPEG), ""),
    ("bomb.png", lambda: bomb(13_000), _LIMIT),
    ("bigger bomb.png", lambda: bomb(20_000), _LIMIT),
    ("eps.jpg", lambda: _EPS, "unsupported type (EPS)"),
    ("cmyk.jpg", lambda: encoded(Image.fromarray(photograph(3)).convert("CMYK"), "JPEG"), ""),
    ("palette.png", lambda: encoded(_palette_with_hole(), "PNG"), ""),
    ("la.png", lambda: encoded(_with_alpha("L"), "PNG"), ""),
    ("rgba.webp", lambda: encoded(_with_alpha("RGB"), "WEBP"), ""),
    ("bilevel.tiff", lambda: encoded(Image.fromarray(photograph(4)).convert("1"), "TIFF"), ""),
    ("animated.gif", lambda: animation("GIF"), ""),
    ("turned.jpg", lambda: encoded(photograph(5), "JPEG", exif=_exif(6)), ""),
    ("sixteen.png", lambda: encoded(np.full((9, 9, 1), 40_000, np.uint16), "PNG"), _WIDE),
    ("float.tiff", lambda: encoded(np.full((9, 9, 1), 0.5, np.float32), "TIFF"), _WIDE),
    ("one pixel.png", lambda: encoded(photograph(6, 1, 1), "PNG"), ""),
    ("line.png", lambda: encoded(photograph(7, 1, 20_000), "PNG"), ""),
]


def animation(kind: str) -> bytes:
    """Two frames; the first is `photograph(8)`."""
    first, second = (Image.fromarray(photograph(seed)) for seed in (8, 9))
    return encoded(first, kind, save_all=True, append_images=[second], duration=50)


def write_bad(folder: Path) -> dict[str, str]:
    """All of them below `folder`: {name: reason}, "" where a file is used after all.

    24 files whose bytes are hostile or rare (`MEASURED`), 12 whose kinds or names are, and four
    that must not be listed: a folder named x.jpg, two hidden files, a link in a circle.
    """
    folder.mkdir(parents=True, exist_ok=True)
    expected = {}
    for name, data, reason in MEASURED:
        (folder / name).write_bytes(data())
        expected[name] = reason
    (folder / "folder.jpg").mkdir()
    (folder / "._hidden.jpg").write_bytes(b"\x00\x05\x16\x07AppleDouble")
    (folder / ".hidden.jpg").write_bytes(JPEG)
    return expected | _links_and_pipes(folder) | _odd_names(folder)


def _links_and_pipes(folder: Path) -> dict[str, str]:
    os.mkfifo(folder / "pipe.jpg")
    (folder / "passwd.jpg").symlink_to("/etc/passwd")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "gone.jpg").symlink_to("nothing-there.jpg")
    (folder / "outside.jpg").symlink_to("/etc")
    (folder / "circle").symlink_to(".")
    out = "a link that leads out of the folder"
    return {
        "pipe.jpg": "not a regular file",
        "passwd.jpg": out,
        "zero.jpg": out,
        "loop.jpg": "unreadable (Too many levels of symbolic links)",
        "gone.jpg": "missing",
        "outside.jpg": out,
    }


ODD_NAMES = (
    "line\nbreak.png",
    "-rf.png",
    "\N{GRINNING FACE}.png",
    os.fsdecode(b"caf\xe9.png"),
    "n" * 251 + ".png",
    " space .PNG",
)


def _odd_names(folder: Path) -> dict[str, str]:
    for i, name in enumerate(ODD_NAMES):
        (folder / name).write_bytes(encoded(photograph(200 + i), "PNG"))
    return dict.fromkeys(ODD_NAMES, "")


HOSTILE_NAMES = (
    "../../etc/passwd",
    "/etc/passwd",
    "C:\\x.jpg",
    "a\0b.jpg",
    "a/../../b.jpg",
    "..",
    "..\\..\\x.jpg",
    "\\\\server\\share\\x.jpg",
    "\\x.jpg",
    "C:x.jpg",
    ".",
)
"""Names in a table that are refused as they stand; the twelfth case is a link."""
