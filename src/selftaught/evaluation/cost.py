"""What representations cost: weights, and time an image."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from selftaught.evaluation.representation import Representation
from selftaught.evaluation.table import Row
from selftaught.vectors.features import batch_views, evaluating
from selftaught.views.policy import evaluation

if TYPE_CHECKING:
    from selftaught.data.store import Images
    from selftaught.encoders.encoder import Encoder

Rows = NDArray[np.int64]

COST = "cost"
"""What the rows are called."""

WEIGHTS, TIME = "million weights", "ms an image"

_SAMPLE, _BATCH = 512, 64  # images that are timed


def costs(
    subjects: Sequence[Representation], images: "Images", *, seed: int = 0, threads: int = 2
) -> list[Row]:
    """Weights and time of each network that is no copy of another at random init.

    The time is that of decoded images, read, scaled and encoded on the network's device, batch
    after batch; nothing is taken from a cache.

    Args:
        subjects: What was measured otherwise.
        images: Some of these are encoded.
        seed: Of the evaluation, for the table.
        threads: For reading images.
    """
    batches = timed(len(images.store))
    number = sum(map(len, batches))
    rows = []
    for subject in subjects:
        if subject.encoder is None or subject.seed is not None:
            continue
        _seconds(subject.encoder, images, batches[:1], threads)  # to warm up
        seconds = _seconds(subject.encoder, images, batches, threads)
        weights = sum(p.numel() for p in subject.encoder.parameters())
        row = Row(
            subject.name,
            COST,
            f"{number} images",
            WEIGHTS,
            seed,
            weights / 1e6,
            low=None,
            high=None,
            seconds=seconds,
            note=f"images are decoded already; {_device(subject.encoder)}",
        )
        rows += [row, replace(row, metric=TIME, value=1000 * seconds / number)]
    return rows


def timed(count: int) -> list[Rows]:
    """Rows of some images from all over a set of so many, batch by batch."""
    rows = np.linspace(0, count - 1, min(count, _SAMPLE)).astype(np.int64)
    return [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]


def _seconds(encoder: "Encoder", images: "Images", batches: Sequence[Rows], threads: int) -> float:
    """To read, scale and encode these."""
    policy = evaluation(encoder.config.image_size)
    x = next(encoder.parameters(), torch.empty(0))  # raw pixels have none
    start = time.perf_counter()
    with evaluating(encoder):
        for x_BCSS in batch_views(encoder, images, batches, policy, threads=threads):
            encoder(x_BCSS.to(x.dtype)).cpu()  # which waits for the device
    return time.perf_counter() - start


def _device(encoder: "Encoder") -> str:
    device = next((p.device.type for p in encoder.parameters()), "cpu")
    number = torch.get_num_threads()
    return f"{number} thread{'s' * (number != 1)} of the CPU" if device == "cpu" else device
