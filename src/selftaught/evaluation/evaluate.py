"""How good is an encoder? The table: this encoder beside random init and raw pixels.

Every protocol answers for the same test images, without their labels; figures and 95 % bootstrap
intervals (percentiles, less the bias of resampling) come from one place, and differences are paired
on the same resamples.

Shapes:  M images that are answered for; R draws of few training images; B resamples.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from selftaught.errors import ConfigError, DataError, nearest
from selftaught.evaluation.metrics import affordable_resamples, interval, resampled_counts
from selftaught.evaluation.representation import (
    EncoderRepresentation,
    Representation,
    random_init,
    raw_pixels,
)
from selftaught.evaluation.row import Row, as_dicts, as_text
from selftaught.evaluation.trial import Answer, Protocol, Trial
from selftaught.rng import Key, permutation, uniform

if TYPE_CHECKING:
    from selftaught.data.labels import Labelled
    from selftaught.data.store import Images
    from selftaught.encoders.encoder import Encoder

__all__ = ["PROTOCOLS", "Row", "as_dicts", "as_text", "evaluate", "measure"]

DRAWS = 5
"""Draws of few training images that are averaged."""
RANDOM_SEEDS = (0, 1, 2)
"""Of the untrained networks."""


@dataclass(frozen=True)
class Entry:
    """A row of the registry; nothing is imported before the protocol is used.

    Attributes:
        place: "module:function", a `Protocol`.
        learns: Whether training labels matter to it.
        vectors: Whether it looks at f(x), which protocols share and which is made beforehand.
    """

    place: str
    learns: bool = True
    vectors: bool = True

    def load(self) -> Protocol:
        """The protocol itself."""
        module, _, name = self.place.partition(":")
        protocol: Protocol = getattr(import_module(f"selftaught.evaluation.{module}"), name)
        return protocol


PROTOCOLS = {
    "knn": Entry("knn:knn"),
    "linear": Entry("linear:linear"),
    "linear-sgd": Entry("linear_sgd:linear_sgd"),
    "clusters": Entry("clusters:clusters", learns=False),
    "layers": Entry("layers:layers", vectors=False),
}


def evaluate(
    encoder: "Encoder",
    images: "Images",
    labels: "Labelled",
    *,
    protocols: Sequence[str] = ("knn", "linear"),
    few: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    threads: int = 2,
    cache: Path | None = None,
    name: str = "this encoder",
    against: "Mapping[str, Encoder] | None" = None,
    positive: str | None = None,
    epochs: int | None = None,
) -> list[Row]:
    """Measure an encoder beside others, the same network at random init (3 seeds) and raw pixels.

    Args:
        encoder: f; its mode and its weights are left as they are.
        images: The labelled images.
        labels: Their classes, and which are for training and which for the test.
        protocols: Names of `PROTOCOLS`.
        few: Train on so many images a class: 5 keyed draws are averaged, and the interval is over
            draws and test images.
        seed: Of everything random.
        device: Where to compute.
        threads: For reading images.
        cache: Folder of the feature cache.
        name: What the table calls the encoder.
        against: Other encoders by the names that the table gives them.
        positive: Of two classes, the one whose average precision is shown; by default the last.
        epochs: Of linear-sgd; by default the paper's.

    Returns:
        Protocol by protocol, then representation by representation, a row a metric.

    Raises:
        ConfigError: A protocol or the positive class is unknown, or `few` is below 1.
        DataError: The labels are numbers, no image is for training or none for the test, or the
            images have another number of channels than the encoder takes.
    """
    check_protocols(protocols, few)
    others = against or {}
    for each in (encoder, *others.values()):
        check_fits(each, images)
    trial = _trial(images, labels, positive)
    trial = replace(trial, seed=seed, device=device, threads=threads, epochs=epochs)
    how = {"device": device, "threads": threads, "cache": cache}
    named = {name: encoder, **others}
    subjects: list[Representation] = [
        EncoderRepresentation(called, each, **how)  # type: ignore[arg-type]
        for called, each in named.items()
    ]
    subjects += [
        random_init(encoder.config, images, trial.train, seed=s, **how) for s in RANDOM_SEEDS
    ]
    return measure([*subjects, raw_pixels(images, **how)], trial, labels, protocols, few=few)


def measure(
    subjects: Sequence[Representation],
    trial: Trial,
    labels: "Labelled",
    protocols: Sequence[str],
    *,
    few: int | None = None,
) -> list[Row]:
    """The rows of any representations; differences are those of the first to each of the others.

    Args:
        subjects: What to measure.
        trial: On what; all of the training rows.
        labels: To judge by.
        protocols: Names of `PROTOCOLS`.
        few: As for `evaluate`.
    """
    counts = lru_cache(maxsize=2)(resampled_counts)  # protocols share the resamples
    if subjects[0].encoder is not None:
        trial = replace(trial, stages=tuple(subjects[0].encoder.strides))
    rows: list[Row] = []
    for name in protocols:
        few_here = few if PROTOCOLS[name].learns else None
        trials, note = _draws(trial, few_here)
        called = name if few_here is None else f"{name}, {few_here} labels a class"
        first: dict[str, Measured] | None = None
        for subject in subjects:
            judged = _judge(PROTOCOLS[name], subject, trials, labels, counts)
            some = judged.rows(subject, called, labels.split, trial.seed, first)
            rows += [replace(row, note="; ".join(filter(None, (row.note, note)))) for row in some]
            first = first or judged.figures
    return rows


@dataclass(frozen=True)
class Measured:
    """A figure, and what it is in each resample, (B,), shifted so that their mean is the value.

    A share stays one: the shift leads neither below 0 nor above 1.
    """

    value: float
    resampled: NDArray[np.float64]

    @classmethod
    def centred(cls, value: float, resampled_B: NDArray[np.float64]) -> "Measured":
        """Without the bias of resampling: doubled images make precision and NMI look better."""
        shifted_B = resampled_B - np.nanmean(resampled_B) + value
        all_B = [*resampled_B, value]
        is_share = np.nanmin(all_B) >= 0 and np.nanmax(all_B) <= 1
        return cls(value, shifted_B.clip(0, 1) if is_share else shifted_B)


@dataclass(frozen=True)
class Judged:
    """What a protocol found about a representation."""

    figures: dict[str, Measured]
    answer: Answer
    seconds: float

    def rows(
        self,
        subject: Representation,
        protocol: str,
        split: str,
        seed: int,
        first: dict[str, Measured] | None,
    ) -> list[Row]:
        """A row a metric; `first` is what it is compared with."""
        rows = []
        for metric, measured in self.figures.items():
            low, high = interval(measured.resampled)
            row = Row(
                representation=subject.name,
                protocol=protocol,
                split=self.answer.split or split,
                metric=metric,
                seed=seed if subject.seed is None else subject.seed,
                value=measured.value,
                low=low,
                high=high,
                seconds=self.seconds,
                note=self.answer.note,
            )
            if first is not None and metric in first:
                low, high = interval(first[metric].resampled - measured.resampled)
                row = replace(row, delta_low=low, delta_high=high)
            rows.append(row)
        return rows


def _judge(
    entry: Entry,
    subject: Representation,
    trials: Sequence[Trial],
    labels: "Labelled",
    counts: Callable[[int, int, int], NDArray[np.float32]],
) -> Judged:
    """Run the protocol on each draw and judge the mean over draws."""
    protocol = entry.load()
    if entry.vectors:
        subject.vectors(trials[0].images)  # not timed: protocols share them
    start = time.perf_counter()
    answers = [protocol(subject, trial) for trial in trials]
    seconds = time.perf_counter() - start
    labels_M = labels.labels_N[answers[0].rows]
    resamples = affordable_resamples(len(labels_M), trials[0].classes * len(trials))
    counts_MB = counts(len(labels_M), resamples, trials[0].seed)
    weights_RB = _draw_weights(len(trials), resamples, trials[0].seed)
    figures = {}
    for metric in answers[0].figures:
        each = [answer.figures[metric] for answer in answers]
        ones_M1 = np.ones((len(labels_M), 1), np.float32)
        value = float(np.mean([figure(labels_M, ones_M1)[0] for figure in each]))
        if np.isfinite(value):  # average precision needs a positive image
            resampled_RB = np.stack([figure(labels_M, counts_MB) for figure in each])
            figures[metric] = Measured.centred(value, (weights_RB * resampled_RB).sum(axis=0))
    return Judged(figures, answers[0], seconds)


def _draw_weights(draws: int, resamples: int, seed: int) -> NDArray[np.float64]:
    """Draws are resampled too: how much each counts in each resample, (R, B), sums of 1."""
    drawn_BR = uniform(Key(seed, "evaluation/bootstrap draws"), np.arange(resamples), draws)
    index_BR = (drawn_BR * draws).astype(np.int64)
    weights: NDArray[np.float64] = (index_BR == np.arange(draws)[:, None, None]).mean(axis=2)
    return weights


def _draws(trial: Trial, few: int | None) -> tuple[list[Trial], str]:
    """The trial itself, or several with few training images a class each; and a note on them."""
    if few is None:
        return [trial], ""
    trials = []
    for draw in range(DRAWS):
        order = permutation(Key(trial.seed, "evaluation/few", draw), len(trial.train))
        classes = range(trial.classes)
        chosen = np.concatenate([_first(order, trial.labels, k, few) for k in classes])
        chosen.sort()
        trials.append(replace(trial, train=trial.train[chosen], labels=trial.labels[chosen]))
    short = np.bincount(trial.labels, minlength=trial.classes).min() < few
    note = f"mean of {DRAWS} draws of training images"
    return trials, f"{note}; of a class with fewer than {few}, all" if short else note


def _first(
    order: NDArray[np.int64], labels: NDArray[np.int64], k: int, few: int
) -> NDArray[np.int64]:
    """The first few positions of a class in an order; all of them where there are fewer."""
    of_class: NDArray[np.int64] = order[labels[order] == k]
    return of_class[:few]


def check_protocols(protocols: Sequence[str], few: int | None = None) -> None:
    """Refuse what `evaluate` would refuse, before any image is read.

    Raises:
        ConfigError: A protocol is unknown, or `few` is below 1.
    """
    if few is not None and few < 1:
        raise ConfigError(f"few is {few}", "train on 1 image a class at least")
    for name in protocols:
        if name not in PROTOCOLS:
            raise ConfigError(f"there is no protocol {name!r}", nearest(name, PROTOCOLS))


def check_fits(encoder: "Encoder", images: "Images") -> None:
    """Whether the encoder takes such images.

    Raises:
        DataError: They have another number of channels, or values of another range.
    """
    takes, channels = encoder.config.in_channels, images.store.channels
    if takes != channels:
        raise DataError(
            f"the encoder takes images of {takes} channels, these have {channels}",
            "give images like those that it was trained on",
        )
    check_range(encoder, images)


def check_range(encoder: "Encoder", images: "Images") -> None:
    """Whether the values of these images fill the range that the encoder was made for.

    Raises:
        DataError: They would be cut off, or be nearly black: their range is less than half or more
            than twice as wide.
    """
    ours, theirs = encoder.config.intensity, images.checked.intensity
    if not 0.5 <= (theirs.high - theirs.low) / (ours.high - ours.low) <= 2.0:
        raise DataError(
            f"the encoder takes values from {ours.low:g} to {ours.high:g}, "
            f"these images have {theirs.low:g} to {theirs.high:g}",
            "give images of the kind that it was trained on",
        )


def _trial(images: "Images", labels: "Labelled", positive: str | None) -> Trial:
    if not labels.classes:
        raise DataError(
            "the labels are numbers, not classes",
            "regression comes in a later version; give a column of classes with --label",
        )
    train, test = (rows[labels.labels_N[rows] >= 0] for rows in (labels.train, labels.test))
    for rows, use in ((train, "train on"), (test, "test on")):
        if not len(rows):
            raise DataError(f"there is no labelled image to {use}", "label more images")
    return Trial(
        images,
        train,
        labels.labels_N[train].astype(np.int64),
        test,
        classes=len(labels.classes),
        positive=_positive(labels.classes, positive),
    )


def _positive(classes: Sequence[str], positive: str | None) -> int:
    if positive is None:
        return len(classes) - 1
    if positive not in classes:
        raise ConfigError(f"there is no class {positive!r}", nearest(positive, classes))
    return classes.index(positive)
