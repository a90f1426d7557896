"""Processes share the work of features, and each of them gets all of it."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from selftaught.encoders.encoder import EncoderConfig, build_encoder
from selftaught.foundation.distributed import rank
from selftaught.foundation.machine import Machine
from selftaught.vectors.features import features
from tests.support import gloo
from tests.support.sets import array_set

CONFIG = EncoderConfig("resnet8", image_size=12, options={"width": 4})


def close(a: NDArray, b: NDArray) -> bool:
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-4, atol=1e-5)


def computed(folder: Path, cache: Path | None) -> NDArray[np.float32]:
    return features(
        build_encoder(CONFIG), array_set(folder, 10), batch_size=2, machine=Machine(cache=cache)
    )


@pytest.mark.slow
def test_processes_share_the_work(tmp_path: Path) -> None:
    truth = computed(tmp_path, None)
    for world in (2, 3, 4):  # of 10 rows: 5 + 5, 4 + 4 + 2, 3 + 3 + 3 + 1
        for found in gloo.run(world, computed, tmp_path, None):
            assert close(found, truth)


def one_has_no_cache(folder: Path, caches: list[Path]) -> NDArray[np.float32]:
    return computed(folder, caches[rank()])


@pytest.mark.slow
def test_a_process_without_the_cache_does_not_wait_for_ever(tmp_path: Path) -> None:
    truth = computed(tmp_path, tmp_path / "a")
    for found in gloo.run(2, one_has_no_cache, tmp_path, [tmp_path / "a", tmp_path / "b"]):
        assert close(found, truth)
