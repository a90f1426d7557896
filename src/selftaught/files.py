"""Files that are whole or absent, and readers that no file can harm.

Everything is written to a temporary name in the same folder, synced, and renamed. Nothing is ever
pickled; tensors are safetensors, tables Parquet, the rest JSON or YAML.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from selftaught.errors import FileError

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

_JSON_LIMIT = 64 * 2**20  # bytes; our largest JSON files are far below
_HEADER_LIMIT = 100 * 2**20  # bytes; the limit of safetensors itself


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: temporary name, fsync, rename, fsync of the folder."""
    part = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def write_table(path: Path, table: "pa.Table") -> None:
    """Write a Parquet table, whole or not at all."""
    import pyarrow as pa
    from pyarrow import parquet

    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink)
    write_bytes(path, sink.getvalue().to_pybytes())


def read_table(path: Path) -> "pa.Table":
    """Read a Parquet table.

    Raises:
        FileError: The file is missing or no Parquet table.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise FileError(
            f"{path} cannot be read as a table ({_first_line(error)})",
            "restore the file or write it again",
        ) from None


def read_json(path: Path) -> Any:
    """Read JSON of bounded size and depth.

    Raises:
        FileError: The file is missing, too large, nested too deeply or not JSON.
    """
    try:
        if path.stat().st_size > _JSON_LIMIT:
            raise FileError(
                f"{path} is larger than 64 MiB", "it is not one of our files; restore it"
            )
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(
            f"{path} cannot be read ({_first_line(error)})", "restore the file or write it again"
        ) from None


def save_tensors(path: Path, tensors: "dict[str, Tensor]") -> None:
    """Write tensors as safetensors, whole or not at all; shared or strided memory is copied."""
    from safetensors.torch import save

    write_bytes(
        path, save({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()})
    )


def load_tensors(path: Path) -> "dict[str, Tensor]":
    """Read safetensors.

    Raises:
        FileError: The file is missing, damaged, or claims more bytes than it has.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            header = struct.unpack("<Q", start)[0] if len(start) == 8 else size
            if header > min(_HEADER_LIMIT, size - 8):
                raise FileError(
                    f"{path} is not a safetensors file", "restore the file from a backup"
                )
            return load(start + file.read())
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(
            f"{path} cannot be read as tensors ({_first_line(error)})",
            "restore the file from a backup",
        ) from None


def sha256(path: Path) -> str:
    """The file's SHA-256 as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(path: Path) -> None:
    """Make renames in a folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that appears whole under its name, or not at all.

    Yields a temporary sibling to write into; at the end its files are synced and it is renamed.
    A leftover of a killed process is removed by `remove_leftovers`.
    """
    part = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        for file in sorted(part.rglob("*")):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        for folder in [*(f for f in part.rglob("*") if f.is_dir()), part]:
            sync_folder(folder)
        part.rename(path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    sync_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder."""
    for leftover in folder.glob(".*.tmp-*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def inside(root: Path, name: str) -> Path:
    """The file `name` of a table or manifest, which must lie inside `root`.

    Raises:
        FileError: The name is absolute, climbs out, holds a NUL, or a link leads out of `root`.
    """
    parts = PurePosixPath(name).parts
    windows = PureWindowsPath(name)
    unsafe = (
        not name or "\0" in name or ".." in parts or name.startswith("/") or bool(windows.drive)
    )
    if (
        unsafe
        or ".." in windows.parts
        or not (root / name).resolve().is_relative_to(root.resolve())
    ):
        raise FileError(
            f"the name {name!r} leads out of {root}", "names must be relative and stay inside"
        )
    return root / name


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone.

    Raises:
        FileError: Another process is writing there.
    """
    handle = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise FileError(
            f"another process is writing to {folder}", "wait for it, or choose another --out"
        ) from None
    try:
        yield
    finally:
        os.close(handle)


def claim(out: Path, *, overwrite: bool) -> None:
    """Make sure that `out` may be written: it does not exist yet, is empty, or may be overwritten.

    Raises:
        FileError: It exists and `overwrite` is False, or its parent cannot be written to.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        if not overwrite:
            raise FileError(
                f"{out} exists", "choose another --out, or add --overwrite to replace it"
            )
        shutil.rmtree(out) if out.is_dir() else out.unlink()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        probe = out.parent / f".{out.name}.tmp-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise FileError(
            f"{out.parent} cannot be written to ({error.strerror})", "choose another --out"
        ) from None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
