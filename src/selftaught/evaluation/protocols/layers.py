"""A linear probe per stage of an encoder, on its map pooled to about 9,000 numbers.

Table 1 of Caron et al. 2018 (after Zhang et al. 2016): conv1 to conv5 of AlexNet. Their pooling is
used for AlexNet at 224 px; every other map is pooled to the largest grid of at most 9,600 numbers,
their maximum. Their probe is trained by SGD on crops at the learning rate that suits AlexNet, and
its best epoch on the validation images is reported. Here the probe is the minimum of a penalised
logistic regression on central views, its strength chosen on held-out training images: maps of any
scale are treated equally, and the test images are used once.

All stages are computed in one pass over the images if their float16 numbers fit a quarter of the
memory, otherwise in several; a single stage that does not fit is stored in a file.

Shapes:  N images that are passed, B of a batch; c, h, w of a map; D numbers of a pooled one;
         S pixels per side; C channels.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from selftaught.encoders.encoder import Encoder
from selftaught.evaluation.metrics import Figure, accuracy
from selftaught.evaluation.protocols.linear_streamed import StoredVectors, streamed_probabilities
from selftaught.evaluation.representation import Representation, check_finite
from selftaught.evaluation.trial import ProtocolAnswer, Trial
from selftaught.foundation.machine import memory
from selftaught.vectors.features import batch_views, evaluation_mode, float16_buffer
from selftaught.views.policy import evaluation

MOST = 9_600
"""Most numbers of a pooled map, as in the paper's conv1, conv3 and conv4."""

PAPER = {  # kernel, stride and padding of the average pooling, released with the paper
    "conv1": (6, 6, 3),  # 96 x 10 x 10
    "conv2": (4, 4, 0),  # 256 x 6 x 6
    "conv3": (3, 3, 1),  # 384 x 5 x 5
    "conv4": (3, 3, 1),
    "conv5": (2, 2, 0),  # 256 x 6 x 6
}
MEMORY_SHARE = 0.25
"""Share of this machine's memory for pooled maps at any time."""

_BATCH = 256


def layers(subject: Representation, trial: Trial) -> ProtocolAnswer:
    """The accuracy of a probe per stage; without stages, one probe is used for all."""
    encoder = subject.encoder
    if encoder is None or not encoder.strides:
        return _vector_probe(subject, trial)
    rows, figures = np.concatenate([trial.train, trial.test]), dict[str, Figure]()
    sizes = pooled_sizes(encoder.to(trial.machine.device))
    budget = int(MEMORY_SHARE * memory())
    for names in passes({name: 2 * D * len(rows) for name, D in sizes.items()}, budget):
        rooms = {name: float16_buffer((len(rows), sizes[name]), budget) for name in names}
        pooled_maps(encoder, trial, rows, rooms, name=subject.name)
        for name in names:
            figures[f"{name} accuracy"] = _probe(rooms.pop(name), trial)
    numbers = ", ".join(f"{name} {D:,}" for name, D in sizes.items())
    note = f"logistic regression on each stage, pooled to this many numbers: {numbers}"
    return ProtocolAnswer(trial.test, figures, note)


def _vector_probe(subject: Representation, trial: Trial) -> ProtocolAnswer:
    rows = np.concatenate([trial.train, trial.test])
    figure = _probe(torch.from_numpy(subject.vectors(trial.images)[rows]), trial)
    figures = {f"{name} accuracy".lstrip(): figure for name in trial.stages or ("",)}
    note = f"{subject.name} have no stages: one probe on all numbers is shown for every stage"
    return ProtocolAnswer(trial.test, figures, note)


def _probe(x_ND: Tensor, trial: Trial) -> Figure:
    """Accuracy of a probe trained on the first n vectors and tested on the others."""
    n, labels_n = len(trial.train), torch.from_numpy(trial.labels).to(trial.machine.device)
    stored = StoredVectors(
        _on_device_if_it_fits(x_ND, labels_n.device),
        np.arange(n),
        labels_n,
        trial.classes,
        seed=trial.seed,
    )
    probabilities_MK, _ = streamed_probabilities(stored, np.arange(n, len(x_ND)))
    return partial(accuracy, probabilities_MK.cpu().numpy())


def _on_device_if_it_fits(x_ND: Tensor, device: torch.device) -> Tensor:
    """The vectors, on the accelerator if they fit half of its free memory."""
    if device.type != "cuda":
        return x_ND
    free, _ = torch.cuda.mem_get_info(device)
    return x_ND.to(device) if 2 * x_ND.nbytes < free else x_ND


def pooling(encoder: Encoder, name: str) -> Callable[[Tensor], Tensor]:
    """Pooling of a stage's map (B, c, h, w) to (B, D); AlexNet at 224 px as in the paper."""
    config = encoder.config
    if (config.architecture, config.image_size) == ("alexnet", 224):
        kernel, stride, padding = PAPER[name]
        return lambda map_Bchw: F.avg_pool2d(map_Bchw, kernel, stride, padding).flatten(1)
    return lambda map_Bchw: F.adaptive_avg_pool2d(map_Bchw, pooling_grid(map_Bchw)).flatten(1)


def pooling_grid(map_Bchw: Tensor) -> int:
    """The side g of the largest grid with c g^2 <= 9,600, no finer than the map."""
    c, h, w = map_Bchw.shape[1:]
    return max(1, min(h, w, math.isqrt(MOST // c)))


def pooled_sizes(encoder: Encoder) -> dict[str, int]:
    """D of every stage, found with one black image."""
    config, weight = encoder.config, next(encoder.parameters())
    side = config.image_size
    black = torch.zeros(1, config.in_channels, side, side, dtype=weight.dtype, device=weight.device)
    with evaluation_mode(encoder):
        maps = encoder.stages(black)
        return {name: pooling(encoder, name)(maps[name]).shape[1] for name in maps}


def passes(sizes: Mapping[str, int], budget: int) -> Iterator[list[str]]:
    """Groups of stages, in order, whose bytes fit the budget together.

    A stage larger than the budget is alone.
    """
    together: list[str] = []
    for name, size in sizes.items():
        if together and sum(sizes[other] for other in together) + size > budget:
            yield together
            together = []
        together = [*together, name]
    yield together


def pooled_maps(
    encoder: Encoder,
    trial: Trial,
    rows: NDArray[np.int64],
    rooms: Mapping[str, Tensor],
    *,
    name: str = "this encoder",
) -> None:
    """Fill the rooms of some stages with their pooled maps, in the order of the rows, in one pass.

    A stage's numbers are centred and scaled by the first batch's mean and deviation, to stay within
    float16's range and precision; a probe that standardises is not affected.

    Raises:
        DataError: A number is not finite.
    """
    config, weight = encoder.config, next(encoder.parameters())
    parts = np.split(rows, range(_BATCH, len(rows), _BATCH))
    views = batch_views(
        encoder, trial.images, parts, evaluation(config.image_size), threads=trial.machine.threads
    )
    pools = {stage: pooling(encoder, stage) for stage in rooms}
    first: dict[str, tuple[Tensor, Tensor]] = {}
    start = 0
    plain = torch.autocast(weight.device.type, enabled=False)
    with evaluation_mode(encoder), contextlib.closing(views), plain:
        for x_BCSS in views:
            maps = encoder.stages(x_BCSS.to(weight.dtype))
            for stage, pool in pools.items():
                pooled_BD = pool(maps[stage]).float()
                check_finite(name, bool(pooled_BD.isfinite().all()))
                if stage not in first:
                    first[stage] = _centre(pooled_BD)
                mean_D, deviation = first[stage]
                rooms[stage][start : start + len(x_BCSS)] = (pooled_BD - mean_D) / deviation
            start += len(x_BCSS)


def _centre(x_BD: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of each number, and one deviation for all; 1 if they do not vary."""
    mean_D = x_BD.mean(dim=0)
    deviation = (x_BD - mean_D).square().mean().sqrt()
    return mean_D, torch.where(deviation > 0, deviation, 1.0)
