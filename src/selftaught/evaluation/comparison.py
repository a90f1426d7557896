"""How good is an encoder? A table compares it with random init and raw pixels.

Every protocol predicts the same test images without seeing their labels; `judge.py` computes all
figures, 95 % bootstrap intervals and paired differences.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from selftaught.encoders.fits import check_fits
from selftaught.errors import ConfigError, DataError, did_you_mean
from selftaught.evaluation.budget import ALL, Budget, draws, partial_budgets
from selftaught.evaluation.cost import costs
from selftaught.evaluation.judge import Judge, Judgement
from selftaught.evaluation.protocols.registry import PROTOCOLS, Entry, check_protocols
from selftaught.evaluation.representation import (
    RANDOM_SEEDS,
    EncoderRepresentation,
    Representation,
    random_init,
    raw_pixels,
)
from selftaught.evaluation.table import Row
from selftaught.evaluation.trial import Protocol, Trial
from selftaught.foundation.machine import CPU, Machine
from selftaught.foundation.progress import LONG, notice_if_slow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from selftaught.data.labels import Labelled
    from selftaught.data.store import Images
    from selftaught.encoders.encoder import Encoder

THIS = "this encoder"
"""Name of the evaluated encoder in tables."""


def evaluate_encoder(
    encoder: "Encoder",
    images: "Images",
    labels: "Labelled",
    **how: Any,
) -> list[Row]:
    """All rows of `evaluation_blocks`, which documents the arguments."""
    return [row for block in evaluation_blocks(encoder, images, labels, **how) for row in block]


def evaluation_blocks(
    encoder: "Encoder",
    images: "Images",
    labels: "Labelled",
    *,
    protocols: Sequence[str] = ("knn", "linear"),
    few: Sequence[Budget] = (),
    seed: int = 0,
    machine: Machine = CPU,
    name: str = THIS,
    against: "Mapping[str, Encoder] | None" = None,
    positive: str | None = None,
    epochs: int | None = None,
) -> Iterator[list[Row]]:
    """Compare an encoder with others, with the network at random init (3 seeds) and raw pixels.

    Args:
        encoder: f; its mode and weights stay unchanged.
        images: The labelled images.
        labels: Their classes, and the split into training and test images.
        protocols: Names of `PROTOCOLS`.
        few: Numbers of training labels: for each, 5 keyed draws are averaged, and the interval is
            over draws and test images. Empty: each protocol's default, usually all labels.
        seed: Random seed.
        machine: Where to compute.
        name: Name of the encoder in the table.
        against: Other encoders by their names in the table.
        positive: Of two classes, the one whose average precision is shown; by default the last.
        epochs: Epochs of protocols that train by steps; by default the paper's.

    Yields:
        The rows of one question: per representation, one row per metric.

    Raises:
        ConfigError: A protocol or the positive class is unknown, or `few` does not apply.
        DataError: The labels are numbers and the protocol needs classes, or vice versa; there are
            no training or no test images; or the images have another number of channels than the
            encoder takes.
    """
    check_protocols(protocols)
    others = against or {}
    for one in (encoder, *others.values()):
        check_fits(one, images)
    for protocol in protocols:
        _check_labels(protocol, labels, few)
    trial = _labelled_trial(images, labels, positive)
    trial = replace(trial, seed=seed, machine=machine, epochs=epochs)
    encoders = {name: encoder, **others}
    subjects: list[Representation] = [
        EncoderRepresentation(label, one, machine=machine) for label, one in encoders.items()
    ]
    subjects += [
        random_init(encoder.config, images, trial.train, machine, seed=s) for s in RANDOM_SEEDS
    ]
    yield from measure_blocks(
        [*subjects, raw_pixels(images, machine)], trial, labels, protocols, few=few
    )


def measure(
    subjects: Sequence[Representation],
    trial: Trial,
    labels: "Labelled",
    protocols: Sequence[str],
    *,
    few: Sequence[Budget] = (),
) -> list[Row]:
    """All rows of `measure_blocks`."""
    found = measure_blocks(subjects, trial, labels, protocols, few=few)
    return [row for block in found for row in block]


def measure_blocks(
    subjects: Sequence[Representation],
    trial: Trial,
    labels: "Labelled",
    protocols: Sequence[str],
    *,
    few: Sequence[Budget] = (),
) -> Iterator[list[Row]]:
    """The rows of any representations; the first is compared with each of the others.

    Args:
        subjects: The representations.
        trial: The images, with all training rows.
        labels: True labels of all images.
        protocols: Names of `PROTOCOLS`.
        few: As for `evaluation_blocks`.

    Yields:
        The rows of each question as soon as it is answered.
    """
    judge = Judge(labels.labels_N)
    if subjects[0].encoder is not None:
        trial = replace(trial, stages=tuple(subjects[0].encoder.strides))
    for name in protocols:
        entry = PROTOCOLS[name]
        contest = entry.contest(subjects)
        if entry.vectors:
            for subject in subjects:
                with notice_if_slow(f"Vectors of {subject.name}.", after=LONG):
                    subject.vectors(trial.images)  # not timed: protocols share them
        for title, trials, note in _questions(name, entry, trial, few):
            yield compare_subjects(judge, contest, trials, title, labels.split, note)
        if entry.costs:
            yield costs(subjects, trial.images, seed=trial.seed, threads=trial.machine.threads)


def compare_subjects(
    judge: Judge,
    contest: Sequence[tuple[Protocol, Representation]],
    trials: Sequence[Trial],
    title: str,
    split: str,
    note: str = "",
) -> list[Row]:
    """The rows of representations, each measured by its protocol on the same draws."""
    rows: list[Row] = []
    first: Judgement | None = None
    for protocol, subject in contest:
        with notice_if_slow(f"{title}: {subject.name}.", after=LONG):
            judgement = judge.judge(protocol, subject, trials)
        rows += judgement.rows(title, split, first, note)
        first = first or judgement
    return rows


def _questions(
    name: str, entry: Entry, trial: Trial, few: Sequence[Budget]
) -> Iterator[tuple[str, list[Trial], str]]:
    """The questions for a protocol: title in the table, trials of all draws, and a note."""
    budgets = list(few) or partial_budgets(entry.few, trial.labels)
    if not (entry.learns and budgets):
        yield f"{name}, {ALL}" if entry.and_all else name, [trial], ""
        return
    for budget in budgets:
        yield f"{name}, {budget}", *draws(trial, budget)
    if entry.and_all:
        yield f"{name}, {ALL}", [trial], ""


def _check_labels(protocol: str, labels: "Labelled", few: Sequence[Budget]) -> None:
    """Check that a protocol can use the labels.

    Raises:
        DataError: It cannot.
        ConfigError: `few` is set for labels without classes.
    """
    if PROTOCOLS[protocol].numbers and few:
        what = f"--few needs class labels, and {protocol} predicts numbers"
        raise ConfigError(what, "drop --few")
    if PROTOCOLS[protocol].numbers and labels.classes:
        raise DataError(
            f"{protocol} predicts numbers, and the labels are classes ({labels.classes[0]}, ...)",
            "choose a numeric column with --label, or drop --protocol",
        )
    if not (PROTOCOLS[protocol].numbers or labels.classes):
        raise DataError(
            f"{protocol} needs classes, and the labels are numbers",
            "use --protocol regression, or choose a column of classes with --label",
        )


def _labelled_trial(images: "Images", labels: "Labelled", positive: str | None) -> Trial:
    there_N = labels.labels_N >= 0 if labels.classes else np.isfinite(labels.labels_N)
    train, test = (rows[there_N[rows]] for rows in (labels.train, labels.test))
    for rows, use in ((train, "train on"), (test, "test on")):
        if not len(rows):
            raise DataError(f"no labelled image to {use}", "label more images")
    return Trial(
        images,
        train,
        labels.labels_N[train].astype(np.int64 if labels.classes else np.float64),
        test,
        classes=len(labels.classes),
        positive=_positive_class(labels.classes, positive),
    )


def _positive_class(classes: Sequence[str], positive: str | None) -> int:
    if positive is None or not classes:
        return len(classes) - 1
    if positive not in classes:
        raise ConfigError(f"there is no class {positive!r}", did_you_mean(positive, classes))
    return classes.index(positive)
