"""The VGG-16 of DeepCluster: configuration D with batch norm.

Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR
2015, as Caron, Bojanowski, Joulin, Douze, "Deep clustering for unsupervised learning of visual
features", ECCV 2018, section 4, use it: thirteen 3x3 convolutions in five blocks, dropout between
the two fully connected layers and not before the first. It has one stage per block: the map after
the last ReLU, before the block's pooling, with its name in the VGG paper. R-MAC pools conv5_3.

All its convolutions are 3x3 of stride 1, so small images need no other form: 32 px leave one
position for fc6 (7x7 from 224 px). The size of fc6 follows from the image size.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from selftaught.encoders.convnet import (
    Conv,
    ConvNet,
    Pool,
    checked_options,
    flat_size,
    fully_connected,
)

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and number of the convolutions of each block."""


def vgg16(*, in_chans: int, side: int, options: Mapping[str, Any]) -> ConvNet:
    """VGG-16 for images of this side length, up to fc7 before its ReLU.

    Raises:
        ConfigError: An option is unknown or out of range, or the images are too small or too large.
    """
    chosen, layers = checked_options("vgg16", options), _layers()
    classifier = nn.Sequential(
        fully_connected(flat_size("vgg16", layers, side), chosen["fc"]),
        nn.ReLU(inplace=True),
        nn.Dropout(chosen["drop_rate"]),
        fully_connected(chosen["fc"], chosen["fc"]),
    )
    return ConvNet(layers, classifier, in_chans=in_chans)


def _layers() -> tuple[Conv | Pool, ...]:
    layers: list[Conv | Pool] = []
    for block, (channels, number) in enumerate(BLOCKS, start=1):
        layers += [Conv(channels, 3, 1, 1) for _ in range(number - 1)]
        layers += [Conv(channels, 3, 1, 1, f"conv{block}_{number}"), Pool(2, 2)]
    return tuple(layers)
