"""Writing an index: new files next to the old ones, then index.json, then obsolete files removed.

A process that is killed at any point leaves the previous index intact; index.json does not name
the files of the killed process, and the next writer removes them.

Shapes:  N vectors; D dimensions.
"""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selftaught.foundation import files
from selftaught.retrieval import approximate
from selftaught.retrieval.parts import F32, StackedVectors
from selftaught.retrieval.vector_index import (
    APPROXIMATE,
    EXACT,
    FORMAT,
    INDEX,
    PARTS,
    ROWS,
    VECTORS,
    VectorIndex,
    open_index,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from selftaught.vectors.vectors import Vectors


@dataclass(frozen=True, eq=False)
class Addition:
    """Vectors to add to an index.

    Attributes:
        vectors: The vectors.
        sums: A SHA-256 per vector: of the image's bytes, or of the vector without an image.
        data: The absolute name of DATA; "" without images.
        run: The absolute name of the encoder; "" without one.
    """

    vectors: "Vectors"
    sums: Sequence[str]
    data: str
    run: str


def check_index_size(number: int) -> None:
    """Check before minutes of work that an index of this size can be built here.

    Raises:
        ConfigError: The index needs faiss, which is not installed.
    """
    if number > EXACT:
        approximate.import_faiss()


def vector_sums(x_ND: F32) -> list[str]:
    """The SHA-256 of each vector's bytes."""
    return [hashlib.sha256(x_D.tobytes()).hexdigest() for x_D in np.ascontiguousarray(x_ND)]


def write_vector_index(
    folder: Path, added: Addition, before: VectorIndex | None = None
) -> VectorIndex:
    """Write a new index, or add to one; the caller holds the folder's lock.

    Args:
        folder: The folder of the index; it exists.
        added: The content of the new part.
        before: The index in the folder to add to; None replaces any index there.

    Returns:
        The opened index.

    Raises:
        ConfigError: faiss is needed and not installed.
        FileError: The folder cannot be written to, such as when the disk is full.
    """
    try:
        return _write(folder, added, before)
    except OSError as error:
        raise files.unwritable_error(folder, error) from None


def _write(folder: Path, added: Addition, before: VectorIndex | None) -> VectorIndex:
    number = _next_number(folder)
    named = _write_part(folder / PARTS / number, added)
    parts = [*(before.described["parts"] if before else []), named]
    count = sum(part["count"] for part in parts)
    described = {
        "format": FORMAT,
        "encoder": added.vectors.encoder,
        "run": (before.described["run"] if before else "") or added.run,
        "dim": int(added.vectors.x_ND.shape[1]),
        "count": count,
        "content": hashlib.sha256(
            "".join(p["sha256"][VECTORS] for p in parts).encode()
        ).hexdigest(),
        "parts": parts,
        "approximate": _write_approximate(folder, number, added, before) if count > EXACT else None,
    }
    files.write_json(folder / INDEX, described)
    _remove_rest(folder, described)
    return open_index(folder)


def _write_part(folder: Path, added: Addition) -> dict[str, Any]:
    """Write a new part, whole or not at all; returns its entry in index.json."""
    vectors = added.vectors
    folder.parent.mkdir(exist_ok=True)
    with files.new_folder(folder) as part:
        np.save(part / VECTORS, np.ascontiguousarray(vectors.x_ND, "<f4"), allow_pickle=False)
        files.write_table(part / ROWS, _table(added))
    root = None if vectors.root is None else str(vectors.root)
    return {
        "name": folder.name,
        "count": len(vectors),
        "data": added.data,
        "root": root,
        "sha256": {name: files.sha256(folder / name) for name in (VECTORS, ROWS)},
    }


def _table(added: Addition) -> "pa.Table":
    import pyarrow as pa

    vectors = added.vectors
    columns = {
        "row": pa.array(vectors.row_N, pa.int64()),
        "path": pa.array(vectors.paths, pa.string()),
        "sha256": pa.array(added.sums, pa.string()),
    }
    if vectors.labels is not None:
        columns["label"] = pa.array(list(vectors.labels), from_pandas=True)
    return pa.table(columns)


def _write_approximate(
    folder: Path, number: str, added: Addition, before: VectorIndex | None
) -> dict[str, Any]:
    """Write faiss's index of all vectors; returns its entry in index.json."""
    parts = [part.x_ND for part in before.parts] if before else []
    stack = StackedVectors([*parts, np.ascontiguousarray(added.vectors.x_ND, np.float32)])
    old = before.approximate if before else None
    # for ten times the vectors, the old index would have too few lists
    if old is None or len(stack) > 10 * len(old.stack):
        made = approximate.build_faiss(stack)
    else:
        made = approximate.extend_faiss(old.inner, stack)
    (folder / APPROXIMATE).mkdir(exist_ok=True)
    path = folder / APPROXIMATE / f"{number}.faiss"
    approximate.save_faiss(made.inner, path)
    return {"name": number, "sha256": files.sha256(path)} | made.tune()


def _next_number(folder: Path) -> str:
    """An unused number for the files of the next addition."""
    taken = [*(folder / PARTS).glob("[0-9]*"), *(folder / APPROXIMATE).glob("[0-9]*")]
    return f"{max((int(path.stem) for path in taken if path.stem.isdigit()), default=-1) + 1:06}"


def _remove_rest(folder: Path, described: dict[str, Any]) -> None:
    """Remove all files that index.json does not name: old ones, and those of killed writers."""
    kept = {folder / PARTS / part["name"] for part in described["parts"]}
    if described["approximate"]:
        kept.add(folder / APPROXIMATE / f"{described['approximate']['name']}.faiss")
    for place in (folder / PARTS, folder / APPROXIMATE):
        for path in place.iterdir() if place.exists() else ():
            if path not in kept:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
    files.remove_leftovers(folder)
