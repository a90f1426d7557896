"""Neighbours among many vectors, found by faiss: an inverted file of 8-bit codes.

Vectors are shared out to lists by the nearest of their centroids (Jegou, Douze and Schmid, PAMI
2011); a query looks into the lists with the nearest ones, by codes of a byte a number. The best of
what it finds are ranked anew by their exact vectors, so that a code costs a miss, never an order.

How many lists a query looks into is chosen when the index is built: the fewest, among powers of
two, that find `RECALL` of the 10 nearest of a sample. Another sample says what was reached.

Shapes:  N vectors; D their size; Q queries; C candidates; n vectors of a chunk.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selftaught.errors import ConfigError, FileError
from selftaught.foundation.files import sync_folder, temporary
from selftaught.foundation.rng import Key, permutation
from selftaught.retrieval.parts import F32, Rows, StackedVectors

RECALL = 0.97  # of the 10 nearest that the first sample must find
SAMPLE = 500  # vectors of each of the two samples
_TRAINING = 64  # vectors a list from which centroids are made
_CANDIDATES = 100  # ranked anew, or four times the neighbours that are asked for


def faiss_or_remedy() -> Any:
    """The module faiss.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise ConfigError(
            "so many vectors are searched with faiss, which is not installed",
            "pip install 'selftaught[search]'",
        ) from None
    return faiss


class Approximate:
    """An inverted file of the vectors of a stack.

    Args:
        inner: faiss's index.
        stack: The vectors themselves, in the same order.
        probes: Lists that a query looks into.
    """

    def __init__(self, inner: Any, stack: StackedVectors, probes: int) -> None:
        self.inner, self.stack, self.probes = inner, stack, probes

    def top_k(self, query_QD: F32, k: int, own: Rows | None = None) -> tuple[F32, Rows]:
        """Nearly the k nearest of each query by cosine, with exact scores, as `Stack.ranked`."""
        wanted = min(max(_CANDIDATES, 4 * k), len(self.stack))
        self.inner.nprobe = self.probes
        _, rows_QC = self.inner.search(_unit(query_QD), wanted)
        return self.stack.ranked(query_QD, rows_QC, k, own)

    def tuned(self) -> dict[str, Any]:
        """Choose `probes`; what the index's description says of it."""
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


def built(stack: StackedVectors) -> Approximate:
    """A new inverted file of all vectors of a stack.

    Raises:
        ConfigError: faiss is not installed.
    """
    faiss = faiss_or_remedy()
    lists = 1 << max(0, round(np.log2(max(1, len(stack))) / 2))  # about sqrt(N)
    inner = faiss.index_factory(stack.dim, f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
    inner.cp.min_points_per_centroid, inner.cp.seed = 1, 1
    rows = permutation(Key(0, "search/training"), len(stack))[: _TRAINING * lists]
    inner.train(_unit(stack.take(np.sort(rows))))
    return extended(inner, stack)


def extended(inner: Any, stack: StackedVectors) -> Approximate:
    """faiss's index with the rest of the stack's vectors, those after what it holds."""
    for chunk_nD in _after(stack, inner.ntotal):
        inner.add(_unit(chunk_nD))
    return Approximate(inner, stack, 1)


def _after(stack: StackedVectors, first: int) -> Iterator[F32]:
    for start, chunk_nD in stack.chunks():
        if start + len(chunk_nD) > first:
            yield chunk_nD[max(0, first - start) :]


def save_faiss(inner: Any, path: Path) -> None:
    """Write faiss's index, whole or not at all."""
    part = temporary(path)
    try:
        faiss_or_remedy().write_index(inner, str(part))
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, RuntimeError):  # faiss's word for a full disk
            raise FileError(f"{path} cannot be written", "make room on that disk") from None
        raise
    sync_folder(path.parent)


def load_faiss(path: Path, count: int, dim: int) -> Any:
    """faiss's index from a file whose bytes are known to be ours.

    Raises:
        ConfigError: faiss is not installed.
        FileError: It holds other vectors than it should.
    """
    faiss = faiss_or_remedy()
    try:
        inner = faiss.read_index(str(path))
    except RuntimeError:
        raise FileError(f"{path} cannot be read by faiss", "build the index anew") from None
    if not isinstance(inner, faiss.IndexIVF) or (inner.ntotal, inner.d) != (count, dim):
        raise FileError(f"{path} holds other vectors", "build the index anew")
    return inner


def _unit(x_nD: NDArray[Any]) -> F32:
    """Rows of length 1; zeros stay zeros."""
    length_n1 = np.linalg.norm(x_nD.astype(np.float64), axis=1, keepdims=True)
    unit: F32 = np.divide(x_nD, np.where(length_n1 > 0, length_n1, 1)).astype(np.float32)
    return unit
