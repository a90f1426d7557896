"""Masks carried through a clip by what an encoder finds alike: nothing is trained on it.

Jabri, Owens, Efros, "Space-time correspondence as a contrastive random walk", NeurIPS 2020 (arXiv
2006.14613); Caron et al. 2021, "DINO" (arXiv 2104.14294); both on DAVIS 2017. A
frame's labels come from the first frame and from the last n ones, as `propagation.py` has it, with
the k most similar positions in a square of radius r. f is a map of the encoder; the label of the
first frame is its mask, reduced to the map; those of later frames are what was found there.
Enlarged to the frame, the largest label wins. (DINO's code reduces the mask by nearest positions,
and stretches each object's label to 0 .. 1 before that; here labels are shares of areas.)

                        k    n    r    tau     stride of f
    here                7    7    12   0.1     8
    DINO's code         5    7    12   0.1     8 or 16
    random walk's      10   20    12   0.05    8

Shapes:  H, W of a frame; h, w of its map, D numbers a position; O objects and the background;
         n frames to look at; M objects of all clips; B resamples.
"""

import contextlib
import copy
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from selftaught.data.clips import VOID, Clip
from selftaught.encoders.encoder import Encoder
from selftaught.encoders.preprocess import check_values, network_input, pixels, sized
from selftaught.errors import ConfigError, DataError, did_you_mean, shown
from selftaught.evaluation.masks import contour_accuracy, region_similarity
from selftaught.evaluation.metrics import Figure
from selftaught.evaluation.propagation import propagate
from selftaught.evaluation.representation import (
    EncoderRepresentation,
    Representation,
    check_finite,
)
from selftaught.foundation.machine import CPU, Machine
from selftaught.vectors.features import evaluating
from selftaught.views.tensors import resize

_REMEDY = "choose another --set side, or another encoder"
_MOST = 8192  # pixels a side, and whatever else is counted

COLOURS = "colours"
"""What mean pixels are called."""
STRIDE = 8
"""The map is that of the last stage with a stride of at most so many pixels."""


@dataclass(frozen=True)
class TrackingSettings:
    """How masks are carried.

    Attributes:
        stage: Whose map f is, one of `Encoder.strides`; None: the last with a stride of 8 or less,
            or the last of the finest where all are coarser. The last stage of most networks has a
            stride of 32: an object of a few positions cannot be drawn.
        side: Pixels of a frame's shorter side as the encoder sees it; 480 in both papers.
        top: k.
        frames: n.
        radius: r, in positions of the map.
        temperature: tau.
    """

    stage: str | None = None
    side: int = 480
    top: int = 7
    frames: int = 7
    radius: int = 12
    temperature: float = 0.1

    def __post_init__(self) -> None:
        for name, least in {"side": 1, "top": 1, "frames": 0, "radius": 0}.items():
            if not least <= getattr(self, name) <= _MOST:
                what = f"{name} is {getattr(self, name)}"
                raise ConfigError(what, f"give a number from {least} to {_MOST:,}")
        if not self.temperature > 0:
            raise ConfigError(f"temperature is {self.temperature:g}", "give a number above 0")


@dataclass(frozen=True)
class Tracked:
    """How well one object was followed: means over the frames that are judged.

    Attributes:
        clip: Name of its clip.
        value: Of the object in the masks.
        j: Region similarity.
        f: Contour accuracy.
        frames: How many were judged.
    """

    clip: str
    value: int
    j: float
    f: float
    frames: int


def tracking(
    subject: Representation,
    clips: Sequence[Clip],
    settings: TrackingSettings | None = None,
    *,
    device: str = "cpu",
) -> tuple[Tracked, ...]:
    """Follow every object of every clip from its mask in the first frame.

    Args:
        subject: Whose maps are compared.
        clips: With a mask after the first frame each.
        settings: How; by default `Settings()`.
        device: Where to compute.

    Raises:
        ConfigError: The subject has no stages, or none of that name.
        DataError: A clip has no mask to judge by, a file cannot be read, frames have channels or
            values that the encoder does not take, or its map is not finite.
    """
    settings = settings or TrackingSettings()
    for clip in clips:
        judged_frames(clip)
    followed = (
        object_scores(clip, carried(subject, clip, settings, device=device)) for clip in clips
    )
    return tuple(one for objects in followed for one in objects)


def no_motion(clips: Sequence[Clip]) -> tuple[Tracked, ...]:
    """What keeping the first mask for all frames is worth: who sees nothing gets as much."""
    stay = (((t, clip.mask(0)) for t in judged_frames(clip)) for clip in clips)
    return tuple(
        one for clip, found in zip(clips, stay, strict=True) for one in object_scores(clip, found)
    )


def colours(
    encoder: Encoder, settings: TrackingSettings | None = None, machine: Machine = CPU
) -> EncoderRepresentation:
    """What an encoder has to beat: f is the mean colour of a position, on as fine a map as its own.

    A constant beside the colours lets brightness count, which unit length would take away. Mean
    colours are harder to beat than the pixels of a position, which need not lie alike in it.

    Args:
        encoder: Its channels, range, mean and std are taken, and the stride of the stage.
        settings: Whose stage; the result has one stage, of the same name.
        machine: Where to compute.

    Raises:
        ConfigError: As `chosen_stage`.
    """
    wanted = settings.stage if settings else None
    stage = chosen_stage(encoder.strides, wanted, called="this encoder")
    config = replace(encoder.config, architecture="colours", front="none", options={})
    trunk = _Colours(stage, encoder.strides[stage])
    return EncoderRepresentation(
        COLOURS, Encoder(config, trunk, dim=config.in_channels + 1), machine=machine
    )


class _Colours(nn.Module):
    """A network of one stage: the mean of each position's pixels, and 1."""

    def __init__(self, stage: str, stride: int) -> None:
        super().__init__()
        self.feature_info = ({"module": stage, "reduction": stride},)
        self.stride = stride

    def forward_intermediates(
        self, x_NCHW: Tensor, *, intermediates_only: bool = True
    ) -> list[Tensor]:
        mean_NChw = F.avg_pool2d(x_NCHW, self.stride)
        return [F.pad(mean_NChw, (0, 0, 0, 0, 0, 1), value=1.0)]


# ---- judging


def judged_frames(clip: Clip) -> tuple[int, ...]:
    """Frames after the first that have a mask.

    Where all have one, as in DAVIS, the last is left out, as DAVIS' own evaluation leaves it out.

    Raises:
        DataError: There is none.
    """
    frames = tuple(t for t in sorted(clip.masks) if t > 0)
    if not frames:
        raise DataError(
            f"the clip {clip.name} has a mask of its first frame only",
            "add masks of other frames to judge by",
        )
    every = len(frames) == len(clip.frames) - 1
    return frames[:-1] if every and len(frames) > 1 else frames


def object_scores(clip: Clip, found: Iterable[tuple[int, NDArray[np.int32]]]) -> list[Tracked]:
    """Every object of a clip, from the masks (H, W) that were found in some frames."""
    similarities: dict[int, list[tuple[float, float]]] = {value: [] for value in clip.objects}
    for t, found_HW in found:
        true_HW = clip.mask(t)
        for value, so_far in similarities.items():
            here_HW, there_HW = (found_HW == value) & (true_HW != VOID), true_HW == value
            j, f = region_similarity(here_HW, there_HW), contour_accuracy(here_HW, there_HW)
            so_far.append((j, f))
    means = {value: np.mean(pairs, axis=0) for value, pairs in similarities.items()}
    return [
        Tracked(clip.name, value, float(j), float(f), len(similarities[value]))
        for value, (j, f) in means.items()
    ]


def tracking_figures(tracked: Sequence[Tracked]) -> dict[str, Figure]:
    """J&F, J and F as means over objects, to be resampled by object; labels are not looked at."""
    j_M, f_M = np.array([(one.j, one.f) for one in tracked]).T
    values = {"J&F": (j_M + f_M) / 2, "J": j_M, "F": f_M}
    return {name: partial(_mean, values_M) for name, values_M in values.items()}


def _mean(
    values_M: NDArray[np.float64], labels_M: NDArray[Any], counts_MB: NDArray[np.float32]
) -> NDArray[np.float64]:
    mean_B: NDArray[np.float64] = values_M @ counts_MB / counts_MB.sum(axis=0, dtype=float)
    return mean_B


# ---- carrying


def carried(
    subject: Representation, clip: Clip, settings: TrackingSettings, *, device: str = "cpu"
) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """The mask (H, W) found in each frame that is judged, with the frame's number.

    Raises:
        ConfigError: As `tracking`.
        DataError: As `tracking`.
    """
    if subject.encoder is None:
        raise ConfigError(f"{subject.name} has no maps", "tracking takes a network")
    stage = chosen_stage(subject.encoder.strides, settings.stage, called=subject.name)
    size = scaled_size(clip.size, settings.side, max(subject.encoder.strides.values()))
    encoder = _for_size(subject.encoder.to(device), size)

    def seen(t: int) -> Tensor:
        frame_HWC = clip.frame(t)
        with _named(clip.frames[t]):
            map_Dhw = unit_map(encoder, stage, frame_HWC, size)
        check_finite(subject.name, bool(map_Dhw.isfinite().all()))
        return map_Dhw

    first_Dhw, judged = seen(0), judged_frames(clip)
    label_Ohw = reduced(clip.mask(0), clip.objects, first_Dhw.shape[1:]).to(first_Dhw.device)
    first, recent = (first_Dhw, label_Ohw), deque[tuple[Tensor, Tensor]](maxlen=settings.frames)
    for t in range(1, judged[-1] + 1):
        map_Dhw = seen(t)
        maps_nDhw, labels_nOhw = map(torch.stack, zip(first, *recent, strict=True))
        label_Ohw = propagate(
            map_Dhw,
            maps_nDhw,
            labels_nOhw,
            top=settings.top,
            radius=settings.radius,
            temperature=settings.temperature,
        )
        recent.append((map_Dhw, label_Ohw))
        if t in judged:
            yield t, upscaled_labels(label_Ohw, clip.objects, clip.size)


# ---- between frames and maps


def chosen_stage(strides: Mapping[str, int], stage: str | None, *, called: str) -> str:
    """The stage whose map is compared; see `Settings`.

    Raises:
        ConfigError: There are no stages, or none of that name.
    """
    if not strides:
        raise ConfigError(f"{called} has no stages", "tracking takes a network that has maps")
    if stage is not None and stage not in strides:
        raise ConfigError(f"{called} has no stage {stage!r}", did_you_mean(stage, strides))
    most = max(STRIDE, min(strides.values()))
    return stage or [name for name, stride in strides.items() if stride <= most][-1]


def scaled_size(size: tuple[int, int], side: int, stride: int) -> tuple[int, int]:
    """H and W as the encoder sees them: the shorter is about `side`, both multiples of a stride."""
    H, W = (max(1, round(length * side / min(size) / stride)) * stride for length in size)
    return H, W


def unit_map(
    encoder: Encoder, stage: str, frame_HWC: NDArray[Any], size: tuple[int, int]
) -> Tensor:
    """f: the map of a stage, (D, h, w), of unit length at each position.

    Raises:
        ConfigError: The network has no map of an image of this size.
        DataError: The frame has channels or values that the encoder does not take.
    """
    config, like = encoder.config, next(encoder.parameters(), torch.empty(0))
    raw_HWC = pixels(frame_HWC, config.in_channels)
    check_values(raw_HWC, config.intensity)
    x_1CHW = network_input(resize(raw_HWC, *size), config.intensity)
    plain = torch.autocast(like.device.type, enabled=False)
    with evaluating(encoder), plain, sized(encoder.config.architecture, *size, _REMEDY):
        map_Dhw = encoder.stages(x_1CHW.to(like.device, like.dtype))[stage][0].float()
        return F.normalize(map_Dhw, dim=0)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """What is wrong with a frame, with its name."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{shown(str(path))}: {error.what}", error.remedy) from None


def _for_size(encoder: Encoder, size: tuple[int, int]) -> Encoder:
    """The encoder; where its positions are learnt for one size, a copy with these resampled."""
    if size == (encoder.config.image_size,) * 2 or not hasattr(encoder.trunk, "set_input_size"):
        return encoder
    copied: Any = copy.deepcopy(encoder)
    with sized(encoder.config.architecture, *size, _REMEDY):
        copied.trunk.set_input_size(img_size=size)
    return copied  # type: ignore[no-any-return]


def reduced(mask_HW: NDArray[np.int32], objects: Sequence[int], size: Sequence[int]) -> Tensor:
    """Labels (O, h, w) of a mask: the share of a position's area that is background, or object."""
    one_hot = np.stack([mask_HW == value for value in (0, *objects)])
    label_1Ohw = F.interpolate(torch.from_numpy(one_hot).float()[None], tuple(size), mode="area")
    return label_1Ohw[0]


def upscaled_labels(
    label_Ohw: Tensor, objects: Sequence[int], size: tuple[int, int]
) -> NDArray[np.int32]:
    """The mask (H, W) of labels: bilinear between positions, and the largest wins."""
    label_1OHW = F.interpolate(label_Ohw[None], size, mode="bilinear", align_corners=False)
    values = np.array([0, *objects], np.int32)
    found_HW: NDArray[np.int32] = values[label_1OHW[0].argmax(dim=0).cpu().numpy()]
    return found_HW
