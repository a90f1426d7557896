"""Pixels by row: the same in every form, from a cache that may be damaged, full or missing."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from selftaught.data import pixels, store
from selftaught.data.check_images import Checked, check_images
from selftaught.data.decode import decode_file
from selftaught.data.open_images import DataSettings, open_images
from selftaught.data.sources import find_images
from selftaught.data.store import DecodedStore, EncodedStore, Form, Images, Store, open_store
from selftaught.errors import BadImage
from selftaught.foundation.machine import Machine
from tests.support.photographs import photographs

FORMS: tuple[Form, ...] = ("memory", "disk", "encoded")


def noise(height: int, width: int, seed: int, dtype: type = np.uint8) -> NDArray:
    shape = (height, width) if dtype == np.uint16 else (height, width, 3)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven images of many sizes: grey and colour, PNG and JPEG, one of them upright by EXIF."""
    out = tmp_path / "images"
    out.mkdir()
    for i, (height, width) in enumerate([(40, 60), (60, 40), (17, 31), (9, 90), (64, 64)]):
        Image.fromarray(noise(height, width, i)).save(out / f"{i}.png")
    Image.fromarray(noise(50, 30, 5)[..., 0]).save(out / "5.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(30, 50, 6)).save(out / "6.jpg", exif=exif)
    return out


@pytest.fixture
def checked(folder: Path, tmp_path: Path) -> Checked:
    return check_images(find_images(str(folder)), machine=Machine(cache=tmp_path / "cache"))


def everything(found: Store) -> list[NDArray]:
    return found.read(np.arange(len(found))).images()


def equal(a: Store, b: Store) -> bool:
    pairs = zip(everything(a), everything(b), strict=True)
    return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("store_size", [None, 24])
def test_the_forms_hold_the_same_pixels(
    checked: Checked, tmp_path: Path, store_size: int | None
) -> None:
    found = {
        form: open_store(checked, machine=Machine(cache=tmp_path), store_size=store_size, form=form)
        for form in FORMS
    }
    assert isinstance(found["encoded"], EncodedStore)
    assert equal(found["memory"], found["encoded"]) and equal(found["disk"], found["encoded"])
    for one in found.values():
        shapes = [image.shape for image in everything(one)]
        assert shapes == [(*size, 3) for size in one.sizes_N2.tolist()]


def test_pixels_are_those_of_the_files(checked: Checked, folder: Path, tmp_path: Path) -> None:
    found = everything(open_store(checked, machine=Machine(cache=tmp_path)))
    for row, name in enumerate(checked.source.names):
        expected = decode_file(folder / name, name)
        assert np.array_equal(found[row], np.broadcast_to(expected, found[row].shape))
    assert found[5].shape == (50, 30, 3) and found[6].shape == (50, 30, 3)


def test_the_shorter_side_shrinks_and_nothing_grows(checked: Checked, tmp_path: Path) -> None:
    sizes_N2 = open_store(checked, machine=Machine(cache=tmp_path), store_size=24).sizes_N2
    assert sizes_N2.tolist() == [
        [24, 36],
        [36, 24],
        [17, 31],
        [9, 90],
        [24, 24],
        [40, 24],
        [40, 24],
    ]


@pytest.mark.parametrize("form", FORMS)
def test_rows_come_in_the_order_asked_for(checked: Checked, tmp_path: Path, form: Form) -> None:
    found = open_store(checked, machine=Machine(cache=tmp_path), form=form)
    rows = np.array([4, 0, 4, 2])
    all_rows = everything(found)
    for image, row in zip(found.read(rows).images(), rows, strict=True):
        assert np.array_equal(image, all_rows[row])


@pytest.mark.parametrize("form", FORMS)
def test_images_of_one_size_and_16_bits(tmp_path: Path, form: Form) -> None:
    (tmp_path / "x").mkdir()
    for i in range(5):
        Image.fromarray(noise(12, 8, i, np.uint16)).save(tmp_path / "x" / f"{i}.png")
    checked = check_images(find_images(str(tmp_path / "x")), machine=Machine(cache=tmp_path))
    found = open_store(checked, machine=Machine(cache=tmp_path), form=form).read(np.array([3, 1]))
    assert found.one_size and found.flat.dtype == np.uint16 and found.channels == 1
    assert np.array_equal(found.image(0)[..., 0], noise(12, 8, 3, np.uint16))


def test_an_array_is_used_as_it_is(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 255, (20, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "x.npz", images=array)
    images = open_images(str(tmp_path / "x.npz"), machine=Machine(cache=tmp_path))
    read = images.store.read(np.arange(20))
    assert isinstance(images.store, DecodedStore) and np.array_equal(read.images(), array)
    assert np.shares_memory(read.flat, images.checked.source.array)
    small = open_images(
        DataSettings(str(tmp_path / "x.npz"), store_size=4), Machine(cache=tmp_path)
    )
    assert small.store.read(np.arange(20)).tensors().shape == (20, 4, 4, 3)  # type: ignore[union-attr]
    assert small.content != images.content
    assert (
        images.content
        == open_images(str(tmp_path / "x.npz"), machine=Machine(cache=tmp_path)).content
    )


@pytest.mark.parametrize("form", ["memory", "disk"])
def test_the_cache_spares_decoding(
    checked: Checked, tmp_path: Path, form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_store(checked, machine=Machine(cache=tmp_path), form=form)
    monkeypatch.setattr(store, "decode", None)
    assert equal(open_store(checked, machine=Machine(cache=tmp_path), form=form), first)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def delete(path: Path) -> None:
    path.unlink()


def exchange(path: Path) -> None:
    """Another image of the same size."""
    Image.fromarray(noise(40, 60, 99)).save(path)


@pytest.mark.parametrize("harm", [cut, flip, delete])
@pytest.mark.parametrize("suffix", ["pixels", "json"])
@pytest.mark.parametrize("form", ["memory", "disk"])
def test_a_damaged_cache_is_rebuilt(
    checked: Checked, tmp_path: Path, harm: object, suffix: str, form: Form
) -> None:
    truth = open_store(checked, machine=Machine(cache=tmp_path), form="encoded")
    open_store(checked, machine=Machine(cache=tmp_path), form=form)
    (victim,) = (tmp_path / "store").glob(f"*.{suffix}")
    whole = victim.read_bytes()
    harm(victim)  # type: ignore[operator]
    assert equal(open_store(checked, machine=Machine(cache=tmp_path), form=form), truth)
    assert victim.read_bytes() == whole


def test_a_killed_writer_leaves_nothing_behind(checked: Checked, tmp_path: Path) -> None:
    open_store(checked, machine=Machine(cache=tmp_path), form="disk")
    (path,) = (tmp_path / "store").glob("*.pixels")
    (leftover := path.with_name(f".{path.name}.tmp-1")).touch()
    path.unlink()
    open_store(checked, machine=Machine(cache=tmp_path), form="disk")
    assert path.exists() and not leftover.exists()


def full(*args: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("form", "kind"), [("memory", DecodedStore), ("disk", EncodedStore)])
def test_a_full_disk_costs_the_cache_only(
    checked: Checked,
    tmp_path: Path,
    form: Form,
    kind: type,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "pwrite", full)
    found = open_store(checked, machine=Machine(cache=tmp_path / "new"), form=form)
    assert isinstance(found, kind)
    assert equal(
        found, open_store(checked, machine=Machine(cache=tmp_path / "new"), form="encoded")
    )
    assert not list((tmp_path / "new" / "store").glob("*pixels*"))


@pytest.mark.parametrize(
    ("memory", "free", "kind", "mapped"),
    [
        (4, 100, DecodedStore, False),
        (3.9, 2, DecodedStore, True),
        (3.9, 1.9, EncodedStore, False),
        (4, 1, DecodedStore, False),
    ],
)
def test_what_fits_decides(
    checked: Checked,
    tmp_path: Path,
    memory: float,
    free: float,
    kind: type,
    mapped: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A quarter of the memory, else half of what the disk has free."""
    size = sum(
        image.nbytes for image in everything(open_store(checked, machine=Machine(cache=tmp_path)))
    )
    monkeypatch.setattr(store, "memory", lambda: memory * size)
    monkeypatch.setattr(pixels, "free_bytes", lambda folder: free * size)
    found = open_store(checked, machine=Machine(cache=tmp_path / "new"))
    assert isinstance(found, kind)
    assert isinstance(getattr(found, "_flat", None), np.memmap) == mapped
    assert bool(list((tmp_path / "new").rglob("*.pixels"))) == (kind == DecodedStore and free >= 2)


def test_this_machine_has_memory() -> None:
    assert 2**28 < store.memory() < 2**50


@pytest.mark.parametrize("form", FORMS)
def test_a_file_that_changed_is_named_and_the_others_are_read(
    checked: Checked, folder: Path, tmp_path: Path, form: Form
) -> None:
    good = (folder / "2.png").read_bytes()
    Image.fromarray(noise(17, 31, 99)).save(folder / "2.png")
    found = open_store(checked, machine=Machine(cache=tmp_path), form=form)
    with pytest.raises(BadImage) as error:
        found.read(np.array([1, 2, 3]))
    assert error.value.what == "2.png" and "changed" in error.value.reason
    assert len(found.read(np.array([0, 1, 3, 4, 5, 6]))) == 6
    (folder / "2.png").write_bytes(good)
    repaired = open_store(checked, machine=Machine(cache=tmp_path), form=form)
    assert np.array_equal(repaired.read(np.array([2])).image(0), noise(17, 31, 2))


@pytest.mark.parametrize("harm", [cut, flip, delete, exchange])
def test_a_file_that_goes_bad_while_it_is_used(
    checked: Checked, folder: Path, tmp_path: Path, harm: object
) -> None:
    found = open_store(checked, machine=Machine(cache=tmp_path), form="encoded")
    before = found.read(np.array([0])).image(0)
    os.utime(folder / "0.png", (1, 1))  # touched: other times, the same bytes
    assert np.array_equal(found.read(np.array([0])).image(0), before)
    harm(folder / "0.png")  # type: ignore[operator]
    with pytest.raises(BadImage, match=r"0\.png"):
        found.read(np.array([0]))


def test_a_pipe_in_place_of_a_file_is_not_waited_for(
    checked: Checked, folder: Path, tmp_path: Path
) -> None:
    (folder / "0.png").unlink()
    os.mkfifo(folder / "0.png")
    with pytest.raises(BadImage, match=r"0\.png"):
        open_store(checked, machine=Machine(cache=tmp_path), form="encoded").read(np.array([0]))


# --- scaling by libjpeg


@pytest.fixture
def large(tmp_path: Path) -> Checked:
    """Two real photographs of 640 x 427 px at 2.5 times that, one lying on its side, and a PNG."""
    out = tmp_path / "large"
    out.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    for i, photograph in enumerate(photographs()):
        image = Image.fromarray(photograph).resize((1600, 1068), Image.Resampling.LANCZOS)
        image.save(out / f"{i}.jpg", quality=92, **({"exif": exif} if i else {}))
        image.resize((400, 267)).save(out / f"{i}.png")
    return check_images(find_images(str(out)), machine=Machine(cache=tmp_path / "cache"))


def test_libjpeg_may_shrink_a_part(large: Checked, tmp_path: Path) -> None:
    """Sizes stay; pixels differ by a few levels of 255 where the JPEG is four times as large."""
    how = {"machine": Machine(cache=tmp_path), "store_size": 128}
    full = open_store(large, form="memory", **how)  # type: ignore[arg-type]
    scaled = {form: open_store(large, form=form, dct_scaling=True, **how) for form in FORMS}  # type: ignore[arg-type]
    assert equal(scaled["memory"], scaled["encoded"]) and equal(scaled["disk"], scaled["encoded"])
    assert scaled["memory"].sizes_N2.tolist() == full.sizes_N2.tolist()
    assert full.sizes_N2[[0, 2]].tolist() == [[128, 192], [192, 128]]
    for row, (a, b) in enumerate(zip(everything(scaled["memory"]), everything(full), strict=True)):
        levels = np.abs(a.astype(int) - b)
        if large.source.names[row].endswith(".png"):
            assert levels.max() == 0
        else:
            assert 0 < levels.mean() < 1.5 and np.percentile(levels, 99.9) < 24
    contents = {Images(large, one).content for one in (full, *scaled.values())}
    assert len(contents) == 2 and len(list((tmp_path / "store").glob("*.pixels"))) == 2


def test_scaling_by_libjpeg_is_nothing_where_nothing_is_shrunk(
    checked: Checked, tmp_path: Path
) -> None:
    plain, scaled = (
        open_store(checked, machine=Machine(cache=tmp_path), dct_scaling=dct, form="encoded")
        for dct in (False, True)
    )
    assert equal(plain, scaled) and plain.shrinking == scaled.shrinking
    half = open_store(
        checked, machine=Machine(cache=tmp_path), store_size=24, dct_scaling=True, form="encoded"
    )
    assert equal(
        half, open_store(checked, machine=Machine(cache=tmp_path), store_size=24, form="encoded")
    )


@pytest.mark.parametrize("form", FORMS)
def test_a_row_is_read_where_it_lies_or_into_one_array(
    checked: Checked, tmp_path: Path, form: Form
) -> None:
    found = open_store(checked, machine=Machine(cache=tmp_path), form=form)
    first, second = found.read(np.array([3, 0, 3])), found.read(np.array([0]))
    assert np.shares_memory(first.flat, second.flat) == (form != "encoded")
    assert first.channels == found.channels and len(found.read(np.array([], np.int64))) == 0
    for image in first.tensors():  # and torch has nothing to say about memory-mapped pixels
        assert image.dtype == torch.uint8
