"""Maximum margin clustering: the two clusters that a support vector machine could tell apart best.

Xu, Neufeld, Larson, Schuurmans, "Maximum margin clustering", NIPS 17, 2004: of all labels y, not
only of all hyperplanes, take those with the widest soft margin,

    min_y min_{w, b, xi}  1/2 |w|^2 + C sum_i xi_i
    where  y_i (w . phi(x_i) + b) >= 1 - xi_i,  xi_i >= 0,  y_i = -1 or 1,  -l <= sum_i y_i <= l

Without the balance l the best labels would be all alike. The paper relaxes y y^T to a semidefinite
program, for which no solver is among our requirements, so it is not here. What is here alternates,
after Zhang, Tsang, Kwok, "Maximum margin clustering made practical", ICML 2007: given y, fit; given
w, the best y and b. With the hinge loss it stands still at once, for the machine believes every
label that it was given. So the fit is a support vector regression on y (loss |y_i - f(x_i)|),
which also punishes labels that are kept too well.

Starts are k-means' clusters, principal directions in the kernel's space and random ones; of the
ends the one with the least objective, that of Xu et al. above, is returned.

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
_MOST = 5_000  # vectors: the kernel matrix takes 200 MB
_TIE = 1e-9  # of the objective


@dataclass(frozen=True)
class Margin:
    """The two clusters.

    Attributes:
        labels_N: 0 or 1, int64; the first vector is in cluster 0.
        objective: 1/2 |w|^2 + C sum xi of the support vector machine with these labels.
        rounds: Of fit and labels, from the start that won.
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
    """Cut vectors into the two clusters with the widest soft margin between them.

    For small data: time grows with N^2 to N^3.

    Args:
        x_ND: Finite vectors, 2 to 5,000.
        seed: Keys all random choices.
        balance: l / N, 0 to below 1: how far sizes may differ, |N_1 - N_0| <= l. (Of an odd N, by
            1 at least.)
        C: What a vector inside the margin costs.
        kernel: "linear", or "rbf": exp(-gamma |x - y|^2).
        gamma: For "rbf"; by default 1 over the median of the squared distances.
        starts: One from k-means, the others from directions.
        rounds: At most, from each start.

    Raises:
        UserError: The shape is wrong, values are not finite, or arguments are out of range.
    """
    x_ND = torch.as_tensor(x_ND).detach().cpu().double()
    _check(x_ND, balance, C, kernel, gamma, starts, rounds)
    K_NN, most = gram(x_ND, kernel, gamma), _most(balance, len(x_ND))
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
        raise UserError(f"vectors of shape {tuple(x_ND.shape)}", "give one row a vector, (N, D)")
    check_many(len(x_ND))
    if not x_ND.isfinite().all():
        raise UserError("the vectors hold values that are not finite", "leave those rows out")
    if kernel not in ("linear", "rbf"):
        raise UserError(f"kernel {kernel!r}", "choose linear or rbf")
    if not (0 <= balance < 1 and 0 < C < np.inf and (gamma is None or 0 < gamma < np.inf)):
        found = f"balance {balance}, C {C}, gamma {gamma}"
        raise UserError(found, "give a balance from 0 to below 1, and the others above 0")
    if starts < 1 or rounds < 1:
        raise UserError(f"{starts} starts, {rounds} rounds", "give at least 1 of each")


def check_many(N: int) -> None:
    """Whether so many vectors can be clustered.

    Raises:
        UserError: They are too many, or less than two.
    """
    if not 2 <= N <= _MOST:
        raise UserError(f"{N:,} vectors for maximum margin", f"give 2 to {_MOST:,}")


def _most(balance: float, N: int) -> int:
    """l as a whole number: as odd or even as N, so that it can be reached; each side has one."""
    most = int(balance * N + 1e-9)
    most -= (most - N) % 2
    return min(max(most, N % 2), N - 2)


def gram(x_ND: Tensor, kernel: Kernel, gamma: float | None) -> NDArray[np.float64]:
    """The kernel of all pairs, (N, N); vectors are centred first, which changes no hyperplane."""
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
    """Labels to begin with: k-means', made balanced, and both sides of directions at their median.

    Directions are the principal ones of the kernel, and every other one is random.
    """
    c_2D = kmeans(x_ND, 2, seed=seed, start="k-means++", restarts=5).centroids_KD
    nearer_N = (torch.cdist(x_ND, c_2D[:1]) - torch.cdist(x_ND, c_2D[1:]))[:, 0]
    yield _balanced(nearer_N.numpy(), 0.0, most)
    principal = iter(_principal(K_NN, starts // 2))
    for start in range(1, starts):
        along_N = next(principal, None) if start % 2 else None
        if along_N is None:
            weight_N = uniform(Key(seed, "max_margin/start", start), np.arange(len(x_ND)), 1)[:, 0]
            along_N = K_NN @ (weight_N - weight_N.mean())
        yield _balanced(along_N, float(np.median(along_N)), most)


def _principal(K_NN: NDArray[np.float64], many: int) -> list[NDArray[np.float64]]:
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
    """Fit and label in turns until labels stay or come back; the last ones, and how many rounds."""
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
    """Labels by the side of the b with the least sum_i |y_i - (w_i + b)|, of balanced ones.

    Candidates are cuts halfway between neighbours in the order of w . phi(x).
    """
    N, order_N = len(w_N), np.argsort(w_N, kind="stable")
    sorted_N = w_N[order_N]
    cuts = np.arange((N - most) // 2, (N + most) // 2 + 1)  # so many vectors below
    losses = [np.abs(np.abs(w_N - _at(sorted_N, int(cut))) - 1).sum() for cut in cuts]
    y_N = np.ones(N, np.int64)
    y_N[order_N[: cuts[int(np.argmin(losses))]]] = -1
    return y_N


def _at(sorted_N: NDArray[np.float64], cut: int) -> float:
    return float(sorted_N[cut - 1] + sorted_N[cut]) / 2


def _balanced(w_N: NDArray[np.float64], at: float, most: int) -> NDArray[np.int64]:
    """-1 below, 1 above, moved as little as balance asks for."""
    N = len(w_N)
    below = int(np.clip((w_N < at).sum(), (N - most) // 2, (N + most) // 2))
    y_N = np.ones(N, np.int64)
    y_N[np.argsort(w_N, kind="stable")[:below]] = -1
    return y_N
