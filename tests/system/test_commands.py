"""Commands on a run, end to end: what they say, keep and write."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

import selftaught
from selftaught.cli import main
from selftaught.encoders.encoder import EncoderConfig, build_encoder
from selftaught.encoders.folder import save_encoder
from selftaught.foundation.files import read_json
from tests.support.bad_files import write_bad, write_good
from tests.support.runs import lines, pretrain

pytestmark = pytest.mark.slow

STEPS = ("--set", "loop.total_steps=6")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("place") / "run"
    assert pretrain("digits", out, *STEPS, "--probe", "digits") == 0
    return out


def cached(run: Path) -> list[str]:
    return ["--cache", str(run.parent / "cache")]


def test_info_says_what_a_run_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["encoder"], found["method"], found["steps"]) == ("resnet8", "simclr", "6")


@pytest.mark.parametrize("front", ["none", "sobel"])
def test_info_says_what_precedes_the_network(
    front: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"width": 4}
    encoder = build_encoder(EncoderConfig("resnet8", image_size=16, options=options, front=front))
    save_encoder(encoder, tmp_path / "encoder")
    assert main(["info", str(tmp_path / "encoder")]) == 0
    assert re.search(rf"^front +{front}$", capsys.readouterr().out, re.M)


def test_info_before_the_first_step_is_logged(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:

    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/metrics.jsonl").write_text("")
    assert main(["info", str(tmp_path / "run")]) == 0
    assert "steps       0\n" in capsys.readouterr().out


def test_a_probe_is_logged_and_drawn(run: Path) -> None:
    assert 0 <= lines(run)[-1]["probe_accuracy"] <= 1
    assert main(["report", str(run), *cached(run)]) == 0
    page = (run / "report.html").read_text()
    assert "Probe accuracy" in page and "for monitoring only" in page


def test_a_run_in_float64_can_be_probed(tmp_path: Path) -> None:
    more = ("--probe", "digits", "--set", "loop.precision=float64")
    assert pretrain("digits", tmp_path / "run", *STEPS, *more) == 0
    assert "probe_accuracy" in lines(tmp_path / "run")[-1]


def test_embed_writes_a_vector_an_image(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "vectors.parquet"
    assert main(["embed", str(run), "digits", "--out", str(out), *cached(run)]) == 0
    table = parquet.read_table(out)
    assert table.num_rows == 1797 and set(table.column_names) == {"row", "path", "label", "vector"}


def test_the_papers_figure_on_images_without_colours(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "figure.png"
    arguments = ["views", "digits", "--out", str(sheet), "--policy", "figure", *cached(run)]
    assert main([*arguments, "--keep", "orientation", "--rows", "3"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"3 images, each with 9 operations: {sheet}"
    left_out = [line.removeprefix("not shown: ").partition(" (")[0] for line in told[1:]]
    assert left_out == ["crop, resize and flip", "colour drop", "rotate", "band drop"]
    with Image.open(sheet) as drawn:
        assert drawn.width == 180 + 3 * 100 + 4


def test_views_say_what_keep_left_out(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "views.png"
    arguments = ["views", "digits", "--out", str(sheet), "--keep", "colour", *cached(run)]
    assert main([*arguments, "--set", "views.flip=0", "--keep", "orientation"]) == 0
    told = capsys.readouterr().out
    assert "turns off colour jitter, so that" in told and "orientation has no effect" in told


@pytest.mark.parametrize("policy", [(), ("--policy", "figure")])
def test_one_image_is_enough_to_look_at(tmp_path: Path, policy: tuple[str, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 40, 40, 3), np.uint8)
    np.savez(tmp_path / "one.npz", images=image)
    sheet, cache = tmp_path / "views.png", ["--cache", str(tmp_path / "cache")]
    assert main(["views", str(tmp_path / "one.npz"), "--out", str(sheet), *policy, *cache]) == 0
    with Image.open(sheet) as drawn:
        assert drawn.format == "PNG"


def test_labels_by_column_are_kept_apart(run: Path, tmp_path: Path) -> None:
    """evaluate --label b took the place of the rows of --label a."""
    folder = tmp_path / "images"
    folder.mkdir()
    noise = np.random.default_rng(0)
    table = ["path,a,b"]
    for i in range(40):
        Image.fromarray(noise.integers(0, 256, (8, 8), np.uint8)).save(folder / f"{i:02}.png")
        table.append(f"images/{i:02}.png,{'xy'[i % 2]},{'uvw'[i % 3]}")
    (tmp_path / "table.csv").write_text("\n".join(table))
    for label in "ab":
        arguments = ["evaluate", str(run), str(tmp_path / "table.csv"), "--label", label]
        assert main([*arguments, "--protocol", "knn", *cached(run)]) == 0
    kept = {row["data"].rpartition(", ")[2] for row in read_json(run / "evaluation.json")}
    assert kept >= {"a", "b"}


def test_a_folder_that_has_the_name_of_a_packaged_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    arguments = ["check", "digits", "--out", "out", "--cache", "cache", "--no-time-steps"]
    assert main(arguments) == 0
    assert "usable images: 1797" in capsys.readouterr().out


@pytest.mark.parametrize(("channels", "dtype"), [(1, "uint16"), (2, "float32"), (5, "uint8")])
def test_any_number_of_channels_goes_the_whole_way(
    tmp_path: Path, channels: int, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0)
    top = {"uint8": 255, "uint16": 60_000, "float32": 1}[dtype]
    images = (noise.random((48, 20, 24, channels)) * top).astype(dtype)
    images[::2] = images[::2] / 2
    data = tmp_path / "images.npz"
    np.savez(data, images=images, labels=np.arange(48) % 2)
    run, cache = tmp_path / "run", ["--cache", str(tmp_path / "cache")]
    assert main(["check", str(data), "--out", str(tmp_path / "checked"), *cache]) == 0
    assert pretrain(data, run, *STEPS) == 0
    assert main(["evaluate", str(run), str(data), *cache]) == 0
    assert main(["report", str(run), *cache]) == 0
    encoder = selftaught.load(run)
    assert encoder.preprocess(list(images[:3])).shape == (3, channels, 16, 16)
    sheet = tmp_path / "views.png"
    assert main(["views", str(data), "--out", str(sheet), *cache]) == 0
    with Image.open(sheet) as drawn:
        assert drawn.width > 100


def test_I1_a_folder_with_bad_files_trains_on_exactly_the_good_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    good = write_good(photos, 30)
    reasons = write_bad(photos)
    arguments = ["check", str(photos), "--out", str(tmp_path / "checked"), "--no-time-steps"]
    assert main([*arguments, "--cache", str(tmp_path / "cache")]) == 0
    assert pretrain(photos, tmp_path / "run", *STEPS) == 0
    used = parquet.read_table(tmp_path / "run/images.parquet")["path"].to_pylist()
    left_out = parquet.read_table(tmp_path / "run/rejected.parquet")["path"].to_pylist()
    assert set(good) <= set(used) and not set(used) & set(left_out)
    assert {name for name, reason in reasons.items() if reason} == set(left_out)
    assert f"{len(left_out)} images were left out" in capsys.readouterr().err
