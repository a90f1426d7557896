"""The protocol of methods: the training loop knows nothing else about a method.

A method holds an encoder, declares its views, embeds images independently of each other, and
defines the loss across images. Everything else here is a hook with a sensible default.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import numpy as np

    from selftaught.data.batch import Batch, Draws, Progress
    from selftaught.encoders.encoder import Encoder
    from selftaught.views.policy import ViewSpec

Features = Callable[..., "np.ndarray"]
"""`features(encoder=None, policy=None, before_final=False)`: f(x) of the whole store, (N, D) in row
order: float32, or float16 on disk if that is too large for the memory."""


def at_least_float32(x: Tensor) -> Tensor:
    """Promote half types to float32 and keep float64: the precision of losses."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def without_autocast(x: Tensor) -> torch.autocast:
    """A context in which autocast is off on the device of x, for losses and the last layers."""
    return torch.autocast(x.device.type, enabled=False)


class Method(nn.Module):
    """One paper's method around an encoder f.

    A method's options are the fields of its frozen dataclass `Options` (`--set NAME=VALUE`). Its
    buffers hold what it remembers between epochs, and may change shape.

    Attributes:
        encoder: The result of training; everything else is discarded.
        policy: The views the method needs.
        Options: The dataclass of the method's own options with the paper's defaults.
        needs: What it requires ("labels", "frames", "run").
        wants: What it uses if available, for metrics only ("labels").
        contrasts_images: Whether the loss of one image depends on the others in the batch.
        views: Number of views per image, if all are made in the same way.
        prepares_every: Epochs from one `begin_epoch` that takes long and reports metrics to the
            next; 0: none does.
    """

    Options: ClassVar[type[Any]]
    needs: ClassVar[frozenset[str]] = frozenset()
    wants: ClassVar[frozenset[str]] = frozenset()
    contrasts_images: ClassVar[bool] = False
    views: ClassVar[int] = 1
    prepares_every: int = 0

    encoder: "Encoder"
    policy: "tuple[ViewSpec, ...]"

    @classmethod
    def recommended(cls, architecture: str) -> dict[str, Any]:
        """Changes to the recipe for this network, by the names of `recipe.config.Config`."""
        return {}

    @classmethod
    def options_for_images(cls, options: Any, images: int) -> tuple[Any, list[str]]:
        """The options for this number of images, and sentences on what to expect of them.

        Raises:
            ConfigError: They make no sense for this number of images.
        """
        return options, []

    @classmethod
    def front(cls, options: Any, architecture: str) -> str:
        """The filters before this network: one of `encoders.encoder.FRONTS`."""
        return "none"

    def begin_epoch(
        self, features: Features, labels: "np.ndarray | None", progress: "Progress"
    ) -> "Draws | None":
        """Prepare an epoch and return its order; None requests a permutation."""
        return None

    def embed(self, batch: "Batch") -> dict[str, Tensor]:
        """Embed images independently: "h" = f(x) and, if there is one, "z" = g(h).

        Images are the first axis: (N, D), or (N, V, D) with several views per image.
        Replayable: torch is re-seeded by (seed, step, rank, micro-batch) before each call.
        """
        raise NotImplementedError

    def loss(self, embedded: dict[str, Tensor], batch: "Batch") -> Tensor:
        """The loss across images and ranks, a scalar in at least float32."""
        raise NotImplementedError

    def param_groups(self, progress: "Progress") -> list[dict[str, Any]]:
        """Parameters by how they are optimised.

        Each group is a dict with "params" (a list of (name, parameter)) and optionally "lr_scale"
        (1.0), "excluded" (True: neither weight decay nor trust ratio), "momentum", "weight_decay"
        and "restart" (True: reset the optimizer's state of these parameters).
        """
        named = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        return [
            {"params": [(name, p) for name, p in named if p.ndim > 1]},
            {"params": [(name, p) for name, p in named if p.ndim <= 1], "excluded": True},
        ]

    def before_step(self, progress: "Progress") -> None:
        """Run between backward and the optimizer's step: freeze, clip."""

    def after_step(self, progress: "Progress") -> None:
        """Run after the optimizer's step: moving averages, queues."""

    def chance(self, batch: "Batch") -> float | None:
        """The loss of a constant output, printed next to the loss; None if meaningless."""
        return None

    def metrics(self) -> dict[str, float]:
        """The method's own numbers for the log."""
        return {}

    def alarms(self, history: Sequence[dict[str, Any]]) -> list[str]:
        """Sentences about problems that the logged history shows."""
        return []


def lines_at_chance(history: Sequence[dict[str, Any]], *, steps: int = 200) -> list[dict[str, Any]]:
    """The last lines of the log, if in all of them the loss is within 1 % of `chance`.

    Args:
        history: Lines of metrics.jsonl in order; those without a "chance", and those of the
            warm-up, are skipped.
        steps: How far back they must reach.

    Returns:
        The lines of at least that many steps; none if the history is shorter or the loss moved.
    """
    lines = [n for n in history if n.get("chance") is not None and not n.get("warmup")]
    early = [n for n, line in enumerate(lines) if line["step"] <= lines[-1]["step"] - steps]
    recent = lines[early[-1] :] if early else []
    still = all(abs(line["loss"] - line["chance"]) <= 0.01 * line["chance"] for line in recent)
    return recent if still else []
