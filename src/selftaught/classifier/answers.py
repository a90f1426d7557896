"""Labels that people gave to images: reading tables such as ask.csv, and finding their images.

Shapes:  N images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selftaught.clusters.names import checked_name, table_lines
from selftaught.errors import DataError, FileError, printable
from selftaught.vectors.vectors import Vectors


@dataclass(frozen=True)
class AnswerLine:
    """One answer: path and row of an image as in the table, and its label; row may be ""."""

    path: str
    row: str
    label: str


@dataclass(frozen=True)
class Answers:
    """Answers by image.

    Attributes:
        labels: The last label of each image, by the image's place (0 .. N-1).
        twice: Number of images with more than one label.
        missing: Number of answered images that no longer exist.
    """

    labels: dict[int, str]
    twice: int
    missing: int


def read_answers(files: Sequence[str]) -> list[AnswerLine]:
    """All lines with a label, in order.

    Raises:
        FileError: A file is missing, lacks the columns path and label, or has a label without a
            path or one that begins like a formula.
    """
    given = []
    for file in files:
        for number, cells in table_lines(Path(file), ("label", "path")):
            place, path = f"{file}, line {number}", cells.get("path", "")
            label = checked_name(cells.get("label", ""), place, "label")
            if label and not path:
                found = f"{place}: the label {printable(label)} has no path"
                raise FileError(found, "fill in the path, or remove the line")
            if label:
                given.append(AnswerLine(path, cells.get("row", ""), label))
    return given


def answers_by_image(given: Sequence[AnswerLine], vectors: Vectors) -> Answers:
    """Answers by the place of their image; the last answer of an image counts.

    Raises:
        DataError: None of them belongs to one of these images.
    """
    places = {path.strip(): number for number, path in enumerate(vectors.paths)}
    rows = {str(row): number for number, row in enumerate(vectors.row_N.tolist())}
    labels, twice, missing = dict[int, str](), set[int](), set[tuple[str, str]]()
    for line in given:
        place, by_row = places.get(line.path), rows.get(line.row)
        if (
            place is None
            and by_row is not None
            and _is_respelling(vectors.paths[by_row], line.path)
        ):
            place = by_row
        if place is None:
            missing.add((line.path, line.row))
            continue
        if labels.get(place, line.label) != line.label:
            twice.add(place)
        labels[place] = line.label
    if given and not labels:
        what = f"none of the {len(given):,} answers (e.g. {printable(given[0].path)}) "
        what += "belongs to one of these images"
        raise DataError(what, "pass answers with the paths of these images")
    return Answers(labels, len(twice), len(missing))


def _is_respelling(path: str, cell: str) -> bool:
    """Whether a spreadsheet turned this path of digits into this cell: 00017 to 17 or 1.7E+01."""
    try:
        value = float(cell.replace(",", "."))
    except ValueError:
        return False
    rounded = 1e-5 if "e" in cell.lower() else 0.0
    return path.isdecimal() and math.isclose(float(path), value, rel_tol=rounded)
