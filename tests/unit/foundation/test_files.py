"""Writers that leave a whole file or none, and S2, S3: readers and names that do no harm."""

import errno
import json
import multiprocessing
import os
import pickle
import resource
import struct
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selftaught.errors import FileError
from selftaught.foundation import files, outputs

# Written whole or not at all.


def write_table(path: Path) -> None:
    files.write_table(path, pa.table({"row": [1, 2], "path": ["a", "é"]}))


WRITERS: dict[str, Callable[[Path], None]] = {
    "bytes": lambda path: files.write_bytes(path, b"new"),
    "text": lambda path: files.write_text(path, "new"),
    "json": lambda path: files.write_json(path, {"new": 1}),
    "table": write_table,
    "tensors": lambda path: files.save_tensors(path, {"new": torch.ones(3)}),
}


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, call: str
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(call, full)
    with pytest.raises(OSError, match="No space"):
        WRITERS[kind](path)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("kind", WRITERS)
def test_a_write_replaces_what_was_there(tmp_path: Path, kind: str) -> None:
    (tmp_path / "old").write_text("old")
    for name in ("old", "fresh"):
        WRITERS[kind](tmp_path / name)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["fresh", "old"]
    assert (tmp_path / "old").read_bytes() == (tmp_path / "fresh").read_bytes()


def test_a_file_is_synced_before_it_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    replace = Path.replace
    monkeypatch.setattr(
        "os.fsync",
        lambda handle: events.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name[:8]),
    )
    monkeypatch.setattr(
        Path, "replace", lambda part, path: (events.append("rename"), replace(part, path))
    )
    files.write_bytes(tmp_path / "file", b"x")
    assert events == [".file.tm", "rename", tmp_path.name[:8]]


def test_two_processes_never_share_a_temporary_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Process numbers repeat in containers that share a folder."""
    monkeypatch.setattr("os.getpid", lambda: 7)
    with files.new_folder(tmp_path / "a") as one, files.new_folder(tmp_path / "b") as other:
        assert one != other
        with files.new_folder(tmp_path / "a") as same:
            assert same != one
            same.rename(tmp_path / "elsewhere")
            same.mkdir()
        (tmp_path / "a").rmdir()


def test_a_file_system_that_cannot_sync_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(number: int) -> Callable[[int], None]:
        def fsync(_: int) -> None:
            raise OSError(number, os.strerror(number))

        return fsync

    monkeypatch.setattr("os.fsync", refuse(errno.EINVAL))
    files.sync_folder(tmp_path)
    monkeypatch.setattr("os.fsync", refuse(errno.EIO))
    with pytest.raises(OSError, match="error"):
        files.sync_folder(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=30, deadline=None)
@given(value=JSON)
def test_json_comes_back(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("json") / "value.json"
    files.write_json(path, value)
    assert files.read_json(path) == value


def test_json_does_not_depend_on_the_order_of_names() -> None:
    assert files.json_bytes({"b": 1, "a": 2}) == files.json_bytes({"a": 2, "b": 1})


def test_tensors_and_tables_come_back(tmp_path: Path) -> None:
    base = torch.arange(6.0).reshape(2, 3)
    files.save_tensors(tmp_path / "t", {"a": base.T, "b": base, "none": torch.empty(0)})
    found = files.load_tensors(tmp_path / "t")
    assert torch.equal(found["a"], base.T) and torch.equal(found["b"], base)
    assert found["none"].shape == (0,)
    write_table(tmp_path / "table")
    assert files.read_table(tmp_path / "table").to_pydict() == {"row": [1, 2], "path": ["a", "é"]}


# A folder that appears whole or not at all.


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    with files.new_folder(tmp_path / "deep" / "new") as part:
        (part / "sub").mkdir()
        (part / "sub" / "file").write_text("x")
        assert not (tmp_path / "deep" / "new").exists()
    assert [f.name for f in (tmp_path / "deep").iterdir()] == ["new"]
    assert (tmp_path / "deep" / "new" / "sub" / "file").read_text() == "x"


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_folder_that_fails_leaves_nothing(tmp_path: Path, failure: type[BaseException]) -> None:
    with pytest.raises(failure), files.new_folder(tmp_path / "new") as part:
        (part / "file").write_text("x")
        raise failure
    assert list(tmp_path.iterdir()) == []


def test_a_folder_never_replaces_one_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "precious").touch()
    with pytest.raises(OSError, match="not empty"), files.new_folder(tmp_path / "new"):
        pass
    assert [f.name for f in tmp_path.rglob("*")] == ["new", "precious"]


def test_leftovers_go_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".000612.tmp-99-ab").mkdir()
    (tmp_path / ".000612.tmp-99-ab" / "file").touch()
    (tmp_path / ".config.yaml.tmp-99-cd").touch()
    (tmp_path / ".link.tmp-1-ef").symlink_to(tmp_path / "kept")
    for name in ("kept", ".kept", "kept.tmp-1"):
        (tmp_path / name).mkdir()
    files.remove_leftovers(tmp_path)
    assert sorted(f.name for f in tmp_path.iterdir()) == [".kept", "kept", "kept.tmp-1"]
    files.remove_leftovers(tmp_path / "absent")


def test_removing(tmp_path: Path) -> None:
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "kept").mkdir()
    for name in ("folder", "file", "link", "absent"):
        files.remove(tmp_path / name)
    assert [f.name for f in tmp_path.iterdir()] == ["kept"]


# S2: what hostile files would do, and do not.

NESTED = b"[" * 10**6 + b"]" * 10**6


class Payload:
    """Unpickled, it makes the marker file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.marker),)


def header(text: bytes, claimed: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text


def write_payloads(folder: Path) -> dict[str, Path]:
    """The six files of S2 by what they are."""
    payload = Payload(folder / "executed")
    paths = {
        "pickle": folder / "pickled" / "model.safetensors",
        "pickled optimizer": folder / "pickled" / "training.safetensors",
        "object array": folder / "vectors.npy",
        "torch zip": folder / "zipped" / "model.safetensors",
        "nested JSON": folder / "state.json",
        "header of 2^60 bytes": folder / "claimed" / "model.safetensors",
    }
    for path in paths.values():
        path.parent.mkdir(exist_ok=True)
    paths["pickle"].write_bytes(pickle.dumps(payload))
    paths["pickled optimizer"].write_bytes(pickle.dumps({"state": payload}))
    np.save(paths["object array"], np.array([payload], dtype=object))
    torch.save({"weights": payload}, paths["torch zip"])
    paths["nested JSON"].write_bytes(NESTED)
    paths["header of 2^60 bytes"].write_bytes(header(b"{}", 2**60))
    return paths


READERS: dict[str, Callable[[Path], Any]] = {
    "tensors": files.load_tensors,
    "json": files.read_json,
    "table": files.read_table,
}


def measure(reader: str, path: Path) -> tuple[str, float, float]:
    """Run in a process of its own: the error, the seconds, and by how many MB the peak rose."""
    unit = 1 if sys.platform == "darwin" else 1024
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    try:
        READERS[reader](path)
        said = "it was read"
    except FileError as error:
        said = f"refused: {error}"
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return said, seconds, (peak - before) * unit / 1e6


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessPoolExecutor]:
    """A process that has read a good file of each kind, so that imports do not count."""
    good = tmp_path_factory.mktemp("good")
    files.save_tensors(good / "tensors", {"w": torch.ones(3)})
    files.write_json(good / "json", {})
    write_table(good / "table")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        for name in READERS:
            assert pool.submit(measure, name, good / name).result()[0] == "it was read"
        yield pool


@pytest.mark.parametrize("reader", READERS)
def test_S2_six_payloads_are_refused(
    tmp_path: Path, child: ProcessPoolExecutor, reader: str
) -> None:
    payloads = write_payloads(tmp_path)
    assert len(payloads) == 6
    for name, path in payloads.items():
        said, seconds, megabytes = child.submit(measure, reader, path).result()
        assert said.startswith(f"refused: {path}") and "\n" not in said, name
        assert seconds < 1 and megabytes < 200, name
    assert not (tmp_path / "executed").exists()


def test_S2_the_payload_works_where_it_is_believed(tmp_path: Path) -> None:
    pickle.loads(write_payloads(tmp_path)["pickle"].read_bytes())
    assert (tmp_path / "executed").exists()


def one_tensor(**entry: object) -> bytes:
    tensor = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1], **entry}
    return header(json.dumps({"w": tensor}).encode()) + b"x"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 8,
        header(b"{}", 2**64 - 1),
        header(b"{}", 3),
        header(b"[]"),
        header(b'{"w":' * 100_000),
        one_tensor(data_offsets=[0, 2]),
        one_tensor(data_offsets=[1, 2]),
        one_tensor(shape=[2]),
        one_tensor(shape=[-1]),
        one_tensor(shape=[2**62, 4]),
        one_tensor(shape=[0, 2**62, 4], data_offsets=[0, 0])[:-1],  # torch: the stride overflows
        one_tensor(shape=[2**63, 0], data_offsets=[0, 0])[:-1],  # torch: no such number
        one_tensor(dtype="F99"),
        one_tensor(dtype="F4", shape=[2]),  # known to the format, unknown to torch
    ],
)
def test_damaged_tensors_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(FileError, match=r"model\.safetensors") as error:
        files.load_tensors(tmp_path / "model.safetensors")
    assert "\n" not in str(error.value)


@settings(max_examples=200, deadline=None)
@given(cut=st.integers(0, 200), flips=st.lists(st.integers(0, 8 * 150), max_size=3))
def test_no_bytes_raise_anything_else(cut: int, flips: list[int]) -> None:
    data = bytearray(files.tensors_to_bytes({"weight": torch.ones(3), "b": torch.zeros(2, 2)}))
    for bit in flips:
        data[bit // 8 % len(data)] ^= 1 << bit % 8
    try:
        files.tensors_from_bytes(bytes(data[: max(0, len(data) - cut)]), Path("weights"))
    except FileError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"nan'", b"\xff\xfe\x00", b'{"a":' * 10**5, b"1" * 10**5]
)
def test_damaged_json_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(FileError, match=r"x\.json"):
        files.read_json(tmp_path / "x.json")


def test_json_has_a_largest_size(tmp_path: Path) -> None:
    with (tmp_path / "x.json").open("wb") as file:
        file.truncate(2**40)  # a terabyte of zeros that takes no room
    with pytest.raises(FileError, match="larger than 64 MiB"):
        files.read_json(tmp_path / "x.json")


def test_a_terabyte_of_something_else_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 2**39))
        file.truncate(2**40)
    with pytest.raises(FileError, match="not a safetensors file"):
        files.load_tensors(tmp_path / "model.safetensors")


@pytest.mark.timeout(10)
@pytest.mark.parametrize("kind", ["absent", "folder", "pipe", "endless device", "loop", "text"])
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_such_file_is_refused(tmp_path: Path, reader: str, kind: str) -> None:
    path = tmp_path / "file"
    {
        "absent": lambda: None,
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "endless device": lambda: path.symlink_to("/dev/zero"),
        "loop": lambda: path.symlink_to(path.name),
        "text": lambda: path.write_text("hello\nworld"),
    }[kind]()
    with pytest.raises(FileError, match="file") as error:
        READERS[reader](path)
    assert "\n" not in str(error.value)


# S3: names.

HOSTILE = [
    "../../etc/passwd",
    "a/../../etc/passwd",
    "..",
    "/etc/passwd",
    "//etc/passwd",
    r"C:\x",
    "C:x",
    r"..\..\windows\system.ini",
    r"\\server\share\x",
    "a\0b",
    "link/passwd",  # a link out of the folder
    "circle/x",  # a link to itself
]


def root_of_names(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "circle").symlink_to("circle")
    (root / "inner").symlink_to("sub")
    return root


@pytest.mark.parametrize("name", [*HOSTILE, "", "\ud800", r"\x"])
def test_S3_hostile_names_are_refused(tmp_path: Path, name: str) -> None:
    assert len(HOSTILE) == 12
    with pytest.raises(FileError, match="leads out of") as error:
        files.path_inside(root_of_names(tmp_path), name)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "name",
    ["a.jpg", "sub/a b.jpg", "inner/x", "absent/x.png", "...", "..a", "a..b", "-x", "é\n🐟", "~"],
)
def test_names_that_stay_inside_are_kept(tmp_path: Path, name: str) -> None:
    root = root_of_names(tmp_path)
    assert files.path_inside(root, name) == root / name


def test_a_name_that_is_no_utf8_stays_inside(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    assert files.path_inside(root_of_names(tmp_path), name).name == name


def test_a_root_that_is_a_link_itself(tmp_path: Path) -> None:
    (tmp_path / "shortcut").symlink_to(root_of_names(tmp_path))
    assert files.path_inside(tmp_path / "shortcut", "sub/x") == tmp_path / "shortcut" / "sub" / "x"


# What may be written to.


def make_run(out: Path) -> None:
    out.mkdir()
    (out / "config.yaml").write_text("x")


@pytest.mark.parametrize("deep", ["run", "a/b/run"])
def test_a_new_place_may_be_claimed(tmp_path: Path, deep: str) -> None:
    outputs.claim(tmp_path / deep, "a run", overwrite=False)
    assert (tmp_path / deep).parent.is_dir() and list((tmp_path / deep).parent.iterdir()) == []


def test_an_empty_folder_may_be_claimed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    outputs.claim(tmp_path / "run", "a run", overwrite=False)
    assert (tmp_path / "run").is_dir()


def broken_link(out: Path) -> None:
    out.symlink_to("nowhere")


@pytest.mark.parametrize("make", [make_run, broken_link])
def test_what_exists_is_kept_unless_it_may_be_overwritten(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    out = tmp_path / "run"
    make(out)
    with pytest.raises(FileError, match=r"run exists: .*--overwrite"):
        outputs.claim(out, "a run", overwrite=False)
    assert os.path.lexists(out)
    outputs.claim(out, "a run", overwrite=True)
    assert list(tmp_path.iterdir()) == []


def test_overwriting_a_link_leaves_what_it_points_to(tmp_path: Path) -> None:
    make_run(tmp_path / "precious")
    (tmp_path / "run").symlink_to(tmp_path / "precious")
    outputs.claim(tmp_path / "run", "a run", overwrite=True)
    assert (tmp_path / "precious" / "config.yaml").exists()
    assert not (tmp_path / "run").is_symlink()


def test_nothing_is_removed_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "run")
    monkeypatch.setattr(Path, "touch", full)
    with pytest.raises(FileError, match="cannot be written to"):
        outputs.claim(tmp_path / "run", "a run", overwrite=True)
    assert (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize(
    "names",
    [["a.jpg"], ["sub/a.jpg", "notes.txt"], ["run/a.jpg"], ["config.yaml", "precious.txt"]],
)
def test_the_images_themselves_are_not_overwritten(tmp_path: Path, names: list[str]) -> None:
    """selftaught pretrain photos --out photos --overwrite."""
    for name in names:
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).touch()
    with pytest.raises(FileError, match=r"did not write.*: choose another --out"):
        outputs.claim(tmp_path / "photos", "a run", overwrite=True)
    assert all((tmp_path / "photos" / name).exists() for name in names)


MADE: dict[outputs.Kind, list[str]] = {  # files of a folder of each kind
    "a run": ["config.yaml", "images.parquet", "checkpoints/000010/model.safetensors", "log.txt"],
    "a check": ["config.yaml", "images.parquet", "rejected.parquet", "check.json"],
    "a demo": ["check/config.yaml", "run/config.yaml", "deepcluster/config.yaml", "report.html"],
    "an encoder": ["config.json", "model.safetensors", "README.md"],
    "an index": [".lock", "index.json", "parts/000000/rows.parquet"],
    "clusters": ["clusters.json", "clusters.safetensors", "assignments.parquet", "report.html"],
    "a classifier": ["classifier.json", "classifier.safetensors", "ask.csv", "ask.html"],
}


def make(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("kind", MADE)
def test_a_folder_of_ours_is_overwritten_by_its_kind_alone(
    tmp_path: Path, kind: outputs.Kind
) -> None:
    """selftaught cluster v.parquet --out RUN --overwrite deleted the run."""
    out = make(tmp_path / "out", MADE[kind])
    for other in MADE.keys() - {kind}:
        with pytest.raises(FileError, match=f"out contains {kind}, not {other}: choose another"):
            outputs.claim(out, other, overwrite=True)
    assert all((out / name).exists() for name in MADE[kind])
    outputs.claim(out, kind, overwrite=True)
    assert list(tmp_path.iterdir()) == []


def test_what_two_kinds_share_is_overwritten_by_neither(tmp_path: Path) -> None:
    out = make(tmp_path / "out", ["clusters.json", "index.json"])
    with pytest.raises(FileError, match="the output of another command, not clusters"):
        outputs.claim(out, "clusters", overwrite=True)


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("names", [[".lock"], [".lock", ".out.tmp-1-ab"], []])
def test_a_folder_with_nothing_in_it_yet_may_be_anything(
    tmp_path: Path, kind: outputs.Kind, names: list[str]
) -> None:
    (tmp_path / "out").mkdir()
    outputs.check_out(make(tmp_path / "out", names), kind, overwrite=True)


PARTS = [
    ("clusters", "assignments.parquet"),
    ("clusters", "names.csv"),
    ("clusters", "clusters.json"),
    ("a classifier", "ask.csv"),
    ("a run", "images.parquet"),
    ("a run", "report.html"),
    ("a run", "checkpoints/000010/model.safetensors"),
    ("an index", "parts/000000/rows.parquet"),
    ("an encoder", "model.safetensors"),
    ("a check", "rejected.parquet"),
]


@pytest.mark.parametrize(("kind", "name"), PARTS)
@pytest.mark.parametrize("overwrite", [False, True])
def test_no_file_is_written_over_a_part_of_a_folder_of_ours(
    tmp_path: Path, kind: outputs.Kind, name: str, overwrite: bool
) -> None:
    """selftaught embed RUN DATA --out CLUSTERS/names.csv --overwrite."""
    out = make(tmp_path / "out", MADE[kind])
    (tmp_path / "link").symlink_to("out/" + str(Path(name).parent))
    for path in (out / name, tmp_path / "link" / Path(name).name):
        with pytest.raises(FileError, match=f"is part of {kind} .*choose another --out"):
            outputs.check_out(path, "a file", overwrite=overwrite)


@pytest.mark.parametrize("kind", MADE)
def test_other_files_may_lie_in_a_folder_of_ours(tmp_path: Path, kind: outputs.Kind) -> None:
    out = make(tmp_path / "out", [*MADE[kind], "vectors.parquet"])
    outputs.check_out(out / "new.csv", "a file", overwrite=False)
    outputs.check_out(out / "vectors.parquet", "a file", overwrite=True)
    plain = make(tmp_path / "plain", ["names.csv", "images.parquet", "checkpoints/x.csv"])
    for name in ("names.csv", "images.parquet", "checkpoints/x.csv"):
        outputs.check_out(plain / name, "a file", overwrite=True)


@pytest.mark.parametrize("kind", ["a run", "clusters", "a file"])
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["/", "//", ".", ".."])
def test_a_folder_that_stays_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    overwrite: bool,
    kind: outputs.Kind,
) -> None:
    """selftaught cluster v.parquet --out / was a traceback, and so was an empty folder's dot."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(FileError, match=r"--out|choose a file name"):
        outputs.claim(Path(name), kind, overwrite=overwrite)
    with pytest.raises(FileError, match=f"--copy-to {name[0]}.* exists"):
        outputs.check_new(Path(name), "--copy-to")
    assert (tmp_path / "here").exists()


def test_of_two_new_folders_of_one_name_the_later_one_says_so(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (
        pytest.raises(FileError, match="out exists"),
        outputs.new_output(out, "clusters", overwrite=False) as part,
    ):
        make(part, ["clusters.json"])
        make(out, ["clusters.json"])
    (out / "clusters.json").unlink()
    with (
        pytest.raises(FileError, match=r"in the way \(Not a directory"),
        outputs.new_output(tmp_path / "link", "clusters", overwrite=False) as part,
    ):
        (tmp_path / "link").symlink_to(out)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["link", "out"]


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.mkdir", "pathlib.Path.rename"])
def test_a_folder_that_cannot_be_written_is_named_as_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """selftaught cluster v.parquet --out /sys/x named /sys/..x.tmp-1-ab.tmp-1-cd."""

    def fails(place: object, *_: object, **__: object) -> None:
        where = () if isinstance(place, int) else (str(place),)
        raise OSError(errno.ENOSPC, "No space left on device", *where)

    monkeypatch.setattr(call, fails)
    with (
        pytest.raises(OSError, match="No space") as error,
        outputs.new_output(tmp_path / "out", "clusters", overwrite=False) as part,
    ):
        files.write_text(part / "clusters.json", "{}")
    assert error.value.filename == str(tmp_path / "out")


def test_a_copy_on_a_full_disk_names_where_it_should_go(tmp_path: Path) -> None:
    """shutil.copy2 names the source before the copy."""
    with (
        pytest.raises(OSError, match="No space") as error,
        files.new_folder(tmp_path / "out") as part,
    ):
        raise OSError(errno.ENOSPC, "No space left on device", "a.png", None, str(part / "a.png"))
    assert (error.value.filename, error.value.filename2) == (str(tmp_path / "out"), None)
    with (
        pytest.raises(OSError, match="denied") as error,
        files.new_folder(tmp_path / "out") as part,
    ):
        raise PermissionError(errno.EACCES, "Permission denied", "a.png")
    assert error.value.filename == "a.png"


@pytest.mark.parametrize("kind", WRITERS)
def test_a_write_that_fails_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space") as error:
        WRITERS[kind](tmp_path / "file")
    assert error.value.filename == str(tmp_path / "file")


@pytest.mark.parametrize("name", ["file/run", "file/a/b", "x" * 300, "circle/run"])
def test_a_place_that_cannot_be(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(FileError, match=r"cannot be written to .*choose another --out") as error:
        outputs.claim(tmp_path / name, "a run", overwrite=False)
    assert "\n" not in str(error.value)
    assert (tmp_path / "file").exists()


@pytest.mark.parametrize("name", ["absent", "file"])
def test_a_place_that_cannot_be_locked(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot be written to"), files.folder_lock(tmp_path / name):
        pytest.fail("it is not locked")


def test_a_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), files.folder_lock(tmp_path):
        raise RuntimeError
    with files.folder_lock(tmp_path):
        pass


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(FileError, match="No locks available"), files.folder_lock(tmp_path):
        pytest.fail("it is not locked")


def test_a_file_is_not_overwritten_by_a_folder(tmp_path: Path) -> None:
    """selftaught pretrain photos --out list.txt --overwrite deleted list.txt."""
    (tmp_path / "list.txt").write_text("a.jpg")
    with pytest.raises(FileError, match="is a file"):
        outputs.claim(tmp_path / "list.txt", "a run", overwrite=True)
    assert (tmp_path / "list.txt").read_text() == "a.jpg"


def test_a_path_in_a_command_can_be_pasted(tmp_path: Path) -> None:
    assert files.shell_word(Path("my run/ö")) == "'my run/ö'"
    assert files.shell_word(Path("run/a-b")) == "run/a-b"
