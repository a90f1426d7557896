"""Cost of representations: number of weights, and time per image."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from selftaught.evaluation.representation import Representation
from selftaught.evaluation.table import Row
from selftaught.vectors.features import batch_views, evaluation_mode
from selftaught.views.policy import evaluation

if TYPE_CHECKING:
    from selftaught.data.store import Images
    from selftaught.encoders.encoder import Encoder

Rows = NDArray[np.int64]

COST = "cost"
"""Protocol name of the rows."""

WEIGHTS, TIME = "million weights", "ms per image"

_SAMPLE, _BATCH = 512, 64  # images that are timed


def costs(
    subjects: Sequence[Representation], images: "Images", *, seed: int = 0, threads: int = 2
) -> list[Row]:
    """Weights and time of each network that is not a random-init copy.

    The time covers reading, scaling and encoding decoded images on the network's device, batch
    after batch; no cache is used.

    Args:
        subjects: The representations of the other tables.
        images: A sample of these is encoded.
        seed: Seed of the evaluation, for the table.
        threads: Threads that read images.
    """
    batches = timing_batches(len(images.store))
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
            note=f"without decoding the images; {_device(subject.encoder)}",
        )
        rows += [row, replace(row, metric=TIME, value=1000 * seconds / number)]
    return rows


def timing_batches(count: int) -> list[Rows]:
    """Evenly spaced rows of a set of this many images, batch by batch."""
    rows = np.linspace(0, count - 1, min(count, _SAMPLE)).astype(np.int64)
    return [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]


def _seconds(encoder: "Encoder", images: "Images", batches: Sequence[Rows], threads: int) -> float:
    """Time to read, scale and encode the batches."""
    policy = evaluation(encoder.config.image_size)
    x = next(encoder.parameters(), torch.empty(0))  # raw pixels have none
    start = time.perf_counter()
    with evaluation_mode(encoder):
        for x_BCSS in batch_views(encoder, images, batches, policy, threads=threads):
            encoder(x_BCSS.to(x.dtype)).cpu()  # waits for the device
    return time.perf_counter() - start


def _device(encoder: "Encoder") -> str:
    device = next((p.device.type for p in encoder.parameters()), "cpu")
    number = torch.get_num_threads()
    return f"{number} CPU thread{'s' * (number != 1)}" if device == "cpu" else device
