"""The input of a method in each step: a batch of views and the progress of the run.

Shapes:  N images of this process in the batch; V views per image.
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
    """Progress of a run; the total number of steps is known before epoch 0."""

    epoch: int
    step: int
    total_steps: int
    seed: int = 0

    @property
    def fraction(self) -> float:
        """Completed share of the run, 0 to 1."""
        return self.step / max(1, self.total_steps)


@dataclass(frozen=True)
class Batch:
    """The images of this process for one step.

    Attributes:
        views: One float tensor (N, C, S, S) per view; sizes may differ between views.
        params: Parameters of each view, in the order of `views`.
        rows: (N,) int64: row of each image in the store.
        draws: (N,) int64: position of each image in the epoch's global order; keys all randomness.
        labels: (N,) labels of the data, only if the method asks for them.
        step: Progress of the run.
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
    """The global order of an epoch, if a method wants another than a permutation of all images.

    Attributes:
        rows: (n,) or (n, V) int64; n is the number of images in the store.
        boxes: (n, V, 4) int64 (top, left, height, width) to crop before the policy's own box.
    """

    rows: np.ndarray
    boxes: np.ndarray | None = None
