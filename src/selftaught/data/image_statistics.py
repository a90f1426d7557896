"""What is learnt from looking at one image, and from many looks about the whole set.

8-bit images are summed exactly. Each of the others gives a sample of its pixels, spread evenly; in
these the range of the set is found: percentiles, or the type's own range where that is filled.

Shapes:  N images; H height, W width, C channels; P pixels of a sample.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from selftaught.data.decode import Decoded
from selftaught.views.policy import Intensity

TINY = 8  # pixels of the shorter side below which an image is remarked on
_GOLDEN = (5**0.5 - 1) / 2  # its multiples modulo 1 spread evenly, whatever the image's width
_PERCENTILES = (0.1, 99.9)
_SMALLEST_STD = 1 / 255  # of a set without contrast, which shall not divide by nothing
_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Look:
    """What one image is like; `reason` is set where it cannot be used, and then little else is.

    Attributes:
        reason: Why it is left out; "" where it is usable.
        note: What is remarkable, joined by commas.
        sha256: Of the file's bytes (of an array's image: of its pixels); "" where it was not read.
        sums: (C,) sums of its pixels; of 8-bit images only.
        squares: (C,) sums of their squares; of 8-bit images only.
        low: Smallest value.
        high: Largest value.
        sample: (P, C) float32 as bytes; of other than 8-bit images.
    """

    reason: str = ""
    width: int = 0
    height: int = 0
    channels: int = 0
    dtype: str = ""
    note: str = ""
    sha256: str = ""
    sums: Sequence[float] = ()
    squares: Sequence[float] = ()
    low: float = 0.0
    high: float = 0.0
    sample: bytes = b""


def look(decoded: Decoded, sha256: str, sample: int) -> Look:
    """Look at one decoded image; `sample` is the number of pixels to take from it."""
    return next(_looks(decoded.pixels[None], [sha256], sample, decoded.notes))


def array_looks(array_NHWC: NDArray[Any], sample: int) -> Iterator[Look]:
    """Look at every image of an array."""
    for start in range(0, len(array_NHWC), _BLOCK):
        block = array_NHWC[start : start + _BLOCK]
        yield from _looks(block, [hashlib.sha256(x.tobytes()).hexdigest() for x in block], sample)


def sample_size(images: int) -> int:
    """Pixels to take from each of so many images: four million in all, where that is possible."""
    return int(np.clip(2**22 // max(1, images), 16, 4096))


def _looks(
    block: NDArray[Any], hashes: Sequence[str], sample: int, notes: Sequence[str] = ()
) -> Iterator[Look]:
    """Looks at N images of one shape, (N, H, W, C)."""
    _, height, width, channels = block.shape
    eight = block.dtype == np.uint8
    low_NC, high_NC, sums_NC, squares_NC = _moments(block)
    for i, sha256 in enumerate(hashes):
        low, high = float(low_NC[i].min()), float(high_NC[i].max())
        found = [*notes, "constant"] if (low_NC[i] == high_NC[i]).all() else list(notes)
        yield Look(
            reason="" if np.isfinite(low + high) else "holds values that are not finite",
            width=width,
            height=height,
            channels=channels,
            dtype=block.dtype.name,
            note=", ".join([*found, "tiny"] if min(height, width) < TINY else found),
            sha256=sha256,
            sums=sums_NC[i].tolist() if eight else (),
            squares=squares_NC[i].tolist() if eight else (),
            low=low,
            high=high,
            sample=b"" if eight else _sample(block[i], sample),
        )


def _moments(block: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Lowest and highest values, sums and sums of squares, (N, C) each; exact for 8 bits."""
    channels = block.shape[-1]
    if block.dtype == np.uint8 and len(block) == 1 and channels in (1, 3):
        return _moments_by_histogram(block[0])
    flat = block.reshape(len(block), -1, channels)
    ends = flat.min(1), flat.max(1)
    if block.dtype != np.uint8:
        return *ends, np.zeros(0), np.zeros(0)
    wide = flat.astype(np.uint32)
    return *ends, wide.sum(1, dtype=np.int64), (wide * wide).sum(1, dtype=np.int64)


def _moments_by_histogram(image_HWC: NDArray[np.uint8]) -> tuple[NDArray[Any], ...]:
    """The same of one image, five times as fast for photographs."""
    channels = image_HWC.shape[2]
    image = Image.fromarray(image_HWC if channels == 3 else image_HWC[..., 0])
    counts = np.array(image.histogram(), np.int64).reshape(channels, 256)
    values, there = np.arange(256), counts > 0
    low, high = there.argmax(1), 255 - there[:, ::-1].argmax(1)
    return low[None], high[None], (counts @ values)[None], (counts @ values**2)[None]


def _sample(image_HWC: NDArray[Any], sample: int) -> bytes:
    """P pixels at the same places of every image of this size; all of them in a small one."""
    flat = image_HWC.reshape(-1, image_HWC.shape[2])
    if len(flat) > sample:
        flat = flat[(np.arange(sample) * _GOLDEN % 1 * len(flat)).astype(np.int64)]
    return flat.astype(np.float32).tobytes()


def set_type(looks: Sequence[Look]) -> tuple[str, bool]:
    """The pixel type of a set, and whether it is the 8-bit images that are kept.

    8-bit images and others have no common range: the larger group is kept.
    """
    types = [found.dtype for found in looks]
    if 2 * types.count("uint8") >= len(types):
        return "uint8", True
    return ("float32" if "float32" in types else "uint16"), False


def intensity(looks: Sequence[Look], channels: int, dtype: str) -> tuple[Intensity, list[str]]:
    """The range of a set, its channels' mean and std within that range, and what to say of it."""
    if dtype == "uint8":
        mean, std = _exact(looks, channels)
        return Intensity(0.0, 255.0, mean, std), []
    values_PC = np.concatenate([_values(found, channels) for found in looks])
    low, high = _range(values_PC, dtype)
    outside = float(((values_PC < low) | (values_PC > high)).mean())
    scaled = np.clip((values_PC.astype(np.float64) - low) / (high - low), 0, 1)
    std = np.maximum(scaled.std(0), _SMALLEST_STD)
    share = f"about {outside:.2%}" if outside else "none"
    kind = "16-bit" if dtype == "uint16" else "float"
    text = (
        f"The {kind} values {low:g} to {high:g} become 0 to 1; the images hold "
        f"{min(x.low for x in looks):g} to {max(x.high for x in looks):g}, "
        f"{share} of the values lie outside and are clipped."
    )
    return Intensity(low, high, _numbers(scaled.mean(0)), _numbers(std)), [text]


def _exact(looks: Sequence[Look], channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    pixels = float(sum(found.width * found.height for found in looks))
    sums, squares = np.zeros(channels), np.zeros(channels)
    for found in looks:  # grey images count in every channel
        sums += np.asarray(found.sums)
        squares += np.asarray(found.squares)
    mean = sums / pixels / 255
    variance = squares / pixels / 255**2 - mean**2
    return _numbers(mean), _numbers(np.sqrt(np.maximum(variance, _SMALLEST_STD**2)))


def _values(found: Look, channels: int) -> NDArray[np.float32]:
    values = np.frombuffer(found.sample, np.float32).reshape(-1, found.channels)
    return np.broadcast_to(values, (len(values), channels))


def _range(values: NDArray[np.float32], dtype: str) -> tuple[float, float]:
    """The type's own range where the images fill it, else 0.1 to 99.9 percentile."""
    low, high = (float(v) for v in np.percentile(values, _PERCENTILES))
    top = 65535.0 if dtype == "uint16" else 1.0
    within = dtype == "uint16" or (values.min() >= 0 and values.max() <= 1)
    if within and low < 0.1 * top and high > 0.5 * top:
        return 0.0, top
    return low, high if high > low else low + 1


def _numbers(values: NDArray[Any]) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
