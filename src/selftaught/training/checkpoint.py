"""Checkpoints that are whole or absent.

RUN/checkpoints/000612/ holds the state after 612 steps: model.safetensors (the method's weights and
buffers), training.safetensors (the optimizer's state), state.json (numbers), and manifest.json, the
size and SHA-256 of each. A checkpoint is written under a temporary name and renamed; it is read
only where every byte is as it was written. A process that is killed at any moment leaves the
checkpoints that were there, or those and a new one.
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
_MANIFEST_LIMIT = 2**20  # bytes; ours have about 500
_NAME = re.compile(r"(\d{6,})(\.old)?", re.ASCII)


@dataclass(frozen=True)
class Checkpoint:
    """What a run is after `step` steps: all that it needs to go on bit for bit."""

    step: int
    state: dict[str, Any]
    """Plain values: what JSON can say."""
    model: "dict[str, Tensor]"
    training: "dict[str, Tensor]"


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write RUN/checkpoints/000612/, whole or not at all, and keep one good one before it.

    Tensors are copied to the CPU; on reading they come back with the same bits and types. A
    checkpoint of the same step is replaced. For tests of kills, SELFTAUGHT_CHECKPOINT_PAUSE=0.1 in
    the environment waits so many seconds after each file that is written.

    Args:
        folder: RUN/checkpoints; made where it does not exist. RUN must.
        checkpoint: What to write.

    Returns:
        The checkpoint's own folder.

    Raises:
        StopRun: The disk is full or fails; the checkpoints that were there are untouched.
        FileError: RUN is gone.
    """
    path = folder / f"{checkpoint.step:06d}"
    try:
        _make(folder)
        with files.new_folder(path) as part:
            _write(part, checkpoint)
            _set_aside(path)
    except OSError as error:
        raise _not_saved(folder, checkpoint.step, error) from error
    _remove_older(folder, path)
    return path


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that verifies, and a sentence on each newer one that does not.

    Args:
        folder: RUN/checkpoints. Where it does not exist there is no checkpoint.
    """
    damaged: list[str] = []
    for path in _found(folder):
        try:
            return _read(path), damaged
        except FileError as error:
            damaged.append(f"{path} is damaged and left out: {error.what}.")
    return None, damaged


def _make(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir()
        files.sync_folder(folder.parent)


def _write(part: Path, checkpoint: Checkpoint) -> None:
    """The three files, and their manifest last."""
    entries = {}
    for name, data in _contents(checkpoint):
        _put(part / name, data)
        entries[name] = _entry(len(data), hashlib.sha256(data).hexdigest())
    _put(part / MANIFEST, _manifest(entries))


def _contents(checkpoint: Checkpoint) -> Iterator[tuple[str, bytes]]:
    """One file's bytes at a time, so that memory holds one copy of the larger file only."""
    yield MODEL, files.tensors_to_bytes(checkpoint.model)
    yield TRAINING, files.tensors_to_bytes(checkpoint.training)
    yield STATE, files.json_bytes({"step": checkpoint.step, "state": checkpoint.state})


def _put(path: Path, data: bytes) -> None:
    path.write_bytes(data)  # synced with the folder
    time.sleep(float(os.environ.get("SELFTAUGHT_CHECKPOINT_PAUSE", "0")))


def _entry(size: int, sha256: str) -> dict[str, Any]:
    return {"sha256": sha256, "size": size}


def _manifest(entries: dict[str, dict[str, Any]]) -> bytes:
    return files.json_bytes({"format": _FORMAT, "files": entries})


def _set_aside(path: Path) -> None:
    """Make room for a checkpoint of the same step; `_found` still knows the one that was there."""
    if path.exists():
        files.remove(_aside(path))
        path.rename(_aside(path))


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.old")


def _found(folder: Path) -> list[Path]:
    """Checkpoints, whole or damaged, the newest first."""
    paths = [path for path in folder.glob("*") if _NAME.fullmatch(path.name)]
    return sorted(paths, key=lambda path: (_step(path), not path.suffix), reverse=True)


def _step(path: Path) -> int:
    return int(path.name.removesuffix(".old"))


def _remove_older(folder: Path, new: Path) -> None:
    """Keep the newest older one that verifies; what is damaged and newer than it stays too."""
    files.remove(_aside(new))
    older = [path for path in _found(folder) if _step(path) < _step(new)]
    while len(older) > 1 and not _is_intact(older[0]):
        older.pop(0)
    for path in older[1:]:
        files.remove(path)


def _is_intact(path: Path) -> bool:
    """Whether every byte is as it was written, without holding the files in memory."""
    with contextlib.suppress(OSError, FileError):
        _check_names(path)
        entries = {
            name: _entry((path / name).stat().st_size, files.sha256(path / name))
            for name in (MODEL, TRAINING, STATE)
        }
        return files.read_bytes(path / MANIFEST, _MANIFEST_LIMIT) == _manifest(entries)
    return False


def _read(path: Path) -> Checkpoint:
    """A checkpoint whose every byte is as it was written; each file is read once.

    Raises:
        FileError: It is damaged; `what` says which file, and how.
    """
    _check_names(path)
    manifest = files.read_bytes(path / MANIFEST, _MANIFEST_LIMIT)
    named = _named(files.json_from_bytes(manifest, path / MANIFEST))
    entries: dict[str, dict[str, Any]] = {}
    model = files.tensors_from_bytes(_verified(path, MODEL, named, entries), path / MODEL)
    training = files.tensors_from_bytes(_verified(path, TRAINING, named, entries), path / TRAINING)
    said = files.json_from_bytes(_verified(path, STATE, named, entries), path / STATE)
    if manifest != _manifest(entries):
        raise _damaged(f"{MANIFEST} is not as it was written")
    return Checkpoint(_step(path), _state(said, _step(path)), model, training)


def _state(said: Any, step: int) -> dict[str, Any]:
    state = said.get("state") if isinstance(said, dict) else None
    if not isinstance(state, dict):
        raise _damaged(f"{STATE} holds no state")
    if said.get("step") != step:
        raise _damaged(f"it was written as step {said.get('step')}")
    return state


def _check_names(path: Path) -> None:
    """Its four files are there, regular files all, and nothing else is."""
    try:
        names, expected = set(os.listdir(path)), {MODEL, TRAINING, STATE, MANIFEST}
    except OSError as error:
        raise _damaged(f"it cannot be listed ({error.strerror})") from None
    if missing := [name for name in sorted(expected) if not (path / name).is_file()]:
        raise _damaged(f"{missing[0]} is missing")
    if extra := names - expected:
        raise _damaged(f"{min(extra)!r} does not belong to it")


def _named(manifest: Any) -> dict[str, Any]:
    """What the manifest says of each file, not yet believed."""
    named = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(named, dict) or named.keys() != {MODEL, TRAINING, STATE}:
        raise _damaged(f"{MANIFEST} is not as it was written")
    if manifest.get("format") != _FORMAT:
        raise _damaged(f"{MANIFEST} names another format than {_FORMAT}")
    return named


def _verified(
    path: Path, name: str, named: dict[str, Any], entries: dict[str, dict[str, Any]]
) -> bytes:
    """The bytes of one file where they are what the manifest says; `entries` gets what they are."""
    data = files.read_bytes(path / name)
    entry = entries[name] = _entry(len(data), hashlib.sha256(data).hexdigest())
    if named[name] != entry:
        raise _damaged(f"{name} is not as it was written")
    return data


def _damaged(how: str) -> FileError:
    return FileError(how, "the checkpoint before it is taken")


def _not_saved(folder: Path, step: int, error: OSError) -> Exception:
    """What the user hears when a checkpoint cannot be written."""
    run, reason = folder.parent, error.strerror or str(error)
    if not run.is_dir():
        return FileError(f"{run} is gone, step {step} cannot be saved", "start the run again")
    before = next(filter(_is_intact, _found(folder)), None)
    kept = (
        f"the checkpoint of step {_step(before)} is untouched: make room or repair it, then "
        f"selftaught resume {run}"
        if before
        else "there is no earlier checkpoint: make room or repair it, then start again"
    )
    full = error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
    problem = "is full" if full else "cannot be written to"
    return StopRun(
        f"the disk of {folder} {problem} ({reason}) and step {step} was not saved; {kept}"
    )
