"""The state of a run and one training step: all that changes in a run and is in a checkpoint.

Shapes:  N images of this process in the batch; V views per image; D size of an embedding.
"""

import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selftaught.data.batch import Batch, Draws, Progress
from selftaught.data.feed import Feed
from selftaught.errors import ConfigError, FileError, StopRun
from selftaught.foundation import distributed
from selftaught.foundation.machine import Machine, memory_share
from selftaught.foundation.rng import torch_seed
from selftaught.methods.method import Method
from selftaught.training import optimizers
from selftaught.training.checkpoint import Checkpoint
from selftaught.training.health import Ring, health
from selftaught.training.schedule import lr_at
from selftaught.vectors.features import features


@dataclass(frozen=True)
class Plan:
    """The resolved settings of a run."""

    epochs: int
    batch_size: int
    total_steps: int
    seed: int
    optimizer: str
    peak_lr: float
    weight_decay: float
    momentum: float
    warmup_steps: int
    precision: str
    channels_last: bool
    compile: bool
    log_every: int
    checkpoint_seconds: float
    stop_on_alarm: bool
    micro_batch: int = 0
    schedule: str = "cosine"


class Training:
    """A method in training: its weights, its optimizer, and the current position in the run.

    Args:
        method: Encoder, head and loss.
        feed: Source of the batches.
        plan: The settings of the run.
        device: Device of the method.

    Raises:
        ConfigError: The precision or the optimizer is unknown.
    """

    def __init__(self, method: Method, feed: Feed, plan: Plan, device: torch.device) -> None:
        if plan.precision not in ("float32", "float64", "bf16"):
            raise ConfigError(
                f"loop.precision {plan.precision!r} is unknown",
                "use auto, float32, float64, bf16",
            )
        self.method, self.feed, self.plan, self.device = method.to(device), feed, plan, device
        if plan.precision == "float64":
            method.double()
        if plan.channels_last:
            method.to(memory_format=torch.channels_last)
        if plan.compile:
            method.encoder.compile()
        distributed.broadcast_([*method.parameters(), *method.buffers()])
        self.step, self.ring = 0, Ring()
        self.draws: Draws | None = None
        self.begun_epoch: int | None = None  # the last epoch that has begun
        self.begin_seconds = 0.0  # time the method has spent before epochs
        self.optimizer = self._new_optimizer()
        self.last_loss: Tensor | None = None
        self._finite: tuple[Tensor, int, Tensor] | None = None

    @property
    def epoch(self) -> int:
        """The epoch of the next step."""
        return self.step // self.feed.steps_per_epoch

    @property
    def progress(self) -> Progress:
        """The position of the next step in the run."""
        return Progress(self.epoch, self.step, self.plan.total_steps, self.plan.seed)

    @property
    def done(self) -> bool:
        """Whether the last step is done."""
        return self.step >= self.plan.total_steps

    def batches(self) -> Generator[Batch]:
        """The remaining batches of this epoch; begins the epoch if it has not begun."""
        self.begin_epoch()
        skip = self.step % self.feed.steps_per_epoch
        first = replace(self.progress, step=self.step - skip)
        with closing(self.feed.epoch(self.draws, first, skip=skip)) as batches:
            for batch in batches:
                if self.done:
                    break
                yield batch

    def begin_epoch(self) -> None:
        """Run the method's preparation for the epoch of the next step, unless it has run."""
        if self.begun_epoch == self.epoch:
            return
        progress, began = self.progress, time.monotonic()
        of_store = partial(_features, self)
        self.draws = self.method.begin_epoch(of_store, self.feed.labels, progress)
        optimizers.restart(self.optimizer, self.method.param_groups(progress))
        self.begun_epoch = progress.epoch
        self.begin_seconds += time.monotonic() - began

    def take(self, batch: Batch) -> None:
        """Take one step: embed, loss, backward, the mean over processes, update."""
        progress = batch.step
        self.method.train()
        embedded, loss = self._backward(self._cast_views(batch))
        self.check_finite()  # of the previous step, so that the device does not wait for the host
        distributed.average_gradients(self.method.parameters())
        self.method.before_step(progress)
        optimizers.set_lr(self.optimizer, self.lr)
        finite = self._all_finite(loss)
        optimizers.gated_step(self.optimizer, finite)
        self.optimizer.zero_grad(set_to_none=True)
        self.method.after_step(progress)
        self.last_loss = loss.detach()
        self._finite = finite, progress.step + 1, batch.rows  # no views: they would fill a GPU
        self.ring.add(embedded.get("z", embedded["h"]).detach().flatten(0, -2))
        self.step += 1

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        plan = self.plan
        return lr_at(
            self.step,
            peak=plan.peak_lr,
            total_steps=plan.total_steps,
            warmup=plan.warmup_steps,
            schedule=plan.schedule,
        )

    def line(self, batch: Batch) -> dict[str, Any]:
        """The log line of the last step; waits for the device."""
        assert self.last_loss is not None
        self.check_finite()
        own = {"loss": self.last_loss.item(), **self.method.metrics()}
        means = torch.tensor(list(own.values()), dtype=torch.float64)
        distributed.all_reduce_mean_([means])
        shared = dict(zip(own, means.tolist(), strict=True))
        z_ND = self.ring.rows()
        return {
            "step": self.step,
            "epoch": batch.step.epoch,
            "loss": shared.pop("loss"),
            "chance": self.method.chance(batch),
            "lr": self.optimizer.param_groups[0]["lr"],
            "warmup": batch.step.step < self.plan.warmup_steps,
            "embedding_rows": len(z_ND),
            "embedding_dim": z_ND.shape[1],
            **health(z_ND),
            **shared,
        }

    def check_finite(self) -> None:
        """Stop the run if the last step's loss or gradient was not finite.

        In that case the update was skipped: the weights are those of the previous step.

        Raises:
            StopRun: It was not finite; the message names the step and some rows.
        """
        if self._finite is None:
            return
        (finite, step, rows), self._finite = self._finite, None
        if not bool(finite):
            raise NotFinite(step, rows.tolist())

    def checkpoint(self, **more: Any) -> Checkpoint:
        """All that is needed to continue from here, as copies."""
        training = optimizers.state_tensors(self.optimizer)
        training = {f"optimizer/{name}": tensor for name, tensor in training.items()}
        training["ring"] = self.ring.rows()
        if self.draws is not None:
            training["draws/rows"] = torch.from_numpy(self.draws.rows)
            if self.draws.boxes is not None:
                training["draws/boxes"] = torch.from_numpy(self.draws.boxes)
        state = {"epoch": self.epoch, "step": self.step, "begun": self.begun_epoch, **more}
        model = {name: t.detach().clone() for name, t in self.method.state_dict().items()}
        return Checkpoint(self.step, state, model, {n: t.clone() for n, t in training.items()})

    def restore(self, found: Checkpoint) -> None:
        """Return to the state of a checkpoint.

        Raises:
            FileError: Its tensors do not fit this method.
        """
        self._load_model(found.model)
        training = found.training
        self.optimizer = self._new_optimizer()
        prefix = "optimizer/"
        state = {k.removeprefix(prefix): t for k, t in training.items() if k.startswith(prefix)}
        if state:
            optimizers.load_state_tensors(self.optimizer, state)
        self.ring = Ring()
        if training["ring"].numel():
            self.ring.add(training["ring"].to(self.device))
        self.step, self.begun_epoch = found.step, found.state["begun"]
        self.draws = None
        if "draws/rows" in training:
            boxes = training.get("draws/boxes")
            self.draws = Draws(
                training["draws/rows"].numpy(), None if boxes is None else boxes.numpy()
            )
        self.last_loss = self._finite = None

    def synchronise(self) -> None:
        """Wait until the device has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _new_optimizer(self) -> torch.optim.Optimizer:
        groups = self.method.param_groups(self.progress)
        return optimizers.build_optimizer(
            self.plan.optimizer,
            groups,
            weight_decay=self.plan.weight_decay,
            momentum=self.plan.momentum,
        )

    def _backward(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Embeddings and loss; leaves the gradients in the parameters."""
        if self.plan.micro_batch:
            from selftaught.training import micro_batches

            return micro_batches.backward(self.method, batch, self.plan.micro_batch, self._embed)
        embedded = self._embed(batch)
        loss = self.method.loss(embedded, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return embedded, loss

    def _embed(self, batch: Batch, micro_batch: int = 0) -> dict[str, Tensor]:
        """The method's embeddings, with random numbers keyed by the step and the micro-batch."""
        seed = torch_seed(self.plan.seed, self.step, distributed.rank(), micro_batch)
        torch.manual_seed(seed)
        with self._autocast():
            return self.method.embed(batch)

    def _cast_views(self, batch: Batch) -> Batch:
        """Convert the views in place to the plan's precision and memory format."""
        for number, view in enumerate(batch.views):
            if self.plan.precision == "float64":
                view = view.double()
            if self.plan.channels_last:
                view = view.contiguous(memory_format=torch.channels_last)
            batch.views[number] = view
        return batch

    def _autocast(self) -> torch.autocast:
        bf16 = self.plan.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16)

    def _all_finite(self, loss: Tensor) -> Tensor:
        """Whether loss and all gradients are finite on all processes; stays on the device."""
        grads = [p.grad for p in self.method.parameters() if p.grad is not None]
        norms = torch._foreach_norm(grads)
        flag = torch.stack([loss.detach(), *(n.to(loss.dtype) for n in norms)]).isfinite().all()
        whole = flag.to(torch.float32)
        distributed.all_reduce_mean_([whole])
        return whole > 1 - 0.5 / distributed.world()  # a mean of ones may differ from 1 by rounding

    def _load_model(self, tensors: dict[str, Tensor]) -> None:
        """Load weights and buffers; a buffer may differ in shape from the one it was built with."""
        buffers = dict(self.method.named_buffers())
        for name, tensor in tensors.items():
            if name in buffers and buffers[name].shape != tensor.shape:
                owner, _, leaf = name.rpartition(".")
                self.method.get_submodule(owner).register_buffer(leaf, tensor.to(self.device))
        try:
            self.method.load_state_dict(tensors)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise FileError(
                f"the checkpoint does not fit the method ({reason})", "restore the run folder"
            ) from None


class NotFinite(StopRun):
    """A loss or a gradient was not finite; the update was skipped."""

    def __init__(self, step: int, rows: list[int]) -> None:
        some = ", ".join(map(str, rows[:8])) + (", …" if len(rows) > 8 else "")
        super().__init__(
            f"the loss or a gradient of step {step} is not finite (rows {some}); its update was "
            "skipped and all checkpoints are from before it: lower --lr, or inspect these images"
        )
        self.step, self.rows = step, rows


def _features(
    training: Training, encoder: Any = None, policy: Any = None, before_final: bool = False
) -> "np.ndarray[Any, Any]":
    """f(x) of the whole store in row order: the `features` that a method calls."""
    feed = training.feed
    found: np.ndarray[Any, Any] = features(
        encoder or training.method.encoder,
        feed.readable,
        Machine(str(training.device), feed.threads),
        batch_size=training.plan.micro_batch or 256,
        policy=policy,
        before_final=before_final,
        limit=memory_share(),
    )
    return found
