"""What people answered of images: tables such as ask.csv, and the images that they are about.

Shapes:  N images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selftaught.clusters.names import checked_name, table_lines
from selftaught.errors import DataError, FileError, shown
from selftaught.vectors.vectors import Vectors


@dataclass(frozen=True)
class AnswerLine:
    """An answer: an image as a table names it, and its label; row is "" where it is not there."""

    path: str
    row: str
    label: str


@dataclass(frozen=True)
class Answers:
    """Answers by image.

    Attributes:
        labels: The last label of each image, by the image's place (0 .. N-1).
        twice: How many images have more than one label.
        missing: How many images that were answered are gone.
    """

    labels: dict[int, str]
    twice: int
    missing: int


def read_answers(files: Sequence[str]) -> list[AnswerLine]:
    """All lines with a label, in their order.

    Raises:
        FileError: A file is missing, has no columns path and label, a line without a path, or a
            label that begins like a formula.
    """
    given = []
    for file in files:
        for number, cells in table_lines(Path(file), ("label", "path")):
            place, path = f"{file}, line {number}", cells.get("path", "")
            label = checked_name(cells.get("label", ""), place, "label")
            if label and not path:
                found = f"{place}: the label {shown(label)} has no path"
                raise FileError(found, "fill in the path, or remove the line")
            if label:
                given.append(AnswerLine(path, cells.get("row", ""), label))
    return given


def of_images(given: Sequence[AnswerLine], vectors: Vectors) -> Answers:
    """Answers by the place of their image; of one image the last counts.

    Raises:
        DataError: All are of images that are gone.
    """
    places = {path.strip(): number for number, path in enumerate(vectors.paths)}
    rows = {str(row): number for number, row in enumerate(vectors.row_N.tolist())}
    labels, twice, missing = dict[int, str](), set[int](), set[tuple[str, str]]()
    for line in given:
        place, by_row = places.get(line.path), rows.get(line.row)
        if place is None and by_row is not None and _respelt(vectors.paths[by_row], line.path):
            place = by_row
        if place is None:
            missing.add((line.path, line.row))
            continue
        if labels.get(place, line.label) != line.label:
            twice.add(place)
        labels[place] = line.label
    if given and not labels:
        what = f"none of the {len(given):,} answers is of one of these images, such as "
        raise DataError(what + shown(given[0].path), "give answers whose paths are theirs")
    return Answers(labels, len(twice), len(missing))


def _respelt(path: str, cell: str) -> bool:
    """Whether a cell is what spreadsheets make of a path of digits: 00017 becomes 17 or 1.7E+01."""
    try:
        value = float(cell.replace(",", "."))
    except ValueError:
        return False
    rounded = 1e-5 if "e" in cell.lower() else 0.0
    return path.isdecimal() and math.isclose(float(path), value, rel_tol=rounded)
