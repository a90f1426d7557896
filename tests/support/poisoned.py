"""SimCLR whose loss, or only its gradient, becomes NaN at one step; to be registered by a test."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from selftaught.data.batch import Batch
from selftaught.methods.simclr import SimCLR, SimCLROptions

PLACE = "tests.support.poisoned:Poisoned"


@dataclass(frozen=True)
class PoisonedOptions(SimCLROptions):
    """Where and when."""

    poison: Literal["loss", "gradient", "row"] = "loss"
    at: int = 7


class Poisoned(SimCLR):
    """NaN at step `at`, counted from 1: in the loss, in its gradient, or from one image on."""

    Options = PoisonedOptions
    options: PoisonedOptions

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        if self._now(batch, "row"):
            batch.views[0][0] = torch.nan
        return super().embed(batch)

    def loss(self, embedded: dict[str, Tensor], batch: Batch) -> Tensor:
        loss = super().loss(embedded, batch)
        if self._now(batch, "loss"):
            return loss * torch.nan
        z = embedded["z"]
        zero = (z - z.detach()).square().sum().sqrt()  # its derivative is infinite, times 0
        return loss + zero if self._now(batch, "gradient") else loss

    def _now(self, batch: Batch, poison: str) -> bool:
        return batch.step.step + 1 == self.options.at and self.options.poison == poison
