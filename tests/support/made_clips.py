"""Clips with known masks: things cut out of photographs move, grow and turn before another one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class CutOut:
    """A thing on a photograph, and its way: centres as shares of the frame's width and height.

    Attributes:
        pixels: (H, W, 3) uint8.
        mask: (H, W) bool: where the thing is.
        start: x and y of its centre in the first frame.
        end: The same in the last one.
        height: Of the thing in the first frame, as a share of the frame's.
        growth: By how much it is larger in the last frame.
        turn: In degrees, until the last frame.
    """

    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    start: tuple[float, float]
    end: tuple[float, float]
    height: float = 0.4
    growth: float = 1.4
    turn: float = 20.0

    def placed(self, u: float, size: tuple[int, int]) -> tuple[Image.Image, tuple[int, int]]:
        """The thing at the time u of 0 .. 1, with its opacity, and where its corner lies."""
        rows, columns = (np.flatnonzero(self.mask.any(axis=axis)) for axis in (1, 0))
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        alpha = (self.mask[box] * 255).astype(np.uint8)
        thing = Image.fromarray(np.dstack([self.pixels[box], alpha]))
        scale = self.height * size[0] / thing.height * self.growth**u
        shape = (max(1, round(thing.width * scale)), max(1, round(thing.height * scale)))
        thing = thing.resize(shape, Image.Resampling.LANCZOS)
        thing = thing.rotate(self.turn * u, Image.Resampling.BICUBIC, expand=True)
        x, y = ((1 - u) * a + u * b for a, b in zip(self.start, self.end, strict=True))
        corner = (round(x * size[1] - thing.width / 2), round(y * size[0] - thing.height / 2))
        return thing, corner


def render(
    things: Sequence[CutOut], background: NDArray[np.uint8], size: tuple[int, int], u: float
) -> tuple[Image.Image, Image.Image]:
    """Frame and mask (0, 1, 2, ...) at the time u; the background slides under a window."""
    room = background.shape[0] - size[0], background.shape[1] - size[1]
    top, left = (round(u * length) for length in room)
    frame = Image.fromarray(background[top : top + size[0], left : left + size[1]])
    mask = np.zeros(size, np.uint8)
    for value, thing in enumerate(things, start=1):
        picture, corner = thing.placed(u, size)
        frame.paste(picture, corner, picture)
        alpha = Image.new("L", size[::-1])
        alpha.paste(picture.getchannel("A"), corner)
        mask[np.asarray(alpha) >= 128] = value
    indexed = Image.fromarray(mask, "L").convert("P")
    indexed.putdata(mask.ravel().tolist())
    indexed.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    return frame, indexed


def write_clip(
    root: Path,
    name: str,
    things: Sequence[CutOut],
    background: NDArray[np.uint8],
    *,
    size: tuple[int, int],
    frames: int = 12,
) -> None:
    """Write a clip as DAVIS lays it out, with a mask for every frame."""
    images, masks = root / "JPEGImages/480p" / name, root / "Annotations/480p" / name
    images.mkdir(parents=True)
    masks.mkdir(parents=True)
    for t in range(frames):
        frame, mask = render(things, background, size, t / (frames - 1))
        frame.save(images / f"{t:05d}.jpg", quality=95)
        mask.save(masks / f"{t:05d}.png")


def write_voc_clips(root: Path, voc: Path, *, count: int, size: tuple[int, int]) -> None:
    """Clips of one object each, cut out of a photograph of VOC's layout and put before the next.

    Objects that take up a twentieth to a third of their photograph and do not touch its border.
    """
    made, masks = 0, sorted((voc / "SegmentationObject").glob("*.png"))
    ways = [((0.3, 0.35), (0.7, 0.6)), ((0.7, 0.6), (0.35, 0.4)), ((0.6, 0.3), (0.4, 0.7))]
    for path, other in zip(masks, [*masks[1:], masks[0]], strict=True):
        values = np.asarray(Image.open(path))
        for value in np.unique(values[(values > 0) & (values < 255)]):
            mask = values == value
            edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
            if made < count and 0.05 < mask.mean() < 0.33 and not edge.any():
                start, end = ways[made % len(ways)]
                thing = CutOut(_photograph(voc, path.stem), mask, start, end)
                photograph = Image.fromarray(_photograph(voc, other.stem))
                background = photograph.resize((size[1] * 5 // 4, size[0] * 5 // 4))
                name = f"{path.stem}-{value}"
                write_clip(root, name, [thing], np.asarray(background), size=size)
                made += 1


def _photograph(voc: Path, stem: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(voc / "JPEGImages" / f"{stem}.jpg").convert("RGB"))
