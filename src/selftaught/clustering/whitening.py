"""PCA with whitening, then unit length: DeepCluster's preprocessing of features before k-means.

Caron, Bojanowski, Joulin, Douze, "Deep clustering for unsupervised learning of visual features",
ECCV 2018, section 3.3: "PCA-reduced to 256 dimensions, whitened and l2-normalized". The covariance
is exact, from all rows, in float64 and in blocks, so that x may be larger than memory.

Shapes:  N rows, n of them in a block, D their size; P = min(size, D, N - 1), but 1 at least.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from selftaught.errors import FileError, UserError
from selftaught.foundation.distributed import broadcast_, rank, world

_BLOCK = 2**22  # numbers in a block: 32 MiB in float64
_ZERO = 4  # a standard deviation below this many roundings of the largest mean is mere rounding
_EPS = 1e-6  # rows shorter than this are at the mean, and stay short
_TIE = 1 - 1e-6


@dataclass(frozen=True, eq=False)
class Whitening:
    """Maps x to unit(W (x - mean)): P directions with variance 1, then each row has length 1.

    Attributes:
        mean_D: float64.
        components_PD: Eigenvectors of the covariance, the largest eigenvalue first; the first of
            the largest entries of each is positive. float64.
        variances_P: Their eigenvalues (with N - 1 in the denominator), none below `floor` times the
            largest; all 0 if all rows are equal. float64.
    """

    mean_D: Tensor
    components_PD: Tensor
    variances_P: Tensor

    @staticmethod
    def fit(
        x_ND: Any, size: int = 256, floor: float = 1e-5, *, device: str | torch.device = "cpu"
    ) -> "Whitening":
        """Fit the whitening to these rows.

        With several processes, each calls this with the same x, sums its own range of rows, and
        gets the same bits; they equal those of one process up to rounding.

        Args:
            x_ND: A tensor, an array or a memory map of float16, float32 or float64.
            size: Maximum of P.
            floor: Smaller eigenvalues, as a share of the largest, are raised to this value, so that
                rounding errors are not amplified.
            device: Device of the sums.

        Raises:
            UserError: There are no rows, values are not finite, or the size is below 1.
        """
        if x_ND.ndim != 2 or 0 in x_ND.shape or size < 1:
            what = f"vectors of shape {tuple(x_ND.shape)} cannot be whitened to {size} dimensions"
            raise UserError(what, "pass one row per vector, (N, D), and a size of 1 or more")
        N, D = x_ND.shape
        mean_D = _block_sum(x_ND, lambda x_nD: x_nD.sum(0), device) / N

        def scatter(x_nD: Tensor) -> Tensor:
            centred_nD = x_nD - mean_D
            scatter_DD: Tensor = centred_nD.T @ centred_nD
            return scatter_DD

        scatter_DD = _block_sum(x_ND, scatter, device)
        if not torch.isfinite(scatter_DD).all():
            raise UserError("some vectors to whiten are not finite", "use other weights")
        P = max(1, min(size, D, N - 1))
        variances_D, vectors_DD = torch.linalg.eigh(scatter_DD / max(1, N - 1))  # ascending
        variances_P = variances_D.flip(0)[:P]
        components_PD = _fix_signs(vectors_DD.T.flip(0)[:P])
        largest = variances_P[0].clamp_min(0)
        dtype = _block(x_ND, 0, 0).dtype
        rounding = _ZERO * torch.finfo(dtype).eps if dtype.is_floating_point else 0.0
        rounding = max(1e-12, rounding)
        if largest <= (rounding * mean_D.abs().max()) ** 2:
            largest = torch.zeros_like(largest)
        variances_P = torch.where(largest > 0, variances_P.clamp_min(floor * largest), 0)
        state = [mean_D.cpu(), components_PD.contiguous().cpu(), variances_P.cpu()]
        broadcast_(state)
        return Whitening(*state)

    def __call__(self, x_ND: Any, *, device: str | torch.device = "cpu") -> Tensor:
        """Unit rows (N, P), float32 (float64 stays) on the CPU; a row at the mean becomes 0.

        Processes do not wait for each other here: each computes all rows of its x.
        """
        if x_ND.ndim != 2 or x_ND.shape[1] != len(self.mean_D):
            what = f"the vectors have shape {tuple(x_ND.shape)}, not that of the whitening"
            raise UserError(what, f"pass rows of {len(self.mean_D)} numbers")
        dtype = torch.float64 if _block(x_ND, 0, 0).dtype == torch.float64 else torch.float32
        out_NP = torch.empty(len(x_ND), len(self.variances_P), dtype=dtype)
        scale_P1 = torch.where(self.variances_P > 0, self.variances_P.rsqrt(), 0)[:, None]
        W_PD = (self.components_PD * scale_P1).to(device, dtype)
        mean_D = self.mean_D.to(device)
        for start, x_nD in _blocks(x_ND, 0, len(x_ND), device):
            y_nP = (x_nD - mean_D).to(dtype) @ W_PD.T
            out_NP[start : start + len(y_nP)] = torch.nn.functional.normalize(y_nP, eps=_EPS)
        return out_NP

    def tensors(self) -> dict[str, Tensor]:
        """The state by name, for saving."""
        return {
            "mean": self.mean_D,
            "components": self.components_PD,
            "variances": self.variances_P,
        }

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> "Whitening":
        """The whitening with a state from `tensors`.

        Raises:
            FileError: A tensor is missing, or they do not fit together.
        """
        state = [tensors.get(name, torch.empty(0)) for name in ("mean", "components", "variances")]
        mean_D, components_PD, variances_P = state
        fit = components_PD.shape == (variances_P.numel(), mean_D.numel())
        if (mean_D.ndim, variances_P.ndim, fit) != (1, 1, True) or not mean_D.numel():
            raise FileError("the whitening's tensors do not fit together", "restore the file")
        if not all(t.dtype == torch.float64 and torch.isfinite(t).all() for t in state):
            raise FileError("the whitening's tensors hold invalid values", "restore the file")
        return Whitening(*state)


def _block_sum(x_ND: Any, part: Callable[[Tensor], Tensor], device: str | torch.device) -> Tensor:
    """The sum of `part` over all blocks of all processes, in float64."""
    N = len(x_ND)
    n = -(-N // world())
    total = torch.zeros_like(part(_block(x_ND, 0, 0).to(device, torch.float64)))
    for _, x_nD in _blocks(x_ND, rank() * n, min((rank() + 1) * n, N), device):
        total += part(x_nD)
    if world() > 1:
        dist.all_reduce(total)
    return total


def _blocks(
    x_ND: Any, start: int, stop: int, device: str | torch.device
) -> Iterator[tuple[int, Tensor]]:
    """Blocks of the rows start .. stop - 1 in float64, each with the number of its first row."""
    n = max(1, _BLOCK // x_ND.shape[1])
    for first in range(start, stop, n):
        yield first, _block(x_ND, first, min(first + n, stop)).to(device, torch.float64)


def _block(x_ND: Any, start: int, stop: int) -> Tensor:
    if isinstance(x_ND, Tensor):
        return x_ND[start:stop].detach()
    return torch.from_numpy(np.array(x_ND[start:stop]))  # a copy: memory maps may be read-only


def _fix_signs(vectors_PD: Tensor) -> Tensor:
    """Eigenvectors with a defined sign: the first of the largest entries is positive.

    Entries within a millionth of the largest count as equal, so that rounding does not matter.
    """
    size_PD = vectors_PD.abs()
    first_P1 = (size_PD >= _TIE * size_PD.amax(1, keepdim=True)).int().argmax(1, keepdim=True)
    return vectors_PD * vectors_PD.gather(1, first_P1).sign()
