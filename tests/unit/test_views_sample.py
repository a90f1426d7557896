"""Parameters of views: distributions against torchvision's samplers, and what they are keyed by."""

import dataclasses

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as v2
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from selftaught.views.policy import (
    Blur,
    CenterCrop,
    Flip,
    Gray,
    Jitter,
    Policy,
    RandomCrop,
    simclr_imagenet,
)
from selftaught.views.sample import ViewParams, sample

N = 4000
ALIKE = 0.01  # p of a test of equal distributions; the seeds are fixed


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


def p_alike(ours, theirs) -> float:
    return stats.ks_2samp(ours, theirs, method="asymp").pvalue


@pytest.mark.parametrize("sizes", [(32, 32), (375, 500), (50, 9), (1, 50), (3, 2), (1, 1)])
@pytest.mark.parametrize("crop", [RandomCrop(), RandomCrop((0.2, 1.0), (0.5, 2.0))])
def test_boxes_are_distributed_as_torchvisions(sizes, crop):
    theirs = torchvision(v2.RandomResizedCrop(8, crop.scale, crop.ratio), torch.empty(1, *sizes))
    ours_N4 = draw(Policy(crop), sizes).box_N4
    for column, name in enumerate(("top", "left", "height", "width")):
        p = p_alike(ours_N4[:, column], [t[name] for t in theirs])
        assert p > ALIKE, name
    areas = [t["height"] * t["width"] for t in theirs]
    assert p_alike(ours_N4[:, 2] * ours_N4[:, 3], areas) > ALIKE
    bottoms = [t["top"] + t["height"] for t in theirs]
    assert p_alike(ours_N4[:, 0] + ours_N4[:, 2], bottoms) > ALIKE


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


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 1.0])
def test_operations_happen_with_their_probability_and_apart(p):
    policy = Policy(RandomCrop(), (Flip(p), Jitter(p=p), Gray(p), Blur(p=p)))
    ours = draw(policy)
    happens = [ours.flip_N, ours.jitter_N, ours.gray_N, ours.sigma_N > 0]
    assert all(stats.binomtest(int(h.sum()), N, p).pvalue > ALIKE for h in happens)
    both = [int((a & b).sum()) for i, a in enumerate(happens) for b in happens[:i]]
    assert all(stats.binomtest(count, N, p * p).pvalue > ALIKE / 6 for count in both)


def test_what_does_not_happen_has_identity_values():
    ours = draw(simclr_imagenet())
    still = ~ours.jitter_N
    assert still.any()
    assert (ours.factors_N4[still] == [1, 1, 1, 0]).all()
    assert (ours.order_N4[still] == np.arange(4)).all()
    assert same(draw(Policy(RandomCrop())), draw(Policy(RandomCrop(), (Flip(0.0), Jitter(p=0.0)))))


def test_types_are_those_that_are_promised():
    ours = draw(simclr_imagenet(), n=3)
    kinds = {f.name: getattr(ours, f.name).dtype for f in dataclasses.fields(ours)[1:]}
    assert kinds == {
        "box_N4": np.int64,
        "flip_N": np.bool_,
        "jitter_N": np.bool_,
        "order_N4": np.int64,
        "factors_N4": np.float32,
        "gray_N": np.bool_,
        "sigma_N": np.float32,
    }


Sides = st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), min_size=1, max_size=40)


@given(Sides, st.integers(0, 2**40), st.integers(0, 2**31))
def test_a_batch_equals_its_parts_in_any_order(sides, first, seed):
    draws_N = first + np.random.default_rng(0).permutation(len(sides))
    how = {"size": 16, "seed": seed, "epoch": 2, "view": 1}
    whole = sample(simclr_imagenet(), sizes_N2=np.array(sides), draws_N=draws_N, **how)
    for k in reversed(range(len(sides))):
        part = slice(k, k + 1)
        alone = sample(
            simclr_imagenet(), sizes_N2=np.array(sides[part]), draws_N=draws_N[part], **how
        )
        assert same(whole[part], alone)
    assert len(whole) == len(sides)


@given(Sides, st.integers(0, 2**31), st.booleans())
def test_boxes_lie_inside_their_images(sides, seed, central):
    sizes_N2 = np.array(sides)
    policy = Policy(CenterCrop(0.875) if central else RandomCrop())
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
        return draw(Policy(RandomCrop(), (Jitter(p=1.0), Blur(p=1.0))), (400, 500), n=20, **how)

    one, other = at(number), at(number + 1)
    assert same(one, at(number))
    assert not (one.box_N4 == other.box_N4).all(axis=1).any()
    assert not (one.factors_N4 == other.factors_N4).all(axis=1).any()
    assert not (one.sigma_N == other.sigma_N).all()


def test_each_operation_draws_for_itself():
    whole = draw(simclr_imagenet())
    for kept in simclr_imagenet().operations:
        alone = draw(Policy(RandomCrop(), (kept,)))
        name = {Flip: "flip_N", Jitter: "factors_N4", Gray: "gray_N", Blur: "sigma_N"}[type(kept)]
        assert np.array_equal(getattr(alone, name), getattr(whole, name))
        assert np.array_equal(alone.box_N4, whole.box_N4)


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
