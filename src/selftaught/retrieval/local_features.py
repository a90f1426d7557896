"""Local features of an image: keypoints with place, scale and orientation, and their descriptors.

Either SIFT (Lowe, IJCV 2004) as OpenCV has it, with descriptors turned into RootSIFT (Arandjelovic
and Zisserman, CVPR 2012); or the cells of an encoder's maps: each a keypoint at its centre, as
large as it is and upright, with its vector as descriptor.

Places are pixels of the image as it was handed over: x to the right, y down, and (0, 0) is the
centre of the first pixel.

Shapes:  N keypoints; D size of a descriptor; H, W, C of a raw image; c, h, w of a map.
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
from selftaught.encoders.preprocess import network_input, pixels, sized
from selftaught.errors import ConfigError, did_you_mean
from selftaught.pairwise.neighbours import Prepared
from selftaught.views.tensors import resize

F64 = NDArray[np.float64]

_SMALLEST = 12  # pixels a side, below which there is no keypoint
_TOLERANCE, _LEAST_TOLERANCE = 0.01, 2.0  # of the diagonal; pixels
_SIZES = (0.5**0.5, 1.0, 2**0.5)  # of an encoder's own: what lies between is within its tolerance


@dataclass(frozen=True, eq=False)
class Local:
    """Local features of one image.

    Attributes:
        xy_N2: Places, in pixels.
        scale_N: Sizes, in pixels; only their ratios count.
        angle_N: Orientations in radians, from x towards y; 0 where keypoints are upright.
        descriptors_ND: float32, of length 1.
        tolerance_N: By how many pixels a place may be off.
        upright: Whether keypoints have no orientation of their own.
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
    def prepared(self) -> Prepared:
        """The descriptors, ready to be searched."""
        return Prepared(self.descriptors_ND, "dot")


Describe = Callable[[NDArray[Any]], Local]
"""From the pixels of an image, (H, W, C), to its local features: `sift`, or a `Cells`."""


# --- SIFT


def opencv_or_remedy() -> Any:
    """The module cv2.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import cv2
    except ImportError:
        raise ConfigError(
            "SIFT keypoints are found with OpenCV, which is not installed",
            "pip install 'selftaught[search]'",
        ) from None
    return cv2


def sift(image_HWC: NDArray[Any], *, most: int = 1000, longest: int = 1024) -> Local:
    """SIFT keypoints of an image's brightness, strongest first, with RootSIFT descriptors.

    Args:
        image_HWC: uint8, uint16 or float32; the range of the latter two is stretched to 8 bits.
        most: So many keypoints are kept.
        longest: Images with a longer side, in pixels, are shrunk to it first.

    Raises:
        ConfigError: OpenCV is not installed.
    """
    cv2 = opencv_or_remedy()
    (H, W), gray_hw = image_HWC.shape[:2], _gray(image_HWC, longest)
    tolerance = max(_LEAST_TOLERANCE, _TOLERANCE * float(np.hypot(H, W)))
    if min(gray_hw.shape) < _SMALLEST:
        return _nothing()
    # without enable_precise_upscale places are off by a quarter of a pixel
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
    return _local(table_N5, root(raw_ND), tolerance)


def root(raw_ND: NDArray[Any]) -> NDArray[np.float32]:
    """RootSIFT: the square root of each number's share, so that cosines are Hellinger's kernel."""
    sum_N1 = raw_ND.sum(axis=1, keepdims=True, dtype=np.float64)
    shares_ND: NDArray[np.float32] = (raw_ND / np.where(sum_N1 > 0, sum_N1, 1)).astype(np.float32)
    return np.sqrt(shares_ND)


def _local(table_N5: F64, descriptors_ND: NDArray[np.float32], tolerance: float) -> Local:
    """From a table of x, y, size, angle in degrees and response."""
    tolerance_N = np.full(len(table_N5), tolerance)
    angle_N = np.radians(table_N5[:, 3])
    return Local(table_N5[:, :2], table_N5[:, 2], angle_N, descriptors_ND, tolerance_N)


def _nothing() -> Local:
    """No keypoints at all."""
    return _local(np.empty((0, 5)), np.empty((0, 128), np.float32), _LEAST_TOLERANCE)


def _gray(image_HWC: NDArray[Any], longest: int) -> NDArray[np.uint8]:
    """The mean of the channels as uint8, no side longer than that."""
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

    Cells of one size alone say nothing of scale: that the same thing is twice as large in another
    image shows in cells that match those of another size.

    Args:
        encoder: A convolutional network: it must take images of any size. It is set to evaluation.
        stage: Name of a stage; None: the last.
        sizes: The shorter side of the image, as shares of the encoder's own input size.

    Raises:
        ConfigError: There is no such stage.
    """

    def __init__(
        self, encoder: Encoder, stage: str | None = None, *, sizes: Sequence[float] = _SIZES
    ) -> None:
        stage = stage or list(encoder.strides)[-1]
        if stage not in encoder.strides:
            raise ConfigError(f"there is no stage {stage!r}", did_you_mean(stage, encoder.strides))
        self.encoder, self.stage, self.sizes = encoder.eval(), stage, tuple(sizes)

    @torch.no_grad()
    def __call__(self, image_HWC: NDArray[Any]) -> Local:
        """Local features of one image.

        Raises:
            ConfigError: The network takes images of one size only.
            DataError: The image has channels that cannot be converted.
        """
        maps = [self._map(image_HWC, size) for size in self.sizes]
        return cells(maps, *image_HWC.shape[:2])

    def _map(self, image_HWC: NDArray[Any], size: float) -> Tensor:
        """The stage's map of the whole image, each side rounded to a whole number of cells."""
        config, stride = self.encoder.config, self.encoder.strides[self.stage]
        H, W = image_HWC.shape[:2]
        share = size * config.image_size / min(H, W) / stride
        h, w = (max(1, round(share * side)) * stride for side in (H, W))
        scaled_hwC = resize(pixels(image_HWC, config.in_channels), h, w)
        x_1Chw = network_input(scaled_hwC, config.intensity)
        device = next(self.encoder.parameters()).device
        with sized(self.encoder.config.architecture, h, w, "use SIFT"):
            return self.encoder.stages(x_1Chw.to(device))[self.stage][0].cpu()


def cells(maps: Sequence[Tensor], height: int, width: int) -> Local:
    """The cells of maps (c, h, w) of one whole image as upright keypoints.

    Cells whose vector is 0 are left out. A place may be off by a cell: half of one in each image.

    Args:
        maps: Of one image, at several sizes; one at least.
        height: Of the image, in pixels.
        width: Likewise.
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


# --- of many images


class Features:
    """Local features of many images by position, computed when they are first asked for.

    Args:
        read: Reads the pixels of image i, (H, W, C); None where it cannot be read: such an image
            has no keypoints.
        count: How many images there are.
        describe: From an image to its local features.
        keep: So many images' features stay in memory, those asked for last. A thousand keypoints
            of SIFT take half a megabyte.
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
        self._kept = lru_cache(keep)(self._computed)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, position: int) -> Local:
        return self._kept(position)

    def __iter__(self) -> Iterator[Local]:
        return (self[position] for position in range(self._count))

    def _computed(self, position: int) -> Local:
        image_HWC = self._read(position)
        return _nothing() if image_HWC is None else self._describe(image_HWC)
