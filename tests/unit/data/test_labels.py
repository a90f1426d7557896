"""Labels and splits: where they come from, that they are always the same, and what is refused."""

from datetime import date

import numpy as np
import pytest

from selftaught.data.check_images import Checked, check_images
from selftaught.data.labels import check_classes, label
from selftaught.data.sources import Source, find_images
from selftaught.errors import DataError
from selftaught.foundation.machine import Machine
from tests.support.bad_files import encoded, photograph


def pixels(number, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (number, 4, 4, 1), np.uint8)


def checked_arrays(cache, array=None, **columns) -> Checked:
    """Arrays with columns; lists become what a table would give."""
    columns = {
        name: values if isinstance(values, np.ndarray) else np.array(values, object)
        for name, values in columns.items()
    }
    number = len(next(iter(columns.values()))) if array is None else len(array)
    array = pixels(number) if array is None else array
    names = tuple(f"{i:05d}" for i in range(number))
    return check_images(Source("arrays", None, names, array, columns), machine=Machine(cache=cache))


def checked_files(folder, names) -> Checked:
    for i, name in enumerate(names):
        (folder / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "d" / name).write_bytes(encoded(photograph(i), "PNG"))
    return check_images(find_images(str(folder / "d")), machine=Machine(cache=folder / "c"))


def words(found) -> list[str | None]:
    return [None if i < 0 else found.classes[i] for i in found.labels_N]


# ---- where labels come from


def test_the_column_label_is_taken_before_others(tmp_path):
    checked = checked_arrays(tmp_path, label=["b", "a", "b", "a"], other=["y", "y", "x", "x"])
    found = label(checked)
    assert found.classes == ("a", "b") and found.labels_N.tolist() == [1, 0, 1, 0]
    assert label(checked, column="other").classes == ("x", "y")


def test_the_only_column_is_taken_whatever_its_name(tmp_path):
    split = ["train", "test", "train", "test"]
    found = label(checked_arrays(tmp_path, species=["b", "a", "a", "b"], split=split))
    assert found.classes == ("a", "b")


def test_several_columns_are_a_question(tmp_path):
    checked = checked_arrays(tmp_path, one=["a", "b"], two=["c", "d"])
    with pytest.raises(
        DataError, match=r"several label columns \(one, two\): choose one with --label"
    ):
        label(checked)
    with pytest.raises(DataError, match="no column 'tow': did you mean 'two'"):
        label(checked, column="tow")


@pytest.mark.parametrize("prefix", ["", "deep/er/"])
def test_class_folders(prefix, tmp_path):
    names = [f"{kind}/{prefix}{i}.png" for kind in ("dog", "cat") for i in range(5)]
    found = label(checked_files(tmp_path, names))
    assert found.classes == ("cat", "dog") and words(found) == ["cat"] * 5 + ["dog"] * 5
    assert found.split == "test (20 % by hash)" and len(found.test) == 2


def test_an_image_beside_the_class_folders_has_no_label(tmp_path):
    found = label(
        checked_files(tmp_path, ["0.png", *(f"{k}/{i}.png" for k in "ab" for i in "123")])
    )
    assert words(found) == [None] + ["a"] * 3 + ["b"] * 3
    assert 0 not in found.train and 0 not in found.test


def test_rejected_images_take_no_label(tmp_path):
    array = np.random.default_rng(0).random((6, 4, 4, 1)).astype(np.float32)
    array[1, 0, 0, 0] = np.nan
    found = label(checked_arrays(tmp_path, array, label=["a", "b", "c", "a", "c", "a"]))
    assert words(found) == ["a", "c", "a", "c", "a"]


@pytest.mark.parametrize(
    ("values", "classes", "indices"),
    [
        (np.array([10, 9, 2, 9]), ("2", "9", "10"), [2, 1, 0, 1]),
        (np.array([True, False, True]), ("False", "True"), [1, 0, 1]),
        (["b", None, "", "a"], ("a", "b"), [1, -1, -1, 0]),
        ([1.0, None, 2.0], ("1", "2"), [0, -1, 1]),
        (["X", "1", "12"], ("1", "12", "X"), [2, 0, 1]),
        (["0.5", "1", None], ("0.5", "1"), [0, 1, -1]),
        ([5, None, 4], ("4", "5"), [1, -1, 0]),
        (np.array([0.0, 1 / 3, 1.0]), ("0", "0.3333333333333333", "1"), [0, 1, 2]),
    ],
)
def test_classes_are_sorted_and_gaps_are_none(values, classes, indices, tmp_path):
    number = len(values)
    split = ["train"] * number
    columns = {"label": np.array([*values] * 2, getattr(values, "dtype", object))}
    found = label(checked_arrays(tmp_path, **columns, split=split + ["test"] * number))
    assert found.classes == classes and found.labels_N.tolist() == indices * 2
    assert found.labels_N.dtype == np.int64


def test_many_fractions_are_targets(tmp_path):
    targets = np.random.default_rng(0).random(50)
    targets[7] = np.nan
    values = targets.astype(object)
    values[7] = None
    found = label(checked_arrays(tmp_path, weight=values))
    assert found.classes == () and found.labels_N.dtype == np.float64
    np.testing.assert_equal(found.labels_N, targets)
    assert len(found.test) == 10 and len(found.train) == 39
    assert label(checked_arrays(tmp_path, weight=np.arange(50.0) // 2)).classes[:2] == ("0", "1")


def test_numbers_may_be_written_as_texts(tmp_path):
    checked = checked_arrays(tmp_path, label=["1.5", None, "-2", "1e3", "7", "3"])
    found = label(checked, numbers=True).labels_N
    np.testing.assert_equal(found, [1.5, np.nan, -2, 1000, 7, 3])


# ---- splits


def test_a_split_column(tmp_path):
    split = ["train", "Test", "other", "TRAIN ", "test", None]
    found = label(checked_arrays(tmp_path, label=list("ababab"), split=split))
    assert found.train.tolist() == [0, 3] and found.test.tolist() == [1, 4]
    assert found.split == "test (given)"


def test_val_stands_in_for_test_and_is_left_alone_beside_it(tmp_path):
    found = label(checked_arrays(tmp_path, label=list("aabb"), split=["train", "val"] * 2))
    assert (found.split, found.test.tolist()) == ("val (given)", [1, 3])
    split = ["train", "val", "test", "train"]
    found = label(checked_arrays(tmp_path, label=list("abab"), split=split))
    assert (found.split, found.train.tolist(), found.test.tolist()) == (
        *("test (given), none of b", [0, 3], [2]),
    )


@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("Train", "val")])
def test_train_and_test_folders(train, test, tmp_path):
    names = [f"{split}/{kind}/{i}.png" for split in (train, test) for kind in "ab" for i in "01"]
    checked = checked_files(tmp_path, names)
    found = label(checked)
    rows = {row: checked.source.names[row] for row in range(8)}
    assert all(rows[row].startswith(train) for row in found.train) and len(found.train) == 4
    assert all(rows[row].startswith(test) for row in found.test) and len(found.test) == 4
    assert words(found) == [rows[row].split("/")[1] for row in range(8)]
    assert found.split == f"{test} (given)"


def test_a_class_named_test_is_a_class(tmp_path):
    found = label(checked_files(tmp_path, ["test/0.png", "control/1.png", "test/2.png"]))
    assert found.classes == ("control", "test")


def test_a_table_over_split_folders_gives_the_labels_and_they_the_split(tmp_path):
    names = [f"{split}/{i}.png" for split in ("train", "test") for i in range(3)]
    checked_files(tmp_path, names)
    rows = "".join(f"{name},{'ab'[i % 2]}\n" for i, name in enumerate(names))
    (tmp_path / "d/t.csv").write_text("path,label\n" + rows)
    found = label(
        check_images(find_images(str(tmp_path / "d/t.csv")), machine=Machine(cache=tmp_path / "c"))
    )
    assert found.classes == ("a", "b") and found.test.tolist() == [3, 4, 5]


def test_only_train_is_split_by_hash(tmp_path):
    split = ["train"] * 10 + ["other"] * 10
    found = label(checked_arrays(tmp_path, label=list("ab") * 10, split=split))
    assert found.split == "test (20 % by hash)"
    assert sorted([*found.train, *found.test]) == list(range(10)) and len(found.test) == 2


def test_the_split_by_hash_is_stratified_and_complete(tmp_path):
    labels = ["rare"] * 2 + ["few"] * 7 + ["many"] * 200 + ["one"]
    found = label(checked_arrays(tmp_path, label=labels))
    assert sorted([*found.train, *found.test]) == list(range(210))
    counts = [sum(labels[row] == kind for row in found.test) for kind in dict.fromkeys(labels)]
    assert counts == [1, 1, 40, 0]
    assert found.train.tolist() == sorted(found.train)


def test_the_split_by_hash_does_not_depend_on_order_or_names(tmp_path):
    array, labels = pixels(60), np.arange(60) % 3
    order = np.random.default_rng(1).permutation(60)
    found = label(checked_arrays(tmp_path, array, label=labels))
    moved = label(checked_arrays(tmp_path, array[order], label=labels[order]))
    assert sorted(order[moved.test]) == found.test.tolist()


def test_equal_files_are_never_on_both_sides(tmp_path):
    array = np.repeat(pixels(30), 3, axis=0)
    found = label(checked_arrays(tmp_path, array, label=np.arange(90) // 3 % 2))
    assert not {row // 3 for row in found.train} & {row // 3 for row in found.test}
    assert len(found.test) == 18


# ---- what is refused


def test_no_labels(tmp_path):
    with pytest.raises(DataError, match="has no labels: put each class into its own folder"):
        label(checked_files(tmp_path, ["a.png", "b.png"]))
    with pytest.raises(DataError, match="has no labels"):
        label(checked_arrays(tmp_path, pixels(4)))
    with pytest.raises(DataError, match="has no labels: fill in the column"):
        label(checked_arrays(tmp_path, label=[None, "", None]))


def test_one_class(tmp_path):
    with pytest.raises(
        DataError, match="have the same class, 'a': add images of at least one other"
    ):
        label(checked_files(tmp_path, ["a/1.png", "a/2.png"]))


def test_test_without_train(tmp_path):
    with pytest.raises(DataError, match="has test images but no train images"):
        label(checked_arrays(tmp_path, label=["a", "b"], split=["test", "test"]))


def test_too_few_to_split(tmp_path):
    with pytest.raises(DataError, match="too few labelled images to split"):
        label(checked_arrays(tmp_path, label=["a", "b"], split=["train", "train"]))
    with pytest.raises(DataError, match=r"no labelled image is marked train or test .* '', 'dev'"):
        label(checked_arrays(tmp_path, label=["a", "b"], split=["dev", ""]))


def test_images_of_the_test_that_are_learnt_from_are_counted(tmp_path):
    array = pixels(8)
    array[5:7] = array[:2]
    split = ["train"] * 4 + ["test"] * 4
    found = label(checked_arrays(tmp_path, array, label=list("abababab"), split=split))
    assert found.split == "test (given), 2 of them also in train"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("numbers", [False, True])
def test_a_label_that_is_not_finite(value, numbers, tmp_path):
    column = np.array([1.0, 2.0, value, 1.0])
    with pytest.raises(DataError, match=f"arrays: the label of 00002 is {value:g}: .* cell empty"):
        label(checked_arrays(tmp_path, label=column), numbers=numbers)


@pytest.mark.parametrize(
    ("values", "here", "there"),
    [
        (["0.5", "1.5", "n/a", "2"], "'0.5' for 00000", "'n/a' for 00002"),
        ([3, "cat", 3, "cat"], "3 for 00000", "'cat' for 00001"),
        ([3, "3", 4, "4"], "3 for 00000", "'3' for 00001"),
        ([0.5, None, "0.7", 1.0], "0.5 for 00000", "'0.7' for 00002"),
    ],
)
def test_labels_of_several_kinds(values, here, there, tmp_path):
    with pytest.raises(DataError, match="has labels of different kinds") as raised:
        label(checked_arrays(tmp_path, label=values))
    assert here in str(raised.value) and there in str(raised.value)


def test_a_class_that_is_for_the_test_only(tmp_path):
    checked = checked_files(tmp_path, ["train/a/1.png", "train/b/2.png", "test/a/3.png"])
    check_classes(checked, label(checked))
    (tmp_path / "d/test/c").mkdir()
    (tmp_path / "d/test/c/4.png").write_bytes(encoded(photograph(4), "PNG"))
    checked = check_images(find_images(str(tmp_path / "d")), machine=Machine(cache=tmp_path / "c"))
    with pytest.raises(DataError, match=r"test/c/4.png is in the test set, but its class "):
        check_classes(checked, label(checked))


@pytest.mark.parametrize(
    ("absent", "words"), [("b", "none of b"), ("bcd", "none of b and 2 others")]
)
def test_classes_that_are_not_asked_for_are_said(absent, words, tmp_path):
    names = [f"train/{kind}/{i}.png" for kind in "abcd" for i in "12"]
    names += [f"test/{kind}/3.png" for kind in "abcd" if kind not in absent]
    checked = checked_files(tmp_path, names)
    assert label(checked).split == f"test (given), {words}"
    check_classes(checked, label(checked))


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_a_class_of_which_no_image_can_be_used(prefix, tmp_path):
    names = [f"{prefix}{kind}/{i}.png" for kind in "ab" for i in "123"]
    names += [f"test/{kind}/4.png" for kind in "ab"] if prefix else []
    checked_files(tmp_path, [*names, f"{prefix}c/5.png", f"{prefix}a/6.png"])
    for name in ("a/6.png", "c/5.png"):
        (tmp_path / "d" / prefix / name).write_bytes(b"no image")
    checked = check_images(find_images(str(tmp_path / "d")), machine=Machine(cache=tmp_path / "c"))
    found = label(checked)
    assert found.classes == ("a", "b")
    with pytest.raises(DataError, match=f"the class c has no usable image .* {prefix}c/5.png"):
        check_classes(checked, found)
    (tmp_path / "d" / prefix / "c/5.png").unlink()
    (tmp_path / "d" / prefix / "c/notes.txt").touch()
    checked = check_images(find_images(str(tmp_path / "d")), machine=Machine(cache=tmp_path / "c"))
    with pytest.raises(DataError, match=f"the class folder .*d/{prefix}c contains no images"):
        check_classes(checked, label(checked))
    (tmp_path / "d" / prefix / "c").rename(tmp_path / "d" / prefix / ".c")
    check_classes(checked, label(checked))


@pytest.mark.parametrize("train", ["", "Train/"])
def test_a_stray_image_loses_no_class(train, tmp_path):
    names = [f"{train}{kind}/{i}.png" for kind in "ab" for i in "123"]
    names += [f"test/{kind}/4.png" for kind in "ab"] if train else []
    checked_files(tmp_path, [*names, "cover.png", f"{train}x.png"])
    for broken in ([], [f"{train}x.png"], [f"{train}x.png", "cover.png"]):
        for name in broken:
            (tmp_path / "d" / name).write_bytes(b"no image")
        checked = check_images(
            find_images(str(tmp_path / "d")), machine=Machine(cache=tmp_path / "c")
        )
        check_classes(checked, label(checked))


def test_dates_are_no_numbers(tmp_path):
    days = [date(2024, 1, day) for day in (1, 2, 3, 4)] * 2
    checked = checked_arrays(tmp_path, label=days)
    assert label(checked).classes[0] == "2024-01-01"
    with pytest.raises(DataError, match=r"label of 00000 is not a number \(2024-01-01\)"):
        label(checked, numbers=True)


def test_a_class_of_a_table_of_which_no_image_can_be_used(tmp_path):
    array = np.random.default_rng(0).random((7, 4, 4, 1)).astype(np.float32)
    array[2, 0, 0, 0] = np.nan
    checked = checked_arrays(tmp_path, array, label=["a", "b", "c", "a", "b", "a", "b"])
    with pytest.raises(DataError, match=r"the class c has no usable image \(for example 00002"):
        check_classes(checked, label(checked))
    numbers = checked_arrays(tmp_path, array, label=np.arange(7.0))
    check_classes(numbers, label(numbers, numbers=True))


def test_the_sets_that_packages_ship(tmp_path):
    digits = label(check_images(find_images("digits"), machine=Machine(cache=tmp_path)))
    assert digits.classes == tuple("0123456789") and len(digits.test) == 359
