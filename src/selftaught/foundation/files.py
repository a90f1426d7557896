"""Atomic writers, and readers that are safe for untrusted files.

Everything is written to a temporary name in the same folder, synced, and renamed. Nothing is ever
pickled: tensors are safetensors, tables Parquet, the rest JSON or YAML.
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

_JSON_LIMIT = 64 * 2**20  # bytes; our largest JSON files are far smaller
_HEADER_LIMIT = 100 * 2**20  # bytes; the limit of safetensors itself


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: temporary name, fsync, rename, fsync of the folder."""
    part = temporary_path(path)
    try:
        with errors_naming(path, part), part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys atomically."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """A value as JSON in our standard form: sorted keys, one per line."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def write_table(path: Path, table: "pa.Table") -> None:
    """Write a Parquet table atomically."""
    import pyarrow as pa
    from pyarrow import parquet

    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink)
    write_bytes(path, sink.getvalue().to_pybytes())


def read_table(path: Path) -> "pa.Table":
    """Read a Parquet table.

    Raises:
        FileError: The file is missing or not a Parquet table.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        _check_regular(path)
        return parquet.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise _table_error(path, error) from None


def read_columns(path: Path) -> list[str]:
    """The column names of a Parquet table; only its schema is read.

    Raises:
        FileError: The file is missing or not a Parquet table.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        _check_regular(path)
        names: list[str] = parquet.read_schema(path).names
    except (OSError, pa.ArrowException) as error:
        raise _table_error(path, error) from None
    return names


def _table_error(path: Path, error: Exception) -> FileError:
    what = f"{path} cannot be read as a table ({_first_line(error)})"
    return FileError(what, "restore the file or write it again")


def read_bytes(path: Path, limit: int | None = None) -> bytes:
    """The bytes of a regular file of at most `limit` bytes; never waits for a pipe or a device.

    Raises:
        FileError: The file is missing, unreadable, larger than the limit, or not a regular file.
    """
    with _open_regular(path) as file:
        data = file.read(-1 if limit is None else limit + 1)
    if limit is not None and len(data) > limit:
        raise FileError(
            f"{path} is larger than {limit >> 20} MiB, so selftaught did not write it",
            "restore the file",
        )
    return data


@contextlib.contextmanager
def _open_regular(path: Path) -> Iterator[BinaryIO]:
    try:
        _check_regular(path)
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise FileError(
            f"{path} cannot be read ({error.strerror})", "restore the file or write it again"
        ) from None


def _check_regular(path: Path) -> None:
    """Refuse pipes and devices: opening a pipe would block, reading a device might never end."""
    if path.exists() and not path.is_file():
        raise FileError(f"{path} is not a regular file", "replace it with the original file")


def read_json(path: Path) -> Any:
    """Read JSON of limited size and depth.

    Raises:
        FileError: The file is missing, too large, nested too deeply or not JSON.
    """
    return json_from_bytes(read_bytes(path, _JSON_LIMIT), path)


def json_from_bytes(data: bytes, path: Path) -> Any:
    """Parse the bytes of the JSON file `path`; errors name the file.

    Raises:
        FileError: The file is nested too deeply or not JSON.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FileError(
            f"{path} cannot be read ({_first_line(error)})", "restore the file or write it again"
        ) from None


def save_tensors(path: Path, tensors: "dict[str, Tensor]") -> None:
    """Write tensors as safetensors atomically; shared or strided memory is copied."""
    write_bytes(path, tensors_to_bytes(tensors))


def tensors_to_bytes(tensors: "dict[str, Tensor]") -> bytes:
    """Tensors as the bytes of a safetensors file; shared or strided memory is copied."""
    from safetensors.torch import save

    return save({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()})


def load_tensors(path: Path) -> "dict[str, Tensor]":
    """Read safetensors.

    Raises:
        FileError: The file is missing, damaged, or declares more bytes than it has.
    """
    with _open_regular(path) as file:
        _check_header(file.read(8), os.fstat(file.fileno()).st_size, path)  # before reading all
        file.seek(0)
        data = file.read()
    return tensors_from_bytes(data, path)


def tensors_from_bytes(data: bytes, path: Path) -> "dict[str, Tensor]":
    """Parse the bytes of the safetensors file `path`; errors name the file.

    Raises:
        FileError: The file is damaged, or declares more bytes than it has.
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
    """SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shell_word(path: Path) -> str:
    """A path quoted for pasting into a shell."""
    return shlex.quote(str(path))


def sync_folder(path: Path) -> None:
    """Make renames in a folder durable, if its file system supports that."""
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
    """Create a folder atomically.

    Yields a temporary sibling to write into; at the end its files are synced and it is renamed.
    `remove_leftovers` removes what a killed process leaves behind.
    """
    part = temporary_path(path)
    with errors_naming(path, part):
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
def errors_naming(path: Path, part: Path) -> Iterator[None]:
    """Make errors of writing the temporary `part` name `path`, the name the user knows."""
    try:
        yield
    except OSError as error:
        names = (error.filename, error.filename2)  # a copy on a full disk names its source first
        ours = error.filename is None or any(str(name).startswith(str(part)) for name in names)
        if error.errno is None or not ours:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def remove(path: Path) -> None:
    """Remove a folder or a file, renaming it first so that no partial folder keeps its name.

    Failures are ignored.
    """
    part = temporary_path(path)
    with contextlib.suppress(OSError):
        path.rename(part)
        delete(part)


def delete(path: Path) -> None:
    """Delete a file, a link or a folder with its contents.

    Raises:
        OSError: It cannot be deleted.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def temporary_path(path: Path) -> Path:
    """A unique sibling path, which no other process on any machine uses."""
    return path.with_name(f".{path.name}.tmp-{os.getpid()}-{os.urandom(4).hex()}")


def remove_leftovers(folder: Path) -> None:
    """Remove half-written files of killed processes from a folder."""
    for leftover in folder.glob(".*.tmp-*"):
        with contextlib.suppress(OSError):
            delete(leftover)


def path_inside(root: Path, name: str) -> Path:
    """The path of a file that a table or manifest names, which must lie inside `root`.

    Raises:
        FileError: The name is absolute, contains .. or a NUL, or a link leads out of `root`.
    """
    if not _stays_inside(root, name):
        raise FileError(f"the name {name!r} leads out of {root}", "use relative names inside it")
    return root / name


def _stays_inside(root: Path, name: str) -> bool:
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    absolute = posix.is_absolute() or bool(windows.drive) or bool(windows.root)
    if not name or "\0" in name or absolute or ".." in (*posix.parts, *windows.parts):
        return False
    try:
        return (root / name).resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):  # circular links, half a surrogate pair
        return False


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Lock a folder for this process; the lock ends with the block or the process.

    Raises:
        FileError: Another process is writing there, or the folder cannot be written to.
    """
    try:
        handle = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise unwritable_error(folder, error) from None
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
            f"another process is writing to {folder}",
            "wait for it to finish, or choose another --out",
        ) from None
    except OSError as error:
        raise FileError(
            f"{folder} cannot be locked ({error.strerror})", "choose --out on another disk"
        ) from None


def unwritable_error(folder: Path, error: OSError, option: str = "--out") -> FileError:
    """The error for a folder that cannot be written to."""
    why = error.strerror or _first_line(error)  # NumPy's error for a full disk has no errno
    room = "free space, or " if error.errno in (None, errno.ENOSPC, errno.EDQUOT) else ""
    return FileError(f"{folder} cannot be written to ({why})", f"{room}choose another {option}")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
