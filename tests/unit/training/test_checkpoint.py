"""A2, A3 and what else checkpoints promise, short of killing the process that writes them."""

import errno
import json
import os
import random
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from selftaught.errors import FileError, StopRun
from selftaught.foundation import files
from selftaught.training import checkpoint
from selftaught.training.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint

NAMES = ["manifest.json", "model.safetensors", "state.json", "training.safetensors"]


def some(step: int) -> Checkpoint:
    """A checkpoint whose every part tells its step."""
    generator = torch.Generator().manual_seed(step)
    weight = torch.randn(20, 30, generator=generator)
    model = {"encoder.weight": weight, "encoder.steps": torch.tensor(step)}
    return Checkpoint(step, {"epoch": step // 10}, model, {"encoder.weight/momentum": weight * 2})


def assert_same(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == expected[name].dtype and tensor.shape == expected[name].shape
        assert torch.equal(tensor, expected[name].cpu()), name


def assert_is(found: Checkpoint | None, expected: Checkpoint) -> None:
    assert found is not None
    assert (found.step, found.state) == (expected.step, expected.state)
    assert_same(found.model, expected.model)
    assert_same(found.training, expected.training)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """RUN/checkpoints with those of steps 10 and 20."""
    for step in (10, 20):
        save_checkpoint(tmp_path / "checkpoints", some(step))
    return tmp_path / "checkpoints"


def test_what_is_read_is_what_was_saved(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    model = {
        "strided": base.T,
        "shares memory": base[1:3],
        "scalar": torch.tensor(3),
        "empty": torch.empty(0, 5),
        "half": torch.tensor([1.5, float("nan"), float("inf")]).to(torch.bfloat16).nan_to_num(7.0),
        "flags": torch.tensor([True, False]),
        "double": torch.tensor([0.1], dtype=torch.float64),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "name with / and é": torch.zeros(1, dtype=torch.uint8),
    }
    state = {"epoch": 3, "lr": 0.1 + 0.2, "words": ["é", "\n"], "nothing": None, "deep": {"a": [1]}}
    path = save_checkpoint(tmp_path / "checkpoints", Checkpoint(612, state, model, {}))
    assert path == tmp_path / "checkpoints" / "000612"
    assert sorted(file.name for file in path.iterdir()) == NAMES
    found, sentences = newest_checkpoint(tmp_path / "checkpoints")
    assert sentences == []
    assert_is(found, Checkpoint(612, state, model, {}))


def test_nan_keeps_its_bits(tmp_path: Path) -> None:
    bits = torch.tensor([0x7FC00001, -1, 0], dtype=torch.int32)
    save_checkpoint(
        tmp_path / "checkpoints", Checkpoint(1, {}, {"w": bits.view(torch.float32)}, {})
    )
    found, _ = newest_checkpoint(tmp_path / "checkpoints")
    assert found is not None and torch.equal(found.model["w"].view(torch.int32), bits)


def test_saving_leaves_the_tensors_alone(tmp_path: Path) -> None:
    ours = some(5)
    save_checkpoint(tmp_path / "checkpoints", ours)
    assert_is(ours, some(5))


@pytest.mark.parametrize("make", [True, False])
def test_where_there_is_none(tmp_path: Path, make: bool) -> None:
    if make:
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / ".000005.tmp-1-aa").mkdir()
        (tmp_path / "checkpoints" / "notes").mkdir()
    assert newest_checkpoint(tmp_path / "checkpoints") == (None, [])


def steps(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_two_stay(tmp_path: Path) -> None:
    for step in (1, 2, 30, 999_999, 1_000_000):  # the order is that of numbers, not of names
        save_checkpoint(tmp_path / "checkpoints", some(step))
    assert steps(tmp_path / "checkpoints") == ["1000000", "999999"]
    found, _ = newest_checkpoint(tmp_path / "checkpoints")
    assert_is(found, some(1_000_000))


def damage(path: Path) -> None:
    file = path / "training.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")


def test_the_newest_two_that_verify_stay(folder: Path) -> None:
    damage(folder / "000020")
    save_checkpoint(folder, some(30))
    assert steps(folder) == ["000010", "000020", "000030"]
    damage(folder / "000030")
    found, sentences = newest_checkpoint(folder)
    assert_is(found, some(10))
    assert len(sentences) == 2
    save_checkpoint(folder, some(40))
    save_checkpoint(folder, some(50))
    assert steps(folder) == ["000040", "000050"]


def test_what_is_newer_than_the_one_saved_is_left_alone(folder: Path) -> None:
    """A run that went on from step 10, as 20 was damaged, is at 15."""
    damage(folder / "000020")
    save_checkpoint(folder, some(15))
    assert steps(folder) == ["000010", "000015", "000020"]
    assert_is(newest_checkpoint(folder)[0], some(15))
    save_checkpoint(folder, some(20))
    assert steps(folder) == ["000015", "000020"]
    assert_is(newest_checkpoint(folder)[0], some(20))


def test_one_of_the_same_step_is_replaced(folder: Path) -> None:
    other = Checkpoint(20, {"complete": True}, {"w": torch.ones(3)}, {})
    save_checkpoint(folder, other)
    assert steps(folder) == ["000010", "000020"]
    assert_is(newest_checkpoint(folder)[0], other)


def test_killed_while_one_of_the_same_step_is_replaced(folder: Path) -> None:
    """Between the two renames the only good one may have its other name."""
    shutil.rmtree(folder / "000010")
    (folder / "000020").rename(folder / "000020.old")
    found, sentences = newest_checkpoint(folder)
    assert sentences == []
    assert_is(found, some(20))
    shutil.copytree(folder / "000020.old", folder / "000020")  # or after them
    save_checkpoint(folder, some(20))
    assert steps(folder) == ["000020"]


def files_and_sizes(path: Path) -> list[tuple[str, int]]:
    return [(name, (path / name).stat().st_size) for name in NAMES]


def assert_noticed(folder: Path) -> None:
    """The damage of 20 is said in a sentence, and 10 is taken."""
    found, sentences = newest_checkpoint(folder)
    assert_is(found, some(10))
    (sentence,) = sentences
    assert str(folder / "000020") in sentence and "damaged" in sentence and "\n" not in sentence
    assert not checkpoint._is_intact(folder / "000020")


def bit_flips() -> list[tuple[str, float, int]]:
    """64 seeded places, 16 a file: name, offset as a share of the size, bit. Both ends are in."""
    draw = random.Random(0)
    shares = [0.0, 0.999999, *(draw.random() for _ in range(14))]
    return [(name, share, draw.randrange(8)) for name in NAMES for share in shares]


def test_A2_every_flipped_bit_is_noticed(folder: Path) -> None:
    noticed = 0
    for name, share, bit in bit_flips():
        file = folder / "000020" / name
        good = file.read_bytes()
        bad = bytearray(good)
        bad[int(share * len(bad))] ^= 1 << bit
        file.write_bytes(bad)
        assert_noticed(folder)
        file.write_bytes(good)
        noticed += 1
    assert noticed == 64
    assert_is(newest_checkpoint(folder)[0], some(20))


def test_A2_every_flipped_bit_of_a_manifest_is_noticed(folder: Path) -> None:
    """The manifest vouches for the others, and nothing for it: here all its bits, one by one."""
    file = folder / "000020" / "manifest.json"
    good = file.read_bytes()
    for offset in range(0, len(good), 7):
        for bit in range(8):
            bad = bytearray(good)
            bad[offset] ^= 1 << bit
            file.write_bytes(bad)
            assert newest_checkpoint(folder)[0].step == 10  # type: ignore[union-attr]


def test_A3_every_truncation_is_noticed(folder: Path) -> None:
    draw, noticed = random.Random(1), 0
    for name, size in files_and_sizes(folder / "000020"):
        file = folder / "000020" / name
        good = file.read_bytes()
        for length in [0, size - 1, *(draw.randrange(1, size - 1) for _ in range(6))]:
            file.write_bytes(good[:length])
            assert_noticed(folder)
            noticed += 1
        file.write_bytes(good)
    assert noticed == 32
    assert_is(newest_checkpoint(folder)[0], some(20))


@pytest.mark.parametrize("name", NAMES)
def test_A3_a_missing_file_is_noticed(folder: Path, name: str) -> None:
    (folder / "000020" / name).unlink()
    assert_noticed(folder)
    assert name in newest_checkpoint(folder)[1][0]


@pytest.mark.parametrize("name", ["extra.txt", ".hidden", "model.safetensors.bak"])
def test_A3_an_extra_file_is_noticed(folder: Path, name: str) -> None:
    (folder / "000020" / name).touch()
    assert_noticed(folder)
    assert name in newest_checkpoint(folder)[1][0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["folder", "pipe", "endless device", "loop"])
def test_what_is_no_regular_file_is_noticed(folder: Path, name: str, kind: str) -> None:
    file = folder / "000020" / name
    file.unlink()
    {
        "folder": file.mkdir,
        "pipe": lambda: os.mkfifo(file),
        "endless device": lambda: file.symlink_to("/dev/zero"),
        "loop": lambda: file.symlink_to(file.name),
    }[kind]()
    assert_noticed(folder)


def test_a_file_in_the_place_of_a_checkpoint_is_noticed(folder: Path) -> None:
    shutil.rmtree(folder / "000020")
    (folder / "000020").write_text("x")
    assert_noticed(folder)
    save_checkpoint(folder, some(20))
    assert steps(folder) == ["000010", "000020"]


def test_files_of_two_checkpoints_do_not_mix(folder: Path) -> None:
    shutil.copy(folder / "000010" / "model.safetensors", folder / "000020" / "model.safetensors")
    assert_noticed(folder)


def test_a_renamed_checkpoint_is_noticed(folder: Path) -> None:
    (folder / "000020").rename(folder / "000021")
    found, (sentence,) = newest_checkpoint(folder)
    assert_is(found, some(10))
    assert "written as step 20" in sentence


def test_all_damaged(folder: Path) -> None:
    damage(folder / "000010")
    damage(folder / "000020")
    found, sentences = newest_checkpoint(folder)
    assert found is None
    assert [
        str(folder / name) in s for name, s in zip(["000020", "000010"], sentences, strict=True)
    ]


def forge(path: Path, name: str, data: bytes) -> None:
    """Replace a file, and vouch for it in the manifest."""
    (path / name).write_bytes(data)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": files.sha256(path / name), "size": len(data)}
    (path / "manifest.json").write_bytes(files.json_bytes(manifest))


@pytest.mark.parametrize("name", NAMES[1:])
@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b"[" * 10**6, b'{"step": 20, "state": []}', b"\xff" * 100, b"3"],
    ids=["empty", "list", "object", "nested", "no state", "header", "number"],
)
def test_an_invalid_file_that_its_manifest_vouches_for(
    folder: Path, name: str, data: bytes
) -> None:
    """Somebody wrote it on purpose; it does no harm."""
    forge(folder / "000020", name, data)
    found, sentences = newest_checkpoint(folder)
    assert_is(found, some(10))
    assert len(sentences) == 1 and "\n" not in sentences[0]


@pytest.mark.parametrize(
    "text",
    [
        "[" * 10**6,
        "[]",
        "{}",
        '{"files": []}',
        '{"files": {"../../x": {}}}',
        '{"format": 2, "files": {}}',
    ],
    ids=["nested", "list", "object", "files", "names", "format"],
)
def test_a_manifest_of_another_form(folder: Path, text: str) -> None:
    (folder / "000020" / "manifest.json").write_text(text)
    assert_noticed(folder)


def test_another_format_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_FORMAT", 2)
    save_checkpoint(folder, some(30))
    monkeypatch.undo()
    found, (sentence,) = newest_checkpoint(folder)
    assert_is(found, some(20))
    assert "format" in sentence


FULL = [errno.ENOSPC, errno.EFBIG, errno.EDQUOT]


@pytest.mark.parametrize("number", [*FULL, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("call", ["pathlib.Path.write_bytes", "os.fsync", "pathlib.Path.rename"])
def test_a_disk_that_fails_stops_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(call, fail)
    with pytest.raises(StopRun) as stop:
        save_checkpoint(folder, some(30))
    monkeypatch.undo()
    assert str(folder) in str(stop.value) and "step 20 is untouched" in str(stop.value)
    assert ("is full" in str(stop.value)) == (number in FULL)
    assert "disk" in str(stop.value) and "\n" not in str(stop.value)
    assert steps(folder) == ["000010", "000020"]
    assert_is(newest_checkpoint(folder)[0], some(20))


def test_a_disk_that_fails_before_the_first_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(StopRun, match="no earlier checkpoint"):
        save_checkpoint(tmp_path / "checkpoints", some(30))


def test_a_disk_that_fails_while_one_is_replaced(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that was there already has its other name, and is still found."""
    shutil.rmtree(folder / "000010")

    def fail(_: int) -> None:
        if (folder / "000020.old").exists():
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(StopRun, match="step 20 is untouched"):
        save_checkpoint(folder, some(20))
    monkeypatch.undo()
    assert_is(newest_checkpoint(folder)[0], some(20))


def test_a_run_that_is_gone_is_not_made_again(folder: Path) -> None:
    shutil.rmtree(folder.parent)
    with pytest.raises(FileError, match="no longer exists"):
        save_checkpoint(folder, some(30))
    assert not folder.parent.exists()


def test_a_folder_of_checkpoints_that_is_gone_is_made_again(folder: Path) -> None:
    shutil.rmtree(folder)
    save_checkpoint(folder, some(30))
    assert_is(newest_checkpoint(folder)[0], some(30))


def test_an_interrupt_leaves_nothing_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(folder, some(30))
    assert steps(folder) == ["000010", "000020"]


def test_the_pause_of_the_kill_tests(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    monkeypatch.setenv("SELFTAUGHT_CHECKPOINT_PAUSE", "0.25")
    save_checkpoint(folder, some(30))
    assert pauses == [0.25] * 4  # after each file


def test_everything_is_synced_before_it_has_its_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files and folder first, then the rename, then the folder around it."""
    events: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def note_fsync(handle: int) -> None:
        events.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name.partition(".tmp")[0])
        fsync(handle)

    def note_rename(path: Path, target: Path) -> Path:
        events.append(f"{target.name} there")
        return rename(path, target)

    monkeypatch.setattr("os.fsync", note_fsync)
    monkeypatch.setattr(Path, "rename", note_rename)
    save_checkpoint(folder, some(30))
    there = events.index("000030 there")
    assert {*NAMES, ".000030"} <= set(events[:there])
    assert events[there + 1] == "checkpoints"
