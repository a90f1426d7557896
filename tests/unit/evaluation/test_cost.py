"""What encoders cost: weights that are counted, time that is that of the images."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from selftaught.data.open_images import open_images
from selftaught.data.store import Images
from selftaught.encoders.encoder import Encoder, EncoderConfig, build_encoder
from selftaught.evaluation import cost
from selftaught.evaluation.cost import COST, TIME, WEIGHTS, costs, timing_batches
from selftaught.evaluation.representation import EncoderRepresentation, raw_pixels
from selftaught.foundation.machine import Machine


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return open_images("digits", machine=Machine(cache=tmp_path_factory.mktemp("cache")))


def encoder_for(images: Images) -> Encoder:
    config = EncoderConfig(
        "resnet8",
        images.store.channels,
        image_size=16,
        intensity=images.checked.intensity,
        options={"width": 4},
    )
    return build_encoder(config, seed=0)


def test_weights_are_counted_and_random_inits_are_left_out(images: Images) -> None:
    ours = EncoderRepresentation("ours", encoder_for(images))
    rows = costs([ours, replace(ours, name="random init", seed=1), raw_pixels(images)], images)
    assert [(row.representation, row.metric) for row in rows] == [
        (name, metric) for name in ("ours", "raw pixels") for metric in (WEIGHTS, TIME)
    ]
    number = sum(weight.numel() for weight in ours.encoder.parameters())
    assert rows[0].value == pytest.approx(number / 1e6) and rows[2].value == 0
    assert all(row.protocol == COST and row.low is None for row in rows)


def test_time_is_divided_by_the_images(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that ticks a second a look: two looks a measurement."""
    ticks = itertools.count()
    monkeypatch.setattr(cost.time, "perf_counter", lambda: float(next(ticks)))
    _, row = costs([raw_pixels(images)], images)
    assert row.seconds == 1 and row.value == 1000 / 512


@pytest.mark.parametrize("count", [1, 63, 64, 65, 511, 512, 513, 10_000])
def test_rows_are_from_all_over_the_set_and_none_comes_twice(count: int) -> None:
    rows = np.concatenate(timing_batches(count))
    assert len(rows) == len(set(rows.tolist())) == min(count, 512)
    assert rows[0] == 0 and rows[-1] == count - 1


def test_an_encoder_stays_as_it_was(images: Images) -> None:
    encoder = encoder_for(images)
    encoder.train()
    costs([EncoderRepresentation("ours", encoder)], images)
    norms = [m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    assert encoder.training and all(int(norm.num_batches_tracked or 0) == 0 for norm in norms)
