"""The command search: similar images, or near-duplicates.

Shapes:  Q queries; D size of a vector; k neighbours.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selftaught.commands.result import Answer, answer
from selftaught.data.check_images import utf8_name
from selftaught.data.decode import decode_file
from selftaught.encoders.encoder import Encoder, encoder_id
from selftaught.encoders.folder import open_encoder
from selftaught.errors import ConfigError, printable
from selftaught.foundation import files
from selftaught.foundation.outputs import check_out, check_suffix, claim
from selftaught.foundation.progress import notice_if_slow
from selftaught.options.use import Search
from selftaught.pairwise.neighbours import similar_groups
from selftaught.reports.sheets import blank_tile, contact_sheet, picture_tile
from selftaught.retrieval.indexed_images import IndexedImages
from selftaught.retrieval.local_features import Cells, Describe, Features, import_opencv, sift
from selftaught.retrieval.vector_index import VectorIndex, open_index
from selftaught.retrieval.verify import Verifier
from selftaught.vectors.vectors import file_vectors

_ROW = re.compile(r"row:(\d{1,18})")
_GROUPS, _MEMBERS = 50, 12  # of near-duplicates in text and on the sheet; JSON has all
_LINES, _ACROSS = 100, 50  # limits of a sheet


def search(chosen: Search) -> Answer:
    """Find the indexed images most similar to query images, or near-duplicates.

    Raises:
        ConfigError: The query is missing, a row is not in the index, or the encoder differs.
        DataError: A query is not an image.
        FileError: The index is damaged, or --out exists.
    """
    if (chosen.duplicates is None) == (not chosen.query):
        if chosen.query:
            raise ConfigError("--duplicates takes no query", "drop the query, or --duplicates")
        remedy = "pass images or rows such as row:17, or else --duplicates 0.98"
        raise ConfigError("search needs a query", remedy)
    if chosen.verify and not chosen.query:
        raise ConfigError("--verify needs queries", "drop --verify")
    _check_sheet(chosen)
    opened = open_index(chosen.index)
    found = _duplicates(chosen, opened) if chosen.duplicates else _neighbours(chosen, opened)
    value, lines, text = found
    text += _missing_note(value)
    if chosen.out is not None:
        drawn = contact_sheet([line[:_ACROSS] for line in lines[:_LINES]])
        claim(chosen.out, "a file", overwrite=chosen.overwrite)
        files.write_bytes(chosen.out, drawn)
        value["sheet"] = str(chosen.out)
        text += f"\nContact sheet: {chosen.out}"
        if len(lines) > _LINES or max(map(len, lines), default=0) > _ACROSS:
            text += f" (limited to {_LINES} rows of {_ACROSS} images)"
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
"""Plain values, the rows of the sheet if one is requested, and the text."""


# --- the nearest


def _neighbours(chosen: Search, opened: VectorIndex) -> Found:
    """The nearest images of each query."""
    rows_Q, pictures = [_query_row(query, opened) for query in chosen.query], IndexedImages(opened)
    encoder = _index_encoder(chosen, opened, rows_Q)
    query_QD = _query_vectors(chosen, opened, rows_Q, encoder)
    verifier = _verifier(chosen, pictures, rows_Q, encoder)
    answers, lines, words = [], [], []
    for position, (query, own) in enumerate(zip(chosen.query, rows_Q, strict=True)):
        near = _nearest(chosen, pictures, query_QD[position], own)
        if verifier is not None:
            near = _verified_first(verifier, position, near[: chosen.first]) + near[chosen.first :]
        near = near[: chosen.top]
        answers.append({"query": query, "neighbours": near})
        words.append(
            _image_lines(
                _query_line(query, own, opened, pictures), near, _has_several_roots(opened)
            )
        )
        if chosen.out is not None:
            first = _row_tile(pictures, own) if own is not None else picture_tile(_pixels(query))
            lines.append([first, *(_row_tile(pictures, image["row"]) for image in near)])
    return {"index": str(chosen.index), "queries": answers}, lines, "\n\n".join(words)


def _nearest(
    chosen: Search, pictures: IndexedImages, query_D: NDArray[np.float32], own: int | None
) -> list[dict[str, Any]]:
    """The images with the highest cosine similarity, enough for the results and to verify."""
    k = max(chosen.top, chosen.first) if chosen.verify else chosen.top
    own_1 = None if own is None else np.array([own])
    cosines_1k, rows_1k = pictures.index.search(query_D[None], k, own_1)
    return [
        _image_facts(pictures.index, pictures, row) | {"cosine": round(float(cosine), 6)}
        for row, cosine in zip(rows_1k[0].tolist(), cosines_1k[0].tolist(), strict=True)
        if row >= 0
    ]


def _query_row(query: str, opened: VectorIndex) -> int | None:
    """The row that a query names; None for a file."""
    match = _ROW.fullmatch(query)
    names_row = query.startswith("row:") or query.isdecimal()
    if (match and int(match[1]) >= len(opened)) or (
        names_row and not match and not Path(query).exists()
    ):
        what = f"{query} is not in {opened.folder}, which has {len(opened):,} rows"
        raise ConfigError(what, f"pass row:0 to row:{len(opened) - 1}, or an image")
    if Path(query).is_dir():
        raise ConfigError(f"{printable(query)} is a folder", "pass single images")
    return int(match[1]) if match else None


def _query_vectors(
    chosen: Search,
    opened: VectorIndex,
    rows_Q: Sequence[int | None],
    encoder: Encoder | None,
) -> NDArray[np.float32]:
    """The vectors of the queries, (Q, D): from the index for rows, encoded for images."""
    query_QD = np.empty((len(rows_Q), opened.stack.dim), np.float32)
    is_row_Q = np.array([row is not None for row in rows_Q], bool)
    query_QD[is_row_Q] = opened.stack.take(np.array([r for r in rows_Q if r is not None], np.int64))
    paths = [Path(q) for q, row in zip(chosen.query, rows_Q, strict=True) if row is None]
    if paths:
        assert encoder is not None
        query_QD[~is_row_Q] = file_vectors(encoder, paths, device=chosen.machine().device)
    return query_QD


def _index_encoder(
    chosen: Search, opened: VectorIndex, rows_Q: Sequence[int | None]
) -> Encoder | None:
    """The encoder of the index, if it is needed or named.

    Raises:
        ConfigError: The encoder is unknown, or not that of the index.
    """
    if None not in rows_Q and chosen.verify != "maps" and chosen.encoder is None:
        return None
    name = chosen.encoder or str(opened.described["run"])
    if not name:
        raise ConfigError(
            f"{opened.folder} does not record where its encoder is", "pass --encoder RUN"
        )
    encoder = open_encoder(name)
    opened.check_encoder(encoder_id(encoder), name)
    return encoder


# --- verified by geometry


def _verifier(
    chosen: Search,
    pictures: IndexedImages,
    rows_Q: Sequence[int | None],
    encoder: Encoder | None,
) -> Verifier | None:
    """The verifier that compares local features of queries and indexed images, if requested.

    Raises:
        ConfigError: OpenCV is missing, or the encoder has no maps or a fixed input size.
        DataError: A query cannot be read.
    """
    if not chosen.verify:
        return None
    describe: Describe = sift
    if chosen.verify == "maps":
        assert encoder is not None
        describe = Cells(encoder)
    else:
        import_opencv()

    def query_pixels(position: int) -> NDArray[Any]:
        row = rows_Q[position]
        return _pixels(chosen.query[position]) if row is None else _pixels_of_row(pictures, row)

    queries = Features(query_pixels, len(rows_Q), describe)
    return Verifier(queries, Features(pictures.read, len(pictures.index), describe), first=1000)


def _verified_first(
    verifier: Verifier, query: int, near: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The same images with their inliers, those that show the query's scene first.

    Raises:
        ConfigError: No image can be compared.
    """
    of_row = {image["row"]: image for image in near}
    with notice_if_slow(f"Comparing the query with {len(near):,} images."):
        order = verifier(query, np.array([*of_row], np.int64)).tolist()
    if near and not any(len(verifier.database[row]) for row in order):
        raise ConfigError(
            f"--verify compares images, and none of the {len(near):,} results can be read and has "
            "keypoints",
            "restore the images at their original paths, or drop --verify",
        )
    return [of_row[row] | _inlier_facts(verifier, query, row) for row in order]


def _inlier_facts(verifier: Verifier, query: int, row: int) -> dict[str, Any]:
    """The result of comparing two images; inliers are None without keypoints on both sides."""
    if not (len(verifier.queries[query]) and len(verifier.database[row])):
        return {"inliers": None, "verified": False}
    return {"inliers": verifier.inliers(query, row), "verified": verifier.is_verified(query, row)}


def _pixels(query: str) -> NDArray[Any]:
    return decode_file(Path(query), query)


def _pixels_of_row(pictures: IndexedImages, row: int) -> NDArray[Any]:
    image_HWC = pictures.read(row)
    if image_HWC is None:
        raise ConfigError(
            f"the image of row:{row} ({printable(pictures.index.path(row))}) cannot be read",
            "drop --verify, or pass an image as query",
        )
    return image_HWC


# --- near-duplicates


def _duplicates(chosen: Search, opened: VectorIndex) -> Found:
    """Groups of near-duplicates."""
    assert chosen.duplicates is not None
    with notice_if_slow(f"Comparing all pairs of {len(opened):,} vectors."):
        found = similar_groups(opened.stack.prepared, chosen.duplicates)
    pictures, lines = IndexedImages(opened), list[list[Tile]]()
    answers: list[list[dict[str, Any]]] = []
    for group in found:
        rows = [group.medoid, *(row for row in group.rows.tolist() if row != group.medoid)]
        answers.append([_image_facts(opened, pictures, row) for row in rows])
        if chosen.out is not None and len(lines) < _LINES:
            lines.append([_row_tile(pictures, row) for row in rows[:_MEMBERS]])
    number = sum(map(len, answers))
    head = (
        f"{number:,} images in {len(found):,} groups with a cosine similarity of "
        f"{chosen.duplicates:g} or more; the most central image of each group is first."
    )
    parts = [
        head,
        *(_image_lines("", group, _has_several_roots(opened)) for group in answers[:_GROUPS]),
    ]
    if len(found) > _GROUPS:
        parts.append(f"{len(found) - _GROUPS:,} more groups; --json lists all.")
    value = {"index": str(chosen.index), "duplicates": chosen.duplicates, "groups": answers}
    return value, lines, "\n\n".join(parts)


# --- shared by both


def _has_several_roots(opened: VectorIndex) -> bool:
    """Whether a relative path may mean several files."""
    return len({part.root for part in opened.parts}) > 1


def _query_line(query: str, own: int | None, opened: VectorIndex, pictures: IndexedImages) -> str:
    """The query, with its path if it is a row."""
    if own is None:
        return query
    file = _file(pictures, own) if _has_several_roots(opened) else None
    return f"{query}  {file or opened.path(own)}"


def _file(pictures: IndexedImages, row: int) -> str | None:
    file = pictures.file(row)
    return None if file is None else utf8_name(str(file))


def _image_facts(opened: VectorIndex, pictures: IndexedImages, row: int) -> dict[str, Any]:
    found = {
        "row": row,
        "path": opened.path(row),
        "file": _file(pictures, row),
        "gone": pictures.is_missing(row),
    }
    label = opened.label(row)
    return found if label is None else found | {"label": label}


def _image_lines(head: str, images: Sequence[dict[str, Any]], several: bool) -> str:
    """One line per image; full file names if paths are relative to several folders."""
    lines = [printable(head)] if head else []
    for image in images[: None if head else _MEMBERS]:
        cosine = f"{image['cosine']:.4f}  " if "cosine" in image else ""
        if "inliers" in image:
            count = f"{image['inliers']} inliers" if image["verified"] else "not verified"
            count = "not compared" if image["inliers"] is None else count
            cosine += f"{count:<13}  "
        label = f"  ({printable(str(image['label']))})" if "label" in image else ""
        gone = "  [file missing]" if image["gone"] else ""
        name = (image["file"] if several else None) or image["path"]
        lines.append(f"  {cosine}row:{image['row']}  {printable(name)}{label}{gone}")
    if not head and len(images) > _MEMBERS:
        lines.append(f"  and {len(images) - _MEMBERS:,} more")
    return "\n".join(lines)


def _missing_note(value: dict[str, Any]) -> str:
    """A line about images that no longer exist; also fills `value["gone"]`."""
    lists = value.get("groups") or [query["neighbours"] for query in value.get("queries", [])]
    rows = {image["row"]: image["path"] for images in lists for image in images if image["gone"]}
    value["gone"] = gone = sorted(rows.values())
    if not gone:
        return ""
    verb = "no longer exists" if len(gone) == 1 else "no longer exist"
    return f"\n\n{len(gone):,} of these images {verb}, such as {printable(gone[0])}."


def _row_tile(pictures: IndexedImages, row: int) -> Tile:
    image_HWC = pictures.read(row)
    return blank_tile() if image_HWC is None else picture_tile(image_HWC)
