"""Inputs and answers of protocols, which never see the labels of the test images.

A protocol is a function of a representation and a trial. It returns an answer with its own figures,
which `Judge` computes with the test labels.

Shapes:  N images of the trial; n of them for training, M for testing; K classes.
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
    """Labelled training images and unlabelled test images.

    Attributes:
        images: All of them; `train` and `test` are rows.
        train: (n,) int64.
        labels: (n,) int64: the class of each row of `train`; or float64: the number to predict.
        test: (M,) int64.
        classes: K; 1 if numbers are predicted.
        positive: Of two classes, the one whose average precision is computed.
        seed: Random seed.
        machine: Where to compute.
        epochs: Epochs of protocols that train in epochs; None: as in their paper.
        stages: Names of the evaluated encoder's stages.
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
    """A protocol's predictions as figures of the true labels.

    Attributes:
        rows: (M,) int64: the predicted images.
        figures: By metric.
        note: A note to the reader.
        split: The rows in words, if they are not the test images.
    """

    rows: NDArray[np.int64]
    figures: Mapping[str, Figure]
    note: str = ""
    split: str = ""


Protocol = Callable[["Representation", Trial], ProtocolAnswer]


def classification_answer(trial: Trial, scores_MK: Floats, note: str = "") -> ProtocolAnswer:
    """The answer for scores per test image and class."""
    figures: dict[str, Figure] = {
        "accuracy": partial(accuracy, scores_MK),
        "balanced accuracy": partial(balanced_accuracy, scores_MK),
    }
    if trial.classes == 2:
        figures["average precision"] = partial(
            _positive_average_precision, scores_MK, trial.positive
        )
    else:
        figures["mean average precision"] = partial(mean_average_precision, scores_MK)
    return ProtocolAnswer(trial.test, figures, note)


def _positive_average_precision(
    scores_MK: Floats,
    positive: int,
    labels_M: NDArray[np.int64],
    counts_MB: NDArray[np.float32],
) -> NDArray[np.float64]:
    return average_precision(scores_MK[:, positive], labels_M == positive, counts_MB)
