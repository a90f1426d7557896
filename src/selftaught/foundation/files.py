"""Files that are whole or absent, and readers that no file can harm.

Everything is written to a temporary name in the same folder, synced, and renamed. Nothing is ever
pickled; tensors are safetensors, tables Parquet, the rest JSON or YAML.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, BinaryIO

from selftaught.errors import FileError

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

_JSON_LIMIT = 64 * 2**20  # bytes; our largest JSON files are far below
_HEADER_LIMIT = 100 * 2**20  # bytes; the limit of safetensors itself


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: temporary name, fsync, rename, fsync of the folder."""
    part = temporary(path)
    try:
        with named(path, part), part.open("wb") as file:
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
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """The one form in which we write a value as JSON: sorted keys, a line each."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


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
        _check_regular(path)
        return parquet.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise _no_table(path, error) from None


def read_columns(path: Path) -> list[str]:
    """The names of a Parquet table's columns; nothing else of it is read.

    Raises:
        FileError: The file is missing or no Parquet table.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        _check_regular(path)
        names: list[str] = parquet.read_schema(path).names
    except (OSError, pa.ArrowException) as error:
        raise _no_table(path, error) from None
    return names


def _no_table(path: Path, error: Exception) -> FileError:
    found = f"{path} cannot be read as a table ({_first_line(error)})"
    return FileError(found, "restore the file or write it again")


def read_bytes(path: Path, limit: int | None = None) -> bytes:
    """The bytes of a regular file, of at most `limit` of them; never waits for a pipe or a device.

    Raises:
        FileError: The file is missing, unreadable, larger than the limit, or no regular file.
    """
    with _reading(path) as file:
        data = file.read(-1 if limit is None else limit + 1)
    if limit is not None and len(data) > limit:
        raise FileError(
            f"{path} is larger than {limit >> 20} MiB", "it is not one of our files; restore it"
        )
    return data


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    try:
        _check_regular(path)
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise FileError(
            f"{path} cannot be read ({error.strerror})", "restore the file or write it again"
        ) from None


def _check_regular(path: Path) -> None:
    """What is there is a file: to open a pipe would wait, to read a device would never end."""
    if path.exists() and not path.is_file():
        raise FileError(f"{path} is not a regular file", "it is not one of our files")


def read_json(path: Path) -> Any:
    """Read JSON of bounded size and depth.

    Raises:
        FileError: The file is missing, too large, nested too deeply or not JSON.
    """
    return json_from_bytes(read_bytes(path, _JSON_LIMIT), path)


def json_from_bytes(data: bytes, path: Path) -> Any:
    """The JSON in the bytes of the file `path`, which errors name.

    Raises:
        FileError: It is nested too deeply or not JSON.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FileError(
            f"{path} cannot be read ({_first_line(error)})", "restore the file or write it again"
        ) from None


def save_tensors(path: Path, tensors: "dict[str, Tensor]") -> None:
    """Write tensors as safetensors, whole or not at all; shared or strided memory is copied."""
    write_bytes(path, tensors_to_bytes(tensors))


def tensors_to_bytes(tensors: "dict[str, Tensor]") -> bytes:
    """Tensors as the bytes of a safetensors file; shared or strided memory is copied."""
    from safetensors.torch import save

    return save({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()})


def load_tensors(path: Path) -> "dict[str, Tensor]":
    """Read safetensors.

    Raises:
        FileError: The file is missing, damaged, or claims more bytes than it has.
    """
    with _reading(path) as file:
        _check_header(file.read(8), os.fstat(file.fileno()).st_size, path)  # before it is all read
        file.seek(0)
        data = file.read()
    return tensors_from_bytes(data, path)


def tensors_from_bytes(data: bytes, path: Path) -> "dict[str, Tensor]":
    """The tensors in the bytes of the safetensors file `path`, which errors name.

    Raises:
        FileError: They are damaged, or claim more bytes than there are.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    _check_header(data[:8], len(data), path)
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise FileError(
            f"{path} cannot be read as tensors ({_first_line(error)})",
            "restore the file from a backup",
        ) from None


def _check_header(start: bytes, size: int, path: Path) -> None:
    header = struct.unpack("<Q", start)[0] if len(start) == 8 else size
    if header > min(_HEADER_LIMIT, size - 8):
        raise FileError(f"{path} is not a safetensors file", "restore the file from a backup")


def sha256(path: Path) -> str:
    """The file's SHA-256 as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def quoted(path: Path) -> str:
    """A path as a word of a command that can be pasted into a shell."""
    return shlex.quote(str(path))


def sync_folder(path: Path) -> None:
    """Make renames in a folder durable, where its file system can do that."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that appears whole under its name, or not at all.

    Yields a temporary sibling to write into; at the end its files are synced and it is renamed.
    A leftover of a killed process is removed by `remove_leftovers`.
    """
    part = temporary(path)
    with named(path, part):
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


@contextlib.contextmanager
def named(path: Path, part: Path) -> Iterator[None]:
    """An error of writing `part`, which shall become `path`, names `path`: users know no other."""
    try:
        yield
    except OSError as error:
        names = (error.filename, error.filename2)  # a copy on a full disk names its source first
        ours = error.filename is None or any(str(name).startswith(str(part)) for name in names)
        if error.errno is None or not ours:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def remove(path: Path) -> None:
    """Remove a folder or a file, whole under its name until it is gone. Failing does no harm."""
    part = temporary(path)
    with contextlib.suppress(OSError):
        path.rename(part)
        delete(part)


def delete(path: Path) -> None:
    """Delete a file, a link or a folder with all that is in it.

    Raises:
        OSError: It cannot be deleted.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def temporary(path: Path) -> Path:
    """A sibling's name that no other process has, on this machine or another."""
    return path.with_name(f".{path.name}.tmp-{os.getpid()}-{os.urandom(4).hex()}")


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder."""
    for leftover in folder.glob(".*.tmp-*"):
        with contextlib.suppress(OSError):
            delete(leftover)


def is_inside(root: Path, name: str) -> Path:
    """The file `name` of a table or manifest, which must lie inside `root`.

    Raises:
        FileError: The name is absolute, climbs out, holds a NUL, or a link leads out of `root`.
    """
    if not _stays_inside(root, name):
        raise FileError(
            f"the name {name!r} leads out of {root}", "names must be relative and stay inside"
        )
    return root / name


def _stays_inside(root: Path, name: str) -> bool:
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    absolute = posix.is_absolute() or bool(windows.drive) or bool(windows.root)
    if not name or "\0" in name or absolute or ".." in (*posix.parts, *windows.parts):
        return False
    try:
        return (root / name).resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):  # links in a circle, half a surrogate pair
        return False


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone, until the end or the death of the process.

    Raises:
        FileError: Another process is writing there, or the folder cannot be written to.
    """
    try:
        handle = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise unwritable(folder, error) from None
    try:
        _lock(handle, folder)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FileError(
            f"another process is writing to {folder}", "wait for it, or choose another --out"
        ) from None
    except OSError as error:
        raise FileError(
            f"{folder} cannot be locked ({error.strerror})", "choose an --out on another disk"
        ) from None


def unwritable(folder: Path, error: OSError, option: str = "--out") -> FileError:
    """What the user is told of a folder that cannot be written to."""
    why = error.strerror or _first_line(error)  # NumPy's word for a full disk has no number
    room = "make room, or " if error.errno in (None, errno.ENOSPC, errno.EDQUOT) else ""
    return FileError(f"{folder} cannot be written to ({why})", f"{room}choose another {option}")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
