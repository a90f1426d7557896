"""The collectives, and the pool of processes that the other tests here use."""

import os
import subprocess
import sys
import time

import pytest
import torch
from torch import Tensor, nn

from selftaught.errors import UserError
from selftaught.foundation import distributed
from selftaught.foundation.distributed import rank, world
from selftaught.methods.simclr import nt_xent
from tests.support import gloo


def test_one_process_needs_no_group() -> None:
    x = torch.rand(2, 3)
    assert (rank(), world()) == (0, 1)
    assert distributed.start(torch.device("cpu")) == torch.device("cpu") and world() == 1
    assert distributed.all_gather(x) is x
    assert (
        distributed.any_process(True)
        and not distributed.any_process(False)
        and distributed.all_equal(7)
    )
    parameter = nn.Parameter(x.clone())
    parameter.grad = torch.ones(2, 3)
    distributed.average_gradients([parameter])
    distributed.broadcast_([x])
    assert torch.equal(parameter.grad, torch.ones(2, 3)) and torch.equal(parameter, x)


THREADS_LEFT = """
import glob, torch
from selftaught.foundation import distributed
distributed.start(torch.device("cpu"))
import torch._dynamo  # as optimizers do; it imports all of torch.distributed
torch.distributed.all_reduce(torch.ones(1))
names = lambda: [open(path).read() for path in glob.glob("/proc/self/task/*/comm")]
before = sum("gloo" in name for name in names())
distributed.stop()
print(before > 0, sum("gloo" in name for name in names()))
"""


@pytest.mark.slow
def test_no_thread_of_a_group_outlives_it() -> None:
    """One that does may release a tensor while Python goes down, which aborts the process."""
    one = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    words = [sys.executable, "-c", THREADS_LEFT]
    done = subprocess.run(words, env=os.environ | one, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "0"]


def names() -> tuple[int, int]:
    return rank(), world()


@pytest.mark.parametrize("W", [1, 2, 4])
def test_each_process_knows_its_name(W: int) -> None:
    assert gloo.run(W, names) == [(r, W) for r in range(W)]


def gathered() -> tuple[Tensor, Tensor]:
    x = torch.full((2, 3), float(rank()), dtype=torch.float64, requires_grad=True)
    rows = distributed.all_gather(x)
    weights = torch.arange(rows.numel(), dtype=torch.float64).view(rows.shape)
    (rows * weights * (rank() + 1)).sum().backward()
    assert x.grad is not None
    return rows.detach(), x.grad


def test_all_gather_keeps_the_order_of_ranks_and_sums_gradients() -> None:
    for r, (rows, gradient) in enumerate(gloo.run(3, gathered)):
        assert rows[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
        expected = torch.arange(18.0).view(6, 3)[2 * r : 2 * r + 2] * (1 + 2 + 3)
        assert torch.equal(gradient, expected.double())


def averaged() -> list[Tensor | None]:
    """Parameters of two types: with a gradient everywhere, on rank 1 only, nowhere."""
    strided = torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)
    parameters = [nn.Parameter(strided), *(nn.Parameter(torch.zeros(3).double()) for _ in "ab")]
    parameters[0].grad = torch.arange(96.0).view(2, 3, 4, 4).to(
        memory_format=torch.channels_last
    ) * (rank() + 1)
    if rank() == 1:
        parameters[1].grad = torch.ones(3).double()
    distributed.average_gradients(parameters)
    return [parameter.grad for parameter in parameters]


def test_average_gradients() -> None:
    for dense, sparse, absent in gloo.run(2, averaged):
        assert torch.equal(dense, torch.arange(96.0).view(2, 3, 4, 4) * 1.5)
        assert torch.equal(sparse, torch.full((3,), 0.5).double())
        assert absent is None


def averaged_noise() -> Tensor:
    noise = nn.Parameter(torch.zeros(1001))
    noise.grad = torch.randn(1001, generator=torch.Generator().manual_seed(rank()))
    distributed.average_gradients([noise])
    return noise.grad


def test_all_processes_hold_the_same_bits() -> None:
    first, *others = gloo.run(4, averaged_noise)
    assert all(torch.equal(first, other) for other in others)
    noise = [torch.randn(1001, generator=torch.Generator().manual_seed(r)) for r in range(4)]
    torch.testing.assert_close(first, torch.stack(noise).mean(0))


def broadcasted() -> list[Tensor]:
    value = rank() + 1
    tensors = [
        torch.full((2, 3), value / 3, dtype=torch.float64),
        torch.full((4,), value / 3, dtype=torch.bfloat16),
        torch.tensor(value),
        torch.tensor([value == 1, value != 1]),
        torch.full((3, 2), float(value)).T,
    ]
    distributed.broadcast_(tensors)
    return tensors


def test_broadcast_takes_any_type_and_stride() -> None:
    first, second = gloo.run(2, broadcasted)
    assert [t.dtype for t in second] == [t.dtype for t in first]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert second[2].item() == 1 and second[3].tolist() == [True, False]


def agreements() -> tuple[bool, bool, bool, bool]:
    one_says_so, none_does = distributed.any_process(rank() == 1), distributed.any_process(False)
    return one_says_so, none_does, distributed.all_equal(5), distributed.all_equal(rank())


def test_agreement() -> None:
    assert gloo.run(2, agreements) == [(True, False, True, False)] * 2


def unequal_batches() -> str:
    z = torch.randn(4 + rank(), 8)
    with pytest.raises(UserError) as refused:
        nt_xent(z, z, 0.1)
    return str(refused.value)


def test_unequal_batches_are_refused_on_every_process() -> None:
    assert gloo.run(2, unequal_batches) == [
        f"process {r} has {4 + r} images, another has a different number: "
        "choose a batch size that the number of processes divides"
        for r in range(2)
    ]


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    local = str(torch.cuda.device_count())
    for name, value in gloo._environment(0, 2, 1).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_RANK", local)
    with pytest.raises(UserError, match="has no GPU"):
        distributed.start(torch.device("cuda"))


def fails(how: str) -> None:
    if rank() == 0:
        distributed.any_process(True)  # waits for the other, which never comes
    if how == "raises":
        raise KeyError("a message to be found")
    if how == "dies":
        os._exit(9)
    time.sleep(60)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "message"),
    [("raises", "a message to be found"), ("dies", "died"), ("hangs", "in time")],
)
def test_the_pool_reports_failures_and_recovers(how: str, message: str) -> None:
    pool = gloo.Pool(2)
    try:
        with pytest.raises(gloo.RankFailed, match=message):
            pool.run(2, fails, how, timeout=8 if how == "hangs" else 60)
        assert pool.run(2, names) == [(0, 2), (1, 2)]
    finally:
        pool.close()
