"""From options to a run: what fits the images, and what a method asks for."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from selftaught.data.open_images import DataSettings, open_images
from selftaught.data.store import Images
from selftaught.encoders.encoder import EncoderConfig, build_encoder
from selftaught.encoders.fits import check_range
from selftaught.errors import DataError
from selftaught.foundation import distributed
from selftaught.foundation.machine import Machine
from selftaught.methods import REGISTRY
from selftaught.methods.simclr import SimCLR
from selftaught.recipe import build
from selftaught.recipe.config import Config, ViewSettings, with_overrides
from selftaught.recipe.view_settings import OPERATIONS as SETTINGS_OF
from selftaught.recipe.view_settings import policy_settings, view_policy
from selftaught.training.training import Training
from selftaught.vectors.features import features
from selftaught.views import policy as policies
from selftaught.views.policy import Intensity
from tests.support.resolving import resolved_run
from tests.support.sets import array_set

CPU = torch.device("cpu")


def photographs(folder: Path, *, side: int, number: int = 8) -> Path:
    folder.mkdir()
    noise = np.random.default_rng(0)
    for i in range(number):
        pixels = noise.integers(0, 256, (side, side, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.jpg", quality=20)
    return folder


def test_large_photographs_are_kept_at_the_size_of_the_recipe_only(tmp_path: Path) -> None:
    photos = photographs(tmp_path / "photos", side=700)
    options = {"data": str(photos), "out": tmp_path / "run", "cache": tmp_path / "cache"}
    images = resolved_images(options)
    assert images.store.sizes_N2.tolist() == [[128, 128]] * 8
    kept = sum(file.stat().st_size for file in (tmp_path / "cache").rglob("*") if file.is_file())
    assert kept < 8 * 700 * 700 * 3 / 2


def test_scaling_by_libjpeg_is_a_setting(tmp_path: Path) -> None:
    photos = photographs(tmp_path / "photos", side=200)
    contents = set()
    for dct_scaling in (False, True):
        asked = (f"data.dct_scaling={str(dct_scaling).lower()}",)
        options = {"data": str(photos), "out": tmp_path / "run", "cache": tmp_path}
        options |= {"store_size": 40, "batch_size": 8, "set": asked}
        contents.add(resolved_images(options).content)
    assert len(contents) == 2


def resolved_images(options: dict[str, Any]) -> Images:
    """The images of a run, stored as its configuration says."""
    return open_images(resolved_run(**options).config.data, Machine(cache=options["cache"]))


def small(tmp_path: Path, **changes: object) -> Config:
    array_set(tmp_path, 20, side=16)
    path = str(next(tmp_path.glob("*.npz")))
    config = Config(data=DataSettings(path))
    shape = {"network.image_size": 16, "network.width": 4, "loop.batch_size": 4}
    return build.complete_options(with_overrides(config, shape | changes))


class Asks(SimCLR):
    """A method that watches labels where there are any."""

    wants: ClassVar[frozenset[str]] = frozenset({"labels"})
    views: ClassVar[int] = 2


class Needs(SimCLR):
    """A method that cannot do without labels."""

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})


def training(config: Config, tmp_path: Path) -> Training:
    machine = Machine(threads=1, cache=tmp_path / "cache")
    return build.training_for(config, open_images(config.data, machine), machine)


def test_labels_go_to_methods_that_ask_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("Asks", "Needs"):
        monkeypatch.setitem(REGISTRY, name, f"{__name__}:{name}")
    plain = small(tmp_path)
    assert training(plain, tmp_path).feed.labels is None
    assert training(small(tmp_path, method="Asks"), tmp_path).feed.labels is None
    with pytest.raises(DataError, match="label"):
        training(small(tmp_path, method="Needs"), tmp_path)
    np.savez(
        plain.data.path,
        images=np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8),
        labels=np.arange(20) % 2,
    )
    for name in ("Asks", "Needs"):
        labels = training(small_again(plain, name), tmp_path).feed.labels
        assert labels is not None and labels.tolist() == [0, 1] * 10


def small_again(config: Config, method: str) -> Config:
    return with_overrides(config, {"method": method})


class OneOption(SimCLR):
    """A method without SimCLR's head options."""

    @dataclass(frozen=True)
    class Options:
        """Of this method."""

        temperature: float = 0.3


def test_a_recipe_made_for_another_method_leaves_its_options_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(REGISTRY, "one", f"{__name__}:OneOption")
    photos = photographs(tmp_path / "photos", side=32)
    options = {"data": str(photos), "out": tmp_path / "run", "cache": tmp_path / "cache"}
    assert resolved_run(**options, method="one").config.options == {"temperature": 0.2}


@pytest.mark.parametrize(("high", "fits"), [(255.0, True), (400.0, True), (65535.0, False)])
def test_values_of_another_range_are_refused_and_never_cut_off(
    tmp_path: Path, high: float, fits: bool
) -> None:
    images = array_set(tmp_path, 4, side=16)
    shape = EncoderConfig("resnet8", image_size=16, intensity=Intensity(high=high))
    encoder = build_encoder(shape)
    if fits:
        check_range(encoder, images)
        return
    with pytest.raises(DataError, match="0 to 65535, these images have 0 to 255"):
        check_range(encoder, images)


def test_encoders_in_float64_have_features(tmp_path: Path) -> None:
    images = array_set(tmp_path, 6, side=16)
    encoder = build_encoder(EncoderConfig("resnet8", image_size=16, options={"width": 4}))
    single = features(encoder, images)
    assert np.abs(features(encoder.double(), images) - single).max() < 1e-5


@pytest.mark.parametrize("world", [2, 3, 10, 11, 20, 22])
def test_a_mean_of_ones_over_many_processes_is_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: int
) -> None:
    """The float32 sum of W times 1 / W is not 1 to the bit for W = 10."""
    trained = training(small(tmp_path), tmp_path)

    def in_order(finite: int) -> Callable[[list[torch.Tensor]], None]:
        def mean(tensors: list[torch.Tensor]) -> None:
            for tensor in tensors:
                total = torch.zeros_like(tensor)
                for process in range(world):
                    total += (tensor if process < finite else torch.zeros_like(tensor)) / world
                tensor.copy_(total)

        return mean

    monkeypatch.setattr(distributed, "world", lambda: world)
    for parameter in trained.method.parameters():
        parameter.grad = torch.zeros_like(parameter)
    monkeypatch.setattr(distributed, "all_reduce_mean_", in_order(world))
    assert trained._all_finite(torch.tensor(1.0))
    monkeypatch.setattr(distributed, "all_reduce_mean_", in_order(world - 1))
    assert not trained._all_finite(torch.tensor(1.0))


OPERATIONS = (
    policies.Flip(0.1),
    policies.Rotate(0.2),
    policies.Jitter(0.1, 0.2, 0.3, 0.4, p=0.3),
    policies.ChannelJitter((0.5, 2.0), (-0.2, 0.3), (0.6, 1.5), p=0.4),
    policies.BandDrop(0.25, p=0.5),
    policies.Gray(0.6),
    policies.Solarise(0.4, p=0.7),
    policies.Blur((0.2, 3.0), p=0.8),
    policies.Noise((0.01, 0.2), p=0.9),
    policies.Sobel(0.95),
    policies.Cutout((0.1, 0.6), p=1.0),
)


@given(chosen=st.sets(st.sampled_from(range(len(OPERATIONS)))), bicubic=st.booleans())
def test_a_policy_survives_as_settings(chosen: set[int], bicubic: bool) -> None:
    used = tuple(operation for k, operation in enumerate(OPERATIONS) if k in chosen)
    box = policies.RandomCrop((0.3, 0.7), (0.5, 2.0))
    interpolation: Any = "bicubic" if bicubic else "bilinear"
    policy = policies.Policy(box, used, normalise=False, interpolation=interpolation)
    assert view_policy(with_overrides(Config(), policy_settings(policy)).views) == policy


def test_settings_of_a_policy_are_all_there_are() -> None:
    names = policy_settings(policies.simclr_imagenet()).keys()
    assert names == {f"views.{field.name}" for field in fields(ViewSettings)}


def test_operations_are_done_in_the_order_of_the_policy_module() -> None:
    assert tuple(SETTINGS_OF) == get_args(policies.Operation)
    for kind, names in SETTINGS_OF.items():
        assert {field.name for field in fields(kind)} == names.keys()


def test_ranges_by_default_are_those_of_the_policy_module() -> None:
    for kind, names in SETTINGS_OF.items():
        for field, name in names.items():
            if field != "p":
                assert getattr(ViewSettings(), name) == getattr(kind(), field)
