"""Encoders: networks, stems, stages, initialisation, preprocessing, identity."""

import dataclasses
import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms.v2 import functional as tv

from selftaught.data.decode import decode
from selftaught.encoders.encoder import EncoderConfig, build_encoder, encoder_id
from selftaught.encoders.resnet import CIFAR_RESNETS, Block
from selftaught.errors import ConfigError, DataError
from selftaught.views.policy import Intensity
from tests.oracles.deepcluster_networks import sobel

TINY = EncoderConfig("resnet8", image_size=32, options={"width": 4})
PLAIN = Intensity(mean=(0.0,) * 3, std=(1.0,) * 3)


def small(architecture: str = "resnet8", **changes: Any) -> EncoderConfig:
    return EncoderConfig(architecture, **({"image_size": 32} | changes))


def weights(encoder: nn.Module) -> list[Tensor]:
    return [t.clone() for t in encoder.state_dict().values()]


def photograph(height: int = 50, width: int = 40, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


# The networks of He et al.


def test_the_small_encoder_costs_6_25_mflop_an_image():
    encoder = build_encoder(small(options={"width": 16, "stem_stride": 2}))
    with FlopCounterMode(display=False) as counter:
        encoder(torch.zeros(2, 3, 32, 32))
    assert counter.get_total_flops() / 2 == 6_250_496
    assert encoder.dim == 64


@pytest.mark.parametrize(("name", "n"), CIFAR_RESNETS.items())
def test_a_cifar_resnet_has_6n_plus_2_layers_with_the_classifier(name, n):
    trunk = build_encoder(small(name)).trunk
    convolutions = [m for m in trunk.modules() if isinstance(m, nn.Conv2d)]
    assert sum(c.kernel_size == (3, 3) for c in convolutions) + 1 == 6 * n + 2
    assert [getattr(trunk, f"layer{s}")[0].conv2.out_channels for s in (1, 2, 3)] == [16, 32, 64]


@pytest.mark.parametrize(("c_in", "c_out", "stride"), [(4, 4, 1), (4, 8, 2), (8, 8, 2), (4, 8, 1)])
def test_a_block_is_timms_basic_block(c_in, c_out, stride):
    from timm.models.resnet import BasicBlock

    ours = Block(c_in, c_out, stride=stride).double()
    nn.init.normal_(ours.bn2.weight)
    down = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))
    theirs = BasicBlock(c_in, c_out, stride, down if len(ours.shortcut) else None).double()
    state = {k.replace("shortcut", "downsample"): v for k, v in ours.state_dict().items()}
    theirs.load_state_dict(state)
    x = torch.randn(3, c_in, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(ours(x.clone()), theirs(x.clone()), rtol=0, atol=1e-12)


@pytest.mark.parametrize("config", [TINY, small("test_resnet")])
def test_the_last_batch_norm_of_every_block_starts_at_zero(config):
    trunk = build_encoder(config).trunk
    last = [m for name, m in trunk.named_modules() if name.endswith(("bn2", "bn3"))]
    blocks = [m for m in trunk.modules() if hasattr(m, "conv2")]
    zero = [m for m in last if isinstance(m, nn.BatchNorm2d) and not m.weight.any()]
    assert len(zero) == len(blocks) > 0


@pytest.mark.parametrize(
    "options",
    [{"depth": 3}, {"width": 0}, {"width": 10**9}, {"stem_stride": True}, {"width": "16"}],
)
def test_options_of_a_cifar_resnet_are_checked(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        build_encoder(small(options=options))


# Networks by name


def test_an_unknown_network_names_the_nearest():
    with pytest.raises(ConfigError, match="'resnt18': did you mean 'resnet18'"):
        build_encoder(small("resnt18"))
    with pytest.raises(ConfigError, match="did you mean 'resnet8'"):
        build_encoder(small("resnet_8"))


@pytest.mark.parametrize("name", ["qqqqzzzz", "hf-hub:a/b", "local-dir:/tmp", "", "resnet18.tag"])
def test_a_name_never_reaches_the_network_or_the_disk(name):
    with pytest.raises(ConfigError) as error:
        build_encoder(small(name))
    assert "unknown encoder" in error.value.what
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    "options",
    [{"width": 16}, {"checkpoint_path": "x.pth"}, {"pretrained_cfg": {}}, {"drop_rate": "high"}],
)
def test_options_of_a_network_of_timms_are_checked(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        build_encoder(small("test_resnet", options=options))


def test_dropout_is_an_option_of_timms_networks():
    encoder = build_encoder(small("test_resnet", options={"drop_rate": 0.5}))
    x = torch.ones(1, 3, 32, 32)
    encoder.trunk.apply(lambda m: m.eval() if isinstance(m, nn.BatchNorm2d) else None)
    assert not torch.equal(encoder(x), encoder(x))
    encoder.eval()
    assert torch.equal(encoder(x), encoder(x))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"front": "sobl"}, "unknown front 'sobl': did you mean 'sobel'"),
        ({"stem": "smal"}, "did you mean 'small'"),
        ({"stem": "standard"}, "no standard stem"),
        ({"image_size": 0}, "image_size = 0"),
        ({"image_size": 10**6}, "image_size = 1000000"),
        ({"in_channels": -1}, "in_channels = -1"),
        ({"architecture": "test_vit", "stem": "small"}, "no small stem"),
        ({"architecture": "test_vit", "image_size": 8}, "cannot process images of 8 px"),
        ({"in_channels": 2, "intensity": PLAIN}, "mean and std have 3 and 3 values for 2 channels"),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_reason(changes, named):
    with pytest.raises(ConfigError, match=named):
        build_encoder(dataclasses.replace(TINY, **{"options": {}, **changes}))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
@pytest.mark.parametrize(("side", "channels"), [(32, 1), (96, 5)])
def test_every_stage_has_a_name_and_a_stride(name, side, channels):
    encoder = build_encoder(small(name, image_size=side, in_channels=channels)).eval()
    x = torch.randn(2, channels, side, side)
    with torch.no_grad():
        maps, h = encoder.stages(x), encoder(x)
    assert list(maps) == list(encoder.strides)
    assert [m.shape[2:] for m in maps.values()] == [
        (side // s,) * 2 for s in encoder.strides.values()
    ]
    assert h.shape == (2, encoder.dim)
    assert isinstance(encoder.final, nn.Identity)


@pytest.mark.parametrize(
    "config", [small("resnet20", options={"width": 4, "stem_stride": 2}), small("test_resnet")]
)
def test_h_is_the_mean_of_the_last_map(config):
    encoder = build_encoder(config).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        *_, last = encoder.stages(x).values()
        torch.testing.assert_close(last.mean((2, 3)), encoder(x))


def test_stages_that_share_a_module_get_numbers():
    encoder = build_encoder(small("coat_tiny", image_size=64))
    assert encoder.strides == {"stage0": 4, "stage1": 8, "stage2": 16, "stage3": 32}


# The stem for small images


@pytest.mark.parametrize(
    ("architecture", "side", "stem", "resolved"),
    [
        ("test_resnet", 64, "auto", "small"),
        ("test_resnet", 65, "auto", "standard"),
        ("test_resnet", 32, "standard", "standard"),
        ("test_resnet", 96, "small", "small"),
        ("test_vit", 32, "auto", "standard"),
        ("resnet8", 96, "auto", "small"),
    ],
)
def test_the_stem_follows_the_size_of_the_images(architecture, side, stem, resolved):
    config = EncoderConfig(architecture, image_size=side, stem=stem)
    assert build_encoder(config).config == dataclasses.replace(config, stem=resolved)


@pytest.mark.parametrize("name", ["resnet18", "resnet10t"])  # a 7x7 stem, and a deep one
def test_the_small_stem_keeps_the_resolution_and_the_other_names(name):
    stride1 = build_encoder(small(name, image_size=16))
    assert list(stride1.strides.values()) == [1, 1, 2, 4, 8]
    stem = stride1.trunk.conv1
    assert (stem.kernel_size, stem.stride, stem.out_channels) == ((3, 3), (1, 1), 64)
    assert isinstance(stride1.trunk.maxpool, nn.Identity)
    with torch.no_grad():
        maps = stride1.eval().stages(torch.zeros(1, 3, 16, 16))
    assert [m.shape[2] for m in maps.values()] == [16, 16, 8, 4, 2]


# Sobel filters in front of any network


@pytest.mark.parametrize("name", ["resnet8", "test_resnet", "test_vit", "test_convnext"])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_any_network_reads_the_gradients_in_place_of_the_channels(name, channels):
    encoder = build_encoder(small(name, in_channels=channels, front="sobel")).eval()
    x = torch.randn(2, channels, 32, 32)
    gradients = sobel(x)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x), encoder.final(encoder.trunk(gradients)))
        maps = encoder.stages(x)
        expected = encoder.trunk.forward_intermediates(gradients, intermediates_only=True)
    for found, wanted in zip(maps.values(), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    first = next(m for m in encoder.modules() if isinstance(m, nn.Conv2d))
    assert first.in_channels == 2
    assert encoder.before_final(x).shape == (2, encoder.dim)


def test_the_filters_see_the_normalised_image_and_not_its_colour():
    encoder = build_encoder(small(front="sobel"))
    x = encoder.preprocess(photograph())
    torch.testing.assert_close(encoder.front(x), sobel(x))
    coloured = x + torch.tensor([1.0, -3.0, 2.0])[:, None, None]  # the mean stays
    torch.testing.assert_close(encoder.front(coloured), encoder.front(x), rtol=0, atol=1e-5)


def test_the_filters_are_no_parameters_and_in_no_checkpoint():
    plain, filtered = build_encoder(small()), build_encoder(small(front="sobel"))
    assert plain.state_dict().keys() == filtered.state_dict().keys()
    assert len(list(filtered.parameters())) == len(list(plain.parameters()))
    assert not list(filtered.front.parameters())
    assert encoder_id(plain) != encoder_id(filtered)
    assert filtered.double().front(torch.ones(1, 3, 8, 8).double()).dtype == torch.float64


def test_the_filters_keep_their_digits_under_autocast():
    front = build_encoder(small(front="sobel")).front
    x = torch.randn(1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = front(x)
    assert torch.equal(found, front(x))


# Initialisation


@pytest.mark.parametrize("config", [TINY, small("test_resnet"), small("test_vit")])
def test_the_seed_alone_decides_the_weights(config):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build_encoder(config, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again, other = build_encoder(config, seed=1), build_encoder(config, seed=2)
    assert encoder_id(first) == encoder_id(again) != encoder_id(other)
    assert all(map(torch.equal, weights(first), weights(again)))


def test_building_leaves_batch_norm_untouched_and_in_training_mode():
    encoder = build_encoder(TINY)
    assert encoder.training and encoder.trunk.bn1.training
    assert encoder.trunk.bn1.num_batches_tracked == 0
    assert not encoder.trunk.bn1.running_mean.any()


# From images to input


@pytest.mark.parametrize(("side", "crop"), [(32, 40), (48, 35)])  # all of it; the central 87.5 %
def test_preprocess_is_crop_resize_normalise(side, crop):
    image = photograph(50, 40)
    x = build_encoder(dataclasses.replace(TINY, image_size=side)).preprocess(image)
    unit = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    cut = tv.center_crop(unit, [crop, crop])
    resized = tv.resize(cut, [side, side], antialias=True)
    expected = tv.normalize(resized, list(Intensity().mean), list(Intensity().std))
    assert x.shape == (1, 3, side, side) and x.dtype == torch.float32
    torch.testing.assert_close(x, expected, rtol=0, atol=2e-5)


def test_preprocess_takes_pictures_arrays_and_lists_of_different_sizes():
    encoder = build_encoder(TINY)
    first, second = photograph(50, 40), photograph(33, 70)
    together = encoder.preprocess([Image.fromarray(first), second])
    assert torch.equal(together[:1], encoder.preprocess(first))
    assert torch.equal(together[1:], encoder.preprocess(Image.fromarray(second)))
    assert torch.equal(encoder.preprocess(np.stack([first] * 3))[2:], together[:1])


def test_preprocess_leaves_its_images_alone():
    image = photograph()
    image.flags.writeable = False
    before = image.copy()
    build_encoder(TINY).preprocess(image)
    assert np.array_equal(image, before)


def test_grey_is_repeated_for_a_colour_encoder():
    grey = photograph(channels=1)
    encoder = build_encoder(TINY)
    x = encoder.preprocess(grey)
    assert torch.equal(x, encoder.preprocess(np.repeat(grey, 3, axis=2)))
    assert torch.equal(x, encoder.preprocess(grey[:, :, 0]))
    assert torch.equal(x, encoder.preprocess(Image.fromarray(grey[:, :, 0])))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_colour_becomes_pillows_luminance_for_a_grey_encoder(dtype):
    scale = 257 if dtype == "uint16" else 1
    intensity = Intensity(high=255.0 * scale, mean=(0.5,), std=(0.2,))
    encoder = build_encoder(dataclasses.replace(TINY, in_channels=1, intensity=intensity))
    image = photograph()
    luminance = np.asarray(Image.fromarray(image).convert("L"))
    x = encoder.preprocess((image * np.array(scale, dtype)).astype(dtype))
    expected = encoder.preprocess((luminance * np.array(scale, dtype)).astype(dtype))
    rounding = 0 if dtype == "uint8" else 0.5 / 255 / 0.2 + 1e-5
    torch.testing.assert_close(x, expected, rtol=0, atol=rounding)


@pytest.mark.parametrize(
    ("image", "named"),
    [
        (np.zeros((8, 8, 2), np.uint8), "2 channels, the encoder takes 3"),
        (np.zeros((8, 8, 3)), "float64"),
        (np.zeros((8, 0, 3), np.uint8), r"shape \(8, 0, 3\)"),
        (np.zeros(8, np.uint8), r"shape \(8,\)"),
        (np.full((8, 8, 3), np.nan, np.float32), "not finite"),
        ([], "no images"),
    ],
)
def test_what_is_no_image_is_refused(image, named):
    with pytest.raises(DataError, match=named):
        build_encoder(TINY).preprocess(image)


def test_sixteen_bits_keep_their_range():
    deep = photograph().astype(np.uint16) * 257
    wide = build_encoder(dataclasses.replace(TINY, intensity=Intensity(high=65535.0)))
    x = wide.preprocess(Image.fromarray(deep[:, :, 0]))
    expected = build_encoder(TINY).preprocess(photograph()[:, :, :1])
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-5)


def test_a_picture_becomes_what_its_file_becomes():
    """Turned by EXIF, transparent, palette, more than 16 bits: as in training."""
    turned = Image.Exif()
    turned[0x0112] = 6
    pictures = {
        "jpeg": (Image.fromarray(photograph()), {"exif": turned}),
        "png": (Image.new("RGBA", (40, 40), (255, 0, 0, 100)), {}),
        "gif": (Image.fromarray(photograph()).quantize(16), {}),
        "tiff": (Image.fromarray(photograph()[:, :, 0].astype(np.int32) * 1000), {}),
    }
    for kind, (picture, how) in pictures.items():
        file = io.BytesIO()
        picture.save(file, kind, **how)
        encoder = build_encoder(dataclasses.replace(TINY, intensity=Intensity(high=255000.0)))
        with Image.open(file) as opened:
            x = encoder.preprocess(opened)
        assert torch.equal(x, encoder.preprocess(decode(file.getvalue(), kind))), kind


def test_a_default_intensity_becomes_one_for_other_channel_counts():
    intensity = build_encoder(small(in_channels=2)).config.intensity
    assert intensity.mean == pytest.approx((0.449, 0.449))
    assert intensity.std == pytest.approx((0.226, 0.226))


# Identity


def test_the_identity_sees_the_last_bit_of_every_tensor():
    encoder = build_encoder(TINY)
    seen = {encoder_id(encoder)}
    tensors = list(encoder.state_dict().values())
    for tensor in tensors:
        tensor.view(-1).view(torch.uint8)[0] ^= 1
        seen.add(encoder_id(encoder))
    assert len(seen) == len(tensors) + 1


def test_the_identity_sees_the_configuration():
    configs = [
        TINY,
        dataclasses.replace(TINY, image_size=33),
        dataclasses.replace(TINY, intensity=Intensity(high=254.0)),
        dataclasses.replace(TINY, intensity=Intensity(std=(0.229, 0.224, 0.2250001))),
    ]
    assert len({encoder_id(build_encoder(config)) for config in configs}) == len(configs)


def test_the_identity_does_not_see_mode_or_memory_format():
    encoder = build_encoder(TINY)
    before = encoder_id(encoder)
    assert encoder_id(encoder.eval().to(memory_format=torch.channels_last)) == before
