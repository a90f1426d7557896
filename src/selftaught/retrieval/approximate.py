"""Approximate neighbours among many vectors, by faiss: an inverted file of 8-bit codes.

Vectors are sorted into lists by their nearest centroid (Jegou, Douze and Schmid, PAMI 2011); a
query searches the lists of the nearest centroids, by codes of one byte per dimension. The best
results are ranked again by their exact vectors, so that codes can miss results but not reorder
them.

The number of lists per query is chosen when the index is built: the smallest power of two that
finds `RECALL` of the 10 nearest of a sample. The recall is reported on another sample.

Shapes:  N vectors; D dimensions; Q queries; C candidates; n vectors of a chunk.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selftaught.errors import FileError
from selftaught.foundation.extras import import_extra
from selftaught.foundation.files import sync_folder, temporary_path
from selftaught.foundation.rng import Key, permutation
from selftaught.retrieval.parts import F32, Rows, StackedVectors

RECALL = 0.97  # of the 10 nearest that the first sample must find
SAMPLE = 500  # vectors of each of the two samples
_TRAINING = 64  # training vectors per centroid
_CANDIDATES = 100  # ranked exactly: this many, or four times the requested neighbours


def import_faiss() -> Any:
    """The module faiss.

    Raises:
        ConfigError: faiss is not installed.
    """
    return import_extra("faiss", "searching this many vectors needs faiss", "search")


class Approximate:
    """An inverted file of stacked vectors.

    Args:
        inner: The faiss index.
        stack: The exact vectors, in the same order.
        probes: Number of lists that a query searches.
    """

    def __init__(self, inner: Any, stack: StackedVectors, probes: int) -> None:
        self.inner, self.stack, self.probes = inner, stack, probes

    def top_k(self, query_QD: F32, k: int, own: Rows | None = None) -> tuple[F32, Rows]:
        """Almost the k nearest of each query by cosine, with exact scores, as in `rank`."""
        count = min(max(_CANDIDATES, 4 * k), len(self.stack))
        self.inner.nprobe = self.probes
        _, rows_QC = self.inner.search(_unit(query_QD), count)
        return self.stack.rank(query_QD, rows_QC, k, own)

    def tune(self) -> dict[str, Any]:
        """Choose `probes`; returns the facts for the description of the index."""
        rows = permutation(Key(0, "search/recall"), len(self.stack))[: 2 * SAMPLE]
        first, second = np.array_split(np.sort(rows), 2)
        k = min(10, len(self.stack) - 1)
        truth = self.stack.top_k(self.stack.take(first), k, first)[1]
        lists, self.probes = self.inner.nlist, 1
        while self._recall(first, truth) < RECALL and self.probes < lists:
            self.probes = min(2 * self.probes, lists)
        truth = self.stack.top_k(self.stack.take(second), k, second)[1]
        recall = self._recall(second, truth)
        return {
            "lists": lists,
            "probes": self.probes,
            "recall_at_10": round(recall, 4),
            "sample": len(second),
        }

    def _recall(self, rows_Q: Rows, truth_Qk: Rows) -> float:
        found_Qk = self.top_k(self.stack.take(rows_Q), truth_Qk.shape[1], rows_Q)[1]
        pairs = zip(found_Qk.tolist(), truth_Qk.tolist(), strict=True)
        return sum(len({*a} & {*b}) for a, b in pairs) / truth_Qk.size


def build_faiss(stack: StackedVectors) -> Approximate:
    """A new inverted file of all stacked vectors.

    Raises:
        ConfigError: faiss is not installed.
    """
    faiss = import_faiss()
    lists = 1 << max(0, round(np.log2(max(1, len(stack))) / 2))  # about sqrt(N)
    inner = faiss.index_factory(stack.dim, f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
    inner.cp.min_points_per_centroid, inner.cp.seed = 1, 1
    rows = permutation(Key(0, "search/training"), len(stack))[: _TRAINING * lists]
    inner.train(_unit(stack.take(np.sort(rows))))
    return extend_faiss(inner, stack)


def extend_faiss(inner: Any, stack: StackedVectors) -> Approximate:
    """The faiss index, extended by the stacked vectors that it does not hold yet."""
    for chunk_nD in _after(stack, inner.ntotal):
        inner.add(_unit(chunk_nD))
    return Approximate(inner, stack, 1)


def _after(stack: StackedVectors, first: int) -> Iterator[F32]:
    for start, chunk_nD in stack.chunks():
        if start + len(chunk_nD) > first:
            yield chunk_nD[max(0, first - start) :]


def save_faiss(inner: Any, path: Path) -> None:
    """Write a faiss index, whole or not at all."""
    part = temporary_path(path)
    try:
        import_faiss().write_index(inner, str(part))
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, RuntimeError):  # how faiss reports a full disk
            raise FileError(f"{path} cannot be written", "free space on that disk") from None
        raise
    sync_folder(path.parent)


def load_faiss(path: Path, count: int, dim: int) -> Any:
    """A faiss index, from a file whose checksum has been verified.

    Raises:
        ConfigError: faiss is not installed.
        FileError: The file does not hold `count` vectors of `dim` dimensions.
    """
    faiss = import_faiss()
    try:
        inner = faiss.read_index(str(path))
    except RuntimeError:
        raise FileError(f"faiss cannot read {path}", "rebuild the index") from None
    if not isinstance(inner, faiss.IndexIVF) or (inner.ntotal, inner.d) != (count, dim):
        raise FileError(f"{path} does not match the vectors of the index", "rebuild the index")
    return inner


def _unit(x_nD: NDArray[Any]) -> F32:
    """Rows scaled to length 1; zeros stay zeros."""
    length_n1 = np.linalg.norm(x_nD.astype(np.float64), axis=1, keepdims=True)
    unit: F32 = np.divide(x_nD, np.where(length_n1 > 0, length_n1, 1)).astype(np.float32)
    return unit
