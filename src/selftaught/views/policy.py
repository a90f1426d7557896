"""What may be done to an image to make a view of it: data only, no pixels and no numbers drawn.

A policy is a box rule (which part of the image) and a tuple of operations, each with the
probability and the ranges it is drawn from. Sources: Chen et al. 2020, section 3 and appendix A,
and google-research/simclr for what the paper leaves open; docs/methods/simclr.md names the
deviations.
"""

from dataclasses import dataclass, replace


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
class Flip:
    """Mirror left and right."""

    p: float = 0.5


@dataclass(frozen=True)
class Jitter:
    """Colour jitter in random order, clipped to [0, 1] after each operation.

    Factors are drawn from [max(0, 1 - b), 1 + b] for brightness, contrast and saturation, shifts of
    the hue from [-hue, hue] in turns. Saturation and hue apply to images of three channels only.
    """

    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    p: float = 0.8


@dataclass(frozen=True)
class Gray:
    """Colour drop: the luminance in all three channels. No operation on other channel counts."""

    p: float = 0.2


@dataclass(frozen=True)
class Blur:
    """Gaussian blur, sigma in pixels of the view; kernel width `size // 10`, made odd."""

    sigma: tuple[float, float] = (0.1, 2.0)
    p: float = 0.5

    def width(self, size: int) -> int:
        """Kernel width in pixels for a view of this size: 23 at 224 px."""
        return 2 * (size // 10 // 2) + 1


Box = RandomCrop | CenterCrop
Operation = Flip | Jitter | Gray | Blur


@dataclass(frozen=True)
class Policy:
    """A box rule and the operations that follow it, in order; `normalise` ends the chain."""

    box: Box
    operations: tuple[Operation, ...] = ()
    normalise: bool = True


@dataclass(frozen=True)
class ViewSpec:
    """`count` views of `size` x `size` pixels made by one policy."""

    policy: Policy
    size: int
    count: int = 1


@dataclass(frozen=True)
class Intensity:
    """How raw pixel values become the network's input; travels with the encoder's weights.

    `low` and `high` are the raw values that become 0 and 1 (0 and 255 for ordinary 8-bit images);
    what lies outside is clipped. `mean` and `std` are in units of that [0, 1] range, one a channel.
    """

    low: float = 0.0
    high: float = 255.0
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)


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
    """The view for evaluation: the central 87.5 % of the shorter side, all of it up to 32 px."""
    return Policy(CenterCrop(1.0 if size <= 32 else 0.875))


def _jitter(strength: float) -> Jitter:
    return Jitter(0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength)


PRESETS = {
    "simclr_imagenet": simclr_imagenet,
    "simclr_cifar": simclr_cifar,
    "simclr_gray": simclr_gray,
}
