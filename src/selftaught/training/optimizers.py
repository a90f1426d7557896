"""SGD, AdamW and LARS over a method's parameter groups, with their state stored by name.

SGD and AdamW are torch's fused forms: on a CPU they take 0.4 to 0.6 times as long as the others
(resnet50, one core: AdamW 33 ms against 88, SGD 26 against 41), and they can be gated on the
device. All state exists from the start (zeros), so that a checkpoint always holds the same names.
Build an optimizer after the parameters have their final memory format.

Letters: w a parameter, g its gradient, v its momentum buffer, m momentum, wd weight decay.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from selftaught.errors import ConfigError, FileError, did_you_mean

OPTIMIZERS = ("sgd", "adamw", "lars")
TRUST = 0.001
"""eta, LARS's trust coefficient (google-research/simclr)."""


class LARS(Optimizer):
    """LARS as google-research/simclr defines it (You, Gitman, Ginsburg 2017; lars_optimizer.py).

        g' = g + wd w;   trust = eta |w| / |g'|, or 1 where a norm is 0
        v  = m v + lr trust g';   w = w - v

    The learning rate is inside v, as released; lightly and solo-learn keep it outside, which
    differs while it changes. Groups with "excluded" get neither decay nor trust ratio.

    Args:
        params: Parameters or groups of them, with or without names.
        lr: The learning rate.
        momentum: m.
        weight_decay: wd.
        eta: The trust coefficient.
    """

    found_inf: Tensor | None = None  # as in torch's fused optimizers: 1.0 forbids the step

    def __init__(
        self,
        params: Any,
        *,
        lr: float = 0.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = TRUST,
    ) -> None:
        settings = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eta": eta}
        super().__init__(params, {**settings, "excluded": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient. A closure is not supported."""
        assert closure is None
        for group in self.param_groups:
            w = [p for p in group["params"] if p.grad is not None]
            if w:
                self._update(w, group)

    def _update(self, w: list[Tensor], group: dict[str, Any]) -> None:
        """Update one group, with a few calls for all its parameters together."""
        v = [self._buffer(p) for p in w]
        change = _lars_change(w, [p.grad for p in w], group)
        if self.found_inf is None:
            torch._foreach_mul_(v, group["momentum"])
            torch._foreach_add_(v, change)
            torch._foreach_sub_(w, v)
        else:
            torch._foreach_add_(change, torch._foreach_mul(v, group["momentum"]))
            self._move_gated(w, v, change)

    def _move_gated(self, w: list[Tensor], v: list[Tensor], next_v: Sequence[Tensor]) -> None:
        """Update v and w - v, or nothing if forbidden, without the host waiting."""
        assert self.found_inf is not None
        for parameter, buffer, new in zip(w, v, next_v, strict=True):
            forbidden = self.found_inf.to(parameter.device) != 0
            torch.where(forbidden, buffer, new, out=buffer)
            parameter.sub_(new.masked_fill_(forbidden, 0.0))

    def _buffer(self, w: Tensor) -> Tensor:
        state = self.state[w]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(w)
        buffer: Tensor = state["momentum_buffer"]
        return buffer


def _lars_change(w: list[Tensor], g: list[Any], group: dict[str, Any]) -> Any:
    """lr trust (g + wd w) of each parameter."""
    if group["excluded"]:
        return torch._foreach_mul(g, group["lr"])
    change = torch._foreach_add(g, w, alpha=group["weight_decay"])
    w_norm, g_norm = torch.stack(torch._foreach_norm(w)), torch.stack(torch._foreach_norm(change))
    both = (w_norm > 0) & (g_norm > 0)
    trust = torch.where(both, group["eta"] * w_norm / g_norm, 1.0)
    torch._foreach_mul_(change, (group["lr"] * trust).unbind())
    return change


def build_optimizer(
    name: str, groups: Sequence[Mapping[str, Any]], *, weight_decay: float, momentum: float
) -> Optimizer:
    """The optimizer of a run; its learning rate is 0 until `set_lr`.

    Args:
        name: "sgd", "adamw" (betas momentum and 0.999) or "lars".
        groups: From `Method.param_groups`. A group's own "momentum" and "weight_decay" take
            precedence; "excluded" means no weight decay, and for LARS no trust ratio.
        weight_decay: Default for groups without one.
        momentum: Default for groups without one.

    Raises:
        ConfigError: The optimizer is unknown.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(f"loop.optimizer {name!r} is unknown", did_you_mean(name, OPTIMIZERS))
    settings = [_settings(name, group, weight_decay, momentum) for group in groups]
    settings = [group for group in settings if group["params"]]
    optimizer: Optimizer
    if name == "sgd":
        optimizer = SGD(settings, lr=0.0, fused=True)
    elif name == "adamw":
        optimizer = AdamW(settings, lr=0.0, fused=True)
    else:
        optimizer = LARS(settings)
    for _, parameter, group in _named_parameters(optimizer):
        optimizer.state[parameter] = _fresh_state(optimizer, parameter, group)
    return optimizer


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Set every group's learning rate to lr times the group's scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def gated_step(optimizer: Optimizer, allowed: Tensor) -> None:
    """Take a step if `allowed` (a boolean scalar on the device) is true, else change nothing.

    The host does not wait for the value.
    """
    gated: Any = optimizer
    gated.found_inf = (~allowed).to(torch.float32)
    try:
        optimizer.step()
    finally:
        gated.found_inf = None


def restart(optimizer: Optimizer, groups: Sequence[Mapping[str, Any]]) -> None:
    """Reset the state of the parameters of groups with "restart": True."""
    to_reset = {name for group in groups if group.get("restart") for name, _ in group["params"]}
    for name, parameter, group in _named_parameters(optimizer):
        if name in to_reset:
            optimizer.state[parameter] = _fresh_state(optimizer, parameter, group)


def state_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """All state by parameter name, such as "head.weight/momentum_buffer"; not copied."""
    return {
        f"{name}/{slot}": tensor
        for name, parameter, _ in _named_parameters(optimizer)
        for slot, tensor in optimizer.state[parameter].items()
    }


@torch.no_grad()
def load_state_tensors(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load the state from `state_tensors`, from any device.

    Raises:
        FileError: A tensor is missing or extra, has another shape or type, or is not finite.
    """
    own = state_tensors(optimizer)
    for name in sorted(own.keys() ^ tensors.keys()):
        raise _misfit_error(name, "is missing" if name in own else "belongs to no parameter")
    for name, tensor in tensors.items():
        if (tensor.shape, tensor.dtype) != (own[name].shape, own[name].dtype):
            raise _misfit_error(
                name, f"is {_dtype_and_shape(tensor)}, not {_dtype_and_shape(own[name])}"
            )
        if not bool(tensor.isfinite().all()):
            raise _misfit_error(name, "holds numbers that are not finite")
    for name, tensor in tensors.items():
        own[name].copy_(tensor)


def _settings(
    name: str, group: Mapping[str, Any], weight_decay: float, momentum: float
) -> dict[str, Any]:
    """One of the method's groups, as a group of the optimizer."""
    excluded = bool(group.get("excluded", False))
    momentum = group.get("momentum", momentum)
    own = {"betas": (momentum, 0.999)} if name == "adamw" else {"momentum": momentum}
    return {
        "params": list(group["params"]),
        "lr_scale": group.get("lr_scale", 1.0),
        "excluded": excluded,
        "weight_decay": 0.0 if excluded else group.get("weight_decay", weight_decay),
        **own,
    }


def _named_parameters(optimizer: Optimizer) -> Iterator[tuple[str, Tensor, dict[str, Any]]]:
    """Every parameter with its name and its group."""
    for group in optimizer.param_groups:
        for name, parameter in zip(group["param_names"], group["params"], strict=True):
            yield name, parameter, group


def _fresh_state(
    optimizer: Optimizer, parameter: Tensor, group: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The optimizer's state of a parameter before the first step, in its memory format."""
    if isinstance(optimizer, AdamW):
        step = torch.zeros((), dtype=torch.float32, device=parameter.device)
        moments = ("exp_avg", "exp_avg_sq")
        return {"step": step, **{slot: torch.zeros_like(parameter) for slot in moments}}
    if isinstance(optimizer, SGD) and group["momentum"] == 0:
        return {}
    return {"momentum_buffer": torch.zeros_like(parameter)}


def _dtype_and_shape(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _misfit_error(name: str, how: str) -> FileError:
    return FileError(
        f"the optimizer's {name} {how}", "resume with the original configuration of the run"
    )
