"""The encoder f, the result of training: its configuration, its preprocessing and its stages.

Any network that timm knows by name, or one of our own: the small ResNets of `resnet.py`, and the
AlexNet and VGG-16 of DeepCluster, which hide timm's vgg16 (but not its vgg16_bn). At 64 px and
below, ResNets get a stem for small images by default (Chen et al. 2020, appendix B.9: a 3x3
convolution of stride 1 instead of the 7x7 one of stride 2, and no max-pooling); so does AlexNet.
Fixed Sobel filters may precede any of them.

Shapes:  N images, C channels, S side in pixels; h, w of a map.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from selftaught.encoders.resnet import CIFAR_RESNETS, cifar_resnet
from selftaught.errors import ConfigError, DataError, did_you_mean
from selftaught.views.policy import CenterCrop, Intensity, evaluation
from selftaught.views.sample import sample

if TYPE_CHECKING:
    from selftaught.encoders.preprocess import Picture

SMALL_STEM_SIDE = 64
"""Largest image size in pixels at which stem "auto" means the small stem."""

STEMS = ("auto", "small", "standard")

FRONTS = ("none", "sobel")

OWN = (*CIFAR_RESNETS, "alexnet", "vgg16")
"""Names of our own networks; timm's networks of the same name are hidden."""

_BEFORE_RELU = ("alexnet", "vgg16")  # clustered before their last ReLU (Caron et al. 2018)

_TIMM_OPTIONS = ("drop_rate", "drop_path_rate")
_LIMITS = {"in_channels": 1024, "image_size": 4096}  # far above any use; bound files' claims


@dataclass(frozen=True)
class EncoderConfig:
    """All that an encoder needs apart from its weights.

    Attributes:
        architecture: One of OWN, or timm's name of a network.
        in_channels: Input channels.
        image_size: Side of the input in pixels.
        stem: "small", "standard", or "auto", which `build_encoder` resolves.
        options: Architecture options: width and stem_stride (resnet8, resnet20), fc and drop_rate
            (alexnet, vgg16), or drop_rate and drop_path_rate (timm's networks).
        intensity: Range and normalisation of raw pixels.
        front: Filters before the network: "none", or "sobel" for the gradients of `sobel.py`.
    """

    architecture: str
    in_channels: int = 3
    image_size: int = 224
    stem: str = "auto"
    options: dict[str, Any] = field(default_factory=dict)
    intensity: Intensity = field(default_factory=Intensity)
    front: str = "none"


class Encoder(nn.Module):
    """f, from x (N, C, S, S) float32 to h (N, dim).

    Attributes:
        config: The resolved configuration.
        dim: Size of h.
        front: Filters before the trunk, without parameters or keys; Identity if there are none.
        trunk: The network; its keys are timm's, or those of DeepCluster's released checkpoints.
        final: The last activation of networks that are clustered before it; Identity elsewhere.
        strides: Name of each stage to its stride: input pixels per position of its map.
    """

    def __init__(self, config: EncoderConfig, trunk: nn.Module, *, dim: int) -> None:
        super().__init__()
        self.config, self.dim = config, dim
        self.front, self.trunk = _front(config), trunk
        self.final = nn.ReLU() if config.architecture in _BEFORE_RELU else nn.Identity()
        self.strides = _strides(trunk)

    def forward(self, x_NCSS: Tensor) -> Tensor:
        """h = f(x), (N, dim)."""
        h: Tensor = self.final(self.before_final(x_NCSS))
        return h

    def before_final(self, x_NCSS: Tensor) -> Tensor:
        """f(x) before the last activation, (N, dim): what DeepCluster clusters.

        For alexnet and vgg16 that is a ReLU after fc7; other networks have none, so this is h.
        """
        h: Tensor = self.trunk(self.front(x_NCSS))
        return h

    def stages(self, x_NCSS: Tensor) -> dict[str, Tensor]:
        """The map of every stage, (N, c, h, w) each, in the order and names of `strides`.

        A transformer's stages are its blocks; its maps are their tokens arranged on the grid.
        """
        intermediates: Any = self.trunk.forward_intermediates
        maps = intermediates(self.front(x_NCSS), intermediates_only=True)
        return dict(zip(self.strides, maps, strict=True))

    def preprocess(self, images: "Picture | Sequence[Picture]") -> Tensor:
        """This encoder's input for images: the view of the evaluation policy.

        Args:
            images: One image or several: PIL images, or arrays (H, W) or (H, W, C) of uint8,
                uint16 or float32 raw values. Sizes may differ.

        Returns:
            (N, C, S, S) float32 on the encoder's device.

        Raises:
            DataError: An array has an unsupported type or shape, channels that cannot be
                converted, or values that would be clipped.
        """
        # late: training and embedding do not need this module
        from selftaught.encoders.preprocess import as_list, check_values, pixels
        from selftaught.views import tensors  # a few images are not worth the kernel's compilation

        config = self.config
        arrays = [pixels(image, config.in_channels) for image in as_list(images)]
        for array in arrays:
            check_values(array, config.intensity)
        if not arrays:
            raise DataError("there are no images to preprocess", "pass at least one")
        policy = evaluation(config.image_size)
        sizes_N2 = np.array([array.shape[:2] for array in arrays], np.int64)
        draws_N = np.arange(len(arrays))
        params = sample(
            policy,
            size=config.image_size,
            sizes_N2=sizes_N2,
            draws_N=draws_N,
            seed=0,
            channels=config.in_channels,
        )
        x_NCSS = tensors.apply_policy(
            [torch.tensor(a) for a in arrays], params, policy, config.intensity
        )
        return x_NCSS.to(next(self.parameters()).device)


def build_encoder(config: EncoderConfig, *, seed: int = 0) -> Encoder:
    """Build an encoder: the same seed gives the same weights; torch's generator is unchanged.

    ResNets start with gamma = 0 in the last batch norm of each block, as in google-research/simclr.

    Raises:
        ConfigError: The architecture, the stem or an option is unknown, or the network cannot
            process images of this size.
    """
    _check_config(config)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs too
        if config.architecture in OWN:
            config = replace(config, stem=_resolved_stem(config, _own_stems(config)))
            trunk = _own_network(config)
        else:
            trunk = _timm_network(config)
            stems = ("small", "standard") if is_resnet(trunk) else ("standard",)
            config = replace(config, stem=_resolved_stem(config, stems))
            if config.stem == "small":
                _shrink_stem(trunk, _channels(config))
        resolved = replace(config, intensity=_channel_intensity(config))
        dim = _output_size(trunk, resolved)
    return Encoder(resolved, trunk, dim=dim)


def check_architecture(name: str) -> None:
    """Refuse a network that `build_encoder` does not know, before any work is done.

    Raises:
        ConfigError: No network has this name.
    """
    import timm

    if name not in OWN and ("." in name or not timm.is_model(name)):
        raise ConfigError(f"unknown encoder {name!r}", _known_architectures(name))


def encoder_id(encoder: Encoder) -> str:
    """SHA-256 of the canonical configuration and of every tensor's name, type, shape and bytes.

    Equal on every device and in every memory format; part of the key of cached features.
    """
    digest = hashlib.sha256(json.dumps(asdict(encoder.config), sort_keys=True).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(memoryview(flat.numpy()))
    return digest.hexdigest()


def crop_fraction(size: int) -> float:
    """The share of an image's shorter side that the evaluation view of this size covers."""
    box = evaluation(size).box
    assert isinstance(box, CenterCrop)
    return box.fraction


def is_resnet(trunk: nn.Module) -> bool:
    """Whether it is one of timm's ResNets, for which the small stem is defined."""
    from timm.models.resnet import ResNet

    return isinstance(trunk, ResNet)


def _check_config(config: EncoderConfig) -> None:
    for name, limit in _LIMITS.items():
        value = getattr(config, name)
        if type(value) is not int or not 1 <= value <= limit:
            what = f"{name} = {value} is out of range"
            raise ConfigError(what, f"choose a whole number from 1 to {limit}")
    if config.stem not in STEMS:
        raise ConfigError(f"unknown stem {config.stem!r}", did_you_mean(config.stem, STEMS))
    if config.front not in FRONTS:
        raise ConfigError(f"unknown front {config.front!r}", did_you_mean(config.front, FRONTS))


def _front(config: EncoderConfig) -> nn.Module:
    if config.front == "none":
        return nn.Identity()
    from selftaught.encoders.sobel import SobelFront

    return SobelFront()


def _channels(config: EncoderConfig) -> int:
    """Channels of the trunk's input."""
    return 2 if config.front == "sobel" else config.in_channels


def _own_network(config: EncoderConfig) -> nn.Module:
    name, options, channels = config.architecture, config.options, _channels(config)
    if name in CIFAR_RESNETS:
        return cifar_resnet(name, in_chans=channels, options=options)
    side = config.image_size
    if name == "alexnet":
        from selftaught.encoders.alexnet import alexnet

        return alexnet(in_chans=channels, side=side, stem=config.stem, options=options)
    from selftaught.encoders.vgg import vgg16

    return vgg16(in_chans=channels, side=side, options=options)


def _own_stems(config: EncoderConfig) -> tuple[str, ...]:
    if config.architecture == "alexnet":
        return ("small", "standard")
    return ("small",) if config.architecture in CIFAR_RESNETS else ("standard",)


def _timm_network(config: EncoderConfig) -> nn.Module:
    """timm's network without its classifier; one with a fixed input size is built for ours."""
    import timm

    name = config.architecture
    check_architecture(name)
    for option, value in config.options.items():  # timm's other options name files and addresses
        if option not in _TIMM_OPTIONS:
            raise ConfigError(
                f"{name} has no option {option!r}", did_you_mean(option, _TIMM_OPTIONS)
            )
        if type(value) not in (int, float) or not 0 <= value < 1:
            what = f"{name}: {option} = {value!r} is invalid"
            raise ConfigError(what, "choose a number from 0 to 1")
    arguments = {"num_classes": 0, "in_chans": _channels(config), **config.options}
    if getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False):
        arguments["img_size"] = config.image_size
    try:
        trunk = timm.create_model(name, pretrained=False, **arguments)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise _size_error(config, error) from error
    assert isinstance(trunk, nn.Module)
    return trunk


def _known_architectures(name: str) -> str:
    import timm

    remedy = did_you_mean(name, [*timm.list_models(), *OWN])
    few = len(remedy) < 200  # without a close name it lists more than a thousand
    return remedy if few else f"use {', '.join(OWN)} or a name from timm.list_models()"


def _resolved_stem(config: EncoderConfig, possible: tuple[str, ...]) -> str:
    """The stem with "auto" resolved; `possible` are the stems that the network can have."""
    if config.stem == "auto":
        return possible[0] if config.image_size <= SMALL_STEM_SIDE else possible[-1]
    if config.stem not in possible:
        raise ConfigError(
            f"{config.architecture} has no {config.stem} stem", f'use "auto" or "{possible[0]}"'
        )
    return config.stem


def _shrink_stem(trunk: Any, channels: int) -> None:
    """Use a 3x3 convolution of stride 1 and no pooling, which divides all strides by 4."""
    width = trunk.feature_info[0]["num_chs"]
    trunk.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(trunk.conv1.weight, mode="fan_out", nonlinearity="relu")
    trunk.maxpool = nn.Identity()
    trunk.feature_info = [
        {**stage, "reduction": max(1, stage["reduction"] // 4)} for stage in trunk.feature_info
    ]


def _channel_intensity(config: EncoderConfig) -> Intensity:
    """Intensity with one mean and std per channel: defaults are averaged if there are not 3."""
    given, channels = config.intensity, config.in_channels
    means, stds = given.mean, given.std
    if len(means) == len(stds) == channels:
        return given
    default = (means, stds) == (Intensity().mean, Intensity().std)
    if not default and not len(means) == len(stds) == 1:
        raise ConfigError(
            f"mean and std have {len(means)} and {len(stds)} values for {channels} channels",
            "use one of each per channel",
        )
    mean, std = sum(means) / len(means), sum(stds) / len(stds)
    return replace(given, mean=(mean,) * channels, std=(std,) * channels)


def _output_size(trunk: nn.Module, config: EncoderConfig) -> int:
    """Size of h for one black image, which also checks that the network can process it."""
    black = torch.zeros(1, _channels(config), config.image_size, config.image_size)
    trunk.eval()
    try:
        with torch.no_grad():
            h = trunk(black)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise _size_error(config, error) from error
    trunk.train()
    assert h.ndim == 2
    return int(h.shape[1])


def _size_error(config: EncoderConfig, error: Exception) -> ConfigError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
    return ConfigError(
        f"{config.architecture} cannot process images of {config.image_size} px ({reason})",
        "choose another --image-size or another --encoder",
    )


def _strides(trunk: Any) -> dict[str, int]:
    names = [stage["module"] for stage in trunk.feature_info]
    if len(set(names)) < len(names):  # a few of timm's networks share one module between stages
        names = [f"stage{n}" for n in range(len(names))]
    return dict(zip(names, (int(stage["reduction"]) for stage in trunk.feature_info), strict=True))
