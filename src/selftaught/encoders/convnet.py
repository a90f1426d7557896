"""What AlexNet and VGG-16 share: a stack of convolutions, then two fully connected layers.

As Caron et al. (ECCV 2018, section 4) use them: batch norm after each convolution; convolutions
start at N(0, sqrt(2 / (k^2 c_out))), fully connected layers at N(0, 0.01), biases at 0. The module
ends with fc7, before its last ReLU, which is `Encoder.final`. Its keys are those of the released
checkpoints.

Shapes:  N images, C channels in, S side in pixels; c, h, w of a map; D = fc.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from selftaught.errors import ConfigError, did_you_mean

DEFAULTS: dict[str, Any] = {"fc": 4096, "drop_rate": 0.5}
"""Size and dropout of the fully connected layers: the options, with the paper's values."""

_LARGEST_FC, _LARGEST_SIDE = 8192, 512  # anything larger must be a mistake


class Conv(NamedTuple):
    """A convolution, followed by batch norm and ReLU; `stage` names its output."""

    channels: int
    kernel: int
    stride: int
    padding: int
    stage: str = ""


class Pool(NamedTuple):
    """A max-pooling without padding."""

    kernel: int
    stride: int
    padding: int = 0


class ConvNet(nn.Module):
    """A trunk with timm's attributes: `feature_info`, `forward_intermediates`."""

    def __init__(
        self, layers: Sequence[Conv | Pool], classifier: nn.Sequential, *, in_chans: int
    ) -> None:
        super().__init__()
        self.features, self.classifier = nn.Sequential(), classifier
        self.feature_info: list[dict[str, Any]] = []
        self._ends: list[int] = []  # index in `features` of each stage's last layer
        channels, stride = in_chans, 1
        for layer in layers:
            stride *= layer.stride
            if isinstance(layer, Pool):
                self.features.append(nn.MaxPool2d(layer.kernel, layer.stride))
                continue
            self.features.extend(_convolution(layer, channels))
            channels = layer.channels
            if layer.stage:
                stage = {"module": layer.stage, "num_chs": channels, "reduction": stride}
                self.feature_info.append(stage)
                self._ends.append(len(self.features) - 1)
        self.num_features = self.classifier[-1].out_features
        _initialise(self)

    def forward(self, x_NCSS: Tensor) -> Tensor:
        """fc7 before its last ReLU, (N, D)."""
        x_Nchw: Tensor = self.features(x_NCSS)
        x_ND: Tensor = self.classifier(x_Nchw.flatten(1))
        return x_ND

    def forward_intermediates(
        self, x_NCSS: Tensor, *, intermediates_only: bool = True
    ) -> list[Tensor]:
        """The map of each stage, (N, c, h, w), after its ReLU; images may have any size."""
        assert intermediates_only
        maps, x = [], x_NCSS
        for n, layer in enumerate(self.features[: self._ends[-1] + 1]):
            x = layer(x)
            if n in self._ends:
                maps.append(x)
        return maps


def checked_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, completed with defaults.

    Raises:
        ConfigError: An option is unknown or out of range.
    """
    for option, value in options.items():
        if option not in DEFAULTS:
            raise ConfigError(f"{name} has no option {option!r}", did_you_mean(option, DEFAULTS))
        if option == "fc" and not (type(value) is int and 1 <= value <= _LARGEST_FC):
            remedy = f"choose a whole number from 1 to {_LARGEST_FC}"
            raise ConfigError(f"{name}: fc = {value!r} is invalid", remedy)
        if option == "drop_rate" and not (type(value) in (int, float) and 0 <= value < 1):
            what = f"{name}: drop_rate = {value!r} is invalid"
            raise ConfigError(what, "choose a number from 0 to 1")
    return DEFAULTS | dict(options)


def flat_size(name: str, layers: Sequence[Conv | Pool], side: int) -> int:
    """Size of the stack's flattened output for an image of this side length.

    Raises:
        ConfigError: The side is too small, or too large for a fully connected layer.
    """
    size = side if side <= _LARGEST_SIDE else 0
    for layer in layers:
        size = max(0, (size + 2 * layer.padding - layer.kernel) // layer.stride + 1)
    if size == 0:
        raise ConfigError(
            f"{name} cannot process images of {side} px (it ends in fully connected layers)",
            f"choose a {'smaller' if side > _LARGEST_SIDE else 'larger'} --image-size",
        )
    channels = [layer.channels for layer in layers if isinstance(layer, Conv)][-1]
    return channels * size**2


def fully_connected(size_in: int, size_out: int) -> nn.Linear:
    """A layer with uninitialised weights: `ConvNet` draws them."""
    return nn.Linear(size_in, size_out, device="meta").to_empty(device="cpu")


def _convolution(layer: Conv, c_in: int) -> nn.Sequential:
    conv = nn.Conv2d(c_in, layer.channels, layer.kernel, layer.stride, layer.padding)
    return nn.Sequential(conv, nn.BatchNorm2d(layer.channels), nn.ReLU(inplace=True))


def _initialise(stack: nn.Module) -> None:
    for module in stack.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels
            _draw(module, math.sqrt(2 / fan_out))
        elif isinstance(module, nn.Linear):
            _draw(module, 0.01)


def _draw(module: nn.Conv2d | nn.Linear, std: float) -> None:
    assert module.bias is not None
    nn.init.normal_(module.weight, 0, std)
    nn.init.zeros_(module.bias)
