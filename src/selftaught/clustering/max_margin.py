"""Maximum margin clustering: the two clusters that a support vector machine can separate best.

Xu, Neufeld, Larson, Schuurmans, "Maximum margin clustering", NIPS 17, 2004: among all labels y, not
only among all hyperplanes, find those with the widest soft margin,

    min_y min_{w, b, xi}  1/2 |w|^2 + C sum_i xi_i
    where  y_i (w . phi(x_i) + b) >= 1 - xi_i,  xi_i >= 0,  y_i = -1 or 1,  -l <= sum_i y_i <= l

Without the balance l the best labels would all be equal. The paper relaxes y y^T to a semidefinite
program, which needs a solver that we do not require. This code alternates instead, after Zhang,
Tsang, Kwok, "Maximum margin clustering made practical", ICML 2007: given y, fit; given w, find the
best y and b. With the hinge loss this would stop at once, because the machine reproduces every
label that it is given. So the fit is a support vector regression on y (loss |y_i - f(x_i)|), which
also penalises vectors far beyond the margin.

The starts are k-means' clusters, principal directions in the kernel's space, and random directions;
the result is the end with the least objective of Xu et al. above.

Shapes:  N vectors, D their size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selftaught.clustering.kmeans import kmeans
from selftaught.errors import UserError
from selftaught.foundation.rng import Key, uniform

Kernel = Literal["linear", "rbf"]
_MOST = 5_000  # vectors: their kernel matrix has 200 MB
_TIE = 1e-9  # objectives within this share are equal


@dataclass(frozen=True)
class Margin:
    """The two clusters.

    Attributes:
        labels_N: 0 or 1, int64; the first vector is in cluster 0.
        objective: 1/2 |w|^2 + C sum xi of the support vector machine with these labels.
        rounds: Number of rounds (fit and labels) from the best start.
    """

    labels_N: Tensor
    objective: float
    rounds: int


@torch.no_grad()
def max_margin(
    x_ND: Tensor | NDArray[Any],
    *,
    seed: int,
    balance: float = 0.1,
    C: float = 1.0,
    kernel: Kernel = "linear",
    gamma: float | None = None,
    starts: int = 10,
    rounds: int = 50,
) -> Margin:
    """Split vectors into the two clusters with the widest soft margin between them.

    For small data: time grows with N^2 to N^3.

    Args:
        x_ND: Finite vectors, 2 to 5,000.
        seed: Keys all random choices.
        balance: l / N, 0 to below 1: the sizes may differ by |N_1 - N_0| <= l (by at least 1 if N
            is odd).
        C: The cost of a vector inside the margin.
        kernel: "linear", or "rbf": exp(-gamma |x - y|^2).
        gamma: For "rbf"; by default 1 over the median of the squared distances.
        starts: Number of starts: one from k-means, the others from directions.
        rounds: Maximum number of rounds from each start.

    Raises:
        UserError: The shape is wrong, values are not finite, or arguments are out of range.
    """
    x_ND = torch.as_tensor(x_ND).detach().cpu().double()
    _check(x_ND, balance, C, kernel, gamma, starts, rounds)
    K_NN, most = gram(x_ND, kernel, gamma), _size_difference(balance, len(x_ND))
    ends = [
        _alternate(K_NN, y_N, most, C, rounds) for y_N in _starts(x_ND, K_NN, most, seed, starts)
    ]
    found = [(objective(K_NN, y_N, C), used, y_N) for y_N, used in ends]
    least = min(value for value, _, _ in found)
    value, used, y_N = next(f for f in found if f[0] <= least * (1 + _TIE))
    return Margin(torch.from_numpy((y_N != y_N[0]).astype(np.int64)), value, used)


def _check(
    x_ND: Tensor,
    balance: float,
    C: float,
    kernel: str,
    gamma: float | None,
    starts: int,
    rounds: int,
) -> None:
    if x_ND.ndim != 2 or 0 in x_ND.shape:
        raise UserError(f"vectors have shape {tuple(x_ND.shape)}", "pass one row per vector (N, D)")
    check_vector_count(len(x_ND))
    if not x_ND.isfinite().all():
        raise UserError("some vectors are not finite", "remove those rows")
    if kernel not in ("linear", "rbf"):
        raise UserError(f"kernel {kernel!r} is unknown", "choose linear or rbf")
    if not (0 <= balance < 1 and 0 < C < np.inf and (gamma is None or 0 < gamma < np.inf)):
        what = f"balance {balance}, C {C} or gamma {gamma} is out of range"
        raise UserError(what, "use a balance from 0 to below 1, and the others above 0")
    if starts < 1 or rounds < 1:
        raise UserError(
            f"{starts} starts and {rounds} rounds are too few", "use at least 1 of each"
        )


def check_vector_count(N: int) -> None:
    """Check that maximum margin can cluster this many vectors.

    Raises:
        UserError: They are too many, or fewer than two.
    """
    if not 2 <= N <= _MOST:
        raise UserError(f"maximum margin cannot cluster {N:,} vectors", f"use 2 to {_MOST:,}")


def _size_difference(balance: float, N: int) -> int:
    """l as a whole number with the parity of N, so that it is attainable; no side is empty."""
    most = int(balance * N + 1e-9)
    most -= (most - N) % 2
    return min(max(most, N % 2), N - 2)


def gram(x_ND: Tensor, kernel: Kernel, gamma: float | None) -> NDArray[np.float64]:
    """The kernel of all pairs, (N, N), of centred vectors, which does not change the clusters."""
    x_ND = x_ND - x_ND.mean(0)
    product_NN: NDArray[np.float64] = (x_ND @ x_ND.T).numpy()
    if kernel == "linear":
        return product_NN
    square_N = product_NN.diagonal()
    far_NN = np.maximum(square_N[:, None] + square_N - 2 * product_NN, 0)
    np.fill_diagonal(far_NN, 0)
    if gamma is None:
        middle = float(np.median(far_NN[np.triu_indices(len(far_NN), 1)]))
        gamma = 1 / middle if middle > 0 else 1.0
    kernel_NN: NDArray[np.float64] = np.exp(-gamma * far_NN)
    return kernel_NN


def objective(K_NN: NDArray[np.float64], y_N: NDArray[np.int64], C: float) -> float:
    """min over w, b, xi of 1/2 |w|^2 + C sum xi, for labels of -1 and 1, both in use."""
    from sklearn.svm import SVC

    machine = SVC(C=C, kernel="precomputed", tol=1e-5).fit(K_NN, y_N)
    alpha_S, rows_S = machine.dual_coef_[0], machine.support_
    norm = alpha_S @ K_NN[np.ix_(rows_S, rows_S)] @ alpha_S
    slack_N = np.maximum(0, 1 - y_N * machine.decision_function(K_NN))
    return float(norm / 2 + C * slack_N.sum())


def _starts(
    x_ND: Tensor, K_NN: NDArray[np.float64], most: int, seed: int, starts: int
) -> Iterator[NDArray[np.int64]]:
    """Initial labels: k-means', balanced, and the two sides of the median along directions.

    The directions are alternately a principal one of the kernel and a random one.
    """
    c_2D = kmeans(x_ND, 2, seed=seed, start="k-means++", restarts=5).centroids_KD
    nearer_N = (torch.cdist(x_ND, c_2D[:1]) - torch.cdist(x_ND, c_2D[1:]))[:, 0]
    yield _balanced_labels(nearer_N.numpy(), 0.0, most)
    principal = iter(_principal_components(K_NN, starts // 2))
    for start in range(1, starts):
        along_N = next(principal, None) if start % 2 else None
        if along_N is None:
            weight_N = uniform(Key(seed, "max_margin/start", start), np.arange(len(x_ND)), 1)[:, 0]
            along_N = K_NN @ (weight_N - weight_N.mean())
        yield _balanced_labels(along_N, float(np.median(along_N)), most)


def _principal_components(K_NN: NDArray[np.float64], many: int) -> list[NDArray[np.float64]]:
    """The first principal components of the vectors in the kernel's space, (N,) each."""
    from scipy.linalg import eigh

    N, many = len(K_NN), min(many, len(K_NN))
    if not many:
        return []
    mean_N = K_NN.mean(0)
    centred_NN = K_NN - mean_N - mean_N[:, None] + mean_N.mean()
    return list(eigh(centred_NN, subset_by_index=(N - many, N - 1))[1].T[::-1])


def _alternate(
    K_NN: NDArray[np.float64], y_N: NDArray[np.int64], most: int, C: float, rounds: int
) -> tuple[NDArray[np.int64], int]:
    """Alternate fit and labels until labels repeat; returns the last labels and the rounds used."""
    from sklearn.svm import SVR

    seen, used = {y_N.tobytes()}, 0
    while used < rounds:
        machine = SVR(C=C, epsilon=0.0, kernel="precomputed", tol=1e-4).fit(K_NN, y_N)
        w_N = machine.predict(K_NN) - machine.intercept_[0]
        y_N, used = _best_cut(w_N, most), used + 1
        if y_N.tobytes() in seen:
            break
        seen.add(y_N.tobytes())
    return y_N, used


def _best_cut(w_N: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """Balanced labels by the b with the least sum_i |y_i - (w_i + b)|.

    The candidates are cuts halfway between neighbours in the order of w . phi(x).
    """
    N, order_N = len(w_N), np.argsort(w_N, kind="stable")
    sorted_N = w_N[order_N]
    cuts = np.arange((N - most) // 2, (N + most) // 2 + 1)  # number of vectors below the cut
    losses = [np.abs(np.abs(w_N - _cut_value(sorted_N, int(cut))) - 1).sum() for cut in cuts]
    y_N = np.ones(N, np.int64)
    y_N[order_N[: cuts[int(np.argmin(losses))]]] = -1
    return y_N


def _cut_value(sorted_N: NDArray[np.float64], cut: int) -> float:
    return float(sorted_N[cut - 1] + sorted_N[cut]) / 2


def _balanced_labels(w_N: NDArray[np.float64], at: float, most: int) -> NDArray[np.int64]:
    """-1 below `at` and 1 above, with the fewest changes that balance needs."""
    N = len(w_N)
    below = int(np.clip((w_N < at).sum(), (N - most) // 2, (N + most) // 2))
    y_N = np.ones(N, np.int64)
    y_N[np.argsort(w_N, kind="stable")[:below]] = -1
    return y_N
