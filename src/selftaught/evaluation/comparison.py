"""How good is an encoder? The table: this encoder beside random init and raw pixels.

Every protocol answers for the same test images, without their labels; figures, 95 % bootstrap
intervals and paired differences come from one place (`judge.py`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from selftaught.encoders.fits import check_fits
from selftaught.errors import ConfigError, DataError, did_you_mean
from selftaught.evaluation.budget import ALL, Budget, draws, worth_trying
from selftaught.evaluation.cost import costs
from selftaught.evaluation.judge import Judge, Judged
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
from selftaught.foundation.progress import LONG, meanwhile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from selftaught.data.labels import Labelled
    from selftaught.data.store import Images
    from selftaught.encoders.encoder import Encoder

THIS = "this encoder"
"""What tables call the encoder in question."""


def evaluate_encoder(
    encoder: "Encoder",
    images: "Images",
    labels: "Labelled",
    **how: Any,
) -> list[Row]:
    """The rows of `blocks`, which says how, all at once."""
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
    """Measure an encoder beside others, the same network at random init (3 seeds) and raw pixels.

    Args:
        encoder: f; its mode and its weights are left as they are.
        images: The labelled images.
        labels: Their classes, and which are for training and which for the test.
        protocols: Names of `PROTOCOLS`.
        few: Train on so few images: for each, 5 keyed draws are averaged, and the interval is
            over draws and test images. Without any, protocols look at what is theirs: all.
        seed: Of everything random.
        machine: Where to compute.
        name: What the table calls the encoder.
        against: Other encoders by the names that the table gives them.
        positive: Of two classes, the one whose average precision is shown; by default the last.
        epochs: Of linear-sgd; by default the paper's.

    Yields:
        Question by question: representation by representation, a row a metric.

    Raises:
        ConfigError: A protocol or the positive class is unknown, or `few` makes no sense there.
        DataError: The labels are numbers and the protocol wants classes, or the other way round; no
            image is for training or none for the test; or the images have another number of
            channels than the encoder takes.
    """
    check_protocols(protocols)
    others = against or {}
    for each in (encoder, *others.values()):
        check_fits(each, images)
    for protocol in protocols:
        _check_labels(protocol, labels, few)
    trial = _trial(images, labels, positive)
    trial = replace(trial, seed=seed, machine=machine, epochs=epochs)
    named = {name: encoder, **others}
    subjects: list[Representation] = [
        EncoderRepresentation(called, each, machine=machine) for called, each in named.items()
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
    """The rows of `measured`, all at once."""
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
    """The rows of any representations; differences are those of the first to each of the others.

    Args:
        subjects: What to measure.
        trial: On what; all of the training rows.
        labels: To judge by.
        protocols: Names of `PROTOCOLS`.
        few: As for `blocks`.

    Yields:
        The rows of a question, once it is answered.
    """
    judge = Judge(labels.labels_N)
    if subjects[0].encoder is not None:
        trial = replace(trial, stages=tuple(subjects[0].encoder.strides))
    for name in protocols:
        entry = PROTOCOLS[name]
        contest = entry.contest(subjects)
        if entry.vectors:
            for subject in subjects:
                with meanwhile(f"Vectors of {subject.name}.", after=LONG):
                    subject.vectors(trial.images)  # not timed: protocols share them
        for called, trials, note in _questions(name, entry, trial, few):
            yield compare_subjects(judge, contest, trials, called, labels.split, note)
        if entry.costs:
            yield costs(subjects, trial.images, seed=trial.seed, threads=trial.machine.threads)


def compare_subjects(
    judge: Judge,
    contest: Sequence[tuple[Protocol, Representation]],
    trials: Sequence[Trial],
    called: str,
    split: str,
    note: str = "",
) -> list[Row]:
    """The rows of representations that answer for the same draws, each by its protocol."""
    rows: list[Row] = []
    first: Judged | None = None
    for protocol, subject in contest:
        with meanwhile(f"{called}: {subject.name}.", after=LONG):
            judged = judge.judge(protocol, subject, trials)
        rows += judged.rows(called, split, first, note)
        first = first or judged
    return rows


def _questions(
    name: str, entry: Entry, trial: Trial, few: Sequence[Budget]
) -> Iterator[tuple[str, list[Trial], str]]:
    """What is asked of a protocol: as the table calls it, the trials of all draws, and a note."""
    budgets = list(few) or worth_trying(entry.few, trial.labels)
    if not (entry.learns and budgets):
        yield f"{name}, {ALL}" if entry.and_all else name, [trial], ""
        return
    for budget in budgets:
        yield f"{name}, {budget}", *draws(trial, budget)
    if entry.and_all:
        yield f"{name}, {ALL}", [trial], ""


def _check_labels(protocol: str, labels: "Labelled", few: Sequence[Budget]) -> None:
    """Whether a protocol can do anything with such labels.

    Raises:
        DataError: It cannot.
        ConfigError: Few of them are asked for where they have no classes.
    """
    if PROTOCOLS[protocol].numbers and few:
        raise ConfigError(f"{protocol} knows no classes to take few labels of", "leave --few out")
    if PROTOCOLS[protocol].numbers and labels.classes:
        raise DataError(
            f"{protocol} predicts numbers, and the labels are classes ({labels.classes[0]}, ...)",
            "give a column of numbers with --label, or leave --protocol out",
        )
    if not (PROTOCOLS[protocol].numbers or labels.classes):
        raise DataError(
            f"{protocol} wants classes, and the labels are numbers",
            "use --protocol regression, or give a column of classes with --label",
        )


def _trial(images: "Images", labels: "Labelled", positive: str | None) -> Trial:
    there_N = labels.labels_N >= 0 if labels.classes else np.isfinite(labels.labels_N)
    train, test = (rows[there_N[rows]] for rows in (labels.train, labels.test))
    for rows, use in ((train, "train on"), (test, "test on")):
        if not len(rows):
            raise DataError(f"there is no labelled image to {use}", "label more images")
    return Trial(
        images,
        train,
        labels.labels_N[train].astype(np.int64 if labels.classes else np.float64),
        test,
        classes=len(labels.classes),
        positive=_positive(labels.classes, positive),
    )


def _positive(classes: Sequence[str], positive: str | None) -> int:
    if positive is None or not classes:
        return len(classes) - 1
    if positive not in classes:
        raise ConfigError(f"there is no class {positive!r}", did_you_mean(positive, classes))
    return classes.index(positive)
