"""Ridge regression on frozen vectors: how well a linear map predicts a number.

    min_{w, b}  1/n sum_i (y_i - w x_i - b)^2 + lambda |w|^2       x standardised

On the principal axes z of the vectors it is solved per axis (Hoerl, Kennard 1970),

    w_j = (sum_i z_ij y_i / n) / (sigma_j^2 + lambda)

and so are all n fits that leave one image out: that image's error is (y_i - w z_i - b) / (1 - h_i),
h_i = 1/n + sum_j z_ij^2 / n (sigma_j^2 + lambda) (Allen 1974, PRESS). lambda is the one with the
lowest mean square of these errors; the test images are used once, at the end.

Shapes:  n training vectors, M test vectors, D their size; r axes; L strengths lambda.
"""

from functools import partial

import torch
from torch import Tensor

from selftaught.evaluation.metrics import mean_absolute_error, r_squared
from selftaught.evaluation.protocols.linear import Axes, inverse_deviation
from selftaught.evaluation.representation import Representation
from selftaught.evaluation.trial import ProtocolAnswer, Trial

STRENGTHS = tuple(10.0 ** (exponent / 2) for exponent in range(2, -15, -1))
"""lambda as a share of the vectors' total variance, the strongest first: 10 to 1e-7."""

_NO_VARIANCE = 1e-10  # share of the largest axis' variance: rounding


def regression(subject: Representation, trial: Trial) -> ProtocolAnswer:
    """Ridge regression of the targets; its strength is chosen by leaving each image out in turn."""
    x_ND = torch.from_numpy(subject.vectors(trial.images))
    train, test = torch.from_numpy(trial.train), torch.from_numpy(trial.test)
    predicted_M, _ = ridge_predictions(
        x_ND[train].to(trial.machine.device),
        torch.from_numpy(trial.labels).to(trial.machine.device),
        x_ND[test].to(trial.machine.device),
    )
    predicted = predicted_M.cpu().numpy()
    figures = {
        "R2": partial(r_squared, predicted),
        "mean absolute error": partial(mean_absolute_error, predicted),
    }
    return ProtocolAnswer(trial.test, figures)


def ridge_predictions(train_nD: Tensor, targets_n: Tensor, test_MD: Tensor) -> tuple[Tensor, float]:
    """Predictions for the test vectors, (M,) float64, and the chosen lambda."""
    axes = ridge_axes(train_nD.double())
    z_nr, mean = axes.project(train_nD.double()), targets_n.double().mean()
    y_n = targets_n.double() - mean
    strengths_L = axes.variance_r.sum() * axes.variance_r.new_tensor(STRENGTHS)
    errors_L = left_out_errors(z_nr, axes.variance_r, y_n, strengths_L)
    strength = strengths_L[errors_L.argmin()]
    w_r = z_nr.T @ y_n / len(y_n) / (axes.variance_r + strength)
    return axes.project(test_MD.double()) @ w_r + mean, strength.item()


def left_out_errors(z_nr: Tensor, variance_r: Tensor, y_n: Tensor, strengths_L: Tensor) -> Tensor:
    """Mean squared leave-one-out error for each strength, (L,).

    Args:
        z_nr: The vectors along their axes; means are 0.
        variance_r: Variance along each axis.
        y_n: Targets of mean 0.
        strengths_L: lambda.
    """
    n = len(y_n)
    inverse_rL = 1 / (variance_r[:, None] + strengths_L)
    predicted_nL = z_nr @ ((z_nr.T @ y_n / n)[:, None] * inverse_rL)
    leverage_nL = 1 / n + z_nr.square() @ inverse_rL / n
    return ((y_n[:, None] - predicted_nL) / (1 - leverage_nL)).square().mean(dim=0)


def ridge_axes(x_nD: Tensor) -> Axes:
    """All axes along which standardised float64 vectors vary, at most min(n, D).

    Unlike those of `linear` they are as exact as float64 allows, because a closed form cannot
    correct rounding in later iterations.
    """
    mean_D = x_nD.mean(dim=0)
    inverse_D = inverse_deviation(mean_D, (x_nD - mean_D).square().mean(dim=0).sqrt())
    s_nD = (x_nD - mean_D) * inverse_D
    wide = len(s_nD) < s_nD.shape[1]
    variance_r, vectors = torch.linalg.eigh((s_nD @ s_nD.T if wide else s_nD.T @ s_nD) / len(s_nD))
    kept = variance_r > _NO_VARIANCE * variance_r[-1].clamp(min=1e-12)
    variance_r, axes_Dr = variance_r[kept], vectors[:, kept]
    if wide:
        axes_Dr = s_nD.T @ (axes_Dr / (variance_r * len(s_nD)).sqrt())
    return Axes(mean_D, inverse_D[:, None] * axes_Dr, variance_r)
