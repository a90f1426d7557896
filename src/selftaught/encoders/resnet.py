"""The small ResNets of He et al. for CIFAR, for machines without a GPU.

He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016, section 4.2: 6n + 2
layers, a 3x3 convolution and three stages of n blocks with w, 2w and 4w channels, each stage after
the first at half the resolution, then the mean over positions. Deviations: shortcuts that change
their size are 1x1 projections (option B of section 4.1; on CIFAR the paper pads with zeros), and
the last batch norm of each block starts at gamma = 0 (as google-research/simclr's ResNets do).
Width and the stride of the first convolution are options: resnet8 of width 16 and stem stride 2
costs 6.25 MFLOP per image of 32 px, counting a multiplication and an addition as two.

Shapes:  N images, C channels in, S side in pixels; c, h, w of a stage's map; D = 4 * width.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from selftaught.errors import ConfigError, did_you_mean

CIFAR_RESNETS: dict[str, int] = {"resnet8": 1, "resnet20": 3}
"""Name to n, the number of blocks per stage."""

DEFAULTS: dict[str, int] = {"width": 16, "stem_stride": 1}
"""The options and their values in the paper."""

_LIMITS = {"width": 1024, "stem_stride": 8}


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut: (N, c_in, h, w) to (N, c_out, h/stride, w/stride)."""

    def __init__(self, c_in: int, c_out: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(c_in, c_out, 3, stride)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = _conv(c_out, c_out, 3, 1)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or c_in != c_out:
            self.shortcut.append(_conv(c_in, c_out, 1, stride)).append(nn.BatchNorm2d(c_out))
        nn.init.zeros_(self.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """relu(shortcut(x) + F(x))."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x), inplace=True)


class CifarResNet(nn.Module):
    """A trunk with timm's attributes: `feature_info`, `forward_intermediates`."""

    def __init__(self, blocks: int, *, in_chans: int, width: int, stem_stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(in_chans, width, 3, stem_stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU(inplace=True)
        self.layer1 = _stage(width, width, blocks, stride=1)
        self.layer2 = _stage(width, 2 * width, blocks, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, blocks, stride=2)
        self.num_features = 4 * width
        self.feature_info = [
            {"module": "act1", "num_chs": width, "reduction": stem_stride},
            {"module": "layer1", "num_chs": width, "reduction": stem_stride},
            {"module": "layer2", "num_chs": 2 * width, "reduction": 2 * stem_stride},
            {"module": "layer3", "num_chs": 4 * width, "reduction": 4 * stem_stride},
        ]

    def forward(self, x_NCSS: Tensor) -> Tensor:
        """The last map's mean over positions, (N, D)."""
        x = self.act1(self.bn1(self.conv1(x_NCSS)))
        x_NDhw: Tensor = self.layer3(self.layer2(self.layer1(x)))
        return x_NDhw.mean((2, 3))

    def forward_intermediates(
        self, x_NCSS: Tensor, *, intermediates_only: bool = True
    ) -> list[Tensor]:
        """The maps of the stem and the three stages, each (N, c, h, w)."""
        assert intermediates_only
        stem = self.act1(self.bn1(self.conv1(x_NCSS)))
        layer1 = self.layer1(stem)
        layer2 = self.layer2(layer1)
        return [stem, layer1, layer2, self.layer3(layer2)]


def cifar_resnet(name: str, *, in_chans: int, options: Mapping[str, Any]) -> CifarResNet:
    """Build one of CIFAR_RESNETS.

    Raises:
        ConfigError: An option is unknown or out of range.
    """
    for option, value in options.items():
        if option not in DEFAULTS:
            raise ConfigError(f"{name} has no option {option!r}", did_you_mean(option, DEFAULTS))
        limit = _LIMITS[option]
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
            raise ConfigError(
                f"{name}: {option} = {value!r} is invalid",
                f"choose a whole number from 1 to {limit}",
            )
    return CifarResNet(CIFAR_RESNETS[name], in_chans=in_chans, **(DEFAULTS | dict(options)))


def _stage(c_in: int, c_out: int, blocks: int, *, stride: int) -> nn.Sequential:
    first = Block(c_in, c_out, stride=stride)
    return nn.Sequential(first, *(Block(c_out, c_out, stride=1) for _ in range(blocks - 1)))


def _conv(c_in: int, c_out: int, kernel: int, stride: int) -> nn.Conv2d:
    conv = nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
