"""Local features of an image: keypoints with place, scale and orientation, and their descriptors.

Either OpenCV's SIFT (Lowe, IJCV 2004) with descriptors converted to RootSIFT (Arandjelovic and
Zisserman, CVPR 2012), or the cells of an encoder's maps: each is an upright keypoint at its centre,
with the size of the cell as scale and its vector as descriptor.

Places are pixels of the original image: x to the right, y down, and (0, 0) is the centre of the
first pixel.

Shapes:  N keypoints; D dimensions of a descriptor; H, W, C of a raw image; c, h, w of a map.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selftaught.encoders.encoder import Encoder
from selftaught.encoders.preprocess import explain_size_errors, network_input, pixels
from selftaught.errors import ConfigError, did_you_mean
from selftaught.foundation.extras import import_extra
from selftaught.pairwise.neighbours import PreparedVectors
from selftaught.views.tensors import resize

F64 = NDArray[np.float64]

_SMALLEST = 12  # pixels per side; smaller images have no keypoints
_TOLERANCE, _LEAST_TOLERANCE = 0.01, 2.0  # of the diagonal; pixels
_SIZES = (
    0.5**0.5,
    1.0,
    2**0.5,
)  # relative to an encoder's input size; sizes in between are within its tolerance


@dataclass(frozen=True, eq=False)
class Local:
    """Local features of one image.

    Attributes:
        xy_N2: Places, in pixels.
        scale_N: Sizes, in pixels; only their ratios count.
        angle_N: Orientations in radians, from x towards y; 0 where keypoints are upright.
        descriptors_ND: float32, of length 1.
        tolerance_N: Tolerated error of a place, in pixels.
        upright: Whether keypoints have no orientation.
    """

    xy_N2: F64
    scale_N: F64
    angle_N: F64
    descriptors_ND: NDArray[np.float32]
    tolerance_N: F64
    upright: bool = False

    def __len__(self) -> int:
        return len(self.xy_N2)

    @cached_property
    def prepared(self) -> PreparedVectors:
        """The descriptors, prepared for search."""
        return PreparedVectors(self.descriptors_ND, "dot")


Describe = Callable[[NDArray[Any]], Local]
"""Maps the pixels of an image, (H, W, C), to its local features: `sift` or a `Cells`."""


# --- SIFT


def import_opencv() -> Any:
    """The module cv2.

    Raises:
        ConfigError: OpenCV is not installed.
    """
    return import_extra("cv2", "SIFT needs OpenCV", "search")


def sift(image_HWC: NDArray[Any], *, most: int = 1000, longest: int = 1024) -> Local:
    """SIFT keypoints of an image's brightness, strongest first, with RootSIFT descriptors.

    Args:
        image_HWC: uint8, uint16 or float32; the range of the latter two is stretched to 8 bits.
        most: Maximum number of keypoints.
        longest: Larger images are first shrunk to this longer side, in pixels.

    Raises:
        ConfigError: OpenCV is not installed.
    """
    cv2 = import_opencv()
    (H, W), gray_hw = image_HWC.shape[:2], _gray(image_HWC, longest)
    tolerance = max(_LEAST_TOLERANCE, _TOLERANCE * float(np.hypot(H, W)))
    if min(gray_hw.shape) < _SMALLEST:
        return _no_keypoints()
    # without enable_precise_upscale, places are off by a quarter of a pixel
    detector = cv2.SIFT.create(nfeatures=most, enable_precise_upscale=True)
    found, raw_ND = detector.detectAndCompute(gray_hw, None)
    rows = [(*one.pt, one.size, one.angle, one.response) for one in found]
    table_N5 = np.reshape(np.array(rows, np.float64), (-1, 5))
    raw_ND = np.empty((0, 128), np.float32) if raw_ND is None else raw_ND
    enlarged_2 = np.array([W / gray_hw.shape[1], H / gray_hw.shape[0]])
    order_N = np.lexsort((*table_N5[:, 3::-1].T, -table_N5[:, 4]))[:most]
    table_N5, raw_ND = table_N5[order_N], raw_ND[order_N]
    table_N5[:, :2] = (table_N5[:, :2] + 0.5) * enlarged_2 - 0.5
    table_N5[:, 2] *= np.sqrt(enlarged_2.prod())
    return _from_table(table_N5, root_sift(raw_ND), tolerance)


def root_sift(raw_ND: NDArray[Any]) -> NDArray[np.float32]:
    """RootSIFT: square roots of L1-normalised values, so that cosines are Hellinger's kernel."""
    sum_N1 = raw_ND.sum(axis=1, keepdims=True, dtype=np.float64)
    shares_ND: NDArray[np.float32] = (raw_ND / np.where(sum_N1 > 0, sum_N1, 1)).astype(np.float32)
    return np.sqrt(shares_ND)


def _from_table(table_N5: F64, descriptors_ND: NDArray[np.float32], tolerance: float) -> Local:
    """Local features from a table of x, y, size, angle in degrees and response."""
    tolerance_N = np.full(len(table_N5), tolerance)
    angle_N = np.radians(table_N5[:, 3])
    return Local(table_N5[:, :2], table_N5[:, 2], angle_N, descriptors_ND, tolerance_N)


def _no_keypoints() -> Local:
    """Local features without any keypoint."""
    return _from_table(np.empty((0, 5)), np.empty((0, 128), np.float32), _LEAST_TOLERANCE)


def _gray(image_HWC: NDArray[Any], longest: int) -> NDArray[np.uint8]:
    """The mean of the channels as uint8, shrunk to at most `longest` pixels per side."""
    gray_HW1 = image_HWC.mean(axis=2, keepdims=True, dtype=np.float32)
    if image_HWC.dtype != np.uint8:
        low, high = gray_HW1.min(), gray_HW1.max()
        gray_HW1 = 255 * ((gray_HW1 - low) / (high - low if high > low else 1))
    H, W = image_HWC.shape[:2]
    if (share := longest / max(H, W)) < 1:
        gray_HW1 = resize(gray_HW1, max(1, round(share * H)), max(1, round(share * W)))
    return np.asarray(np.rint(gray_HW1[..., 0]).clip(0, 255), np.uint8)


# --- cells of an encoder's maps


class Cells:
    """Describes images by the cells of one stage of an encoder, at several sizes of the image.

    Cells of a single size carry no scale: an object that is twice as large in another image matches
    cells of another size.

    Args:
        encoder: A convolutional network that takes images of any size; set to evaluation mode.
        stage: Name of a stage; None for the last.
        sizes: The shorter side of the image, relative to the encoder's input size.

    Raises:
        ConfigError: The stage does not exist.
    """

    def __init__(
        self, encoder: Encoder, stage: str | None = None, *, sizes: Sequence[float] = _SIZES
    ) -> None:
        stage = stage or list(encoder.strides)[-1]
        if stage not in encoder.strides:
            raise ConfigError(f"unknown stage {stage!r}", did_you_mean(stage, encoder.strides))
        self.encoder, self.stage, self.sizes = encoder.eval(), stage, tuple(sizes)

    @torch.no_grad()
    def __call__(self, image_HWC: NDArray[Any]) -> Local:
        """Local features of one image.

        Raises:
            ConfigError: The network has a fixed input size.
            DataError: The image has channels that cannot be converted.
        """
        maps = [self._map(image_HWC, size) for size in self.sizes]
        return cell_features(maps, *image_HWC.shape[:2])

    def _map(self, image_HWC: NDArray[Any], size: float) -> Tensor:
        """The stage's map of the whole image, each side rounded to a whole number of cells."""
        config, stride = self.encoder.config, self.encoder.strides[self.stage]
        H, W = image_HWC.shape[:2]
        share = size * config.image_size / min(H, W) / stride
        h, w = (max(1, round(share * side)) * stride for side in (H, W))
        scaled_hwC = resize(pixels(image_HWC, config.in_channels), h, w)
        x_1Chw = network_input(scaled_hwC, config.intensity)
        device = next(self.encoder.parameters()).device
        with explain_size_errors(self.encoder.config.architecture, h, w, "use SIFT"):
            return self.encoder.stages(x_1Chw.to(device))[self.stage][0].cpu()


def cell_features(maps: Sequence[Tensor], height: int, width: int) -> Local:
    """The cells of maps (c, h, w) of one whole image as upright keypoints.

    Cells whose vector is 0 are left out. The tolerance is one cell: half of one in each image.

    Args:
        maps: At least one map of the image, at different sizes.
        height: Height of the image, in pixels.
        width: Width of the image, in pixels.
    """
    xy, scale, descriptors = [], [], []
    for map_chw in maps:
        c, h, w = map_chw.shape
        y_hw, x_hw = np.indices((h, w))
        cell_2 = np.array([width / w, height / h])
        vector_Nc = map_chw.reshape(c, -1).T.double().numpy()
        length_N1 = np.linalg.norm(vector_Nc, axis=1, keepdims=True)
        some_N = length_N1[:, 0] > 0
        xy.append(((np.stack([x_hw, y_hw], 2).reshape(-1, 2) + 0.5) * cell_2 - 0.5)[some_N])
        scale.append(np.full(some_N.sum(), np.sqrt(cell_2.prod())))
        descriptors.append((vector_Nc[some_N] / length_N1[some_N]).astype(np.float32))
    scale_N = np.concatenate(scale)
    place = np.concatenate(xy), scale_N, np.zeros_like(scale_N)
    return Local(*place, np.concatenate(descriptors), scale_N, upright=True)


# --- many images


class Features:
    """Local features of many images by position, computed on first use.

    Args:
        read: Returns the pixels of image i, (H, W, C), or None if it cannot be read; such an image
            has no keypoints.
        count: Number of images.
        describe: Maps an image to its local features.
        keep: Number of images whose features stay in memory, the most recently used. A thousand
            SIFT keypoints need half a megabyte.
    """

    def __init__(
        self,
        read: Callable[[int], NDArray[Any] | None],
        count: int,
        describe: Describe = sift,
        *,
        keep: int = 2000,
    ) -> None:
        self._read, self._count, self._describe = read, count, describe
        self._cached = lru_cache(keep)(self._compute)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, position: int) -> Local:
        return self._cached(position)

    def __iter__(self) -> Iterator[Local]:
        return (self[position] for position in range(self._count))

    def _compute(self, position: int) -> Local:
        image_HWC = self._read(position)
        return _no_keypoints() if image_HWC is None else self._describe(image_HWC)
