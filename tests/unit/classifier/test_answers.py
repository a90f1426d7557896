"""Answers: which image a line is about, what of two answers, and labels that cannot be."""

from pathlib import Path

import numpy as np
import pytest

from selftaught.classifier.answers import AnswerLine, answers_by_image, read_answers
from selftaught.clusters.names import table_bytes
from selftaught.errors import FileError
from selftaught.vectors.vectors import Vectors

PATHS = "a.png", "10,cr\rx.webp", "=1+1.webp", "00017"


@pytest.fixture
def vectors() -> Vectors:
    x_ND = np.eye(4, dtype=np.float32)
    return Vectors(x_ND, np.arange(5, 9), PATHS, None, "an encoder")


def read(folder: Path, *lines: tuple[str, ...]) -> list[AnswerLine]:
    (folder / "a.csv").write_bytes(table_bytes([("row", "path", "label"), *lines]))
    return read_answers([str(folder / "a.csv")])


def test_any_path_comes_back_from_a_table(tmp_path: Path, vectors: Vectors) -> None:
    given = read(tmp_path, *[("", path, f"name {i}") for i, path in enumerate(PATHS)])
    found = answers_by_image(given, vectors)
    assert found.labels == {i: f"name {i}" for i in range(4)}
    assert (found.twice, found.missing) == (0, 0)


def test_of_two_answers_the_last_counts_and_differences_are_counted(
    tmp_path: Path, vectors: Vectors
) -> None:
    given = read(
        tmp_path,
        *[("", "a.png", "cat"), ("", "a.png", "dog"), ("", "a.png", "cat")],
        *[("8", "17", "cat"), ("", "00017", "Cat")],  # one image, by its row and by its path
        *[("", "=1+1.webp", " big  cat"), ("", "=1+1.webp", "big cat ")],  # the same
        *[("", "gone", "cat"), ("", "gone", "dog")],
    )
    found = answers_by_image(given, vectors)
    assert found.labels == {0: "cat", 3: "Cat", 2: "big cat"}
    assert (found.twice, found.missing) == (2, 1)


def test_a_label_that_is_a_formula_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"a\.csv, line 3: .* the label =cmd\|calc as a formula"):
        read(tmp_path, ("", "=1+1.webp", "cat"), ("", "a.png", "=cmd|calc"))
