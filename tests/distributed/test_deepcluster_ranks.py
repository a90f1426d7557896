"""DeepCluster on several processes is DeepCluster on one: labels, loss, gradient.

resnet8 has no dropout. Batch norm has the statistics of all processes; in float64, so that what
differs is more than rounding.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from selftaught.data.open_images import DataSettings
from selftaught.foundation import distributed
from selftaught.foundation.machine import Machine
from selftaught.methods.deepcluster import DeepCluster
from selftaught.recipe import build
from selftaught.recipe.config import Config, LoopSettings, NetworkSettings, ViewSettings
from tests.support import gloo
from tests.support.sets import array_set

IMAGES, BATCH = 48, 12


@dataclass(frozen=True)
class Outcome:
    """What one process knows after some steps of two epochs."""

    labels: list[Tensor]
    losses: list[float]
    weights: Tensor
    rows: Tensor


def trained(folder: Path, sampling: str) -> Outcome:
    config = Config(
        data=DataSettings("made"),
        network=NetworkSettings(image_size=12, width=4),
        views=ViewSettings(gray=0.0, blur=0.0),
        loop=LoopSettings(
            batch_size=BATCH, epochs=2, optimizer="sgd", lr=0.05, precision="float64"
        ),
        method="deepcluster",
        options={"k": 5, "sampling": sampling},
    )
    images = array_set(folder, IMAGES)
    made = build.training_for(build.complete_options(config), images, Machine(threads=1))
    method, labels, losses, rows = made.method, [], [], torch.empty(0)
    assert isinstance(method, DeepCluster)
    while not made.done:
        for batch in made.batches():
            made.take(batch)
            loss = made.last_loss.clone()
            distributed.all_reduce_mean_([loss])
            losses.append(loss.item())
            rows = batch.rows
        labels.append(method.labels_N.clone())
    weights = torch.cat([parameter.detach().reshape(-1) for parameter in method.parameters()])
    return Outcome(labels, losses, weights, rows)


@cache
def alone(folder: Path, sampling: str) -> Outcome:
    return trained(folder, sampling)


@pytest.mark.slow
@pytest.mark.parametrize("W", [2, 4])
@pytest.mark.parametrize("sampling", ["uniform", "weighted"])
def test_labels_loss_and_weights_are_those_of_one_process(
    tmp_path: Path, W: int, sampling: str
) -> None:
    one = alone(tmp_path, sampling)
    ranks = gloo.run(W, trained, tmp_path, sampling)
    assert not torch.equal(ranks[0].rows, ranks[1].rows), "each process has images of its own"
    for found in ranks:
        assert all(map(torch.equal, found.labels, one.labels))
        assert np.allclose(found.losses, one.losses, rtol=1e-9, atol=0)
        assert torch.allclose(found.weights, one.weights, rtol=0, atol=1e-9)
