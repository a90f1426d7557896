"""What the loop hands to a method: one batch of views, and where the run stands.

Shapes:  N images of this process in the batch; V views an image.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from selftaught.foundation.rng import Key, uniform

if TYPE_CHECKING:
    from selftaught.views.sample import ViewParams


@dataclass(frozen=True)
class Progress:
    """Where a run stands; the total number of steps is known before epoch 0."""

    epoch: int
    step: int
    total_steps: int
    seed: int = 0

    @property
    def fraction(self) -> float:
        """Share of the run that is done, 0 to 1."""
        return self.step / max(1, self.total_steps)


@dataclass(frozen=True)
class Batch:
    """One step's images of this process.

    Attributes:
        views: One float tensor (N, C, S, S) a view; sizes may differ between views.
        params: How each view was made, in the order of `views`.
        rows: (N,) int64: which image of the store each one is.
        draws: (N,) int64: its position in the epoch's global order; keys all randomness.
        labels: (N,) the data's labels, only where the method asks for them.
        step: Where the run stands.
        seed: The run's seed.
    """

    views: list[Tensor]
    params: "list[ViewParams]"
    rows: Tensor
    draws: Tensor
    labels: Tensor | None
    step: Progress
    seed: int

    def random(self, purpose: str, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), (N, *shape) float32 on the views' device, keyed by draw."""
        key = Key(self.seed, f"method/{purpose}", self.step.epoch)
        numbers = uniform(key, self.draws.cpu().numpy(), int(np.prod(shape, dtype=int)))
        return torch.from_numpy(numbers).float().reshape(-1, *shape).to(self.views[0].device)


@dataclass(frozen=True)
class Draws:
    """An epoch's global order, where a method wants another than a permutation of all images.

    Attributes:
        rows: (n,) or (n, V) int64, n the number of images of the store.
        boxes: (n, V, 4) int64 (top, left, height, width) to cut before the policy's own box.
    """

    rows: np.ndarray
    boxes: np.ndarray | None = None
