"""Small sets of images on disk, checked and stored, for tests of what comes after."""

from pathlib import Path

import numpy as np
from PIL import Image

from selftaught.data.open_images import open_images
from selftaught.data.store import Form, Images
from selftaught.foundation.machine import Machine


def array_set(folder: Path, n: int, side: int = 8, channels: int = 3) -> Images:
    """n random images as an array; equal calls give equal images."""
    path = folder / f"{n}-{side}-{channels}.npz"
    if not path.exists():
        shape = (n, side, side, channels)
        np.savez(path, images=np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    return open_images(str(path), machine=Machine(cache=folder / "cache"))


def file_set(folder: Path, n: int, *, one_size: bool = True, form: Form = "encoded") -> Images:
    """n random PNG files, of one size or of many."""
    (folder / "images").mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(n):
        height, width = (12, 12) if one_size else (8 + i % 7, 8 + i % 5)
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        path = folder / "images" / f"{i:04}.png"
        if not path.exists():
            Image.fromarray(pixels).save(path)
    return open_images(str(folder / "images"), machine=Machine(cache=folder / "cache"), form=form)
