"""Statistics of single images, and of a whole set from those of its images.

8-bit images are summed exactly. Other images contribute an evenly spread sample of pixels, which
gives the value range of the set: percentiles, or the type's own range if the images fill it.

Shapes:  N images; H height, W width, C channels; P pixels in a sample.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from selftaught.data.decode import DecodedImage
from selftaught.views.policy import Intensity

TINY = 8  # pixels; an image whose shorter side is below this gets a note
_GOLDEN = (5**0.5 - 1) / 2  # its multiples modulo 1 spread evenly, whatever the image's width
_PERCENTILES = (0.1, 99.9)
_SMALLEST_STD = 1 / 255  # avoids division by zero for a set without contrast
_BLOCK = 256


@dataclass(frozen=True, slots=True)
class ImageStatistics:
    """Statistics of one image; if it is unusable, `reason` is set and most others are not.

    Attributes:
        reason: Why it is left out; "" if it is usable.
        note: Remarks, joined by commas.
        sha256: Hash of the file's bytes (for arrays, of the image's pixels); "" if unreadable.
        sums: (C,) sums of its pixels; 8-bit images only.
        squares: (C,) sums of their squares; 8-bit images only.
        low: Smallest value.
        high: Largest value.
        sample: (P, C) float32 as bytes; not for 8-bit images.
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


def measure_image(decoded: DecodedImage, sha256: str, sample: int) -> ImageStatistics:
    """Statistics of one decoded image; `sample` is the number of pixels to take from it."""
    return next(_measure(decoded.pixels[None], [sha256], sample, decoded.notes))


def measure_array(array_NHWC: NDArray[Any], sample: int) -> Iterator[ImageStatistics]:
    """Statistics of every image of an array."""
    for start in range(0, len(array_NHWC), _BLOCK):
        block = array_NHWC[start : start + _BLOCK]
        yield from _measure(block, [hashlib.sha256(x.tobytes()).hexdigest() for x in block], sample)


def sample_size(images: int) -> int:
    """Pixels to take from each of N images: four million in total, if possible."""
    return int(np.clip(2**22 // max(1, images), 16, 4096))


def _measure(
    block: NDArray[Any], hashes: Sequence[str], sample: int, notes: Sequence[str] = ()
) -> Iterator[ImageStatistics]:
    """Statistics of N images of one shape, (N, H, W, C)."""
    _, height, width, channels = block.shape
    eight = block.dtype == np.uint8
    low_NC, high_NC, sums_NC, squares_NC = _moments(block)
    for i, sha256 in enumerate(hashes):
        low, high = float(low_NC[i].min()), float(high_NC[i].max())
        found = [*notes, "constant"] if (low_NC[i] == high_NC[i]).all() else list(notes)
        yield ImageStatistics(
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
    """The same for one image, five times as fast for photographs."""
    channels = image_HWC.shape[2]
    image = Image.fromarray(image_HWC if channels == 3 else image_HWC[..., 0])
    counts = np.array(image.histogram(), np.int64).reshape(channels, 256)
    values, there = np.arange(256), counts > 0
    low, high = there.argmax(1), 255 - there[:, ::-1].argmax(1)
    return low[None], high[None], (counts @ values)[None], (counts @ values**2)[None]


def _sample(image_HWC: NDArray[Any], sample: int) -> bytes:
    """P pixels at the same places in every image of this size; all pixels of a small image."""
    flat = image_HWC.reshape(-1, image_HWC.shape[2])
    if len(flat) > sample:
        flat = flat[(np.arange(sample) * _GOLDEN % 1 * len(flat)).astype(np.int64)]
    return flat.astype(np.float32).tobytes()


def set_type(results: Sequence[ImageStatistics]) -> tuple[str, bool]:
    """The pixel type of a set, and whether its 8-bit images are the ones used.

    8-bit images and others have no common value range, so only the larger group is used.
    """
    types = [found.dtype for found in results]
    if 2 * types.count("uint8") >= len(types):
        return "uint8", True
    return ("float32" if "float32" in types else "uint16"), False


def intensity(
    results: Sequence[ImageStatistics], channels: int, dtype: str
) -> tuple[Intensity, list[str]]:
    """The value range of a set, its channels' mean and std in that range, and remarks."""
    if dtype == "uint8":
        mean, std = _exact_moments(results, channels)
        return Intensity(0.0, 255.0, mean, std), []
    values_PC = np.concatenate([_values(found, channels) for found in results])
    low, high = _range(values_PC, dtype)
    outside = float(((values_PC < low) | (values_PC > high)).mean())
    scaled = np.clip((values_PC.astype(np.float64) - low) / (high - low), 0, 1)
    std = np.maximum(scaled.std(0), _SMALLEST_STD)
    share = f"about {outside:.2%}" if outside else "none"
    kind = "16-bit" if dtype == "uint16" else "float"
    text = (
        f"The {kind} values {low:g} to {high:g} are scaled to 0 to 1. The images range from "
        f"{min(x.low for x in results):g} to {max(x.high for x in results):g}; "
        f"{share} of the values are outside and clipped."
    )
    return Intensity(low, high, _numbers(scaled.mean(0)), _numbers(std)), [text]


def _exact_moments(
    results: Sequence[ImageStatistics], channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    pixels = float(sum(found.width * found.height for found in results))
    sums, squares = np.zeros(channels), np.zeros(channels)
    for found in results:  # grey images count in every channel
        sums += np.asarray(found.sums)
        squares += np.asarray(found.squares)
    mean = sums / pixels / 255
    variance = squares / pixels / 255**2 - mean**2
    return _numbers(mean), _numbers(np.sqrt(np.maximum(variance, _SMALLEST_STD**2)))


def _values(found: ImageStatistics, channels: int) -> NDArray[np.float32]:
    values = np.frombuffer(found.sample, np.float32).reshape(-1, found.channels)
    return np.broadcast_to(values, (len(values), channels))


def _range(values: NDArray[np.float32], dtype: str) -> tuple[float, float]:
    """The type's own range if the images fill it, else the 0.1 to 99.9 percentiles."""
    low, high = (float(v) for v in np.percentile(values, _PERCENTILES))
    top = 65535.0 if dtype == "uint16" else 1.0
    within = dtype == "uint16" or (values.min() >= 0 and values.max() <= 1)
    if within and low < 0.1 * top and high > 0.5 * top:
        return 0.0, top
    return low, high if high > low else low + 1


def _numbers(values: NDArray[Any]) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
