"""The commands index and search.

Shapes:  Q queries; D size of a vector; k neighbours.
"""

import contextlib
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selftaught import files, group_options, inputs
from selftaught.answer import Answer, answer, meanwhile
from selftaught.data.check import encodable
from selftaught.encoders.encoder import Encoder, encoder_id
from selftaught.encoders.folder import open_encoder
from selftaught.errors import ConfigError, FileError, shown
from selftaught.machine import pick_device
from selftaught.neighbours import groups
from selftaught.outputs import check_out, claim
from selftaught.report.sheets import blank, contact_sheet, tile
from selftaught.resolve import lasting
from selftaught.search import building
from selftaught.search.building import Addition
from selftaught.search.index import APPROXIMATE, INDEX, PARTS, Index, open_index
from selftaught.search.pictures import Pictures
from selftaught.vectors import of_files

_ROW = re.compile(r"row:(\d{1,18})")
_GROUPS, _MEMBERS = 50, 12  # of near-duplicates, in text and on a sheet; JSON has all
_LINES, _ACROSS = 100, 50  # of a sheet, at most


# --- index


def index(chosen: group_options.Index) -> Answer:
    """Make images searchable, or add to those that are.

    Raises:
        ConfigError: Options contradict each other, the encoder is not the index's, or faiss is
            missing.
        DataError: No image can be used, or vectors are not finite.
        FileError: --out is in the way, another process is writing there, or the index is damaged.
    """
    if chosen.add and chosen.overwrite:
        raise ConfigError("--add keeps what --overwrite replaces", "give one of them")
    with _held(chosen):
        before = open_index(chosen.out) if chosen.add else None
        added, known = _addition(chosen, before)
        made, new = before, 0
        if added is not None:
            made, new = building.write(chosen.out, added, before), len(added.vectors)
    assert made is not None
    return _built(made, new, known, as_json=chosen.json)


def _built(made: Index, new: int, known: int, *, as_json: bool) -> Answer:
    how = "searched exactly"
    if kept := made.described["approximate"]:
        how = (
            f"searched with faiss, {kept['probes']} of {kept['lists']:,} lists a query; "
            f"recall@10 {kept['recall_at_10']:.3f} on {kept['sample']:,} of them"
        )
    text = f"{made.folder}: {len(made):,} vectors of {made.stack.dim} numbers, {how}."
    if new < len(made) or known:
        text += f"\n{new:,} are new; {known:,} of these images were in it already."
    value = {"out": str(made.folder), "count": len(made), "dim": made.stack.dim, "new": new}
    return answer(value | {"known": known, "approximate": kept}, text, as_json=as_json)


@contextlib.contextmanager
def _held(chosen: group_options.Index) -> Iterator[None]:
    """The index's folder, for this process alone; a new one is gone again if nothing came of it."""
    out = chosen.out
    if chosen.add:
        if not (out / INDEX).exists():
            raise FileError(f"{out} holds no index to add to", "leave --add out to build one")
        with files.locked(out):
            yield
        return
    _make_room(chosen)
    with files.locked(out):
        if (out / INDEX).exists() and not chosen.overwrite:  # since a moment ago
            check_out(out, "an index", overwrite=False)
        try:
            yield
        finally:
            if not (out / INDEX).exists():
                for name in (PARTS, APPROXIMATE):
                    shutil.rmtree(out / name, ignore_errors=True)
                with contextlib.suppress(OSError):
                    (out / ".lock").unlink()
                    out.rmdir()


def _make_room(chosen: group_options.Index) -> None:
    """The folder is there. An index in it stays until the new one is complete."""
    out = chosen.out
    if (out / ".lock").exists():
        with files.locked(out):  # who is writing there counts for more than that it exists
            pass
    check_out(out, "an index", overwrite=chosen.overwrite, inputs=[chosen.run, chosen.data])
    if not (out / INDEX).exists():
        claim(out, "an index", overwrite=chosen.overwrite)
    try:
        out.mkdir(exist_ok=True)
    except OSError as error:
        raise files.unwritable(out.parent, error) from None


def _addition(chosen: group_options.Index, before: Index | None) -> tuple[Addition | None, int]:
    """What is new among that which is named, and how much is known already."""
    known = before.known if before else frozenset()
    if inputs.is_table(chosen.run):
        return _of_table(chosen, before)
    if not chosen.data:
        inputs.open_vectors(chosen.run, "", chosen)  # which says what is missing
    encoder = open_encoder(chosen.run)
    if before:
        _check_encoder(before, encoder_id(encoder), chosen.run)
    images, left_out = inputs.open_new_images(chosen.data, chosen, known)
    if images is None:
        return None, left_out
    building.check_size(len(images.checked) + len(before or ()))
    vectors = inputs.vectors_of(encoder, images, chosen)
    sums = images.checked.images["sha256"].to_pylist()
    return Addition(vectors, sums, lasting(chosen.data), lasting(chosen.run)), left_out


def _of_table(chosen: group_options.Index, before: Index | None) -> tuple[Addition | None, int]:
    """The same of a table's vectors, which are known by their bytes."""
    vectors = inputs.open_vectors(chosen.run, chosen.data, chosen)
    if before:
        _check_encoder(before, vectors.encoder, chosen.run)
        if vectors.x_ND.shape[1] != before.stack.dim:
            what = f"{chosen.run} has vectors of {vectors.x_ND.shape[1]} numbers"
            raise ConfigError(f"{what}, {before.folder} of {before.stack.dim}", "add others")
    sums = np.array(building.vector_sums(vectors.x_ND), object)
    known = before.known if before else frozenset()
    pairs = zip(vectors.paths, sums, strict=True)
    new = np.flatnonzero([pair not in known for pair in pairs])
    left_out = len(vectors) - len(new)
    if not len(new):
        return None, left_out
    building.check_size(len(new) + len(before or ()))
    data = lasting(chosen.data) if chosen.data else ""
    return Addition(vectors.part(new), sums[new].tolist(), data, ""), left_out


def _check_encoder(opened: Index, identity: str, name: str) -> None:
    """Whether vectors of this encoder can be compared with the index's.

    Raises:
        ConfigError: They cannot.
    """
    if identity != opened.encoder:
        raise ConfigError(
            f"{opened.folder} holds vectors of another encoder than that of {name}",
            "give the encoder that it was built with, or build another index",
        )


# --- search


def search(chosen: group_options.Search) -> Answer:
    """Find the images of an index that are most like others, or its near-duplicates.

    Raises:
        ConfigError: There is no question, a row is not in the index, or the encoder is another.
        DataError: A query is no image.
        FileError: The index is damaged, or --out is in the way.
    """
    if (chosen.duplicates is None) == (not chosen.query):
        what = "search was given no query" if not chosen.query else "--duplicates takes no query"
        raise ConfigError(what, "give images, or rows such as row:17, or else --duplicates 0.98")
    if chosen.out is not None:
        if chosen.out.suffix.lower() != ".png":
            raise FileError(f"--out {chosen.out} is no name of a PNG file", "let it end in .png")
        inputs = [*chosen.query, str(chosen.index)]
        check_out(chosen.out, "a file", overwrite=chosen.overwrite, inputs=inputs)
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


Tile = NDArray[np.uint8]
Found = tuple[dict[str, Any], list[list[Tile]], str]
"""Plain values, the lines of a sheet where one is wanted, and the text."""


def _neighbours(chosen: group_options.Search, opened: Index) -> Found:
    """The nearest of each query."""
    rows_Q = [_row_of(query, opened) for query in chosen.query]
    query_QD = _query_vectors(chosen, opened, rows_Q)
    pictures, answers, lines, words = Pictures(opened), [], [], []
    for query, own, query_D in zip(chosen.query, rows_Q, query_QD, strict=True):
        own_1 = None if own is None else np.array([own])
        cosines_1k, rows_1k = opened.search(query_D[None], chosen.top, own_1)
        near = [
            _described(opened, pictures, row) | {"cosine": round(float(cosine), 6)}
            for row, cosine in zip(rows_1k[0].tolist(), cosines_1k[0].tolist(), strict=True)
            if row >= 0
        ]
        answers.append({"query": query, "neighbours": near})
        words.append(_listed(_head(query, own, opened, pictures), near, _several(opened)))
        if chosen.out is not None:
            first = _tile(pictures, own) if own is not None else _query_tile(query)
            lines.append([first, *(_tile(pictures, image["row"]) for image in near)])
    return {"index": str(chosen.index), "queries": answers}, lines, "\n\n".join(words)


def _row_of(query: str, opened: Index) -> int | None:
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
    chosen: group_options.Search, opened: Index, rows_Q: Sequence[int | None]
) -> NDArray[np.float32]:
    """The vectors of the queries, (Q, D): those of rows are in the index, images are encoded."""
    query_QD = np.empty((len(rows_Q), opened.stack.dim), np.float32)
    is_row_Q = np.array([row is not None for row in rows_Q], bool)
    query_QD[is_row_Q] = opened.stack.take(np.array([r for r in rows_Q if r is not None], np.int64))
    paths = [Path(q) for q, row in zip(chosen.query, rows_Q, strict=True) if row is None]
    if paths:
        encoder = _encoder_of(chosen, opened)
        query_QD[~is_row_Q] = of_files(encoder, paths, device=pick_device(chosen.device))
    elif chosen.encoder is not None:
        _encoder_of(chosen, opened)
    return query_QD


def _encoder_of(chosen: group_options.Search, opened: Index) -> Encoder:
    """The encoder that made the index."""
    name = chosen.encoder or str(opened.described["run"])
    if not name:
        raise ConfigError(
            f"{opened.folder} does not say where its encoder is", "give --encoder RUN"
        )
    encoder = open_encoder(name)
    _check_encoder(opened, encoder_id(encoder), name)
    return encoder


def _duplicates(chosen: group_options.Search, opened: Index) -> Found:
    """Groups of images that are nearly the same."""
    assert chosen.duplicates is not None
    with meanwhile(f"Comparing all pairs of {len(opened):,} vectors."):
        found = groups(opened.stack.prepared, chosen.duplicates)
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


def _several(opened: Index) -> bool:
    """Whether one path may be that of several files."""
    return len({part.root for part in opened.parts}) > 1


def _head(query: str, own: int | None, opened: Index, pictures: Pictures) -> str:
    """The query, and its image where it is a row."""
    if own is None:
        return query
    file = _file(pictures, own) if _several(opened) else None
    return f"{query}  {file or opened.path(own)}"


def _file(pictures: Pictures, row: int) -> str | None:
    file = pictures.file(row)
    return None if file is None else encodable(str(file))


def _described(opened: Index, pictures: Pictures, row: int) -> dict[str, Any]:
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
    return f"\n\n{len(gone):,} of these images are not there any more, such as {shown(gone[0])}."


def _tile(pictures: Pictures, row: int) -> Tile:
    image_HWC = pictures.read(row)
    return blank() if image_HWC is None else tile(image_HWC)


def _query_tile(query: str) -> Tile:
    from selftaught.data.decode import decode_file

    return tile(decode_file(Path(query), query))
