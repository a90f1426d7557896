"""Output folders and files of commands: what may be replaced, and what never is."""

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from selftaught.errors import FileError
from selftaught.foundation.files import (
    delete,
    errors_naming,
    folder_lock,
    new_folder,
    read_bytes,
    remove,
    temporary_path,
    unwritable_error,
)

Kind = Literal[
    "a run", "a check", "a demo", "an encoder", "an index", "clusters", "a classifier", "a file"
]

_MARKS = (  # every folder that a command writes contains one of these
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
_NAMES: dict[Kind, set[str]] = {  # everything that a folder of each kind may contain
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
_COMPLETE: dict[Kind, tuple[str, ...]] = {  # what a complete folder of each kind contains
    "a check": ("check.json", "config.yaml"),
    "a run": ("config.yaml", "images.parquet"),
    "a demo": ("check/config.yaml", "run/config.yaml"),
    "an encoder": ("config.json", "model.safetensors"),
    "an index": ("index.json",),
    "clusters": ("clusters.json",),
    "a classifier": ("classifier.json",),
}
_NESTED = {"check", "run", "deepcluster", "encoder"}  # subfolders that have their own kind


def claim(out: Path, kind: Kind, *, overwrite: bool) -> None:
    """Clear `out` for a new folder of a kind, or check that a file may be written there.

    Nothing is removed until a test shows that the parent folder can be written to.

    Raises:
        FileError: As `check_out`, or the parent folder cannot be written to.
    """
    check_out(out, kind, overwrite=overwrite)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        probe = temporary_path(out)
        probe.touch()
        probe.unlink()
        if _is_taken(out) and kind != "a file":
            delete(out)
    except OSError as error:
        raise unwritable_error(out.parent, error) from None


@contextlib.contextmanager
def new_output(out: Path, kind: Kind, *, overwrite: bool) -> Iterator[Path]:
    """Yield a folder to write into; it replaces `out` only once it is complete.

    Raises:
        FileError: As `claim`.
    """
    ready = temporary_path(out)
    try:
        with errors_naming(out, ready):
            with new_folder(ready) as part:
                yield part
            claim(out, kind, overwrite=overwrite)
            _rename(ready, out)
    finally:
        remove(ready)


def check_out(out: Path, kind: Kind, *, overwrite: bool, inputs: Iterable[str | None] = ()) -> None:
    """Check that `out` could be claimed, without writing anything.

    It must be missing, empty or overwritable. Never overwritten are foreign folders (--overwrite
    on one's own images is a slip), folders of another kind, folders that a process is writing to
    or that contain an input, and, by a file, parts of a run, of clusters or another such folder.

    Args:
        out: The output path.
        kind: The kind of output.
        overwrite: Whether the output may replace what is there.
        inputs: Names of the inputs; those that are not paths are ignored.

    Raises:
        FileError: `out` cannot be claimed.
    """
    try:
        _check_place(out)
        taken = _is_taken(out)
        if kind == "a file":
            _check_file(out)
        if taken and overwrite:
            _check_inputs(out, inputs)
        if _has_no_name(out):
            raise FileError(f"{out} cannot be replaced", "choose a new folder as --out")
        if not taken:
            return
        if not overwrite:
            raise FileError(
                f"{out} exists", "choose another --out, or add --overwrite to replace it"
            )
        if kind != "a file" and out.is_file():
            raise FileError(f"{out} is a file, and the output is a folder", "choose another --out")
        _check_ours(out, kind)
    except OSError as error:
        raise unwritable_error(out.parent, error) from None


def check_suffix(out: Path, *suffixes: str) -> None:
    """Check that a file name has one of these suffixes, in lower or upper case.

    Raises:
        FileError: It has another suffix.
    """
    if out.suffix.lower() not in suffixes:
        what = f"--out {out} must end in {' or '.join(suffixes)}"
        raise FileError(what, "choose another file name")


def check_new(out: Path, option: str) -> None:
    """Check that a new folder could be written; nothing may exist there.

    Args:
        out: The folder.
        option: The option that names it.

    Raises:
        FileError: The path exists, or cannot be written to.
    """
    try:
        _check_place(out)
        if _is_taken(out) or out.is_symlink() or _has_no_name(out):
            raise FileError(f"{option} {out} exists", "choose a new folder")
    except OSError as error:
        raise unwritable_error(out.parent, error, option) from None


def _rename(ready: Path, out: Path) -> None:
    try:
        ready.rename(out)
    except OSError as error:
        if not os.path.lexists(out):
            raise
        what = f"{out} is in the way ({error.strerror})"  # of another process, or a link
        raise FileError(what, "choose another --out") from None


def _has_no_name(out: Path) -> bool:
    """Whether it is the root or a path of dots (., ..), which cannot have a temporary sibling."""
    return out.name in ("", "..")


def _is_taken(out: Path) -> bool:
    return os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir()))


def _check_place(out: Path) -> None:
    """Check that the nearest existing parent is a folder that can be written to.

    Raises:
        OSError: It is not.
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
        raise FileError(f"{out} is a folder, and the output is a file", "choose a file name")
    path = Path(os.path.realpath(out.parent)) / out.name
    for folder in path.parents:
        top = path.relative_to(folder).parts[0]
        for kind, marks in _COMPLETE.items():
            part = top in _NAMES[kind] - _NESTED
            if part and all((folder / mark).exists() for mark in marks):
                raise FileError(f"{out} is part of {kind} ({folder})", "choose another --out")


def _check_inputs(out: Path, inputs: Iterable[str | None]) -> None:
    for name in filter(None, inputs):
        if os.path.exists(name) and Path(name).resolve().is_relative_to(out.resolve()):
            raise FileError(f"{out} contains the input {name}", "choose another --out")


def _check_ours(out: Path, kind: Kind) -> None:
    if out.is_symlink() or not out.is_dir():
        return
    names = {p.name for p in out.iterdir() if ".tmp-" not in p.name}
    if (out / "names.csv").exists() or _has_answers(out / "ask.csv"):
        raise FileError(
            f"{out} contains names or answers entered by hand, which would be lost",
            "choose another --out",
        )
    foreign = sorted(names.difference(*_NAMES.values()))
    if foreign or not any((out / mark).exists() for mark in _MARKS):
        example = f", such as {foreign[0]!r}" if foreign else ""
        raise FileError(
            f"{out} contains files that selftaught did not write{example}",
            "choose another --out, or remove the folder yourself",
        )
    if not names <= _NAMES[kind]:
        others = (other for other, theirs in _NAMES.items() if names <= theirs)
        raise FileError(
            f"{out} contains {next(others, 'the output of another command')}, not {kind}",
            "choose another --out, or remove the folder yourself",
        )
    if (out / ".lock").exists():
        with folder_lock(out):
            pass


def _has_answers(path: Path) -> bool:
    """Whether any label is filled in: the last cell of a line is not empty."""
    if not path.is_file():
        return False
    lines = read_bytes(path).decode(errors="replace").splitlines()[1:]
    return any(line.strip() and not line.rstrip().endswith((",", ',""', ";")) for line in lines)
