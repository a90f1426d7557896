"""From options to a resolved configuration: what wins over what, and what is never dropped."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selftaught.encoders.encoder import EncoderConfig, build_encoder
from selftaught.encoders.folder import save_encoder
from selftaught.errors import ConfigError
from selftaught.foundation.progress import notice_if_slow
from selftaught.options.train import Preview
from selftaught.recipe import config as configuration
from selftaught.recipe.config import Config, with_overrides
from selftaught.recipe.presets import preset
from tests.support.mistakes import write_images
from tests.support.resolving import ResolvedRun, resolved_preview, resolved_run


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "photos", 32, side=48)


@pytest.fixture
def resolved(photos: Path, tmp_path: Path) -> Any:
    def call(device: str = "cpu", **options: Any) -> ResolvedRun:
        options = {"data": str(photos), "out": tmp_path / "run", "cache": tmp_path} | options
        return resolved_run(device, **options)

    return call


def network(found: ResolvedRun) -> tuple[str, int | None, int | None]:
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
    configuration.write_config(wrong, tmp_path / "c.yaml")
    assert network(resolved(config=tmp_path / "c.yaml")) == ("resnet50", 32, None)


def test_a_flag_wins_over_set_and_set_over_the_rest(resolved: Any, tmp_path: Path) -> None:
    written = with_overrides(Config(), {"loop.lr": 3.0, "loop.momentum": 0.3, "seed": 3})
    configuration.write_config(written, tmp_path / "c.yaml")
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
    save_encoder(build_encoder(shape), tmp_path / "encoder")
    found = resolved(init=str(tmp_path / "encoder"))
    assert network(found) == ("resnet20", 4, None)
    assert (found.config.network.image_size, found.config.data.store_size) == (16, 32)


@pytest.mark.slow
def test_what_a_method_asks_for_goes_with_its_network(resolved: Any, tmp_path: Path) -> None:
    def rate(**options: Any) -> float:
        loop = resolved(method="deepcluster", set=("k=2",), **options).config.loop
        assert (loop.optimizer, loop.schedule, loop.weight_decay) == ("sgd", "constant", 1e-5)
        return float(loop.lr)

    assert rate() == rate(encoder="resnet20") == 1.0  # few features
    assert rate(encoder="alexnet", image_size=32) == 0.05  # the paper
    assert rate(encoder="resnet18") == 0.1
    assert rate(lr=3.0) == 3.0
    save_encoder(
        build_encoder(EncoderConfig("alexnet", 1, 32, front="sobel")), tmp_path / "encoder"
    )
    assert rate(init=str(tmp_path / "encoder")) == 0.05
    assert resolved().config.loop.optimizer == "adamw"
    assert rate(preset="small") == 1.0, "a preset is another method's"
    written = resolved(method="deepcluster", set=("k=2", "loop.lr=0.3")).config
    configuration.write_config(written, tmp_path / "c.yaml")
    assert resolved(config=tmp_path / "c.yaml").config.loop.lr == 0.3


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
    save_encoder(build_encoder(EncoderConfig("resnet8", in_channels=1)), tmp_path / "encoder")
    with pytest.raises(ConfigError, match=f": drop {named}"):
        resolved(init=str(tmp_path / "encoder"), **options)


def test_the_echo_is_short_and_says_what_was_resolved(resolved: Any) -> None:
    echo = resolved(encoder="resnet20", epochs=7).echo
    assert "resnet20" in echo and "7 epochs" in echo and "resnet8" not in echo
    assert "selftaught check" in echo and len(echo.splitlines()) == 2
    assert len(resolved(preset="small", set=("views.gray=0",)).echo.splitlines()) == 1


def test_a_configuration_fed_back_resolves_to_itself(resolved: Any, tmp_path: Path) -> None:
    found = resolved(epochs=3, encoder="resnet20", set=("temperature=0.3",)).config
    configuration.write_config(found, tmp_path / "c.yaml")
    assert resolved(config=tmp_path / "c.yaml", data="").config == found


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_images(tmp_path_factory.mktemp("images") / "colours", 8, channels=3))


PHOTOMETRIC = ("jitter", "channel_jitter", "band_drop", "gray", "solarise", "sobel")


def test_keep_acts_on_the_recipe_and_is_written_down(resolved: Any, colours: str) -> None:
    some = {"data": colours, "set": ("views.blur=0.3",)}
    before, found = resolved(**some), resolved(keep=("colour", "orientation"), **some)
    gone = dict.fromkeys((*PHOTOMETRIC, "flip", "rotate"), 0.0)
    assert found.config.views == replace(before.config.views, **gone)
    assert found.config == replace(before.config, views=found.config.views)
    assert found.echo.splitlines()[2:] == [
        "--keep colour turns off colour jitter, colour drop, "
        "so that the encoder does not learn to ignore colour.",
        "--keep orientation turns off mirroring, "
        "so that the encoder does not learn to ignore orientation.",
    ]


def test_keep_promises_nothing_where_set_wins(resolved: Any, colours: str) -> None:
    echo = resolved(data=colours, keep=("scale",), set=("views.crop_scale=0.2,1",)).echo
    assert echo.splitlines()[2] == (
        "--keep scale turns off crops of various shapes. views.crop_scale stays as set with --set."
    )


@pytest.mark.parametrize(
    "words", [("colour", "scale"), ("scale", "colour"), ("scale", "colour") * 2]
)
def test_keep_is_the_same_in_any_order(resolved: Any, colours: str, words: tuple[str, ...]) -> None:
    views = resolved(data=colours, keep=words).config.views
    assert (views.crop_scale, views.crop_ratio) == ((0.5, 0.5), (1.0, 1.0))
    assert not any(getattr(views, name) for name in PHOTOMETRIC) and views.flip == 0.5


def test_set_is_stronger_than_keep_and_the_echo_says_so(resolved: Any, colours: str) -> None:
    asked = ("views.jitter=0.4", "views.hue=0")
    found = resolved(data=colours, keep=("colour",), set=asked)
    assert (found.config.views.jitter, found.config.views.gray) == (0.4, 0.0)
    assert found.echo.endswith("turns off colour drop. views.jitter stays as set with --set.")


def test_keep_is_stronger_than_a_preset_and_a_configuration(
    resolved: Any, colours: str, tmp_path: Path
) -> None:
    few = {"data": colours, "batch_size": 4, "keep": ("orientation",)}
    assert resolved(preset="small", **few).config.views.flip == 0.0
    written = with_overrides(Config(), {"views.rotate": 0.5, "network.width": 4})
    configuration.write_config(written, tmp_path / "c.yaml")
    found = resolved(config=tmp_path / "c.yaml", **few)
    assert (found.config.views.flip, found.config.views.rotate) == (0.0, 0.0)
    assert "mirroring, rotation" in found.echo
    configuration.write_config(found.config, tmp_path / "kept.yaml")
    again = resolved(config=tmp_path / "kept.yaml", data=colours)
    assert again.config == found.config
    assert "no effect" in resolved(config=tmp_path / "kept.yaml", **few).echo


def test_a_presets_colour_drop_is_left_out_of_images_without_colours(
    resolved: Any, tmp_path: Path
) -> None:
    found = resolved(preset="simclr-cifar10", batch_size=16)
    assert found.config.views == replace(
        with_overrides(Config(), preset("simclr-cifar10")).views, gray=0.0
    )
    assert found.echo.endswith("it needs 3 channels, and these images have 1 channel.")
    for asked in ({"set": ("views.gray=0.1",)}, {"set": ("views.band_drop=0.1",)}):
        with pytest.raises(ConfigError, match=r"channels.*views\.\w+=0"):
            resolved(preset="small", **asked)
    configuration.write_config(Config(), tmp_path / "c.yaml")  # of images with colours
    assert resolved(config=tmp_path / "c.yaml").config.views == replace(Config().views, gray=0.0)


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"image_size": 16},
        {"set": ("network.image_size=16", "views.solarise=0.3")},
        {"keep": ("scale", "colour"), "set": ("views.jitter=1",)},
    ],
)
def test_views_are_those_of_pretrain_with_the_same_flags(
    resolved: Any, photos: Path, tmp_path: Path, flags: dict[str, Any]
) -> None:
    options = Preview(data=str(photos), out=tmp_path / "v.png", cache=tmp_path, **flags)
    drawn, trained = resolved_preview(options), resolved(**flags)
    assert drawn.config.views == trained.config.views
    assert drawn.config.network == trained.config.network
    assert drawn.config.data == trained.config.data
    assert drawn.echo in trained.echo


def test_a_policy_by_name_is_weaker_than_keep(photos: Path, tmp_path: Path) -> None:
    options = Preview(
        data=str(photos), out=tmp_path / "v.png", cache=tmp_path, policy="simclr_cifar"
    )
    found = resolved_preview(options)
    assert (found.config.views.crop_scale, found.config.views.gray) == ((0.08, 1.0), 0.0)
    assert found.echo.startswith("Colour drop is off")
    kept = resolved_preview(replace(options, keep=("scale",)))
    assert kept.config.views.crop_scale == (0.5, 0.5)


def test_long_work_is_announced_and_short_work_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with notice_if_slow("slow", after=0.01):
        time.sleep(0.5)
    with notice_if_slow("fast", after=30.0):
        pass
    assert capsys.readouterr().err == "slow\n"
