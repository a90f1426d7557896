"""The vectors that k-means clusters, block by block, and the nearest centroid of each.

One product per block, in the vectors' own type, proposes a centroid; if two are too close for its
rounding error, float64 decides, and ties go to the lower index. So a label depends neither on
blocks and threads nor on the device and the number of processes.

Shapes:  N vectors on all processes, n on this one, R in a block, U of them undecided; D their size;
         K centroids in G groups of L. P is D + 2 rounded up to a multiple of 4: vectors are
         followed by 1, |x| and zeros, centroids by -|c|^2 / 2 and zeros, so that their product
         x.c - |c|^2 / 2 is largest where |x - c| is least.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selftaught.errors import UserError
from selftaught.foundation.distributed import all_reduce_mean_, rank, world

_HELD = 2**31  # bytes: up to here, all centred vectors stay on the device, else they are read again
_LONGEST = 1e-3  # limit of a squared length, as a share of the largest number
_GROUPED, _L = 512, 64  # from 512 centroids on, take the maximum of each group of 64 first


class VectorBlocks:
    """The vectors of k-means, centred near their mean because products would lose bits otherwise.

    The origin has few digits, so that x - origin is exact for nearly all x.

    Args:
        x_ND: All vectors, the same on every process; each works on its own range of rows.
        device: Device of the computation; blocks are moved there one at a time.
        spherical: Whether to scale vectors to length 1 (zeros stay zeros).

    Raises:
        UserError: A value is not finite, or too large to be squared.
    """

    def __init__(self, x_ND: Tensor | NDArray[Any], device: torch.device, spherical: bool) -> None:
        self.x_ND = x_ND.detach() if isinstance(x_ND, Tensor) else x_ND
        self.N, self.D = len(x_ND), x_ND.shape[1]
        self.device, self.spherical = device, spherical
        double = x_ND.dtype in (torch.float64, np.float64)
        self.dtype = torch.float64 if double else torch.float32
        n = -(-self.N // world())
        self.own = slice(min(rank() * n, self.N), min((rank() + 1) * n, self.N))
        self.n, self.P = self.own.stop - self.own.start, (self.D + 5) // 4 * 4
        self.origin_D = torch.zeros(self.D, dtype=torch.float64, device=device)
        self.origin_D = self._about_mean()
        self._held_nP: Tensor | None = None
        if self.n * self.P * self.dtype.itemsize <= _HELD:
            held_nP = torch.empty(self.n, self.P, dtype=self.dtype, device=device)
            for rows in self.blocks():
                held_nP[rows] = self.block(rows)
            self._held_nP = held_nP

    def blocks(self, k: int = 0) -> Iterator[slice]:
        """Slices of this process's rows 0 .. n-1 that fit caches, with their products with k."""
        if self.device.type == "cpu":
            R = min(2048, max(1024, 2**20 // k)) if k else max(32, 2**16 // self.D)
        else:
            R = min(2**16, max(1024, 2**26 // max(k, self.D)))
        return (slice(start, min(start + R, self.n)) for start in range(0, self.n, R))

    def block(self, rows: slice) -> Tensor:
        """Some of this process's vectors, followed by 1 and |x|, (R, P), in their own type."""
        if self._held_nP is not None:
            return self._held_nP[rows]
        start = self.own.start
        x_RD = self.exact(slice(start + rows.start, start + rows.stop))
        x_RP = torch.zeros(len(x_RD), self.P, dtype=self.dtype, device=self.device)
        x_RP[:, : self.D], x_RP[:, self.D] = x_RD, 1
        x_RP[:, self.D + 1] = torch.linalg.vector_norm(x_RP[:, : self.D], dim=1)
        return x_RP

    def exact(self, rows: slice | NDArray[np.int64]) -> Tensor:
        """Any of all N vectors in full precision, minus the origin, (R, D) float64."""
        if isinstance(self.x_ND, Tensor):
            part = self.x_ND[rows if isinstance(rows, slice) else torch.from_numpy(rows)]
        else:
            part = torch.from_numpy(np.array(self.x_ND[rows]))  # a copy: maps may be read-only
        x_RD = part.to(self.device).to(torch.float64, copy=True)
        return (unit_rows(x_RD) if self.spherical else x_RD).sub_(self.origin_D)

    def _about_mean(self) -> Tensor:
        """The mean, rounded to 6 bits below the spread, or exact if there is no spread."""
        sums_2D, longest = self.origin_D.new_zeros(2, self.D), 0.0
        for rows in self.blocks():
            x_RD = self.exact(slice(self.own.start + rows.start, self.own.start + rows.stop))
            sums_2D[0] += x_RD.sum(0)
            sums_2D[1] += x_RD.square_().sum(0)
            longest = max(longest, x_RD.sum(1).max().item())
        sum_([sums_2D])
        if not sums_2D.isfinite().all():
            raise UserError("some vectors are not finite", "remove those rows")
        if longest > _LONGEST * torch.finfo(self.dtype).max:
            raise UserError(
                f"some vectors are too long ({longest**0.5:.1e}) for their squares to be computed",
                "divide all vectors by this length",
            )
        mean_D, square_D = sums_2D / self.N
        std_D = (square_D - mean_D.square()).clamp(min=0).sqrt()
        step_D = torch.exp2(std_D.log2().floor() - 6)
        return torch.where(std_D > 1e-6 * mean_D.abs(), (mean_D / step_D).round() * step_D, mean_D)


class Nearest:
    """Finds the nearest of some centroids, block by block.

    Args:
        vectors: The vectors, whose blocks are the queries.
        c_KD: The centroids minus the origin, float64.
    """

    def __init__(self, vectors: VectorBlocks, c_KD: Tensor) -> None:
        self.vectors, self.D, self.c_KD, K = vectors, vectors.D, c_KD, len(c_KD)
        self.length_K = torch.linalg.vector_norm(c_KD, dim=1)
        self.half_K, self.radius = self.length_K.square() / 2, self.length_K.max().item()
        self.c_KP = torch.zeros(K, vectors.P, dtype=vectors.dtype, device=vectors.device)
        self.c_KP[:, : self.D], self.c_KP[:, self.D] = c_KD, -self.half_K
        rows = next(vectors.blocks(K), slice(0, 0))
        shape = (rows.stop, -(-K // _L) * _L)
        self.scores = torch.full(shape, -math.inf, dtype=vectors.dtype, device=vectors.device)

    def __call__(self, x_RP: Tensor, first: int | None = None) -> Tensor:
        """The index of the nearest centroid, (R,) int64.

        Args:
            x_RP: A block of vectors.
            first: The row of its first vector among all N, to read undecided vectors again in full
                precision; None: decide from x_RP, which is rounded to the vectors' own type.
        """
        label_R, undecided_U = self._proposals(x_RP)
        if len(undecided_U):
            x_UD = x_RP[undecided_U, : self.D].double()
            if first is not None:
                x_UD = self.vectors.exact(first + undecided_U.cpu().numpy())
            label_R[undecided_U] = self._decisions(x_UD)
        return label_R

    def _proposals(self, x_RP: Tensor) -> tuple[Tensor, Tensor]:
        """The index of the largest score, (R,), and the rows that are within rounding error."""
        R, K = len(x_RP), len(self.c_KP)
        torch.mm(x_RP, self.c_KP.T, out=self.scores[:R, :K])
        margin_R = 4 * self._error(x_RP[:, self.D + 1], self.radius)
        if K < _GROUPED:
            label_R, several_R = _largest(self.scores[:R, :K], margin_R)
            return label_R, several_R.nonzero()[:, 0]
        scores_RGL = self.scores[:R].view(R, -1, _L)
        group_R, several_R = _largest(scores_RGL.amax(2), margin_R)
        own_RL = scores_RGL[torch.arange(R, device=group_R.device), group_R]
        place_R, also_R = _largest(own_RL, margin_R)
        return group_R * _L + place_R, (several_R | also_R).nonzero()[:, 0]

    def _decisions(self, x_UD: Tensor) -> Tensor:
        """The first of the centroids that are nearest within float64 precision."""
        scores_UK = torch.addmm(-self.half_K, x_UD, self.c_KD.T)
        length_U1 = torch.linalg.vector_norm(x_UD, dim=1, keepdim=True)
        error_UK = 2 * self._error(length_U1, self.length_K)
        tied_UK = scores_UK + error_UK >= (scores_UK - error_UK).amax(1, keepdim=True)
        index_K = torch.arange(len(self.c_KD), device=x_UD.device)
        return torch.where(tied_UK, index_K, len(index_K)).amin(1)

    def _error(self, length: Tensor, c_length: float | Tensor) -> Tensor:
        """A bound on the rounding error of the scores of vectors and centroids of these lengths."""
        unit_roundoff = torch.finfo(length.dtype).eps / 2
        return (2 * math.sqrt(self.D) + 4) * unit_roundoff * c_length * (length + c_length / 2)


def _largest(scores_RK: Tensor, margin_R: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the largest, (R,), and whether several are within the margin; overwrites the scores.

    Each score within the margin counts K plus its index, so only a single one sums to less than 2K.
    """
    K = scores_RK.shape[1]
    number_K = torch.arange(K, 2 * K, device=scores_RK.device).to(scores_RK.dtype)
    sum_R = scores_RK.ge_((scores_RK.amax(1) - margin_R)[:, None]) @ number_K
    return sum_R.long().sub_(K).clamp_(max=K - 1), sum_R >= 2 * K


def unit_rows(x_ND: Tensor) -> Tensor:
    """Rows of length 1; zeros stay zeros."""
    length_N1 = torch.linalg.vector_norm(x_ND, dim=1, keepdim=True)
    return x_ND * torch.where(length_N1 > torch.finfo(x_ND.dtype).tiny, 1 / length_N1, 0)


def sum_(tensors: Iterable[Tensor]) -> None:
    """Replace float64 tensors by their sums over the processes."""
    tensors = list(tensors)
    all_reduce_mean_(tensors)
    for tensor in tensors:
        tensor.mul_(world())
