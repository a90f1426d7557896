"""Small gray pictures of images: whether two show the same scene, and how much detail one has.

Shapes:  n pictures, S their side in pixels, M <= S of a smaller one; H, W, C of a raw image; L
         places of a window.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from selftaught.views.tensors import resize

if TYPE_CHECKING:
    from selftaught.data.store import Store

SIDE = 128
"""S of `gray_pictures`: finer detail says little about what a photograph shows."""

_COMPARED = 32  # pixels per side for a correlation
_SMALLEST_CROP = 0.8  # of the other picture's side
_FLAT = 1e-4  # variance of pixels; below it a picture has nothing to compare


def gray_pictures(store: "Store", rows_n: NDArray[np.int64]) -> NDArray[np.float32]:
    """Square gray pictures of some images: the mean of their channels, stretched to 0 to 1.

    Args:
        store: The images' pixels.
        rows_n: Rows of the images.

    Returns:
        (n, SIDE, SIDE); the lowest value of an image is 0, its highest 1. A flat image is all 0.

    Raises:
        BadImage: A file has become unreadable.
    """
    made = np.zeros((len(rows_n), SIDE, SIDE), np.float32)
    for i, image_HWC in enumerate(store.read(rows_n).images()):
        gray_HW1 = image_HWC.mean(axis=2, keepdims=True, dtype=np.float32)
        low, high = gray_HW1.min(), gray_HW1.max()
        if high > low:
            made[i] = resize((gray_HW1 - low) / (high - low), SIDE, SIDE)[..., 0]
    return made


def detail_scores(gray_nSS: NDArray[np.float32]) -> NDArray[np.float64]:
    """How fine the structure of each picture is, whatever its contrast: ln E|L|^2 - ln E|G|^2.

    L is the second difference (four neighbours minus four times the pixel), G the first. Both grow
    equally with contrast; L gives fine structure more weight. Enlarged or blurred pictures score
    low, noise scores high. Flat pictures get the median of the others.
    """
    x = np.asarray(gray_nSS, np.float64)
    inner, right, below = x[:, 1:-1, 1:-1], x[:, 1:-1, 2:], x[:, 2:, 1:-1]
    second = (right + below + x[:, 1:-1, :-2] + x[:, :-2, 1:-1] - 4 * inner) ** 2
    first = (right - inner) ** 2 + (below - inner) ** 2
    energy_n, second_n = first.mean((1, 2)), second.mean((1, 2))
    ratio_n = np.log(np.maximum(second_n, 1e-12) / np.maximum(energy_n, 1e-12))
    flat_n = energy_n < 1e-10
    if flat_n.any():
        ratio_n[flat_n] = np.median(ratio_n[~flat_n]) if not flat_n.all() else 0
    return np.asarray(ratio_n)


def crop_correlations(one_nSS: NDArray[Any], other_nSS: NDArray[Any]) -> NDArray[np.float32]:
    """The highest correlation of each pair of pictures when one of them may be cropped.

    Each whole picture is correlated with windows of 80 % to 100 % of the other's side, at every
    position and size in pixels. Invariant to brightness and contrast.

    Returns:
        (n,) from -1 to 1; 0 if one of them is flat.
    """
    one, other = _shrink(one_nSS), _shrink(other_nSS)
    best_n = torch.full((len(one),), -1.0)
    for side in range(round(_SMALLEST_CROP * _COMPARED), _COMPARED + 1):
        best_n = torch.maximum(best_n, _best_correlation(one, other, side))
        best_n = torch.maximum(best_n, _best_correlation(other, one, side))
    return best_n.numpy()


def _shrink(x_nSS: NDArray[Any]) -> Tensor:
    x = torch.as_tensor(x_nSS, dtype=torch.float32)[:, None]
    return F.interpolate(x, (_COMPARED, _COMPARED), mode="bilinear", antialias=True)


def _best_correlation(whole_n1SS: Tensor, cropped_n1SS: Tensor, side: int) -> Tensor:
    """The best correlation of the cropped picture, at `side` pixels, with a window, (n,)."""
    small = F.interpolate(cropped_n1SS, (side, side), mode="bilinear", antialias=True)
    windows_nLM = F.unfold(whole_n1SS, side).mT
    return (_standardised(windows_nLM) @ _standardised(small.flatten(1))[:, :, None])[..., 0].amax(
        1
    )


def _standardised(x: Tensor) -> Tensor:
    """Mean 0 and length 1 along the last axis; all 0 for flat rows."""
    x = x - x.mean(-1, keepdim=True)
    flat = x.square().mean(-1, keepdim=True) < _FLAT
    return torch.where(flat, 0, F.normalize(x, dim=-1))
