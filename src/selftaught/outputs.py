"""Where a command writes: what may be replaced there, and what never is."""

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from selftaught.errors import FileError
from selftaught.files import (
    delete,
    locked,
    new_folder,
    read_bytes,
    remove,
    temporary,
    unwritable,
)

_MARKS = (  # one of these is in each folder that a command writes
    ".lock",
    "config.yaml",
    "images.parquet",
    "config.json",
    "model.safetensors",
    "check/config.yaml",
    "run/config.yaml",
    "clusters.json",
    "index.json",
    "classifier.json",
)
_OURS = {  # and nothing else is
    *(".lock", "config.yaml", "images.parquet", "rejected.parquet", "check.json", "metrics.jsonl"),
    *("log.txt", "checkpoints", "encoder", "encoder.old", "evaluation.json", "not_finite.json"),
    *("report.html", "config.json", "model.safetensors", "README.md", "check", "run"),
    *("clusters.json", "clusters.safetensors", "assignments.parquet"),
    *("index.json", "parts", "approximate"),
    *("classifier.json", "classifier.safetensors", "ask.csv", "ask.html"),
}


def claim(out: Path, *, overwrite: bool, file: bool = False) -> None:
    """Make `out` free for a new folder, or (`file`) for a new file that will replace what is there.

    Nothing is removed before it is known that the folder around `out` can be written to.

    Raises:
        FileError: As `check_out`, or the folder around it cannot be written to.
    """
    check_out(out, overwrite=overwrite, file=file)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        probe = temporary(out)
        probe.touch()
        probe.unlink()
        if _taken(out) and not file:
            delete(out)
    except OSError as error:
        raise unwritable(out.parent, error) from None


@contextlib.contextmanager
def new_output(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder to write into that takes its place once it is complete; what is there stays so long.

    Raises:
        FileError: As `claim`.
    """
    ready = temporary(out)
    try:
        with new_folder(ready) as part:
            yield part
        claim(out, overwrite=overwrite)
        ready.rename(out)
    finally:
        remove(ready)


def check_out(
    out: Path, *, overwrite: bool, file: bool = False, inputs: Iterable[str | None] = ()
) -> None:
    """Whether `out` could be claimed, as far as can be told without writing anything.

    It does not exist, is empty, or may be overwritten: no folder that is not ours, that a process
    is writing to or that holds what is read. --overwrite on one's images is a slip.

    Args:
        out: Where something shall be written.
        overwrite: Whether it may take the place of what is there.
        file: Whether it is a file that shall be written; else it is a folder.
        inputs: Names of what is read; those that are no paths do no harm.

    Raises:
        FileError: It cannot be claimed.
    """
    try:
        _check_place(out)
        if file and out.is_dir():
            raise FileError(f"{out} is a folder", "name the file that shall be written")
        if not _taken(out):
            return
        if not overwrite:
            raise FileError(
                f"{out} exists", "choose another --out, or add --overwrite to replace it"
            )
        if not file and out.is_file():
            raise FileError(f"{out} is a file", "choose another --out: a folder will be written")
        for name in filter(None, inputs):
            if os.path.exists(name) and Path(name).resolve().is_relative_to(out.resolve()):
                raise FileError(f"{out} holds {name}, which is read", "choose another --out")
        _check_ours(out)
    except OSError as error:
        raise unwritable(out.parent, error) from None


def _taken(out: Path) -> bool:
    return os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir()))


def _check_place(out: Path) -> None:
    """The nearest folder above that exists is one, and can be written to.

    Raises:
        OSError: It cannot.
    """
    with contextlib.suppress(FileNotFoundError):
        out.lstat()
    above = next(folder for folder in out.absolute().parents if os.path.lexists(folder))
    if not above.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory")
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "Permission denied")


def _check_ours(out: Path) -> None:
    if out.is_symlink() or not out.is_dir():
        return
    foreign = sorted(p.name for p in out.iterdir() if p.name not in _OURS and ".tmp-" not in p.name)
    if (out / "names.csv").exists() or _answered(out / "ask.csv"):
        raise FileError(
            f"{out} holds names or answers that people gave, which would be lost",
            "choose another --out",
        )
    if foreign or not any((out / mark).exists() for mark in _MARKS):
        example = f", such as {foreign[0]!r}" if foreign else ""
        raise FileError(
            f"{out} holds files that selftaught did not write{example}",
            "choose another --out, or remove the folder yourself",
        )
    if (out / ".lock").exists():
        with locked(out):
            pass


def _answered(path: Path) -> bool:
    """Whether people have filled in labels: the last cell of a line is not empty."""
    if not path.is_file():
        return False
    lines = read_bytes(path).decode(errors="replace").splitlines()[1:]
    return any(line.strip() and not line.rstrip().endswith((",", ',""', ";")) for line in lines)
