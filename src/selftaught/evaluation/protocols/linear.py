"""Logistic regression on frozen vectors: how well a linear map predicts the classes.

    min_{W, b}  1/n sum_i CE(W x_i + b, y_i) + lambda/2 |W|^2      x standardised

It is solved by L-BFGS in the basis of the principal axes, each scaled by the inverse root of the
curvature along it at W = 0, (sigma_j^2 / K + lambda)^(-1/2), and b by K^(1/2). The Hessian at W = 0
is then the identity (for weights whose sum over classes is 0, like every gradient's). The minimum
stays the same and needs 15 to 30 iterations; on plain features 100 are too few. lambda is the one
with the lowest cross-entropy on held-out training images; the test images are used once, at the
end.

Shapes:  n training vectors, M test vectors, D their size; r axes; K classes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from selftaught.evaluation.representation import Representation
from selftaught.evaluation.trial import ProtocolAnswer, Trial, classification_answer
from selftaught.foundation.rng import Key, permutation

STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""lambda, the strongest first: each fit starts from the previous one."""
Fold = Callable[[float, Tensor], tuple[Tensor, float]]
"""From lambda and a start to the minimum without held-out images, and their cross-entropy."""

_FOLDS = 5
_MANY = 5_000  # from this many training images on, only one fold is held out
_ITERATIONS = 60


def linear(subject: Representation, trial: Trial) -> ProtocolAnswer:
    """Multinomial logistic regression; its strength is chosen on held-out training images."""
    x_ND = torch.from_numpy(subject.vectors(trial.images))
    train, test = torch.from_numpy(trial.train), torch.from_numpy(trial.test)
    probabilities_MK, _ = logistic_probabilities(
        x_ND[train].to(trial.machine.device),
        torch.from_numpy(trial.labels).to(trial.machine.device),
        x_ND[test].to(trial.machine.device),
        classes=trial.classes,
        seed=trial.seed,
    )
    return classification_answer(trial, probabilities_MK.cpu().numpy())


def logistic_probabilities(
    train_nD: Tensor, labels_n: Tensor, test_MD: Tensor, *, classes: int, seed: int = 0
) -> tuple[Tensor, float]:
    """Probabilities of the test vectors, (M, K), and the chosen strength lambda."""
    axes = principal_axes(train_nD)
    z_nr = axes.project(train_nD)
    weights, strength = best_fit(z_nr, labels_n, axes.variance_r, classes=classes, seed=seed)
    return logits(weights, axes.project(test_MD)).softmax(dim=0).T, strength


def best_fit(
    z_nr: Tensor, labels_n: Tensor, variance_r: Tensor, *, classes: int, seed: int = 0
) -> tuple[Tensor, float]:
    """Weights (K, r + 1) on all vectors, and the lambda chosen on held-out ones."""
    strength, start = choose_strength(z_nr, labels_n, variance_r, classes=classes, seed=seed)
    return fit_logistic(z_nr, labels_n, variance_r, start, strength=strength), strength


@dataclass(frozen=True)
class Axes:
    """Standardisation and principal axes of training vectors.

    Attributes:
        mean_D: Mean of the training vectors.
        map_Dr: Standardises and rotates at once: z = (x - mean) map.
        variance_r: Variance of the standardised training vectors along each axis.
    """

    mean_D: Tensor
    map_Dr: Tensor
    variance_r: Tensor

    def project(self, x_ND: Tensor) -> Tensor:
        """z, (N, r)."""
        return (x_ND - self.mean_D) @ self.map_Dr


def principal_axes(x_nD: Tensor) -> Axes:
    """The axes along which standardised vectors vary, at most min(n, D).

    They span every vector, so a penalised fit loses nothing on them.
    """
    mean_D = x_nD.mean(dim=0)
    inverse_D = inverse_deviation(mean_D, (x_nD - mean_D).square().mean(dim=0).sqrt())
    variance_r, axes_Dr = orthonormal_axes((x_nD - mean_D) * inverse_D)
    return Axes(mean_D, inverse_D[:, None] * axes_Dr, variance_r)


def inverse_deviation(mean_D: Tensor, deviation_D: Tensor) -> Tensor:
    """1 / deviation, and 0 for numbers that hardly vary, such as a dead unit's."""
    varies_D = deviation_D > 1e-5 * mean_D.abs() + 1e-12
    return torch.where(varies_D, 1 / deviation_D.clamp(min=1e-12), 0)


def orthonormal_axes(s_nD: Tensor) -> tuple[Tensor, Tensor]:
    """Variances (r,) of standardised vectors along their axes (D, r), the largest last."""
    wide = len(s_nD) < s_nD.shape[1]
    gram = (s_nD @ s_nD.T if wide else s_nD.T @ s_nD) / len(s_nD)
    # Axes found in float32 are orthonormal too; those of a wide matrix derive from its gram's.
    variance, vectors = torch.linalg.eigh(gram.double() if wide else gram)
    kept = variance > 1e-6 * variance[-1].clamp(min=1e-12)
    variance, vectors = variance[kept].float(), vectors[:, kept].float()
    if wide:
        vectors = s_nD.T @ (vectors / (variance * len(s_nD)).sqrt())
    return variance, vectors


def zero_weights(z_nr: Tensor, classes: int) -> Tensor:
    """(K, r + 1): W, and b in the last column."""
    return z_nr.new_zeros(classes, z_nr.shape[1] + 1)


def logits(weights: Tensor, z_nr: Tensor) -> Tensor:
    """W z + b, (K, n): with few classes twice as fast as (n, K)."""
    return torch.addmm(weights[:, -1:], weights[:, :-1], z_nr.T)


def cross_entropy(weights: Tensor, z_nr: Tensor, labels_n: Tensor) -> Tensor:
    """Mean cross-entropy of the n vectors."""
    return F.cross_entropy(logits(weights, z_nr).T, labels_n)


def logistic_loss(weights: Tensor, z_nr: Tensor, labels_n: Tensor) -> tuple[Tensor, Tensor]:
    """The mean cross-entropy, and its gradient (K, r + 1), faster than autograd's."""
    logs_Kn, labels_1n = logits(weights, z_nr).log_softmax(dim=0), labels_n[None]
    loss = -logs_Kn.gather(0, labels_1n).mean()
    wrong_Kn = logs_Kn.exp_()
    wrong_Kn.scatter_add_(0, labels_1n, wrong_Kn.new_full((1, 1), -1.0).expand_as(labels_1n))
    slope_Kr, slope_K1 = wrong_Kn @ z_nr, wrong_Kn.sum(dim=1, keepdim=True)
    return loss, torch.cat([slope_Kr, slope_K1], dim=1) / len(labels_n)


def scales(variance_r: Tensor, classes: int, strength: float) -> Tensor:
    """The inverse root of the curvature at W = 0 along each axis, and of b: (r + 1,)."""
    scale_r = (variance_r / classes + strength).rsqrt()
    return torch.cat([scale_r, scale_r.new_full((1,), classes**0.5)])


def fit_logistic(
    z_nr: Tensor, labels_n: Tensor, variance_r: Tensor, start: Tensor, *, strength: float
) -> Tensor:
    """The weights (K, r + 1) at the minimum, searched from a start."""
    scale = scales(variance_r, len(start), strength)
    scaled = (start / scale).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [scaled],
        max_iter=_ITERATIONS,
        tolerance_grad=1e-5,
        tolerance_change=1e-8,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        weights = scaled.detach() * scale
        loss, gradient = logistic_loss(weights, z_nr, labels_n)
        gradient[:, :-1] += strength * weights[:, :-1]
        scaled.grad = gradient * scale
        return loss + strength / 2 * weights[:, :-1].square().sum()

    optimizer.step(objective)  # type: ignore[no-untyped-call]
    return scaled.detach() * scale


def choose_strength(
    z_nr: Tensor, labels_n: Tensor, variance_r: Tensor, *, classes: int, seed: int
) -> tuple[float, Tensor]:
    """The lambda of the lowest held-out cross-entropy, and a start near its minimum."""

    def fold_without(held: Tensor) -> Fold:
        z, labels = z_nr[~held], labels_n[~held]
        z_held, labels_held = z_nr[held], labels_n[held]

        def fit(strength: float, start: Tensor) -> tuple[Tensor, float]:
            weights = fit_logistic(z, labels, variance_r, start, strength=strength)
            return weights, cross_entropy(weights, z_held, labels_held).item()

        return fit

    folds = [fold_without(held) for held in held_out_masks(labels_n, seed)]
    return lowest_loss(folds, STRENGTHS, zero_weights(z_nr, classes))


def lowest_loss(
    folds: Sequence[Fold], strengths: Sequence[float], start: Tensor
) -> tuple[float, Tensor]:
    """The lambda of the lowest sum over folds, and the mean of its weights.

    Weaker ones are not tried once the sum rises.
    """
    weights = [start] * len(folds)
    best, lowest = (strengths[0], start), float("inf")
    for strength in strengths:
        loss = 0.0
        for i, fold in enumerate(folds):
            weights[i], loss_held = fold(strength, weights[i])
            loss += loss_held
        if loss > lowest:
            break
        best, lowest = (strength, torch.stack(weights).mean(dim=0)), loss
    return best


def held_out_masks(labels_n: Tensor, seed: int, *, many: int = _MANY) -> Iterator[Tensor]:
    """Masks of the fifths of the images to hold out in turn, a fifth of each class.

    With many images only the first fifth is held out.
    """
    labels = labels_n.cpu().numpy()
    shuffled = permutation(Key(seed, "evaluation/held-out"), len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    fold_n: NDArray[np.int64] = np.empty(len(labels), np.int64)
    fold_n[by_class] = np.arange(len(labels)) % _FOLDS
    for fold in range(1 if len(labels) >= many else min(_FOLDS, len(labels))):
        yield torch.from_numpy(fold_n == fold).to(labels_n.device)
