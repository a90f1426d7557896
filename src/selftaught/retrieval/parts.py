"""Vectors of several files as one long array, and their exact neighbours within little memory.

Shapes:  N vectors in all; D their size; Q queries, q of a block; C candidates; k neighbours; n rows
         asked for.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from selftaught.pairwise.neighbours import Prepared, exact, top_k

CHUNK = 100_000  # vectors that are searched at once
_NUMBERS = 2**24  # numbers of candidates' vectors gathered at once

F32 = NDArray[np.float32]
Rows = NDArray[np.int64]


class StackedVectors:
    """Arrays one below the other, which may be memory-mapped: only what is asked for is read.

    Args:
        parts: (n, D) float32 each, one at least.
    """

    def __init__(self, parts: Sequence[F32]) -> None:
        self.parts = tuple(parts)
        self.ends = np.cumsum([len(part) for part in parts])
        self.dim = int(parts[0].shape[1])

    def __len__(self) -> int:
        return int(self.ends[-1])

    @cached_property
    def prepared(self) -> Prepared:
        """All vectors, ready to be searched; they take twice the memory."""
        return Prepared(self.take(np.arange(len(self))))

    def place(self, row: int) -> tuple[int, int]:
        """Which part a row lies in, and where there."""
        part = int(np.searchsorted(self.ends, row, side="right"))
        return part, row - int(self.ends[part]) + len(self.parts[part])

    def take(self, rows_n: Rows) -> F32:
        """Some rows, (n, D)."""
        found_nD = np.empty((len(rows_n), self.dim), np.float32)
        part_n = np.searchsorted(self.ends, rows_n, side="right")
        for number in np.unique(part_n):
            here = part_n == number
            first = int(self.ends[number]) - len(self.parts[number])
            found_nD[here] = self.parts[number][rows_n[here] - first]
        return found_nD

    def chunks(self, size: int = CHUNK) -> Iterator[tuple[int, F32]]:
        """Stretches of at most so many rows, each after the number of its first row."""
        for part, end in zip(self.parts, self.ends.tolist(), strict=True):
            for start in range(0, len(part), size):
                yield end - len(part) + start, np.array(part[start : start + size])

    def top_k(self, query_QD: F32, k: int, own: Rows | None = None) -> tuple[F32, Rows]:
        """The exact neighbours of each query by cosine, as `neighbours.top_k`.

        Up to `CHUNK` vectors are prepared once and kept. Of more, a chunk at a time is read, and
        the nearest of each are ranked.
        """
        if len(self) <= CHUNK:
            return top_k(query_QD, self.prepared, k, own=own)
        found = [
            start + top_k(query_QD, chunk_nD, min(k + (own is not None), len(chunk_nD)))[1]
            for start, chunk_nD in self.chunks()
        ]
        return self.ranked(query_QD, np.concatenate(found, axis=1), k, own)

    def ranked(
        self, query_QD: F32, rows_QC: Rows, k: int, own: Rows | None = None
    ) -> tuple[F32, Rows]:
        """The best of some candidates by exact scores: cosines in float64, rounded to float32.

        Args:
            query_QD: The queries.
            rows_QC: Rows for each; -1 where there are fewer than C.
            k: How many are wanted: at most C, less one with `own`.
            own: (Q,) a row each query must not find.

        Returns:
            Scores and rows, (Q, k) each, best first, ties to the lower row; a score of -inf where
            there are not so many candidates.
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
        base, n_P = Prepared(self.take(known_n)), torch.from_numpy(place_qC.reshape(-1))
        scores: F32 = exact(Prepared(query_qD), base, q_P, n_P).numpy().reshape(rows_qC.shape)
        return scores
