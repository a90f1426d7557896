"""DeepCluster's networks: against plain calls, their stages, dropout, sizes, folders."""

import math
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from selftaught.encoders.alexnet import FIRST, REST
from selftaught.encoders.convnet import flat_size
from selftaught.encoders.encoder import Encoder, EncoderConfig, build_encoder, encoder_id
from selftaught.encoders.folder import open_encoder, save_encoder
from selftaught.encoders.vgg import _layers
from selftaught.errors import ConfigError
from tests.oracles import deepcluster_networks as oracle

SHAPES = {  # name: architecture, side
    "alexnet": ("alexnet", 96),
    "small alexnet": ("alexnet", 32),
    "vgg16": ("vgg16", 32),
}
ALL = ["small alexnet", *(pytest.param(n, marks=pytest.mark.slow) for n in ("alexnet", "vgg16"))]


def tiny(name: str, **changes: Any) -> Encoder:
    """With few numbers in its fully connected layers, and batch norms that do something."""
    architecture, side = SHAPES[name]
    options = {"fc": 16} | changes.pop("options", {})
    encoder = build_encoder(
        EncoderConfig(architecture, image_size=side, options=options, **changes)
    )
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return encoder


def images(name: str, channels: int = 3) -> Tensor:
    side = SHAPES[name][1]
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0))


def expected(name: str, x: Tensor, encoder: Encoder) -> Tensor:
    weights = encoder.trunk.state_dict()
    if name == "vgg16":
        return oracle.vgg16(x, weights)
    return oracle.alexnet(x, weights, stride=1 if name.startswith("small") else 4)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("front", ["none", "sobel"])
def test_they_are_what_their_description_says(name, front):
    encoder = tiny(name, front=front).double().eval()
    x = images(name).double()
    with torch.no_grad():
        fc7 = expected(name, oracle.sobel(x) if front == "sobel" else x, encoder)
        torch.testing.assert_close(encoder.before_final(x), fc7, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(encoder(x), fc7.relu(), rtol=1e-9, atol=1e-12)
    assert fc7.min() < 0
    assert encoder.dim == 16 and isinstance(encoder.final, nn.ReLU)


STAGES = {
    "alexnet": {"conv1": 4, "conv2": 8, "conv3": 16, "conv4": 16, "conv5": 16},
    "small alexnet": {"conv1": 1, "conv2": 2, "conv3": 4, "conv4": 4, "conv5": 4},
    "vgg16": {"conv1_2": 1, "conv2_2": 2, "conv3_3": 4, "conv4_3": 8, "conv5_3": 16},
}


@pytest.mark.parametrize("name", ALL)
def test_stages_end_with_the_map_before_the_last_pooling(name):
    encoder = tiny(name).eval()
    x = images(name)
    with torch.no_grad():
        maps = encoder.stages(x)
        pooled = encoder.trunk.features[-1](maps[list(maps)[-1]])
        torch.testing.assert_close(
            encoder.trunk.classifier(pooled.flatten(1)), encoder.before_final(x)
        )
    assert encoder.strides == STAGES[name] and list(maps) == list(STAGES[name])
    for stage, info in zip(maps.values(), encoder.trunk.feature_info, strict=True):
        assert stage.shape[1] == info["num_chs"]
        assert abs(stage.shape[2] - x.shape[2] / info["reduction"]) <= 1
        assert stage.min() == 0 < stage.max()  # after the ReLU


def test_stages_take_images_of_any_shape():
    last = list(tiny("small alexnet").eval().stages(torch.randn(1, 3, 64, 48)).values())[-1]
    assert last.shape == (1, 256, 15, 11)


def test_maps_are_not_overwritten_by_later_layers():
    encoder = tiny("small alexnet").eval()
    x = images("small alexnet")
    with torch.no_grad():
        again = nn.Sequential(*encoder.trunk.features[:3])(x)
        assert torch.equal(encoder.stages(x)["conv1"], again)


# Dropout


@pytest.mark.parametrize(("name", "places"), [("alexnet", [0, 3]), ("vgg16", [2])])
@pytest.mark.slow
def test_dropout_stands_where_it_was(name, places):
    classifier = tiny(name).trunk.classifier
    found = [n for n, module in enumerate(classifier) if isinstance(module, nn.Dropout)]
    assert found == places and all(classifier[n].p == 0.5 for n in places)


def test_dropout_follows_torchs_generator_and_can_be_switched_off():
    x = images("small alexnet")

    def passed(encoder: Encoder, seed: int) -> Tensor:
        torch.manual_seed(seed)
        return encoder.before_final(x)

    random, steady = tiny("small alexnet"), tiny("small alexnet", options={"drop_rate": 0.0})
    assert torch.equal(passed(random, 1), passed(random, 1))
    assert not torch.equal(passed(random, 1), passed(random, 2))
    assert torch.equal(passed(steady, 1), passed(steady, 2))


# Beginnings


@pytest.mark.parametrize("name", ALL)
def test_weights_start_as_the_paper_s_did(name):
    architecture, side = SHAPES[name]
    options = {"fc": 128}
    encoder = build_encoder(
        EncoderConfig(architecture, image_size=side, options=options, front="sobel")
    )
    for module in encoder.trunk.modules():
        if isinstance(module, nn.Conv2d):
            std = math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels))
            assert module.weight.std().item() == pytest.approx(std, rel=0.1)
        if isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.01, rel=0.05)
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert not module.bias.any() and abs(module.weight.mean()) < 0.01
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and not module.bias.any()


def test_the_seed_alone_decides_the_weights():
    config = EncoderConfig("alexnet", image_size=32, options={"fc": 16})
    ids = [encoder_id(build_encoder(config, seed=seed)) for seed in (1, 1, 2)]
    assert ids[0] == ids[1] != ids[2]


# Sizes and options


@pytest.mark.parametrize(
    ("stem", "side", "size"),
    [
        ("standard", 224, 9216),
        ("standard", 128, 2304),
        ("standard", 65, 256),
        ("small", 64, 12544),
        ("small", 32, 2304),
        ("small", 28, 1024),
    ],
)
def test_the_first_fully_connected_layer_of_alexnet_follows_from_the_images(stem, side, size):
    assert flat_size("alexnet", (FIRST[stem], *REST), side) == size
    assert 256 * (size // 256) == size


@pytest.mark.parametrize(("side", "size"), [(224, 25088), (96, 4608), (32, 512)])
def test_the_first_fully_connected_layer_of_vgg_follows_from_the_images(side, size):
    assert flat_size("vgg16", _layers(), side) == size


@pytest.mark.parametrize(
    ("architecture", "side", "stem"), [("alexnet", 64, "small"), ("alexnet", 65, "standard")]
)
def test_alexnet_has_a_stem_for_small_images(architecture, side, stem):
    encoder = build_encoder(EncoderConfig(architecture, image_size=side, options={"fc": 4}))
    assert encoder.config.stem == stem
    assert encoder.trunk.features[0].kernel_size == {"small": (5, 5), "standard": (11, 11)}[stem]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"options": {"fc": 0}}, "alexnet: fc = 0"),
        ({"options": {"fc": True}}, "alexnet: fc = True"),
        ({"options": {"fc": 10**6}}, "from 1 to 8192"),
        ({"options": {"drop_rate": 1.0}}, "drop_rate = 1.0"),
        ({"options": {"width": 16}}, "no option 'width'"),
        ({"image_size": 600}, "cannot process images of 600 px"),
        ({"image_size": 40, "stem": "standard"}, "cannot process images of 40 px"),
        ({"architecture": "vgg16", "image_size": 31}, "vgg16 cannot process images of 31 px"),
        ({"architecture": "vgg16", "stem": "small"}, "vgg16 has no small stem"),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_reason(changes, named):
    with pytest.raises(ConfigError, match=named):
        build_encoder(EncoderConfig(**({"architecture": "alexnet", "image_size": 224} | changes)))


# On disk


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("changes", [{"front": "sobel"}, {"options": {"drop_rate": 0.1}}])
def test_they_come_back_to_the_bit(name, changes, tmp_path):
    encoder = tiny(name, **changes)
    save_encoder(encoder, tmp_path / "there")
    found = open_encoder(str(tmp_path / "there"))
    assert found.config == encoder.config and encoder_id(found) == encoder_id(encoder)
    x = images(name)
    with torch.no_grad():
        assert torch.equal(found.eval()(x), encoder.eval()(x))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (EncoderConfig("alexnet", options={"fc": 4}), "it has no alexnet"),
        (EncoderConfig("vgg16", image_size=32, options={"fc": 4}), "its vgg16 has no batch norm"),
        (EncoderConfig("test_resnet", image_size=65, front="sobel"), "Sobel filters precede it"),
    ],
)
def test_timm_does_not_load_another_network_in_their_place(config, reason, tmp_path):
    save_encoder(build_encoder(config), tmp_path / "there")
    card = (tmp_path / "there/README.md").read_text()
    assert f"timm cannot express this network ({reason}" in card and "import timm" not in card
    with pytest.raises(RuntimeError):
        timm.create_model(f"local-dir:{tmp_path / 'there'}", pretrained=True)


@pytest.mark.parametrize("name", ["timm:vgg16", "timm:vgg16.tv_in1k"])
def test_timms_vgg16_is_hidden_by_ours(name):
    with pytest.raises(
        ConfigError, match=r"selftaught's own network hides timm's vgg16.*: use timm:vgg16_bn"
    ):
        open_encoder(name)
