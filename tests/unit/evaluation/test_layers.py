"""Probes on stages: pooling, what is kept where, the minimum of vectors that pass by in blocks."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from selftaught.data.labels import Labelled, label
from selftaught.data.open_images import open_images
from selftaught.data.store import Images
from selftaught.encoders.encoder import Encoder, EncoderConfig, build_encoder, encoder_id
from selftaught.errors import DataError
from selftaught.evaluation.comparison import measure
from selftaught.evaluation.protocols import layers, linear, linear_streamed
from selftaught.evaluation.protocols.linear_streamed import Preconditioner, StoredVectors
from selftaught.evaluation.representation import EncoderRepresentation, raw_pixels
from selftaught.evaluation.table import as_text
from selftaught.evaluation.trial import Trial
from selftaught.foundation.machine import Machine
from selftaught.vectors.features import batch_views
from selftaught.views.policy import evaluation
from tests.support.sets import array_set

pytestmark = pytest.mark.slow


class Trunk(nn.Module):
    """A stand-in: maps of given channels and sides, each the image in gray, resized."""

    def __init__(self, maps: dict[str, tuple[int, int]]) -> None:
        super().__init__()
        self.maps, self.scale = maps, nn.Parameter(torch.ones(()))
        self.feature_info = [{"module": name, "reduction": 1} for name in maps]

    def forward_intermediates(self, x: Tensor, *, intermediates_only: bool) -> list[Tensor]:
        gray = x.mean(dim=1, keepdim=True)
        return [
            self.scale
            * (i + 1)
            * nn.functional.interpolate(gray, (side, side)).expand(-1, c, -1, -1)
            for i, (c, side) in enumerate(self.maps.values())
        ]


ALEXNET = {
    name: (c, side)
    for name, c, side in (
        ("conv1", 96, 55),
        ("conv2", 256, 27),
        ("conv3", 384, 13),
        ("conv4", 384, 13),
        ("conv5", 256, 13),
    )
}


def stand_in(maps: Any = None, architecture: str = "stand-in", size: int = 8) -> Encoder:
    trunk = Trunk(maps or {"early": (2, 8), "late": (30, 2)})
    return Encoder(EncoderConfig(architecture, image_size=size), trunk, dim=1)


def trial_of(images: Images, n: int, **options: Any) -> Trial:
    rows = np.arange(len(images.store))
    return Trial(images, rows[:n], rows[:n] % 2, rows[n:], classes=2, **options)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return array_set(tmp_path_factory.mktemp("few"), 40)


# Pooling.


def test_alexnets_maps_are_pooled_as_in_the_paper() -> None:
    sizes = layers.pooled_sizes(stand_in(ALEXNET, "alexnet", 224))
    assert sizes == {"conv1": 9600, "conv2": 9216, "conv3": 9600, "conv4": 9600, "conv5": 9216}


def test_the_paper_averages_windows_padded_with_zeros() -> None:
    encoder = stand_in(ALEXNET, "alexnet", 224)
    ones = {name: torch.ones(1, c, side, side) for name, (c, side) in ALEXNET.items()}
    conv1, conv2, conv3 = (
        layers.pooling(encoder, name)(ones[name]).reshape(shape)
        for name, shape in (("conv1", (96, 10, 10)), ("conv2", (256, 6, 6)), ("conv3", (384, 5, 5)))
    )
    # At the upper left 3 of 6 pixels a side are padding, of conv3's windows 1 of 3.
    assert conv1[0, 0, 0] == 0.25 and conv1[0, 5, 0] == 0.5 and conv1[0, 5, 5] == 1
    assert (conv2 == 1).all()
    assert conv3[0, 0, 0] == pytest.approx(4 / 9) and conv3[0, 2, 2] == 1


def test_other_maps_are_pooled_to_the_largest_grid() -> None:
    expected = {(16, 16): 16, (64, 56): 12, (256, 14): 6, (2048, 7): 2, (9601, 3): 1, (64, 4): 4}
    for (c, side), g in expected.items():
        assert layers.pooling_grid(torch.empty(1, c, side, side)) == g
    small = layers.pooled_sizes(stand_in(ALEXNET, "alexnet", 64))  # not the paper's images
    assert small == {"conv1": 9600, "conv2": 9216, "conv3": 9600, "conv4": 9600, "conv5": 9216}


@given(st.integers(1, 5000), st.integers(1, 64))
def test_no_grid_is_larger_than_it_may_be(c: int, side: int) -> None:
    g = layers.pooling_grid(torch.empty(1, c, side, side, device="meta"))
    assert 1 <= g <= side and (g == 1 or c * g * g <= layers.MOST)
    assert g == side or c * (g + 1) ** 2 > layers.MOST


# What is kept, and where.


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(0, 20))
def test_passes_make_every_stage_once_within_the_budget(sizes: list[int], budget: int) -> None:
    named = {str(i): size for i, size in enumerate(sizes)}
    parts = list(layers.passes(named, budget))
    assert [name for part in parts for name in part] == list(named)
    for part, after in zip(parts, [*parts[1:], []], strict=True):
        taken = sum(named[name] for name in part)
        assert taken <= budget or len(part) == 1
        assert not after or taken + named[after[0]] > budget


def test_pooled_maps_are_those_of_the_stages_up_to_scale_and_shift(
    few: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "_BATCH", 12)  # 12, 12 and 6 images
    encoder = build_encoder(EncoderConfig("resnet8", image_size=8, options={"width": 4}), seed=0)
    rows = np.random.default_rng(0).permutation(len(few.store))[:30]
    sizes = layers.pooled_sizes(encoder)
    assert sizes == {"act1": 256, "layer1": 256, "layer2": 128, "layer3": 64}
    rooms = {
        name: layers.float16_buffer((30, D), 10**6) for name, D in sizes.items() if name != "layer1"
    }
    encoder.train()
    before = encoder_id(encoder)
    layers.pooled_maps(encoder, trial_of(few, 20), rows, rooms)
    assert encoder.training and encoder_id(encoder) == before
    (x,) = batch_views(encoder, few, [rows], evaluation(8))
    with torch.no_grad():
        maps = encoder.eval().stages(x)
    for name, room in rooms.items():
        plain = maps[name].flatten(1)
        centred = plain - plain[:12].mean(dim=0)
        expected = centred / centred[:12].square().mean().sqrt()
        assert torch.allclose(room.float(), expected, atol=5e-3, rtol=1e-3)


def test_large_and_dead_maps_stay_within_float16(few: Images) -> None:
    encoder = stand_in()
    for scale, expected in ((1e9, 1.0), (0.0, 0.0)):
        encoder.trunk.scale.data.fill_(scale)
        rooms = {"late": layers.float16_buffer((40, 120), 10**6)}
        layers.pooled_maps(encoder, trial_of(few, 20), np.arange(40), rooms)
        assert rooms["late"].float().square().mean().sqrt() == pytest.approx(expected, abs=1e-2)


def test_a_stage_that_is_not_finite_is_named(few: Images) -> None:
    encoder = stand_in()
    encoder.trunk.scale.data.fill_(torch.nan)
    with pytest.raises(DataError, match="it produces vectors that are not finite"):
        layers.layers(EncoderRepresentation("it", encoder), trial_of(few, 20))


# The protocol.


def test_every_stage_has_its_figure_however_many_passes_it_takes(
    few: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, made = EncoderRepresentation("it", stand_in()), []

    def counted(*args: Any, **options: Any) -> None:
        made.append(list(args[3]))
        pooled(*args, **options)

    pooled = layers.pooled_maps
    monkeypatch.setattr(layers, "pooled_maps", counted)
    once = layers.layers(subject, trial_of(few, 20))
    monkeypatch.setattr(layers, "memory", lambda: 0)  # one stage a pass, each in a file
    twice = layers.layers(subject, trial_of(few, 20))
    assert made == [["early", "late"], ["early"], ["late"]]
    assert list(once.figures) == list(twice.figures) == ["early accuracy", "late accuracy"]
    assert once.note.endswith("this many numbers: early 128, late 120")
    truth, ones = once.rows % 2, np.ones((20, 1), np.float32)
    for name in once.figures:
        assert once.figures[name](truth, ones) == twice.figures[name](truth, ones)


def test_what_has_no_stages_stands_beside_every_stage(few: Images) -> None:
    trial = trial_of(few, 20, stages=("early", "late"))
    answer = layers.layers(raw_pixels(few), trial)
    assert list(answer.figures) == ["early accuracy", "late accuracy"]
    assert answer.note.startswith("raw pixels have no stages")
    alone = layers.layers(raw_pixels(few), trial_of(few, 20))
    assert list(alone.figures) == ["accuracy"]


def measured(subjects: Sequence[Any], images: Images, labels: Labelled) -> list[Any]:
    rows = labels.train
    trial = Trial(images, rows, labels.labels_N[rows], labels.test, len(labels.classes))
    return measure(subjects, trial, labels, ["layers"])


def test_a_row_a_stage_paired_with_each_other_representation(
    few: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EncoderRepresentation, "vectors", None)  # not looked at
    labels = Labelled(("a", "b"), np.arange(40) % 2, np.arange(20), np.arange(20, 40), "test")
    maps = {name: (2, 4) for name in ("one", "two", "three", "four")}
    first, second = (EncoderRepresentation(name, stand_in(maps)) for name in ("it", "other"))
    rows = measured([first, second], few, labels)
    assert [(row.representation, row.metric) for row in rows] == [
        (name, f"{stage} accuracy") for name in ("it", "other") for stage in maps
    ]
    assert all((row.delta_low, row.delta_high) == (0, 0) for row in rows[4:])
    lines = as_text(rows).splitlines()
    assert lines[1].split() == ["it", "other"]
    assert [line.split()[0] for line in lines[2:7]] == [*maps, "seconds"]


def test_stages_that_the_first_lacks_have_rows_without_differences(few: Images) -> None:
    labels = Labelled(("a", "b"), np.arange(40) % 2, np.arange(20), np.arange(20, 40), "test")
    subjects = [
        EncoderRepresentation("it", stand_in({"a": (2, 4), "b": (2, 2)})),
        EncoderRepresentation("other", stand_in({"a": (2, 4), "c": (2, 2)})),
    ]
    rows = {(row.representation, row.metric): row for row in measured(subjects, few, labels)}
    assert rows["other", "a accuracy"].delta_low == 0
    assert rows["other", "c accuracy"].delta_low is None


def test_stages_of_a_network_know_digits(tmp_path: Path) -> None:
    images = open_images("digits", machine=Machine(cache=tmp_path))
    labels = label(images.checked)
    labels = replace(labels, train=labels.train[:500])
    config = EncoderConfig(
        "resnet8", images.checked.channels, 16, intensity=images.checked.intensity
    )
    rows = measured([EncoderRepresentation("it", build_encoder(config, seed=0))], images, labels)
    values = {row.metric: row.value for row in rows}
    assert list(values) == [f"{s} accuracy" for s in ("act1", "layer1", "layer2", "layer3")]
    assert min(values.values()) > 0.85 > 0.1
    assert values["act1 accuracy"] == values["layer1 accuracy"]  # a new block is the identity


# The solver.


def problem(n: int, D: int, classes: int = 3, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    numbers = np.random.default_rng(seed)
    labels = numbers.integers(0, classes, n)
    x = numbers.normal(size=(n, D)) @ numbers.normal(size=(D, D)) / np.sqrt(D)
    x = x + np.eye(classes, D)[labels] * 3 + 2
    x[:, 1] = 7.0  # a constant column, as of a dead unit
    return torch.from_numpy(x).float(), torch.from_numpy(labels)


@pytest.mark.parametrize(("n", "D"), [(300, 10), (40, 64)], ids=["tall", "wide"])
@pytest.mark.parametrize("strength", [1.0, 1e-2])
def test_the_minimum_is_scikit_learns(
    n: int, D: int, strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, labels = problem(n, D)
    monkeypatch.setattr(linear_streamed, "_BLOCK", 7 * D)  # seven vectors a block
    monkeypatch.setattr(linear_streamed, "_SAMPLE", 30)
    monkeypatch.setattr(linear_streamed, "_AXES", 5)
    stored = StoredVectors(x, np.arange(n), labels, 3)
    weights = linear_streamed.fit_streamed(
        stored, np.arange(n), linear_streamed.zero_streamed_weights(stored), strength=strength
    )
    ours = stored.logits(weights, x).softmax(dim=0).T.numpy()
    deviation = np.where(x.std(dim=0) > 1e-5, x.std(dim=0, correction=0), 1)
    standard = ((x - x.mean(dim=0)) / torch.from_numpy(deviation)).double().numpy()
    theirs = LogisticRegression(C=1 / (n * strength), tol=1e-8, max_iter=20_000)
    expected = theirs.fit(standard, labels.numpy()).predict_proba(standard)
    assert np.abs(ours - expected).max() < 5e-3


def test_the_gradient_is_autograds() -> None:
    x, labels = problem(50, 6)
    stored = StoredVectors(x, np.arange(10, 50), labels[10:], 3)
    those = np.array([3, 0, 25, 39])
    weights = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    loss, gradient = linear_streamed.streamed_loss(stored, those, weights)
    mean, inverse = stored.scale
    learnt = x[10:].double()
    assert torch.allclose(mean.double(), learnt.mean(dim=0), atol=1e-5)
    assert inverse[1] == 0
    free = weights.double().requires_grad_()
    standard = ((x[10 + those] - mean) * inverse).double()
    slow = nn.functional.cross_entropy(
        standard @ free[:, :-1].T + free[:, -1], labels[10:][torch.from_numpy(those)]
    )
    slow.backward()
    assert loss.item() == pytest.approx(slow.item(), abs=1e-5)
    assert torch.allclose(gradient.double(), free.grad, atol=1e-5)


def test_the_way_is_symmetric_and_can_be_undone() -> None:
    x, labels = problem(60, 9)
    way = Preconditioner.of(StoredVectors(x, np.arange(60), labels, 3), 0.1)
    few_axes = Preconditioner(way.axes_Dr[:, -2:], way.scale_r[-2:], 3.0)
    a, b = torch.randn(2, 3, 10, generator=torch.Generator().manual_seed(0))
    for p in (way, few_axes):
        assert torch.allclose(p.undo(p.apply(a)), a, atol=1e-4)
        assert torch.allclose((p.apply(a) * b).sum(), (a * p.apply(b)).sum(), rtol=1e-4)
    assert torch.allclose(few_axes.apply(a)[:, -1], a[:, -1])


def test_it_predicts_as_well_as_linear_does_and_in_float16_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linear_streamed, "_MANY", 300)  # one fold
    x, labels = problem(400, 20, classes=4)
    expected, _ = linear.logistic_probabilities(x[:300], labels[:300], x[300:], classes=4)
    answer = (labels[300:] == expected.argmax(dim=1)).float().mean()
    for kept in (x, x.half()):
        stored = StoredVectors(kept, np.arange(300), labels[:300], 4)
        found, strength = linear_streamed.streamed_probabilities(stored, np.arange(300, 400))
        assert torch.allclose(found.sum(dim=1), torch.ones(100), atol=1e-4)
        assert (found - expected).abs().mean() < 0.02
        right = (labels[300:] == found.argmax(dim=1)).float().mean()
        assert abs(right - answer) <= 0.03 and strength < 1


def test_an_accelerator_gets_the_vectors_if_it_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[Any] = []
    vectors: Any = SimpleNamespace(nbytes=100, to=lambda device: moved.append(device) or "there")
    for free, where in ((201, "there"), (200, vectors)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, free))
        assert layers._on_device_if_it_fits(vectors, torch.device("cuda")) is where
    assert layers._on_device_if_it_fits(vectors, torch.device("cpu")) is vectors and len(moved) == 1
