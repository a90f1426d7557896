"""Export: the same outputs in timm and torchvision, or nothing and the reason."""

from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file
from torch import nn

from selftaught.encoders.encoder import Encoder, EncoderConfig, build_encoder, encoder_id
from selftaught.encoders.export_formats import (
    _TARGETS,
    TOLERANCE,
    export_encoder,
    largest_difference,
)
from selftaught.errors import ConfigError, DataError, FileError

PICTURES = [np.random.default_rng(n).integers(0, 256, (70 + n, 80, 3), np.uint8) for n in range(3)]


def trained(architecture: str, **changes: Any) -> Encoder:
    """An encoder whose batch norms are not those of a new one, in which the blocks do nothing."""
    config = EncoderConfig(architecture, **({"image_size": 64, "stem": "standard"} | changes))
    encoder = build_encoder(config, seed=1)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1)
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return encoder


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit", "test_convnext"])
def test_timm_gives_the_same_outputs(architecture, tmp_path):
    encoder = trained(architecture)
    assert export_encoder(encoder, "timm", tmp_path / "out", PICTURES) <= TOLERANCE
    theirs = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    x = encoder.preprocess(PICTURES)
    with torch.no_grad():
        torch.testing.assert_close(theirs(x), encoder.eval()(x), rtol=0, atol=1e-5)
    assert "timm.create_model" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_torchvision_gives_the_same_outputs_as_the_card_says(tmp_path):
    encoder = trained("resnet18")
    assert export_encoder(encoder, "torchvision", tmp_path / "out", PICTURES) <= TOLERANCE
    theirs = torchvision.models.resnet18(weights=None)
    theirs.fc = nn.Identity()
    theirs.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"))
    x = encoder.preprocess(PICTURES)
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(x), encoder.eval()(x), rtol=1e-5, atol=1e-5)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "torchvision.models.resnet18(weights=None)" in card
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


def test_the_encoder_is_left_as_it_was(tmp_path):
    encoder = trained("test_resnet").to(memory_format=torch.channels_last)
    before = encoder_id(encoder)
    export_encoder(encoder, "timm", tmp_path / "out", PICTURES)
    assert encoder.training
    assert encoder_id(encoder) == before


@pytest.mark.parametrize(
    ("to", "config", "reason"),
    [
        ("timm", {"architecture": "resnet8", "stem": "auto"}, "has no resnet8"),
        ("timm", {"architecture": "test_resnet", "stem": "small"}, "no small stem"),
        ("torchvision", {"architecture": "resnet20", "stem": "auto"}, "only resnet18, resnet34"),
        ("torchvision", {"architecture": "resnet18", "stem": "small"}, "no small stem"),
        ("torchvision", {"architecture": "resnet18", "in_channels": 1}, "this one takes 1"),
        ("torchvision", {"architecture": "test_vit"}, "only resnet18, resnet34"),
        ("timm", {"architecture": "alexnet", "options": {"fc": 4}}, "it has no alexnet; load it"),
        ("timm", {"architecture": "vgg16", "options": {"fc": 4}}, "its vgg16 has no batch norm"),
        ("timm", {"architecture": "test_resnet", "front": "sobel"}, "Sobel filters precede it"),
        ("torchvision", {"architecture": "resnet18", "front": "sobel"}, "Sobel filters precede"),
        ("torchvision", {"architecture": "alexnet", "options": {"fc": 4}}, "has no batch norm"),
        ("torchvision", {"architecture": "vgg16", "options": {"fc": 4}}, "has no batch norm"),
        ("tim", {"architecture": "test_resnet"}, "did you mean 'timm'"),
    ],
)
def test_what_a_library_cannot_express_is_refused_with_the_reason(to, config, reason, tmp_path):
    encoder = trained(**config)
    with pytest.raises(ConfigError, match=reason):
        export_encoder(encoder, to, tmp_path / "out", PICTURES)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("difference", [0.5, 1e-3, float("nan")])
def test_other_outputs_leave_nothing_behind(difference, tmp_path, monkeypatch):
    encoder = trained("test_resnet")

    class Other(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return encoder.eval()(x) + difference

    monkeypatch.setitem(_TARGETS, "timm", (lambda e: "", lambda e, folder: Other(), ""))
    with pytest.raises(FileError, match="outputs of timm and of this encoder differ"):
        export_encoder(encoder, "timm", tmp_path / "out", PICTURES)
    assert not list(tmp_path.iterdir())


def test_a_comparison_needs_images(tmp_path):
    with pytest.raises(DataError, match="no images"):
        export_encoder(trained("test_resnet"), "timm", tmp_path / "out", [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("scale", "expected"), [(0.01, 0.01), (50.0, 0.5 / 25)])
def test_the_difference_is_relative_to_large_outputs_only(scale, expected):
    """One output of two is off: by 0.01 where all are below 1, by 0.5 where the largest is 25."""
    encoder = trained("test_resnet").eval()
    error = 0.01 if scale < 1 else 0.5
    picture = PICTURES[:1]

    class Constant(nn.Module):
        def __init__(self, h: list[float]) -> None:
            super().__init__()
            self.h = torch.tensor([h])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.h.expand(len(x), -1)

    encoder.trunk = Constant([-scale / 2, 0.0])
    theirs = Constant([-scale / 2, error])
    parameter = nn.Parameter(torch.zeros(1))  # what says on which device the encoder is
    encoder.register_parameter("device", parameter)
    assert largest_difference(encoder, theirs, picture) == pytest.approx(expected)


def test_all_images_are_compared():
    encoder = trained("test_resnet").eval()

    class DiffersOnWhite(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return encoder(x) + 3 * (x.flatten(1).min(1, keepdim=True).values > 2)

    black, white = np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8)
    assert largest_difference(encoder, DiffersOnWhite(), [black] * 40) == 0
    assert largest_difference(encoder, DiffersOnWhite(), [black] * 40 + [white]) > 0.01
