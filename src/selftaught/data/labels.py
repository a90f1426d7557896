"""Labels and splits: a column of the data or its class folders, asked for only where needed.

Shapes:  N rows of one `Checked`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selftaught.data.check_images import Checked
from selftaught.errors import DataError, did_you_mean, shown

_TRAIN = ("train", "training")
_TEST = ("test", "testing", "val", "valid", "validation")  # the first that is there
_TEST_SHARE = 0.2
_NUMBERS = ("number", "digits", "fraction")  # kinds of values that can be numbers
_FEW = 20  # different fractions up to which a column of numbers still names classes


@dataclass(frozen=True)
class Labelled:
    """Labels and a split, by row.

    Attributes:
        classes: Names, sorted (numbers by size); empty where numbers are predicted.
        labels_N: (N,) int64 index of the class, -1 without a label; or float64 targets, NaN
            without one.
        train: Rows to learn from, ascending.
        test: Rows to judge by, ascending.
        split: In words: "test (given)", "test (20 % by hash)"; and what speaks against it:
            "test (given), none of cat", "test (given), 12 of them also in train".
    """

    classes: tuple[str, ...]
    labels_N: NDArray[Any]
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    split: str


def label(checked: Checked, *, column: str | None = None, numbers: bool = False) -> Labelled:
    """Find labels and a split into train and test.

    Labels come from the column named; else from the column "label", the only column, or the class
    folders. A split comes from the column "split" or from folders train/ and test/ (or val/); what
    comes unsplit is split 80/20 within each class, by the hash of the bytes: always the same way,
    and equal files on the same side.

    Args:
        checked: The images.
        column: Where the labels are, if there are several columns.
        numbers: Whether labels are numbers to predict, however few different ones there are.

    Raises:
        DataError: There are no labels, some are no numbers where these are wanted, not finite, or
            of several kinds, one class only, or nothing to learn from or to judge by.
    """
    names = _usable(checked)
    folders = _folder_splits(names)
    values = _values(checked, checked.index_N, column, folders is not None)
    _refuse_not_finite(checked, names, values)
    if numbers:
        values = _as_numbers(checked, names, values)
    else:
        _refuse_mixed(checked, names, values)
    targets = _targets(values, numbers)
    classes, labels_N = ((), targets) if targets is not None else _classes(values)
    there = ~np.isnan(labels_N) if targets is not None else labels_N >= 0
    _refuse_useless(checked, classes, targets, there)
    given = _given_splits(checked, folders)
    rows = np.flatnonzero(there)
    if given is not None and any(given[row] in _TEST for row in rows):
        train, test, words = _given(given, rows, checked)
        words += _absent(classes, labels_N[test]) + _in_both(checked, train, test)
        return Labelled(classes, labels_N, train, test, words)
    if given is not None:  # what is neither train nor test takes no part
        rows = _for_training(checked, given, rows)
    train, test = _by_hash(checked, rows, labels_N if classes else np.zeros_like(labels_N))
    if not len(train) or not len(test):
        raise DataError(
            f"{_name(checked)} has too few labelled images to split",
            "label at least two of a class, or give train/ and test/",
        )
    words = "test (20 % by hash)" + _absent(classes, labels_N[test])
    return Labelled(classes, labels_N, train, test, words)


def check_classes(checked: Checked, found: Labelled, *, column: str | None = None) -> None:
    """Whether every class that is there can be learnt and judged.

    Args:
        checked: The images.
        found: What `label` found.
        column: As for `label`.

    Raises:
        DataError: No image of a class can be used, or a class is for the test only.
    """
    if not found.classes:  # numbers to predict
        return
    _refuse_lost(checked, found.classes, column)
    _refuse_empty(checked, found.classes, column)
    learnt, asked = (found.labels_N[rows] for rows in (found.train, found.test))
    unknown = np.flatnonzero(~np.isin(asked, learnt))
    if len(unknown):
        row = found.test[unknown[0]]
        name = checked.source.names[checked.index_N[row]]
        kind = found.classes[found.labels_N[row]]
        raise DataError(
            f"{_name(checked)}: {shown(name)} is for the test, and no image of its class "
            f"{shown(kind)} is for training",
            "give some for training, or take the class out",
        )


# ---- labels


def _values(
    checked: Checked, positions: NDArray[np.int64], column: str | None, split_folders: bool
) -> list[Any]:
    """A label or None for each of these positions in the source."""
    columns = checked.source.columns
    usable = [name for name in columns if name != "split"]
    if column == "folders" and column not in columns:
        return _folder_labels(checked, positions, split_folders)
    if column is not None:
        if column not in columns:
            remedy = did_you_mean(column, usable) if usable else "it has none"
            raise DataError(f"{_name(checked)} has no column {column!r}", remedy)
        return _plain(columns[column][positions])
    if "label" in columns or len(usable) == 1:
        return _plain(columns["label" if "label" in columns else usable[0]][positions])
    if usable:
        raise DataError(
            f"{_name(checked)} has several columns: {', '.join(sorted(usable))}",
            "choose one with --label COLUMN",
        )
    return _folder_labels(checked, positions, split_folders)


def _plain(column_N: NDArray[Any]) -> list[Any]:
    """Python values; None where one is missing."""
    return [None if value is None or value == "" else value for value in column_N.tolist()]


def _folder_labels(
    checked: Checked, positions: NDArray[np.int64], split_folders: bool
) -> list[Any]:
    """The first folder of each name, below train/ and test/ the second; None without one."""
    skip = 1 if split_folders else 0
    paths = [checked.source.names[i].split("/")[skip:] for i in positions]
    found = [path[0] if len(path) > 1 else None for path in paths]
    if checked.source.root is None:
        remedy = "add an array 'label' with one number or word an image"
        raise DataError(f"{_name(checked)} has no labels", remedy)
    if not any(found):
        raise DataError(
            f"{_name(checked)} has no labels",
            "put each class into a folder of its own, or give a table with columns path and label",
        )
    return found


def _refuse_not_finite(checked: Checked, names: Sequence[str], values: Sequence[Any]) -> None:
    for name, value in zip(names, values, strict=True):
        if isinstance(value, float) and not np.isfinite(value):
            raise DataError(
                f"{_name(checked)}: the label of {shown(name)} is {value:g}",
                "give a finite number, or leave the cell empty where there is no label",
            )


def _refuse_mixed(checked: Checked, names: Sequence[str], values: Sequence[Any]) -> None:
    """Fractions among words, as of a column of numbers with "n/a" in it; numbers and texts.

    Whole numbers that are written as texts may stand among words, as of characters.
    """
    first: dict[str, tuple[str, Any]] = {}
    for name, value in zip(names, values, strict=True):
        if value is not None:
            first.setdefault(_kind(value), (name, value))
    pairs = ("number", "word"), ("number", "digits"), ("number", "fraction"), ("fraction", "word")
    for pair in pairs:
        if first.keys() >= {*pair}:
            (name, value), (other, word) = (first[kind] for kind in pair)
            raise DataError(
                f"{_name(checked)}: labels are of several kinds: that of {shown(name)} is "
                f"{shown(repr(value))}, that of {shown(other)} is {shown(repr(word))}",
                "make all of them numbers or words, and leave a cell empty where there is no label",
            )


def _kind(value: Any) -> str:
    """A number; a text: a fraction, digits, or a word; or something else, such as a date."""
    if not isinstance(value, str):
        return "number" if isinstance(value, int | float) else "other"
    try:
        finite = bool(np.isfinite(float(value)))
    except ValueError:
        finite = False
    return "word" if not finite else "digits" if value.isdigit() else "fraction"


def _refuse_lost(checked: Checked, classes: Sequence[str], column: str | None) -> None:
    """Classes of which no image can be used."""
    source = checked.source
    folders = _folder_splits(_usable(checked)) is not None
    values = _values(checked, np.arange(len(source)), column, folders)
    for position in np.setdiff1d(np.arange(len(source)), checked.index_N).tolist():
        value = values[position]
        if value is not None and _word(value) not in classes:
            raise DataError(
                f"{_name(checked)}: no image of the class {shown(_word(value))} can be used, such "
                f"as {shown(source.names[position])}",
                "selftaught check says why; repair them, or take the class out",
            )


def _refuse_empty(checked: Checked, classes: Sequence[str], column: str | None) -> None:
    """Folders beside those of classes that hold no image."""
    source = checked.source
    if source.root is None or not Path(source.name).is_dir() or column not in (None, "folders"):
        return
    names = _usable(checked)
    parts = {name.split("/")[0] for name in names if "/" in name} if _folder_splits(names) else {""}
    for split in sorted(parts):
        for folder in sorted((source.root / split).iterdir()):
            if folder.is_dir() and folder.name[0] != "." and folder.name not in classes:
                raise DataError(
                    f"{shown(str(folder))} is the folder of a class without any image",
                    "put images into it, or take it away",
                )


def _as_numbers(
    checked: Checked, names: Sequence[str], values: Sequence[Any]
) -> list[float | None]:
    """Numbers that are written as texts are numbers too."""
    for name, value in zip(names, values, strict=True):
        if value is not None and _kind(value) not in _NUMBERS:
            raise DataError(
                f"{_name(checked)}: the label of {shown(name)} is {shown(str(value))}, no number",
                "correct it, leave the cell empty, or give a column of numbers with --label",
            )
    return [None if value is None else float(value) for value in values]


def _targets(values: Sequence[Any], wanted: bool) -> NDArray[np.float64] | None:
    """(N,) numbers to predict, where labels are fractions of many values; None for classes."""
    known = {value for value in values if value is not None}
    if not wanted and (len(known) <= _FEW or not _are_fractions(known)):
        return None
    return np.array([np.nan if value is None else value for value in values])


def _are_fractions(known: set[Any]) -> bool:
    """Whether they are numbers with a point, and not all of them whole."""
    numbers = all(isinstance(value, float) for value in known)
    return numbers and not all(value.is_integer() for value in known)


def _classes(values: Sequence[Any]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    known = {value for value in values if value is not None}
    numbers = all(isinstance(value, int | float) for value in known)
    ordered = sorted(known) if numbers else sorted(known, key=str)
    index = {value: i for i, value in enumerate(ordered)}
    labels_N = np.array([-1 if value is None else index[value] for value in values], np.int64)
    return tuple(_word(value) for value in ordered), labels_N


def _word(value: Any) -> str:
    """A class's name: a whole number that gaps in its column made a fraction is whole again."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _refuse_useless(
    checked: Checked,
    classes: tuple[str, ...],
    targets: NDArray[Any] | None,
    there: NDArray[np.bool_],
) -> None:
    if not there.any():
        raise DataError(f"{_name(checked)} has no labels", "fill in the column")
    if targets is None and len(classes) == 1:
        raise DataError(
            f"all labelled images of {_name(checked)} are of one class, {classes[0]!r}",
            "give images of two classes at least",
        )


# ---- splits


def _usable(checked: Checked) -> list[str]:
    """Names of the images, by row."""
    return [checked.source.names[i] for i in checked.index_N]


def _folder_splits(names: Sequence[str]) -> list[str] | None:
    """The first folder of each name, where these are train/ and test/ or val/ and no others."""
    first = [name.split("/")[0].lower() if "/" in name else "" for name in names]
    known = set(first)
    is_split = known & set(_TRAIN) and known & set(_TEST) and known <= {*_TRAIN, *_TEST, ""}
    return first if is_split else None


def _given_splits(checked: Checked, folders: list[str] | None) -> list[str] | None:
    column = checked.source.columns.get("split")
    if column is None:
        return folders
    words = ["" if value is None else str(value) for value in column[checked.index_N].tolist()]
    return [word.strip().lower() for word in words]


def _given(
    splits: Sequence[str], rows: NDArray[np.int64], checked: Checked
) -> tuple[NDArray[np.int64], NDArray[np.int64], str]:
    """Rows of train and of the first kind of test that is there; others take no part."""
    kind = next(word for word in _TEST if any(splits[row] == word for row in rows))
    train = rows[[splits[row] in _TRAIN for row in rows]]
    test = rows[[splits[row] == kind for row in rows]]
    if not len(train):
        raise DataError(
            f"{_name(checked)} has images for {kind} and none for train",
            "mark some as train, or leave the split out",
        )
    return train, test, f"{kind} (given)"


def _for_training(
    checked: Checked, splits: Sequence[str], rows: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Those of the rows that are for training, where none is for the test."""
    found = rows[[splits[row] in _TRAIN for row in rows]]
    if not len(found):
        words = sorted({splits[row] for row in rows})
        raise DataError(
            f"{_name(checked)}: no labelled image is for train or test, the column split has "
            f"{', '.join(repr(shown(word)) for word in words[:3])}",
            "write train or test there, or leave the column out",
        )
    return found


def _absent(classes: Sequence[str], asked: NDArray[Any]) -> str:
    """Classes that no image of the test has, in words."""
    there = {*asked.tolist()}
    names = [name for index, name in enumerate(classes) if index not in there]
    if not names:
        return ""
    return f", none of {shown(names[0])}" + (f" and {len(names) - 1} others" if names[1:] else "")


def _in_both(checked: Checked, train: NDArray[np.int64], test: NDArray[np.int64]) -> str:
    """How many images of the test are among those that are learnt from, byte for byte, in words."""
    hashes_N = np.array(checked.images["sha256"].to_pylist())
    both = int(np.isin(hashes_N[test], hashes_N[train]).sum())
    return f", {both:,} of them also in train" if both else ""


def _by_hash(
    checked: Checked, rows: NDArray[np.int64], labels_N: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A fifth of each class for test, the files with the lowest hashes; at least one of two."""
    hashes_N = np.array(checked.images["sha256"].to_pylist())
    test = [rows[:0]]
    for one in np.unique(labels_N[rows]):
        members = rows[labels_N[rows] == one]
        ordered = np.unique(hashes_N[members])
        count = max(1, round(_TEST_SHARE * len(ordered))) if len(ordered) > 1 else 0
        test.append(members[np.isin(hashes_N[members], ordered[:count])])
    chosen = np.sort(np.concatenate(test))
    return np.setdiff1d(rows, chosen), chosen


def _name(checked: Checked) -> str:
    return shown(checked.source.name)
