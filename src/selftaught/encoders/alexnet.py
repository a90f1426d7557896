"""The AlexNet of DeepCluster, with batch norm in place of local response normalisation.

Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks",
NIPS 2012, as Caron, Bojanowski, Joulin, Douze, "Deep clustering for unsupervised learning of visual
features", ECCV 2018, section 4, use it: 96, 256, 384, 384 and 256 filters, dropout before both
fully connected layers. Its stages conv1 .. conv5 are the maps after each ReLU.

For small images (stem "small") the first convolution is 5x5 with stride 1 instead of 11x11 with
stride 4; the pools stay. All strides are then a quarter of the standard ones, and 32 px leave a
3x3 map for fc6 (6x6 from 224 px in the standard form). The size of fc6 follows from the image size.
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

FIRST = {"standard": Conv(96, 11, 4, 2, "conv1"), "small": Conv(96, 5, 1, 2, "conv1")}
"""The first convolution, by stem."""

REST: tuple[Conv | Pool, ...] = (
    Pool(3, 2),
    Conv(256, 5, 1, 2, "conv2"),
    Pool(3, 2),
    Conv(384, 3, 1, 1, "conv3"),
    Conv(384, 3, 1, 1, "conv4"),
    Conv(256, 3, 1, 1, "conv5"),
    Pool(3, 2),
)


def alexnet(*, in_chans: int, side: int, stem: str, options: Mapping[str, Any]) -> ConvNet:
    """AlexNet for images of this side length, up to fc7 before its ReLU.

    Raises:
        ConfigError: An option is unknown or out of range, or the images are too small or too large.
    """
    chosen, layers = checked_options("alexnet", options), (FIRST[stem], *REST)
    classifier = nn.Sequential(
        nn.Dropout(chosen["drop_rate"]),
        fully_connected(flat_size("alexnet", layers, side), chosen["fc"]),
        nn.ReLU(inplace=True),
        nn.Dropout(chosen["drop_rate"]),
        fully_connected(chosen["fc"], chosen["fc"]),
    )
    return ConvNet(layers, classifier, in_chans=in_chans)
