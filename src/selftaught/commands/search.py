"""The command search.

Shapes:  Q queries; D size of a vector; k neighbours.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selftaught.commands.result import Answer, answer
from selftaught.data.check_images import encodable
from selftaught.data.decode import decode_file
from selftaught.encoders.encoder import Encoder, encoder_id
from selftaught.encoders.folder import open_encoder
from selftaught.errors import ConfigError, shown
from selftaught.foundation import files
from selftaught.foundation.outputs import check_out, check_suffix, claim
from selftaught.foundation.progress import meanwhile
from selftaught.options.use import Search
from selftaught.pairwise.neighbours import similar_groups
from selftaught.reports.sheets import blank, contact_sheet, tile
from selftaught.retrieval.indexed_images import Pictures
from selftaught.retrieval.local_features import Cells, Describe, Features, opencv_or_remedy, sift
from selftaught.retrieval.vector_index import VectorIndex, open_index
from selftaught.retrieval.verify import Verifier
from selftaught.vectors.vectors import file_vectors

_ROW = re.compile(r"row:(\d{1,18})")
_GROUPS, _MEMBERS = 50, 12  # of near-duplicates, in text and on a sheet; JSON has all
_LINES, _ACROSS = 100, 50  # of a sheet, at most


def search(chosen: Search) -> Answer:
    """Find the images of an index that are most like others, or its near-duplicates.

    Raises:
        ConfigError: There is no question, a row is not in the index, or the encoder is another.
        DataError: A query is no image.
        FileError: The index is damaged, or --out is in the way.
    """
    if (chosen.duplicates is None) == (not chosen.query):
        what = "search was given no query" if not chosen.query else "--duplicates takes no query"
        raise ConfigError(what, "give images, or rows such as row:17, or else --duplicates 0.98")
    if chosen.verify and not chosen.query:
        raise ConfigError("--verify compares queries with what is found", "leave it out")
    _check_sheet(chosen)
    opened = open_index(chosen.index)
    found = _duplicates(chosen, opened) if chosen.duplicates else _neighbours(chosen, opened)
    value, lines, text = found
    text += _gone(value)
    if chosen.out is not None:
        drawn = contact_sheet([line[:_ACROSS] for line in lines[:_LINES]])
        claim(chosen.out, "a file", overwrite=chosen.overwrite)
        files.write_bytes(chosen.out, drawn)
        value["sheet"] = str(chosen.out)
        text += f"\nThe sheet: {chosen.out}"
        if len(lines) > _LINES or max(map(len, lines), default=0) > _ACROSS:
            text += f" (its first {_LINES} lines of {_ACROSS} pictures)"
    return answer(value, text, as_json=chosen.json)


def _check_sheet(chosen: Search) -> None:
    """Whether --out can be written, before any work."""
    if chosen.out is None:
        return
    check_suffix(chosen.out, ".png")
    inputs = [*chosen.query, str(chosen.index)]
    check_out(chosen.out, "a file", overwrite=chosen.overwrite, inputs=inputs)


Tile = NDArray[np.uint8]
Found = tuple[dict[str, Any], list[list[Tile]], str]
"""Plain values, the lines of a sheet where one is wanted, and the text."""


# --- the nearest


def _neighbours(chosen: Search, opened: VectorIndex) -> Found:
    """The nearest of each query."""
    rows_Q, pictures = [_row_of(query, opened) for query in chosen.query], Pictures(opened)
    encoder = _encoder_of(chosen, opened, rows_Q)
    query_QD = _query_vectors(chosen, opened, rows_Q, encoder)
    verifier = _verifier(chosen, pictures, rows_Q, encoder)
    answers, lines, words = [], [], []
    for position, (query, own) in enumerate(zip(chosen.query, rows_Q, strict=True)):
        near = _nearest(chosen, pictures, query_QD[position], own)
        if verifier is not None:
            near = _verified(verifier, position, near[: chosen.first]) + near[chosen.first :]
        near = near[: chosen.top]
        answers.append({"query": query, "neighbours": near})
        words.append(_listed(_head(query, own, opened, pictures), near, _several(opened)))
        if chosen.out is not None:
            first = _tile(pictures, own) if own is not None else tile(_pixels(query))
            lines.append([first, *(_tile(pictures, image["row"]) for image in near)])
    return {"index": str(chosen.index), "queries": answers}, lines, "\n\n".join(words)


def _nearest(
    chosen: Search, pictures: Pictures, query_D: NDArray[np.float32], own: int | None
) -> list[dict[str, Any]]:
    """The images with the highest cosine, as many as are wanted or verified."""
    k = max(chosen.top, chosen.first) if chosen.verify else chosen.top
    own_1 = None if own is None else np.array([own])
    cosines_1k, rows_1k = pictures.index.search(query_D[None], k, own_1)
    return [
        _described(pictures.index, pictures, row) | {"cosine": round(float(cosine), 6)}
        for row, cosine in zip(rows_1k[0].tolist(), cosines_1k[0].tolist(), strict=True)
        if row >= 0
    ]


def _row_of(query: str, opened: VectorIndex) -> int | None:
    """The row that a query names; None where it is a file."""
    match = _ROW.fullmatch(query)
    meant = query.startswith("row:") or query.isdecimal()
    if (match and int(match[1]) >= len(opened)) or (
        meant and not match and not Path(query).exists()
    ):
        what = f"{query} is not in {opened.folder}, which has {len(opened):,} rows"
        raise ConfigError(what, f"give row:0 to row:{len(opened) - 1}, or an image")
    if Path(query).is_dir():
        raise ConfigError(f"{shown(query)} is a folder", "give images, one by one")
    return int(match[1]) if match else None


def _query_vectors(
    chosen: Search,
    opened: VectorIndex,
    rows_Q: Sequence[int | None],
    encoder: Encoder | None,
) -> NDArray[np.float32]:
    """The vectors of the queries, (Q, D): those of rows are in the index, images are encoded."""
    query_QD = np.empty((len(rows_Q), opened.stack.dim), np.float32)
    is_row_Q = np.array([row is not None for row in rows_Q], bool)
    query_QD[is_row_Q] = opened.stack.take(np.array([r for r in rows_Q if r is not None], np.int64))
    paths = [Path(q) for q, row in zip(chosen.query, rows_Q, strict=True) if row is None]
    if paths:
        assert encoder is not None
        query_QD[~is_row_Q] = file_vectors(encoder, paths, device=chosen.machine().device)
    return query_QD


def _encoder_of(
    chosen: Search, opened: VectorIndex, rows_Q: Sequence[int | None]
) -> Encoder | None:
    """The encoder that made the index, where images are encoded or compared by it, or it is named.

    Raises:
        ConfigError: It is not known, or another.
    """
    if None not in rows_Q and chosen.verify != "maps" and chosen.encoder is None:
        return None
    name = chosen.encoder or str(opened.described["run"])
    if not name:
        raise ConfigError(
            f"{opened.folder} does not say where its encoder is", "give --encoder RUN"
        )
    encoder = open_encoder(name)
    opened.check_encoder(encoder_id(encoder), name)
    return encoder


# --- verified by geometry


def _verifier(
    chosen: Search,
    pictures: Pictures,
    rows_Q: Sequence[int | None],
    encoder: Encoder | None,
) -> Verifier | None:
    """What compares the queries' local features with those of images of the index.

    Raises:
        ConfigError: OpenCV is missing, or the encoder has no maps, or takes one size only.
        DataError: A query cannot be read.
    """
    if not chosen.verify:
        return None
    describe: Describe = sift
    if chosen.verify == "maps":
        assert encoder is not None
        describe = Cells(encoder)
    else:
        opencv_or_remedy()

    def asked(position: int) -> NDArray[Any]:
        row = rows_Q[position]
        return _pixels(chosen.query[position]) if row is None else _pixels_of_row(pictures, row)

    queries = Features(asked, len(rows_Q), describe)
    return Verifier(queries, Features(pictures.read, len(pictures.index), describe), first=1000)


def _verified(
    verifier: Verifier, query: int, near: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The same images, those first that show the query's scene; each with its inliers.

    Raises:
        ConfigError: No image can be compared.
    """
    of_row = {image["row"]: image for image in near}
    with meanwhile(f"Comparing the query with {len(near):,} images, one by one."):
        order = verifier(query, np.array([*of_row], np.int64)).tolist()
    if near and not any(len(verifier.database[row]) for row in order):
        raise ConfigError(
            f"--verify compares images, and of the {len(near):,} found none can be read and has "
            "keypoints",
            "put them back where they were when the index was built, or leave --verify out",
        )
    return [of_row[row] | _geometry(verifier, query, row) for row in order]


def _geometry(verifier: Verifier, query: int, row: int) -> dict[str, Any]:
    """What comparing them showed; inliers are None where there is nothing to compare."""
    if not (len(verifier.queries[query]) and len(verifier.database[row])):
        return {"inliers": None, "verified": False}
    return {"inliers": verifier.inliers(query, row), "verified": verifier.verified(query, row)}


def _pixels(query: str) -> NDArray[Any]:
    return decode_file(Path(query), query)


def _pixels_of_row(pictures: Pictures, row: int) -> NDArray[Any]:
    image_HWC = pictures.read(row)
    if image_HWC is None:
        raise ConfigError(
            f"row:{row} ({shown(pictures.index.path(row))}) has no image that can be read",
            "leave --verify out, or ask with an image",
        )
    return image_HWC


# --- near-duplicates


def _duplicates(chosen: Search, opened: VectorIndex) -> Found:
    """Groups of images that are nearly the same."""
    assert chosen.duplicates is not None
    with meanwhile(f"Comparing all pairs of {len(opened):,} vectors."):
        found = similar_groups(opened.stack.prepared, chosen.duplicates)
    pictures, lines = Pictures(opened), list[list[Tile]]()
    answers: list[list[dict[str, Any]]] = []
    for group in found:
        rows = [group.medoid, *(row for row in group.rows.tolist() if row != group.medoid)]
        answers.append([_described(opened, pictures, row) for row in rows])
        if chosen.out is not None and len(lines) < _LINES:
            lines.append([_tile(pictures, row) for row in rows[:_MEMBERS]])
    number = sum(map(len, answers))
    head = (
        f"{len(found):,} groups of {number:,} images whose cosine is {chosen.duplicates:g} or "
        "more, each led by the image in its middle."
    )
    parts = [head, *(_listed("", group, _several(opened)) for group in answers[:_GROUPS])]
    if len(found) > _GROUPS:
        parts.append(f"{len(found) - _GROUPS:,} more groups: --json lists all.")
    value = {"index": str(chosen.index), "duplicates": chosen.duplicates, "groups": answers}
    return value, lines, "\n\n".join(parts)


# --- what both say


def _several(opened: VectorIndex) -> bool:
    """Whether one path may be that of several files."""
    return len({part.root for part in opened.parts}) > 1


def _head(query: str, own: int | None, opened: VectorIndex, pictures: Pictures) -> str:
    """The query, and its image where it is a row."""
    if own is None:
        return query
    file = _file(pictures, own) if _several(opened) else None
    return f"{query}  {file or opened.path(own)}"


def _file(pictures: Pictures, row: int) -> str | None:
    file = pictures.file(row)
    return None if file is None else encodable(str(file))


def _described(opened: VectorIndex, pictures: Pictures, row: int) -> dict[str, Any]:
    found = {
        "row": row,
        "path": opened.path(row),
        "file": _file(pictures, row),
        "gone": pictures.gone(row),
    }
    label = opened.label(row)
    return found if label is None else found | {"label": label}


def _listed(head: str, images: Sequence[dict[str, Any]], several: bool) -> str:
    """Images, a line each; by their files where paths are relative to several folders."""
    lines = [shown(head)] if head else []
    for image in images[: None if head else _MEMBERS]:
        cosine = f"{image['cosine']:.4f}  " if "cosine" in image else ""
        if "inliers" in image:
            count = f"{image['inliers']} inliers" if image["verified"] else "not verified"
            count = "not compared" if image["inliers"] is None else count
            cosine += f"{count:<13}  "
        label = f"  ({shown(str(image['label']))})" if "label" in image else ""
        gone = "  [the file is gone]" if image["gone"] else ""
        name = (image["file"] if several else None) or image["path"]
        lines.append(f"  {cosine}row:{image['row']}  {shown(name)}{label}{gone}")
    if not head and len(images) > _MEMBERS:
        lines.append(f"  and {len(images) - _MEMBERS:,} more")
    return "\n".join(lines)


def _gone(value: dict[str, Any]) -> str:
    """A line that says which images are not there any more."""
    lists = value.get("groups") or [query["neighbours"] for query in value.get("queries", [])]
    rows = {image["row"]: image["path"] for images in lists for image in images if image["gone"]}
    value["gone"] = gone = sorted(rows.values())
    if not gone:
        return ""
    are = "is" if len(gone) == 1 else "are"
    return f"\n\n{len(gone):,} of these images {are} not there any more, such as {shown(gone[0])}."


def _tile(pictures: Pictures, row: int) -> Tile:
    image_HWC = pictures.read(row)
    return blank() if image_HWC is None else tile(image_HWC)
