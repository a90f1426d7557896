"""SimCLR on several processes is SimCLR on one: loss, gradient, statistics, twenty steps.

Every process holds images of its own. Loss (the mean over processes) and averaged gradient must be
those of one process with the whole batch. The ways in which published code gets this wrong are
written out here and must fail the same assertion: two of them have the right loss and a wrong
gradient, and with the same data on every process they would pass.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selftaught.data.batch import Batch, Progress
from selftaught.foundation import distributed
from selftaught.foundation.distributed import all_gather, rank, world
from selftaught.methods.simclr import SimCLR, SimCLROptions, unit
from selftaught.views.policy import ViewSpec, simclr_cifar
from tests.support import gloo

pytestmark = pytest.mark.slow

IMAGES = 24  # of the whole batch: 2, 3 and 4 processes divide it
TAU = 0.1
EXACT = {torch.float64: 1e-12, torch.float32: 1e-5}  # relative errors, trust D1


class Perceptron(nn.Module):
    """An encoder without batch norm."""

    dim = 10

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.Tanh(), nn.Linear(16, 10))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.layers(x_NCHW)


class Convolutions(nn.Module):
    """An encoder with batch norm after both of its convolutions."""

    dim = 10

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()),
            *(nn.Conv2d(6, 10, 2, bias=False), nn.BatchNorm2d(10), nn.ReLU()),
        )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.layers(x_NCHW).mean((2, 3))


# The loss: ours, another right one, and the wrong ones.


def whole_batch(z0_ND: Tensor, z1_ND: Tensor, tau: float) -> Tensor:
    """NT-Xent of what one process sees; knows nothing of others."""
    z = unit(torch.cat([z0_ND, z1_ND]))
    N, s = len(z0_ND), z @ z.T / tau
    s = s.masked_fill(torch.eye(2 * N, dtype=torch.bool), -torch.inf)
    return F.cross_entropy(s, torch.arange(2 * N).roll(N))


def gather_with_gradient_all_rows(z0_ND: Tensor, z1_ND: Tensor, tau: float) -> Tensor:
    """Right, at W times the work."""
    return whole_batch(all_gather(z0_ND), all_gather(z1_ND), tau)


def gather_without_gradient_local_rows(z0_ND: Tensor, z1_ND: Tensor, tau: float) -> Tensor:
    """No image learns from being the negative of another process's image."""
    N, M = len(z0_ND), len(z0_ND) * world()
    z_MD = torch.cat([all_gather(z0_ND.detach()), all_gather(z1_ND.detach())])
    s = unit(torch.cat([z0_ND, z1_ND])) @ unit(z_MD).T / tau
    me = rank() * N + torch.arange(N)
    own, positive = torch.cat([me, me + M]), torch.cat([me + M, me])
    return F.cross_entropy(s.scatter(1, own[:, None], -torch.inf), positive)


def own_slice_all_rows(z0_ND: Tensor, z1_ND: Tensor, tau: float) -> Tensor:
    """Each process differentiates the whole loss by its own rows; then the mean divides by W."""

    def gather(z_ND: Tensor) -> Tensor:
        rows = list(all_gather(z_ND.detach()).chunk(world()))
        rows[rank()] = z_ND
        return torch.cat(rows)

    return whole_batch(gather(z0_ND), gather(z1_ND), tau)


@dataclass(frozen=True)
class Case:
    """What is trained, and how its loss is computed."""

    encoder: type[nn.Module] = Perceptron
    head: str = "paper"
    dtype: torch.dtype = torch.float64
    loss: Callable[[Tensor, Tensor, float], Tensor] | None = None  # None: SimCLR's own
    synchronised: bool = True


def build(case: Case) -> SimCLR:
    """The same weights on every process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        policy = (ViewSpec(simclr_cifar(), 4, 2),)
        options = SimCLROptions(temperature=TAU, projection=7, head=case.head)
        method = SimCLR(case.encoder(), options, policy=policy).to(case.dtype)
    if case.synchronised:
        distributed.synchronise_batch_norm(method)
    return method


def own_batch(dtype: torch.dtype, step: int = 0) -> Batch:
    """This process's part of a batch whose images differ, in brightness and spread too."""
    numbers = torch.Generator().manual_seed(step)
    x = torch.randn(IMAGES, 3, 4, 4, generator=numbers, dtype=torch.float64)
    x = (
        x * torch.linspace(0.5, 2, IMAGES)[:, None, None, None]
        + torch.linspace(-1, 2, IMAGES)[:, None, None, None]
    )
    noise = torch.randn(2, IMAGES, 3, 4, 4, generator=numbers, dtype=torch.float64)
    N = IMAGES // world()
    rows = torch.arange(rank() * N, (rank() + 1) * N)
    views = [(x + 0.5 * view)[rows].to(dtype) for view in noise]
    return Batch(views, [], rows, rows, None, Progress(0, step, 100), seed=0)


def backward(method: SimCLR, case: Case, step: int = 0) -> Tensor:
    """Loss of the whole batch; averaged gradients stand in the parameters."""
    batch = own_batch(case.dtype, step)
    embedded = method.embed(batch)
    if case.loss is None:
        loss = method.loss(embedded, batch)
    else:
        loss = case.loss(*embedded["z"].unbind(1), TAU)
    method.zero_grad()
    loss.backward()
    distributed.average_gradients(method.parameters())
    mean = loss.detach().clone()
    distributed.all_reduce_mean_([mean])
    return mean


@dataclass(frozen=True)
class Outcome:
    """What one process knows after a backward pass."""

    loss: Tensor
    gradient: Tensor  # of all parameters
    statistics: Tensor  # running ones, of all batch norms
    batch: Tensor  # its own images


def outcome(case: Case) -> Outcome:
    method = build(case)
    loss = backward(method, case)
    gradients = [parameter.grad.reshape(-1) for parameter in method.parameters()]
    buffers = [buffer.reshape(-1).double() for buffer in method.buffers()]
    images = own_batch(case.dtype).views[0]
    return Outcome(loss, torch.cat(gradients), torch.cat([torch.zeros(0), *buffers]), images)


@cache
def on_one_process(case: Case) -> Outcome:
    return outcome(case)


def relative(found: Tensor, wanted: Tensor) -> float:
    return ((found - wanted).norm() / wanted.norm()).item()


def assert_as_one_process(case: Case, W: int, tolerance: float) -> None:
    one = on_one_process(Case(case.encoder, case.head, case.dtype))
    ranks = gloo.run(W, outcome, case)
    assert not torch.equal(ranks[0].batch, ranks[-1].batch), "the data must differ"
    for found in ranks:
        assert relative(found.loss, one.loss) < tolerance, "the loss is another"
        assert relative(found.gradient, one.gradient) < tolerance, "the gradient is another"
    assert all(torch.equal(found.gradient, ranks[0].gradient) for found in ranks)


# D1.


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("W", [2, 3, 4])
def test_d1_loss_and_gradient_are_those_of_one_process(W: int, dtype: torch.dtype) -> None:
    assert_as_one_process(Case(dtype=dtype), W, EXACT[dtype])


@pytest.mark.slow
@pytest.mark.parametrize("head", ["paper", "bn", "released"])
@pytest.mark.parametrize("encoder", [Perceptron, Convolutions])
@pytest.mark.parametrize("W", [2, 3, 4])
def test_d1_with_synchronised_batch_norm(W: int, encoder: type[nn.Module], head: str) -> None:
    assert_as_one_process(Case(encoder, head), W, 1e-9)


@pytest.mark.parametrize("head", ["bn", "released"])
def test_running_statistics_are_those_of_one_process(head: str) -> None:
    case = Case(Convolutions, head)
    one = on_one_process(case)
    assert len(one.statistics) > 2 * (6 + 10 + 10)
    for found in gloo.run(3, outcome, case):
        torch.testing.assert_close(found.statistics, one.statistics, rtol=1e-12, atol=1e-14)


# D2: the mutation check.


@pytest.mark.parametrize("W", [2, 4])
def test_another_right_way_passes(W: int) -> None:
    assert_as_one_process(Case(loss=gather_with_gradient_all_rows), W, 1e-12)


WRONG = {
    "gather without gradient, local rows": (
        Case(loss=gather_without_gradient_local_rows),
        "gradient",
    ),
    "gather without gradient, own slice, all rows": (Case(loss=own_slice_all_rows), "gradient"),
    "local batch only": (Case(loss=whole_batch), "loss"),
    "local statistics, head": (Case(head="bn", synchronised=False), "loss"),
    "local statistics, released head": (Case(head="released", synchronised=False), "loss"),
    "local statistics, encoder": (Case(Convolutions, synchronised=False), "loss"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("W", [2, 4])
def test_d2_wrong_ways_fail(W: int, name: str) -> None:
    case, symptom = WRONG[name]
    with pytest.raises(AssertionError, match=f"the {symptom} is another"):
        assert_as_one_process(case, W, 1e-2)  # far outside every tolerance above


# D5: twenty steps.


def twenty_steps(case: Case) -> list[float]:
    method = build(case)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.003, momentum=0.9)
    losses = []
    for step in range(20):
        losses.append(backward(method, case, step).item())
        optimizer.step()
    return losses


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("encoder", "head"), [(Perceptron, "paper"), (Convolutions, "bn")])
def test_d5_twenty_steps_take_the_same_course(
    encoder: type[nn.Module], head: str, dtype: torch.dtype, tolerance: float
) -> None:
    case = Case(encoder, head, dtype)
    one = twenty_steps(case)
    assert one[-1] < 0.75 * one[0]
    for losses in gloo.run(2, twenty_steps, case):
        assert losses == pytest.approx(one, rel=tolerance)


# N2 over ranks.


class Replicated(torch.autograd.Function):
    """What all processes hold alike: their gradients are averaged, as those of weights are."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        distributed.all_reduce_mean_([gradient])
        return gradient


def normalised(x_MCL: Tensor, weight_C: Tensor, bias_C: Tensor) -> Tensor:
    """Every process normalises its own rows and sees those of all."""
    layer = distributed.SyncBatchNorm(x_MCL.shape[1]).double()
    own = Replicated.apply(x_MCL).chunk(world())[rank()]
    weights = {"weight": Replicated.apply(weight_C), "bias": Replicated.apply(bias_C)}
    return all_gather(torch.func.functional_call(layer, weights, own))


def gradients_are_right() -> bool:
    numbers = torch.Generator().manual_seed(2)
    shapes = [(4, 2, 3), (2,), (2,)]
    inputs = [torch.randn(s, generator=numbers, dtype=torch.float64) for s in shapes]
    return torch.autograd.gradcheck(normalised, [x.requires_grad_() for x in inputs])


def test_n2_gradient_of_all_gather_and_synchronised_batch_norm() -> None:
    assert gloo.run(2, gradients_are_right) == [True, True]
