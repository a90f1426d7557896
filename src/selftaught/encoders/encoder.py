"""The encoder f: what the user keeps. Its configuration, how images become its input, its stages.

Any network that timm knows by name, or one of the small ResNets of `resnet.py`. ResNets get a stem
for small images (Chen et al. 2020, appendix B.9: a 3x3 convolution of stride 1 in place of the
7x7 one of stride 2, and no max-pooling) at 64 px and below, unless told otherwise.

Shapes:  N images, C channels, S pixels a side; H, W of an image as it came; h, w of a map.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from selftaught.encoders.resnet import CIFAR_RESNETS, cifar_resnet
from selftaught.errors import ConfigError, DataError, nearest
from selftaught.views.policy import Intensity, evaluation
from selftaught.views.sample import sample

if TYPE_CHECKING:
    from PIL import Image

    Picture = Image.Image | NDArray[Any]

SMALL_STEM_SIDE = 64
"""Up to this many pixels a side, stem "auto" of a ResNet is the small one."""

STEMS = ("auto", "small", "standard")

_TIMM_OPTIONS = ("drop_rate", "drop_path_rate")
_LIMITS = {"in_channels": 1024, "image_size": 4096}  # far above use; bounds what a file can claim
_LUMA = np.array([19595, 38470, 7471], np.int64)  # ITU-R 601-2 in 1/65536, as Pillow's mode "L"


@dataclass(frozen=True)
class EncoderConfig:
    """Everything that must be known besides the weights to use an encoder.

    Attributes:
        architecture: A name of timm's, "resnet8" or "resnet20".
        in_channels: Channels of its input.
        image_size: Side of its input in pixels.
        stem: "small", "standard", or "auto"; `build` resolves "auto".
        options: Of the architecture: width and stem_stride (resnet8, resnet20), or drop_rate and
            drop_path_rate (timm's).
        intensity: From raw pixels to input.
        front: What precedes the network; "none" is the only one yet.
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
        trunk: The network; its keys are those of timm's.
        final: The last activation of networks that are clustered before it; Identity elsewhere.
        strides: Name of each stage to its stride: pixels of the input a position of its map.
    """

    def __init__(self, config: EncoderConfig, trunk: nn.Module, *, dim: int) -> None:
        super().__init__()
        self.config, self.dim = config, dim
        self.trunk, self.final = trunk, nn.Identity()
        self.strides = _strides(trunk)

    def forward(self, x_NCSS: Tensor) -> Tensor:
        """h = f(x), (N, dim)."""
        h: Tensor = self.final(self.trunk(x_NCSS))
        return h

    def stages(self, x_NCSS: Tensor) -> dict[str, Tensor]:
        """The map of every stage, (N, c, h, w) each, in the order and names of `strides`.

        A transformer's stages are its blocks; its maps are their tokens laid out on the grid.
        """
        maps = self.trunk.forward_intermediates(x_NCSS, intermediates_only=True)  # type: ignore[operator]
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
        from selftaught.views import tensors  # a few images are not worth the kernel's compilation

        config = self.config
        arrays = [_pixels(image, config.in_channels) for image in _as_list(images)]
        for array in arrays:
            _check_values(array, config.intensity)
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
        pixels = [torch.tensor(array) for array in arrays]
        x_NCSS = tensors.apply(pixels, params, policy, config.intensity)
        return x_NCSS.to(next(self.parameters()).device)


def build(config: EncoderConfig, *, seed: int = 0) -> Encoder:
    """A new encoder: the same seed gives the same weights; torch's generator is left as it was.

    ResNets start with gamma = 0 in the last batch norm of each block, as google-research/simclr's.

    Raises:
        ConfigError: The architecture, the stem or an option is unknown, or the network cannot take
            images of this size.
    """
    _check(config)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs too
        trunk = _cifar(config) if config.architecture in CIFAR_RESNETS else _timm(config)
        resolved = replace(config, stem=_stem(config, trunk), intensity=_intensity(config))
        if resolved.stem == "small" and config.architecture not in CIFAR_RESNETS:
            _shrink_stem(trunk, config.in_channels)
        dim = _output_size(trunk, resolved)
    return Encoder(resolved, trunk, dim=dim)


def check_architecture(name: str) -> None:
    """Refuse what `build` does not know, before any work is done for it.

    Raises:
        ConfigError: There is no network of this name.
    """
    import timm

    if name not in CIFAR_RESNETS and ("." in name or not timm.is_model(name)):
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
        raise ConfigError(f"there is no stem {config.stem!r}", nearest(config.stem, STEMS))
    if config.front != "none":
        raise ConfigError(f"there is no front {config.front!r}", 'use front "none"')


def _cifar(config: EncoderConfig) -> nn.Module:
    name, options = config.architecture, config.options
    return cifar_resnet(name, in_chans=config.in_channels, options=options)


def _timm(config: EncoderConfig) -> nn.Module:
    """timm's network without its classifier; networks of a fixed input size are made for ours."""
    import timm

    name = config.architecture
    check_architecture(name)
    for option, value in config.options.items():  # others of timm's name files and addresses
        if option not in _TIMM_OPTIONS:
            raise ConfigError(f"{name} has no option {option!r}", nearest(option, _TIMM_OPTIONS))
        if type(value) not in (int, float) or not 0 <= value < 1:
            raise ConfigError(f"{name}: {option} = {value!r}", "give a number from 0 to 1")
    arguments = {"num_classes": 0, "in_chans": config.in_channels, **config.options}
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

    remedy = nearest(name, [*timm.list_models(), *CIFAR_RESNETS])
    few = len(remedy) < 200  # with no near name it would list more than a thousand
    return remedy if few else "use resnet8, resnet20 or a name that timm.list_models() lists"


def _stem(config: EncoderConfig, trunk: nn.Module) -> str:
    """The stem in words, "auto" resolved."""
    possible = ["small"] if config.architecture in CIFAR_RESNETS else ["standard"]
    if is_resnet(trunk):
        possible = ["small", "standard"]
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
    black = torch.zeros(1, config.in_channels, config.image_size, config.image_size)
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


def _as_list(images: Any) -> "list[Picture]":
    if isinstance(images, np.ndarray):
        return list(images) if images.ndim == 4 else [images]
    return list(images) if isinstance(images, Sequence) else [images]


def _pixels(image: Any, channels: int) -> NDArray[Any]:
    """One image as raw values (H, W, channels)."""
    from PIL import Image

    from selftaught.data.decode import from_pillow

    if not isinstance(image, np.ndarray | Image.Image):
        raise DataError(
            f"{type(image).__name__} is no image", "give a PIL image, or an array (H, W, C)"
        )
    array = image if isinstance(image, np.ndarray) else from_pillow(image)
    if array.ndim == 2:
        array = array[:, :, None]
    if (
        array.ndim != 3
        or 0 in array.shape
        or array.dtype.name not in ("uint8", "uint16", "float32")
    ):
        raise DataError(
            f"an array of shape {array.shape} and type {array.dtype} is no image",
            "give (height, width) or (height, width, channels) of uint8, uint16 or float32",
        )
    if array.dtype == np.float32 and not np.isfinite(array).all():
        raise DataError("an image holds values that are not finite", "replace them")
    return _as_channels(array, channels)


def _as_channels(image_HWC: NDArray[Any], channels: int) -> NDArray[Any]:
    """Grey repeated to three channels, colour to its luminance; no other conversion makes sense."""
    from selftaught.data.decode import as_channels

    found = image_HWC.shape[2]
    if found == channels or (found, channels) == (1, 3):
        return as_channels(image_HWC, channels)
    if (found, channels) == (3, 1):
        return _luminance(image_HWC)
    raise DataError(
        f"an image has {found} channels, the encoder takes {channels}", "give it such images"
    )


def _luminance(image_HWC: NDArray[Any]) -> NDArray[Any]:
    """ITU-R 601-2 luma, (H, W, 1) of the same type; for uint8 Pillow's mode "L" to the bit."""
    if image_HWC.dtype == np.float32:
        weighted = image_HWC @ (_LUMA / 65536).astype(np.float32)
    else:
        weighted = (image_HWC.astype(np.int64) @ _LUMA + 0x8000) >> 16
    return weighted[:, :, None].astype(image_HWC.dtype)


def _check_values(image_HWC: NDArray[Any], intensity: Intensity) -> None:
    """Whether these are values of the kind that the encoder was made for.

    Raises:
        DataError: More than half of them lie outside the range, or all of them at its lowest
            hundredth although the range is not that of fractions.
    """
    low, high = intensity.low, intensity.high
    outside = float(np.mean((image_HWC < low) | (image_HWC > high)))
    fractions = image_HWC.dtype.kind == "f" and 0 < image_HWC.max() <= 1 and high - low > 100
    if outside > 0.5 or fractions:
        found = f"from {image_HWC.min():g} to {image_HWC.max():g}"
        raise DataError(
            f"an image has values {found}, the encoder takes {low:g} to {high:g}",
            "give raw values of the kind that it was trained on",
        )
