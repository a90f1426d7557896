"""Vectors of several files as one long array, and their exact neighbours in little memory.

Shapes:  N vectors in total; D dimensions; Q queries, q in a block; C candidates; k neighbours; n
         requested rows.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from selftaught.pairwise.neighbours import PreparedVectors, exact_scores, top_k

CHUNK = 100_000  # vectors searched at once
_NUMBERS = 2**24  # values of candidates' vectors gathered at once

F32 = NDArray[np.float32]
Rows = NDArray[np.int64]


class StackedVectors:
    """Stacked arrays, which may be memory-mapped: only requested rows are read.

    Args:
        parts: At least one (n, D) float32 array.
    """

    def __init__(self, parts: Sequence[F32]) -> None:
        self.parts = tuple(parts)
        self.ends = np.cumsum([len(part) for part in parts])
        self.dim = int(parts[0].shape[1])

    def __len__(self) -> int:
        return int(self.ends[-1])

    @cached_property
    def prepared(self) -> PreparedVectors:
        """All vectors, prepared for search; they use twice the memory."""
        return PreparedVectors(self.take(np.arange(len(self))))

    def place(self, row: int) -> tuple[int, int]:
        """The part that contains a row, and the position in that part."""
        part = int(np.searchsorted(self.ends, row, side="right"))
        return part, row - int(self.ends[part]) + len(self.parts[part])

    def take(self, rows_n: Rows) -> F32:
        """The vectors of some rows, (n, D)."""
        found_nD = np.empty((len(rows_n), self.dim), np.float32)
        part_n = np.searchsorted(self.ends, rows_n, side="right")
        for number in np.unique(part_n):
            here = part_n == number
            first = int(self.ends[number]) - len(self.parts[number])
            found_nD[here] = self.parts[number][rows_n[here] - first]
        return found_nD

    def chunks(self, size: int = CHUNK) -> Iterator[tuple[int, F32]]:
        """Blocks of at most `size` vectors, each with the number of its first row."""
        for part, end in zip(self.parts, self.ends.tolist(), strict=True):
            for start in range(0, len(part), size):
                yield end - len(part) + start, np.array(part[start : start + size])

    def top_k(self, query_QD: F32, k: int, own: Rows | None = None) -> tuple[F32, Rows]:
        """The exact neighbours of each query by cosine, as in `neighbours.top_k`.

        Up to `CHUNK` vectors are prepared once and cached. Larger stacks are read chunk by chunk,
        and the nearest of all chunks are ranked.
        """
        if len(self) <= CHUNK:
            return top_k(query_QD, self.prepared, k, own=own)
        found = [
            start + top_k(query_QD, chunk_nD, min(k + (own is not None), len(chunk_nD)))[1]
            for start, chunk_nD in self.chunks()
        ]
        return self.rank(query_QD, np.concatenate(found, axis=1), k, own)

    def rank(
        self, query_QD: F32, rows_QC: Rows, k: int, own: Rows | None = None
    ) -> tuple[F32, Rows]:
        """The best candidates by exact scores: cosines in float64, rounded to float32.

        Args:
            query_QD: The queries.
            rows_QC: Candidates per query; -1 if there are fewer than C.
            k: Number of results: at most C, one less with `own`.
            own: (Q,) a row per query that must not be found.

        Returns:
            Scores and rows, (Q, k) each, best first, ties to the lower row; scores are -inf if
            there are fewer than k candidates.
        """
        scores_Qk, found_Qk = (
            np.empty((len(query_QD), k), np.float32),
            np.empty_like(rows_QC[:, :k]),
        )
        q = max(1, _NUMBERS // (rows_QC.shape[1] * self.dim))
        for start in range(0, len(query_QD), q):
            block = slice(start, start + q)
            rows_qC = np.sort(rows_QC[block], axis=1)
            scores_qC = self._scores(query_QD[block], rows_qC)
            scores_qC[rows_qC < 0] = -np.inf
            if own is not None:
                scores_qC[rows_qC == own[block, None]] = -np.inf
            best_qk = np.argsort(-scores_qC, axis=1, kind="stable")[:, :k]
            scores_Qk[block] = np.take_along_axis(scores_qC, best_qk, 1)
            found_Qk[block] = np.take_along_axis(rows_qC, best_qk, 1)
        return scores_Qk, found_Qk

    def _scores(self, query_qD: F32, rows_qC: Rows) -> F32:
        known_n, place_qC = np.unique(rows_qC.clip(0), return_inverse=True)
        q_P = torch.arange(len(query_qD)).repeat_interleave(rows_qC.shape[1])
        base, n_P = PreparedVectors(self.take(known_n)), torch.from_numpy(place_qC.reshape(-1))
        scores: F32 = (
            exact_scores(PreparedVectors(query_qD), base, q_P, n_P).numpy().reshape(rows_qC.shape)
        )
        return scores
