"""NT-Xent in tiles on several processes is that of one with all images: loss and gradient."""

import pytest
import torch
from torch import Tensor

from selftaught.foundation.distributed import all_reduce_mean_, rank, world
from selftaught.methods.simclr import nt_xent
from selftaught.pairwise import contrast
from tests.support import gloo

IMAGES, D = 780, 6  # 2, 3 and 4 processes divide it, and their parts end within tiles
TAU = 0.1

pytestmark = pytest.mark.slow


def all_views(dtype: torch.dtype) -> Tensor:
    """(2, IMAGES, D): the images of a process differ from those of another in their mean too."""
    numbers = torch.Generator().manual_seed(3)
    z, noise = torch.randn(2, IMAGES, D, generator=numbers, dtype=torch.float64)
    z[:, 0] += torch.linspace(-2, 2, IMAGES)
    return torch.stack([z, z + 0.3 * noise]).to(dtype)


def loss_and_gradient(dtype: torch.dtype) -> tuple[float, Tensor, float]:
    """Loss over all processes, gradient of it by this process's images, and the accuracy."""
    N = IMAGES // world()
    z = all_views(dtype)[:, rank() * N : (rank() + 1) * N].clone().requires_grad_()
    assert contrast.can_tile(2 * IMAGES, TAU, dtype)
    loss = nt_xent(z[0], z[1], TAU)
    loss.backward()
    rows = contrast.gather_rows(torch.nn.functional.normalize(z.detach(), dim=2).transpose(0, 1))
    accuracy = contrast.contrastive_accuracy(*rows, rank() * 2 * N)
    mean = torch.tensor([loss.item(), accuracy], dtype=torch.float64)
    all_reduce_mean_([mean])
    return mean[0].item(), z.grad / world(), mean[1].item()


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str
)
@pytest.mark.parametrize("W", [2, 3, 4])
def test_loss_and_gradient_are_those_of_one_process(
    W: int, dtype: torch.dtype, tolerance: float
) -> None:
    loss, gradient, accuracy = loss_and_gradient(dtype)
    assert 0.05 < accuracy < 0.95
    found = gloo.run(W, loss_and_gradient, dtype)
    together = torch.cat([own for _, own, _ in found], dim=1)
    assert (together - gradient).abs().max() <= tolerance * gradient.abs().max()
    for its_loss, _, its_accuracy in found:
        assert its_loss == pytest.approx(loss, rel=tolerance)
        assert its_accuracy == pytest.approx(accuracy, abs=1e-12)
