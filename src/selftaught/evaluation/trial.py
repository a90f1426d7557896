"""What a protocol is asked and what it answers. The labels of the test images are kept from it.

A protocol is a function of a representation and a trial; it returns an answer, which is judged with
the test labels by `evaluate`. A later protocol brings its own figures in its answer.

Shapes:  N images of the trial; n of them to learn from, M to answer for; K classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from selftaught.evaluation.metrics import (
    Figure,
    Floats,
    accuracy,
    average_precision,
    balanced_accuracy,
    mean_average_precision,
)
from selftaught.foundation.machine import CPU, Machine

if TYPE_CHECKING:
    from selftaught.data.store import Images
    from selftaught.evaluation.representation import Representation


@dataclass(frozen=True)
class Trial:
    """Labelled images to learn from and unlabelled ones to answer for.

    Attributes:
        images: All of them; `train` and `test` are rows.
        train: (n,) int64.
        labels: (n,) int64: the class of each row of `train`; or float64: the number to predict.
        test: (M,) int64.
        classes: K; 1 where numbers are predicted.
        positive: The class whose average precision is asked for where there are two.
        seed: Of everything random.
        machine: Where to compute.
        epochs: Of protocols that train in epochs; None: as their paper.
        stages: Names of the stages of the encoder in question.
    """

    images: "Images"
    train: NDArray[np.int64]
    labels: NDArray[Any]
    test: NDArray[np.int64]
    classes: int
    positive: int = 1
    seed: int = 0
    machine: Machine = CPU
    epochs: int | None = None
    stages: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProtocolAnswer:
    """What a protocol found, ready to be judged.

    Attributes:
        rows: (M,) int64: the images that it answers for.
        figures: By name of the metric.
        note: What a reader must know.
        split: The rows in words, where they are not the test images.
    """

    rows: NDArray[np.int64]
    figures: Mapping[str, Figure]
    note: str = ""
    split: str = ""


Protocol = Callable[["Representation", Trial], ProtocolAnswer]


def classified(trial: Trial, scores_MK: Floats, note: str = "") -> ProtocolAnswer:
    """The answer that consists of a score for each test image and class."""
    figures: dict[str, Figure] = {
        "accuracy": partial(accuracy, scores_MK),
        "balanced accuracy": partial(balanced_accuracy, scores_MK),
    }
    if trial.classes == 2:
        figures["average precision"] = partial(_of_positive, scores_MK, trial.positive)
    else:
        figures["mean average precision"] = partial(mean_average_precision, scores_MK)
    return ProtocolAnswer(trial.test, figures, note)


def _of_positive(
    scores_MK: Floats,
    positive: int,
    labels_M: NDArray[np.int64],
    counts_MB: NDArray[np.float32],
) -> NDArray[np.float64]:
    return average_precision(scores_MK[:, positive], labels_M == positive, counts_MB)
