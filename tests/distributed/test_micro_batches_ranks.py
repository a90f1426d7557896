"""Micro-batches on several processes: the step of one process with all images.

With synchronised batch norm a ghost batch is the micro-batches of one number on all processes.
"""

import pytest
import torch
from torch import Tensor, nn

from selftaught.foundation import distributed
from selftaught.foundation.distributed import world
from selftaught.training import micro_batches
from tests.distributed.test_simclr_ranks import (
    IMAGES,
    Case,
    Convolutions,
    Perceptron,
    build,
    own_batch,
    relative,
    whole_batch,
)
from tests.support import gloo

SIZE, TAU = 3, 0.1
Known = tuple[Tensor, Tensor, Tensor]


def in_micro_batches(case: Case) -> Known:
    """Loss over all processes, averaged gradient, running statistics."""
    method, batch = build(case), own_batch(case.dtype)
    _, loss = micro_batches.backward(method, batch, SIZE, lambda part, _: method.embed(part))
    distributed.average_gradients(method.parameters())
    distributed.all_reduce_mean_([loss])
    return loss, *_gradient_and_statistics(method)


def on_one_process(case: Case, W: int) -> Known:
    """The same in plain torch: the micro-batches of W processes, all graphs alive at once."""
    method, batch = build(case), own_batch(case.dtype)
    places = torch.arange(IMAGES).view(W, IMAGES // W // SIZE, SIZE)
    z = torch.zeros(2, IMAGES, 7, dtype=case.dtype)
    for number in range(places.shape[1]):
        here = places[:, number].flatten()
        x = torch.cat([view[here] for view in batch.views])
        z = z.index_copy(1, here, torch.stack(method.head(method.encoder(x)).chunk(2)))
    loss = whole_batch(z[0], z[1], TAU)
    loss.backward()
    return loss.detach(), *_gradient_and_statistics(method)


def _gradient_and_statistics(method: nn.Module) -> tuple[Tensor, Tensor]:
    gradients = [p.grad.flatten() for p in method.parameters()]
    statistics = [b.flatten().double() for b in method.buffers()]
    return torch.cat(gradients), torch.cat([torch.zeros(1), *statistics])


@pytest.mark.slow
@pytest.mark.parametrize(("encoder", "head"), [(Perceptron, "paper"), (Convolutions, "released")])
@pytest.mark.parametrize("W", [2, 4])
def test_it_is_the_step_of_one_process(W: int, encoder: type[nn.Module], head: str) -> None:
    case = Case(encoder, head)
    loss, gradient, statistics = on_one_process(case, W)
    for its_loss, its_gradient, its_statistics in gloo.run(W, in_micro_batches, case):
        assert relative(its_loss, loss) < 1e-12
        assert relative(its_gradient, gradient) < 1e-9
        torch.testing.assert_close(its_statistics, statistics, rtol=1e-12, atol=1e-14)


def test_the_size_of_the_parts_matters_to_batch_norm() -> None:
    case = Case(Convolutions, "released")
    assert world() == 1
    assert relative(on_one_process(case, 2)[1], on_one_process(case, 4)[1]) > 1e-2
