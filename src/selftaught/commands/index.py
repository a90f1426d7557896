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
from selftaught.vectors.open_vectors import encode_images, is_table, open_vectors


def index(chosen: Index) -> Answer:
    """Build a search index of images, or add to one.

    Raises:
        ConfigError: Options contradict each other, the index has another encoder, or faiss is
            missing.
        DataError: No image is usable, or vectors are not finite.
        FileError: --out exists, another process is writing there, or the index is damaged.
    """
    if chosen.add and chosen.overwrite:
        raise ConfigError("--add and --overwrite cannot be combined", "choose one")
    with _locked_folder(chosen):
        before = open_index(chosen.out) if chosen.add else None
        added, known = _addition(chosen, before)
        made, new = before, 0
        if added is not None:
            made, new = (
                index_writer.write_vector_index(chosen.out, added, before),
                len(added.vectors),
            )
    assert made is not None
    return _index_answer(made, new, known, as_json=chosen.json)


def _index_answer(made: VectorIndex, new: int, known: int, *, as_json: bool) -> Answer:
    how = "searched exactly"
    if approximate := made.described["approximate"]:
        how = (
            f"searched with faiss, {approximate['probes']} of {approximate['lists']:,} lists per "
            f"query (recall@10 {approximate['recall_at_10']:.3f} on a sample of "
            f"{approximate['sample']:,})"
        )
    text = f"{made.folder}: {len(made):,} vectors of {made.stack.dim} dimensions, {how}."
    if new < len(made) or known:
        text += f"\nAdded {new:,}; {known:,} were already in the index."
    value = {"out": str(made.folder), "count": len(made), "dim": made.stack.dim, "new": new}
    return answer(value | {"known": known, "approximate": approximate}, text, as_json=as_json)


@contextlib.contextmanager
def _locked_folder(chosen: Index) -> Iterator[None]:
    """The folder of the index, locked for this process; a new one is removed on failure."""
    out = chosen.out
    if chosen.add:
        if not (out / INDEX).exists():
            raise FileError(f"{out} is not an index to add to", "drop --add to build one")
        with files.folder_lock(out):
            yield
        return
    _prepare_folder(chosen)
    with files.folder_lock(out):
        if (out / INDEX).exists() and not chosen.overwrite:  # created since _make_room
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


def _prepare_folder(chosen: Index) -> None:
    """Create the folder, or keep the index in it until the new one is complete."""
    out = chosen.out
    if (out / ".lock").exists():
        with files.folder_lock(out):  # report a concurrent writer rather than an existing folder
            pass
    check_out(out, "an index", overwrite=chosen.overwrite, inputs=[chosen.run, chosen.data])
    if not (out / INDEX).exists():
        claim(out, "an index", overwrite=chosen.overwrite)
    try:
        out.mkdir(exist_ok=True)
    except OSError as error:
        raise files.unwritable_error(out.parent, error) from None


def _addition(chosen: Index, before: VectorIndex | None) -> tuple[Addition | None, int]:
    """The images that are not in the index yet, and how many are."""
    known, machine = before.known if before else frozenset(), chosen.machine()
    if is_table(chosen.run):
        return _table_addition(chosen, before)
    if not chosen.data:
        open_vectors(chosen.run, "", machine)  # raises an error that explains what is missing
    encoder = open_encoder(chosen.run)
    if before:
        before.check_encoder(encoder_id(encoder), chosen.run)
    images, left_out = open_new_images(chosen.data, machine, known)
    if images is None:
        return None, left_out
    index_writer.check_index_size(len(images.checked) + len(before or ()))
    vectors = encode_images(encoder, images, machine)
    sums = images.checked.images["sha256"].to_pylist()
    return Addition(vectors, sums, absolute_name(chosen.data), absolute_name(chosen.run)), left_out


def _table_addition(chosen: Index, before: VectorIndex | None) -> tuple[Addition | None, int]:
    """The same for the vectors of a table, which are compared by their bytes."""
    vectors = open_vectors(chosen.run, chosen.data, chosen.machine())
    if before:
        before.check_encoder(vectors.encoder, chosen.run)
        if vectors.x_ND.shape[1] != before.stack.dim:
            what = f"the vectors of {chosen.run} have {vectors.x_ND.shape[1]} dimensions"
            raise ConfigError(
                f"{what}, those of {before.folder} {before.stack.dim}",
                "use the encoder that the index was built with",
            )
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
