"""Raw pixels of some images in one flat array, as read from a store and turned into views.

Shapes:  N images; H, W height and width; C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Pixels = NDArray[Any]


@dataclass(frozen=True)
class Raw:
    """N images of C channels, anywhere in the flat array; they may overlap or repeat.

    Attributes:
        flat: uint8, uint16 or float32, one axis, contiguous.
        starts_N: int64: index of the first number of each image.
        sizes_N2: int64: height and width of each image in pixels.
        channels: C of every image.
    """

    flat: Pixels
    starts_N: NDArray[np.int64]
    sizes_N2: NDArray[np.int64]
    channels: int

    @classmethod
    def of(cls, images: Pixels | Sequence[Pixels]) -> "Raw":
        """From (N, H, W, C), or from N arrays (H, W, C) of one type; at least one.

        Not copied if they are one contiguous array.
        """
        sizes_N2 = np.array([image.shape[:2] for image in images], np.int64)
        channels = images[0].shape[2]
        whole = isinstance(images, np.ndarray)
        flat = (
            np.ascontiguousarray(images).reshape(-1)
            if whole
            else np.concatenate([image.reshape(-1) for image in images])
        )
        lengths_N = sizes_N2.prod(axis=1) * channels
        return cls(flat, np.cumsum(lengths_N) - lengths_N, sizes_N2, channels)

    def __len__(self) -> int:
        return len(self.starts_N)

    def __getitem__(self, part: slice) -> "Raw":
        """Some of the images; no pixel is copied."""
        return Raw(self.flat, self.starts_N[part], self.sizes_N2[part], self.channels)

    def image(self, k: int) -> Pixels:
        """Image k, (H, W, C), without a copy."""
        (height, width), start = self.sizes_N2[k].tolist(), int(self.starts_N[k])
        end = start + height * width * self.channels
        return self.flat[start:end].reshape(height, width, self.channels)

    def images(self) -> list[Pixels]:
        """All images, without a copy."""
        return [self.image(k) for k in range(len(self))]

    @property
    def one_size(self) -> bool:
        """Whether all images have the same height and width."""
        return bool((self.sizes_N2 == self.sizes_N2[:1]).all())

    def tensors(self) -> Tensor | list[Tensor]:
        """(N, H, W, C), a copy, if all have one size; else N tensors (H, W, C) without a copy."""
        if self.one_size and len(self):
            return torch.from_numpy(np.stack(self.images()))
        return [torch.from_numpy(image) for image in self.images()]
