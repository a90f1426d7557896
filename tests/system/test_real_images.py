"""Real images: photographs of every size, class folders, and learning from CIFAR-10."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import selftaught
from selftaught.data.decode import decode_file
from selftaught.data.labels import label
from selftaught.data.open_images import DataSettings, open_images
from selftaught.data.store import Form
from selftaught.foundation.machine import Machine
from tests.support.real_images import unpacked
from tests.support.runs import pretrain

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real")


@pytest.fixture(scope="module")
def photographs(place: Path) -> Path:
    return unpacked("coco256_voc", place)


def test_photographs_are_decoded_as_pillow_decodes_them(photographs: Path) -> None:
    files = sorted(photographs.rglob("JPEGImages/*.jpg"))
    assert len(files) == 256
    for file in files:
        with Image.open(file) as image:
            expected = np.asarray(image.convert("L" if image.mode == "L" else "RGB"))
        found = decode_file(file, file.name)
        assert np.array_equal(found.reshape(expected.shape), expected), file.name


@pytest.mark.parametrize("store_size", [None, 96])
def test_photographs_are_the_same_pixels_in_every_form(
    photographs: Path, place: Path, store_size: int | None
) -> None:
    data, machine = str(next(photographs.rglob("JPEGImages"))), Machine(cache=place / "cache")
    forms: tuple[Form, ...] = ("memory", "disk", "encoded")
    stores = [
        open_images(DataSettings(data, store_size=store_size), machine, form=form).store
        for form in forms
    ]
    assert len({tuple(size) for size in stores[0].sizes_N2.tolist()}) > 10
    rows = np.arange(0, 256, 7)
    first, *others = (store.read(rows).images() for store in stores)
    for other in others:
        assert all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_class_folders_of_a_real_set(place: Path) -> None:
    images = open_images(
        DataSettings(str(unpacked("imagenette_128", place)), store_size=32),
        Machine(cache=place / "cache"),
    )
    labels = label(images.checked)
    assert (len(labels.train), len(labels.test), len(labels.classes)) == (9469, 3925, 10)
    assert labels.split == "val (given)"
    assert images.checked.rejected.num_rows == 0
    assert (images.checked.channels, images.checked.dtype) == (3, "uint8")


def test_simclr_learns_from_cifar10(place: Path) -> None:
    """kNN on test images, well above random init, after two hundred steps without a label."""
    whole, part = unpacked("cifar10", place), place / "cifar"
    part.mkdir()
    for split, number in (("train", 5000), ("test", 2000)):
        with np.load(whole / f"{split}.npz", allow_pickle=False) as arrays:
            np.savez(part / split, **{name: arrays[name][:number] for name in arrays.files})
    how = ("--image-size", "32", "--batch-size", "256", "--set", "network.width=16")
    length = ("--set", "loop.total_steps=200", "--set", "options.hidden=256")
    assert pretrain(part / "train.npz", place / "run", *how, *length) == 0
    rows = selftaught.evaluate(
        str(place / "run"), str(part), protocol="knn", cache=place / "cache"
    ).value
    accuracy = [r for r in rows if r["metric"] == "accuracy"]
    ours = next(r["value"] for r in accuracy if r["representation"] == "this encoder")
    random = [r["value"] for r in accuracy if r["representation"] == "random init"]
    assert len(random) == 3 and ours > np.mean(random) + 0.05
