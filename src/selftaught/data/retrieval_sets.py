"""Sets for instance retrieval: images to ask with, images to find, and which of them are right.

`Places` is what every layout becomes; three are read:

* oxford: Oxford5k and Paris6k (Philbin et al., CVPR 2007 and 2008). NAME_query.txt holds an image's
  name and x1 y1 x2 y2; NAME_good.txt, NAME_ok.txt and NAME_junk.txt hold a name a line. The images
  that are asked with are in the database too, and finding them counts, as in the released program.
* revisited: Radenovic, Iscen, Tolias, Avrithis, Chum, CVPR 2018: gnd*.json with imlist, qimlist
  and gnd, a list of {bbx, easy, hard, junk}. They publish a pickle, which is never opened.
* plain: folders queries/ and database/, and ground_truth.csv with the columns query and reference,
  and perhaps kind (good, ok, junk) and x1, y1, x2, y2. Images are named, or counted from 0 in the
  order of their names.
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
    box_in_words,
    box_of,
    files_in,
    only,
    subfolder,
    text_lines,
    text_of,
    two,
)
from selftaught.errors import DataError, did_you_mean, shown
from selftaught.foundation.files import read_json

QUERY_FOLDERS = ("queries", "query")
DATABASE_FOLDERS = ("database", "reference", "references", "ref")
IMAGE_FOLDERS = ("images", "jpg")
"""Where the images of an oxford or revisited set are, if there is such a folder."""

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
"""The 20 files of Paris6k that hold no image; a set's corrupt.txt may name more."""

_PREFIX = "oxc1_"  # of the names in Oxford5k's queries, and of none of its images
_GROUND_TRUTHS = {
    "oxford": "*_query.txt",
    "revisited": "gnd*.json",
    "plain": "ground_truth.csv",
}
_FORMS = "give a folder with NAME_query.txt files, gnd_NAME.json or ground_truth.csv"
_SETS = ("easy", "hard", "junk")
_CORNERS = ("x1", "y1", "x2", "y2")
_COLUMNS = ("query", "reference", "kind", *_CORNERS)
_SLACK = 1.0  # pixels by which a box may stick out: some count from 1, some round up
_DIGITS = 18  # of a number that can be the place of an image


@dataclass(frozen=True)
class Query:
    """An image to ask with, and what is right: positions in `Places.database`.

    Attributes:
        name: As results call it.
        path: Its image.
        box: The part of it that shows the object; None: all of it.
        good: What must be found; of the revisited protocol the easy ones.
        ok: Harder, and right all the same; of the revisited protocol the hard ones.
        junk: Neither right nor wrong: passed over wherever they are ranked.
    """

    name: str
    path: Path
    box: Box | None
    good: frozenset[int]
    ok: frozenset[int]
    junk: frozenset[int]


@dataclass(frozen=True)
class Places:
    """A retrieval set.

    Attributes:
        queries: In the order of their names; of the revisited protocol in that of its list.
        database: The images to find.
        layout: "oxford", "revisited" or "plain".
        notes: What a reader must know, in words.
    """

    queries: tuple[Query, ...]
    database: tuple[Path, ...]
    layout: str
    notes: tuple[str, ...] = ()


def read_places(folder: Path) -> Places:
    """The retrieval set in a folder; its ground truth is in it or one folder further down.

    Raises:
        DataError: There is no ground truth, or more than one; it is a pickle; it is malformed or
            not UTF-8; it names images that are not there; or there are no queries, no database, or
            no image that is right.
        FileError: A file of the ground truth cannot be read, or its JSON is none.
    """
    if not folder.is_dir():
        raise DataError(f"{shown(str(folder))} is no folder", _FORMS)
    listed = {layout: files_in(folder, pattern) for layout, pattern in _GROUND_TRUTHS.items()}
    found = {layout: paths for layout, paths in listed.items() if paths}
    pickles = files_in(folder, "*.pkl")
    if pickles and "revisited" not in found:
        raise DataError(
            f"{shown(str(pickles[0]))} is a pickle, which could run code, and is never opened",
            "write its imlist, qimlist and gnd, arrays as lists, as JSON to gnd_NAME.json beside "
            "it, or move it away",
        )
    if not found:
        raise DataError(f"{shown(str(folder))} holds no ground truth", _FORMS)
    if len(found) > 1:
        raise two(*[paths[0] for paths in found.values()][:2])
    ((layout, paths),) = found.items()
    places = _READERS[layout](folder, paths)
    for part, called in ((places.queries, "queries"), (places.database, "images to find")):
        if not part:
            raise DataError(f"{shown(str(paths[0]))} names no {called}", "name one at least")
    if not any(query.good | query.ok for query in places.queries):
        found_none = f"{shown(str(paths[0]))} names no image that is right for any query"
        raise DataError(found_none, "name one at least, as good or ok")
    return places


def check_box(query: Query, height: int, width: int) -> None:
    """Whether a query's box lies in its image, whose size in pixels is known by now.

    Raises:
        DataError: It sticks out by more than a pixel.
    """
    if query.box is None:
        return
    x1, y1, x2, y2 = query.box
    if min(x1, y1) < -_SLACK or x2 > width + _SLACK or y2 > height + _SLACK:
        raise DataError(
            f"the box {box_in_words(query.box)} of the query {shown(query.name)} leaves its image "
            f"{shown(str(query.path))} of {width} x {height} pixels",
            "give x1 y1 x2 y2 in pixels of the image as it is stored",
        )


# --- Oxford5k and Paris6k


def _oxford(folder: Path, paths: list[Path]) -> Places:
    if paths[0].parent != paths[-1].parent:
        raise two(paths[0], paths[-1])
    corrupt = {*CORRUPT}
    for listed in files_in(folder, "corrupt.txt"):
        corrupt |= {PurePosixPath(line).stem for line, _ in text_lines(listed)}
    images = NamedImages(subfolder(folder, IMAGE_FOLDERS) or folder, corrupt)
    queries = tuple(_oxford_query(path, images, corrupt) for path in paths)
    notes = (f"corrupt images, left out: {images.dropped}",) if images.dropped else ()
    return Places(queries, images.paths, "oxford", notes)


def _oxford_query(path: Path, images: NamedImages, corrupt: Collection[str]) -> Query:
    name, lines = path.name.removesuffix("_query.txt"), text_lines(path)
    words = lines[0][0].split() if len(lines) == 1 else []
    if len(words) != 5:
        raise DataError(f"{shown(str(path))} is not one line 'IMAGE x1 y1 x2 y2'", "restore it")
    kinds = []
    for kind in KINDS:
        listed = text_lines(path.with_name(f"{name}_{kind}.txt"))
        there = [(line, place) for line, place in listed if PurePosixPath(line).stem not in corrupt]
        kinds.append(frozenset(images.position(line, place) for line, place in there))
    asked = words[0] if words[0] in images else words[0].removeprefix(_PREFIX)
    image = images.paths[images.position(asked, lines[0][1])]
    return Query(name, image, box_of(words[1:], lines[0][1]), *kinds)


# --- the revisited protocol


def _revisited(folder: Path, paths: list[Path]) -> Places:
    path = only(paths)
    value, called = read_json(path), shown(str(path))
    imlist, qimlist, gnd = (_list(value, name, called) for name in ("imlist", "qimlist", "gnd"))
    if len(qimlist) != len(gnd):
        what = f"{called}: qimlist has {len(qimlist)} names, gnd {len(gnd)} entries"
        raise DataError(what, "restore the file")
    images = NamedImages(subfolder(folder, IMAGE_FOLDERS) or folder)

    def image(name: Any, place: str) -> Path:
        if not isinstance(name, str):
            raise DataError(f"{place} holds {name!r}", "give names of images")
        return images.paths[images.position(name, place)]

    database = tuple(image(name, f"{called}, imlist") for name in imlist)
    asked = [image(name, f"{called}, qimlist") for name in qimlist]
    queries = tuple(
        _revisited_query(qimlist[n], asked[n], entry, len(database), f"{called}, gnd[{n}]")
        for n, entry in enumerate(gnd)
    )
    return Places(queries, database, "revisited")


def _list(value: Any, name: str, called: str) -> list[Any]:
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise DataError(f"{called} has no list {name!r}", "write imlist, qimlist and gnd")
    return found


def _revisited_query(name: str, path: Path, entry: Any, images: int, place: str) -> Query:
    if not isinstance(entry, dict):
        raise DataError(f"{place} is no object", "give bbx, easy, hard and junk")
    kinds = [_indices(entry.get(kind), images, f"{place}.{kind}") for kind in _SETS]
    box = entry.get("bbx")
    if not isinstance(box, list | None):
        raise DataError(f"{place}.bbx is no list", "give four numbers, or null")
    return Query(name, path, None if box is None else box_of(box, f"{place}.bbx"), *kinds)


def _indices(values: Any, images: int, place: str) -> frozenset[int]:
    if not isinstance(values, list):
        raise DataError(f"{place} is no list", "give positions in imlist")
    for value in values:
        if type(value) is not int or not 0 <= value < images:
            raise DataError(f"{place} holds {value!r}", f"give positions from 0 to {images - 1}")
    return frozenset(values)


# --- two folders and a table


@dataclass
class _Asked:
    """What the lines of one query say, as far as they are read."""

    box: Box | None = None
    kinds: dict[int, str] = field(default_factory=dict)

    def add(self, reference: int, kind: str, box: Box | None, place: str) -> None:
        if self.kinds.setdefault(reference, kind) != kind:
            what = f"{place} calls an image {kind} that an earlier line calls "
            raise DataError(what + self.kinds[reference], "leave one of the two")
        if box and self.box and box != self.box:
            what = f"{place}: the box {box_in_words(box)} is not that of an earlier line"
            raise DataError(what, "give a query one box")
        self.box = self.box or box

    def of(self, kind: str) -> frozenset[int]:
        return frozenset(position for position, called in self.kinds.items() if called == kind)


def _plain(_: Path, paths: list[Path]) -> Places:
    path = only(paths)
    queries, database = (
        NamedImages(_required(path.parent, names)) for names in (QUERY_FOLDERS, DATABASE_FOLDERS)
    )
    rows = _table(path)
    found_R = _column(rows, "reference", database)
    asked: dict[int, _Asked] = {}
    for (row, place), query, found in zip(
        rows, _column(rows, "query", queries), found_R, strict=True
    ):
        kind = row.get("kind") or "good"
        if kind not in KINDS:
            raise DataError(f"{place} calls an image {shown(kind)!r}", did_you_mean(kind, KINDS))
        corners = [row.get(name, "") for name in _CORNERS]
        box = box_of(corners, place) if any(corners) else None
        asked.setdefault(query, _Asked()).add(found, kind, box, place)
    made = tuple(
        Query(queries.paths[i].stem, queries.paths[i], one.box, *map(one.of, KINDS))
        for i, one in sorted(asked.items())
    )
    unasked = len(queries.paths) - len(asked)
    note = f"images of {queries.folder.name}/ without a line, left out: {unasked}"
    return Places(made, database.paths, "plain", (note,) if unasked else ())


def _required(folder: Path, names: Sequence[str]) -> Path:
    found = subfolder(folder, names)
    if found is None:
        what = f"{shown(str(folder))} has no folder {names[0]}/"
        raise DataError(what, f"put the images into {' or '.join(f'{n}/' for n in names)}")
    return found


def _table(path: Path) -> list[tuple[dict[str, str], str]]:
    """Rows by column, each with where it stands; comma, semicolon or tab."""
    text, called = text_of(path), shown(str(path))
    first = text.split("\n", 1)[0]
    delimiter = next((d for d in ",;\t" if d in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[tuple[dict[str, str], str]] = []
    try:
        header = [cell.strip() for cell in next(reader, [])]
        _check_header(header, called)
        for cells in reader:
            place = f"{called}, line {reader.line_num}"
            if len(cells) not in (0, len(header)):
                what = f"{place} has {len(cells)} cells, the header {len(header)}"
                raise DataError(what, "correct the line")
            if cells:
                row = {n: cell.strip() for n, cell in zip(header, cells, strict=True)}
                rows.append((row, place))
    except csv.Error as error:
        raise DataError(f"{called}, line {reader.line_num}: {error}", "correct the line") from None
    return rows


def _check_header(header: list[str], called: str) -> None:
    for name in ("query", "reference"):
        if name not in header:
            raise DataError(f"{called} has no column {name!r}", "name it in the first line")
    for name in header:
        if name not in _COLUMNS:
            raise DataError(f"{called} has a column {shown(name)!r}", did_you_mean(name, _COLUMNS))
    corners = [name for name in _CORNERS if name in header]
    if len(corners) not in (0, 4) or len(set(header)) < len(header):
        what = f"{called} has the columns {', '.join(header)}"
        raise DataError(what, "give each once, and all of x1, y1, x2, y2 or none")


def _column(rows: list[tuple[dict[str, str], str]], name: str, images: NamedImages) -> list[int]:
    """The images that a column names: by their names, or else by their places in sorted order.

    Where a cell is the name of an image all of them are names, even if they are numbers.
    """
    cells = [(row[name], place) for row, place in rows]
    counted = all(cell.isascii() and cell.isdigit() and len(cell) <= _DIGITS for cell, _ in cells)
    if not counted or any(cell in images for cell, _ in cells):
        return [images.position(cell, place) for cell, place in cells]
    for cell, place in cells:
        if int(cell) >= len(images.paths):
            what = f"{place} names {name} {cell}, {shown(str(images.folder))} has"
            raise DataError(f"{what} {len(images.paths)} images", "count them from 0")
    return [int(cell) for cell, _ in cells]


_READERS: dict[str, Callable[[Path, list[Path]], Places]] = {
    "oxford": _oxford,
    "revisited": _revisited,
    "plain": _plain,
}
