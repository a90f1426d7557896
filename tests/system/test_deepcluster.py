"""DeepCluster through the command line: no labels anywhere, and images that tell nothing apart."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from selftaught.cli import DONE, STOPPED, main
from tests.support.mistakes import write_images
from tests.support.runs import lines, newest

SMALL = (
    *("--method", "deepcluster", "--encoder", "resnet8", "--image-size", "16"),
    *("--batch-size", "16", "--epochs", "2", "--set", "network.width=4"),
    *("--set", "network.stem_stride=2", "--set", "loop.log_every=1"),
    *("--device", "cpu", "--threads", "1"),
)


def train(data: Path, run: Path, *more: str) -> int:
    cache = str(run.parent / "cache")
    return main(["pretrain", str(data), "--out", str(run), "--cache", cache, *SMALL, *more])


def write_equal(folder: Path, images: list[np.ndarray]) -> Path:
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:03}.png")
    return folder


def alarms(run: Path) -> list[str]:
    return [words for line in lines(run) for words in line.get("alarms", [])]


@pytest.mark.slow
def test_every_clustering_has_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = write_images(tmp_path / "photos", 48, side=20)
    more = ("--epochs", "4", "--set", "k=4", "--set", "loop.log_every=1000")
    assert train(photos, tmp_path / "run", *more) == DONE
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 4, 7, 10, 12]
    assert re.search(
        r"^12 steps in \d+ s \(\d+ s of it for features and cl", capsys.readouterr().out, re.M
    )
    assert train(photos, tmp_path / "other", *more, "--set", "every=2") == DONE
    found = lines(tmp_path / "other")
    assert [line["step"] for line in found] == [1, 7, 12]
    assert "nmi_last" not in found[0] and "nmi_last" in found[1]


@pytest.mark.slow
def test_images_that_are_all_equal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = np.full((20, 20, 3), 90, np.uint8)
    photos, run = write_equal(tmp_path / "photos", [image] * 48), tmp_path / "run"
    assert train(photos, run, "--set", "k=4") == DONE
    raised = alarms(run)
    assert raised[0].startswith("All images are in one cluster because their features are equal.")
    said = capsys.readouterr()
    assert f"ALARM. {raised[0]}" in said.err and raised[0] in said.out
    assert raised[0] in (run / "log.txt").read_text()
    assert lines(run)[0]["clusters_used"] == 1
    assert all(np.isfinite(line["loss"]) for line in lines(run))
    assert train(photos, tmp_path / "other", "--set", "loop.stop_on_alarm=true") == STOPPED
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("selftaught: stopped by an alarm after step 1 of 6")


def test_copies_of_ten_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ten = [rng.integers(0, 256, (20, 20, 3), np.uint8) for _ in range(10)]
    photos, run = write_equal(tmp_path / "photos", ten * 12), tmp_path / "run"
    assert train(photos, run, "--set", "k=40") == DONE
    assert all(line["clusters_used"] <= 10 for line in lines(run))
    labels_N = newest(run).model["labels_N"].numpy()
    used = parquet.read_table(run / "images.parquet")["path"].to_pylist()
    of_copy = [{labels_N[n] for n, p in enumerate(used) if int(p[:3]) % 10 == i} for i in range(10)]
    assert all(len(labels) == 1 for labels in of_copy), "copies lie in one cluster"


@pytest.mark.slow
def test_a_folder_without_labels_goes_the_whole_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """pretrain with nothing but the method, embed, report; k is found."""
    photos, run = write_images(tmp_path / "photos", 300, channels=3), tmp_path / "run"
    assert {path.suffix for path in photos.iterdir()} == {".png"}
    machine = ["--cache", str(tmp_path / "cache"), "--device", "cpu"]
    arguments = ["pretrain", str(photos), "--out", str(run), "--method", "deepcluster", *machine]
    assert main([*arguments, "--set", "loop.total_steps=12", "--set", "loop.log_every=1"]) == DONE
    assert "2 clusters for 300 images" not in capsys.readouterr().err  # enough images for each
    first, *_, last = lines(run)
    kept = newest(run).model
    assert len(kept["labels_N"]) == 300 and len(kept["centroids_KP"]) == 300 // 128
    assert "nmi_labels" not in last and "nmi_last" in last and "nmi_last" not in first
    assert alarms(run) == [], "of two clusters, one has half of the images"
    vectors = tmp_path / "vectors.parquet"
    assert main(["embed", str(run), str(photos), "--out", str(vectors), *machine]) == DONE
    assert parquet.read_table(vectors).num_rows == 300
    assert main(["report", str(run), *machine]) == DONE
    assert "Clusters" in (run / "report.html").read_text()
