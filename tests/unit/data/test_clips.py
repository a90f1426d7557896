"""Clips: what is found in which layout, and one line for what is wrong."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selftaught.data.clips import VOID, natural_key, read_clips
from selftaught.errors import DataError
from tests.support.photographs import photographs

SIZE = (24, 36)


def write_frames(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for t, name in enumerate(names):
        crop = photographs()[0][t : t + SIZE[0], t : t + SIZE[1]]
        Image.fromarray(crop).save(folder / name, quality=95)


def write_mask(path: Path, values: np.ndarray, mode: str = "P") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette(list(range(256)) * 3)  # an "L" image becomes "P", its values stay
    image.save(path)


def drawn(*values: int, dtype: type = np.uint8) -> np.ndarray:
    """A mask with a stripe of each value beside background."""
    mask = np.zeros(SIZE, dtype)
    for i, value in enumerate(values):
        mask[5:15, 6 * i : 6 * i + 4] = value
    return mask


def davis(root: Path, clips: dict[str, int]) -> Path:
    for name, frames in clips.items():
        names = [f"{t:05d}.jpg" for t in range(frames)]
        write_frames(root / "JPEGImages/480p" / name, names)
        for t in range(frames):
            write_mask(root / "Annotations/480p" / name / f"{t:05d}.png", drawn(1, 2))
    return root


def alone(root: Path, frames: int = 3) -> Path:
    write_frames(root, [f"{t}.jpg" for t in range(frames)])
    write_mask(root / "masks/0.png", drawn(1))
    return root


def test_clips_laid_out_as_davis(tmp_path: Path) -> None:
    clips = read_clips(davis(tmp_path, {"bear": 3, "ant10": 2, "ant9": 2}))
    assert [clip.name for clip in clips] == ["ant9", "ant10", "bear"]
    bear = clips[2]
    assert [path.name for path in bear.frames] == ["00000.jpg", "00001.jpg", "00002.jpg"]
    assert (bear.size, bear.objects, sorted(bear.masks)) == (SIZE, (1, 2), [0, 1, 2])
    assert bear.frame(1).shape == (*SIZE, 3) and bear.frame(1).dtype == np.uint8
    assert (bear.mask(0) == drawn(1, 2)).all()


def test_a_single_clip_has_its_masks_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "cell"
    write_frames(folder, ["f10.jpg", "f9.jpg", "f2.png"])
    write_mask(folder / "masks/f2.png", drawn(3))
    write_mask(folder / "masks/f10.png", drawn(3))
    (folder / "masks/.hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_text("not a frame")
    (clip,) = read_clips(folder)
    assert clip.name == "cell"
    assert [path.name for path in clip.frames] == ["f2.png", "f9.jpg", "f10.jpg"]
    assert (clip.objects, sorted(clip.masks)) == ((3,), [0, 2])


def test_the_order_of_frames_is_that_of_their_numbers() -> None:
    names = ["a", "a1", "a2", "a10", "a10b", "a010c", "b1x2", "b1x10", "1", "02", "10", "z"]
    expected = ["1", "02", "10", "a", "a1", "a2", "a10", "a10b", "a010c", "b1x2", "b1x10", "z"]
    assert sorted(names, key=natural_key) == expected


def test_the_values_of_masks(tmp_path: Path) -> None:
    """255 is not judged in an indexed mask and an object in a grey one."""
    for mode, values, objects, found in (
        ("P", drawn(1, 255, 7), (1, 7), drawn(1, VOID, 7, dtype=np.int32)),
        ("L", drawn(255), (255,), drawn(255)),
        ("1", drawn(1).astype(bool), (1,), drawn(1)),
        ("I;16", drawn(1, 300, dtype=np.uint16), (1, 300), drawn(1, 300, dtype=np.int32)),
    ):
        folder = alone(tmp_path / mode.replace(";", ""))
        write_mask(folder / "masks/0.png", values, mode)
        (clip,) = read_clips(folder)
        with Image.open(folder / "masks/0.png") as image:
            assert image.mode == mode
        assert clip.objects == objects
        assert (clip.mask(0) == found).all()


def refusal(folder: Path, *words: str) -> None:
    """The error is one line with these words, and a remedy."""
    with pytest.raises(DataError) as caught:
        read_clips(folder)
    line = str(caught.value)
    assert "\n" not in line and caught.value.remedy
    for word in words:
        assert re.search(word, line), line


def test_no_frames(tmp_path: Path) -> None:
    refusal(tmp_path / "nowhere", "nowhere is not a folder")
    refusal(tmp_path, "contains no frames", "00000.jpg")
    (tmp_path / "JPEGImages/480p/empty").mkdir(parents=True)
    refusal(tmp_path, "JPEGImages contains no frames")


def test_no_mask_of_the_first_frame(tmp_path: Path) -> None:
    folder = alone(tmp_path / "one")
    (folder / "masks/0.png").rename(folder / "masks/1.png")
    refusal(folder, r"the mask of the first frame is missing \(.*masks/0.png\)", "indexed PNG")
    (folder / "masks/1.png").unlink()
    (folder / "masks").rmdir()
    refusal(folder, r"the mask of the first frame is missing \(.*masks/0.png\)")


def test_a_mask_of_no_frame(tmp_path: Path) -> None:
    folder = alone(tmp_path)
    write_mask(folder / "masks/7.png", drawn(1))
    refusal(folder, r"no frame belongs to the mask .*7.png", "0.png")


def test_a_mask_of_another_size_than_its_frame(tmp_path: Path) -> None:
    folder = alone(tmp_path)
    write_mask(folder / "masks/1.png", drawn(1)[:-1])
    refusal(folder, r"masks/1.png has 36 x 23 pixels, its frame 36 x 24")


def test_a_mask_without_any_object(tmp_path: Path) -> None:
    folder = alone(tmp_path)
    for values in (drawn(), drawn(255)):
        write_mask(folder / "masks/0.png", values)
        refusal(folder, r"masks/0.png.* contains no object", "255")


def test_an_object_may_leave(tmp_path: Path) -> None:
    folder = alone(tmp_path)
    write_mask(folder / "masks/1.png", drawn())
    assert read_clips(folder)[0].objects == (1,)


def test_a_picture_is_no_mask(tmp_path: Path) -> None:
    folder = alone(tmp_path)
    Image.fromarray(photographs()[0][: SIZE[0], : SIZE[1]]).save(folder / "masks/0.png")
    refusal(folder, r"0.png is a colour image \(RGB\), not a mask")
    grey = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint8)
    write_mask(folder / "masks/0.png", grey, "L")
    refusal(folder, r"0.png has 255 values", "at most 100")


def test_frames_of_two_sizes(tmp_path: Path) -> None:
    folder = alone(tmp_path)
    Image.fromarray(photographs()[0][:30, :40]).save(folder / "2.jpg")
    refusal(folder, r"2.jpg has 40 x 30 pixels, the first frame 36 x 24")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    folder = alone(tmp_path)
    whole = (folder / "1.jpg").read_bytes()
    for name, data, words in (
        ("1.jpg", whole[:300], r"1.jpg cannot be read \(truncated\)"),
        ("1.jpg", b"text", r"1.jpg cannot be read \(not an image\)"),
        ("0.jpg", b"", r"0.jpg cannot be read \(empty\)"),
    ):
        (folder / name).write_bytes(data)
        refusal(folder, words)
        (folder / name).write_bytes(whole)
    mask = (folder / "masks/0.png").read_bytes()
    for data, words in (
        (mask[:-30], r"masks/0.png cannot be read \(truncated\)"),
        (whole, r"masks/0.png cannot be read"),  # a JPEG by another name: its values are not exact
    ):
        (folder / "masks/0.png").write_bytes(data)
        refusal(folder, words)


def test_two_frames_of_one_name(tmp_path: Path) -> None:
    folder = alone(tmp_path)
    write_mask(folder / "0.png", drawn(1))
    refusal(folder, r"0.(png|jpg) and .*0.(png|jpg) have the same name", "masks/")


def test_a_clip_in_two_resolutions(tmp_path: Path) -> None:
    root = davis(tmp_path, {"bear": 2})
    write_frames(root / "JPEGImages/Full-Resolution/bear", ["00000.jpg"])
    refusal(root, "the clip bear exists twice", "480p/bear", "Full-Resolution/bear")


def test_nothing_outside_of_the_folder_is_read(tmp_path: Path) -> None:
    folder = alone(tmp_path / "clip")
    os.rename(folder / "1.jpg", tmp_path / "1.jpg")
    (folder / "1.jpg").symlink_to(tmp_path / "1.jpg")
    refusal(folder, r"1.jpg leads out of")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    folder = alone(tmp_path)
    (folder / "masks").chmod(0)
    try:
        refusal(folder, "masks cannot be read")
    finally:
        (folder / "masks").chmod(0o755)


def test_a_file_that_goes_bad_later_is_named(tmp_path: Path) -> None:
    (clip,) = read_clips(alone(tmp_path))
    clip.frames[1].write_bytes(b"")
    with pytest.raises(DataError, match=r"1.jpg cannot be read \(empty\)"):
        clip.frame(1)
