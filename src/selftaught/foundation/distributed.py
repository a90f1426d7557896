"""Several processes as one: the rank of this one, and the few collectives that training needs.

torchrun starts the processes. Without it there is only one, and everything here is the identity.
Gradient convention: the loss of a process is the mean over its own images, all processes have
equally many, and `average_gradients` turns this into the gradient of the mean over all images.

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
    """Rank of this process, 0 to world() - 1."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def start(device: torch.device) -> torch.device:
    """Join the process group if torchrun started this process.

    CPU tensors travel by gloo, GPU tensors by nccl.

    Returns:
        The device of this process: on CUDA, the GPU whose number is its local rank.

    Raises:
        UserError: This machine has fewer GPUs than processes.
    """
    if not os.environ.keys() >= _TORCHRUN:
        return device
    backend = "gloo"
    if device.type == "cuda":
        local, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= gpus:
            raise UserError(
                f"process {local} of this machine has no GPU (the machine has {gpus})",
                "start one process per GPU, or add --device cpu",
            )
        device, backend = torch.device("cuda", local), "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(device)
    # torch.distributed.nn keeps the group of its first import as a default argument. Imported
    # later, it would keep that group's threads alive after `stop`, and they abort Python's exit.
    import_module("torch.distributed.nn")
    dist.init_process_group(backend)
    return device


def stop() -> None:
    """Leave the process group, if there is one, and end its threads."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def all_gather(x: Tensor) -> Tensor:
    """The rows of all processes in rank order, (N, ...) to (W * N, ...).

    Differentiable: every process must call it with the same shape, in backward too. The gradient
    of a row is the sum of its gradients on all processes.
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
    """Replace tensors by their means over the processes, bit for bit the same on each process."""
    if world() > 1:
        _apply_flat(tensors, lambda flat: dist.all_reduce(flat.div_(world())))


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their means over the processes.

    A gradient that is missing on some processes counts as zero there. A gradient that is missing
    on all processes stays missing, as with one process.
    """
    if world() == 1:
        return
    parameters = list(parameters)
    somewhere = _maxima([parameter.grad is not None for parameter in parameters])
    shared = [p for p, has_gradient in zip(parameters, somewhere, strict=True) if has_gradient]
    for parameter in shared:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    all_reduce_mean_([p.grad for p in shared if p.grad is not None])


def broadcast_(tensors: Iterable[Tensor]) -> None:
    """Replace tensors of any type by those of process 0."""
    if world() > 1:
        _apply_flat(tensors, lambda flat: dist.broadcast(flat.view(torch.uint8), src=0))


def any_process(flag: bool) -> bool:
    """Whether the flag is set on any process; the same answer on all."""
    return bool(_maxima([flag])[0])


def all_equal(number: int) -> bool:
    """Whether the number is the same on all processes; the same answer on all."""
    largest, minus_least = _maxima([number, -number])
    return largest == -minus_least


def _maxima(numbers: list[int]) -> list[int]:
    """Maximum of each number over the processes, reduced on the CPU so that no GPU waits."""
    if world() == 1:
        return numbers
    shared = torch.tensor(numbers, dtype=torch.int64)
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return shared.tolist()


@torch.no_grad()
def _apply_flat(tensors: Iterable[Tensor], collective: Callable[[Tensor], Any]) -> None:
    """Run an in-place collective on one flat tensor per type and device, not on each tensor."""
    groups: defaultdict[tuple[torch.dtype, torch.device], list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        groups[tensor.dtype, tensor.device].append(tensor)
    for group in groups.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in group])
        collective(flat)
        for tensor, values in zip(
            group, torch.split(flat, [t.numel() for t in group]), strict=True
        ):
            tensor.copy_(values.view(tensor.shape))


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm with statistics over the rows of all processes, for (N, C, ...) of any type.

    Local statistics leak information into contrastive losses, and torch's SyncBatchNorm refuses
    CPU tensors. Training gathers the count, mean and variance of each process and combines them
    (Chan, Golub, LeVeque 1979); evaluation uses torch's batch norm. Child modules, such as timm's
    activation, run after the norm in their order.
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
    """Mean and biased variance per channel over all processes, and the values per channel."""
    C, n = x_NC.shape[1], x_NC.numel() // x_NC.shape[1]
    var_C, mean_C = torch.var_mean(x_NC, [0, *range(2, x_NC.ndim)], correction=0)
    all_WS = all_gather(torch.cat([mean_C, var_C, mean_C.new_tensor([n])])[None])
    mean_WC, var_WC, n_W1 = torch.split(all_WS, [C, C, 1], dim=1)
    total = n_W1.sum()
    share_W1 = n_W1 / total
    mean_C = (share_W1 * mean_WC).sum(0)
    return mean_C, (share_W1 * (var_WC + (mean_WC - mean_C).square())).sum(0), total


def synchronise_batch_norm(module: nn.Module) -> nn.Module:
    """Replace every batch norm in a module by one that uses the rows of all processes.

    Parameters, buffers and state dict keys stay. With one process nothing changes.

    Returns:
        The module, or its replacement if it is a batch norm itself.

    Raises:
        UserError: A layer is an unsupported variant of batch norm.
    """
    if world() == 1:
        return module
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return _synchronised_norm(module)
    for name, child in module.named_children():
        setattr(module, name, synchronise_batch_norm(child))
    return module


def _synchronised_norm(batch_norm: nn.modules.batchnorm._BatchNorm) -> SyncBatchNorm:
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
