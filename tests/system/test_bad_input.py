"""Mistakes through the real command line: one line with a remedy, exit 2, and nothing destroyed.

Everything that a command could harm is hashed before and after, an earlier run at --out included.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from selftaught.cli import DONE, main
from tests.support.command_line import command, environment, selftaught
from tests.support.mistakes import refused, tree, write_images

pytestmark = pytest.mark.slow

TINY = ["--image-size", 16, "--batch-size", 16, "--epochs", 1, "--set", "network.width=4"]
CLUSTERS = ["--method", "deepcluster", "--batch-size", 16, "--set"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """Images of all sorts, and a finished run."""
    place = tmp_path_factory.mktemp("place")
    write_images(place / "photos", 32)
    write_images(place / "colour/red", 4, channels=3)
    write_images(place / "colour/blue", 4, channels=3, side=17)
    for name in "cat", "dog":
        write_images(place / "classes" / name, 8, side=16 + len(name) * (name == "dog"))
    write_images(place / "single", 1)
    (place / "empty").mkdir()
    (place / "text").mkdir()
    (place / "text" / "notes.txt").write_text("no image")
    (place / "file").write_text("a file")
    given = ["pretrain", place / "photos", "--out", place / "run", "--cache", cache, *TINY]
    assert main([str(argument) for argument in given]) == DONE
    return place


@pytest.fixture
def place(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "place")
    return tmp_path / "place"


PRETRAIN: dict[str, tuple[list[object], str]] = {
    "no such folder": (["fotos"], "does not exist"),
    "an empty folder": (["empty"], "put images into it"),
    "a folder of text files": (["text"], "end in '.txt'"),
    "one image": (["single"], "use at least 4 images"),
    "one image and a preset": (["single", "--preset", "small"], "--batch-size 1 or less"),
    "fewer images than the batch": (["photos", "--batch-size", 64], "--batch-size 32 or less"),
    "no images at all": ([], "pass DATA: a folder"),
    "a misspelt encoder": (["photos", "--encoder", "resnet81"], "did you mean 'resnet"),
    "an encoder like nothing": (["photos", "--encoder", "?"], "use resnet8, resnet20"),
    "a misspelt method": (["photos", "--method", "simclear"], "'simclr'"),
    "a misspelt preset": (["photos", "--preset", "smal"], "'small'"),
    "a misspelt optimizer": (["photos", "--set", "loop.optimizer=adam"], "adamw"),
    "a misspelt option": (["photos", "--epoch", 3], "--epochs"),
    "a misspelt setting": (["photos", "--set", "loop.epoch=3"], "'loop.epochs'"),
    "a misspelt option of the method": (["photos", "--set", "temprature=1"], "'temperature'"),
    "an option of the method out of range": (["photos", "--set", "temperature=-1"], "docs/methods"),
    "more clusters than images": (
        ["photos", *CLUSTERS, "k=33"],
        "33 clusters need more than 32 images",
    ),
    "one cluster": (["photos", *CLUSTERS, "k=1"], "use --set k=2 or more"),
    "a misspelt precision": (["photos", "--set", "loop.precision=fp16"], "bf16"),
    "a misspelt stem": (["photos", "--set", "network.stem=smal"], "'small'"),
    "a stem that the network lacks": (
        ["photos", "--encoder", "vit_tiny_patch16_224", "--set", "network.stem=small"],
        "standard",
    ),
    "an option of another network": (
        ["photos", "--encoder", "resnet50", "--set", "network.width=32"],
        "resnet50 has no option 'width'",
    ),
    "a size that the network cannot take": (
        ["photos", "--encoder", "vit_tiny_patch16_224", "--image-size", 8],
        "vit_tiny_patch16_224",
    ),
    "no time": (["photos", "--seconds", "nan"], "a number above 0"),
    "two lengths": (["photos", "--seconds", 3, "--epochs", 1], "cannot be combined: choose one"),
    "no batch": (["photos", "--batch-size", 0], "from 1 to"),
    "no threads": (["photos", "--threads", 0], "from 1 to"),
    "a rate that is no number": (["photos", "--lr", "nan"], "a number above 0"),
    "a share above 1": (["photos", "--set", "views.flip=1.5"], "from 0 to 1"),
    "what nobody can keep": (["photos", "--keep", "color"], "'colour'"),
    "colour drop without colours": (["photos", "--set", "views.gray=0.2"], "views.gray=0"),
    "bands of one channel": (["photos", "--set", "views.band_drop=1"], "views.band_drop=0"),
    "a device of elsewhere": (["photos", "--device", "cuda:77"], "pass cpu"),
    "weights that are not there": (["photos", "--init", "rum"], "'run'"),
    "weights and a network": (["photos", "--init", "run", "--encoder", "resnet20"], "--encoder"),
    "weights and a width": (
        ["photos", "--init", "run", "--set", "network.width=8"],
        "--set network.width",
    ),
    "weights for other images": (
        ["colour", "--init", "run", "--batch-size", 4],
        "choose weights that match",
    ),
    "a probe without labels": (["photos", "--batch-size", 16, "--probe", "photos"], "labels"),
    "a probe of other channels": (["photos", "--batch-size", 16, "--probe", "colour"], "channels"),
    "a configuration that is none": (["photos", "--config", "file"], "config.yaml"),
    "a configuration that is not there": (["photos", "--config", "nowhere"], "config.yaml"),
}


@pytest.mark.parametrize("case", PRETRAIN)
def test_pretrain_fails_before_it_touches_anything(
    case: str,
    place: Path,
    cache: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(place)
    given, says = PRETRAIN[case]
    begin = ["pretrain", *given, "--cache", cache]
    assert says in refused([*begin, "--out", "new"], place, capsys)
    assert says in refused([*begin, "--out", "deep/er/new"], place, capsys)
    if "--init" not in given:
        assert says in refused([*begin, "--out", "run", "--overwrite"], place, capsys)


OUT: dict[str, tuple[list[object], str]] = {
    "a run that is there": (["--out", "run"], "--overwrite"),
    "a file that is there": (["--out", "file"], "--overwrite"),
    "below a file": (["--out", "file/run"], "cannot be written to"),
    "the images themselves": (["--out", "photos", "--overwrite"], "contains the input"),
    "a folder around the images": (["--out", ".", "--overwrite"], "contains the input"),
    "a folder of somebody's": (["--out", "text", "--overwrite"], "did not write"),
    "a name that cannot be": (["--out", "x" * 300], "cannot be written to"),
}
WRITERS: dict[str, list[object]] = {
    "pretrain": ["photos", "--batch-size", 16],
    "check": ["photos", "--no-time-steps"],
    "embed": ["run", "photos"],
    "views": ["photos"],
    "export": ["run", "--to", "timm", "--data", "photos"],
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("case", OUT)
def test_an_out_that_cannot_be_used_is_left_alone(
    case: str,
    writer: str,
    place: Path,
    cache: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(place)
    given, says = OUT[case]
    line = refused([writer, *WRITERS[writer], *given, "--cache", cache], place, capsys)
    if writer not in ("embed", "views"):  # these write files: no folder may be in their way
        assert says in line


def test_a_folder_that_cannot_be_written_to(
    place: Path, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system mounted read-only; permissions alone do not stop root."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    begin = ["pretrain", place / "photos", "--cache", cache]
    line = refused([*begin, "--out", place / "new"], place, capsys)
    assert "cannot be written to" in line and "choose another --out" in line


def test_images_with_a_file_of_ours_among_them_are_not_overwritten(
    place: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "photos" / "config.json").write_text("{}")
    begin = ["pretrain", place / "photos", "--out", place / "photos", "--overwrite"]
    assert "contains the input" in refused(
        [*begin, "--batch-size", 16, "--cache", cache], place, capsys
    )


def break_encoder(run: Path) -> None:
    path = run / "encoder/model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def break_config(run: Path) -> None:
    (run / "encoder/config.json").write_text('{"selftaught": {}}')


def break_checkpoints(run: Path) -> None:
    for path in run.glob("checkpoints/*/model.safetensors"):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))


READERS: dict[str, list[object]] = {
    "evaluate": ["run", "classes"],
    "embed": ["run", "photos", "--out", "vectors.parquet"],
    "export": ["run", "--to", "timm", "--out", "timm"],
    "report": ["run"],
    "info": ["run"],
    "pretrain": ["photos", "--init", "run", "--out", "new"],
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("broken", [break_encoder, break_config])
def test_a_damaged_encoder_is_named(
    reader: str,
    broken: object,
    place: Path,
    cache: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(place)
    assert callable(broken)
    broken(place / "run")
    more = [] if reader == "info" else ["--cache", cache]
    line = refused([reader, *READERS[reader], *more], place, capsys)
    assert "run/encoder/" in line


def test_damaged_checkpoints_are_named_and_kept(
    place: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    break_checkpoints(place / "run")
    shutil.rmtree(place / "run/encoder")
    before = {name for name in tree(place) if "checkpoints" in name}
    line = refused(["resume", place / "run", "--cache", cache], place, capsys)
    assert "checkpoint" in line and "selftaught pretrain" in line
    assert before <= tree(place).keys()


OTHERS: dict[str, tuple[list[object], str]] = {
    "a command": (["evalute", "run", "classes"], "'evaluate'"),
    "a misspelt protocol": (["evaluate", "run", "classes", "--protocol", "nn"], "'knn'"),
    "no labels": (["evaluate", "run", "photos"], "put each class into its own folder"),
    "no such label": (["evaluate", "run", "classes", "--label", "kind"], "kind"),
    "few of nothing": (
        ["evaluate", "run", "classes", "--few", 0],
        "a number of images per class",
    ),
    "images of other channels": (["evaluate", "run", "colour"], "channels"),
    "vectors of other channels": (["embed", "run", "colour", "--out", "v.parquet"], "channels"),
    "no run": (["evaluate", "rum", "classes"], "'run'"),
    "no run to resume": (["resume", "photos"], "the output folder of selftaught pretrain"),
    "no run to report": (["report", "photos"], "the output folder of selftaught pretrain"),
    "a network that torchvision lacks": (
        ["export", "run", "--to", "torchvision", "--out", "tv"],
        "resnet18",
    ),
    "a network that timm lacks": (["export", "run", "--to", "timm", "--out", "t"], "selftaught"),
    "a policy": (["views", "photos", "--out", "s.png", "--policy", "simclr"], "simclr_"),
    "a figure": (["views", "photos", "--out", "s.png", "--policy", "figur"], "'figure'"),
    "a picture of another kind": (["views", "photos", "--out", "s.jpg"], "end in .png"),
    "a sheet too large": (
        ["views", "photos", "--out", "s.png", "--image-size", "4096"],
        "smaller --image-size",
    ),
    "what no view shows": (
        ["views", "photos", "--out", "s.png", "--set", "temperature=0.2"],
        "--set views.NAME=VALUE",
    ),
    "what no view keeps": (["views", "photos", "--out", "s.png", "--keep", "scales"], "'scale'"),
    "views without colours": (
        ["views", "photos", "--out", "s.png", "--set", "views.gray=1"],
        "views.gray=0",
    ),
    "a setting of a view": (["views", "photos", "--out", "s.png", "--set", "views.flop=1"], "flip"),
    "too many names": (["check", "photos", "more", "--out", "new"], "more"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_commands_refuse_mistakes_too(
    case: str,
    place: Path,
    cache: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(place)
    given, says = OTHERS[case]
    more = [] if case in ("a command",) else ["--cache", cache]
    assert says in refused([*given, *more], place, capsys)


def test_a_damaged_table_of_evaluations_is_found_before_the_work(
    place: Path, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "run/evaluation.json").write_text('[{"data": 3}]')
    monkeypatch.chdir(place)
    line = refused(["evaluate", "run", "classes", "--cache", cache], place, capsys)
    assert "evaluation.json" in line


def test_more_labels_a_class_than_there_are(
    place: Path, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    given = ["evaluate", "run", "classes", "--few", "500", "--protocol", "knn", "--json"]
    assert main([*given, "--cache", str(cache)]) == DONE
    assert "all images of classes with fewer than 500" in capsys.readouterr().out


# ---- as processes of their own


def test_a_mistake_in_a_process_of_its_own(place: Path, cache: Path) -> None:
    done = selftaught("pretrain", "empty", "--out", "new", "--cache", cache, cwd=place)
    assert (done.returncode, done.stdout) == (2, "")
    assert "/empty contains no images: " in done.stderr
    assert done.stderr.count("\n") == 1 and not (place / "new").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["pretrain", "--help"], ["methods"]])
def test_a_reader_that_has_seen_enough_is_no_fault(arguments: list[str]) -> None:
    """selftaught --help | head -1."""
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            command(*arguments),
            stdout=write,
            stderr=subprocess.PIPE,
            env=environment(),
            check=False,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_run_goes_on_when_nobody_reads_its_log(original: Path, tmp_path: Path) -> None:
    """selftaught pretrain ... 2>&1 | head -1."""
    read, write = os.pipe()
    os.close(read)
    given = [original / "photos", "--out", tmp_path / "run", "--cache", tmp_path / "cache", *TINY]
    try:
        done = subprocess.run(
            command("pretrain", *given),
            stdout=subprocess.PIPE,
            stderr=write,
            env=environment(),
            check=False,
        )
    finally:
        os.close(write)
    assert done.returncode == 0 and b"steps in" in done.stdout
    assert (tmp_path / "run/encoder/model.safetensors").exists()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_that_are_not_utf8_are_printed(tmp_path: Path, encoding: str) -> None:
    folder = write_images(tmp_path / "photos", 4)
    odd = os.fsencode(folder) + b"/caf\xe9\x1b[31m.png"
    Path(os.fsdecode(odd)).write_bytes(b"no image")
    done = subprocess.run(
        command("check", folder, "--no-time-steps", "--out", tmp_path / "o", "--cache", tmp_path),
        capture_output=True,
        env=environment(PYTHONIOENCODING=encoding),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"caf" in done.stdout and b"\x1b" not in done.stdout
    assert done.stdout.isascii() or encoding == "utf-8"


def test_images_whose_name_is_not_utf8(tmp_path: Path, cache: Path) -> None:
    write_images(tmp_path / "photos", 16)
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/f\xf6tos"))
    (tmp_path / "photos").rename(odd)
    given = [odd, "--out", tmp_path / "run", "--cache", cache, *TINY]
    done = subprocess.run(
        [os.fsencode(part) for part in command("pretrain", *given)],
        capture_output=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    again = selftaught("resume", tmp_path / "run", "--cache", cache)
    assert (again.returncode, "complete" in again.stdout) == (0, True), again.stderr
