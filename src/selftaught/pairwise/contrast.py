"""log sum_k exp(q . k / tau) over many keys, tile by tile: the matrix of all pairs is never stored.

A tile of 512 x 512 products stays in the processor's cache from the matrix product to the sums, and
backward recomputes it: memory grows with the rows, not with their square. If queries and keys are
the same rows, the matrix is symmetric, and its upper triangle is enough.

No maximum is subtracted: rows have length at most 1, so |q . k| / tau <= 1 / tau, and `can_tile`
checks that the exponentials and their sums are normal numbers.

Shapes:  Q queries, K keys, D their size; T side of a tile, R rows in a block. Rows 2n and 2n+1 are
         the two views of an image.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from selftaught.errors import UserError
from selftaught.foundation.distributed import all_equal, all_gather, rank, world

TILE = 512  # rows; a tile takes 1 MiB in float32
MIN_KEYS = TILE  # from here on tiles are faster than the whole matrix and its cross-entropy
_BLOCK = 2**21  # products that `contrastive_accuracy` holds at once


def can_tile(keys: int, tau: float, dtype: torch.dtype) -> bool:
    """Whether tiles pay off for this number of keys, and their exponentials are safe in this type.

    exp(-1 / tau) and keys * exp(1 / tau), the inverses of both, and a mean's share 1 / keys of the
    latter must be normal numbers: in float32 1 / tau + 2 log(keys) <= 80, or tau >= 0.0162 at
    8,192 keys; in float64 <= 700.
    """
    largest = math.floor(math.log(torch.finfo(dtype).max) / 10) * 10
    return keys >= MIN_KEYS and 1 / tau + 2 * math.log(keys) <= largest


def gather_rows(row_N2D: Tensor) -> tuple[Tensor, Tensor]:
    """Gather this process's rows (2N, D) and those of all; with one process, the same tensor.

    Raises:
        UserError: There is only one image, or processes hold different numbers of images.
    """
    images, row_QD = len(row_N2D), row_N2D.flatten(0, 1)
    if images * world() < 2:
        raise UserError("a batch of one image has no negatives", "use a larger --batch-size")
    if not all_equal(images):
        raise UserError(
            f"process {rank()} has {images} images, another has a different number",
            "choose a batch size that the number of processes divides",
        )
    return row_QD, all_gather(row_QD)


def log_sum_exp(query_QD: Tensor, key_KD: Tensor, tau: float, first: int = 0) -> Tensor:
    """log sum_k exp(q . k / tau) of each query, (Q,), over the keys of other images.

    Args:
        query_QD: Rows no longer than 1, an even number of them, float32 or float64.
        key_KD: All rows, including the queries; the same tensor if there are no others.
        tau: The temperature; `can_tile` says how low it can be.
        first: Position of the first query among the keys, an even number.
    """
    if key_KD is query_QD:
        alone: Tensor = _Symmetric.apply(query_QD, tau)
        return alone
    among_others: Tensor = _Rectangular.apply(query_QD, key_KD, tau, first)
    return among_others


@torch.no_grad()
def contrastive_accuracy(query_QD: Tensor, key_KD: Tensor, first: int = 0) -> float:
    """The share of queries whose nearest key is their image's other view, block by block."""
    own_Q = first + torch.arange(len(query_QD), device=query_QD.device)
    rows, found = max(1, _BLOCK // len(key_KD)), own_Q.new_zeros(())
    for query_RD, own_R in zip(torch.split(query_QD, rows), torch.split(own_Q, rows), strict=True):
        s_RK = query_RD @ key_KD.T
        nearest_R = s_RK.scatter_(1, own_R[:, None], -math.inf).argmax(1)
        found += (nearest_R == own_R ^ 1).sum()
    return found.item() / len(query_QD)


class _Symmetric(torch.autograd.Function):
    """The queries are the keys. A single tile is saved for backward: recomputing is slower."""

    @staticmethod
    def forward(ctx: Any, z_QD: Tensor, tau: float) -> Tensor:
        scaled_QD, sums_Q = z_QD / tau, z_QD.new_zeros(len(z_QD))
        for a, b, tile in _tiles(scaled_QD, z_QD, first=0, above=True):
            sums_Q[a] += tile.sum(1)
            if a != b:
                sums_Q[b] += tile.sum(0)
        single = (tile,) if len(z_QD) <= TILE else ()
        ctx.save_for_backward(z_QD, scaled_QD, sums_Q, *single)
        return sums_Q.log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_Q: Tensor) -> tuple[Tensor, None]:
        z_QD, scaled_QD, sums_Q, *single = ctx.saved_tensors
        share_Q, total_QD = gradient_Q / sums_Q, torch.zeros_like(z_QD)
        if single:
            tile = single[0] * (share_Q[:, None] + share_Q)
            return torch.mm(tile, scaled_QD, out=total_QD), None
        for a, b, tile in _tiles(scaled_QD, z_QD, first=0, above=True):
            tile.mul_(share_Q[a, None] + share_Q[b])  # P + P^T
            total_QD[a].addmm_(tile, scaled_QD[b])
            if a != b:
                total_QD[b].addmm_(tile.T, scaled_QD[a])
        return total_QD, None


class _Rectangular(torch.autograd.Function):
    """The queries are some of the keys."""

    @staticmethod
    def forward(ctx: Any, query_QD: Tensor, key_KD: Tensor, tau: float, first: int) -> Tensor:
        scaled_QD, sums_Q = query_QD / tau, query_QD.new_zeros(len(query_QD))
        for a, _, tile in _tiles(scaled_QD, key_KD, first=first):
            sums_Q[a] += tile.sum(1)
        ctx.save_for_backward(scaled_QD, key_KD, sums_Q)
        ctx.tau, ctx.first = tau, first
        return sums_Q.log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_Q: Tensor) -> tuple[Tensor, Tensor, None, None]:
        scaled_QD, key_KD, sums_Q = ctx.saved_tensors
        share_Q = gradient_Q / sums_Q
        total_QD, total_KD = torch.zeros_like(scaled_QD), torch.zeros_like(key_KD)
        for a, b, tile in _tiles(scaled_QD, key_KD, first=ctx.first):
            tile.mul_(share_Q[a, None])
            total_QD[a].addmm_(tile, key_KD[b])
            total_KD[b].addmm_(tile.T, scaled_QD[a])
        return total_QD.div_(ctx.tau), total_KD, None, None


def _tiles(
    scaled_QD: Tensor, key_KD: Tensor, *, first: int, above: bool = False
) -> Iterator[tuple[slice, slice, Tensor]]:
    """exp(q . k / tau) of some queries and some keys, 0 if both are of one image.

    Yields the queries, the keys, and the tile, which the next one overwrites.

    Args:
        scaled_QD: The queries over tau.
        key_KD: The keys.
        first: Position of the first query among the keys.
        above: Only tiles on the diagonal and above it.
    """
    memory = scaled_QD.new_empty(min(TILE, len(scaled_QD)) * min(TILE, len(key_KD)))
    for a in _slices(len(scaled_QD)):
        for b in _slices(len(key_KD), a.start if above else 0):
            shape = a.stop - a.start, b.stop - b.start
            tile = memory[: shape[0] * shape[1]].view(shape)
            torch.mm(scaled_QD[a], key_KD[b].T, out=tile).exp_()
            _leave_out_own_image_(tile, first + a.start - b.start)
            yield a, b, tile


def _slices(rows: int, start: int = 0) -> list[slice]:
    return [slice(n, min(n + TILE, rows)) for n in range(start, rows, TILE)]


def _leave_out_own_image_(tile: Tensor, offset: int) -> None:
    """Zero the 2 x 2 squares whose column is their row plus `offset`."""
    top, left = max(0, -offset), max(0, offset)
    images = min(tile.shape[0] - top, tile.shape[1] - left) // 2
    if images > 0:
        square = tile[top : top + 2 * images, left : left + 2 * images]
        square.view(images, 2, images, 2).diagonal(0, 0, 2).zero_()
