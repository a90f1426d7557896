"""Carried masks: against loops, by hand, and on clips of real things with known masks."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import nn

from selftaught.data.clips import Clip, read_clips
from selftaught.encoders.encoder import Encoder, EncoderConfig, build_encoder, encoder_id
from selftaught.errors import ConfigError, DataError
from selftaught.evaluation.propagation import propagate
from selftaught.evaluation.protocols import tracking as t
from selftaught.evaluation.protocols.tracking import TrackingSettings, tracking
from selftaught.evaluation.representation import EncoderRepresentation
from selftaught.views.policy import Intensity
from tests.oracles import tracking as oracle
from tests.support.made_clips import CutOut, write_clip, write_voc_clips
from tests.support.photographs import photographs
from tests.support.real_images import unpacked

pytestmark = pytest.mark.slow

SMALL = TrackingSettings(side=120, radius=6)


def network(name: str = "resnet18", seed: int = 0, **options: Any) -> EncoderRepresentation:
    encoder = build_encoder(EncoderConfig(name, image_size=128, **options), seed=seed)
    return EncoderRepresentation("it", encoder)


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clip, ...]:
    """A dahlia that moves, grows and turns before a temple that moves too."""
    root = tmp_path_factory.mktemp("moving")
    temple, flower = photographs()
    write_clip(root, "dahlia", [dahlia(flower)], temple[::2, ::2], size=(120, 160), frames=6)
    return read_clips(root)


def dahlia(flower: np.ndarray) -> CutOut:
    parts, _ = ndimage.label(flower[..., 0] > 150)  # it is orange, all else is green
    mask = parts == parts[213, 300]
    return CutOut(flower, mask, start=(0.3, 0.35), end=(0.7, 0.65))


def mean(tracked: Sequence[t.TrackedObject]) -> tuple[float, float]:
    j, f = np.mean([(one.j, one.f) for one in tracked], axis=0)
    return float(j), float(f)


# One step.


def unit(numbers: np.random.Generator, *shape: int, axis: int) -> torch.Tensor:
    x = torch.from_numpy(numbers.normal(size=shape)).float()
    return nn.functional.normalize(x, dim=axis)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 11),
    st.integers(1, 11),
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(0, 12),
)
def test_a_step_equals_loops(seed: int, h: int, w: int, n: int, top: int, radius: int) -> None:
    numbers = np.random.default_rng(seed)
    frame, frames = unit(numbers, 6, h, w, axis=0), unit(numbers, n, 6, h, w, axis=1)
    labels = torch.from_numpy(numbers.dirichlet(np.ones(3), (n, h, w))).float().permute(0, 3, 1, 2)
    how: Any = {"top": top, "radius": radius, "temperature": 0.1}
    found = propagate(frame, frames, labels, **how)
    slow = oracle.propagate(frame.numpy(), frames.numpy(), labels.numpy(), **how)
    assert np.abs(found.numpy() - slow).max() < 1e-4


def test_a_step_by_hand() -> None:
    # A row of three positions. The middle one looks like the left (cosine 1), then like the right
    # (0.6): weights e^(1/0.5) and e^(0.6/0.5), that is 1 : e^-0.8.
    frame = torch.tensor([[[0.0, 1.0, 0.0]], [[1.0, 0.0, 1.0]]])
    frames = torch.tensor([[[[1.0, 0.0, 0.6]], [[0.0, -1.0, 0.8]]]])
    labels = torch.tensor([[[[1.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]]])
    share = 1 / (1 + np.exp(-0.8))
    for top, radius, expected in ((2, 1, share), (1, 1, 1.0), (9, 0, 1.0)):
        how: Any = {"top": top, "radius": radius, "temperature": 0.5}
        found = propagate(frame, frames, labels, **how)
        slow = oracle.propagate(frame.numpy(), frames.numpy(), labels.numpy(), **how)
        for one in (found.numpy(), slow):
            assert one[:, 0, 1] == pytest.approx([expected, 1 - expected], abs=1e-6)


def test_nothing_moves_beyond_the_radius() -> None:
    # Each position has a look of its own; all move by three to the right.
    frames = torch.eye(12)[None, :, None, :]
    moved = torch.roll(frames[0], 3, dims=2)
    labels = torch.zeros(1, 2, 1, 12)
    labels[0, 0], labels[0, 1, 0, 4], labels[0, 0, 0, 4] = 1, 1, 0
    near, far = (
        propagate(moved, frames, labels, top=1, radius=radius, temperature=0.1) for radius in (2, 3)
    )
    assert far[1, 0].argmax() == 7 and far[1, 0, 7] == 1
    assert near[1, 0, 7] == 0


# Which frames are looked at, and what is judged.


class Counting(nn.Module):
    """A stand-in whose map is the frame in gray, at an eighth of its size."""

    feature_info = ({"module": "gray", "reduction": 8},)

    def forward_intermediates(
        self, x: torch.Tensor, *, intermediates_only: bool
    ) -> list[torch.Tensor]:
        return [nn.functional.avg_pool2d(x, 8)]


def stand_in() -> EncoderRepresentation:
    return EncoderRepresentation("it", Encoder(EncoderConfig("stand-in"), Counting(), dim=3))


def test_labels_come_from_the_first_frame_and_the_last_ones(
    moving: tuple[Clip, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []

    def noted(map_Dhw: torch.Tensor, maps: torch.Tensor, labels: torch.Tensor, **how: Any) -> Any:
        looked.append((len(maps), how))
        assert (maps[0] == first).all() and labels[0].sum(dim=0).allclose(torch.ones(1))
        assert len(maps) == 1 or (maps[-1] == before[-1]).all()
        before.append(map_Dhw)
        return labels[0]

    first = t.unit_map(stand_in().encoder, "gray", moving[0].frame(0), (120, 160))
    before: list[torch.Tensor] = []
    monkeypatch.setattr(t, "propagate", noted)
    (one,) = tracking(stand_in(), moving, replace(SMALL, frames=2))
    assert [count for count, _ in looked] == [1, 2, 3, 3]  # the last of six is not judged
    assert looked[0][1] == {"top": 7, "radius": 6, "temperature": 0.1}
    assert (one.clip, one.value, one.frames) == ("dahlia", 1, 4)
    tracking(stand_in(), moving, replace(SMALL, frames=0))
    assert [count for count, _ in looked[4:]] == [1, 1, 1, 1]


def few_masks(clip: Clip, *kept: int) -> Clip:
    return replace(clip, masks={i: clip.masks[i] for i in kept})


def test_which_frames_are_judged(moving: tuple[Clip, ...]) -> None:
    (clip,) = moving
    assert t.judged_frames(clip) == (1, 2, 3, 4)
    assert t.judged_frames(few_masks(clip, 0, 2, 5)) == (2, 5)
    two = replace(few_masks(clip, 0, 1), frames=clip.frames[:2])
    assert t.judged_frames(two) == (1,)
    with pytest.raises(DataError, match="the clip dahlia has a mask for its first frame only"):
        tracking(stand_in(), [few_masks(clip, 0)])


def test_judging_by_hand(moving: tuple[Clip, ...]) -> None:
    (clip,) = moving
    right = t.object_scores(clip, [(i, clip.mask(i)) for i in (1, 2)])
    assert right == [t.TrackedObject("dahlia", 1, 1.0, 1.0, 2)]
    nothing = np.zeros(clip.size, np.int32)
    half = t.object_scores(clip, [(1, clip.mask(1)), (2, nothing)])
    assert half == [t.TrackedObject("dahlia", 1, 0.5, 0.5, 2)]


def test_void_is_not_judged(moving: tuple[Clip, ...]) -> None:
    mask = moving[0].mask(1)
    hidden = mask.copy()
    hidden[:, :60] = -1
    clip: Any = SimpleNamespace(name="it", objects=(1,), mask=lambda _: hidden)
    assert (mask[:, :60] == 1).any()
    assert t.object_scores(clip, [(1, mask)]) == [t.TrackedObject("it", 1, 1.0, 1.0, 1)]


def test_figures_are_means_over_resampled_objects() -> None:
    tracked = [t.TrackedObject("a", 1, 0.5, 0.7, 9), t.TrackedObject("a", 2, 0.1, 0.3, 9)]
    found = t.tracking_figures(tracked)
    counts = np.array([[1, 2, 0], [1, 0, 2]], np.float32)
    labels = np.zeros(2, np.int64)
    assert {name: figure(labels, counts).tolist() for name, figure in found.items()} == {
        "J&F": pytest.approx([0.4, 0.6, 0.2]),
        "J": pytest.approx([0.3, 0.5, 0.1]),
        "F": pytest.approx([0.5, 0.7, 0.3]),
    }


# Maps.


def test_the_stage_is_the_last_fine_one() -> None:
    resnet = {"act1": 2, "layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}
    transformer = {"blocks.0": 16, "blocks.1": 16}
    assert t.chosen_stage(resnet, None, name="it") == "layer2"
    assert t.chosen_stage(transformer, None, name="it") == "blocks.1"
    assert t.chosen_stage({"a": 2, "b": 4}, None, name="it") == "b"
    assert t.chosen_stage(resnet, "layer4", name="it") == "layer4"
    with pytest.raises(ConfigError, match="it has no stage 'layer9': did you mean 'layer4'"):
        t.chosen_stage({"conv1": 2, "layer4": 32}, "layer9", name="it")
    with pytest.raises(ConfigError, match="it has no stages"):
        t.chosen_stage({}, None, name="it")


def test_frames_are_scaled_by_their_shorter_side() -> None:
    assert t.scaled_size((480, 854), 480, 8) == (480, 856)
    assert t.scaled_size((1080, 1920), 480, 32) == (480, 864)
    assert t.scaled_size((640, 427), 240, 16) == (352, 240)
    assert t.scaled_size((300, 10), 8, 16) == (240, 16)


def test_maps_of_a_network(moving: tuple[Clip, ...]) -> None:
    subject = network("resnet8", options={"stem_stride": 2})
    subject.encoder.train()
    before = encoder_id(subject.encoder)
    frame = moving[0].frame(0)
    found = t.unit_map(subject.encoder, "layer3", frame, (120, 160))
    assert found.shape == (64, 15, 20)
    assert torch.allclose(found.square().sum(dim=0), torch.ones(15, 20), atol=1e-5)
    assert subject.encoder.training and encoder_id(subject.encoder) == before
    x = subject.encoder.eval().preprocess(frame[:, 20:140])  # a square of the size that it takes
    with torch.no_grad():
        whole = subject.encoder.stages(x)["layer3"][0]
    assert whole.shape[0] == 64


def test_colours_are_means_over_positions_as_fine_as_the_encoders(
    moving: tuple[Clip, ...],
) -> None:
    subject = network()
    frame = np.zeros((16, 24, 3), np.uint8)
    frame[:8, 8:16] = np.arange(64).reshape(8, 8, 1)
    plain = t.colours(subject.encoder)
    found = t.unit_map(plain.encoder, "layer2", frame, (16, 24))
    assert found.shape == (4, 2, 3)
    mean, std = map(np.array, plain.encoder.config.intensity.statistics(3))
    colour = np.append((31.5 / 255 - mean) / std, 1)
    assert found[:, 0, 1].numpy() == pytest.approx(colour / np.linalg.norm(colour), abs=1e-5)
    fine = replace(SMALL, stage="layer1")
    assert t.colours(subject.encoder, fine).encoder.strides == {"layer1": 4}
    assert len(tracking(t.colours(subject.encoder, fine), moving, fine)) == 1


def test_a_transformer_sees_frames_of_any_size(moving: tuple[Clip, ...]) -> None:
    subject = network("vit_tiny_patch16_224")
    before = encoder_id(subject.encoder)
    (one,) = tracking(subject, moving, replace(SMALL, side=96))
    assert 0 <= one.j <= 1
    assert encoder_id(subject.encoder) == before


def test_gray_and_colour_go_both_ways(moving: tuple[Clip, ...]) -> None:
    frame = moving[0].frame(0)
    gray = network("resnet8", in_channels=1).encoder
    luminance = t.unit_map(gray, "layer1", frame, (120, 160))
    assert luminance.shape == (16, 120, 160)
    colour = network("resnet8").encoder
    assert t.unit_map(colour, "layer1", frame[..., :1], (120, 160)).shape == (16, 120, 160)


def test_what_has_no_maps_is_refused(moving: tuple[Clip, ...]) -> None:
    vectors: Any = SimpleNamespace(name="vectors", encoder=None)
    with pytest.raises(ConfigError, match="vectors has no maps"):
        tracking(vectors, moving)


def test_a_network_of_one_size_is_named(moving: tuple[Clip, ...]) -> None:
    with pytest.raises(ConfigError, match=r"mixer_s32_224 cannot process an image of 128 x 160 px"):
        tracking(network("mixer_s32_224"), moving, replace(SMALL, side=128, stage=None))


def test_a_frame_of_another_range_is_named(moving: tuple[Clip, ...]) -> None:
    subject = network("resnet8", intensity=Intensity(300.0, 60000.0))
    with pytest.raises(DataError, match=r"00000.jpg: .*60000"):
        tracking(subject, moving, SMALL)


def test_a_map_that_is_not_finite_is_named(moving: tuple[Clip, ...]) -> None:
    subject = network("resnet8")
    for weight in subject.encoder.parameters():
        weight.data.fill_(torch.nan)
    with pytest.raises(DataError, match="it produces vectors that are not finite"):
        tracking(subject, moving, SMALL)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"top": 0}, "top is 0: use a number from 1 to 8,192"),
        ({"frames": -1}, "frames is -1"),
        ({"frames": 10**20}, "frames is 100"),
        ({"radius": -1}, "radius is -1"),
        ({"side": 0}, "side is 0"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
    ],
)
def test_settings_that_make_no_sense(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrackingSettings(**wrong)


# Labels between frames and maps.


def test_reduced_labels_are_shares_of_the_area() -> None:
    mask = np.zeros((4, 8), np.int32)
    mask[:2, :3], mask[3, 7] = 5, -1
    label = t.reduced_labels(mask, (5,), (2, 2))
    assert label[1].tolist() == [[6 / 8, 0], [0, 0]]
    assert label[0].tolist() == [[2 / 8, 1], [1, 7 / 8]]


def test_enlarged_labels_give_back_the_mask(moving: tuple[Clip, ...]) -> None:
    (clip,) = moving
    for i in range(len(clip.frames)):
        label = t.reduced_labels(clip.mask(i), clip.objects, (15, 20))
        found = t.upscaled_labels(label, clip.objects, clip.size)
        (one,) = t.object_scores(clip, [(i, found)])
        assert one.j > 0.9 and one.f > 0.75  # objects are some six positions wide
    whole = t.upscaled_labels(t.reduced_labels(clip.mask(0), (1,), clip.size), (1,), clip.size)
    assert (whole == clip.mask(0)).all()


# Clips of real things.


def test_a_clip_in_which_nothing_moves_is_followed(tmp_path: Path) -> None:
    temple, flower = photographs()
    still = replace(dahlia(flower), end=(0.3, 0.35), growth=1.0, turn=0.0)
    write_clip(tmp_path, "still", [still], temple[:120, :160], size=(120, 160), frames=4)
    clips = read_clips(tmp_path)
    assert mean(t.no_motion(clips)) == (1.0, 1.0)
    nearest = mean(tracking(network(), clips, replace(SMALL, top=1)))  # positions find themselves
    assert nearest[0] > 0.9 and nearest[1] > 0.8
    # The labels of seven neighbours are averaged: contours get blurred, a position wide.
    several = mean(tracking(network(), clips, SMALL))
    assert nearest[0] > several[0] > 0.7


def follows(clips: Sequence[Clip], settings: TrackingSettings) -> list[tuple[float, float]]:
    """J and F of the first mask kept, of colours and of an untrained network."""
    subject = network()
    plain = t.colours(subject.encoder, settings)
    return [
        mean(tracked)
        for tracked in (
            t.no_motion(clips),
            tracking(plain, clips, settings),
            tracking(subject, clips, settings),
        )
    ]


def test_features_follow_what_moves_and_the_first_mask_does_not(
    moving: tuple[Clip, ...],
) -> None:
    kept, plain, found = follows(moving, SMALL)
    for j, f in (plain, found):
        assert j > kept[0] + 0.2 and f > kept[1] + 0.2, (kept, plain, found)


@pytest.mark.data
def test_things_of_many_photographs_are_followed(tmp_path: Path) -> None:
    write_voc_clips(tmp_path, unpacked("coco256_voc", tmp_path), count=6, size=(120, 160))
    clips = read_clips(tmp_path)
    assert len(clips) == 6 and all(len(clip.frames) == 12 for clip in clips)
    kept, plain, found = follows(clips, replace(SMALL, stage="layer1", radius=12))
    for j, f in (plain, found):
        assert j > kept[0] + 0.2 and f > kept[1] + 0.2, (kept, plain, found)
