"""Sobel filters before a network: two channels of gradients instead of colours.

Caron, Bojanowski, Joulin, Douze, "Deep clustering for unsupervised learning of visual features",
ECCV 2018, section 3.3 ("a fixed linear transformation based on Sobel filters to remove color and
increase local contrast"). As in the released code: the average of the *normalised* channels (there
a 1x1 convolution with thirds), then a 3x3 convolution with the filters below, without biases.
Fixed: a buffer, not a parameter, and not part of any checkpoint.

Shapes:  N images, C channels, S side in pixels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HORIZONTAL = ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0))
"""Left minus right: vertical edges, the first channel."""

VERTICAL = ((1.0, 2.0, 1.0), (0.0, 0.0, 0.0), (-1.0, -2.0, -1.0))
"""Above minus below: horizontal edges, the second channel."""


class SobelFront(nn.Module):
    """Normalised images (N, C, S, S) to their horizontal and vertical gradients, (N, 2, S, S).

    Attributes:
        edges: The two filters, (2, 1, 3, 3).
    """

    edges: Tensor

    def __init__(self) -> None:
        super().__init__()
        edges = torch.tensor([[HORIZONTAL], [VERTICAL]])
        self.register_buffer("edges", edges, persistent=False)

    def forward(self, x_NCSS: Tensor) -> Tensor:
        """The gradients of the channels' average; images are padded with 0, the data's mean.

        Without autocast: differences of nearly equal numbers need full precision.
        """
        with torch.autocast(x_NCSS.device.type, enabled=False):
            x_N1SS = x_NCSS.to(self.edges.dtype).mean(1, keepdim=True)
            return F.conv2d(x_N1SS, self.edges, padding=1)
