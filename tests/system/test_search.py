"""The commands index and search, as a user runs them, and what may go wrong with them."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import selftaught
from selftaught.cli import DONE, USER, main
from selftaught.encoders.encoder import EncoderConfig, build_encoder
from selftaught.encoders.folder import save_encoder
from selftaught.errors import ConfigError
from selftaught.foundation.files import write_table
from tests.support.command_line import environment
from tests.support.dies_indexing import POINTS

ODD = 'it\'s <b>"quoted"  & more.png'  # a name as HTML and shells would not have it


def photographs(folder: Path, numbers: range) -> None:
    """Crops of a real photograph, no two alike, the first of them under an odd name."""
    from sklearn.datasets import load_sample_image

    photograph = load_sample_image("china.jpg")
    folder.mkdir()
    for n in numbers:
        top, left = 20 * (n % 18), 30 * (n // 2 % 18)
        name = ODD if n == 0 else f"{n:03}.png"
        Image.fromarray(photograph[top : top + 40, left : left + 48]).save(folder / name)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two encoders, two folders of images, and an index of the first ones by the first."""
    root = tmp_path_factory.mktemp("search")
    for seed, name in enumerate(("enc", "other")):
        config = EncoderConfig("resnet8", image_size=16, options={"width": 4})
        save_encoder(build_encoder(config, seed=seed), root / name)
    photographs(root / "pics", range(30))
    photographs(root / "more", range(20, 40))
    assert indexed(root, "enc", "pics", "--out", root / "index") == DONE
    return root


@pytest.fixture
def work(made: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of all that, with a cache of its own; images are named relative to it."""
    shutil.copytree(made, tmp_path / "work")
    before = Path.cwd()
    os.chdir(tmp_path / "work")
    yield tmp_path / "work"
    os.chdir(before)


def options(root: Path) -> list[str]:
    return ["--cache", str(root / "cache"), "--device", "cpu", "--threads", "1"]


def indexed(root: Path, encoder: str, data: str, *more: Any) -> int:
    paths = [str(root / encoder), str(root / data)]
    return main(["index", *paths, *map(str, more), *options(root)])


def found(root: Path, *arguments: Any) -> dict[str, Any]:
    """What `selftaught search INDEX ... --json` says."""
    answer = selftaught.search(root / "index", *arguments[:1], **dict(arguments[1:]), device="cpu")
    assert isinstance(answer.value, dict)
    return answer.value


def opened(path: str | Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def one_line(capsys: pytest.CaptureFixture[str], *words: str) -> None:
    printed = capsys.readouterr()
    assert printed.out == "" and len(printed.err.splitlines()) == 1, printed
    assert all(word in printed.err for word in words), printed.err


def state(index: Path) -> dict[str, str]:
    """The bytes of every file that index.json names, and its own."""
    described = json.loads((index / "index.json").read_text())
    paths = [index / "index.json"]
    paths += [p for part in described["parts"] for p in (index / "parts" / part["name"]).iterdir()]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(paths)}


# --- what is found


def test_an_image_finds_itself_and_a_row_does_not(made: Path, work: Path) -> None:
    value = found(work, (str(work / "pics" / ODD), "row:3"), ("top", 4))
    image, row = value["queries"]
    assert image["neighbours"][0] == {
        "row": image["neighbours"][0]["row"],
        "path": ODD,
        "file": str(made.resolve() / "pics" / ODD),
        "gone": False,
        "cosine": pytest.approx(1, abs=1e-4),
    }
    assert len(row["neighbours"]) == 4 and 3 not in [n["row"] for n in row["neighbours"]]
    assert value["gone"] == []


def test_the_command_prints_lines_or_json_and_draws_a_sheet(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["search", str(work / "index"), "row:0", "row:1", "--top", "3", "--device", "cpu"]
    assert main([*arguments, "--out", str(work / "sheet.png")]) == DONE
    text = capsys.readouterr().out
    assert text.count("row:") == 2 + 2 * 3 and "Contact sheet:" in text
    assert opened(work / "sheet.png").size == (4 * 100 + 4, 2 * 100 + 4)
    assert main([*arguments, "--json"]) == DONE
    assert len(json.loads(capsys.readouterr().out)["queries"]) == 2
    assert main([*arguments, "--out", str(work / "sheet.png")]) == USER
    one_line(capsys, "exists", "--overwrite")


def test_an_image_that_is_gone_is_listed_and_has_an_empty_tile(work: Path) -> None:
    nearest = found(work, "row:3", ("top", 1))["queries"][0]["neighbours"][0]["path"]
    # the index of `made` names that folder's images: index this one's
    selftaught.index("enc", "pics", out="index", overwrite=True, cache="cache", device="cpu")
    (work / "pics" / nearest).unlink()
    answer = selftaught.search("index", "row:3", top=2, out="sheet.png", device="cpu")
    first, second = answer.value["queries"][0]["neighbours"]
    assert (first["path"], first["gone"], second["gone"]) == (nearest, True, False)
    assert answer.value["gone"] == [nearest]
    assert "[file missing]" in answer.text
    assert "1 of these images no longer exists" in answer.text
    sheet = np.asarray(opened("sheet.png"))
    query, empty, there = (sheet[8:96, 4 + 100 * n + 4 : 100 * n + 96] for n in range(3))
    assert (empty == 255).all() and query.std() > 10 and there.std() > 10


def test_near_duplicates_are_groups(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy("pics/004.png", "pics/zz copy.png")
    shutil.copy("pics/004.png", "pics/zz other copy.png")
    selftaught.index("enc", "pics", out="index", overwrite=True, cache="cache", device="cpu")
    arguments = ["search", "index", "--duplicates", "1", "--device", "cpu"]
    assert main([*arguments, "--out", "sheet.png"]) == DONE
    text = capsys.readouterr().out
    assert "3 images in 1 groups" in text and "zz copy.png" in text
    assert opened("sheet.png").size == (3 * 100 + 4, 100 + 4)
    assert main([*arguments, "--json"]) == DONE
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    assert {n["path"] for n in group} == {"004.png", "zz copy.png", "zz other copy.png"}


def test_arrays_have_pictures_and_labels_too(tmp_path: Path) -> None:
    config = EncoderConfig("resnet8", in_channels=1, image_size=16, options={"width": 4})
    save_encoder(build_encoder(config), tmp_path / "enc")
    out, cache = tmp_path / "index", tmp_path / "cache"
    selftaught.index(tmp_path / "enc", "digits", out=out, cache=cache, device="cpu")
    answer = selftaught.search(out, "row:7", top=2, out=tmp_path / "s.png", device="cpu")
    assert {"row", "path", "file", "gone", "cosine", "label"} == answer.value["queries"][0][
        "neighbours"
    ][0].keys()
    sheet = np.asarray(opened(tmp_path / "s.png"))
    assert all(sheet[8:96, 8 + 100 * n : 90 + 100 * n].std() > 10 for n in range(3))


# --- adding


def test_two_files_of_one_path_are_told_apart(work: Path) -> None:
    (work / "more/021.png").write_bytes((work / "pics/005.png").read_bytes())
    how = {"out": "index", "cache": "cache", "device": "cpu"}
    selftaught.index("enc", "pics", overwrite=True, **how)
    one = selftaught.search("index", "row:20", top=1, device="cpu")
    assert str(work) not in one.text
    selftaught.index("enc", "more", add=True, **how)
    answer = selftaught.search("index", "row:20", top=60, device="cpu")
    both = [n for n in answer.value["queries"][0]["neighbours"] if n["path"] == "021.png"]
    files = [str((work / folder / "021.png").resolve()) for folder in ("pics", "more")]
    assert [n["file"] for n in both] == files[1:]
    assert f"row:20  {files[0]}\n" in answer.text and f"  {files[1]}\n" in answer.text + "\n"
    for file in files:
        Path(file).unlink()
    answer = selftaught.search("index", "row:0", top=60, device="cpu")
    assert answer.value["gone"] == ["021.png"] * 2 and "2 of these images" in answer.text


def test_a_file_whose_name_is_not_utf_8_is_there(work: Path) -> None:
    odd = os.fsdecode(b"k\xe4se \\x41.png")
    (work / "pics/005.png").rename(work / "pics" / odd)
    how = {"out": "index", "cache": "cache", "device": "cpu", "overwrite": True}
    selftaught.index("enc", "pics", **how)
    answer = selftaught.search("index", str(work / "pics/003.png"), top=30, device="cpu", json=True)
    (found,) = [
        n for n in answer.value["queries"][0]["neighbours"] if n["path"] == r"k\xe4se \x41.png"
    ]
    assert not found["gone"] and answer.text.encode()
    (work / "pics" / odd).unlink()
    answer = selftaught.search("index", str(work / "pics/003.png"), top=30, device="cpu")
    assert answer.value["gone"] == [r"k\xe4se \x41.png"]


def test_only_new_images_are_added(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = {k: v for k, v in state(work / "index").items() if "index.json" not in k}
    assert indexed(work, "enc", "more", "--out", work / "index", "--add") == DONE
    text = capsys.readouterr().out
    assert "40 vectors" in text and "Added 10; 10 were already in the index" in text
    assert old.items() <= state(work / "index").items()
    value = found(work, str(work / "more/035.png"), ("top", 1))
    assert value["queries"][0]["neighbours"][0]["path"] == "035.png"
    now = state(work / "index")
    assert indexed(work, "enc", "more", "--out", work / "index", "--add") == DONE
    assert "Added 0; 20 were already" in capsys.readouterr().out and state(work / "index") == now


def test_index_prints_json(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert indexed(work, "enc", "more", "--out", work / "index", "--add", "--json") == DONE
    value = json.loads(capsys.readouterr().out)
    assert value == {
        "out": str(work / "index"),
        "count": 40,
        "dim": 16,
        "new": 10,
        "known": 10,
        "approximate": None,
    }


@pytest.mark.parametrize(
    "words", [("768000 requested and 76768 written",), (errno.ENOSPC, "No space left on device")]
)
@pytest.mark.parametrize("add", [(), ("--add",), ("--overwrite",)])
def test_a_full_disk_is_one_line_and_costs_no_index(
    work: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[Any, ...],
    add: tuple[str, ...],
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(*words)

    now = state(work / "index")
    monkeypatch.setattr(np, "save", full)
    out = work / ("index" if add else "new")
    assert indexed(work, "enc", "more", "--out", out, *add) == USER
    one_line(capsys, f"{out} cannot be written to ({words[-1]})", "free space")
    assert state(work / "index") == now and not (work / "new").exists()


def test_a_table_of_vectors_is_indexed_and_added_to(work: Path) -> None:
    for data in ("pics", "more"):
        selftaught.embed("enc", data, out=f"{data}.parquet", cache="cache", device="cpu")
    selftaught.index("pics.parquet", out="tables", cache="cache", device="cpu")
    added = selftaught.index("more.parquet", "more", out="tables", add=True, device="cpu").value
    assert (added["count"], added["new"], added["known"]) == (40, 10, 10)
    query = str(work / "pics/005.png")
    with pytest.raises(selftaught.errors.ConfigError, match="--encoder RUN"):
        selftaught.search("tables", query, device="cpu")
    value = selftaught.search("tables", query, encoder="enc", top=1, device="cpu").value
    assert value["queries"][0]["neighbours"][0]["path"] == "005.png"
    same = selftaught.index("enc", "pics", out="tables", add=True, cache="cache", device="cpu")
    assert same.value["count"] == 70  # of vectors without images nobody knows the bytes


# --- what may go wrong


def test_another_encoder_is_refused(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = state(work / "index")
    assert indexed(work, "other", "more", "--out", work / "index", "--add") == USER
    one_line(capsys, "another encoder", "build another index")
    for query in ("pics/005.png", "row:1"):
        arguments = ["search", "index", query, "--encoder", "other", "--device", "cpu"]
        assert main(arguments) == USER
        one_line(capsys, "another encoder")
    selftaught.embed("other", "more", out="v.parquet", cache="cache", device="cpu")
    assert main(["index", "v.parquet", "--out", "index", "--add"]) == USER
    one_line(capsys, "another encoder")
    assert state(work / "index") == now


def test_vectors_that_are_not_finite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pa.table({"vector": [[1.0, 2.0], [float("nan"), 1.0]]})
    write_table(tmp_path / "v.parquet", table)
    assert main(["index", str(tmp_path / "v.parquet"), "--out", str(tmp_path / "i")]) == USER
    one_line(capsys, "not finite in 1 rows, first in 1")
    assert not (tmp_path / "i").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["row:30"], "row:0 to row:29"),
        (["nowhere.png"], "missing"),
        (["enc/config.json"], "not an image"),
        ([], "needs a query"),
        (["row:1", "--duplicates", "0.9"], "takes no query"),
        (["row:1", "--top", "0"], "top is 0"),
        (["--duplicates", "1.5"], "duplicates is 1.5"),
        (["row:1", "--out", "sheet.jpg"], ".png"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], words: str, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", "index", *arguments, "--device", "cpu"]) == USER
    one_line(capsys, words)


def test_mistakes_with_an_index_are_one_line(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = state(work / "index")
    for more, words in (
        (("--out", work / "index"), "--overwrite"),
        (("--out", work / "index", "--add", "--overwrite"), "choose one"),
        (("--out", work / "nowhere", "--add"), "not an index to add to"),
        (("--out", work / "pics", "--overwrite"), "contains the input"),
        (("--out", work / "more", "--overwrite"), "did not write"),
        (("--out", work / "other", "--overwrite"), "contains an encoder, not an index"),
        (("--out", "/"), "/ cannot be replaced"),
    ):
        assert indexed(work, "enc", "pics", *more) == USER
        one_line(capsys, words)
    assert main(["index", "enc", "--out", "new"]) == USER
    one_line(capsys, "needs images: pass DATA")
    assert state(work / "index") == now and not (work / "new").exists()


def test_a_damaged_index_is_named_and_can_be_built_anew(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = work / "index/parts/000000/vectors.npy"
    vectors.write_bytes(vectors.read_bytes()[:-100])
    for arguments in (
        ["search", "index", "row:1"],
        ["index", "enc", "more", "--out", "index", "--add"],
    ):
        assert main([*arguments, *options(work)]) == USER
        one_line(capsys, "vectors.npy", "rebuild the index")
    assert indexed(work, "enc", "pics", "--out", work / "index", "--overwrite") == DONE
    assert len(found(work, "row:1")["queries"]) == 1


# --- killed, and two at once


def process(work: Path, *arguments: Any, **environ: str) -> "subprocess.Popen[str]":
    """The command line in a process that dies or waits where it is told to."""
    command = [sys.executable, "-m", "tests.support.dies_indexing", *map(str, arguments)]
    return subprocess.Popen(
        [*command, *options(work)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(PYTHONPATH=os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]))
        | environ,
    )


@pytest.mark.slow
@pytest.mark.parametrize("what", ["--add", "--overwrite"])
@pytest.mark.parametrize("point", POINTS)
def test_a_killed_build_leaves_a_whole_index(point: str, what: str, work: Path) -> None:
    """The old one, or from the moment that index.json is renamed the new one."""
    pytest.importorskip("faiss")
    now = state(work / "index")
    arguments = ("index", "enc", "more", "--out", "index", what)
    killed = process(work, *arguments, DIES=point, EXACT="15")
    _, complaint = killed.communicate(timeout=200)
    assert killed.returncode == -signal.SIGKILL, complaint
    done = {"--add": 40, "--overwrite": 20}[what]
    assert len(selftaught_open(work)) == (done if point == "removing" else 30)
    if point != "removing":
        assert state(work / "index") == now
    assert indexed(work, "enc", "more", "--out", work / "index", what) == DONE
    assert len(selftaught_open(work)) == done
    named = json.loads((work / "index/index.json").read_text())["parts"]
    left = sorted(path.name for path in (work / "index/parts").iterdir())
    if point != "removing" or what == "--overwrite":
        assert left == [part["name"] for part in named]
        assert not list((work / "index").rglob("*tmp-*"))


def selftaught_open(work: Path) -> Any:
    from selftaught.retrieval.vector_index import open_index

    return open_index(work / "index")


@pytest.mark.slow
def test_of_two_builds_into_one_folder_one_says_so(work: Path) -> None:
    first = process(work, "index", "enc", "more", "--out", "new", WAITS="written")
    assert first.stdout is not None and first.stdin is not None
    assert first.stdout.readline() == "waiting\n"
    for more in ((), ("--overwrite",)):
        second = process(work, "index", "enc", "pics", "--out", "new", *more)
        _, complaint = second.communicate(timeout=200)
        assert second.returncode == USER
        assert len(complaint.splitlines()) == 1 and "another process is writing to new" in complaint
    first.communicate(timeout=200)
    assert first.returncode == DONE
    assert len(json.loads((work / "new/index.json").read_text())["parts"]) == 1


@pytest.mark.parametrize(
    ("query", "what"),
    [
        ("row:-1", "row:-1 is not in index, which has 30 rows: pass row:0 to row:29, or an image"),
        ("row:x", "row:x is not in index"),
        ("17", "17 is not in index"),
        ("pics", "pics is a folder: pass single images"),
    ],
)
def test_a_mistyped_row_and_a_folder_are_told(work: Path, query: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        selftaught.search("index", query, device="cpu")
