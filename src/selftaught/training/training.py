"""What is trained, and one step of it: all that changes in a run and stands in a checkpoint.

Shapes:  N images of this process in the batch; V views an image; D size of an embedding.
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
    """The numbers of a run, all of them resolved."""

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
    """A method in training: its weights, its optimizer, and where the run stands.

    Args:
        method: Encoder, head and loss.
        feed: What batches are made of.
        plan: The run's numbers.
        device: Where the method computes.

    Raises:
        ConfigError: The precision or the optimizer is unknown.
    """

    def __init__(self, method: Method, feed: Feed, plan: Plan, device: torch.device) -> None:
        if plan.precision not in ("float32", "float64", "bf16"):
            raise ConfigError(
                f"loop.precision {plan.precision!r} is unknown", "give auto, float32, float64, bf16"
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
        self.draws_of: int | None = None  # the epoch that was begun
        self.begin_seconds = 0.0  # that the method spent before epochs
        self.optimizer = self._new_optimizer()
        self.last_loss: Tensor | None = None
        self._finite: tuple[Tensor, int, Tensor] | None = None

    @property
    def epoch(self) -> int:
        """The epoch of the next step."""
        return self.step // self.feed.steps_per_epoch

    @property
    def progress(self) -> Progress:
        """Where the run stands, before the next step."""
        return Progress(self.epoch, self.step, self.plan.total_steps, self.plan.seed)

    @property
    def done(self) -> bool:
        """Whether the last step was taken."""
        return self.step >= self.plan.total_steps

    def batches(self) -> Generator[Batch]:
        """The batches that are left of this epoch; begins the epoch if it is not begun yet."""
        self.begin_epoch()
        skip = self.step % self.feed.steps_per_epoch
        first = replace(self.progress, step=self.step - skip)
        with closing(self.feed.epoch(self.draws, first, skip=skip)) as batches:
            for batch in batches:
                if self.done:
                    break
                yield batch

    def begin_epoch(self) -> None:
        """What the method does before the epoch of the next step, if that is not done yet."""
        if self.draws_of == self.epoch:
            return
        progress, began = self.progress, time.monotonic()
        of_store = partial(_features, self)
        self.draws = self.method.begin_epoch(of_store, self.feed.labels, progress)
        optimizers.restart(self.optimizer, self.method.param_groups(progress))
        self.draws_of = progress.epoch
        self.begin_seconds += time.monotonic() - began

    def take(self, batch: Batch) -> None:
        """One step: embed, loss, backward, the mean over processes, update."""
        progress = batch.step
        self.method.train()
        embedded, loss = self._backward(self._prepared(batch))
        self.check_finite()  # of the step before: no device waits for the host
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
        """The log's line for the step just taken; it waits for the device."""
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

        The update was not made then: the weights are those of the step before.

        Raises:
            StopRun: It was not; the message names the step and some rows.
        """
        if self._finite is None:
            return
        (finite, step, rows), self._finite = self._finite, None
        if not bool(finite):
            raise NotFinite(step, rows.tolist())

    def checkpoint(self, **more: Any) -> Checkpoint:
        """All that is needed to go on from here, as copies."""
        training = optimizers.state_tensors(self.optimizer)
        training = {f"optimizer/{name}": tensor for name, tensor in training.items()}
        training["ring"] = self.ring.rows()
        if self.draws is not None:
            training["draws/rows"] = torch.from_numpy(self.draws.rows)
            if self.draws.boxes is not None:
                training["draws/boxes"] = torch.from_numpy(self.draws.boxes)
        state = {"epoch": self.epoch, "step": self.step, "begun": self.draws_of, **more}
        model = {name: t.detach().clone() for name, t in self.method.state_dict().items()}
        return Checkpoint(self.step, state, model, {n: t.clone() for n, t in training.items()})

    def restore(self, found: Checkpoint) -> None:
        """Stand where the checkpoint stands.

        Raises:
            FileError: Its tensors do not belong to this method.
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
        self.step, self.draws_of = found.step, found.state["begun"]
        self.draws = None
        if "draws/rows" in training:
            boxes = training.get("draws/boxes")
            self.draws = Draws(
                training["draws/rows"].numpy(), None if boxes is None else boxes.numpy()
            )
        self.last_loss = self._finite = None

    def synchronise(self) -> None:
        """Wait until the device has done what it was given."""
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
        """Embeddings and loss; their gradients stand in the parameters."""
        if self.plan.micro_batch:
            from selftaught.training import micro_batches

            return micro_batches.backward(self.method, batch, self.plan.micro_batch, self._embed)
        embedded = self._embed(batch)
        loss = self.method.loss(embedded, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return embedded, loss

    def _embed(self, batch: Batch, micro_batch: int = 0) -> dict[str, Tensor]:
        """The method's embeddings, with random numbers that the step and the part determine."""
        seed = torch_seed(self.plan.seed, self.step, distributed.rank(), micro_batch)
        torch.manual_seed(seed)
        with self._autocast():
            return self.method.embed(batch)

    def _prepared(self, batch: Batch) -> Batch:
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
        """Whether the loss and every gradient are finite, on all processes; stays on the device."""
        grads = [p.grad for p in self.method.parameters() if p.grad is not None]
        norms = torch._foreach_norm(grads)
        flag = torch.stack([loss.detach(), *(n.to(loss.dtype) for n in norms)]).isfinite().all()
        whole = flag.to(torch.float32)
        distributed.all_reduce_mean_([whole])
        return whole > 1 - 0.5 / distributed.world()  # a mean of ones need not be 1 to the bit

    def _load_model(self, tensors: dict[str, Tensor]) -> None:
        """Weights and buffers; a buffer may have another shape than it was made with."""
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
                f"the checkpoint does not fit the method ({reason})", "restore the run's folder"
            ) from None


class NotFinite(StopRun):
    """A loss or a gradient was not finite; the update was not made."""

    def __init__(self, step: int, rows: list[int]) -> None:
        some = ", ".join(map(str, rows[:8])) + (", …" if len(rows) > 8 else "")
        super().__init__(
            f"the loss or a gradient of step {step} is not finite (rows {some}); the update was "
            "not made and the checkpoints are from before it: lower --lr, or look at these images"
        )
        self.step, self.rows = step, rows


def _features(
    training: Training, encoder: Any = None, policy: Any = None, before_final: bool = False
) -> "np.ndarray[Any, Any]":
    """What a method calls `features`: f(x) of the whole store in row order."""
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
