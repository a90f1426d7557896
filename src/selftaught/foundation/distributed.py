"""Several processes as one: who this one is, and the few collectives that training needs.

torchrun starts the processes. Without it there is one, and everything here is the identity.
The convention of gradients: the loss of a process is the mean over its own images, every process
holds equally many, and `average_gradients` turns that into the gradient of the mean over all.

Shapes:  W processes; N rows on each; C channels; S statistics.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from selftaught.errors import UserError

_TORCHRUN = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}


def rank() -> int:
    """The number of this process, 0 to world() - 1."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def start(device: torch.device) -> torch.device:
    """Join the processes that torchrun started, if it did.

    gloo carries what lies on the CPU, nccl what lies on a GPU.

    Returns:
        This process's device: on CUDA, the GPU with its number on this machine.

    Raises:
        UserError: There are fewer GPUs than processes on this machine.
    """
    if not os.environ.keys() >= _TORCHRUN:
        return device
    backend = "gloo"
    if device.type == "cuda":
        local, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= gpus:
            raise UserError(
                f"process {local} of this machine has no GPU, there are {gpus}",
                "start as many processes as there are GPUs, or add --device cpu",
            )
        device, backend = torch.device("cuda", local), "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(device)
    # torch's own functions take the group of their first import as a default and would keep it
    # alive: its threads would outlive `stop`, and abort the process when Python goes down.
    import_module("torch.distributed.nn")
    dist.init_process_group(backend)
    return device


def stop() -> None:
    """Leave the group of processes, if there is one; its threads have ended then."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def all_gather(x: Tensor) -> Tensor:
    """The rows of all processes in the order of their ranks, (N, ...) to (W * N, ...).

    Differentiable: every process must call it with the same shape, and in backward too. A row's
    gradient is the sum of what all processes say about it.
    """
    gathered: Tensor = _AllGather.apply(x) if world() > 1 else x
    return gathered


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gathered = x.new_empty(world() * len(x), *x.shape[1:])
        dist.all_gather(list(gathered.chunk(world())), x.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(world())[rank()]


def all_reduce_mean_(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by their means over the processes: the same bits on each of them."""
    if world() > 1:
        _flat(tensors, lambda flat: dist.all_reduce(flat.div_(world())))


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their means over the processes.

    Where a parameter has a gradient on some processes only, it counts as zero on the others; where
    it has none on any, it keeps none, as it would with one process.
    """
    if world() == 1:
        return
    parameters = list(parameters)
    somewhere = _largest([parameter.grad is not None for parameter in parameters])
    shared = [p for p, has_gradient in zip(parameters, somewhere, strict=True) if has_gradient]
    for parameter in shared:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    all_reduce_mean_([p.grad for p in shared if p.grad is not None])


def broadcast_(tensors: Iterable[Tensor]) -> None:
    """Replace tensors, of any types, by those of process 0."""
    if world() > 1:
        _flat(tensors, lambda flat: dist.broadcast(flat.view(torch.uint8), src=0))


def agree(flag: bool) -> bool:
    """Whether any process says so; all get the same answer."""
    return bool(_largest([flag])[0])


def same(number: int) -> bool:
    """Whether all processes name the same number; all get the same answer."""
    largest, minus_least = _largest([number, -number])
    return largest == -minus_least


def _largest(numbers: list[int]) -> list[int]:
    """Each number's largest value over the processes. On the CPU: no device waits for it."""
    if world() == 1:
        return numbers
    shared = torch.tensor(numbers, dtype=torch.int64)
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return shared.tolist()


@torch.no_grad()
def _flat(tensors: Iterable[Tensor], collective: Callable[[Tensor], Any]) -> None:
    """Run an in-place collective on one flat tensor a type and device, not on each tensor."""
    alike: defaultdict[tuple[torch.dtype, torch.device], list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        alike[tensor.dtype, tensor.device].append(tensor)
    for group in alike.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in group])
        collective(flat)
        for tensor, values in zip(
            group, torch.split(flat, [t.numel() for t in group]), strict=True
        ):
            tensor.copy_(values.view(tensor.shape))


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm with the statistics of all processes' rows, for (N, C, ...) of any type.

    Contrastive losses leak through local statistics, and torch's own refuses CPU tensors. In
    training it gathers each process's count, mean and variance, and combines them (Chan, Golub,
    LeVeque 1979); evaluation is torch's. Child modules, such as timm's activation after the norm,
    run after it in their order.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, ...); the output has the input's type."""
        if self.training or self.running_mean is None:
            y = self._normalise(x)
        else:
            y = F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        for after in self.children():
            y = after(y)
        return y

    def _normalise(self, x: Tensor) -> Tensor:
        x_NC = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        mean_C, var_C, n = _global_statistics(x_NC)
        if self.training and self.track_running_stats:
            self._track(mean_C, var_C * (n / (n - 1)))
        scale_C = (var_C + self.eps).rsqrt()
        if self.weight is not None:
            scale_C = scale_C * self.weight
        shape = (1, -1, *[1] * (x.ndim - 2))
        y = (x_NC - mean_C.view(shape)) * scale_C.view(shape)
        if self.bias is not None:
            y = y + self.bias.view(shape)
        return y.to(x.dtype)

    @torch.no_grad()
    def _track(self, mean_C: Tensor, unbiased_var_C: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean_C.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(unbiased_var_C.to(self.running_var.dtype), momentum)


def _global_statistics(x_NC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance a channel over all processes, and the number of values in each."""
    C, n = x_NC.shape[1], x_NC.numel() // x_NC.shape[1]
    var_C, mean_C = torch.var_mean(x_NC, [0, *range(2, x_NC.ndim)], correction=0)
    all_WS = all_gather(torch.cat([mean_C, var_C, mean_C.new_tensor([n])])[None])
    mean_WC, var_WC, n_W1 = torch.split(all_WS, [C, C, 1], dim=1)
    total = n_W1.sum()
    share_W1 = n_W1 / total
    mean_C = (share_W1 * mean_WC).sum(0)
    return mean_C, (share_W1 * (var_WC + (mean_WC - mean_C).square())).sum(0), total


def synchronise_batch_norm(module: nn.Module) -> nn.Module:
    """Replace every batch norm inside by one that uses the rows of all processes.

    Parameters, buffers and the keys of the state dict stay. With one process nothing changes.

    Returns:
        The module, or its replacement where it is a batch norm itself.

    Raises:
        UserError: A layer is a variant of batch norm whose arithmetic we do not know.
    """
    if world() == 1:
        return module
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return _synchronised(module)
    for name, child in module.named_children():
        setattr(module, name, synchronise_batch_norm(child))
    return module


def _synchronised(batch_norm: nn.modules.batchnorm._BatchNorm) -> SyncBatchNorm:
    from timm.layers.norm_act import BatchNormAct2d

    known = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchNormAct2d, SyncBatchNorm)
    if type(batch_norm) not in known:
        raise UserError(
            f"the encoder's {type(batch_norm).__name__} cannot be synchronised",
            "choose another encoder, or train with one process",
        )
    synchronised = SyncBatchNorm(batch_norm.num_features)
    synchronised.__dict__ = batch_norm.__dict__  # parameters, buffers, flags, hooks and children
    return synchronised
