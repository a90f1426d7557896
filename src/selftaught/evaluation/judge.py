"""Figures of protocol answers, with 95 % bootstrap intervals and paired differences.

Intervals are percentiles, corrected for the bias of resampling. Differences use the same resamples.

Shapes:  M predicted images; R draws of few training images; B resamples.
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
"""With fewer images, queries or objects, no interval is given."""

_SURE = 4  # standard errors from which a mean of resamples counts as biased


@dataclass(frozen=True)
class Measurement:
    """A figure and its resampled values (B,), shifted so that their mean is the value.

    Shares stay within 0 and 1.
    """

    value: float
    resampled: NDArray[np.float64]

    @classmethod
    def centred(cls, value: float, resampled_B: NDArray[np.float64]) -> "Measurement":
        """Remove the bias of resampling: repeated images raise precision and NMI.

        A bias within chance is not removed, so means stay as resampled.
        """
        bias, chance = np.nanmean(resampled_B) - value, np.nanstd(resampled_B)
        chance /= len(resampled_B) ** 0.5
        shifted_B = resampled_B - (bias if abs(bias) > _SURE * chance else 0.0)
        all_B = [*resampled_B, value]
        is_share = np.nanmin(all_B) >= 0 and np.nanmax(all_B) <= 1
        return cls(value, shifted_B.clip(0, 1) if is_share else shifted_B)


@dataclass(frozen=True)
class Judgement:
    """The figures of one representation under one protocol.

    Attributes:
        name: Name of the representation.
        seed: Seed of its random weights, or of the evaluation.
        figures: By metric.
        answer: The answer that was judged.
        train: Number of labelled training images; None if there were none.
        seconds: Run time of the protocol.
    """

    name: str
    seed: int
    figures: Mapping[str, Measurement]
    answer: ProtocolAnswer
    train: int | None
    seconds: float

    def rows(
        self, protocol: str, split: str = "", first: "Judgement | None" = None, note: str = ""
    ) -> list[Row]:
        """One row per metric, compared with `first`; few images have no interval."""
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
                difference_B = first.figures[metric].resampled - measured.resampled
                low, high = interval(difference_B)
                row = replace(row, delta_low=low, delta_high=high)
            rows.append(row)
        return rows

    def _interval(self, metric: str) -> tuple[float | None, float | None]:
        """Interval of a figure; if all or none are right, resampling gives width 0."""
        measured, images = self.figures[metric], len(self.answer.rows)
        low, high = interval(measured.resampled)
        if low < high:
            return low, high
        if metric == "accuracy":
            return share_interval(round(measured.value * images), images)
        return None, None


class Judge:
    """Computes figures with the labels of the test images; protocols share its resamples.

    Args:
        labels_N: Class or target of each image.
    """

    def __init__(self, labels_N: NDArray[Any]) -> None:
        self.labels_N = labels_N
        self._counts: Callable[[int, int, int], NDArray[np.float32]] = lru_cache(maxsize=2)(
            resampled_counts
        )

    def judge(
        self, protocol: Protocol, subject: Representation, trials: Sequence[Trial]
    ) -> Judgement:
        """Run the protocol on each draw and judge the mean over draws."""
        trial = trials[0]
        start = time.perf_counter()
        answers = [protocol(subject, trial) for trial in trials]
        seconds = time.perf_counter() - start
        train = round(sum(len(trial.train) for trial in trials) / len(trials))
        figures = self.figures(answers, trial.seed, trial.classes)
        seed = trial.seed if subject.seed is None else subject.seed
        return Judgement(subject.name, seed, figures, answers[0], train, seconds)

    def figures(
        self, answers: Sequence[ProtocolAnswer], seed: int, classes: int = 1
    ) -> dict[str, Measurement]:
        """Every figure of the answers, averaged over draws, with its resamples."""
        labels_M = self.labels_N[answers[0].rows]
        resamples = affordable_resamples(len(labels_M), max(1, classes) * len(answers))
        counts_MB = self._counts(len(labels_M), resamples, seed)
        weights_RB = _draw_weights(len(answers), resamples, seed)
        ones_M1 = np.ones((len(labels_M), 1), np.float32)
        figures = {}
        for metric in answers[0].figures:
            of_draws = [answer.figures[metric] for answer in answers]
            value = float(np.mean([figure(labels_M, ones_M1)[0] for figure in of_draws]))
            if np.isfinite(value):  # average precision needs a positive image
                resampled_RB = np.stack([figure(labels_M, counts_MB) for figure in of_draws])
                figures[metric] = Measurement.centred(
                    value, (weights_RB * resampled_RB).sum(axis=0)
                )
        return figures


def _draw_weights(draws: int, resamples: int, seed: int) -> NDArray[np.float64]:
    """Weight of each draw in each resample, (R, B), with sums of 1: draws are resampled too.

    Resampled means of R values have (R - 1)/R of the variance of their mean; moving the weights
    away from 1/R by the inverse root of that corrects it.
    """
    drawn_BR = uniform(Key(seed, "evaluation/bootstrap draws"), np.arange(resamples), draws)
    index_BR = (drawn_BR * draws).astype(np.int64)
    weights: NDArray[np.float64] = (index_BR == np.arange(draws)[:, None, None]).mean(axis=2)
    correction: float = (draws / max(1, draws - 1)) ** 0.5
    return 1 / draws + (weights - 1 / draws) * correction
