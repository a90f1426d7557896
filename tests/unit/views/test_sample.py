"""Parameters of views: distributions against torchvision's samplers where it has them, keys."""

import dataclasses

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as v2
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from selftaught.errors import ConfigError
from selftaught.foundation.rng import Key
from selftaught.views.policy import (
    BandDrop,
    Blur,
    CenterCrop,
    ChannelJitter,
    CornerCrop,
    Cutout,
    Flip,
    Gray,
    Jitter,
    Noise,
    Policy,
    RandomCrop,
    Rotate,
    Sobel,
    Solarise,
    check_channels,
    multi_crop,
    simclr_imagenet,
    ten_crop,
)
from selftaught.views.sample import ViewParams, sample

N = 4000
ALIKE = 0.01  # p of a test of equal distributions; the seeds are fixed
EVERY = (
    *(Flip(), Rotate(), Jitter(), ChannelJitter(), BandDrop(), Gray(), Solarise()),
    *(Blur(), Noise(), Sobel(), Cutout()),
)
FIELDS = {  # what each operation draws
    Flip: ["flip_N"],
    Rotate: ["quarters_N"],
    Jitter: ["jitter_N", "order_N4", "factors_N4"],
    ChannelJitter: ["gain_NC", "gamma_NC", "offset_NC"],
    BandDrop: ["keep_NC"],
    Gray: ["gray_N"],
    Solarise: ["solarise_N"],
    Blur: ["sigma_N"],
    Noise: ["noise_N"],
    Sobel: ["sobel_N"],
    Cutout: ["cutout_N4"],
}


def draw(policy: Policy, sizes=(32, 48), n: int = N, **how) -> ViewParams:
    how = {
        "size": 32,
        "seed": 3,
        "draws_N": np.arange(n),
        "sizes_N2": np.tile(sizes, (n, 1)),
        **how,
    }
    return sample(policy, **how)


def same(a: ViewParams, b: ViewParams) -> bool:
    return all(
        np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a)
    )


def torchvision(transform: v2.Transform, image: torch.Tensor, n: int = N) -> list[dict]:
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return [transform.make_params([image]) for _ in range(n)]


BOX = ("top", "left", "height", "width")


def always(operation):
    return dataclasses.replace(operation, p=1.0)


def changed(ours: ViewParams, operation) -> np.ndarray:
    """Which of the N images an operation happens to: a parameter is not the identity's."""
    nothing = draw(Policy(RandomCrop()), n=len(ours), channels=ours.keep_NC.shape[1])
    differ = (getattr(ours, name) != getattr(nothing, name) for name in FIELDS[type(operation)])
    return np.any([d.reshape(len(ours), -1).any(axis=1) for d in differ], axis=0)


def p_alike(ours, theirs) -> float:
    return stats.ks_2samp(ours, theirs, method="asymp").pvalue


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(32, 32), (375, 500), (50, 9), (1, 50), (3, 2), (1, 1)])
@pytest.mark.parametrize("crop", [RandomCrop(), RandomCrop((0.2, 1.0), (0.5, 2.0))])
def test_boxes_are_distributed_as_torchvisions(sizes, crop):
    theirs = torchvision(v2.RandomResizedCrop(8, crop.scale, crop.ratio), torch.empty(1, *sizes))
    ours_N4, theirs_N4 = (
        draw(Policy(crop), sizes).box_N4,
        np.array([[t[n] for n in BOX] for t in theirs]),
    )
    for part in (slice(2, 3), slice(3, 4)):
        assert p_alike(ours_N4[:, part].ravel(), theirs_N4[:, part].ravel()) > ALIKE
    assert p_alike(ours_N4[:, 2:].prod(axis=1), theirs_N4[:, 2:].prod(axis=1)) > ALIKE
    # Where no attempt fits they take the largest box in the middle, we take it anywhere.
    largest = draw(Policy(RandomCrop((2.0, 2.0), crop.ratio)), sizes, n=1).box_N4[0, 2:]
    ours_N4, theirs_N4 = (b[(b[:, 2:] != largest).any(axis=1)] for b in (ours_N4, theirs_N4))
    for a, b in ((ours_N4[:, 0], theirs_N4[:, 0]), (ours_N4[:, 1], theirs_N4[:, 1])):
        assert not len(a) or p_alike(a, b) > ALIKE
    bottoms = (ours_N4[:, 0] + ours_N4[:, 2], theirs_N4[:, 0] + theirs_N4[:, 2])
    assert not len(ours_N4) or p_alike(*bottoms) > ALIKE


def test_where_no_box_fits_the_largest_is_taken_anywhere():
    """An area of half of a 100 x 300 image is no square: the views must differ all the same."""
    square = RandomCrop((0.5, 0.5), (1.0, 1.0))
    box_N4 = draw(Policy(square), (100, 300)).box_N4
    assert (box_N4[:, 2:] == 100).all() and (box_N4[:, 0] == 0).all()
    left_N = box_N4[:, 1]
    assert (left_N.min(), left_N.max()) == (0, 200)
    assert stats.kstest(left_N / 200, "uniform").pvalue > ALIKE / 10
    assert (draw(Policy(square), (300, 100)).box_N4[:, 0] == left_N).mean() < 0.1
    assert np.array_equal(draw(Policy(square), (100, 300), n=9).box_N4, box_N4[:9])


@pytest.mark.parametrize("ratio", [(100.0, 100.0), (0.001, 0.001), (2.0, 3.0)])
@pytest.mark.parametrize("size", [(1, 1), (40, 1), (1, 40), (32, 32)])
def test_a_box_of_an_extreme_ratio_is_a_pixel_high_and_wide_at_least(size, ratio):
    box_N4 = draw(Policy(RandomCrop((0.08, 1.0), ratio)), size, n=50).box_N4
    assert (box_N4[:, :2] >= 0).all() and (box_N4[:, 2:] >= 1).all()
    assert (box_N4[:, :2] + box_N4[:, 2:] <= size).all()


def test_jitter_is_distributed_as_torchvisions():
    theirs = torchvision(v2.ColorJitter(0.8, 0.8, 0.8, 0.2), torch.empty(3, 2, 2))
    ours = draw(Policy(RandomCrop(), (Jitter(p=1.0),)))
    for column, name in enumerate(("brightness", "contrast", "saturation", "hue")):
        values = [t[f"{name}_factor"] for t in theirs]
        assert p_alike(ours.factors_N4[:, column], values) > ALIKE, name
    code = np.array([4**3, 4**2, 4, 1])
    both = [ours.order_N4 @ code, np.array([t["fn_idx"].numpy() for t in theirs]) @ code]
    counts = [np.unique(codes, return_counts=True)[1] for codes in both]
    assert len(counts[0]) == len(counts[1]) == 24
    assert stats.chi2_contingency(counts).pvalue > ALIKE
    assert stats.chisquare(counts[0]).pvalue > ALIKE


def test_strength_above_one_never_gives_a_negative_factor():
    ours = draw(Policy(RandomCrop(), (Jitter(brightness=1.5, p=1.0),)))
    assert ours.factors_N4[:, 0].min() >= 0 and ours.factors_N4[:, 0].max() > 2.4


def test_blur_is_distributed_as_torchvisions():
    theirs = torchvision(v2.GaussianBlur(23, (0.1, 2.0)), torch.empty(3, 2, 2))
    sigma_N = draw(Policy(RandomCrop(), (Blur(p=1.0),))).sigma_N
    assert p_alike(sigma_N, [t["sigma"][0] for t in theirs]) > ALIKE


def test_turns_are_all_as_likely():
    quarters_N = draw(Policy(RandomCrop(), (Rotate(p=0.75),))).quarters_N
    counts = np.bincount(quarters_N)
    assert len(counts) == 4 and stats.chisquare(counts).pvalue > ALIKE


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 40])
def test_channels_are_jittered_uniformly_and_apart(channels):
    jitter = ChannelJitter(gain=(0.5, 2.0), offset=(-0.3, 0.1), gamma=(0.7, 1.1), p=1.0)
    ours = draw(Policy(RandomCrop(), (jitter,)), n=500, channels=channels)
    drawn = {"gain_NC": jitter.gain, "offset_NC": jitter.offset, "gamma_NC": jitter.gamma}
    for name, (low, high) in drawn.items():
        values_NC = getattr(ours, name)
        assert values_NC.shape == (500, channels)
        uniform = stats.uniform(low, high - low)
        assert stats.kstest(values_NC.flatten(), uniform.cdf).pvalue > ALIKE, name
    columns = np.concatenate([getattr(ours, name) for name in drawn], axis=1)
    apart = np.corrcoef(columns, rowvar=False) - np.eye(3 * channels)
    assert np.abs(apart).max() < 5 / np.sqrt(500)


@pytest.mark.parametrize("channels", [2, 3, 7])
def test_bands_are_dropped_by_their_share_but_never_all(channels):
    ours = draw(Policy(RandomCrop(), (BandDrop(share=0.3, p=1.0),)), channels=channels)
    assert ours.keep_NC.shape == (N, channels) and ours.keep_NC.any(axis=1).all()
    share = 0.3 - 0.3**channels / channels  # one of those that would all be dropped is kept
    dropped = int((~ours.keep_NC).sum())
    assert stats.binomtest(dropped, N * channels, share).pvalue > ALIKE
    assert stats.chisquare((~ours.keep_NC).sum(axis=0)).pvalue > ALIKE
    whole = draw(Policy(RandomCrop(), (BandDrop(share=1.0, p=1.0),)), channels=channels)
    assert (whole.keep_NC.sum(axis=1) == 1).all()


def test_sigmas_of_noise_are_uniform_in_their_range():
    noise_N = draw(Policy(RandomCrop(), (Noise(sigma=(0.02, 0.1), p=1.0),))).noise_N
    assert stats.kstest(noise_N, stats.uniform(0.02, 0.08).cdf).pvalue > ALIKE


def test_cutouts_are_squares_around_a_pixel_of_the_view_without_what_sticks_out():
    size = 40
    ours = draw(Policy(RandomCrop(), (Cutout(side=(0.2, 0.5), p=1.0),)), size=size).cutout_N4
    first_N2, side_N2 = ours[:, :2], ours[:, 2:]
    assert (first_N2 >= 0).all() and (side_N2 >= 1).all() and (first_N2 + side_N2 <= size).all()
    inside_N = ((first_N2 > 0) & (first_N2 + side_N2 < size)).all(axis=1)
    assert 0.3 < inside_N.mean() < 0.8
    assert (side_N2[inside_N, 0] == side_N2[inside_N, 1]).all()
    assert side_N2.max() == size // 2 and side_N2[inside_N].min() == size // 5
    covered = np.zeros((size, size))  # as often at either end, more often in the middle
    for top, left, height, width in ours:
        covered[top : top + height, left : left + width] += 1 / N
    assert np.abs(covered - covered.T).max() < 0.05
    assert np.abs(covered - covered[::-1, ::-1]).max() < 0.05
    assert covered[20, 20] == pytest.approx(0.35**2 + 0.3**2 / 12, abs=0.03)  # E[side^2]


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 1.0])
def test_operations_happen_with_their_probability_and_apart(p):
    every = tuple(dataclasses.replace(one, p=p) for one in EVERY)
    ours = draw(Policy(RandomCrop(), every))
    happens = [changed(ours, one) for one in every if not isinstance(one, BandDrop)]
    assert len(happens) == 10
    assert all(stats.binomtest(int(h.sum()), N, p).pvalue > ALIKE / 10 for h in happens)
    both = [int((a & b).sum()) for i, a in enumerate(happens) for b in happens[:i]]
    assert all(stats.binomtest(count, N, p * p).pvalue > ALIKE / 45 for count in both)


def test_bands_are_dropped_with_their_probability():
    happens_N = changed(draw(Policy(RandomCrop(), (BandDrop(share=1.0, p=0.3),))), BandDrop())
    assert stats.binomtest(int(happens_N.sum()), N, 0.3).pvalue > ALIKE


def test_what_does_not_happen_has_identity_values():
    ours = draw(simclr_imagenet())
    still = ~ours.jitter_N
    assert still.any()
    assert (ours.factors_N4[still] == [1, 1, 1, 0]).all()
    assert (ours.order_N4[still] == np.arange(4)).all()
    never = tuple(dataclasses.replace(one, p=0.0) for one in EVERY)
    nothing = draw(Policy(RandomCrop(), never), n=2)
    assert same(nothing, draw(Policy(RandomCrop()), n=2))
    zeros, flags = ["quarters_N", "sigma_N", "noise_N", "cutout_N4", "offset_NC"], ["flip_N"]
    flags += ["jitter_N", "gray_N", "solarise_N", "sobel_N"]
    assert not any(getattr(nothing, name).any() for name in zeros + flags)
    assert all((getattr(nothing, name) == 1).all() for name in ("gain_NC", "gamma_NC", "keep_NC"))


@pytest.mark.parametrize("operations", [(), EVERY])
def test_types_are_those_that_are_promised(operations):
    ours = draw(Policy(RandomCrop(), operations), n=3, epoch=4, view=1, channels=3)
    assert ours.size == 32 and ours.noise_key == Key(3, "views/noise/field", 4, 1).words()
    arrays = {f.name: getattr(ours, f.name) for f in dataclasses.fields(ours)[1:]}
    del arrays["noise_key"]
    kinds = {np.bool_: ["flip_N", "jitter_N", "gray_N", "solarise_N", "sobel_N", "keep_NC"]}
    kinds[np.int64] = ["draws_N", "box_N4", "quarters_N", "order_N4", "cutout_N4"]
    kinds[np.float32] = ["factors_N4", "gain_NC", "gamma_NC", "offset_NC", "sigma_N", "noise_N"]
    assert {name: kind for kind, names in kinds.items() for name in names} == {
        name: array.dtype for name, array in arrays.items()
    }
    for name, array in arrays.items():
        letters = name.rpartition("_")[2][1:].replace("C", "3")
        assert array.shape == (3, *map(int, letters)), name


Sides = st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), min_size=1, max_size=40)


@pytest.mark.slow
@given(Sides, st.integers(0, 2**40), st.integers(0, 2**31))
def test_a_batch_equals_its_parts_in_any_order(sides, first, seed):
    draws_N = first + np.random.default_rng(0).permutation(len(sides))
    how = {"size": 16, "seed": seed, "epoch": 2, "view": 1}
    policy = Policy(RandomCrop(), EVERY)
    whole = sample(policy, sizes_N2=np.array(sides), draws_N=draws_N, **how)
    for k in reversed(range(len(sides))):
        part = slice(k, k + 1)
        alone = sample(policy, sizes_N2=np.array(sides[part]), draws_N=draws_N[part], **how)
        assert same(whole[part], alone)
    assert len(whole) == len(sides)


BOXES = (RandomCrop(), CenterCrop(0.875), CornerCrop(0.5, bottom=True), CornerCrop(right=True))


@given(Sides, st.integers(0, 2**31), st.sampled_from(BOXES))
def test_boxes_lie_inside_their_images(sides, seed, box):
    sizes_N2 = np.array(sides)
    policy = Policy(box)
    how = {"size": 8, "draws_N": np.arange(len(sides)), "seed": seed}
    box_N4 = sample(policy, sizes_N2=sizes_N2, **how).box_N4
    assert (box_N4[:, :2] >= 0).all() and (box_N4[:, 2:] >= 1).all()
    assert (box_N4[:, :2] + box_N4[:, 2:] <= sizes_N2).all()
    inside_N4 = sample(policy, sizes_N2=sizes_N2 + 99, boxes_N4=box_N4, **how).box_N4
    assert (inside_N4[:, :2] >= box_N4[:, :2]).all()
    ends = (inside_N4[:, :2] + inside_N4[:, 2:], box_N4[:, :2] + box_N4[:, 2:])
    assert (ends[0] <= ends[1]).all()


@given(st.integers(0, 2**20), st.sampled_from(["seed", "epoch", "view", "draws_N"]))
def test_another_seed_epoch_view_or_draw_gives_other_numbers(number, what):
    def at(value):
        how = {"seed": 5, "epoch": 6, "view": 7, "draws_N": 8, what: value}
        how["draws_N"] = np.arange(20) + 100 * how["draws_N"]
        every = tuple(map(always, EVERY))
        return draw(Policy(RandomCrop(), every), (400, 500), n=20, **how)

    one, other = at(number), at(number + 1)
    assert same(one, at(number))
    assert (one.noise_key == other.noise_key) == (what == "draws_N")
    for name in ("box_N4", "factors_N4", "gain_NC", "gamma_NC", "offset_NC"):
        assert not (getattr(one, name) == getattr(other, name)).all(axis=1).any(), name
    for name in ("sigma_N", "noise_N", "quarters_N", "cutout_N4"):
        assert not (getattr(one, name) == getattr(other, name)).all(), name


def test_each_operation_draws_for_itself():
    whole = draw(Policy(RandomCrop(), EVERY))
    for kept in EVERY:
        alone = draw(Policy(CenterCrop(), (kept,)))
        for name in FIELDS[type(kept)]:
            assert np.array_equal(getattr(alone, name), getattr(whole, name)), name
    assert np.array_equal(draw(Policy(RandomCrop())).box_N4, whole.box_N4)
    backwards = draw(Policy(RandomCrop(), EVERY[::-1]))
    assert same(backwards, whole)


def test_central_boxes():
    sizes_N2 = np.array([[100, 140], [32, 32], [1, 1], [1, 50], [7, 5]])
    how = {"size": 8, "sizes_N2": sizes_N2, "draws_N": np.arange(5), "seed": 0}
    assert sample(Policy(CenterCrop(0.875)), **how).box_N4.tolist() == [
        [6, 26, 88, 88],
        [2, 2, 28, 28],
        [0, 0, 1, 1],
        [0, 24, 1, 1],
        [2, 0, 4, 4],
    ]
    assert (
        sample(Policy(CenterCrop()), **how).box_N4[:2] == [[0, 20, 100, 100], [0, 0, 32, 32]]
    ).all()


def test_corner_boxes_inside_a_given_box():
    how = {"size": 8, "sizes_N2": np.array([[100, 140]]), "draws_N": np.arange(1), "seed": 0}
    given_N4 = np.array([[10, 20, 40, 60]])
    corners = [
        CornerCrop(0.5, bottom, right) for bottom in (False, True) for right in (False, True)
    ]
    boxes = [sample(Policy(c), boxes_N4=given_N4, **how).box_N4[0].tolist() for c in corners]
    assert boxes == [[10, 20, 20, 20], [10, 60, 20, 20], [30, 20, 20, 20], [30, 60, 20, 20]]
    assert given_N4.tolist() == [[10, 20, 40, 60]]


def test_ten_crop_is_the_corners_and_the_centre_and_these_mirrored():
    how = {"sizes_N2": np.array([[256, 300]]), "draws_N": np.arange(1), "seed": 0}
    specs = ten_crop(224)
    views = [sample(spec.policy, size=spec.size, **how) for spec in specs]
    assert [spec.count for spec in specs] == [1] * 10 and {view.size for view in views} == {224}
    corners = [[0, 0], [0, 76], [32, 0], [32, 76], [16, 38]]
    assert [view.box_N4[0].tolist() for view in views] == 2 * [[*c, 224, 224] for c in corners]
    assert [bool(view.flip_N[0]) for view in views] == [False] * 5 + [True] * 5


def test_multi_crop_is_large_views_of_much_and_small_views_of_little():
    policy = Policy(CenterCrop(), (Flip(), Gray()), normalise=False, interpolation="bicubic")
    large, small = multi_crop(policy, sizes=(64, 24), counts=(2, 4))
    assert [(spec.size, spec.count) for spec in (large, small)] == [(64, 2), (24, 4)]
    for spec, (low, high) in ((large, (0.14, 1.0)), (small, (0.05, 0.14))):
        assert dataclasses.replace(spec.policy, box=CenterCrop()) == policy
        box_N4 = draw(spec.policy, (400, 400), size=spec.size).box_N4
        share_N = box_N4[:, 2:].prod(axis=1) / 400**2
        assert low - 0.005 < share_N.min() < low + 0.02
        assert high - 0.02 < share_N.max() < high + 0.005


# --- what is refused


@pytest.mark.parametrize("operation", EVERY, ids=lambda one: type(one).__name__)
def test_an_operation_stands_in_a_policy_once(operation):
    with pytest.raises(ConfigError, match=f"lists {type(operation).__name__} twice"):
        Policy(RandomCrop(), (operation, Flip(0.1), Gray(0.1), always(operation)))


def test_colour_drop_needs_three_channels_and_band_drop_two():
    for operations, fitting in (((Gray(),), {3}), ((Flip(), BandDrop()), {2, 3, 4})):
        policy = Policy(RandomCrop(), operations)
        for channels in (1, 2, 3, 4):
            if channels in fitting:
                check_channels(policy, channels)
                assert draw(policy, n=2, channels=channels).keep_NC.shape == (2, channels)
                continue
            with pytest.raises(ConfigError, match=r"channels.*switch it off"):
                draw(policy, n=2, channels=channels)
    others = tuple(one for one in EVERY if not isinstance(one, Gray | BandDrop))
    check_channels(Policy(RandomCrop(), others), 1)
