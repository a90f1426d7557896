"""The fused kernel against the other backend and torchvision; parts of a batch, threads."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from selftaught.errors import ConfigError
from selftaught.views import kernels, tensors
from selftaught.views.policy import (
    Blur,
    CenterCrop,
    Flip,
    Gray,
    Intensity,
    Jitter,
    Noise,
    Policy,
    RandomCrop,
    Rotate,
    simclr_cifar,
    simclr_gray,
    simclr_imagenet,
)
from selftaught.views.raw import Raw
from selftaught.views.sample import sample
from tests.oracles import views as oracle
from tests.support.photographs import extreme, photograph, random_images

OPERATION, CHAIN = 1e-5, 3e-5  # what may lie between the backends, and to torchvision
EVERYTHING = Policy(RandomCrop(), (Flip(), Jitter(), Gray(), Blur(), Noise()))
BICUBIC = replace(EVERYTHING, interpolation="bicubic")
POLICIES = [simclr_imagenet(), simclr_cifar(), EVERYTHING, BICUBIC, Policy(CenterCrop())]


def params_of(raw, policy, size, seed=0, first=0, **how):
    draws_N = first + np.arange(len(raw))
    how |= {"channels": raw.channels, "sizes_N2": raw.sizes_N2, "draws_N": draws_N}
    return sample(policy, size=size, seed=seed, **how)


def both(raw, params, policy, intensity):
    """The kernel's views, and how far they are from those of the other backend."""
    ours = kernels.apply_compiled(raw, params, policy, intensity)
    theirs = tensors.apply_policy(raw.tensors(), params, policy, intensity)
    return ours, furthest(ours, theirs)


def furthest(a, b):
    assert a.shape == b.shape and a.dtype == b.dtype == torch.float32
    return (a - b).abs().max().item()


def ranged(channels, **how):
    return Intensity(mean=(0.45,) * channels, std=(0.22,) * channels, **how)


# --- which policies


def test_fuses_what_is_in_its_order():
    assert all(map(kernels.fuses, [*POLICIES, simclr_gray(), Policy(RandomCrop())]))
    assert kernels.fuses(Policy(RandomCrop(), (Jitter(), Blur(), Flip())))  # mirrors commute
    assert not kernels.fuses(Policy(RandomCrop(), (Gray(), Jitter())))
    assert not kernels.fuses(Policy(RandomCrop(), (Flip(), Rotate(), Jitter())))


# --- the same as the other backend, and as torchvision


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("size", [1, 32, 47])
def test_is_the_other_backends(policy, size):
    raw = Raw.of(random_images(24, seed=size))
    params = params_of(raw, policy, size, seed=1)
    assert both(raw, params, policy, Intensity())[1] <= CHAIN


def test_is_torchvisions():
    images = random_images(24, seed=3)
    raw = Raw.of(images)
    policy = simclr_imagenet()
    params = params_of(raw, policy, 33, seed=2)
    ours = kernels.apply_compiled(raw, params, policy, Intensity())
    theirs = oracle.views([torch.from_numpy(x) for x in images], params, policy, Intensity())
    assert furthest(ours, theirs) <= CHAIN


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_number_of_channels(channels):
    rng = np.random.default_rng(channels)
    raw = Raw.of(rng.integers(0, 256, (12, 40, 27, channels), np.uint8))
    for size in (16, 36):  # smaller and larger than the boxes
        params = params_of(raw, simclr_gray(), size, seed=3)
        assert both(raw, params, simclr_gray(), ranged(channels))[1] <= CHAIN


def test_values_outside_the_intensitys_range_are_clipped_before_the_box_is_resized():
    raw = Raw.of([extreme(np.random.default_rng(k), 60, 60) for k in range(8)])
    policy, intensity = replace(simclr_cifar(), normalise=False), Intensity(low=30, high=100)
    for size in (20, 64):
        ours, distance = both(raw, params_of(raw, policy, size), policy, intensity)
        assert distance <= CHAIN and ours.min() >= 0 and ours.max() <= 1


def test_an_operation_of_no_strength_is_not_done():
    raw = Raw.of(random_images(8, seed=4))
    still = Policy(RandomCrop(), (Jitter(0, 0, 0, 0, p=1.0),))
    params = params_of(raw, Policy(RandomCrop(), (Jitter(p=1.0), Gray(1.0))), 24)
    plain = kernels.apply_compiled(raw, params, Policy(RandomCrop()), Intensity())
    assert torch.equal(kernels.apply_compiled(raw, params, still, Intensity()), plain)
    assert (
        both(raw, params, Policy(RandomCrop(), (Jitter(0, 0.8, 0, 0.2, p=1.0),)), Intensity())[1]
        <= CHAIN
    )


# --- where the views go


@pytest.mark.parametrize("policy", [EVERYTHING, simclr_cifar()])
def test_bfloat16_is_the_result_rounded_once(policy):
    raw = Raw.of(random_images(24, seed=5))
    params = params_of(raw, policy, 33)
    full = kernels.apply_compiled(raw, params, policy, Intensity())
    half = kernels.apply_compiled(raw, params, policy, Intensity(), dtype=torch.bfloat16)
    assert half.dtype is torch.bfloat16 and torch.equal(half, full.to(torch.bfloat16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fills_what_it_is_given(dtype):
    raw, policy = Raw.of(random_images(6, seed=6)), simclr_imagenet()
    params = params_of(raw, policy, 24)
    out = torch.full((8, 3, 24, 24), 7, dtype=dtype)
    made = kernels.apply_compiled(raw, params, policy, Intensity(), out=out[1:7])
    assert made.data_ptr() == out[1:7].data_ptr() and (out[[0, 7]] == 7).all()
    assert torch.equal(
        out[1:7], kernels.apply_compiled(raw, params, policy, Intensity(), dtype=dtype)
    )


def test_refuses_what_it_cannot_fill():
    raw, policy = Raw.of(random_images(4, seed=7)), simclr_cifar()
    params = params_of(raw, policy, 16)
    wrong = [
        torch.empty(4, 3, 16, 17),
        torch.empty(4, 16, 16, 3).permute(0, 3, 1, 2),
        torch.empty(4, 3, 16, 16, dtype=torch.float16),
    ]
    for out in wrong:
        with pytest.raises(ValueError, match="contiguous"):
            kernels.apply_compiled(raw, params, policy, Intensity(), out=out)


def test_no_images_are_no_views():
    raw = Raw.of(random_images(2, seed=8))[:0]
    policy = simclr_cifar()
    for dtype in (torch.float32, torch.bfloat16):
        made = kernels.apply_compiled(
            raw, params_of(raw, policy, 8), policy, Intensity(), dtype=dtype
        )
        assert made.shape == (0, 3, 8, 8)


@pytest.mark.parametrize("box", [(0, 0, 9, 8), (1, 0, 8, 8), (0, -1, 4, 4), (0, 0, 0, 4)])
def test_a_box_outside_its_image_is_refused(box):
    raw, policy = Raw.of(np.zeros((2, 8, 8, 3), np.uint8)), simclr_cifar()
    params = params_of(raw, policy, 8)
    params.box_N4[1] = box
    with pytest.raises(IndexError):
        kernels.apply_compiled(raw, params, policy, Intensity())


def test_one_box_an_image_and_one_axis_of_pixels_are_asked_for():
    raw, policy = Raw.of(np.zeros((3, 8, 8, 3), np.uint8)), simclr_cifar()
    params = params_of(raw, policy, 8)
    strided = replace(raw, flat=np.zeros(2 * len(raw.flat), np.uint8)[::2])
    flat = replace(raw, flat=raw.flat[None])
    for images, drawn in ((raw, params[:1]), (raw[:1], params), (strided, params), (flat, params)):
        with pytest.raises(IndexError):
            kernels.apply_compiled(images, drawn, policy, Intensity())


def test_a_policy_that_it_cannot_do_is_refused():
    raw = Raw.of(random_images(3, seed=0, size=(9, 9)))
    policy = Policy(RandomCrop(), (Blur(p=1.0), Gray(1.0)))  # the canonical order is the other
    with pytest.raises(ValueError, match="this order"):
        kernels.apply_compiled(raw, params_of(raw, policy, 20), policy, Intensity())
    one = Raw.of([image[:, :, :1] for image in random_images(3, seed=0, size=(9, 9))])
    gray = Policy(RandomCrop(), (Gray(1.0),))
    params, out = params_of(raw, gray, 8), torch.zeros(6, 1, 8, 8)
    with pytest.raises(ConfigError, match="3 channels"):  # it would write beyond a view's end
        kernels.apply_compiled(one, params, gray, Intensity(), out=out[:3])
    assert not out.any()


@pytest.mark.parametrize("std", [0.2, 0.02, 0.005])
@pytest.mark.parametrize("size", [64, 224])
def test_faint_images_differ_by_as_little_in_units_of_their_range(std, size):
    """A view is divided by std, and so is what the backends differ by."""
    raw = Raw.of(random_images(6, seed=1, size=(60, 70)))
    policy = Policy(RandomCrop(), (Flip(), Blur(p=1.0)))
    params = params_of(raw, policy, size)
    assert both(raw, params, policy, Intensity(mean=(0.5,), std=(std,)))[1] * std <= OPERATION


def test_an_image_outside_the_pixels_is_refused():
    raw, policy = Raw.of(np.zeros((2, 8, 8, 3), np.uint8)), simclr_cifar()
    short = replace(raw, flat=raw.flat[:-1])
    with pytest.raises(IndexError):
        kernels.apply_compiled(short, params_of(raw, policy, 8), policy, Intensity())


def test_an_intensity_for_other_channels_is_refused():
    raw = Raw.of(np.zeros((2, 8, 8, 5), np.uint8))
    params = params_of(raw, Policy(RandomCrop()), 8)
    with pytest.raises(ConfigError, match="3 means"):
        kernels.apply_compiled(raw, params, Policy(RandomCrop()), Intensity())


# --- parts of a batch, threads


def test_views_do_not_depend_on_their_batch():
    raw = Raw.of(random_images(30, seed=9))
    params = params_of(raw, EVERYTHING, 33)
    whole = kernels.apply_compiled(raw, params, EVERYTHING, Intensity())
    for part in (slice(0, 7), slice(7, 8), slice(8, 30), slice(0, 30, 3)):
        made = kernels.apply_compiled(raw[part], params[part], EVERYTHING, Intensity())
        assert torch.equal(made, whole[part])


def test_pixels_may_lie_anywhere_and_be_read_only():
    image_HWC = photograph(np.random.default_rng(1), 50, 70)
    turned = [image_HWC[::-1, 3::2], image_HWC.transpose(1, 0, 2), image_HWC[:40, :40]]
    raw = Raw.of(turned)
    raw.flat.flags.writeable = False
    params = params_of(raw, EVERYTHING, 24)
    made = kernels.apply_compiled(raw, params, EVERYTHING, Intensity())
    copies = Raw.of([image.copy() for image in turned])
    assert torch.equal(made, kernels.apply_compiled(copies, params, EVERYTHING, Intensity()))
    assert not raw.flat.flags.writeable and copies.flat.flags.writeable


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_fill_parts_of_one_batch(threads):
    raw = Raw.of(random_images(120, seed=10))
    params = params_of(raw, EVERYTHING, 64)
    whole = kernels.apply_compiled(raw, params, EVERYTHING, Intensity())
    out = torch.empty_like(whole)
    parts = [slice(k, k + 10) for k in range(0, 120, 10)]

    def work(mine):
        for part in mine:
            kernels.apply_compiled(raw[part], params[part], EVERYTHING, Intensity(), out=out[part])

    at_once = [threading.Thread(target=work, args=(parts[k::threads],)) for k in range(threads)]
    for thread in at_once:
        thread.start()
    for thread in at_once:
        thread.join()
    assert torch.equal(out, whole)


def test_other_threads_go_on_meanwhile():
    """With the lock held, another thread would run before and after a call, not in it."""
    raw = Raw.of(random_images(4, seed=11, size=(300, 400)) * 75)
    params = params_of(raw, EVERYTHING, 224)
    ticks, over = [], threading.Event()

    def tick():
        while not over.wait(0.001):
            ticks.append(time.perf_counter())

    other = threading.Thread(target=tick)
    other.start()
    began = time.perf_counter()
    kernels.apply_compiled(raw, params, EVERYTHING, Intensity())
    ended = time.perf_counter()
    over.set()
    other.join()
    third = (ended - began) / 3
    assert third > 0.02 and any(began + third < tick < ended - third for tick in ticks)


# --- noise


def field(first=0, count=40, size=32, **key):
    """Noise alone, in units of its sigma, on mid gray: none of it is clipped."""
    raw = Raw.of(np.full((count, size, size, 3), 51, np.uint8))
    policy = Policy(CenterCrop(), (Noise(sigma=(0.05, 0.05), p=1.0),), normalise=False)
    params = params_of(raw, policy, size, first=first, **key)
    return (kernels.apply_compiled(raw, params, policy, Intensity(high=102)).double() - 0.5) / 0.05


def test_noise_is_standard_normal():
    n = field()  # 122,880 numbers: the mean is known to 0.003, the variance to 0.004
    assert n.mean().abs() < 0.012 and (n.var() - 1).abs() < 0.016
    assert (n.pow(3).mean()).abs() < 0.04 and (n.pow(4).mean() - 3).abs() < 0.12
    shifted = n.flatten(1)
    for lag in (1, 2, 3, 4, 32, 1024):
        assert (shifted[:, lag:] * shifted[:, :-lag]).mean().abs() < 0.012


def test_noise_depends_on_seed_draw_and_view_alone():
    n = field()
    assert torch.equal(n[10:], field(first=10, count=30))
    for other in (field(first=1), field(first=1 << 32), field(seed=1), field(view=1)):
        assert (n * other).mean().abs() < 0.012


@pytest.mark.parametrize("size", [1, 3, 33])
def test_noise_of_views_that_are_no_multiple_of_four(size):
    raw = Raw.of(random_images(4, seed=12))
    policy = Policy(RandomCrop(), (Noise(p=1.0),), normalise=False)
    assert both(raw, params_of(raw, policy, size), policy, Intensity())[1] <= OPERATION


# --- many cases


ODD = ((1, 1), (1, 5000), (31, 257), (257, 31), (3, 2))


def batches(count, seed):
    """Lists of 20 images: half photographs (or parts of one), half extremes of 8-bit noise."""
    rng = np.random.default_rng(seed)
    for k in range(count // 20):
        size = [None, (40, 52), *ODD][k % 7]
        if size and size[1] > 640:
            wide = [np.concatenate([photograph(rng, 1, 500) for _ in range(10)], axis=1)] * 10
            yield wide + [extreme(rng, *size) for _ in range(10)]
        else:
            yield random_images(20, seed=seed + k, size=size)


@pytest.mark.slow
@pytest.mark.parametrize(
    "operation",
    [None, Flip(1.0), Jitter(p=1.0), Gray(1.0), Blur(p=1.0), Noise(p=1.0)]
    + [Jitter(*(strength if k == which else 0.0 for k in range(4)), p=1.0)
       for which, strength in enumerate((0.8, 0.8, 0.8, 0.5))],
)  # fmt: skip
def test_2000_cases_of_one_operation(operation):
    rng, limit = np.random.default_rng(20), CHAIN if operation == Jitter(p=1.0) else OPERATION
    operations = () if operation is None else (operation,)
    for k, images in enumerate(batches(2000, seed=100)):
        mode = "bicubic" if operation is None and k % 2 else "bilinear"
        policy = Policy(RandomCrop(), operations, normalise=False, interpolation=mode)
        raw, size = (
            Raw.of(images),
            int(rng.choice([1, 20, 32, 45, 64, 224], p=[0.1, 0.2, 0.3, 0.2, 0.15, 0.05])),
        )
        params = params_of(raw, policy, size, seed=k)
        assert both(raw, params, policy, Intensity())[1] <= limit, (k, size)


@pytest.mark.slow
@pytest.mark.parametrize("policy", [EVERYTHING, BICUBIC])
def test_2000_cases_of_the_chain(policy):
    rng = np.random.default_rng(21)
    always = replace(policy, operations=(Flip(), Jitter(p=1.0), Gray(), Blur(p=1.0), Noise(p=1.0)))
    for k, images in enumerate(batches(2000, seed=200)):
        raw, size = (
            Raw.of(images),
            int(rng.choice([1, 20, 32, 45, 224], p=[0.1, 0.2, 0.4, 0.2, 0.1])),
        )
        one = always if k % 3 == 0 else policy
        params = params_of(raw, one, size, seed=k, first=k << 30)
        assert both(raw, params, one, Intensity())[1] <= CHAIN, (k, size)


@pytest.mark.slow
def test_2000_cases_of_torchvisions_chain():
    policy = simclr_imagenet()
    for k, images in enumerate(batches(2000, seed=300)):
        raw, size = Raw.of(images), (20, 32, 45, 64)[k % 4]
        params = params_of(raw, policy, size, seed=k)
        ours = kernels.apply_compiled(raw, params, policy, Intensity())
        theirs = oracle.views([torch.from_numpy(x) for x in images], params, policy, Intensity())
        assert furthest(ours, theirs) <= CHAIN, (k, size)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_types_channels_and_ranges(dtype, channels):
    rng = np.random.default_rng(channels)
    low, high = {"uint8": (0, 255), "uint16": (0, 65535), "float32": (-3.5, 1200)}[dtype]
    spans = [(low, high), (low, high * 0.7), (high * 0.1, high * 0.6)]
    policy = replace(EVERYTHING if channels == 3 else simclr_gray(), interpolation="bilinear")
    for k, (height, width) in enumerate([(40, 52), (30, 30), *ODD]):
        images = rng.uniform(low, high, (8, height, width, channels)).astype(dtype)
        raw, intensity = Raw.of(images), ranged(channels, low=spans[k % 3][0], high=spans[k % 3][1])
        for size in (1, 24, 35, 64):
            params = params_of(raw, policy, size, seed=k)
            assert both(raw, params, policy, intensity)[1] <= CHAIN


@pytest.mark.slow
def test_pixels_that_are_not_finite_stay_in_their_own_view():
    rng = np.random.default_rng(30)
    images = [rng.random((side, side + 3, 3), np.float32) for side in (80, 20, 50, 9, 33, 21) * 4]
    bad = [image.copy() for image in images]
    for k in range(0, len(images), 2):
        bad[k][rng.random(bad[k].shape) < 0.5] = (np.nan, np.inf, -np.inf)[k % 3]
    for size in (16, 40):
        params = params_of(Raw.of(images), EVERYTHING, size)
        good, other = (
            kernels.apply_compiled(Raw.of(x), params, EVERYTHING, Intensity(high=1))
            for x in (images, bad)
        )
        assert torch.equal(other[1::2], good[1::2])
