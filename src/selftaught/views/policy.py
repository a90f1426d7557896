"""Policies of views: operations with their probabilities and ranges, as data only.

A policy is a box rule (which part of the image) and a tuple of operations, each with its
probability and the ranges of its parameters. Sources: Chen et al. 2020, section 3 and appendix A,
and google-research/simclr for what the paper leaves open; docs/methods/simclr.md lists the
deviations. The paper's figure 4 shows rotation, cutout, noise and Sobel filtering without
parameters; ours are marked below.

Units: sides and thresholds of pixel values are shares; pixel values are in [0, 1].
"""

from dataclasses import dataclass, replace
from typing import Literal

from selftaught.errors import ConfigError


@dataclass(frozen=True)
class RandomCrop:
    """Random resized crop: area in `scale` of the image, aspect ratio log-uniform in `ratio`."""

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class CenterCrop:
    """The central square whose side is `fraction` of the shorter side of the image."""

    fraction: float = 1.0


@dataclass(frozen=True)
class CornerCrop:
    """A square as large as CenterCrop's, in a corner of the image."""

    fraction: float = 1.0
    bottom: bool = False
    right: bool = False


@dataclass(frozen=True)
class Flip:
    """Mirror left to right. Part of the box: it comes first, wherever the policy lists it."""

    p: float = 0.5


@dataclass(frozen=True)
class Rotate:
    """A turn by 90, 180 or 270 degrees, equally likely (the angles of the paper's figure 4)."""

    p: float = 0.5


@dataclass(frozen=True)
class Jitter:
    """Colour jitter in random order, clipped to [0, 1] after each operation.

    Factors are drawn from [max(0, 1 - b), 1 + b] for brightness, contrast and saturation, shifts of
    the hue from [-hue, hue] in turns. Saturation and hue apply only to images of three channels.
    """

    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    p: float = 0.8

    def live(self, channels: int) -> list[int]:
        """Indices of the operations, in the order of the fields, that change anything."""
        strengths = (self.brightness, self.contrast, self.saturation, self.hue)
        return [k for k in range(4 if channels == 3 else 2) if strengths[k]]


@dataclass(frozen=True)
class ChannelJitter:
    """For channels that are not colours: gain * x ** gamma + offset, drawn for each channel.

    Clipped to [0, 1]. The ranges are ours: about a fifth up or down, and a tenth of the range.
    """

    gain: tuple[float, float] = (0.8, 1.25)
    offset: tuple[float, float] = (-0.1, 0.1)
    gamma: tuple[float, float] = (0.8, 1.25)
    p: float = 0.8


@dataclass(frozen=True)
class BandDrop:
    """Channels set to 0, each with probability `share`, never all of them. Two channels or more."""

    share: float = 0.2
    p: float = 0.5


@dataclass(frozen=True)
class Gray:
    """Colour drop: the luminance in all three channels. Three channels only."""

    p: float = 0.2


@dataclass(frozen=True)
class Solarise:
    """Inversion of values from the threshold on: 1 - x (Grill et al. 2020, appendix B)."""

    threshold: float = 0.5
    p: float = 0.2


@dataclass(frozen=True)
class Blur:
    """Gaussian blur, sigma in pixels of the view; kernel width `size // 10`, made odd."""

    sigma: tuple[float, float] = (0.1, 2.0)
    p: float = 0.5

    def width(self, size: int) -> int:
        """Kernel width in pixels for a view of this size: 23 at 224 px."""
        return 2 * (size // 10 // 2) + 1


@dataclass(frozen=True)
class Noise:
    """Independent Gaussian noise on every value, clipped to [0, 1]. The range of sigma is ours."""

    sigma: tuple[float, float] = (0.02, 0.1)
    p: float = 0.5


@dataclass(frozen=True)
class Sobel:
    """The gradient's magnitude of each channel, divided by 4 and clipped to [0, 1].

    With the divisor 4, a step from 0 to 1 has full scale. The paper says only "Sobel".
    """

    p: float = 0.5


@dataclass(frozen=True)
class Cutout:
    """A square filled with the channel's mean, its centre anywhere (DeVries and Taylor 2017).

    `side` is a range, as a share of the view's side; theirs is 1/2 for CIFAR-10. Clipped to the
    view.
    """

    side: tuple[float, float] = (0.25, 0.5)
    p: float = 0.5


Box = RandomCrop | CenterCrop | CornerCrop
Operation = (
    Flip
    | Rotate
    | Jitter
    | ChannelJitter
    | BandDrop
    | Gray
    | Solarise
    | Blur
    | Noise
    | Sobel
    | Cutout
)
"""In the order in which a configuration applies them."""

FUSED = (Flip, Jitter, Gray, Blur, Noise)
"""The operations that the fused kernel supports, in its order."""


@dataclass(frozen=True)
class Policy:
    """A box rule, the operations that follow it in order, and the final normalisation.

    Attributes:
        box: Which part of the image becomes the view.
        operations: At most one of each kind.
        normalise: Whether the chain ends with (x - mean) / std.
        interpolation: How the box is resized, with antialiasing: bilinear (torchvision's default)
            or bicubic with a = -0.5, clipped to [0, 1] (google-research/simclr).

    Raises:
        ConfigError: An operation is listed twice.
    """

    box: Box
    operations: tuple[Operation, ...] = ()
    normalise: bool = True
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def __post_init__(self) -> None:
        kinds = [type(operation).__name__ for operation in self.operations]
        for kind in kinds:
            if kinds.count(kind) > 1:
                raise ConfigError(f"a policy lists {kind} twice", "list each operation once")


@dataclass(frozen=True)
class ViewSpec:
    """`count` views of `size` x `size` pixels made by one policy."""

    policy: Policy
    size: int
    count: int = 1


@dataclass(frozen=True)
class Intensity:
    """How raw pixel values become the network's input; stored with the encoder's weights.

    `low` and `high` are the raw values that become 0 and 1 (0 and 255 for ordinary 8-bit images);
    other values are clipped. `mean` and `std` are in units of that [0, 1] range, one per channel.
    """

    low: float = 0.0
    high: float = 255.0
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def statistics(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel.

        Raises:
            ConfigError: There is not one of each, or one of each per channel.
        """
        given = len(self.mean)
        if given not in (1, channels) or len(self.std) != given:
            raise ConfigError(
                f"the intensity has {given} means and {len(self.std)} standard deviations, but "
                f"the images have {channels} channels",
                "use one of each per channel",
            )
        repeat = channels // given
        return self.mean * repeat, self.std * repeat


def check_channels(policy: Policy, channels: int) -> None:
    """Check that the operations suit images of this many channels.

    Raises:
        ConfigError: Colour drop needs three channels, dropping bands two or more.
    """
    for operation in policy.operations:
        if isinstance(operation, Gray) and channels != 3:
            raise ConfigError(
                f"colour drop needs images of 3 channels, but these have {channels}",
                "switch it off (views.gray=0)",
            )
        if isinstance(operation, BandDrop) and channels < 2:
            raise ConfigError(
                "dropping bands needs images of 2 channels or more, but these have 1",
                "switch it off (views.band_drop=0)",
            )


def simclr_imagenet(strength: float = 1.0) -> Policy:
    """SimCLR's policy for ImageNet: s = 1, blur on (Chen et al. 2020, appendix A)."""
    return Policy(RandomCrop(), (Flip(), _jitter(strength), Gray(), Blur()))


def simclr_cifar(strength: float = 0.5) -> Policy:
    """SimCLR's policy for CIFAR-10: s = 0.5, no blur (Chen et al. 2020, appendix B.9)."""
    return Policy(RandomCrop(), (Flip(), _jitter(strength), Gray()))


def simclr_gray(strength: float = 0.5) -> Policy:
    """For images that are not RGB: crops from 0.2 of the area, flips, brightness and contrast."""
    return Policy(
        RandomCrop(scale=(0.2, 1.0)), (Flip(), replace(_jitter(strength), saturation=0.0, hue=0.0))
    )


def evaluation(size: int) -> Policy:
    """The view for evaluation: the central 87.5 % of the shorter side, or all of it up to 32 px."""
    return Policy(CenterCrop(1.0 if size <= 32 else 0.875))


def ten_crop(size: int, fraction: float = 0.875) -> tuple[ViewSpec, ...]:
    """Ten views of an image: the corners and the centre, each also mirrored.

    Krizhevsky et al. 2012 cut 224 px from 256 px: the fraction 0.875 of the shorter side.
    """
    corners = [
        CornerCrop(fraction, bottom, right) for bottom in (False, True) for right in (False, True)
    ]
    boxes: list[Box] = [*corners, CenterCrop(fraction)]
    mirrored = (Flip(p=1.0),)
    return tuple(
        ViewSpec(Policy(box, operations), size) for operations in ((), mirrored) for box in boxes
    )


def multi_crop(
    policy: Policy, *, sizes: tuple[int, int] = (224, 96), counts: tuple[int, int] = (2, 6)
) -> tuple[ViewSpec, ...]:
    """Views of two sizes: large views of large areas, small views of small areas.

    Areas from 0.14 to 1 and from 0.05 to 0.14 of the image (Caron et al. 2020, appendix A).
    """
    scales = ((0.14, 1.0), (0.05, 0.14))
    return tuple(
        ViewSpec(replace(policy, box=RandomCrop(scale)), size, count)
        for scale, size, count in zip(scales, sizes, counts, strict=True)
    )


def _jitter(strength: float) -> Jitter:
    return Jitter(0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength)


def deepcluster() -> Policy:
    """DeepCluster's views: crops and flips (Caron et al. 2018, section 4)."""
    return Policy(RandomCrop(), (Flip(),))


PRESETS = {
    "deepcluster": deepcluster,
    "simclr_imagenet": simclr_imagenet,
    "simclr_cifar": simclr_cifar,
    "simclr_gray": simclr_gray,
}
