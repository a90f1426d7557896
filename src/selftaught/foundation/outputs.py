"""Where a command writes: what may be replaced there, and what never is."""

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from selftaught.errors import FileError
from selftaught.foundation.files import (
    delete,
    locked,
    named,
    new_folder,
    read_bytes,
    remove,
    temporary,
    unwritable,
)

Kind = Literal[
    "a run", "a check", "a demo", "an encoder", "an index", "clusters", "a classifier", "a file"
]

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
_INPUTS = {".lock", "config.yaml", "images.parquet", "rejected.parquet"}
_NAMES: dict[Kind, set[str]] = {  # what is in a folder of each kind, and nothing else is
    "a run": _INPUTS
    | {"metrics.jsonl", "log.txt", "checkpoints", "encoder", "encoder.old"}
    | {"evaluation.json", "not_finite.json", "report.html"},
    "a check": _INPUTS | {"check.json"},
    "a demo": {".lock", "check", "run", "deepcluster", "report.html"},
    "an encoder": {".lock", "config.json", "model.safetensors", "README.md"},
    "an index": {".lock", "index.json", "parts", "approximate"},
    "clusters": {".lock", "clusters.json", "clusters.safetensors", "assignments.parquet"}
    | {"names.csv", "report.html"},
    "a classifier": {".lock", "classifier.json", "classifier.safetensors", "ask.csv", "ask.html"}
    | {"report.html"},
}
_WHOLE: dict[Kind, tuple[str, ...]] = {  # what a folder of each kind has, when it is complete
    "a check": ("check.json", "config.yaml"),
    "a run": ("config.yaml", "images.parquet"),
    "a demo": ("check/config.yaml", "run/config.yaml"),
    "an encoder": ("config.json", "model.safetensors"),
    "an index": ("index.json",),
    "clusters": ("clusters.json",),
    "a classifier": ("classifier.json",),
}
_OF_THEIR_OWN = {"check", "run", "deepcluster", "encoder"}  # folders in folders, of their own kind


def claim(out: Path, kind: Kind, *, overwrite: bool) -> None:
    """Make `out` free for a new folder of a kind, or for a file that will replace what is there.

    Nothing is removed before it is known that the folder around `out` can be written to.

    Raises:
        FileError: As `check_out`, or the folder around it cannot be written to.
    """
    check_out(out, kind, overwrite=overwrite)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        probe = temporary(out)
        probe.touch()
        probe.unlink()
        if _taken(out) and kind != "a file":
            delete(out)
    except OSError as error:
        raise unwritable(out.parent, error) from None


@contextlib.contextmanager
def new_output(out: Path, kind: Kind, *, overwrite: bool) -> Iterator[Path]:
    """A folder to write into that takes its place once it is complete; what is there stays so long.

    Raises:
        FileError: As `claim`.
    """
    ready = temporary(out)
    try:
        with named(out, ready):
            with new_folder(ready) as part:
                yield part
            claim(out, kind, overwrite=overwrite)
            _rename(ready, out)
    finally:
        remove(ready)


def check_out(out: Path, kind: Kind, *, overwrite: bool, inputs: Iterable[str | None] = ()) -> None:
    """Whether `out` could be claimed, as far as can be told without writing anything.

    It does not exist, is empty, or may be overwritten: no folder that is not ours or of another
    kind, that a process is writing to or that holds what is read. --overwrite on one's images is a
    slip. A file is never written over a part of a run, of clusters or of another folder of ours.

    Args:
        out: Where something shall be written.
        kind: What it is.
        overwrite: Whether it may take the place of what is there.
        inputs: Names of what is read; those that are no paths do no harm.

    Raises:
        FileError: It cannot be claimed.
    """
    try:
        _check_place(out)
        taken = _taken(out)
        if kind == "a file":
            _check_file(out)
        if taken and overwrite:
            _check_inputs(out, inputs)
        if _nameless(out):
            raise FileError(f"{out} cannot be replaced", "name a new folder as --out")
        if not taken:
            return
        if not overwrite:
            raise FileError(
                f"{out} exists", "choose another --out, or add --overwrite to replace it"
            )
        if kind != "a file" and out.is_file():
            raise FileError(f"{out} is a file", "choose another --out: a folder will be written")
        _check_ours(out, kind)
    except OSError as error:
        raise unwritable(out.parent, error) from None


def check_suffix(out: Path, *suffixes: str) -> None:
    """Whether a file's name has one of these suffixes, in lower or upper case.

    Raises:
        FileError: It does not.
    """
    if out.suffix.lower() not in suffixes:
        what = f"--out {out} must end in {' or '.join(suffixes)}"
        raise FileError(what, "choose another file name")


def check_new(out: Path, option: str) -> None:
    """Whether a folder that replaces nothing could be written, as far as can be told before.

    Args:
        out: The folder.
        option: Of the command, which names it.

    Raises:
        FileError: There is something, or nothing can be.
    """
    try:
        _check_place(out)
        if _taken(out) or out.is_symlink() or _nameless(out):
            raise FileError(f"{option} {out} exists", "name a new folder: nothing is written over")
    except OSError as error:
        raise unwritable(out.parent, error, option) from None


def _rename(ready: Path, out: Path) -> None:
    try:
        ready.rename(out)
    except OSError as error:
        if not os.path.lexists(out):
            raise
        what = f"{out} is in the way ({error.strerror})"  # another process's, or a link
        raise FileError(what, "choose another --out") from None


def _nameless(out: Path) -> bool:
    """Whether it is the root, the working directory or one above, as dots: they have no sibling."""
    return out.name in ("", "..")


def _taken(out: Path) -> bool:
    return os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir()))


def _check_place(out: Path) -> None:
    """The nearest folder above that exists is one, and can be written to.

    Raises:
        OSError: It cannot.
    """
    with contextlib.suppress(FileNotFoundError):
        out.lstat()
    parents = out.absolute().parents or [Path("/")]
    above = next(folder for folder in parents if os.path.lexists(folder))
    if not above.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory")
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "Permission denied")


def _check_file(out: Path) -> None:
    if out.is_dir():
        raise FileError(f"{out} is a folder", "name the file that shall be written")
    path = Path(os.path.realpath(out.parent)) / out.name
    for folder in path.parents:
        top = path.relative_to(folder).parts[0]
        for kind, marks in _WHOLE.items():
            part = top in _NAMES[kind] - _OF_THEIR_OWN
            if part and all((folder / mark).exists() for mark in marks):
                raise FileError(f"{out} is a part of {kind}, {folder}", "choose another --out")


def _check_inputs(out: Path, inputs: Iterable[str | None]) -> None:
    for name in filter(None, inputs):
        if os.path.exists(name) and Path(name).resolve().is_relative_to(out.resolve()):
            raise FileError(f"{out} holds {name}, which is read", "choose another --out")


def _check_ours(out: Path, kind: Kind) -> None:
    if out.is_symlink() or not out.is_dir():
        return
    names = {p.name for p in out.iterdir() if ".tmp-" not in p.name}
    if (out / "names.csv").exists() or _answered(out / "ask.csv"):
        raise FileError(
            f"{out} holds names or answers that people gave, which would be lost",
            "choose another --out",
        )
    foreign = sorted(names.difference(*_NAMES.values()))
    if foreign or not any((out / mark).exists() for mark in _MARKS):
        example = f", such as {foreign[0]!r}" if foreign else ""
        raise FileError(
            f"{out} holds files that selftaught did not write{example}",
            "choose another --out, or remove the folder yourself",
        )
    if not names <= _NAMES[kind]:
        others = (other for other, theirs in _NAMES.items() if names <= theirs)
        raise FileError(
            f"{out} holds {next(others, 'what another command wrote')}, not {kind}",
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
