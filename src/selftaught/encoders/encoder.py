"""The encoder f: what the user keeps. Its configuration, how images become its input, its stages.

Any network that timm knows by name, or one of our own: the small ResNets of `resnet.py`, and the
AlexNet and VGG-16 of DeepCluster, which hide timm's vgg16 (its vgg16_bn keeps its name). ResNets
get a stem for small images (Chen et al. 2020, appendix B.9: a 3x3 convolution of stride 1 in place
of the 7x7 one of stride 2, and no max-pooling) at 64 px and below, unless told otherwise; so does
AlexNet. Fixed Sobel filters may stand in front of any of them.

Shapes:  N images, C channels, S pixels a side; h, w of a map.
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
"""Up to this many pixels a side, stem "auto" of a ResNet is the small one."""

STEMS = ("auto", "small", "standard")

FRONTS = ("none", "sobel")

OWN = (*CIFAR_RESNETS, "alexnet", "vgg16")
"""Networks of our own, by name; a network of timm's of the same name is hidden."""

_BEFORE_RELU = ("alexnet", "vgg16")  # clustered before their last ReLU (Caron et al. 2018)

_TIMM_OPTIONS = ("drop_rate", "drop_path_rate")
_LIMITS = {"in_channels": 1024, "image_size": 4096}  # far above use; bounds what a file can claim


@dataclass(frozen=True)
class EncoderConfig:
    """Everything that must be known besides the weights to use an encoder.

    Attributes:
        architecture: One of OWN, or a name of timm's.
        in_channels: Channels of its input.
        image_size: Side of its input in pixels.
        stem: "small", "standard", or "auto"; `build` resolves "auto".
        options: Of the architecture: width and stem_stride (resnet8, resnet20), fc and drop_rate
            (alexnet, vgg16), or drop_rate and drop_path_rate (timm's).
        intensity: From raw pixels to input.
        front: What precedes the network: "none", or "sobel" for the gradients of `sobel.py`.
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
        config: Its configuration, resolved.
        dim: Size of h.
        front: What precedes it, without parameters and without keys; Identity where nothing does.
        trunk: The network; its keys are those of timm's, or of DeepCluster's released checkpoints.
        final: The last activation of networks that are clustered before it; Identity elsewhere.
        strides: Name of each stage to its stride: pixels of the input a position of its map.
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

        That of alexnet and vgg16 is a ReLU, after fc7; other networks have none, and this is h.
        """
        h: Tensor = self.trunk(self.front(x_NCSS))
        return h

    def stages(self, x_NCSS: Tensor) -> dict[str, Tensor]:
        """The map of every stage, (N, c, h, w) each, in the order and names of `strides`.

        A transformer's stages are its blocks; its maps are their tokens laid out on the grid.
        """
        intermediates: Any = self.trunk.forward_intermediates
        maps = intermediates(self.front(x_NCSS), intermediates_only=True)
        return dict(zip(self.strides, maps, strict=True))

    def preprocess(self, images: "Picture | Sequence[Picture]") -> Tensor:
        """Images to this encoder's input: the view of the evaluation policy.

        Args:
            images: One image or several: PIL images, or arrays (H, W) or (H, W, C) of uint8,
                uint16 or float32 raw values. Sizes may differ.

        Returns:
            (N, C, S, S) float32 on the encoder's device.

        Raises:
            DataError: An array has another type or shape, channels that cannot be converted, or
                values that would be cut off.
        """
        # late: who trains and embeds need not read how loose pictures are taken
        from selftaught.encoders.preprocess import as_list, check_values, pixels
        from selftaught.views import tensors  # a few images are not worth the kernel's compilation

        config = self.config
        arrays = [pixels(image, config.in_channels) for image in as_list(images)]
        for array in arrays:
            check_values(array, config.intensity)
        if not arrays:
            raise DataError("there are no images to preprocess", "give at least one")
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
    """A new encoder: the same seed gives the same weights; torch's generator is left as it was.

    ResNets start with gamma = 0 in the last batch norm of each block, as google-research/simclr's.

    Raises:
        ConfigError: The architecture, the stem or an option is unknown, or the network cannot take
            images of this size.
    """
    _check(config)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs too
        if config.architecture in OWN:
            config = replace(config, stem=_stem(config, _own_stems(config)))
            trunk = _own(config)
        else:
            trunk = _timm(config)
            stems = ("small", "standard") if is_resnet(trunk) else ("standard",)
            config = replace(config, stem=_stem(config, stems))
            if config.stem == "small":
                _shrink_stem(trunk, _channels(config))
        resolved = replace(config, intensity=_intensity(config))
        dim = _output_size(trunk, resolved)
    return Encoder(resolved, trunk, dim=dim)


def check_architecture(name: str) -> None:
    """Refuse what `build` does not know, before any work is done for it.

    Raises:
        ConfigError: There is no network of this name.
    """
    import timm

    if name not in OWN and ("." in name or not timm.is_model(name)):
        raise ConfigError(f"there is no encoder {name!r}", _known_architectures(name))


def encoder_id(encoder: Encoder) -> str:
    """SHA-256 of the canonical configuration and of every tensor's name, type, shape and bytes.

    Equal on every device and in every memory format; what cached features are keyed by.
    """
    digest = hashlib.sha256(json.dumps(asdict(encoder.config), sort_keys=True).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(memoryview(flat.numpy()))
    return digest.hexdigest()


def crop_fraction(size: int) -> float:
    """The share of an image's shorter side that the evaluation view of this size takes."""
    box = evaluation(size).box
    assert isinstance(box, CenterCrop)
    return box.fraction


def is_resnet(trunk: nn.Module) -> bool:
    """Whether it is one of timm's ResNets, those that the small stem is defined for."""
    from timm.models.resnet import ResNet

    return isinstance(trunk, ResNet)


def _check(config: EncoderConfig) -> None:
    for name, limit in _LIMITS.items():
        value = getattr(config, name)
        if type(value) is not int or not 1 <= value <= limit:
            raise ConfigError(f"{name} = {value}", f"give a whole number from 1 to {limit}")
    if config.stem not in STEMS:
        raise ConfigError(f"there is no stem {config.stem!r}", did_you_mean(config.stem, STEMS))
    if config.front not in FRONTS:
        raise ConfigError(f"there is no front {config.front!r}", did_you_mean(config.front, FRONTS))


def _front(config: EncoderConfig) -> nn.Module:
    if config.front == "none":
        return nn.Identity()
    from selftaught.encoders.sobel import SobelFront

    return SobelFront()


def _channels(config: EncoderConfig) -> int:
    """Channels of the trunk's input."""
    return 2 if config.front == "sobel" else config.in_channels


def _own(config: EncoderConfig) -> nn.Module:
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


def _timm(config: EncoderConfig) -> nn.Module:
    """timm's network without its classifier; networks of a fixed input size are made for ours."""
    import timm

    name = config.architecture
    check_architecture(name)
    for option, value in config.options.items():  # others of timm's name files and addresses
        if option not in _TIMM_OPTIONS:
            raise ConfigError(
                f"{name} has no option {option!r}", did_you_mean(option, _TIMM_OPTIONS)
            )
        if type(value) not in (int, float) or not 0 <= value < 1:
            raise ConfigError(f"{name}: {option} = {value!r}", "give a number from 0 to 1")
    arguments = {"num_classes": 0, "in_chans": _channels(config), **config.options}
    if getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False):
        arguments["img_size"] = config.image_size
    try:
        trunk = timm.create_model(name, pretrained=False, **arguments)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise _does_not_fit(config, error) from error
    assert isinstance(trunk, nn.Module)
    return trunk


def _known_architectures(name: str) -> str:
    import timm

    remedy = did_you_mean(name, [*timm.list_models(), *OWN])
    few = len(remedy) < 200  # with no near name it would list more than a thousand
    return remedy if few else f"use {', '.join(OWN)} or a name that timm.list_models() lists"


def _stem(config: EncoderConfig, possible: tuple[str, ...]) -> str:
    """The stem in words, "auto" resolved; `possible` are those that the network can have."""
    if config.stem == "auto":
        return possible[0] if config.image_size <= SMALL_STEM_SIDE else possible[-1]
    if config.stem not in possible:
        raise ConfigError(
            f"{config.architecture} has no {config.stem} stem", f'use "auto" or "{possible[0]}"'
        )
    return config.stem


def _shrink_stem(trunk: Any, channels: int) -> None:
    """A 3x3 convolution of stride 1 and no pooling: strides are a quarter of what they were."""
    width = trunk.feature_info[0]["num_chs"]
    trunk.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(trunk.conv1.weight, mode="fan_out", nonlinearity="relu")
    trunk.maxpool = nn.Identity()
    trunk.feature_info = [
        {**stage, "reduction": max(1, stage["reduction"] // 4)} for stage in trunk.feature_info
    ]


def _intensity(config: EncoderConfig) -> Intensity:
    """Mean and std, one a channel; the default's average where it stands for other than 3."""
    given, channels = config.intensity, config.in_channels
    means, stds = given.mean, given.std
    if len(means) == len(stds) == channels:
        return given
    default = (means, stds) == (Intensity().mean, Intensity().std)
    if not default and not len(means) == len(stds) == 1:
        raise ConfigError(
            f"mean and std of {len(means)} and {len(stds)} channels for {channels}",
            "give one of each a channel",
        )
    mean, std = sum(means) / len(means), sum(stds) / len(stds)
    return replace(given, mean=(mean,) * channels, std=(std,) * channels)


def _output_size(trunk: nn.Module, config: EncoderConfig) -> int:
    """Size of h, found by looking at one black image: so it is known that the network can."""
    black = torch.zeros(1, _channels(config), config.image_size, config.image_size)
    trunk.eval()
    try:
        with torch.no_grad():
            h = trunk(black)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise _does_not_fit(config, error) from error
    trunk.train()
    assert h.ndim == 2
    return int(h.shape[1])


def _does_not_fit(config: EncoderConfig, error: Exception) -> ConfigError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
    return ConfigError(
        f"{config.architecture} cannot take images of {config.image_size} px ({reason})",
        "choose another --image-size or another --encoder",
    )


def _strides(trunk: Any) -> dict[str, int]:
    names = [stage["module"] for stage in trunk.feature_info]
    if len(set(names)) < len(names):  # a few of timm's share one module between stages
        names = [f"stage{n}" for n in range(len(names))]
    return dict(zip(names, (int(stage["reduction"]) for stage in trunk.feature_info), strict=True))
