"""Small gray pictures of images: whether two show the same, and how much detail there is in one.

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
"""S of `gray`: what is finer in a photograph says little of what it shows."""

_COMPARED = 32  # pixels a side for a correlation
_SMALLEST_CROP = 0.8  # of the other picture's side
_FLAT = 1e-4  # variance of pixels; below it there is nothing to compare


def gray(store: "Store", rows_n: NDArray[np.int64]) -> NDArray[np.float32]:
    """Gray pictures of some images, made square: the mean of their channels, 0 to 1 in each.

    Args:
        store: Where pixels are.
        rows_n: Which images.

    Returns:
        (n, SIDE, SIDE); the lowest value of an image is 0, its highest 1. A flat image is all 0.

    Raises:
        BadImage: A file has gone bad.
    """
    made = np.zeros((len(rows_n), SIDE, SIDE), np.float32)
    for i, image_HWC in enumerate(store.read(rows_n).images()):
        gray_HW1 = image_HWC.mean(axis=2, keepdims=True, dtype=np.float32)
        low, high = gray_HW1.min(), gray_HW1.max()
        if high > low:
            made[i] = resize((gray_HW1 - low) / (high - low), SIDE, SIDE)[..., 0]
    return made


def detail(gray_nSS: NDArray[np.float32]) -> NDArray[np.float64]:
    """How fine the structure of each picture is, whatever its contrast: ln E|L|^2 - ln E|G|^2.

    L is the second difference (four neighbours less four times the pixel), G the first. Both grow
    alike with contrast; L weighs fine structure more. What was enlarged or is out of focus has
    little, noise has much. Flat pictures get the median of the others.
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


def correlations(one_nSS: NDArray[Any], other_nSS: NDArray[Any]) -> NDArray[np.float32]:
    """The highest correlation of the pictures of each pair, if one of them may be cropped.

    Each is laid, as a whole, onto windows of the other of 80 % to 100 % of its side, at every place
    and pixel size, and their gray values are correlated. Invariant to brightness and contrast.

    Returns:
        (n,) from -1 to 1; 0 where one of them is flat.
    """
    one, other = _shrunk(one_nSS), _shrunk(other_nSS)
    best_n = torch.full((len(one),), -1.0)
    for side in range(round(_SMALLEST_CROP * _COMPARED), _COMPARED + 1):
        best_n = torch.maximum(best_n, _best_place(one, other, side))
        best_n = torch.maximum(best_n, _best_place(other, one, side))
    return best_n.numpy()


def _shrunk(x_nSS: NDArray[Any]) -> Tensor:
    x = torch.as_tensor(x_nSS, dtype=torch.float32)[:, None]
    return F.interpolate(x, (_COMPARED, _COMPARED), mode="bilinear", antialias=True)


def _best_place(whole_n1SS: Tensor, cropped_n1SS: Tensor, side: int) -> Tensor:
    """The cropped picture at `side` pixels on every window of the whole one, (n,)."""
    small = F.interpolate(cropped_n1SS, (side, side), mode="bilinear", antialias=True)
    windows_nLM = F.unfold(whole_n1SS, side).mT
    return (_standard(windows_nLM) @ _standard(small.flatten(1))[:, :, None])[..., 0].amax(1)


def _standard(x: Tensor) -> Tensor:
    """Mean 0 and length 1 along the last axis; 0 where all is flat."""
    x = x - x.mean(-1, keepdim=True)
    flat = x.square().mean(-1, keepdim=True) < _FLAT
    return torch.where(flat, 0, F.normalize(x, dim=-1))
