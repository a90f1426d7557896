"""Checkpoints that are whole or absent.

RUN/checkpoints/000612/ holds the state after 612 steps: model.safetensors (the method's weights and
buffers), training.safetensors (the optimizer's state), state.json (numbers), and manifest.json with
the size and SHA-256 of each. A checkpoint is written under a temporary name and renamed, and read
only if every byte is as written. A process killed at any moment leaves the earlier checkpoints, or
those and a new one.
"""

import contextlib
import errno
import hashlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selftaught.errors import FileError, StopRun
from selftaught.foundation import files

if TYPE_CHECKING:
    from torch import Tensor

MODEL, TRAINING, STATE, MANIFEST = (
    "model.safetensors",
    "training.safetensors",
    "state.json",
    "manifest.json",
)
_FORMAT = 1
_MANIFEST_LIMIT = 2**20  # bytes; a usual manifest has about 500
_NAME = re.compile(r"(\d{6,})(\.old)?", re.ASCII)


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after `step` steps: all that it needs to continue bit for bit."""

    step: int
    state: dict[str, Any]
    """Values that JSON can hold."""
    model: "dict[str, Tensor]"
    training: "dict[str, Tensor]"


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write RUN/checkpoints/000612/, whole or not at all, and keep one intact earlier checkpoint.

    Tensors are copied to the CPU; on reading, they have the same bits and types. A checkpoint of
    the same step is replaced. For tests of kills, SELFTAUGHT_CHECKPOINT_PAUSE=0.1 in the
    environment pauses for that many seconds after each file.

    Args:
        folder: RUN/checkpoints; created if missing. RUN must exist.
        checkpoint: The checkpoint to write.

    Returns:
        The folder of the checkpoint.

    Raises:
        StopRun: The disk is full or fails; the earlier checkpoints are untouched.
        FileError: RUN no longer exists.
    """
    path = folder / f"{checkpoint.step:06d}"
    try:
        _make_folder(folder)
        with files.new_folder(path) as part:
            _write_files(part, checkpoint)
            _set_aside(path)
    except OSError as error:
        raise _save_error(folder, checkpoint.step, error) from error
    _remove_older(folder, path)
    return path


def newest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest intact checkpoint, and a sentence about each newer one that is damaged.

    Args:
        folder: RUN/checkpoints; it need not exist.
    """
    damaged: list[str] = []
    for path in _checkpoint_paths(folder):
        try:
            return _read(path), damaged
        except FileError as error:
            damaged.append(f"{path} is damaged and was skipped: {error.what}.")
    return None, damaged


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir()
        files.sync_folder(folder.parent)


def _write_files(part: Path, checkpoint: Checkpoint) -> None:
    """Write the three files, and the manifest last."""
    entries = {}
    for name, data in _contents(checkpoint):
        _write_file(part / name, data)
        entries[name] = _entry(len(data), hashlib.sha256(data).hexdigest())
    _write_file(part / MANIFEST, _manifest(entries))


def _contents(checkpoint: Checkpoint) -> Iterator[tuple[str, bytes]]:
    """One file's bytes at a time, so that memory holds only one copy of the larger file."""
    yield MODEL, files.tensors_to_bytes(checkpoint.model)
    yield TRAINING, files.tensors_to_bytes(checkpoint.training)
    yield STATE, files.json_bytes({"step": checkpoint.step, "state": checkpoint.state})


def _write_file(path: Path, data: bytes) -> None:
    path.write_bytes(data)  # synced with the folder
    time.sleep(float(os.environ.get("SELFTAUGHT_CHECKPOINT_PAUSE", "0")))


def _entry(size: int, sha256: str) -> dict[str, Any]:
    return {"sha256": sha256, "size": size}


def _manifest(entries: dict[str, dict[str, Any]]) -> bytes:
    return files.json_bytes({"format": _FORMAT, "files": entries})


def _set_aside(path: Path) -> None:
    """Rename an existing checkpoint of the same step; `_checkpoint_paths` still finds it."""
    if path.exists():
        files.remove(_aside_path(path))
        path.rename(_aside_path(path))


def _aside_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.old")


def _checkpoint_paths(folder: Path) -> list[Path]:
    """Folders of checkpoints, intact or damaged, the newest first."""
    paths = [path for path in folder.glob("*") if _NAME.fullmatch(path.name)]
    return sorted(paths, key=lambda path: (_step(path), not path.suffix), reverse=True)


def _step(path: Path) -> int:
    return int(path.name.removesuffix(".old"))


def _remove_older(folder: Path, new: Path) -> None:
    """Keep the newest intact older checkpoint, and any damaged ones between it and the new one."""
    files.remove(_aside_path(new))
    older = [path for path in _checkpoint_paths(folder) if _step(path) < _step(new)]
    while len(older) > 1 and not _is_intact(older[0]):
        older.pop(0)
    for path in older[1:]:
        files.remove(path)


def _is_intact(path: Path) -> bool:
    """Whether every byte is as written; does not hold the files in memory."""
    with contextlib.suppress(OSError, FileError):
        _check_names(path)
        entries = {
            name: _entry((path / name).stat().st_size, files.sha256(path / name))
            for name in (MODEL, TRAINING, STATE)
        }
        return files.read_bytes(path / MANIFEST, _MANIFEST_LIMIT) == _manifest(entries)
    return False


def _read(path: Path) -> Checkpoint:
    """A checkpoint whose every byte is as written; each file is read once.

    Raises:
        FileError: It is damaged; `what` says which file and how.
    """
    _check_names(path)
    manifest = files.read_bytes(path / MANIFEST, _MANIFEST_LIMIT)
    expected = _manifest_entries(files.json_from_bytes(manifest, path / MANIFEST))
    entries: dict[str, dict[str, Any]] = {}
    data = _verified_bytes(path, MODEL, expected, entries)
    model = files.tensors_from_bytes(data, path / MODEL)
    data = _verified_bytes(path, TRAINING, expected, entries)
    training = files.tensors_from_bytes(data, path / TRAINING)
    data = _verified_bytes(path, STATE, expected, entries)
    content = files.json_from_bytes(data, path / STATE)
    if manifest != _manifest(entries):
        raise _damage_error(f"{MANIFEST} is corrupted")
    return Checkpoint(_step(path), _state(content, _step(path)), model, training)


def _state(content: Any, step: int) -> dict[str, Any]:
    state = content.get("state") if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise _damage_error(f"{STATE} holds no state")
    if content.get("step") != step:
        raise _damage_error(f"it was written as step {content.get('step')}")
    return state


def _check_names(path: Path) -> None:
    """Check that the folder holds the four regular files and nothing else."""
    try:
        names, expected = set(os.listdir(path)), {MODEL, TRAINING, STATE, MANIFEST}
    except OSError as error:
        raise _damage_error(f"it cannot be listed ({error.strerror})") from None
    if missing := [name for name in sorted(expected) if not (path / name).is_file()]:
        raise _damage_error(f"{missing[0]} is missing")
    if extra := names - expected:
        raise _damage_error(f"{min(extra)!r} does not belong to a checkpoint")


def _manifest_entries(manifest: Any) -> dict[str, Any]:
    """The manifest's entry for each file, not verified yet."""
    entries = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(entries, dict) or entries.keys() != {MODEL, TRAINING, STATE}:
        raise _damage_error(f"{MANIFEST} is corrupted")
    if manifest.get("format") != _FORMAT:
        raise _damage_error(f"the format in {MANIFEST} is not {_FORMAT}")
    return entries


def _verified_bytes(
    path: Path, name: str, expected: dict[str, Any], entries: dict[str, dict[str, Any]]
) -> bytes:
    """The bytes of one file, if they match the expected entry; adds the actual one to `entries`."""
    data = files.read_bytes(path / name)
    entry = entries[name] = _entry(len(data), hashlib.sha256(data).hexdigest())
    if expected[name] != entry:
        raise _damage_error(f"{name} is corrupted")
    return data


def _damage_error(how: str) -> FileError:
    return FileError(how, "the previous checkpoint is used")


def _save_error(folder: Path, step: int, error: OSError) -> Exception:
    """The error for a checkpoint that cannot be written."""
    run, reason = folder.parent, error.strerror or str(error)
    if not run.is_dir():
        return FileError(
            f"{run} no longer exists and step {step} cannot be saved", "start the run again"
        )
    before = next(filter(_is_intact, _checkpoint_paths(folder)), None)
    kept = (
        f"the checkpoint of step {_step(before)} is untouched: free some space or repair the disk, "
        f"then run selftaught resume {run}"
        if before
        else "no earlier checkpoint exists: free some space or repair the disk, then start again"
    )
    full = error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
    problem = "is full" if full else "cannot be written to"
    return StopRun(
        f"the disk of {folder} {problem} ({reason}) and step {step} was not saved; {kept}"
    )
