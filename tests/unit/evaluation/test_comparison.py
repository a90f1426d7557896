"""The table: this encoder beside random init and raw pixels, with paired intervals."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from selftaught.data.labels import Labelled, label
from selftaught.data.open_images import open_images
from selftaught.data.store import Images
from selftaught.encoders.encoder import Encoder, EncoderConfig, build_encoder, encoder_id
from selftaught.errors import ConfigError, DataError
from selftaught.evaluation.budget import DRAWS, Budget
from selftaught.evaluation.comparison import evaluate_encoder, measure
from selftaught.evaluation.judge import Measurement
from selftaught.evaluation.metrics import interval, resampled_counts
from selftaught.evaluation.protocols import knn
from selftaught.evaluation.protocols.linear_sgd import linear_sgd_batches
from selftaught.evaluation.protocols.registry import Entry
from selftaught.evaluation.representation import (
    EncoderRepresentation,
    calibrate,
    random_init,
    raw_pixels,
)
from selftaught.evaluation.table import Row, as_dicts, as_text
from selftaught.evaluation.trial import Trial
from selftaught.foundation.machine import Machine
from selftaught.pairwise.knn_vote import knn_vote
from selftaught.vectors.features import batch_views
from selftaught.views.policy import Flip, Policy, RandomCrop, evaluation

DIGITS_X, DIGITS_Y = load_digits(return_X_y=True)
SET: Any = SimpleNamespace(content="digits")


@dataclass(frozen=True)
class Vectors:
    """A representation that is only vectors."""

    array: np.ndarray
    name: str
    seed: int | None = None
    encoder: None = None

    def vectors(self, images: Any) -> np.ndarray:
        return self.array.astype(np.float32)


def digits_labels(classes: int = 10) -> Labelled:
    order = np.random.default_rng(0).permutation(len(DIGITS_X))
    names = tuple("abcdefghij"[:classes])
    train, test = np.sort(order[:1200]), np.sort(order[1200:])
    return Labelled(names, DIGITS_Y % classes, train, test, "test (given)")


def trial_of(labels: Labelled, seed: int = 0) -> Trial:
    rows = labels.train
    return Trial(SET, rows, labels.labels_N[rows], labels.test, len(labels.classes), seed=seed)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Images, Labelled]:
    images = open_images("digits", machine=Machine(cache=tmp_path_factory.mktemp("cache")))
    return images, label(images.checked)


@pytest.fixture(scope="module")
def encoder(digits: tuple[Images, Labelled]) -> Encoder:
    images, _ = digits
    config = EncoderConfig(
        "resnet8",
        images.checked.channels,
        16,
        intensity=images.checked.intensity,
        options={"width": 8},
    )
    return build_encoder(config, seed=7)


# Rows, intervals, differences.


def test_differences_are_paired() -> None:
    numbers, labels = np.random.default_rng(0), digits_labels()
    worse = DIGITS_X + numbers.normal(size=DIGITS_X.shape) * 12
    subjects = [Vectors(DIGITS_X, "good"), Vectors(DIGITS_X, "same"), Vectors(worse, "worse")]
    rows = measure(subjects, trial_of(labels), labels, ["knn"])
    by_name = {(row.representation, row.metric): row for row in rows}
    assert len(rows) == 9
    for metric in ("accuracy", "balanced accuracy", "mean average precision"):
        good, same, worse_row = (by_name[name, metric] for name in ("good", "same", "worse"))
        assert good.low is not None and good.low < good.value < (good.high or 0)
        assert (good.delta_low, good.delta_high) == (None, None)
        assert (same.delta_low, same.delta_high) == (0, 0)
        assert worse_row.delta_low is not None and worse_row.delta_high is not None
        assert 0 < worse_row.delta_low < good.value - worse_row.value < worse_row.delta_high
        # Paired: narrower than if the two were measured on different images.
        assert worse_row.high is not None and worse_row.low is not None and good.high is not None
        apart = math.hypot(good.high - good.low, worse_row.high - worse_row.low)
        assert worse_row.delta_high - worse_row.delta_low < apart


def test_an_interval_is_that_of_a_slow_bootstrap() -> None:
    labels = digits_labels()
    row = measure([Vectors(DIGITS_X, "x")], trial_of(labels), labels, ["knn"])[0]
    x = DIGITS_X.astype(np.float32)
    train, test = labels.train, labels.test
    scores = knn_vote(x[train], DIGITS_Y[train], x[test], classes=10)
    correct = scores.argmax(axis=1) == DIGITS_Y[test]
    counts = resampled_counts(len(test), 1000, seed=0)
    values = [np.repeat(correct, column.astype(int)).mean() for column in counts.T]
    assert row.value == pytest.approx(correct.mean())
    assert (row.low, row.high) == pytest.approx(interval(np.array(values)))
    assert np.mean(values) == pytest.approx(correct.mean(), abs=2e-3)  # accuracy has no bias


def test_few_labels_are_drawn_several_times() -> None:
    labels = digits_labels()
    seen: list[np.ndarray] = []

    def spy(subject: Any, trial: Trial) -> Any:
        seen.append(trial.train)
        assert (np.bincount(trial.labels) == 3).all()
        assert (DIGITS_Y[trial.train] == trial.labels).all()
        return knn.knn(subject, trial)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Entry, "load", lambda entry: spy)
        subject = Vectors(DIGITS_X, "x")
        rows = measure([subject], trial_of(labels), labels, ["knn"], few=[Budget(3)])
    assert len(seen) == DRAWS == len({tuple(drawn) for drawn in seen})
    assert rows[0].protocol == "knn, 3 labels per class"
    assert "mean of 5 draws of training images" in rows[0].note
    full = measure([subject], trial_of(labels), labels, ["knn"])[0]
    assert rows[0].value < full.value - 0.03
    assert rows[0].high is not None and rows[0].low is not None
    assert full.high is not None and full.low is not None
    assert rows[0].high - rows[0].low > full.high - full.low  # it is also over draws


def test_few_where_a_class_has_fewer() -> None:
    labels = digits_labels()
    rare = labels.train[labels.labels_N[labels.train] == 4][2:]
    labels = replace(labels, train=np.setdiff1d(labels.train, rare))
    rows = measure([Vectors(DIGITS_X, "x")], trial_of(labels), labels, ["knn"], few=[Budget(5)])
    assert "all images of classes with fewer than 5" in rows[0].note


def test_clusters_take_no_notice_of_few() -> None:
    labels = digits_labels()
    rows = measure(
        [Vectors(DIGITS_X, "x")], trial_of(labels), labels, ["clusters"], few=[Budget(3)]
    )
    assert [row.metric for row in rows] == ["NMI", "ARI", "accuracy"]
    for row in rows:
        assert (row.protocol, row.split) == ("clusters", "all labelled images")
        assert row.low is not None and row.high is not None and row.low < row.value < row.high


def test_a_figure_that_does_not_exist_has_no_row() -> None:
    labels = digits_labels(2)
    labels = replace(labels, test=labels.test[labels.labels_N[labels.test] == 0])
    rows = measure([Vectors(DIGITS_X, "x")], trial_of(labels), labels, ["knn"])
    assert [row.metric for row in rows] == ["accuracy", "balanced accuracy"]


def test_rows_as_text_and_as_json() -> None:
    row = Row("this encoder", "knn", "test (given)", "accuracy", 0, 0.75, 0.7, 0.8, 1.5)
    other = replace(row, representation="random init", value=0.5, delta_low=0.1, delta_high=0.3)
    rows = [row, other, replace(other, seed=1, value=0.6, low=0.6, note="k = 200 was clipped to 9")]
    table, notes = as_text(rows).split("\n\n")
    assert table.splitlines() == [
        "knn, test (given)",
        "                                                accuracy     this minus it  seconds",
        "  this encoder                    0.750 (0.700 to 0.800)                        1.5",
        "  random init, mean of 2 seeds  < 0.550 (0.600 to 0.800)  +0.100 to +0.300      3.0",
    ]
    assert notes.endswith("of the difference excludes 0.\nknn: k = 200 was clipped to 9")


def test_marks_say_which_way_the_paired_interval_lies() -> None:
    row = Row("this encoder", "knn", "test", "accuracy", 0, 0.75, 0.7, 0.8, 1.5)
    for low, high, mark in ((0.1, 0.3, "<"), (-0.3, -0.1, ">"), (-0.1, 0.1, "")):
        other = replace(row, representation="it", delta_low=low, delta_high=high)
        line = as_text([row, other]).splitlines()[3]
        assert line.split()[1] == (mark or "0.750")


def test_the_images_are_counted_once() -> None:
    row = Row("it", "knn", "test (given)", "accuracy", 0, 0.75, 0.7, 0.8, 1.5, train=9, images=1234)
    assert as_text([row]).startswith("knn, test (given): 1,234 images; trained on 9\n")
    assert "this minus it" not in as_text([row])
    queries = replace(row, split="12 queries", images=12, train=None)
    assert as_text([queries]).startswith("knn, 12 queries\n")


def test_json_keeps_the_notes() -> None:
    rows = [
        Row("r", "knn", "test", "accuracy", 0, 0.5, 0.4, 0.6, 0.1, note="k = 200 was clipped to 9")
    ] * 3
    assert json.loads(json.dumps(as_dicts(rows)))[2]["note"] == "k = 200 was clipped to 9"


# What can be wrong.


def test_mistakes_are_named(digits: tuple[Images, Labelled], encoder: Encoder) -> None:
    images, labels = digits
    with pytest.raises(ConfigError, match="no protocol 'liner': did you mean 'linear'"):
        evaluate_encoder(encoder, images, labels, protocols=["knn", "liner"])
    with pytest.raises(ConfigError, match="no class"):
        evaluate_encoder(encoder, images, labels, positive="ten")
    targets = replace(labels, classes=(), labels_N=labels.labels_N * 1.5)
    with pytest.raises(DataError, match="knn needs classes, and the labels are numbers"):
        evaluate_encoder(encoder, images, targets)
    with pytest.raises(DataError, match="regression predicts numbers, and the labels are classes"):
        evaluate_encoder(encoder, images, labels, protocols=["regression"])
    with pytest.raises(
        ConfigError, match="--few needs class labels, and regression predicts numbers"
    ):
        evaluate_encoder(encoder, images, targets, protocols=["regression"], few=[Budget(3)])
    with pytest.raises(DataError, match="no labelled image to test on"):
        evaluate_encoder(encoder, images, replace(labels, test=labels.test[:0]))


def test_an_encoder_that_diverged_is_named(digits: tuple[Images, Labelled]) -> None:
    images, labels = digits
    broken = build_encoder(EncoderConfig("resnet8", images.checked.channels, 16), seed=0)
    with torch.no_grad():
        next(broken.parameters()).fill_(math.nan)
    with pytest.raises(DataError, match="this encoder produces vectors that are not finite"):
        evaluate_encoder(broken, images, labels)


# Representations.


def test_calibrated_norms_have_seen_the_training_images(
    digits: tuple[Images, Labelled], encoder: Encoder
) -> None:
    images, labels = digits
    fresh = build_encoder(encoder.config, seed=3)
    before = {name: p.clone() for name, p in fresh.named_parameters()}
    rows = labels.train[:512]
    calibrate(fresh, images, rows, batch_size=512)
    first = next(m for m in fresh.modules() if isinstance(m, nn.BatchNorm2d))
    convolution = next(m for m in fresh.modules() if isinstance(m, nn.Conv2d))
    policy = evaluation(encoder.config.image_size)
    (x,) = batch_views(fresh, images, [rows], policy)
    with torch.no_grad():
        y = convolution(x)
    assert torch.allclose(first.running_mean, y.mean(dim=(0, 2, 3)), atol=1e-5)
    assert torch.allclose(first.running_var, y.var(dim=(0, 2, 3)), rtol=1e-4, atol=1e-6)
    assert first.momentum == 0.1 and not first.training
    assert all(torch.equal(p, before[name]) for name, p in fresh.named_parameters())


def test_calibration_does_not_depend_on_the_order_of_the_rows_in_a_class_sorted_set(
    digits: tuple[Images, Labelled], encoder: Encoder
) -> None:
    images, labels = digits
    by_class = labels.train[np.argsort(labels.labels_N[labels.train], kind="stable")]
    variances = []
    for batch_size in (64, len(by_class)):
        fresh = build_encoder(encoder.config, seed=3)
        calibrate(fresh, images, by_class, batch_size=batch_size)
        norms = [m for m in fresh.modules() if isinstance(m, nn.BatchNorm2d)]
        variances.append(torch.cat([norm.running_var for norm in norms]))
    assert torch.allclose(variances[0], variances[1], rtol=0.15)


def test_raw_pixels_are_the_images(digits: tuple[Images, Labelled]) -> None:
    images, _ = digits
    subject = raw_pixels(images)
    vectors = subject.vectors(images)
    channels, intensity = images.checked.channels, images.checked.intensity
    assert vectors.shape == (len(images.store), channels * 32 * 32)
    pixels = vectors.reshape(-1, channels, 32, 32) * intensity.std[0] + intensity.mean[0]
    raw = images.store.read(np.arange(len(images.store))).flat
    raw = (raw.astype(float) - intensity.low) / (intensity.high - intensity.low)
    assert pixels.min() > -1e-5 and pixels.max() < 1 + 1e-5
    assert pixels.mean() == pytest.approx(raw.clip(0, 1).mean(), abs=1e-2)


def test_random_init_is_keyed_by_its_seed(
    digits: tuple[Images, Labelled], encoder: Encoder
) -> None:
    images, labels = digits
    a, b, c = (
        random_init(encoder.config, images, labels.train, seed=seed).vectors(images)
        for seed in (0, 0, 1)
    )
    assert np.array_equal(a, b) and not np.allclose(a, c)


def test_views_of_linear_sgd_are_crops_and_flips_anew_each_epoch(
    digits: tuple[Images, Labelled], encoder: Encoder
) -> None:
    images, labels = digits
    rows, policy = labels.train[:8], Policy(RandomCrop(), (Flip(),))
    first, again, later = (
        torch.cat(list(batch_views(encoder, images, split, policy, epoch=epoch, threads=threads)))
        for split, epoch, threads in (
            ([rows], 0, 1),
            ([rows[:3], rows[3:]], 0, 3),
            ([rows], 1, 2),
        )
    )
    assert torch.equal(first, again)  # neither batches nor threads matter
    assert not torch.allclose(first, later)
    trial = Trial(images, rows, labels.labels_N[rows], labels.test, len(labels.classes))
    encoder.train()
    subject = EncoderRepresentation("x", encoder)
    before = encoder_id(encoder)
    epochs = [list(linear_sgd_batches(subject, trial, 4, epoch)) for epoch in (0, 0, 1)]
    assert encoder.training and encoder_id(encoder) == before
    (h0, y0), (h1, _) = epochs[0]
    assert torch.equal(h0, epochs[1][0][0]) and not torch.allclose(h0, epochs[2][0][0])
    assert len(h0) == len(h1) == len(y0) == 4 and not h0.requires_grad


# The whole path.


@pytest.mark.slow
def test_other_encoders_stand_beside_the_first(
    digits: tuple[Images, Labelled], encoder: Encoder
) -> None:
    images, labels = digits
    other = build_encoder(encoder.config, seed=8)
    found = evaluate_encoder(
        encoder, images, labels, protocols=("knn",), against={"another": other}
    )
    rows = [row for row in found if row.metric == "accuracy"]
    names = ["this encoder", "another", *["random init"] * 3, "raw pixels"]
    assert [row.representation for row in rows] == names
    (alone, *_) = evaluate_encoder(other, images, labels, protocols=("knn",))
    assert rows[1].value == alone.value and rows[1].delta_low is not None
    gray = build_encoder(EncoderConfig("resnet8", 3, 16))
    with pytest.raises(DataError, match="takes images with 3 channels"):
        evaluate_encoder(encoder, images, labels, protocols=("knn",), against={"another": gray})


@pytest.mark.slow
def test_digits_end_to_end(
    digits: tuple[Images, Labelled], encoder: Encoder, tmp_path: Path
) -> None:
    images, labels = digits
    encoder.train()
    before, state = encoder_id(encoder), torch.get_rng_state()
    protocols = ["knn", "linear", "linear-sgd", "clusters"]
    rows, again = (
        evaluate_encoder(
            encoder, images, labels, protocols=chosen, epochs=1, machine=Machine(cache=tmp_path)
        )
        for chosen in (protocols, ["linear-sgd"])
    )
    assert encoder_id(encoder) == before and encoder.training
    assert torch.equal(torch.get_rng_state(), state)
    sgd = [replace(row, seconds=0) for row in rows if row.protocol == "linear-sgd"]
    assert sgd == [replace(row, seconds=0) for row in again]
    metrics = ["accuracy", "balanced accuracy", "mean average precision"]
    names = ["this encoder", *["random init"] * 3, "raw pixels"]
    expected = [
        (name, protocol, metric)
        for protocol in protocols
        for name in names
        for metric in (["NMI", "ARI", "accuracy"] if protocol == "clusters" else metrics)
    ]
    assert [(row.representation, row.protocol, row.metric) for row in rows] == expected
    assert [row.seed for row in rows[:15:3]] == [0, 0, 1, 2, 0]
    raw = {row.protocol: row.value for row in rows if row.representation == "raw pixels"}
    assert raw["knn"] > 0.9 and raw["linear"] > 0.9
    assert all(row.delta_low is not None for row in rows if row.representation != "this encoder")
    assert "random init, mean of 3 seeds" in as_text(rows)


def test_only_a_bias_is_taken_off() -> None:
    """One query of twelve is missed: resamples without it say 1, not 1.007."""
    resampled = np.random.default_rng(0).binomial(12, 11 / 12, 1000) / 12
    assert np.array_equal(Measurement.centred(11 / 12, resampled).resampled, resampled)
    biased = Measurement.centred(0.5, resampled).resampled
    assert biased.mean() == pytest.approx(0.5)


def test_few_images_have_no_interval() -> None:
    labels = digits_labels()
    for number in (9, 10):
        few = replace(labels, test=labels.test[:number])
        row = measure([Vectors(DIGITS_X, "x")], trial_of(few), few, ["knn"])[0]
        assert (row.low is None) == (number == 9)


def test_the_interval_of_a_share_stays_within_0_and_1() -> None:
    """An accuracy of 0.83 had an interval up to 1.002."""
    resampled = np.concatenate([np.full(200, 0.5), np.full(800, 1.0)])
    assert Measurement.centred(0.95, resampled).resampled.max() == 1.0
    assert Measurement.centred(0.05, 1 - resampled).resampled.min() == 0.0
    beyond = Measurement.centred(9.5, 10 * resampled).resampled
    assert beyond.max() == pytest.approx(10.5)
