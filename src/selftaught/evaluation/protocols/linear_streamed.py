"""The logistic regression of `linear.py` for many long vectors: the same minimum.

    min_{W, b}  1/n sum_i CE(W x_i + b, y_i) + lambda/2 |W|^2      x standardised

`linear.py` rotates all vectors to their principal axes, which costs an eigenproblem of D x D and
two copies. Here the vectors stay as stored, in float16 or in a file, and are read in blocks. L-BFGS
optimises U with W = U P; P scales approximately as there along the principal axes of a sample of
the vectors, and all other directions equally. The minimum stays the same: with 256 axes, 30
iterations come within 4e-4 of the objective's minimum for D = 9,216.

Shapes:  N vectors as stored, D their size; n of them for training; B of a block; r axes; K classes.
         weights are (K, D + 1): W, and b in the last column.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from selftaught.evaluation.protocols.linear import (
    STRENGTHS,
    Fold,
    held_out_masks,
    inverse_deviation,
    lowest_loss,
    orthonormal_axes,
)
from selftaught.foundation.rng import Key, permutation

_STRENGTHS = (10.0, *STRENGTHS)
_SAMPLE, _AXES = 2_000, 256  # vectors in the sample, and axes taken from it
_MANY = 1_000  # from this many training images on, only one fold is held out
_BLOCK = 2**22  # float32 numbers at a time
_ITERATIONS, _HISTORY = 30, 10


@dataclass(frozen=True)
class StoredVectors:
    """Vectors as stored, with the training rows and labels.

    Attributes:
        x_ND: In memory or in a file, float16 or float32.
        train_n: (n,) int64: the training rows.
        labels_n: (n,) int64: their classes, 0 .. K-1, on the device that computes.
        classes: K.
        seed: Seed of the sample and of the held-out images.
    """

    x_ND: Tensor
    train_n: NDArray[np.int64]
    labels_n: Tensor
    classes: int
    seed: int = 0

    @property
    def device(self) -> torch.device:
        """The device that computes."""
        return self.labels_n.device

    @cached_property
    def scale(self) -> tuple[Tensor, Tensor]:
        """Mean and inverse deviation of the training vectors, (D,) each, in one pass."""
        sums = torch.zeros(2, self.x_ND.shape[1], dtype=torch.float64, device=self.device)
        for _, x_BD in self.blocks(self.train_n):
            sums += torch.stack([x_BD.sum(dim=0), x_BD.square().sum(dim=0)])
        mean_D, square_D = sums / len(self.train_n)
        deviation_D = (square_D - mean_D.square()).clamp(min=0).sqrt()
        return mean_D.float(), inverse_deviation(mean_D, deviation_D).float()

    @cached_property
    def axes(self) -> tuple[Tensor, Tensor, float]:
        """Variances (r,) and axes (D, r) of a sample, and its mean variance along other axes."""
        mean_D, inverse_D = self.scale
        chosen = permutation(Key(self.seed, "evaluation/axes"), len(self.train_n))[:_SAMPLE]
        x_nD = self.x_ND[self.train_n[np.sort(chosen)]].to(self.device).float()
        variance, axes_Dr = orthonormal_axes((x_nD - mean_D) * inverse_D)
        others = axes_Dr.shape[0] - len(variance[-_AXES:])
        rest = variance[:-_AXES].sum().item() / max(1, others)
        return variance[-_AXES:], axes_Dr[:, -_AXES:], rest

    def blocks(self, rows: NDArray[np.int64]) -> Iterator[tuple[slice, Tensor]]:
        """The position of each block among the rows, and its vectors (B, D) in float32."""
        size = max(1, _BLOCK // self.x_ND.shape[1])
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            yield part, self.x_ND[rows[part]].to(self.device).float()

    def logits(self, weights: Tensor, x_BD: Tensor) -> Tensor:
        """W x + b of vectors as stored, (K, B): the standardisation is part of W."""
        mean_D, inverse_D = self.scale
        plain_KD = weights[:, :-1] * inverse_D
        return torch.addmm(weights[:, -1:] - plain_KD @ mean_D[:, None], plain_KD, x_BD.T)


def streamed_probabilities(
    stored: StoredVectors, test_M: NDArray[np.int64]
) -> tuple[Tensor, float]:
    """Probabilities of the test vectors, (M, K), and the chosen strength lambda."""
    everything = np.arange(len(stored.train_n))
    masks = held_out_masks(stored.labels_n, stored.seed, many=_MANY)
    folds = [_fold_without(stored, held.cpu().numpy()) for held in masks]
    strength, start = lowest_loss(folds, _STRENGTHS, zero_streamed_weights(stored))
    weights = fit_streamed(stored, everything, start, strength=strength)
    logits = [stored.logits(weights, x_BD) for _, x_BD in stored.blocks(test_M)]
    return torch.cat(logits, dim=1).softmax(dim=0).T, strength


def zero_streamed_weights(stored: StoredVectors) -> Tensor:
    """W = 0 and b = 0."""
    return torch.zeros(stored.classes, stored.x_ND.shape[1] + 1, device=stored.device)


def fit_streamed(
    stored: StoredVectors, positions: NDArray[np.int64], start: Tensor, *, strength: float
) -> Tensor:
    """The weights at the minimum over some training positions, searched from a start."""
    preconditioner = Preconditioner.of(stored, strength)
    u = preconditioner.undo(start).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [u],
        max_iter=_ITERATIONS,
        tolerance_grad=1e-5,
        tolerance_change=1e-7,
        history_size=_HISTORY,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        weights = preconditioner.apply(u.detach())
        loss, gradient = streamed_loss(stored, positions, weights)
        gradient[:, :-1] += strength * weights[:, :-1]
        u.grad = preconditioner.apply(gradient)
        return loss + strength / 2 * weights[:, :-1].square().sum()

    optimizer.step(objective)  # type: ignore[no-untyped-call]
    return preconditioner.apply(u.detach())


def streamed_loss(
    stored: StoredVectors, positions: NDArray[np.int64], weights: Tensor
) -> tuple[Tensor, Tensor]:
    """The mean cross-entropy of training vectors, and its gradient (K, D + 1), in one pass."""
    mean_D, inverse_D = stored.scale
    labels = stored.labels_n[torch.from_numpy(positions).to(stored.device)]
    slope_KD, slope_K1 = torch.zeros_like(weights[:, :-1]), torch.zeros_like(weights[:, -1:])
    loss = weights.new_zeros(())
    for part, x_BD in stored.blocks(stored.train_n[positions]):
        logits_KB, labels_1B = stored.logits(weights, x_BD), labels[None, part]
        loss += F.cross_entropy(logits_KB.T, labels_1B[0], reduction="sum")
        wrong_KB = logits_KB.softmax(dim=0)
        wrong_KB.scatter_add_(0, labels_1B, wrong_KB.new_full(labels_1B.shape, -1.0))
        slope_KD += wrong_KB @ x_BD
        slope_K1 += wrong_KB.sum(dim=1, keepdim=True)
    standard_KD = (slope_KD - slope_K1 * mean_D) * inverse_D
    return loss / len(positions), torch.cat([standard_KD, slope_K1], dim=1) / len(positions)


@dataclass(frozen=True)
class Preconditioner:
    """P, symmetric: multiplies by scale_r along the axes and by `rest` across them; b stays.

    Attributes:
        axes_Dr: Orthonormal axes.
        scale_r: Approximate inverse root of the curvature along each axis.
        rest: The same for all other directions.
    """

    axes_Dr: Tensor
    scale_r: Tensor
    rest: float

    @classmethod
    def of(cls, stored: StoredVectors, strength: float) -> "Preconditioner":
        """(c sigma^2 + lambda)^(-1/2), as in `linear.scales`."""
        variance_r, axes_Dr, rest = stored.axes
        share = 1 / stored.classes
        curvature = share * (1 - share)
        scale_r = (curvature * variance_r + strength).rsqrt()
        return cls(axes_Dr, scale_r, (curvature * rest + strength) ** -0.5)

    def apply(self, u: Tensor) -> Tensor:
        """U P."""
        return self._scaled(u, self.scale_r, self.rest)

    def undo(self, weights: Tensor) -> Tensor:
        """W P^(-1)."""
        return self._scaled(weights, 1 / self.scale_r, 1 / self.rest)

    def _scaled(self, u: Tensor, scale_r: Tensor, rest: float) -> Tensor:
        along_Kr = u[:, :-1] @ self.axes_Dr
        scaled_KD = rest * u[:, :-1] + (along_Kr * (scale_r - rest)) @ self.axes_Dr.T
        return torch.cat([scaled_KD, u[:, -1:]], dim=1)


def _fold_without(stored: StoredVectors, held_n: NDArray[np.bool_]) -> Fold:
    """A function that fits without the held-out images and returns their cross-entropy."""
    held, others = np.flatnonzero(held_n), np.flatnonzero(~held_n)

    def fit(strength: float, start: Tensor) -> tuple[Tensor, float]:
        weights = fit_streamed(stored, others, start, strength=strength)
        return weights, streamed_loss(stored, held, weights)[0].item()

    return fit
