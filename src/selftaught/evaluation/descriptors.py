"""One vector per image of any size, for instance retrieval.

An image is scaled until its longer side has a given number of pixels; the last map of the network
is pooled by R-MAC (Tolias, Sicre, Jegou, "Particular object retrieval with integral max-pooling of
CNN activations", ICLR 2016), by generalised means (GeM: Radenovic, Tolias, Chum, "Fine-tuning CNN
image retrieval with no human annotation", TPAMI 2019, Eq. 1) or by the mean of each channel. A
query is scaled and then cropped to its box, as in Caron et al. (ECCV 2018).

Every pooling makes unit vectors of regions, optionally whitens them by a PCA learned on another set
and normalises again, then sums them and normalises the sum. GeM and the mean have one region. The
descriptors of several scales are averaged and normalised.

Networks without maps (raw pixels) are described by f(x) of the evaluation view, of unit length: the
central square of the image, or of the query's box, at the network's own size. "vector" does the
same for any network.

Shapes:  N images; C channels; H, W of an image in pixels; c, h, w of a map; R regions; D size of a
         descriptor: c, or P once whitened.
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from selftaught.clustering.whitening import Whitening
from selftaught.data.decode import decode_file
from selftaught.data.feed import make_ahead
from selftaught.data.ground_truth import Box
from selftaught.data.retrieval_sets import Query, check_box
from selftaught.encoders.encoder import Encoder
from selftaught.encoders.preprocess import check_values, explain_size_errors, network_input, pixels
from selftaught.errors import ConfigError, DataError, did_you_mean, printable
from selftaught.foundation.machine import CPU, Machine
from selftaught.vectors.features import evaluation_mode
from selftaught.views import tensors
from selftaught.views.policy import evaluation
from selftaught.views.sample import sample

POOLS = ("rmac", "gem", "mean", "vector")

_TINY = 1e-6  # lower limit of GeM's inputs; vectors shorter than this stay short
_SMALLEST, _LARGEST = 16, 8192  # pixels of the longer side


@dataclass(frozen=True)
class DescriptorSettings:
    """How an image becomes a descriptor. The defaults are Caron et al.'s, without whitening.

    Attributes:
        pool: One of `POOLS`.
        longest: Pixels of the longer side.
        scales: Shares of it; the descriptors of all scales are averaged.
        levels: L of R-MAC.
        overlap: Overlap of neighbouring R-MAC regions, as a share of their side.
        p: Exponent of GeM.
        stage: Stage whose map is pooled; None: the last.
        whitening: Learned by `learn_whitening` on another set with the same recipe.

    Raises:
        ConfigError: A value is out of range.
    """

    pool: str = "rmac"
    longest: int = 1024
    scales: tuple[float, ...] = (1.0,)
    levels: int = 3
    overlap: float = 0.4
    p: float = 3.0
    stage: str | None = None
    whitening: Whitening | None = None

    def __post_init__(self) -> None:
        if self.pool not in POOLS:
            raise ConfigError(f"there is no pooling {self.pool!r}", did_you_mean(self.pool, POOLS))
        if not self.scales or not all(0 < scale <= 8 for scale in self.scales):
            raise ConfigError(f"scales = {self.scales}", "use numbers above 0, up to 8")
        if not all(_SMALLEST <= side <= _LARGEST for side in self.sides):
            what = f"images of {' and '.join(map(str, self.sides))} px on the longer side"
            raise ConfigError(what, f"use {_SMALLEST} to {_LARGEST} px, scales included")
        for name, low, high in (("levels", 1, 16), ("overlap", 0, 0.9), ("p", 1, 100)):
            if not low <= getattr(self, name) <= high:
                what = f"{name} = {getattr(self, name):g}"
                raise ConfigError(what, f"use a number from {low} to {high}")

    @property
    def sides(self) -> tuple[int, ...]:
        """Pixels of the longer side at each scale."""
        return tuple(round(self.longest * scale) for scale in self.scales)


class ImageToDescribe(NamedTuple):
    """An image to describe; a `query` is cropped to its box."""

    path: Path
    query: Query | None = None


def descriptors(
    encoder: Encoder,
    targets: Sequence[ImageToDescribe],
    recipe: DescriptorSettings,
    machine: Machine = CPU,
) -> NDArray[np.float32]:
    """One unit vector per image, (N, D).

    Args:
        encoder: f. It moves to the device; its modules keep their modes.
        targets: The images.
        recipe: How to describe them.
        machine: Where f computes; its threads read and scale images ahead.

    Raises:
        BadImage: A file is damaged, missing or not an image.
        ConfigError: The network has a fixed input size, or lacks the stage; or images of this size
            are too small for it.
        DataError: A query's box leaves its image, or the network does not accept an image's values
            or channels.
    """
    vectors = _combined_regions(encoder, targets, recipe, partial(_descriptor, recipe), machine)
    return torch.stack(vectors).numpy()


def learn_whitening(
    encoder: Encoder,
    paths: Sequence[Path],
    recipe: DescriptorSettings,
    machine: Machine = CPU,
    *,
    size: int = 512,
) -> Whitening:
    """PCA and whitening of the regions of another set's images.

    Regions are centred, eigenvalues below 1e-5 of the largest are raised to that, and at most
    `size` dimensions remain.

    Raises:
        BadImage, ConfigError, DataError: As `descriptors`.
        UserError: No images.
    """
    targets = [ImageToDescribe(path) for path in paths]
    regions = _combined_regions(encoder, targets, recipe, torch.cat, machine)
    return Whitening.fit(torch.cat(regions) if regions else torch.empty(0, 1), size)


def pooling_used(encoder: Encoder, recipe: DescriptorSettings) -> str:
    """The pooling used; "vector" if the network has no maps.

    Raises:
        ConfigError: The network lacks the stage.
    """
    if recipe.stage is not None and recipe.stage not in encoder.strides:
        known = did_you_mean(recipe.stage, encoder.strides)
        raise ConfigError(f"the network has no stage {recipe.stage!r}", known)
    return recipe.pool if encoder.strides else "vector"


# --- from maps to descriptors


def square_regions(
    height: int, width: int, levels: int = 3, overlap: float = 0.4
) -> list[tuple[int, int, int]]:
    """R-MAC's regions of a map: top, left and side of each (Tolias et al. 2016, section 3.2).

    Level 1 has m squares as large as fit; m brings the overlap of neighbours along the longer side
    closest to `overlap` (the lower of two equally close numbers). Level l has squares of side
    2 min(h, w) / (l + 1), l along the shorter side and l + m - 1 along the longer. They are spread
    evenly; sides and positions are rounded down.
    """
    short, long = sorted((height, width))
    extra = _extra_regions(short, long, overlap)
    regions = []
    for level in range(1, levels + 1):
        side = max(1, 2 * short // (level + 1))
        tops = _window_starts(height, side, level + (extra if height > width else 0))
        lefts = _window_starts(width, side, level + (extra if width > height else 0))
        regions += [(top, left, side) for top in tops for left in lefts]
    return regions


def _extra_regions(short: int, long: int, overlap: float) -> int:
    """m - 1: steps between the largest squares along the longer side."""
    if long == short:
        return 0
    exact = (long - short) / (short * (1 - overlap))
    few = max(1, math.floor(exact))

    def deviation(n: int) -> float:
        return round(abs(1 - (long - short) / (n * short) - overlap), 9)  # rounded: ties stay ties

    return min((few, few + 1), key=deviation)


def _window_starts(length: int, side: int, number: int) -> list[int]:
    """Start positions of evenly spaced windows, from one end to the other."""
    return [i * (length - side) // max(1, number - 1) for i in range(number)]


def region_maxima(map_chw: Tensor, levels: int = 3, overlap: float = 0.4) -> Tensor:
    """The largest value of each channel in each of R-MAC's regions, (R, c)."""
    boxes = square_regions(map_chw.shape[1], map_chw.shape[2], levels, overlap)
    return torch.stack(
        [map_chw[:, top : top + s, left : left + s].amax((1, 2)) for top, left, s in boxes]
    )


def generalised_mean(map_chw: Tensor, p: float = 3.0) -> Tensor:
    """(mean of x^p)^(1/p) per channel, (c,); values below a millionth count as a millionth."""
    return map_chw.clamp(min=_TINY).pow(p).mean((1, 2)).pow(1 / p)


def unit_vectors(x_ND: Tensor) -> Tensor:
    """Rows scaled to length 1; rows near 0 stay short."""
    return F.normalize(x_ND, dim=-1, eps=_TINY)


def _regions(map_chw: Tensor, recipe: DescriptorSettings, pool: str) -> Tensor:
    """Unit vectors of a map's regions, (R, c)."""
    if pool == "rmac":
        return unit_vectors(region_maxima(map_chw, recipe.levels, recipe.overlap))
    pooled_c = generalised_mean(map_chw, recipe.p) if pool == "gem" else map_chw.mean((1, 2))
    return unit_vectors(pooled_c[None])


def _descriptor(recipe: DescriptorSettings, regions_of_scales: list[Tensor]) -> Tensor:
    """The image's vector (D,) from its regions at each scale."""
    white = recipe.whitening
    parts = [region_Rc if white is None else white(region_Rc) for region_Rc in regions_of_scales]
    return unit_vectors(torch.stack([unit_vectors(part_RD.sum(0)) for part_RD in parts]).mean(0))


# --- from images to maps


def _combined_regions(
    encoder: Encoder,
    targets: Sequence[ImageToDescribe],
    recipe: DescriptorSettings,
    combine: Callable[[list[Tensor]], Tensor],
    machine: Machine,
) -> list[Tensor]:
    """Each image's regions, (R, c) per scale, combined into one tensor on the CPU."""
    pool = pooling_used(encoder, recipe)
    read = _evaluation_view if pool == "vector" else _scaled_inputs
    inputs = make_ahead(
        lambda target: read(encoder, target, recipe), targets, threads=machine.threads
    )
    encoder.to(machine.device)
    stage = recipe.stage or next(reversed(encoder.strides), "")
    plain = torch.autocast(torch.device(machine.device).type, enabled=False)
    out: list[Tensor] = []
    with evaluation_mode(encoder), contextlib.closing(inputs), plain:
        for xs in inputs:
            xs = [x_1CHW.to(machine.device) for x_1CHW in xs]
            if pool == "vector":
                found = [unit_vectors(encoder(x_1CHW).float()) for x_1CHW in xs]
            else:
                maps = [_map(encoder, x_1CHW, stage) for x_1CHW in xs]
                found = [_regions(map_chw, recipe, pool) for map_chw in maps]
            out.append(combine([region_Rc.cpu() for region_Rc in found]))
    return out


def _map(encoder: Encoder, x_1CHW: Tensor, stage: str) -> Tensor:
    """A stage's map (c, h, w), float32."""
    remedy = "use the network's plain vectors (--set pool=vector), or choose another size"
    height, width = x_1CHW.shape[2:]
    with explain_size_errors(encoder.config.architecture, height, width, remedy):
        return encoder.stages(x_1CHW)[stage][0].float()


def _read_image(encoder: Encoder, target: ImageToDescribe) -> NDArray[Any]:
    """Raw values (H, W, C) with the encoder's channels; checks a query's box against them."""
    name = str(target.path)
    decoded = decode_file(target.path, name)
    try:
        image_HWC = pixels(decoded, encoder.config.in_channels)
        check_values(image_HWC, encoder.config.intensity)
    except DataError as error:
        raise DataError(f"{printable(name)}: {error.what}", error.remedy) from None
    if target.query is not None:
        check_box(target.query, *image_HWC.shape[:2])
    return image_HWC


def _scaled_inputs(
    encoder: Encoder, target: ImageToDescribe, recipe: DescriptorSettings
) -> list[Tensor]:
    """The network's input at each scale, (1, C, H, W) each."""
    image_HWC = _read_image(encoder, target).astype(np.float32)  # integers would be rounded again
    box = target.query.box if target.query else None
    return [_scaled_input(encoder, image_HWC, side, box) for side in recipe.sides]


def _scaled_input(
    encoder: Encoder, image_HWC: NDArray[Any], longest: int, box: Box | None
) -> Tensor:
    size = image_HWC.shape[:2]
    height, width = (max(1, round(side * longest / max(size))) for side in size)
    resized_HWC = tensors.resize(image_HWC, height, width)
    if box is not None:
        resized_HWC = crop_to_box(resized_HWC, box, size)
    return network_input(resized_HWC, encoder.config.intensity)


def crop_to_box(image_HWC: NDArray[Any], box: Box, size: tuple[int, int]) -> NDArray[Any]:
    """The part of an image inside a box, including every pixel the box touches.

    Args:
        image_HWC: The image, scaled.
        box: Box in pixels of the unscaled image.
        size: Height and width of the unscaled image.
    """
    height, width = image_HWC.shape[:2]
    y_scale, x_scale = height / size[0], width / size[1]
    top, bottom = _pixels_between(box[1] * y_scale, box[3] * y_scale, height)
    left, right = _pixels_between(box[0] * x_scale, box[2] * x_scale, width)
    return image_HWC[top:bottom, left:right]


def _pixels_between(start: float, stop: float, length: int) -> tuple[int, int]:
    """The first pixel and the one after the last, at least one pixel apart."""
    first = min(max(0, math.floor(start)), length - 1)
    return first, min(max(first + 1, math.ceil(stop)), length)


def _evaluation_view(
    encoder: Encoder, target: ImageToDescribe, recipe: DescriptorSettings
) -> list[Tensor]:
    """The evaluation view of an image, or of a query's box, (1, C, S, S)."""
    config, image_HWC = encoder.config, _read_image(encoder, target)
    if target.query and target.query.box:
        size = image_HWC.shape[:2]
        image_HWC = crop_to_box(image_HWC, target.query.box, (size[0], size[1]))
    policy = evaluation(config.image_size)
    params = sample(
        policy,
        size=config.image_size,
        sizes_N2=np.array([image_HWC.shape[:2]], np.int64),
        draws_N=np.zeros(1, np.int64),
        seed=0,
        channels=config.in_channels,
    )
    return [tensors.apply_policy([torch.tensor(image_HWC)], params, policy, config.intensity)]
