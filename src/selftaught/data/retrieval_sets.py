"""Sets for instance retrieval: query images, database images, and the correct answers.

Three layouts are read, all into `RetrievalSet`:

* oxford: Oxford5k and Paris6k (Philbin et al., CVPR 2007 and 2008). NAME_query.txt has an image
  name and x1 y1 x2 y2; NAME_good.txt, NAME_ok.txt and NAME_junk.txt have one name per line. Query
  images are also in the database, and finding them counts, as in the released program.
* revisited: Radenovic, Iscen, Tolias, Avrithis, Chum, CVPR 2018: gnd*.json with imlist, qimlist
  and gnd, a list of {bbx, easy, hard, junk}. They publish a pickle, which is never opened.
* plain: folders queries/ and database/, and ground_truth.csv with the columns query and reference,
  and optionally kind (good, ok, junk) and x1, y1, x2, y2. Images are given by name, or by number,
  counted from 0 in name order.
"""

import csv
import io
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from selftaught.data.ground_truth import (
    Box,
    NamedImages,
    box_text,
    file_text,
    matching_files,
    parse_box,
    single_path,
    subfolder,
    text_lines,
    two_truths_error,
)
from selftaught.errors import DataError, did_you_mean, printable
from selftaught.foundation.files import read_json

QUERY_FOLDERS = ("queries", "query")
DATABASE_FOLDERS = ("database", "reference", "references", "ref")
IMAGE_FOLDERS = ("images", "jpg")
"""Folders for the images of an oxford or revisited set, if one exists."""

KINDS = ("good", "ok", "junk")

CORRUPT = tuple(
    f"paris_{name}"
    for name in (
        *("louvre_000136", "louvre_000146", "moulinrouge_000422", "museedorsay_001059"),
        *("notredame_000188", "pantheon_000284", "pantheon_000960", "pantheon_000974"),
        *("pompidou_000195", "pompidou_000196", "pompidou_000201", "pompidou_000467"),
        *("pompidou_000640", "sacrecoeur_000299", "sacrecoeur_000330", "sacrecoeur_000353"),
        *("triomphe_000662", "triomphe_000833", "triomphe_000863", "triomphe_000867"),
    )
)
"""The 20 corrupt files of Paris6k; a set's corrupt.txt may list more."""

_PREFIX = "oxc1_"  # of names in Oxford5k's queries, but not of its images
_GROUND_TRUTHS = {
    "oxford": "*_query.txt",
    "revisited": "gnd*.json",
    "plain": "ground_truth.csv",
}
_FORMS = "pass a folder with NAME_query.txt files, gnd_NAME.json or ground_truth.csv"
_SETS = ("easy", "hard", "junk")
_CORNERS = ("x1", "y1", "x2", "y2")
_COLUMNS = ("query", "reference", "kind", *_CORNERS)
_SLACK = 1.0  # pixels by which a box may leave its image: some count from 1, some round up
_DIGITS = 18  # at most, of an image number


@dataclass(frozen=True)
class Query:
    """A query image and its correct answers, as positions in `RetrievalSet.database`.

    Attributes:
        name: Name in results.
        path: Its image.
        box: The part of the image that shows the object; None: the whole image.
        good: Correct answers; "easy" in the revisited protocol.
        ok: Harder correct answers; "hard" in the revisited protocol.
        junk: Neither correct nor wrong: ignored wherever they are ranked.
    """

    name: str
    path: Path
    box: Box | None
    good: frozenset[int]
    ok: frozenset[int]
    junk: frozenset[int]


@dataclass(frozen=True)
class RetrievalSet:
    """A retrieval set.

    Attributes:
        queries: Queries in name order; in the revisited protocol, in the order of its list.
        database: The images to search.
        layout: "oxford", "revisited" or "plain".
        notes: Remarks for the reader of the results.
    """

    queries: tuple[Query, ...]
    database: tuple[Path, ...]
    layout: str
    notes: tuple[str, ...] = ()


def read_retrieval_set(folder: Path) -> RetrievalSet:
    """Read the retrieval set in a folder; its ground truth is there or in a subfolder.

    Raises:
        DataError: The ground truth is missing, ambiguous, a pickle, malformed or not UTF-8; it
            names missing images; or the set has no queries, no database or no correct answers.
        FileError: A file of the ground truth cannot be read, or is not JSON.
    """
    if not folder.is_dir():
        raise DataError(f"{printable(str(folder))} is not a folder", _FORMS)
    listed = {layout: matching_files(folder, pattern) for layout, pattern in _GROUND_TRUTHS.items()}
    found = {layout: paths for layout, paths in listed.items() if paths}
    pickles = matching_files(folder, "*.pkl")
    if pickles and "revisited" not in found:
        raise DataError(
            f"{printable(str(pickles[0]))} is a pickle, which could run code and is never opened",
            "save its imlist, qimlist and gnd (arrays as lists) as JSON in gnd_NAME.json next to "
            "it, or move it away",
        )
    if not found:
        raise DataError(f"{printable(str(folder))} contains no ground truth", _FORMS)
    if len(found) > 1:
        raise two_truths_error(*[paths[0] for paths in found.values()][:2])
    ((layout, paths),) = found.items()
    places = _READERS[layout](folder, paths)
    for part, kind in ((places.queries, "queries"), (places.database, "database images")):
        if not part:
            raise DataError(f"{printable(str(paths[0]))} names no {kind}", "add at least one")
    if not any(query.good | query.ok for query in places.queries):
        what = f"{printable(str(paths[0]))} names no correct image for any query"
        raise DataError(what, "mark at least one image as good or ok")
    return places


def check_box(query: Query, height: int, width: int) -> None:
    """Check that a query's box lies in its image of this size in pixels.

    Raises:
        DataError: The box leaves the image by more than a pixel.
    """
    if query.box is None:
        return
    x1, y1, x2, y2 = query.box
    if min(x1, y1) < -_SLACK or x2 > width + _SLACK or y2 > height + _SLACK:
        raise DataError(
            f"the box {box_text(query.box)} of the query {printable(query.name)} leaves its image "
            f"{printable(str(query.path))} of {width} x {height} pixels",
            "write x1 y1 x2 y2 in pixels of the stored image",
        )


# --- Oxford5k and Paris6k


def _oxford(folder: Path, paths: list[Path]) -> RetrievalSet:
    if paths[0].parent != paths[-1].parent:
        raise two_truths_error(paths[0], paths[-1])
    corrupt = {*CORRUPT}
    for listed in matching_files(folder, "corrupt.txt"):
        corrupt |= {PurePosixPath(line).stem for line, _ in text_lines(listed)}
    images = NamedImages(subfolder(folder, IMAGE_FOLDERS) or folder, corrupt)
    queries = tuple(_oxford_query(path, images, corrupt) for path in paths)
    notes = (f"corrupt images, left out: {images.dropped}",) if images.dropped else ()
    return RetrievalSet(queries, images.paths, "oxford", notes)


def _oxford_query(path: Path, images: NamedImages, corrupt: Collection[str]) -> Query:
    name, lines = path.name.removesuffix("_query.txt"), text_lines(path)
    words = lines[0][0].split() if len(lines) == 1 else []
    if len(words) != 5:
        what = f"{printable(str(path))} is not a single line 'IMAGE x1 y1 x2 y2'"
        raise DataError(what, "restore the file")
    kinds = []
    for kind in KINDS:
        listed = text_lines(path.with_name(f"{name}_{kind}.txt"))
        there = [(line, place) for line, place in listed if PurePosixPath(line).stem not in corrupt]
        kinds.append(frozenset(images.position(line, place) for line, place in there))
    asked = words[0] if words[0] in images else words[0].removeprefix(_PREFIX)
    image = images.paths[images.position(asked, lines[0][1])]
    return Query(name, image, parse_box(words[1:], lines[0][1]), *kinds)


# --- the revisited protocol


def _revisited(folder: Path, paths: list[Path]) -> RetrievalSet:
    path = single_path(paths)
    value, path_text = read_json(path), printable(str(path))
    imlist, qimlist, gnd = (_list(value, name, path_text) for name in ("imlist", "qimlist", "gnd"))
    if len(qimlist) != len(gnd):
        what = f"{path_text}: qimlist has {len(qimlist)} names, gnd {len(gnd)} entries"
        raise DataError(what, "restore the file")
    images = NamedImages(subfolder(folder, IMAGE_FOLDERS) or folder)

    def image(name: Any, place: str) -> Path:
        if not isinstance(name, str):
            raise DataError(f"{place} contains {name!r}", "use image names")
        return images.paths[images.position(name, place)]

    database = tuple(image(name, f"{path_text}, imlist") for name in imlist)
    asked = [image(name, f"{path_text}, qimlist") for name in qimlist]
    queries = tuple(
        _revisited_query(qimlist[n], asked[n], entry, len(database), f"{path_text}, gnd[{n}]")
        for n, entry in enumerate(gnd)
    )
    return RetrievalSet(queries, database, "revisited")


def _list(value: Any, name: str, path_text: str) -> list[Any]:
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise DataError(f"{path_text} has no list {name!r}", "write imlist, qimlist and gnd")
    return found


def _revisited_query(name: str, path: Path, entry: Any, images: int, place: str) -> Query:
    if not isinstance(entry, dict):
        raise DataError(f"{place} is not an object", "write bbx, easy, hard and junk")
    kinds = [_indices(entry.get(kind), images, f"{place}.{kind}") for kind in _SETS]
    box = entry.get("bbx")
    if not isinstance(box, list | None):
        raise DataError(f"{place}.bbx is not a list", "write four numbers, or null")
    return Query(name, path, None if box is None else parse_box(box, f"{place}.bbx"), *kinds)


def _indices(values: Any, images: int, place: str) -> frozenset[int]:
    if not isinstance(values, list):
        raise DataError(f"{place} is not a list", "write positions in imlist")
    for value in values:
        if type(value) is not int or not 0 <= value < images:
            what = f"{place} contains {value!r}"
            raise DataError(what, f"use positions from 0 to {images - 1}")
    return frozenset(values)


# --- two folders and a table


@dataclass
class _QueryLines:
    """The lines of one query read so far."""

    box: Box | None = None
    kinds: dict[int, str] = field(default_factory=dict)

    def add(self, reference: int, kind: str, box: Box | None, place: str) -> None:
        if self.kinds.setdefault(reference, kind) != kind:
            what = f"{place} marks an image {kind} that an earlier line marks "
            raise DataError(what + self.kinds[reference], "remove one of the two")
        if box and self.box and box != self.box:
            what = f"{place}: the box {box_text(box)} differs from that of an earlier line"
            raise DataError(what, "use the same box in all lines of a query")
        self.box = self.box or box

    def positions(self, kind: str) -> frozenset[int]:
        return frozenset(position for position, of_kind in self.kinds.items() if of_kind == kind)


def _plain(_: Path, paths: list[Path]) -> RetrievalSet:
    path = single_path(paths)
    queries, database = (
        NamedImages(_required_folder(path.parent, names))
        for names in (QUERY_FOLDERS, DATABASE_FOLDERS)
    )
    rows = _table(path)
    found_R = _column(rows, "reference", database)
    asked: dict[int, _QueryLines] = {}
    for (row, place), query, found in zip(
        rows, _column(rows, "query", queries), found_R, strict=True
    ):
        kind = row.get("kind") or "good"
        if kind not in KINDS:
            raise DataError(f"{place} has the kind {printable(kind)!r}", did_you_mean(kind, KINDS))
        corners = [row.get(name, "") for name in _CORNERS]
        box = parse_box(corners, place) if any(corners) else None
        asked.setdefault(query, _QueryLines()).add(found, kind, box, place)
    made = tuple(
        Query(queries.paths[i].stem, queries.paths[i], lines.box, *map(lines.positions, KINDS))
        for i, lines in sorted(asked.items())
    )
    unasked = len(queries.paths) - len(asked)
    note = f"images of {queries.folder.name}/ without a line, left out: {unasked}"
    return RetrievalSet(made, database.paths, "plain", (note,) if unasked else ())


def _required_folder(folder: Path, names: Sequence[str]) -> Path:
    found = subfolder(folder, names)
    if found is None:
        what = f"{printable(str(folder))} has no folder {names[0]}/"
        raise DataError(what, f"put the images into {' or '.join(f'{n}/' for n in names)}")
    return found


def _table(path: Path) -> list[tuple[dict[str, str], str]]:
    """Rows as cells by column, each with its place; delimited by comma, semicolon or tab."""
    text, path_text = file_text(path), printable(str(path))
    first = text.split("\n", 1)[0]
    delimiter = next((d for d in ",;\t" if d in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[tuple[dict[str, str], str]] = []
    try:
        header = [cell.strip() for cell in next(reader, [])]
        _check_header(header, path_text)
        for cells in reader:
            place = f"{path_text}, line {reader.line_num}"
            if len(cells) not in (0, len(header)):
                what = f"{place} has {len(cells)} cells, but the header has {len(header)}"
                raise DataError(what, "correct the line")
            if cells:
                row = {n: cell.strip() for n, cell in zip(header, cells, strict=True)}
                rows.append((row, place))
    except csv.Error as error:
        raise DataError(
            f"{path_text}, line {reader.line_num}: {error}", "correct the line"
        ) from None
    return rows


def _check_header(header: list[str], path_text: str) -> None:
    for name in ("query", "reference"):
        if name not in header:
            raise DataError(f"{path_text} has no column {name!r}", "add it to the first line")
    for name in header:
        if name not in _COLUMNS:
            what = f"{path_text} has the unknown column {printable(name)!r}"
            raise DataError(what, did_you_mean(name, _COLUMNS))
    corners = [name for name in _CORNERS if name in header]
    if len(corners) not in (0, 4) or len(set(header)) < len(header):
        what = f"{path_text} has the columns {', '.join(header)}"
        raise DataError(what, "use each once, with all of x1, y1, x2, y2 or none")


def _column(rows: list[tuple[dict[str, str], str]], name: str, images: NamedImages) -> list[int]:
    """The images in a column, given by name or by position in sorted order.

    If any cell is the name of an image, all cells are names, even if they are numbers.
    """
    cells = [(row[name], place) for row, place in rows]
    counted = all(cell.isascii() and cell.isdigit() and len(cell) <= _DIGITS for cell, _ in cells)
    if not counted or any(cell in images for cell, _ in cells):
        return [images.position(cell, place) for cell, place in cells]
    for cell, place in cells:
        if int(cell) >= len(images.paths):
            what = f"{place} names {name} {cell}, but {printable(str(images.folder))} has"
            raise DataError(f"{what} {len(images.paths)} images", "count them from 0")
    return [int(cell) for cell, _ in cells]


_READERS: dict[str, Callable[[Path, list[Path]], RetrievalSet]] = {
    "oxford": _oxford,
    "revisited": _revisited,
    "plain": _plain,
}
