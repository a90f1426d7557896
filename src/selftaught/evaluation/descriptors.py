"""From images of any size to one vector each, for instance retrieval.

An image is scaled until its longer side has a given number of pixels; the last map of the network
is pooled by R-MAC (Tolias, Sicre, Jegou, "Particular object retrieval with integral max-pooling of
CNN activations", ICLR 2016), by generalised means (GeM: Radenovic, Tolias, Chum, "Fine-tuning CNN
image retrieval with no human annotation", TPAMI 2019, Eq. 1) or by the mean of each channel. A
query is cut to its box once it is scaled, as Caron et al. (ECCV 2018) do.

Every pooling is: vectors of regions, each of unit length; perhaps whitened by a PCA learned on
another set, and of unit length again; their sum, of unit length. GeM and the mean have one region.
The descriptors of several scales are averaged, and that has unit length.

Networks without maps (raw pixels) are described by f(x) of the evaluation view, of unit length: the
central square of the image, or of the query's box, at the network's own size. "vector" asks for the
same of any network.

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
from selftaught.data.feed import ahead
from selftaught.data.ground_truth import Box
from selftaught.data.retrieval_sets import Query, check_box
from selftaught.encoders.encoder import Encoder
from selftaught.encoders.preprocess import check_values, network_input, pixels, sized
from selftaught.errors import ConfigError, DataError, did_you_mean, shown
from selftaught.foundation.machine import CPU, Machine
from selftaught.vectors.features import evaluating
from selftaught.views import tensors
from selftaught.views.policy import evaluation
from selftaught.views.sample import sample

POOLS = ("rmac", "gem", "mean", "vector")

_TINY = 1e-6  # what GeM raises to a power at least; vectors shorter than this stay short
_SMALLEST, _LARGEST = 16, 8192  # pixels of the longer side


@dataclass(frozen=True)
class DescriptorSettings:
    """How an image becomes a descriptor. The defaults are Caron et al.'s, but for the whitening.

    Attributes:
        pool: One of `POOLS`.
        longest: Pixels of the longer side.
        scales: Shares of it; descriptors of several are averaged.
        levels: L of R-MAC.
        overlap: Of neighbouring regions of R-MAC, as a share of their side.
        p: Exponent of GeM.
        stage: Whose map; None: the last one.
        whitening: Learned by `learn_whitening` on another set with the same recipe.

    Raises:
        ConfigError: A value makes no sense.
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
            raise ConfigError(f"scales = {self.scales}", "give numbers above 0, up to 8")
        if not all(_SMALLEST <= side <= _LARGEST for side in self.sides):
            what = f"images of {' and '.join(map(str, self.sides))} px on their longer side"
            raise ConfigError(what, f"give {_SMALLEST} to {_LARGEST} px, scales included")
        for name, low, high in (("levels", 1, 16), ("overlap", 0, 0.9), ("p", 1, 100)):
            if not low <= getattr(self, name) <= high:
                what = f"{name} = {getattr(self, name):g}"
                raise ConfigError(what, f"give a number from {low} to {high}")

    @property
    def sides(self) -> tuple[int, ...]:
        """Pixels of the longer side at each scale."""
        return tuple(round(self.longest * scale) for scale in self.scales)


class ImageToDescribe(NamedTuple):
    """An image to describe; `query` where it is one, whose box is cut out."""

    path: Path
    query: Query | None = None


def descriptors(
    encoder: Encoder,
    pictures: Sequence[ImageToDescribe],
    recipe: DescriptorSettings,
    machine: Machine = CPU,
) -> NDArray[np.float32]:
    """A vector of unit length of each image, (N, D).

    Args:
        encoder: f. It moves to the device; the modes of its modules are as before afterwards.
        pictures: The images.
        recipe: How they are described.
        machine: Where f computes; its threads read and scale images ahead.

    Raises:
        BadImage: A file is damaged, missing or no image.
        ConfigError: The network has a fixed input size, or no such stage; or images of this size
            are too small for it.
        DataError: A query's box leaves its image, or an image has values or channels that the
            network does not take.
    """
    made = _described(encoder, pictures, recipe, partial(_descriptor, recipe), machine)
    return torch.stack(made).numpy()


def learn_whitening(
    encoder: Encoder,
    paths: Sequence[Path],
    recipe: DescriptorSettings,
    machine: Machine = CPU,
    *,
    size: int = 512,
) -> Whitening:
    """PCA and whitening of the regions of another set's images, for `Recipe.whitening`.

    Centred, eigenvalues below 1e-5 of the largest raised to that, `size` dimensions at most.

    Raises:
        BadImage, ConfigError, DataError: As `descriptors`.
        UserError: There are no images.
    """
    pictures = [ImageToDescribe(path) for path in paths]
    regions = _described(encoder, pictures, recipe, torch.cat, machine)
    return Whitening.fit(torch.cat(regions) if regions else torch.empty(0, 1), size)


def described_by(encoder: Encoder, recipe: DescriptorSettings) -> str:
    """The pooling that is used: "vector" where the network has no maps.

    Raises:
        ConfigError: It has no such stage.
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

    At level 1 squares as large as fit, as many along the longer side as bring the overlap of
    neighbours closest to `overlap` (the fewer of two that are as close); m of them. At level l
    squares of side 2 min(h, w) / (l + 1), l along the shorter side and l + m - 1 along the longer.
    They are spread evenly; sides and places are rounded down.
    """
    short, long = sorted((height, width))
    more = _more_along(short, long, overlap)
    regions = []
    for level in range(1, levels + 1):
        side = max(1, 2 * short // (level + 1))
        tops = _spread(height, side, level + (more if height > width else 0))
        lefts = _spread(width, side, level + (more if width > height else 0))
        regions += [(top, left, side) for top in tops for left in lefts]
    return regions


def _more_along(short: int, long: int, overlap: float) -> int:
    """m - 1: steps between the largest squares along the longer side."""
    if long == short:
        return 0
    exact = (long - short) / (short * (1 - overlap))
    few = max(1, math.floor(exact))

    def off(n: int) -> float:
        return round(abs(1 - (long - short) / (n * short) - overlap), 9)  # ties are ties

    return min((few, few + 1), key=off)


def _spread(length: int, side: int, number: int) -> list[int]:
    """Where so many windows begin, the first at the start and the last at the end."""
    return [i * (length - side) // max(1, number - 1) for i in range(number)]


def region_maxima(map_chw: Tensor, levels: int = 3, overlap: float = 0.4) -> Tensor:
    """The largest value of each channel in each of R-MAC's regions, (R, c)."""
    boxes = square_regions(map_chw.shape[1], map_chw.shape[2], levels, overlap)
    return torch.stack(
        [map_chw[:, top : top + s, left : left + s].amax((1, 2)) for top, left, s in boxes]
    )


def generalised_mean(map_chw: Tensor, p: float = 3.0) -> Tensor:
    """(mean of x^p)^(1/p) of each channel, (c,); what is not positive counts as a millionth."""
    return map_chw.clamp(min=_TINY).pow(p).mean((1, 2)).pow(1 / p)


def unit_vectors(x_ND: Tensor) -> Tensor:
    """Rows of length 1; those that are nearly 0 stay short."""
    return F.normalize(x_ND, dim=-1, eps=_TINY)


def _regions(map_chw: Tensor, recipe: DescriptorSettings, pool: str) -> Tensor:
    """Unit vectors of a map's regions, (R, c)."""
    if pool == "rmac":
        return unit_vectors(region_maxima(map_chw, recipe.levels, recipe.overlap))
    pooled_c = generalised_mean(map_chw, recipe.p) if pool == "gem" else map_chw.mean((1, 2))
    return unit_vectors(pooled_c[None])


def _descriptor(recipe: DescriptorSettings, regions_of_scales: list[Tensor]) -> Tensor:
    """From the regions of each scale to the image's vector, (D,)."""
    white = recipe.whitening
    parts = [region_Rc if white is None else white(region_Rc) for region_Rc in regions_of_scales]
    return unit_vectors(torch.stack([unit_vectors(part_RD.sum(0)) for part_RD in parts]).mean(0))


# --- from images to maps


def _described(
    encoder: Encoder,
    pictures: Sequence[ImageToDescribe],
    recipe: DescriptorSettings,
    made_of: Callable[[list[Tensor]], Tensor],
    machine: Machine,
) -> list[Tensor]:
    """What is made of each image's regions, (R, c) at each scale, on the CPU."""
    pool = described_by(encoder, recipe)
    read = _view if pool == "vector" else _scaled
    made = ahead(lambda picture: read(encoder, picture, recipe), pictures, threads=machine.threads)
    encoder.to(machine.device)
    stage = recipe.stage or next(reversed(encoder.strides), "")
    plain = torch.autocast(torch.device(machine.device).type, enabled=False)
    out: list[Tensor] = []
    with evaluating(encoder), contextlib.closing(made), plain:
        for xs in made:
            xs = [x_1CHW.to(machine.device) for x_1CHW in xs]
            if pool == "vector":
                found = [unit_vectors(encoder(x_1CHW).float()) for x_1CHW in xs]
            else:
                maps = [_map(encoder, x_1CHW, stage) for x_1CHW in xs]
                found = [_regions(map_chw, recipe, pool) for map_chw in maps]
            out.append(made_of([region_Rc.cpu() for region_Rc in found]))
    return out


def _map(encoder: Encoder, x_1CHW: Tensor, stage: str) -> Tensor:
    """A stage's map (c, h, w), float32."""
    remedy = "describe images by its plain vectors (--set pool=vector), or choose another size"
    height, width = x_1CHW.shape[2:]
    with sized(encoder.config.architecture, height, width, remedy):
        return encoder.stages(x_1CHW)[stage][0].float()


def _read(encoder: Encoder, picture: ImageToDescribe) -> NDArray[Any]:
    """Raw values (H, W, C) with the encoder's channels; a query's box is known to lie in them."""
    name = str(picture.path)
    decoded = decode_file(picture.path, name)
    try:
        image_HWC = pixels(decoded, encoder.config.in_channels)
        check_values(image_HWC, encoder.config.intensity)
    except DataError as error:
        raise DataError(f"{shown(name)}: {error.what}", error.remedy) from None
    if picture.query is not None:
        check_box(picture.query, *image_HWC.shape[:2])
    return image_HWC


def _scaled(encoder: Encoder, picture: ImageToDescribe, recipe: DescriptorSettings) -> list[Tensor]:
    """The network's input at each scale, (1, C, H, W) each."""
    image_HWC = _read(encoder, picture).astype(np.float32)  # integers would be rounded anew
    box = picture.query.box if picture.query else None
    return [_input(encoder, image_HWC, side, box) for side in recipe.sides]


def _input(encoder: Encoder, image_HWC: NDArray[Any], longest: int, box: Box | None) -> Tensor:
    size = image_HWC.shape[:2]
    height, width = (max(1, round(side * longest / max(size))) for side in size)
    resized_HWC = tensors.resize(image_HWC, height, width)
    if box is not None:
        resized_HWC = cut(resized_HWC, box, size)
    return network_input(resized_HWC, encoder.config.intensity)


def cut(image_HWC: NDArray[Any], box: Box, size: tuple[int, int]) -> NDArray[Any]:
    """The box out of an image; a pixel that it touches is in it.

    Args:
        image_HWC: The image, scaled.
        box: In pixels of the image before it was scaled.
        size: Its height and width then.
    """
    height, width = image_HWC.shape[:2]
    y_scale, x_scale = height / size[0], width / size[1]
    top, bottom = _pixels_between(box[1] * y_scale, box[3] * y_scale, height)
    left, right = _pixels_between(box[0] * x_scale, box[2] * x_scale, width)
    return image_HWC[top:bottom, left:right]


def _pixels_between(start: float, stop: float, length: int) -> tuple[int, int]:
    """The first pixel and the one after the last, one of them at least."""
    first = min(max(0, math.floor(start)), length - 1)
    return first, min(max(first + 1, math.ceil(stop)), length)


def _view(encoder: Encoder, picture: ImageToDescribe, recipe: DescriptorSettings) -> list[Tensor]:
    """The evaluation view of an image, or of a query's box, (1, C, S, S)."""
    config, image_HWC = encoder.config, _read(encoder, picture)
    if picture.query and picture.query.box:
        size = image_HWC.shape[:2]
        image_HWC = cut(image_HWC, picture.query.box, (size[0], size[1]))
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
