"""From options to a resolved configuration: what wins over what, and what is never dropped."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from selftaught import config as configuration
from selftaught.answer import meanwhile
from selftaught.config import Config, with_overrides
from selftaught.encoders.encoder import EncoderConfig, build
from selftaught.encoders.folder import save_encoder
from selftaught.errors import ConfigError
from selftaught.options import Pretrain
from selftaught.presets import preset
from selftaught.resolve import Resolved, resolve
from tests.support.mistakes import write_images


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "photos", 32, side=48)


@pytest.fixture
def resolved(photos: Path, tmp_path: Path) -> Any:
    def call(device: str = "cpu", **options: Any) -> Resolved:
        options = {"data": str(photos), "out": tmp_path / "run", "cache": tmp_path} | options
        return resolve(Pretrain(**options), torch.device(device))

    return call


def network(found: Resolved) -> tuple[str, int | None, int | None]:
    chosen = found.config.network
    return chosen.encoder, chosen.width, chosen.stem_stride


def test_the_recipe_of_the_device(resolved: Any) -> None:
    assert network(resolved()) == ("resnet8", 16, 2)
    assert network(resolved("cuda")) == ("resnet18", None, None)


def test_another_small_resnet_keeps_the_options_of_the_recipe(resolved: Any) -> None:
    assert network(resolved(encoder="resnet20")) == ("resnet20", 16, 2)
    assert network(resolved(encoder="resnet20", set=("network.width=8",))) == ("resnet20", 8, 2)


@pytest.mark.parametrize("encoder", ["resnet18", "vit_tiny_patch16_224"])
def test_options_go_with_the_network_that_they_were_for(resolved: Any, encoder: str) -> None:
    assert network(resolved(encoder=encoder)) == (encoder, None, None)
    assert network(resolved(encoder=encoder, preset="small")) == (encoder, None, None)


def test_options_that_were_asked_for_are_kept_even_where_they_are_wrong(
    resolved: Any, tmp_path: Path
) -> None:
    asked = {"encoder": "resnet50", "set": ("network.width=32",)}
    assert network(resolved(**asked)) == ("resnet50", 32, None)
    wrong = with_overrides(Config(), {"network.encoder": "resnet50", "network.width": 32})
    configuration.write(wrong, tmp_path / "c.yaml")
    assert network(resolved(config=tmp_path / "c.yaml")) == ("resnet50", 32, None)


def test_a_flag_wins_over_set_and_set_over_the_rest(resolved: Any, tmp_path: Path) -> None:
    written = with_overrides(Config(), {"loop.lr": 3.0, "loop.momentum": 0.3, "seed": 3})
    configuration.write(written, tmp_path / "c.yaml")
    found = resolved(config=tmp_path / "c.yaml", lr=1.0, set=("loop.lr=2", "loop.momentum=0.2"))
    assert (found.config.loop.lr, found.config.loop.momentum, found.config.seed) == (1.0, 0.2, 3)
    assert resolved(preset="small", lr=1.0).config.loop.lr == 1.0
    assert resolved(preset="small").config.loop.lr == preset("small")["loop.lr"]


def test_the_size_asked_for_by_set_is_the_size_that_the_recipe_is_for(resolved: Any) -> None:
    by_flag, by_set = resolved(image_size=16), resolved(set=("network.image_size=16",))
    assert by_flag.config == by_set.config
    assert by_flag.config.data.store_size == 32  # 48 px are more than twice as many


def test_the_network_of_init_and_a_recipe_for_its_size(resolved: Any, tmp_path: Path) -> None:
    shape = EncoderConfig("resnet20", in_channels=1, image_size=16, options={"width": 4})
    save_encoder(build(shape), tmp_path / "encoder")
    found = resolved(init=str(tmp_path / "encoder"))
    assert network(found) == ("resnet20", 4, None)
    assert (found.config.network.image_size, found.config.data.store_size) == (16, 32)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"encoder": "resnet8"}, "--encoder"),
        ({"image_size": 32}, "--image-size"),
        ({"set": ("network.width=8",)}, "--set network.width"),
    ],
)
def test_init_contradicts_another_network(
    resolved: Any, tmp_path: Path, options: dict[str, Any], named: str
) -> None:
    save_encoder(build(EncoderConfig("resnet8", in_channels=1)), tmp_path / "encoder")
    with pytest.raises(ConfigError, match=f"leave {named} out"):
        resolved(init=str(tmp_path / "encoder"), **options)


def test_the_echo_is_short_and_says_what_was_resolved(resolved: Any) -> None:
    echo = resolved(encoder="resnet20", epochs=7).echo
    assert "resnet20" in echo and "7 epochs" in echo and "resnet8" not in echo
    assert "selftaught check" in echo and len(echo.splitlines()) == 2
    assert len(resolved(preset="small").echo.splitlines()) == 1


def test_a_configuration_fed_back_resolves_to_itself(resolved: Any, tmp_path: Path) -> None:
    found = resolved(epochs=3, encoder="resnet20", set=("temperature=0.3",)).config
    configuration.write(found, tmp_path / "c.yaml")
    assert resolved(config=tmp_path / "c.yaml", data="").config == found


def test_long_work_is_announced_and_short_work_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with meanwhile("slow", after=0.01):
        time.sleep(0.5)
    with meanwhile("fast", after=30.0):
        pass
    assert capsys.readouterr().err == "slow\n"
