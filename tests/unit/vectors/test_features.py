"""f(x) of a whole store: every way of computing it gives the same rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import selftaught.vectors.features as module
from selftaught.encoders.encoder import Encoder, EncoderConfig, build_encoder
from selftaught.errors import BadImage, FileError
from selftaught.foundation.machine import Machine
from selftaught.vectors.features import features
from selftaught.views.policy import evaluation, simclr_cifar
from selftaught.views.sample import sample
from selftaught.views.tensors import apply_policy
from tests.support.sets import array_set, file_set

CONFIG = EncoderConfig("resnet8", image_size=12, options={"width": 4})


def close(a: NDArray, b: NDArray) -> bool:
    return a.dtype == b.dtype == np.float32 and np.allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.fixture
def encoder() -> Encoder:
    """f, in training mode with one part in evaluation mode, and statistics that are not trivial."""
    built = build_encoder(CONFIG).train()
    for part in built.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean = torch.rand_like(part.running_mean)  # type: ignore[arg-type]
            part.running_var = 0.5 + torch.rand_like(part.running_var)  # type: ignore[arg-type]
    next(part for part in built.modules() if isinstance(part, torch.nn.BatchNorm2d)).eval()
    return built


@pytest.mark.parametrize("one_size", [True, False])
def test_each_row_is_f_of_its_image(encoder: Encoder, tmp_path: Path, one_size: bool) -> None:
    images = file_set(tmp_path, 21, one_size=one_size)
    modes = [part.training for part in encoder.modules()]
    statistics = {name: value.clone() for name, value in encoder.state_dict().items()}
    found = features(encoder, images, batch_size=8)
    assert [part.training for part in encoder.modules()] == modes and not all(modes)
    assert all(torch.equal(value, statistics[n]) for n, value in encoder.state_dict().items())
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    encoder.eval()
    for row in range(21):
        pixels = images.store.read(np.array([row])).image(0)
        with torch.no_grad():
            expected = encoder(encoder.preprocess(pixels)).numpy()
        assert close(found[row : row + 1], expected)


def test_how_it_is_computed_changes_nothing(encoder: Encoder, tmp_path: Path) -> None:
    images = array_set(tmp_path, 50)
    truth = features(encoder, images)
    assert truth.shape == (50, encoder.dim)
    for how in (
        {"machine": Machine(threads=0)},
        {"machine": Machine(threads=5), "batch_size": 7},
        {"batch_size": 1},
    ):
        assert close(features(encoder, images, **how), truth)  # type: ignore[arg-type]
    with torch.autocast("cpu", torch.bfloat16):
        assert close(features(encoder, images), truth)


def test_another_policy_is_drawn_by_row(encoder: Encoder, tmp_path: Path) -> None:
    images, policy = array_set(tmp_path, 20), simclr_cifar()
    found = features(encoder, images, policy=policy, batch_size=6)
    rows, sizes_N2 = np.arange(20), images.store.sizes_N2
    params = sample(policy, size=12, sizes_N2=sizes_N2, draws_N=rows, seed=0)
    pixels = images.store.read(rows).tensors()
    with torch.no_grad():
        expected = encoder.eval()(apply_policy(pixels, params, policy, CONFIG.intensity))
    assert close(found, expected.numpy())


def test_a_bad_file_is_named(encoder: Encoder, tmp_path: Path) -> None:
    images = file_set(tmp_path, 9)
    (tmp_path / "images" / "0004.png").unlink()
    with pytest.raises(BadImage, match=r"0004\.png"):
        features(encoder, images, batch_size=4)
    assert encoder.training


# --- the cache


def test_the_cache_is_keyed_by_weights_images_and_policy(encoder: Encoder, tmp_path: Path) -> None:
    images, cache = array_set(tmp_path, 20), tmp_path / "kept"
    variants: list[dict[str, Any]] = [{}, {"policy": simclr_cifar()}]
    found = [features(encoder, images, machine=Machine(cache=cache), **how) for how in variants]
    found.append(features(encoder, array_set(tmp_path, 21), machine=Machine(cache=cache))[:20])
    with torch.no_grad():
        next(encoder.parameters()).mul_(1.5)
    found.append(features(encoder, images, machine=Machine(cache=cache)))
    assert len(list((cache / "features").iterdir())) == 4
    assert not any(close(found[0], other) for other in (found[1], found[3]))


def test_what_is_kept_is_not_computed_again(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = array_set(tmp_path, 20)
    truth = features(encoder, images, machine=Machine(cache=tmp_path))
    monkeypatch.setattr(module, "_compute", None)
    again = features(
        encoder, images, machine=Machine(cache=tmp_path), policy=evaluation(12), batch_size=3
    )
    assert np.array_equal(again, truth)
    with pytest.raises(TypeError):
        features(encoder, images, machine=Machine(cache=tmp_path), policy=simclr_cifar())


def test_what_leaves_no_room_in_memory_lies_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    mapped, values = [], torch.arange(12.0).reshape(3, 4).half()
    plain = np.memmap
    monkeypatch.setattr(np, "memmap", lambda *a, **o: mapped.append(plain(*a, **o)) or mapped[-1])
    for budget, in_file in ((24, False), (23, True)):
        room = module.float16_buffer((3, 4), budget)
        room[:] = values
        assert torch.equal(room, values)
        assert len(mapped) == in_file
    assert list(tmp_path.iterdir()) == []  # it has no name: nothing stays

    def full(*args: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "posix_fallocate", full)
    with pytest.raises(FileError, match=r"cannot hold 0.0 GiB \(No space left"):
        module.float16_buffer((3, 4), 23)


def test_above_a_limit_features_are_float16_on_disk(encoder: Encoder, tmp_path: Path) -> None:
    images = array_set(tmp_path, 21)
    truth = features(encoder, images)
    size = truth.nbytes
    assert features(encoder, images, limit=size).dtype == np.float32
    found = features(encoder, images, limit=size - 1, batch_size=4)
    assert found.dtype == np.float16
    assert np.allclose(found, truth, rtol=1e-3, atol=1e-4)


def test_before_the_last_activation(tmp_path: Path) -> None:
    images, options = array_set(tmp_path, 9), {"fc": 16}
    alexnet = build_encoder(EncoderConfig("alexnet", image_size=32, options=options))
    before, after = (
        features(alexnet, images, before_final=b, machine=Machine(cache=tmp_path))
        for b in (True, False)
    )
    assert before.min() < 0 and np.allclose(before.clip(0), after, atol=1e-6)


def test_a_damaged_cache_is_computed_again(encoder: Encoder, tmp_path: Path) -> None:
    images = array_set(tmp_path, 20)
    truth = features(encoder, images, machine=Machine(cache=tmp_path))
    (path,) = (tmp_path / "features").iterdir()
    for data in (b"", path.read_bytes()[:-1], b"no tensors"):
        path.write_bytes(data)
        assert np.array_equal(features(encoder, images, machine=Machine(cache=tmp_path)), truth)


def test_a_cache_that_cannot_be_written_costs_time_only(encoder: Encoder, tmp_path: Path) -> None:
    images = array_set(tmp_path, 20)
    (tmp_path / "features").touch()  # a file where the folder should be
    assert close(
        features(encoder, images, machine=Machine(cache=tmp_path)), features(encoder, images)
    )
