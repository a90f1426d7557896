"""A step in micro-batches is the step of the whole batch, but for batch norm: then it is that of
ghost batches, which the reference below writes out in plain torch.
"""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selftaught.data.batch import Batch, Progress
from selftaught.data.open_images import DataSettings
from selftaught.data.store import Images
from selftaught.errors import ConfigError
from selftaught.foundation.machine import Machine
from selftaught.foundation.rng import torch_seed
from selftaught.methods.method import Method
from selftaught.recipe import build
from selftaught.recipe.config import Config, LoopSettings, NetworkSettings
from selftaught.training import micro_batches
from selftaught.training.training import Training
from tests.support.sets import array_set

N, SEED = 12, 5
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return array_set(tmp_path_factory.mktemp("images"), 3 * N, side=16)


def training(images: Images, micro_batch: int, *, norm: bool = True) -> Training:
    """SimCLR in float64, with dropout in its head; without batch norm if so wanted."""
    config = Config(
        data=DataSettings("noise"),
        network=NetworkSettings(image_size=16, width=4),
        loop=LoopSettings(
            batch_size=N, epochs=2, precision="float64", micro_batch=micro_batch, optimizer="sgd"
        ),
        options={"head": "bn" if norm else "paper"},
        seed=SEED,
    )
    made = build.training_for(build.complete_options(config), images, machine=Machine(threads=0))
    if norm:
        made.method.head.middle.append(nn.Dropout(0.3))
    else:
        _without_norm(made.method)
    made.optimizer = made._new_optimizer()
    return made


def _without_norm(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.Identity())
        _without_norm(child)


def first_batch(made: Training) -> Batch:
    batches = made.batches()
    batch = next(batches)
    batches.close()
    return made._cast_views(batch)


def gradients(module: nn.Module) -> list[Tensor]:
    return [p.grad for p in module.parameters()]


def assert_near(found: list[Tensor], wanted: list[Tensor], relative: float) -> None:
    """By the largest entry of each."""
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).abs().max() <= relative * b.abs().max()


def ghost_step(method: Method, batch: Batch, size: int, tau: float) -> Tensor:
    """Loss, gradients and running statistics of ghost batches, all graphs alive at once."""
    z = []
    for number, first in enumerate(range(0, N, size)):
        torch.manual_seed(torch_seed(SEED, 0, 0, number))
        x = torch.cat([view[first : first + size] for view in batch.views])
        z.append(torch.stack(method.head(method.encoder(x)).chunk(2)))
    rows = F.normalize(torch.cat(z, dim=1).flatten(0, 1), dim=1)
    s = (rows @ rows.T / tau).fill_diagonal_(-torch.inf)
    loss = F.cross_entropy(s, torch.arange(2 * N).roll(N))
    loss.backward()
    return loss


@pytest.mark.parametrize("size", [1, 3, 4, 12])
def test_without_batch_norm_it_is_the_plain_step(images: Images, size: int) -> None:
    plain, made = (training(images, n, norm=False) for n in (0, size))
    batch = first_batch(plain)
    (wanted, loss), (found, its_loss) = (t._backward(batch) for t in (plain, made))
    assert its_loss.item() == pytest.approx(loss.item(), rel=1e-13)
    assert_near([found["h"], found["z"]], [wanted["h"], wanted["z"]], 1e-13)
    assert_near(gradients(made.method), gradients(plain.method), 1e-12)


@pytest.mark.parametrize("size", [2, 4, 6])
def test_with_batch_norm_it_is_the_step_of_ghost_batches(images: Images, size: int) -> None:
    made = training(images, size)
    batch, wanted = first_batch(made), copy.deepcopy(made.method).train()
    made.method.train()
    loss = ghost_step(wanted, batch, size, made.method.options.temperature)
    _, found = made._backward(batch)
    assert found.item() == pytest.approx(loss.item(), rel=1e-13)
    assert_near(gradients(made.method), gradients(wanted), 1e-11)
    for (name, a), b in zip(made.method.named_buffers(), wanted.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=0, msg=name)
    counts = [b.item() for n, b in made.method.named_buffers() if n.endswith("batches_tracked")]
    assert set(counts) == {N // size}


def test_the_reference_of_ghost_batches_is_not_the_plain_step(images: Images) -> None:
    made = training(images, 0)
    batch, ghosts = first_batch(made), copy.deepcopy(made.method).train()
    made.method.train()
    ghost_step(ghosts, batch, 4, made.method.options.temperature)
    made._backward(batch)
    with pytest.raises(AssertionError):
        assert_near(gradients(made.method), gradients(ghosts), 1e-2)


def test_one_part_of_all_images_is_the_plain_step_to_the_bit(images: Images) -> None:
    plain, made = (training(images, n) for n in (0, N))
    for t in (plain, made):
        for batch in t.batches():
            t.take(batch)
    wanted = plain.method.state_dict()
    assert all(torch.equal(x, wanted[name]) for name, x in made.method.state_dict().items())


def test_an_epoch_of_steps_goes_the_same_way(images: Images) -> None:
    plain, made = (training(images, n, norm=False) for n in (0, 4))
    start = {name: x.clone() for name, x in plain.method.state_dict().items()}
    for t in (plain, made):
        for batch in t.batches():
            t.take(batch)
        t.check_finite()
    wanted = plain.method.state_dict()
    for name, x in made.method.state_dict().items():
        torch.testing.assert_close(x, wanted[name], rtol=1e-9, atol=1e-12)
    assert any(not torch.equal(x, start[name]) for name, x in wanted.items())
    assert made.line(batch)["loss"] == pytest.approx(plain.line(batch)["loss"], rel=1e-10)
    torch.testing.assert_close(made.ring.rows(), plain.ring.rows())


def test_no_more_than_a_part_passes_the_encoder_at_once(images: Images) -> None:
    made, seen = training(images, 3), []
    made.method.encoder.register_forward_pre_hook(lambda _, x: seen.append(len(x[0])))
    made._backward(first_batch(made))
    assert seen == 2 * (N // 3) * [2 * 3]  # two views; each part passes twice


def test_a_part_that_does_not_divide_the_batch_is_refused(images: Images) -> None:
    with pytest.raises(ConfigError, match=r"--micro-batch 5 does not divide the 12 images"):
        training(images, 5)


# Methods of other kinds.


class Assigned(Method):
    """A loss an image, of labels, with a layer and random numbers of its own; one view."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(6, 4).double(), nn.Linear(4, 3).double()
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        self.seen += len(batch.rows)
        h = self.encoder(batch.views[0].flatten(1) + batch.random("shift", 1))
        return {"h": h, "twice": 2 * h, "rows": batch.rows}

    def loss(self, embedded: dict[str, Tensor], batch: Batch) -> Tensor:
        assert torch.equal(embedded["rows"], batch.rows)
        logits = self.head(embedded["h"] + embedded["twice"].square())
        return F.cross_entropy(logits, batch.labels)


class Frozen(Assigned):
    """Its encoder is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder.requires_grad_(False)


def by_hand() -> Batch:
    numbers = torch.Generator().manual_seed(0)
    view = torch.randn(N, 1, 2, 3, generator=numbers, dtype=torch.float64)
    rows = torch.randperm(100, generator=numbers)[:N]
    return Batch([view], [], rows, rows + 7, rows % 3, Progress(0, 0, 9), seed=1)


@pytest.mark.parametrize("kind", [Assigned, Frozen])
def test_a_method_whose_loss_does_not_cross_images(kind: type[Assigned]) -> None:
    torch.manual_seed(0)
    plain = kind()
    made, batch = copy.deepcopy(plain), by_hand()
    wanted = plain.loss(plain.embed(batch), batch)
    wanted.backward()
    _, found = micro_batches.backward(made, batch, 4, lambda part, _: made.embed(part))
    assert found.item() == pytest.approx(wanted.item(), rel=1e-14)
    trained = [(a.grad, b.grad) for a, b in zip(made.parameters(), plain.parameters(), strict=True)]
    assert [a is None for a, _ in trained] == [b is None for _, b in trained]
    assert_near(*zip(*(pair for pair in trained if pair[0] is not None), strict=True), 1e-13)
    assert made.seen == plain.seen == N


def test_a_part_of_a_batch_has_everything_of_its_images(images: Images) -> None:
    batch = replace(first_batch(training(images, 0)), labels=torch.arange(N))
    one = micro_batches.batch_part(batch, slice(3, 7))
    for whole, some in zip(batch.views, one.views, strict=True):
        assert torch.equal(whole[3:7], some)
    for params, some in zip(batch.params, one.params, strict=True):
        assert np.array_equal(params.box_N4[3:7], some.box_N4) and len(some) == 4
    assert torch.equal(one.rows, batch.rows[3:7]) and one.labels.tolist() == [3, 4, 5, 6]
    assert torch.equal(one.random("x", 2), batch.random("x", 2)[3:7])
