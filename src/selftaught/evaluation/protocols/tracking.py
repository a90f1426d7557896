"""Propagate masks through clips by the similarity of an encoder's features, without training.

Jabri, Owens, Efros, "Space-time correspondence as a contrastive random walk", NeurIPS 2020 (arXiv
2006.14613); Caron et al. 2021, "DINO" (arXiv 2104.14294); both on DAVIS 2017. A
frame's labels come from the first frame and the last n frames (`propagation.py`), from the k most
similar positions in a square of radius r. f is a map of the encoder; the labels of the first frame
are its mask reduced to the map, and those of later frames are predictions. Labels are enlarged to
the frame, and the largest wins. (DINO's code reduces the mask by nearest positions, and stretches
each object's label to 0 .. 1 before enlarging; here labels are shares of areas.)

                        k    n    r    tau     stride of f
    here                7    7    12   0.1     8
    DINO's code         5    7    12   0.1     8 or 16
    random walk's      10   20    12   0.05    8

Shapes:  H, W of a frame; h, w of its map, D numbers per position; O objects and the background;
         n previous frames; M objects of all clips; B resamples.
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
from selftaught.encoders.preprocess import check_values, explain_size_errors, network_input, pixels
from selftaught.errors import ConfigError, DataError, did_you_mean, printable
from selftaught.evaluation.masks import contour_accuracy, region_similarity
from selftaught.evaluation.metrics import Figure
from selftaught.evaluation.propagation import propagate
from selftaught.evaluation.representation import (
    EncoderRepresentation,
    Representation,
    check_finite,
)
from selftaught.foundation.machine import CPU, Machine
from selftaught.vectors.features import evaluation_mode
from selftaught.views.tensors import resize

_REMEDY = "choose another --set side, or another encoder"
_MOST = 8192  # upper limit of side, top, frames and radius

COLOURS = "colours"
"""Name of the baseline of mean pixels."""
STRIDE = 8
"""The default map is that of the last stage with at most this stride in pixels."""


@dataclass(frozen=True)
class TrackingSettings:
    """How masks are propagated.

    Attributes:
        stage: Stage of f, one of `Encoder.strides`; None: the last with a stride of 8 or less, or
            the last of the finest if all are coarser. Most networks' last stage has a stride of
            32, too coarse to draw small objects.
        side: Pixels of a frame's shorter side at the encoder's input; 480 in both papers.
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
                raise ConfigError(what, f"use a number from {least} to {_MOST:,}")
        if not self.temperature > 0:
            raise ConfigError(f"temperature is {self.temperature:g}", "use a number above 0")


@dataclass(frozen=True)
class TrackedObject:
    """How well one object was tracked: means over the judged frames.

    Attributes:
        clip: Name of its clip.
        value: Value of the object in the masks.
        j: Region similarity.
        f: Contour accuracy.
        frames: Number of judged frames.
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
) -> tuple[TrackedObject, ...]:
    """Track every object of every clip from its mask in the first frame.

    Args:
        subject: The representation whose maps are compared.
        clips: Clips, each with a mask after the first frame.
        settings: How to track; None: the defaults.
        device: Where to compute.

    Raises:
        ConfigError: The subject has no stages, or lacks the chosen one.
        DataError: A clip has no mask to judge by, a file cannot be read, the encoder does not
            accept the frames' channels or values, or its map is not finite.
    """
    settings = settings or TrackingSettings()
    for clip in clips:
        judged_frames(clip)
    scores = (
        object_scores(clip, carried_masks(subject, clip, settings, device=device)) for clip in clips
    )
    return tuple(one for objects in scores for one in objects)


def no_motion(clips: Sequence[Clip]) -> tuple[TrackedObject, ...]:
    """The scores of leaving the first mask in place in all frames."""
    stay = (((t, clip.mask(0)) for t in judged_frames(clip)) for clip in clips)
    return tuple(
        one for clip, found in zip(clips, stay, strict=True) for one in object_scores(clip, found)
    )


def colours(
    encoder: Encoder, settings: TrackingSettings | None = None, machine: Machine = CPU
) -> EncoderRepresentation:
    """The baseline of an encoder: f is the mean colour of each position, on a map of equal stride.

    A constant next to the colours keeps brightness, which unit length would remove. Mean colours
    are harder to beat than all pixels of a position, whose arrangement may change.

    Args:
        encoder: Source of the channels, value range and stride of the stage.
        settings: Source of the stage; the result has one stage, of the same name.
        machine: Where to compute.

    Raises:
        ConfigError: As `chosen_stage`.
    """
    wanted = settings.stage if settings else None
    stage = chosen_stage(encoder.strides, wanted, name="this encoder")
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

    If all have one, as in DAVIS, the last is left out, as in DAVIS' own evaluation.

    Raises:
        DataError: No frame after the first has a mask.
    """
    frames = tuple(t for t in sorted(clip.masks) if t > 0)
    if not frames:
        raise DataError(
            f"the clip {clip.name} has a mask for its first frame only",
            "add masks of other frames for scoring",
        )
    all_have = len(frames) == len(clip.frames) - 1
    return frames[:-1] if all_have and len(frames) > 1 else frames


def object_scores(
    clip: Clip, found: Iterable[tuple[int, NDArray[np.int32]]]
) -> list[TrackedObject]:
    """Scores of every object of a clip, from predicted masks (H, W) of some frames."""
    similarities: dict[int, list[tuple[float, float]]] = {value: [] for value in clip.objects}
    for t, found_HW in found:
        true_HW = clip.mask(t)
        for value, so_far in similarities.items():
            here_HW, there_HW = (found_HW == value) & (true_HW != VOID), true_HW == value
            j, f = region_similarity(here_HW, there_HW), contour_accuracy(here_HW, there_HW)
            so_far.append((j, f))
    means = {value: np.mean(pairs, axis=0) for value, pairs in similarities.items()}
    return [
        TrackedObject(clip.name, value, float(j), float(f), len(similarities[value]))
        for value, (j, f) in means.items()
    ]


def tracking_figures(tracked: Sequence[TrackedObject]) -> dict[str, Figure]:
    """J&F, J and F as means over objects, resampled by object; labels are unused."""
    j_M, f_M = np.array([(one.j, one.f) for one in tracked]).T
    values = {"J&F": (j_M + f_M) / 2, "J": j_M, "F": f_M}
    return {name: partial(_mean, values_M) for name, values_M in values.items()}


def _mean(
    values_M: NDArray[np.float64], labels_M: NDArray[Any], counts_MB: NDArray[np.float32]
) -> NDArray[np.float64]:
    mean_B: NDArray[np.float64] = values_M @ counts_MB / counts_MB.sum(axis=0, dtype=float)
    return mean_B


# ---- propagating


def carried_masks(
    subject: Representation, clip: Clip, settings: TrackingSettings, *, device: str = "cpu"
) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """The number and predicted mask (H, W) of each judged frame.

    Raises:
        ConfigError: As `tracking`.
        DataError: As `tracking`.
    """
    if subject.encoder is None:
        raise ConfigError(f"{subject.name} has no maps", "use a network for tracking")
    stage = chosen_stage(subject.encoder.strides, settings.stage, name=subject.name)
    size = scaled_size(clip.size, settings.side, max(subject.encoder.strides.values()))
    encoder = _encoder_for_size(subject.encoder.to(device), size)

    def frame_map(t: int) -> Tensor:
        frame_HWC = clip.frame(t)
        with _named_errors(clip.frames[t]):
            map_Dhw = unit_map(encoder, stage, frame_HWC, size)
        check_finite(subject.name, bool(map_Dhw.isfinite().all()))
        return map_Dhw

    first_Dhw, judged = frame_map(0), judged_frames(clip)
    label_Ohw = reduced_labels(clip.mask(0), clip.objects, first_Dhw.shape[1:]).to(first_Dhw.device)
    first, recent = (first_Dhw, label_Ohw), deque[tuple[Tensor, Tensor]](maxlen=settings.frames)
    for t in range(1, judged[-1] + 1):
        map_Dhw = frame_map(t)
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


def chosen_stage(strides: Mapping[str, int], stage: str | None, *, name: str) -> str:
    """The stage whose map is compared; see `TrackingSettings`.

    Raises:
        ConfigError: The network has no stages, or lacks the chosen one.
    """
    if not strides:
        raise ConfigError(f"{name} has no stages", "use a network with maps for tracking")
    if stage is not None and stage not in strides:
        raise ConfigError(f"{name} has no stage {stage!r}", did_you_mean(stage, strides))
    most = max(STRIDE, min(strides.values()))
    return stage or [known for known, stride in strides.items() if stride <= most][-1]


def scaled_size(size: tuple[int, int], side: int, stride: int) -> tuple[int, int]:
    """H and W of the encoder's input: the shorter is about `side`, both multiples of a stride."""
    H, W = (max(1, round(length * side / min(size) / stride)) * stride for length in size)
    return H, W


def unit_map(
    encoder: Encoder, stage: str, frame_HWC: NDArray[Any], size: tuple[int, int]
) -> Tensor:
    """f: the map of a stage, (D, h, w), of unit length at each position.

    Raises:
        ConfigError: The network cannot map an image of this size.
        DataError: The encoder does not accept the frame's channels or values.
    """
    config, like = encoder.config, next(encoder.parameters(), torch.empty(0))
    raw_HWC = pixels(frame_HWC, config.in_channels)
    check_values(raw_HWC, config.intensity)
    x_1CHW = network_input(resize(raw_HWC, *size), config.intensity)
    plain = torch.autocast(like.device.type, enabled=False)
    with (
        evaluation_mode(encoder),
        plain,
        explain_size_errors(encoder.config.architecture, *size, _REMEDY),
    ):
        map_Dhw = encoder.stages(x_1CHW.to(like.device, like.dtype))[stage][0].float()
        return F.normalize(map_Dhw, dim=0)


@contextlib.contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Add the frame's name to errors about it."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{printable(str(path))}: {error.what}", error.remedy) from None


def _encoder_for_size(encoder: Encoder, size: tuple[int, int]) -> Encoder:
    """The encoder; a copy with resampled positions if they were learned for another size."""
    if size == (encoder.config.image_size,) * 2 or not hasattr(encoder.trunk, "set_input_size"):
        return encoder
    copied: Any = copy.deepcopy(encoder)
    with explain_size_errors(encoder.config.architecture, *size, _REMEDY):
        copied.trunk.set_input_size(img_size=size)
    return copied  # type: ignore[no-any-return]


def reduced_labels(
    mask_HW: NDArray[np.int32], objects: Sequence[int], size: Sequence[int]
) -> Tensor:
    """Labels (O, h, w) of a mask: shares of each position's area for background and objects."""
    one_hot = np.stack([mask_HW == value for value in (0, *objects)])
    label_1Ohw = F.interpolate(torch.from_numpy(one_hot).float()[None], tuple(size), mode="area")
    return label_1Ohw[0]


def upscaled_labels(
    label_Ohw: Tensor, objects: Sequence[int], size: tuple[int, int]
) -> NDArray[np.int32]:
    """The mask (H, W) of labels: bilinear upscaling, and the largest wins."""
    label_1OHW = F.interpolate(label_Ohw[None], size, mode="bilinear", align_corners=False)
    values = np.array([0, *objects], np.int32)
    found_HW: NDArray[np.int32] = values[label_1OHW[0].argmax(dim=0).cpu().numpy()]
    return found_HW
