"""Representations turn images into vectors: the evaluated encoder and its baselines.

Shapes:  N images of the set; n rows of it; C channels; S pixels per side; D size of a vector.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from selftaught.encoders.encoder import Encoder, EncoderConfig, build_encoder
from selftaught.errors import DataError
from selftaught.foundation.machine import CPU, Machine
from selftaught.foundation.rng import Key, permutation
from selftaught.vectors.features import batch_views, features
from selftaught.views.policy import evaluation

if TYPE_CHECKING:
    from selftaught.data.store import Images

RANDOM_SEEDS = (0, 1, 2)
"""Seeds of the untrained networks in every table."""

PIXELS_SIDE = 32
"""Raw pixels are compared at 32 x 32."""


class Representation(Protocol):
    """What is evaluated: a name, a seed, and a vector per image of a set."""

    @property
    def name(self) -> str:
        """Name in the table."""

    @property
    def seed(self) -> int | None:
        """Seed of its random weights, if any."""

    @property
    def encoder(self) -> Encoder | None:
        """The network behind it, for protocols that make new views; None: vectors only."""

    def vectors(self, images: "Images") -> NDArray[np.float32]:
        """(N, D), in row order."""


@dataclass(frozen=True)
class EncoderRepresentation:
    """f(x) of the evaluation view. Vectors stay in memory, and on disk if there is a cache.

    Attributes:
        name: Name in the table.
        encoder: f.
        seed: Seed of its random weights, if any.
        machine: Where to compute.
    """

    name: str
    encoder: Encoder
    seed: int | None = None
    machine: Machine = CPU
    _vectors: dict[str, NDArray[np.float32]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def vectors(self, images: "Images") -> NDArray[np.float32]:
        """(N, D), in row order.

        Raises:
            DataError: A vector is not finite.
        """
        if images.content not in self._vectors:
            vectors = features(self.encoder, images, self.machine)
            check_finite(self.name, bool(np.isfinite(vectors).all()))
            self._vectors[images.content] = vectors
        return self._vectors[images.content]


def check_finite(name: str, finite: bool) -> None:
    """Refuse an encoder whose outputs are not all finite.

    Raises:
        DataError: They are not.
    """
    if not finite:
        raise DataError(
            f"{name} produces vectors that are not finite",
            "its training diverged; train again with a lower --lr",
        )


def random_init(
    config: EncoderConfig,
    images: "Images",
    train: NDArray[np.int64],
    machine: Machine = CPU,
    *,
    seed: int,
) -> EncoderRepresentation:
    """The same network, untrained; its batch norms are calibrated on the training images.

    Args:
        config: Configuration of the network.
        images: The set.
        train: Rows of the training images.
        machine: Where to compute.
        seed: Seed of the weights and of the order of calibration.
    """
    subject = EncoderRepresentation("random init", build_encoder(config, seed=seed), seed, machine)
    subject.encoder.to(machine.device)
    calibrate(subject.encoder, images, train, seed=seed, threads=machine.threads)
    return subject


def raw_pixels(images: "Images", machine: Machine = CPU) -> EncoderRepresentation:
    """The evaluation view at 32 x 32 pixels, in units of the set's channel mean and std, flat."""
    channels, side = images.checked.channels, PIXELS_SIDE
    config = EncoderConfig("pixels", channels, image_size=side, intensity=images.checked.intensity)
    encoder = Encoder(config, _Flat(), dim=channels * side * side)
    return EncoderRepresentation("raw pixels", encoder, machine=machine)


class _Flat(nn.Flatten):
    """A network without layers."""

    feature_info = ()


def calibrate(
    encoder: Encoder,
    images: "Images",
    train: NDArray[np.int64],
    *,
    seed: int = 0,
    batch_size: int = 256,
    threads: int = 2,
) -> None:
    """Set the statistics of all batch norms to their means over one pass over the training images.

    The order is random because the set may be sorted by class. An incomplete last batch is left
    out if there are others, because it would count as much as a whole one.
    """
    norms = [m for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    norms = [norm for norm in norms if norm.track_running_stats]
    if not norms or len(train) < 2:
        return
    rows = train[permutation(Key(seed, "evaluation/calibrate"), len(train))]
    batch_size = min(batch_size, len(rows))
    momenta = [norm.momentum for norm in norms]
    encoder.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over batches
        norm.train()
    policy = evaluation(encoder.config.image_size)
    batches = whole_batches(rows, batch_size)
    with torch.no_grad():
        for x_NCSS in batch_views(encoder, images, batches, policy, threads=threads):
            encoder(x_NCSS)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def whole_batches(rows: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """The rows in batches of one size; the remainder is dropped."""
    return np.split(rows[: len(rows) // batch_size * batch_size], len(rows) // batch_size)
