"""What a command was given, opened: files that are named one by one."""

from pathlib import Path

import numpy as np
from PIL import Image

from selftaught.data.open_images import open_files
from selftaught.foundation.machine import Machine


def test_only_the_files_that_are_named_are_opened_and_each_once(tmp_path: Path) -> None:
    """A grey clip beside its masks, whose palette has colours, is a grey set."""
    gray = np.random.default_rng(0).integers(0, 256, (3, 12, 16), np.uint8)
    for folder in ("clip/masks", "cache"):
        (tmp_path / folder).mkdir(parents=True)
    frames = [tmp_path / f"clip/{t}.png" for t in range(3)]
    for path, frame_HW in zip(frames, gray, strict=True):
        Image.fromarray(frame_HW).save(path)
    mask = Image.fromarray(gray[0] // 128).convert("P")
    mask.putpalette([0, 0, 0, 200, 0, 0])
    mask.save(tmp_path / "clip/masks/0.png")
    images = open_files([*frames, frames[1]], Machine(cache=tmp_path / "cache", threads=1))
    assert images.store.channels == 1 and len(images.store) == 3
    assert (images.store.read(np.array([2])).images()[0][..., 0] == gray[2]).all()
