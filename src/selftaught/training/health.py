"""Whether the embeddings still distinguish images: two numbers, and alarms in plain words.

The standard deviation alone misses a collapse into few dimensions, the rank alone misses a narrow
cone, so both are logged. Rows are normalised to length 1 and not centred.

Shapes:  N rows, D dimensions, R the shorter of the two sides.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from selftaught.methods.method import at_least_float32

ROWS = 2048
"""Health is measured on this many rows, the newest."""
ENOUGH_ROWS = 256
"""Rows needed for an alarm: a short run of small batches never has all 2,048."""

_SPREAD = 0.1  # below: all outputs are nearly the same
_RANK, _RANK_SHARE = 5.0, 0.02  # below both: few dimensions are in use
_FAR, _LINES = 1.5, 5  # divergence: this many times chance, on this many lines in a row


class Ring:
    """The newest 2,048 rows of embeddings, on their device; adding never waits for it."""

    def __init__(self) -> None:
        self._rows_ND, self._next, self._number = torch.empty(0, 0), 0, 0

    def add(self, z_ND: Tensor) -> None:
        """Add rows (N, D) of any floating type; rows of another size clear the ring."""
        z_ND = z_ND.detach()[-ROWS:].float()
        if z_ND.shape[1] != self._rows_ND.shape[1]:
            self._rows_ND, self._next, self._number = z_ND.new_empty(ROWS, z_ND.shape[1]), 0, 0
        fit = min(len(z_ND), ROWS - self._next)
        self._rows_ND[self._next : self._next + fit] = z_ND[:fit]
        self._rows_ND[: len(z_ND) - fit] = z_ND[fit:]
        self._next = (self._next + len(z_ND)) % ROWS
        self._number = min(self._number + len(z_ND), ROWS)

    def rows(self) -> Tensor:
        """The rows, oldest first, (at most 2,048, D) float32; (0, 0) before the first.

        Adding them to a new ring copies this one.
        """
        if self._number < ROWS:
            return self._rows_ND[: self._number].clone()
        return self._rows_ND.roll(-self._next, 0)


@torch.no_grad()
def health(z_ND: Tensor) -> dict[str, float]:
    """Spread and effective rank of embeddings (N, D), in float64 on their device.

    Returns:
        "spread": standard deviation of the normalised rows, times sqrt(D), mean over dimensions:
        1 if spread equally in all directions, 0 if all rows are the same.
        "effective_rank": exp of the entropy of the singular values of the normalised rows (RankMe,
        Garrido et al. 2023): the number of dimensions in use. Both are NaN if z is not finite.
    """
    on_cpu = z_ND.device.type == "mps"  # it has no float64
    z_ND = at_least_float32(z_ND.cpu() if on_cpu else z_ND).double()
    z_ND = z_ND / z_ND.norm(dim=1, keepdim=True).clamp_min(1e-12)
    if not len(z_ND) or not bool(z_ND.isfinite().all()):
        return {"spread": math.nan, "effective_rank": math.nan}
    spread = z_ND.std(0, correction=0).mean() * math.sqrt(z_ND.shape[1])
    return {"spread": spread.item(), "effective_rank": _effective_rank(z_ND)}


def _effective_rank(z_ND: Tensor) -> float:
    """exp(-sum_r p_r log p_r), p the singular values over their sum, from the smaller Gram matrix.

    Eigenvalues below the rounding error of the largest count as 0.
    """
    N, D = z_ND.shape
    gram_RR = z_ND.T @ z_ND if D <= N else z_ND @ z_ND.T
    squared_R = torch.linalg.eigvalsh(gram_RR)
    rounding = squared_R[-1] * len(squared_R) * torch.finfo(torch.float64).eps
    singular_R = torch.where(squared_R > rounding, squared_R, 0.0).sqrt()
    p_R = singular_R / singular_R.sum().clamp_min(1e-300)
    return math.exp(torch.special.entr(p_R).sum().item())


def health_alarms(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """The problems that the newest line shows, one paragraph each.

    Args:
        history: Lines of metrics.jsonl in order, with "loss", "chance", "warmup", "spread",
            "effective_rank", "embedding_rows" and "embedding_dim" if known.
    """
    if not history:
        return []
    found = [_divergence(history)]
    if not history[-1].get("warmup", False):
        found.append(_collapse(history[-1]))
    return [words for words in found if words]


def _collapse(line: Mapping[str, Any]) -> str:
    """The alarm for a complete collapse, or else for one into few dimensions, or an empty text."""
    rows, dim = line.get("embedding_rows", 0), line.get("embedding_dim", 0)
    spread, rank = _number(line.get("spread")), _number(line.get("effective_rank"))
    if rows < ENOUGH_ROWS:
        return ""
    if spread < _SPREAD:
        return _ALIKE.format(spread, _SPREAD)
    if rank < _least_rank(rows, dim):
        return _FEW.format(rank, dim, _least_rank(rows, dim))
    return ""


def _least_rank(rows: int, dim: int) -> float:
    """The alarm's threshold of the rank: 5, more for wide embeddings, half of very narrow ones."""
    return min(max(_RANK, _RANK_SHARE * min(rows, dim)), dim / 2)


def _divergence(history: Sequence[Mapping[str, Any]]) -> str:
    """The alarm for a loss that is not finite or stays far above chance, or an empty text."""
    last = history[-1]
    if "loss" in last and not math.isfinite(_number(last["loss"])):
        return _NOT_FINITE.format(last.get("step", 0))
    known = [line for line in history if line.get("chance") is not None]
    recent = [line for line in known if not line.get("warmup", False)][-_LINES:]
    far = [_number(line["loss"]) > _FAR * line["chance"] > 0 for line in recent]
    if len(recent) < _LINES or not all(far) or recent[-1]["loss"] < _number(known[0]["loss"]):
        return ""
    return _ABOVE.format(recent[-1]["loss"], recent[-1]["chance"], known[0]["loss"])


def _number(value: float | None) -> float:
    """A logged number, NaN for None (metrics.jsonl holds null if it was not finite)."""
    return math.nan if value is None else value


_ALIKE = (
    "Different images have nearly the same output: the spread is {:.3f} (1 is full, below {:.1f} "
    "is a collapse). The encoder has learned to ignore its input, and its features will be "
    "useless. Try a lower --lr or a larger --batch-size, and check the views with selftaught "
    "preview: each image must still be recognisable."
)
_FEW = (
    "The outputs differ between images but use only {:.1f} of their {} dimensions (below {:.1f} is "
    "a collapse): the encoder distinguishes images by very few properties. Try a lower --lr or a "
    "larger --batch-size, and look for a shortcut that identifies an image, such as a frame, a "
    "colour cast or a time stamp: selftaught preview shows what the network sees."
)
_NOT_FINITE = (
    "The loss of step {} is not a finite number. Training has diverged, and all later steps are "
    "useless. Try a lower --lr, or start from the last checkpoint."
)
_ABOVE = (
    "The loss is {:.3f}, far above chance ({:.3f}, the same output for all images) and not below "
    "its value at the start ({:.3f}). Training is diverging: try a lower --lr."
)
