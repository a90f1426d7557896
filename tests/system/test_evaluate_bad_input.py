"""Bad input of every kind that evaluate meets: one line with the file and the remedy, exit 2."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selftaught.cli import DONE, USER, main
from selftaught.encoders.encoder import EncoderConfig, build_encoder
from selftaught.encoders.folder import save_encoder

pytestmark = pytest.mark.slow

KINDS = ("cat", "dog", "owl")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    config = EncoderConfig("resnet8", image_size=16, options={"width": 4})
    save_encoder(build_encoder(config, seed=0), tmp_path / "enc")
    return tmp_path


def picture(path: Path) -> Path:
    """Noise that is its own: equal files would come to one side of a split."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = int.from_bytes(str(path.relative_to(path.parents[3])).encode()[-8:], "big")
    noise = np.random.default_rng(seed).integers(0, 256, (16, 20, 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path


def folders(work: Path, each: int = 4) -> Path:
    for split in ("train", "test"):
        for kind in KINDS:
            for n in range(each):
                picture(work / f"set/{split}/{kind}/{n}.png")
    return work / "set"


def table(work: Path, labels: list[str]) -> Path:
    for n in range(len(labels)):
        picture(work / f"set/all/{n:02}.png")
    with (work / "set/labels.csv").open("w", newline="") as file:
        rows = [["path", "label"], *([f"all/{n:02}.png", word] for n, word in enumerate(labels))]
        csv.writer(file).writerows(rows)
    return work / "set/labels.csv"


def places(work: Path, *lines: str) -> Path:
    for name in ("queries/q", "database/a", "database/b"):
        picture(work / f"set/{name}.png")
    (work / "set/ground_truth.csv").write_text("\n".join(lines) + "\n")
    return work / "set"


def clip(work: Path, shape: tuple[int, int]) -> Path:
    for n in range(3):
        picture(work / f"set/{n}.png")
    (work / "set/masks").mkdir()
    mask = np.zeros(shape, np.uint8)
    mask[4:9, 4:9] = 1
    Image.fromarray(mask).save(work / "set/masks/0.png")
    return work / "set"


# --- what is wrong


def a_class_without_an_image(work: Path) -> Path:
    data = folders(work)
    for split in ("train", "test"):
        (data / split / "fox").mkdir()
        (data / split / "fox/0.png").write_bytes(b"no image")
    return data


def a_class_for_the_test_only(work: Path) -> Path:
    picture(work / "set/test/fox/0.png")
    return folders(work)


def labels_that_are_nan(work: Path) -> Path:
    return table(work, ["1.5", "2.5", "nan", *map(str, np.arange(30) + 0.25)])


def labels_of_several_kinds(work: Path) -> Path:
    return table(work, ["1.5", "2.5", "broken", *map(str, np.arange(30) + 0.25)])


def an_image_a_class(work: Path) -> Path:
    for kind in KINDS:
        picture(work / f"set/all/{kind}/0.png")
    return work / "set/all"


def no_query(work: Path) -> Path:
    return places(work, "query,reference")


def a_box_outside(work: Path) -> Path:
    return places(work, "query,reference,x1,y1,x2,y2", "q.png,a.png,2,2,40,10")


def masks_of_another_size(work: Path) -> Path:
    return clip(work, (16, 21))


CASES: dict[str, tuple[Callable[[Path], Path], str, tuple[str, ...]]] = {
    "a missing class": (a_class_without_an_image, "knn", ("fox", "fox/0.png", "check")),
    "a class for the test only": (a_class_for_the_test_only, "knn", ("test/fox/0.png", "training")),
    "NaN": (labels_that_are_nan, "regression", ("labels.csv", "02.png", "nan", "cell empty")),
    "several kinds": (
        labels_of_several_kinds,
        "knn",
        ("labels.csv", "broken", "numbers or all words"),
    ),
    "words as numbers": (labels_of_several_kinds, "regression", ("labels.csv", "02.png", "broken")),
    "one image a class": (
        an_image_a_class,
        "linear",
        ("set/all", "two images of a class"),
    ),
    "no query": (no_query, "retrieval", ("ground_truth.csv", "query")),
    "a box outside": (a_box_outside, "retrieval", ("q.png", "20 x 16 pixels")),
    "a mask of another size": (masks_of_another_size, "tracking", ("masks/0.png", "21 x 16")),
}


@pytest.mark.parametrize(("wrong", "protocol", "words"), CASES.values(), ids=CASES.keys())
def test_it_is_one_line(
    wrong: Callable[[Path], Path],
    protocol: str,
    words: tuple[str, ...],
    work: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = evaluated(work, wrong(work), protocol, USER, capsys).splitlines()
    errors = [line for line in said if line.startswith("selftaught: ")]
    assert len(errors) == 1 and said[-1] == errors[0], said
    assert all(word in errors[0] for word in words), said


@pytest.mark.parametrize("protocol", ["knn", "linear", "fewshot", "worth", "finetune"])
def test_what_is_right_is_judged(
    protocol: str, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated(work, folders(work), protocol, DONE, capsys)


@pytest.mark.parametrize("protocol", ["knn", "linear", "fewshot", "worth", "finetune", "clusters"])
def test_an_image_a_class_on_both_sides_is_judged(
    protocol: str, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated(work, folders(work, each=1), protocol, DONE, capsys)


def evaluated(
    work: Path, data: Path, protocol: str, code: int, capsys: pytest.CaptureFixture[str]
) -> str:
    """What is said to stderr."""
    where = ["--cache", str(work / "cache"), "--device", "cpu", "--threads", "1"]
    learns = ["--epochs", "1"] if protocol in ("worth", "finetune") else []
    command = ["evaluate", str(work / "enc"), str(data), "--protocol", protocol, *learns, *where]
    assert main(command) == code
    printed = capsys.readouterr()
    assert (printed.out == "") == (code == USER)
    return printed.err
