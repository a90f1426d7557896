"""What a protocol found, judged: a figure with its 95 % bootstrap interval, differences paired.

Intervals are percentiles, less the bias of resampling. Differences are those on the same resamples.

Shapes:  M images that are answered for; R draws of few training images; B resamples.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selftaught.evaluation.metrics import (
    affordable_resamples,
    interval,
    resampled_counts,
    share_interval,
)
from selftaught.evaluation.representation import Representation
from selftaught.evaluation.table import Row
from selftaught.evaluation.trial import Protocol, ProtocolAnswer, Trial
from selftaught.foundation.rng import Key, uniform

FEWEST = 10
"""Images, queries or objects below which resampling them tells nothing."""

_SURE = 4  # standard errors of a mean of resamples that make a bias


@dataclass(frozen=True)
class Measured:
    """A figure, and what it is in each resample, (B,), shifted so that their mean is the value.

    A share stays one: the shift leads neither below 0 nor above 1.
    """

    value: float
    resampled: NDArray[np.float64]

    @classmethod
    def centred(cls, value: float, resampled_B: NDArray[np.float64]) -> "Measured":
        """Without the bias of resampling: doubled images make precision and NMI look better.

        What may as well be chance is no bias: a mean stays as it was resampled.
        """
        bias, chance = np.nanmean(resampled_B) - value, np.nanstd(resampled_B)
        chance /= len(resampled_B) ** 0.5
        shifted_B = resampled_B - (bias if abs(bias) > _SURE * chance else 0.0)
        all_B = [*resampled_B, value]
        is_share = np.nanmin(all_B) >= 0 and np.nanmax(all_B) <= 1
        return cls(value, shifted_B.clip(0, 1) if is_share else shifted_B)


@dataclass(frozen=True)
class Judged:
    """What a protocol found about a representation.

    Attributes:
        name: Of the representation.
        seed: Of its random weights, or of the evaluation.
        figures: By name of the metric.
        answer: What was judged.
        train: Labelled images that were learnt from; None where none were.
        seconds: That the protocol took.
    """

    name: str
    seed: int
    figures: Mapping[str, Measured]
    answer: ProtocolAnswer
    train: int | None
    seconds: float

    def rows(
        self, protocol: str, split: str = "", first: "Judged | None" = None, note: str = ""
    ) -> list[Row]:
        """A row a metric; `first` is what it is compared with. Few images have no interval."""
        rows = []
        several = len(self.answer.rows) >= FEWEST
        for metric, measured in self.figures.items():
            low, high = self._interval(metric) if several else (None, None)
            row = Row(
                representation=self.name,
                protocol=protocol,
                split=self.answer.split or split,
                metric=metric,
                seed=self.seed,
                value=measured.value,
                low=low,
                high=high,
                seconds=self.seconds,
                note="; ".join(filter(None, (self.answer.note, note))),
                train=self.train,
                images=len(self.answer.rows),
            )
            if several and first is not None and metric in first.figures:
                apart_B = first.figures[metric].resampled - measured.resampled
                low, high = interval(apart_B)
                row = replace(row, delta_low=low, delta_high=high)
            rows.append(row)
        return rows

    def _interval(self, metric: str) -> tuple[float | None, float | None]:
        """Of a figure. Resamples cannot tell how sure it is that all are right, or none is."""
        measured, images = self.figures[metric], len(self.answer.rows)
        low, high = interval(measured.resampled)
        if low < high:
            return low, high
        if metric == "accuracy":
            return share_interval(round(measured.value * images), images)
        return None, None


class Judge:
    """Who knows the labels of the test images; protocols share its resamples.

    Args:
        labels_N: The class, or the target, of each image.
    """

    def __init__(self, labels_N: NDArray[Any]) -> None:
        self.labels_N = labels_N
        self._counts: Callable[[int, int, int], NDArray[np.float32]] = lru_cache(maxsize=2)(
            resampled_counts
        )

    def judge(self, protocol: Protocol, subject: Representation, trials: Sequence[Trial]) -> Judged:
        """Run the protocol on each draw and judge the mean over draws."""
        trial = trials[0]
        start = time.perf_counter()
        answers = [protocol(subject, trial) for trial in trials]
        seconds = time.perf_counter() - start
        train = round(sum(len(trial.train) for trial in trials) / len(trials))
        figures = self.figures(answers, trial.seed, trial.classes)
        seed = trial.seed if subject.seed is None else subject.seed
        return Judged(subject.name, seed, figures, answers[0], train, seconds)

    def figures(
        self, answers: Sequence[ProtocolAnswer], seed: int, classes: int = 1
    ) -> dict[str, Measured]:
        """The mean over draws of every figure of the answers, and its resamples."""
        labels_M = self.labels_N[answers[0].rows]
        resamples = affordable_resamples(len(labels_M), max(1, classes) * len(answers))
        counts_MB = self._counts(len(labels_M), resamples, seed)
        weights_RB = _draw_weights(len(answers), resamples, seed)
        ones_M1 = np.ones((len(labels_M), 1), np.float32)
        figures = {}
        for metric in answers[0].figures:
            each = [answer.figures[metric] for answer in answers]
            value = float(np.mean([figure(labels_M, ones_M1)[0] for figure in each]))
            if np.isfinite(value):  # average precision needs a positive image
                resampled_RB = np.stack([figure(labels_M, counts_MB) for figure in each])
                figures[metric] = Measured.centred(value, (weights_RB * resampled_RB).sum(axis=0))
        return figures


def _draw_weights(draws: int, resamples: int, seed: int) -> NDArray[np.float64]:
    """Draws are resampled too: how much each counts in each resample, (R, B), sums of 1.

    Resampled means of R values vary by (R - 1)/R of the variance of their mean: with the weights
    further from 1/R by the root of that, they vary as they should.
    """
    drawn_BR = uniform(Key(seed, "evaluation/bootstrap draws"), np.arange(resamples), draws)
    index_BR = (drawn_BR * draws).astype(np.int64)
    weights: NDArray[np.float64] = (index_BR == np.arange(draws)[:, None, None]).mean(axis=2)
    apart: float = (draws / max(1, draws - 1)) ** 0.5
    return 1 / draws + (weights - 1 / draws) * apart
