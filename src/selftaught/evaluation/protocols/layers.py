"""How much each stage of an encoder knows: a linear probe on its map, pooled to some 9,000 numbers.

Table 1 of Caron et al. 2018 (after Zhang et al. 2016): conv1 to conv5 of AlexNet. Their pooling is
used for AlexNet at 224 px; every other map is pooled to the largest grid of at most 9,600 numbers,
the most that theirs has. Their probe is trained by SGD on crops at the learning rate that fits
AlexNet, and its best epoch on the validation images is reported; here it is the minimum of a
penalised logistic regression on central views, its strength chosen on a held-out part of train, so
that maps of any scale are measured alike and the test images are looked at once.

All stages are made in one pass over the images where their float16 numbers fit a quarter of the
memory, otherwise in several; a single stage that does not fit lies in a file.

Shapes:  N images that are passed, B of a batch; c, h, w of a map; D numbers of a pooled one;
         S pixels a side; C channels.
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
from selftaught.evaluation.protocols.linear_streamed import Stored, streamed_probabilities
from selftaught.evaluation.representation import Representation, check_finite
from selftaught.evaluation.trial import ProtocolAnswer, Trial
from selftaught.foundation.machine import memory
from selftaught.vectors.features import batch_views, evaluating, room
from selftaught.views.policy import evaluation

MOST = 9_600
"""Numbers of a pooled map, at most: as many as the paper's conv1, conv3 and conv4 have."""

PAPER = {  # kernel, stride and padding of the average pooling, released with the paper
    "conv1": (6, 6, 3),  # 96 x 10 x 10
    "conv2": (4, 4, 0),  # 256 x 6 x 6
    "conv3": (3, 3, 1),  # 384 x 5 x 5
    "conv4": (3, 3, 1),
    "conv5": (2, 2, 0),  # 256 x 6 x 6
}
MEMORY_SHARE = 0.25
"""Of this machine's memory: what the pooled maps may take at a time."""

_BATCH = 256


def layers(subject: Representation, trial: Trial) -> ProtocolAnswer:
    """The accuracy of a probe on each stage; what has no stages is probed once, for all of them."""
    encoder = subject.encoder
    if encoder is None or not encoder.strides:
        return _one_for_all(subject, trial)
    rows, figures = np.concatenate([trial.train, trial.test]), dict[str, Figure]()
    sizes = pooled_sizes(encoder.to(trial.machine.device))
    budget = int(MEMORY_SHARE * memory())
    for names in passes({name: 2 * D * len(rows) for name, D in sizes.items()}, budget):
        rooms = {name: room((len(rows), sizes[name]), budget) for name in names}
        pooled_maps(encoder, trial, rows, rooms, called=subject.name)
        for name in names:
            figures[f"{name} accuracy"] = _probe(rooms.pop(name), trial)
    numbers = ", ".join(f"{name} {D:,}" for name, D in sizes.items())
    note = f"logistic regression on each stage, pooled to so many numbers: {numbers}"
    return ProtocolAnswer(trial.test, figures, note)


def _one_for_all(subject: Representation, trial: Trial) -> ProtocolAnswer:
    rows = np.concatenate([trial.train, trial.test])
    figure = _probe(torch.from_numpy(subject.vectors(trial.images)[rows]), trial)
    figures = {f"{name} accuracy".lstrip(): figure for name in trial.stages or ("",)}
    note = f"{subject.name} have no stages: one probe of all numbers stands beside every stage"
    return ProtocolAnswer(trial.test, figures, note)


def _probe(x_ND: Tensor, trial: Trial) -> Figure:
    """What a probe scores that learns from the first n vectors and answers for the others."""
    n, labels_n = len(trial.train), torch.from_numpy(trial.labels).to(trial.machine.device)
    stored = Stored(
        _near(x_ND, labels_n.device), np.arange(n), labels_n, trial.classes, seed=trial.seed
    )
    probabilities_MK, _ = streamed_probabilities(stored, np.arange(n, len(x_ND)))
    return partial(accuracy, probabilities_MK.cpu().numpy())


def _near(x_ND: Tensor, device: torch.device) -> Tensor:
    """The vectors on the accelerator, if there is one and half of what is free holds them."""
    if device.type != "cuda":
        return x_ND
    free, _ = torch.cuda.mem_get_info(device)
    return x_ND.to(device) if 2 * x_ND.nbytes < free else x_ND


def pooling(encoder: Encoder, name: str) -> Callable[[Tensor], Tensor]:
    """From a stage's map (B, c, h, w) to (B, D), for AlexNet at 224 px as the paper does."""
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
    """D of every stage, found by looking at one black image."""
    config, weight = encoder.config, next(encoder.parameters())
    side = config.image_size
    black = torch.zeros(1, config.in_channels, side, side, dtype=weight.dtype, device=weight.device)
    with evaluating(encoder):
        maps = encoder.stages(black)
        return {name: pooling(encoder, name)(maps[name]).shape[1] for name in maps}


def passes(sizes: Mapping[str, int], budget: int) -> Iterator[list[str]]:
    """The stages that are made together, in their order: as many bytes as the budget holds.

    A stage that is larger than the budget is made alone.
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
    called: str = "this encoder",
) -> None:
    """Fill the rooms of some stages with their pooled maps, in the order of the rows: one pass.

    The first batch's mean is taken from all numbers of a stage and its deviation divides them, lest
    they leave float16's range or its precision; to a probe that standardises it is all one.

    Raises:
        DataError: A number is not finite.
    """
    config, weight = encoder.config, next(encoder.parameters())
    parts = np.split(rows, range(_BATCH, len(rows), _BATCH))
    made = batch_views(
        encoder, trial.images, parts, evaluation(config.image_size), threads=trial.machine.threads
    )
    pools = {name: pooling(encoder, name) for name in rooms}
    first: dict[str, tuple[Tensor, Tensor]] = {}
    start = 0
    plain = torch.autocast(weight.device.type, enabled=False)
    with evaluating(encoder), contextlib.closing(made), plain:
        for x_BCSS in made:
            maps = encoder.stages(x_BCSS.to(weight.dtype))
            for name, pool in pools.items():
                pooled_BD = pool(maps[name]).float()
                check_finite(called, bool(pooled_BD.isfinite().all()))
                if name not in first:
                    first[name] = _centre(pooled_BD)
                mean_D, deviation = first[name]
                rooms[name][start : start + len(x_BCSS)] = (pooled_BD - mean_D) / deviation
            start += len(x_BCSS)


def _centre(x_BD: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of each number, and one deviation for them all; 1 where they do not vary."""
    mean_D = x_BD.mean(dim=0)
    deviation = (x_BD - mean_D).square().mean().sqrt()
    return mean_D, torch.where(deviation > 0, deviation, 1.0)
