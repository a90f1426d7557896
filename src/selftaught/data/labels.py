"""Labels and splits from a column of the data or its class folders; read only when needed.

Shapes:  N rows of one `Checked`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selftaught.data.check_images import Checked
from selftaught.errors import DataError, did_you_mean, printable

_TRAIN = ("train", "training")
_TEST = ("test", "testing", "val", "valid", "validation")  # the first one present is used
_TEST_SHARE = 0.2
_NUMBERS = ("number", "digits", "fraction")  # kinds of values that can be numbers
_FEW = 20  # up to this many distinct fractions a column of numbers still names classes


@dataclass(frozen=True)
class Labelled:
    """Labels and a split, by row.

    Attributes:
        classes: Names, sorted (numbers by size); empty where numbers are predicted.
        labels_N: (N,) int64 index of the class, -1 without a label; or float64 targets, NaN
            without one.
        train: Rows to learn from, ascending.
        test: Rows to evaluate on, ascending.
        split: As text: "test (given)", "test (20 % by hash)"; with its weaknesses:
            "test (given), none of cat", "test (given), 12 of them also in train".
    """

    classes: tuple[str, ...]
    labels_N: NDArray[Any]
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    split: str


def label(checked: Checked, *, column: str | None = None, numbers: bool = False) -> Labelled:
    """Find labels and a split into train and test.

    Labels come from the given column; else from the column "label", the only column, or the class
    folders. The split comes from the column "split" or from folders train/ and test/ (or val/).
    Unsplit data is split 80/20 within each class by the hash of the bytes: the split is always the
    same, and equal files are on the same side.

    Args:
        checked: The images.
        column: The column of the labels, if there are several.
        numbers: Whether labels are numbers to predict, however few distinct ones there are.

    Raises:
        DataError: Labels are missing, of mixed kinds, not finite, not numbers although `numbers`
            is set, or all of one class; or the training or test part is empty.
    """
    names = _usable_names(checked)
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
        train, test, words = _given_split(given, rows, checked)
        words += _absent_classes(classes, labels_N[test]) + _overlap(checked, train, test)
        return Labelled(classes, labels_N, train, test, words)
    if given is not None:  # rows that are neither train nor test are not used
        rows = _training_rows(checked, given, rows)
    train, test = _hash_split(checked, rows, labels_N if classes else np.zeros_like(labels_N))
    if not len(train) or not len(test):
        raise DataError(
            f"{_name(checked)} has too few labelled images to split",
            "label at least two images of a class, or add folders train/ and test/",
        )
    words = "test (20 % by hash)" + _absent_classes(classes, labels_N[test])
    return Labelled(classes, labels_N, train, test, words)


def check_classes(checked: Checked, found: Labelled, *, column: str | None = None) -> None:
    """Check that every class can be learned and evaluated.

    Args:
        checked: The images.
        found: The result of `label`.
        column: As for `label`.

    Raises:
        DataError: No image of a class is usable, or a class is only in the test part.
    """
    if not found.classes:  # numbers to predict
        return
    _refuse_lost(checked, found.classes, column)
    _refuse_empty(checked, found.classes, column)
    learned, tested = (found.labels_N[rows] for rows in (found.train, found.test))
    unknown = np.flatnonzero(~np.isin(tested, learned))
    if len(unknown):
        row = found.test[unknown[0]]
        name = checked.source.names[checked.index_N[row]]
        kind = found.classes[found.labels_N[row]]
        raise DataError(
            f"{_name(checked)}: {printable(name)} is in the test set, but its class "
            f"{printable(kind)} has no training image",
            "add training images of the class, or remove the class",
        )


# ---- labels


def _values(
    checked: Checked, positions: NDArray[np.int64], column: str | None, split_folders: bool
) -> list[Any]:
    """A label or None for each position in the source."""
    columns = checked.source.columns
    usable = [name for name in columns if name != "split"]
    if column == "folders" and column not in columns:
        return _folder_labels(checked, positions, split_folders)
    if column is not None:
        if column not in columns:
            remedy = did_you_mean(column, usable) if usable else "it has no label columns"
            raise DataError(f"{_name(checked)} has no column {column!r}", remedy)
        return _plain_values(columns[column][positions])
    if "label" in columns or len(usable) == 1:
        return _plain_values(columns["label" if "label" in columns else usable[0]][positions])
    if usable:
        raise DataError(
            f"{_name(checked)} has several label columns ({', '.join(sorted(usable))})",
            "choose one with --label COLUMN",
        )
    return _folder_labels(checked, positions, split_folders)


def _plain_values(column_N: NDArray[Any]) -> list[Any]:
    """Python values; None for missing ones."""
    return [None if value is None or value == "" else value for value in column_N.tolist()]


def _folder_labels(
    checked: Checked, positions: NDArray[np.int64], split_folders: bool
) -> list[Any]:
    """The first folder of each name (below train/ and test/ the second); None if there is none."""
    skip = 1 if split_folders else 0
    paths = [checked.source.names[i].split("/")[skip:] for i in positions]
    found = [path[0] if len(path) > 1 else None for path in paths]
    if checked.source.root is None:
        remedy = "add an array 'label' with one number or word per image"
        raise DataError(f"{_name(checked)} has no labels", remedy)
    if not any(found):
        raise DataError(
            f"{_name(checked)} has no labels",
            "put each class into its own folder, or pass a table with columns path and label",
        )
    return found


def _refuse_not_finite(checked: Checked, names: Sequence[str], values: Sequence[Any]) -> None:
    for name, value in zip(names, values, strict=True):
        if isinstance(value, float) and not np.isfinite(value):
            raise DataError(
                f"{_name(checked)}: the label of {printable(name)} is {value:g}",
                "write a finite number, or leave the cell empty if there is no label",
            )


def _refuse_mixed(checked: Checked, names: Sequence[str], values: Sequence[Any]) -> None:
    """Refuse mixed kinds: numbers and texts, or fractions and words (a numeric column with "n/a").

    Integers written as text may be mixed with words, for example as labels of characters.
    """
    first: dict[str, tuple[str, Any]] = {}
    for name, value in zip(names, values, strict=True):
        if value is not None:
            first.setdefault(_value_kind(value), (name, value))
    pairs = ("number", "word"), ("number", "digits"), ("number", "fraction"), ("fraction", "word")
    for pair in pairs:
        if first.keys() >= {*pair}:
            (name, value), (other, word) = (first[kind] for kind in pair)
            raise DataError(
                f"{_name(checked)} has labels of different kinds ({printable(repr(value))} for "
                f"{printable(name)}, {printable(repr(word))} for {printable(other)})",
                "make all labels numbers or all words, with an empty cell where there is no label",
            )


def _value_kind(value: Any) -> str:
    """Kind of a label: "number", text ("fraction", "digits" or "word") or "other" (a date)."""
    if not isinstance(value, str):
        return "number" if isinstance(value, int | float) else "other"
    try:
        finite = bool(np.isfinite(float(value)))
    except ValueError:
        finite = False
    return "word" if not finite else "digits" if value.isdigit() else "fraction"


def _refuse_lost(checked: Checked, classes: Sequence[str], column: str | None) -> None:
    """Refuse classes without a usable image."""
    source = checked.source
    folders = _folder_splits(_usable_names(checked)) is not None
    values = _values(checked, np.arange(len(source)), column, folders)
    for position in np.setdiff1d(np.arange(len(source)), checked.index_N).tolist():
        value = values[position]
        if value is not None and _class_name(value) not in classes:
            raise DataError(
                f"{_name(checked)}: the class {printable(_class_name(value))} has no usable image "
                f"(for example {printable(source.names[position])})",
                "run selftaught check for the reasons, and repair the images or remove the class",
            )


def _refuse_empty(checked: Checked, classes: Sequence[str], column: str | None) -> None:
    """Refuse class folders without images."""
    source = checked.source
    if source.root is None or not Path(source.name).is_dir() or column not in (None, "folders"):
        return
    names = _usable_names(checked)
    parts = {name.split("/")[0] for name in names if "/" in name} if _folder_splits(names) else {""}
    for split in sorted(parts):
        for folder in sorted((source.root / split).iterdir()):
            if folder.is_dir() and folder.name[0] != "." and folder.name not in classes:
                raise DataError(
                    f"the class folder {printable(str(folder))} contains no images",
                    "put images into it, or remove it",
                )


def _as_numbers(
    checked: Checked, names: Sequence[str], values: Sequence[Any]
) -> list[float | None]:
    """Convert labels to numbers, including numbers written as text."""
    for name, value in zip(names, values, strict=True):
        if value is not None and _value_kind(value) not in _NUMBERS:
            raise DataError(
                f"{_name(checked)}: the label of {printable(name)} is not a number "
                f"({printable(str(value))})",
                "correct it, leave the cell empty, or choose a column of numbers with --label",
            )
    return [None if value is None else float(value) for value in values]


def _targets(values: Sequence[Any], wanted: bool) -> NDArray[np.float64] | None:
    """Numbers to predict, (N,), if labels are fractions with many values; None for classes."""
    known = {value for value in values if value is not None}
    if not wanted and (len(known) <= _FEW or not _are_fractions(known)):
        return None
    return np.array([np.nan if value is None else value for value in values])


def _are_fractions(known: set[Any]) -> bool:
    """Whether all are floats, and not all of them integers."""
    numbers = all(isinstance(value, float) for value in known)
    return numbers and not all(value.is_integer() for value in known)


def _classes(values: Sequence[Any]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    known = {value for value in values if value is not None}
    numbers = all(isinstance(value, int | float) for value in known)
    ordered = sorted(known) if numbers else sorted(known, key=str)
    index = {value: i for i, value in enumerate(ordered)}
    labels_N = np.array([-1 if value is None else index[value] for value in values], np.int64)
    return tuple(_class_name(value) for value in ordered), labels_N


def _class_name(value: Any) -> str:
    """Name of a class; integers that became floats through gaps in the column lose their point."""
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
            f"all labelled images of {_name(checked)} have the same class, {classes[0]!r}",
            "add images of at least one other class",
        )


# ---- splits


def _usable_names(checked: Checked) -> list[str]:
    """Names of the usable images, by row."""
    return [checked.source.names[i] for i in checked.index_N]


def _folder_splits(names: Sequence[str]) -> list[str] | None:
    """The first folder of each name, if these are exactly train/ and test/ (or val/), else None."""
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


def _given_split(
    splits: Sequence[str], rows: NDArray[np.int64], checked: Checked
) -> tuple[NDArray[np.int64], NDArray[np.int64], str]:
    """Rows of train and of the first kind of test present; other rows are not used."""
    kind = next(word for word in _TEST if any(splits[row] == word for row in rows))
    train = rows[[splits[row] in _TRAIN for row in rows]]
    test = rows[[splits[row] == kind for row in rows]]
    if not len(train):
        raise DataError(
            f"{_name(checked)} has {kind} images but no train images",
            "mark some as train, or remove the split",
        )
    return train, test, f"{kind} (given)"


def _training_rows(
    checked: Checked, splits: Sequence[str], rows: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The training rows of data without a test part."""
    found = rows[[splits[row] in _TRAIN for row in rows]]
    if not len(found):
        words = sorted({splits[row] for row in rows})
        raise DataError(
            f"{_name(checked)}: no labelled image is marked train or test (the column split has "
            f"{', '.join(repr(printable(word)) for word in words[:3])})",
            "write train or test there, or remove the column",
        )
    return found


def _absent_classes(classes: Sequence[str], asked: NDArray[Any]) -> str:
    """Text that lists the classes without a test image."""
    there = {*asked.tolist()}
    names = [name for index, name in enumerate(classes) if index not in there]
    if not names:
        return ""
    return f", none of {printable(names[0])}" + (
        f" and {len(names) - 1} others" if names[1:] else ""
    )


def _overlap(checked: Checked, train: NDArray[np.int64], test: NDArray[np.int64]) -> str:
    """Text that counts the test images with an exact copy in train."""
    hashes_N = np.array(checked.images["sha256"].to_pylist())
    both = int(np.isin(hashes_N[test], hashes_N[train]).sum())
    return f", {both:,} of them also in train" if both else ""


def _hash_split(
    checked: Checked, rows: NDArray[np.int64], labels_N: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of train and test: a fifth of each class, with the lowest hashes, is the test part."""
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
    return printable(checked.source.name)
