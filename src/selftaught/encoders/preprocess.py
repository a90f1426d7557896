"""User images, PIL or arrays, converted to raw values with an encoder's channels.

Shapes:  H, W of the original image; C channels.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from selftaught.data.decode import as_channels, from_pillow
from selftaught.errors import ConfigError, DataError
from selftaught.views import tensors
from selftaught.views.policy import Intensity

Picture = Image.Image | NDArray[Any]

_LUMA = np.array([19595, 38470, 7471], np.int64)  # ITU-R 601-2 in 1/65536, as Pillow's mode "L"


def as_list(images: Any) -> list[Picture]:
    """One image or several, as a list."""
    if isinstance(images, np.ndarray):
        return list(images) if images.ndim == 4 else [images]
    return list(images) if isinstance(images, Sequence) else [images]


def pixels(image: Any, channels: int) -> NDArray[Any]:
    """One image as raw values (H, W, channels).

    Raises:
        DataError: It is not an image, or its channels cannot be converted.
    """
    if not isinstance(image, np.ndarray | Image.Image):
        raise DataError(
            f"{type(image).__name__} is not an image", "pass a PIL image or an array (H, W, C)"
        )
    array = image if isinstance(image, np.ndarray) else from_pillow(image)
    if array.ndim == 2:
        array = array[:, :, None]
    if (
        array.ndim != 3
        or 0 in array.shape
        or array.dtype.name not in ("uint8", "uint16", "float32")
    ):
        raise DataError(
            f"an array of shape {array.shape} and type {array.dtype} is not an image",
            "pass (height, width) or (height, width, channels) of uint8, uint16 or float32",
        )
    if array.dtype == np.float32 and not np.isfinite(array).all():
        raise DataError("an image has values that are not finite", "replace them")
    return _convert_channels(array, channels)


def _convert_channels(image_HWC: NDArray[Any], channels: int) -> NDArray[Any]:
    """Repeat grey three times, or reduce colour to luminance; other conversions make no sense."""
    found = image_HWC.shape[2]
    if found == channels or (found, channels) == (1, 3):
        return as_channels(image_HWC, channels)
    if (found, channels) == (3, 1):
        return _luminance(image_HWC)
    raise DataError(
        f"an image has {found} channels, the encoder takes {channels}",
        "pass images with that number",
    )


def _luminance(image_HWC: NDArray[Any]) -> NDArray[Any]:
    """ITU-R 601-2 luma, (H, W, 1) of the same type; for uint8 Pillow's mode "L" to the bit."""
    if image_HWC.dtype == np.float32:
        weighted = image_HWC @ (_LUMA / 65536).astype(np.float32)
    else:
        weighted = (image_HWC.astype(np.int64) @ _LUMA + 0x8000) >> 16
    return weighted[:, :, None].astype(image_HWC.dtype)


def check_values(image_HWC: NDArray[Any], intensity: Intensity) -> None:
    """Check that these values suit the encoder.

    Raises:
        DataError: More than half of them are outside its range, or they are fractions (at most 1)
            although the range is wider than 100.
    """
    low, high = intensity.low, intensity.high
    outside = float(np.mean((image_HWC < low) | (image_HWC > high)))
    fractions = image_HWC.dtype.kind == "f" and 0 < image_HWC.max() <= 1 and high - low > 100
    if outside > 0.5 or fractions:
        found = f"from {image_HWC.min():g} to {image_HWC.max():g}"
        raise DataError(
            f"an image has values {found}, the encoder takes {low:g} to {high:g}",
            "pass raw values like those it was trained on",
        )


def network_input(image_HWC: NDArray[Any], intensity: Intensity) -> Tensor:
    """Network input for one image that is already resized: (1, C, H, W), on the CPU."""
    x_HWC = tensors.to_unit(torch.from_numpy(image_HWC), intensity)
    return tensors.standardise(x_HWC.permute(2, 0, 1)[None], intensity)


@contextlib.contextmanager
def explain_size_errors(network: str, height: int, width: int, remedy: str) -> Iterator[None]:
    """Turn a network's own error about images of this size into a ConfigError.

    Args:
        network: Its name.
        height: Height of its input in pixels.
        width: Width of its input in pixels.
        remedy: What the user can do.

    Raises:
        ConfigError: The network cannot process images of this size.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        what = f"{network} cannot process an image of {height} x {width} px ({reason})"
        raise ConfigError(what, remedy) from error
