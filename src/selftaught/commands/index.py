"""The command index."""

import contextlib
import shutil
from collections.abc import Iterator

import numpy as np

from selftaught.commands.result import Answer, answer
from selftaught.data.open_images import open_new_images
from selftaught.data.sources import absolute_name
from selftaught.encoders.encoder import encoder_id
from selftaught.encoders.folder import open_encoder
from selftaught.errors import ConfigError, FileError
from selftaught.foundation import files
from selftaught.foundation.outputs import check_out, claim
from selftaught.options.use import Index
from selftaught.retrieval import index_writer
from selftaught.retrieval.index_writer import Addition
from selftaught.retrieval.vector_index import APPROXIMATE, INDEX, PARTS, VectorIndex, open_index
from selftaught.vectors.open_vectors import is_table, open_vectors, vectors_of


def index(chosen: Index) -> Answer:
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
            made, new = index_writer.write(chosen.out, added, before), len(added.vectors)
    assert made is not None
    return _built(made, new, known, as_json=chosen.json)


def _built(made: VectorIndex, new: int, known: int, *, as_json: bool) -> Answer:
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
def _held(chosen: Index) -> Iterator[None]:
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


def _make_room(chosen: Index) -> None:
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


def _addition(chosen: Index, before: VectorIndex | None) -> tuple[Addition | None, int]:
    """What is new among that which is named, and how much is known already."""
    known, machine = before.known if before else frozenset(), chosen.machine()
    if is_table(chosen.run):
        return _of_table(chosen, before)
    if not chosen.data:
        open_vectors(chosen.run, "", machine)  # which says what is missing
    encoder = open_encoder(chosen.run)
    if before:
        before.check_encoder(encoder_id(encoder), chosen.run)
    images, left_out = open_new_images(chosen.data, machine, known)
    if images is None:
        return None, left_out
    index_writer.check_index_size(len(images.checked) + len(before or ()))
    vectors = vectors_of(encoder, images, machine)
    sums = images.checked.images["sha256"].to_pylist()
    return Addition(vectors, sums, absolute_name(chosen.data), absolute_name(chosen.run)), left_out


def _of_table(chosen: Index, before: VectorIndex | None) -> tuple[Addition | None, int]:
    """The same of a table's vectors, which are known by their bytes."""
    vectors = open_vectors(chosen.run, chosen.data, chosen.machine())
    if before:
        before.check_encoder(vectors.encoder, chosen.run)
        if vectors.x_ND.shape[1] != before.stack.dim:
            what = f"{chosen.run} has vectors of {vectors.x_ND.shape[1]} numbers"
            raise ConfigError(f"{what}, {before.folder} of {before.stack.dim}", "add others")
    sums = np.array(index_writer.vector_sums(vectors.x_ND), object)
    known = before.known if before else frozenset()
    pairs = zip(vectors.paths, sums, strict=True)
    new = np.flatnonzero([pair not in known for pair in pairs])
    left_out = len(vectors) - len(new)
    if not len(new):
        return None, left_out
    index_writer.check_index_size(len(new) + len(before or ()))
    data = absolute_name(chosen.data) if chosen.data else ""
    return Addition(vectors.part(new), sums[new].tolist(), data, ""), left_out
