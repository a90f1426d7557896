"""Single operations against torchvision's float functionals, SciPy, or the slow and obvious."""

import math

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from selftaught.foundation.rng import Key, words
from selftaught.views import operations
from tests.oracles import views as oracle
from tests.support.photographs import random_images

OPERATION = 1e-5  # what may lie between ours and theirs
COUNT = 500
RNG = np.random.default_rng(2)
FACTORS = torch.from_numpy(RNG.uniform(0, 2, COUNT).astype(np.float32))
TURNS = torch.from_numpy(RNG.uniform(-0.5, 0.5, COUNT).astype(np.float32))
COLOUR = ("brightness", "contrast", "saturation", "hue")
Seeds = st.integers(0, 2**31)


def units(images):
    """(1, C, H, W) float32 in [0, 1] of each."""
    return [torch.from_numpy(image).permute(2, 0, 1)[None] / 255 for image in images]


IMAGES = units(random_images(COUNT, seed=1))


def pixels(rng, n=3, channels=None, side=12):
    """A batch of random size, with ends of the range in it."""
    channels = channels or int(rng.integers(1, 6))
    height, width = rng.integers(1, side + 1, 2)
    x = rng.uniform(-0.3, 1.3, (n, channels, height, width)).clip(0, 1)
    return torch.from_numpy(x.astype(np.float32))


def uniforms(rng, shape, low, high):
    return torch.from_numpy(rng.uniform(low, high, shape).astype(np.float32))


def furthest(a, b):
    assert a.shape == b.shape and a.dtype == b.dtype == torch.float32
    return (a - b).abs().max().item()


# --- colour


@pytest.mark.parametrize("name", COLOUR)
def test_colour_operations_are_torchvisions(name):
    ours, theirs = getattr(operations, name), getattr(tv, f"adjust_{name}")
    values = TURNS if name == "hue" else FACTORS
    for k, x in enumerate(IMAGES):
        assert furthest(ours(x, values[k : k + 1]), theirs(x, values[k].item())) <= OPERATION


def test_grayscale_and_solarise_are_torchvisions():
    for x, threshold in zip(IMAGES, (FACTORS / 2).tolist(), strict=True):
        assert furthest(operations.grayscale(x), tv.rgb_to_grayscale(x, 3)) <= OPERATION
        for t in (threshold, x.flatten()[0].item()):  # also a value that occurs
            assert torch.equal(operations.solarise(x, t), tv.solarize(x, t))


def test_operations_take_a_parameter_an_image():
    x = torch.cat(units(random_images(8, seed=3, size=(9, 12))))
    for name in COLOUR:
        ours = getattr(operations, name)
        apart = [ours(x[k : k + 1], FACTORS[k : k + 1]) for k in range(8)]
        assert furthest(ours(x, FACTORS[:8]), torch.cat(apart)) <= 1e-6


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_contrast_of_other_channels_turns_about_the_mean_of_all(channels):
    x = torch.rand(3, channels, 7, 9, generator=torch.Generator().manual_seed(channels))
    factor = torch.tensor([0.3, 1.0, 1.7])
    for k in range(3):
        slow = oracle.jitter(x[k], [1], [1.0, factor[k].item()])
        assert furthest(operations.contrast(x, factor)[k], slow) <= 1e-6


# --- channels


@given(Seeds)
def test_channel_jitter_is_each_channels_gamma_gain_and_offset(seed):
    rng = np.random.default_rng(seed)
    x = pixels(rng)
    shape = x.shape[:2]
    gain, gamma = uniforms(rng, shape, 0.1, 3), uniforms(rng, shape, 0.3, 3)
    offset = uniforms(rng, shape, -0.5, 0.5)
    ours = operations.channel_jitter(x, gain, gamma, offset)
    for k, numbers in enumerate(zip(gain, gamma, offset, strict=True)):
        slow = oracle.channel_jitter(x[k], *(n.tolist() for n in numbers))
        assert furthest(ours[k], slow) <= OPERATION
    one, none = torch.ones(shape), torch.zeros(shape)
    assert torch.equal(operations.channel_jitter(x, one, one, none), x)
    below = torch.full_like(x, -1e-7)  # by rounding: solarised 1 + 1e-7
    assert (operations.channel_jitter(below, one, gamma, none) == 0).all()


@given(Seeds)
def test_band_drop_keeps_some_channels_and_blackens_the_others(seed):
    rng = np.random.default_rng(seed)
    x = pixels(rng)
    keep = torch.from_numpy(rng.random(x.shape[:2]) < 0.5)
    ours = operations.band_drop(x, keep)
    for k, c in np.ndindex(*keep.shape):
        assert torch.equal(ours[k, c], x[k, c] if keep[k, c] else torch.zeros_like(x[k, c]))


# --- neighbourhoods


def test_blur_is_torchvisions():
    for k, x in enumerate(IMAGES):
        width = 2 * int(RNG.integers(min(12, *x.shape[2:]))) + 1
        sigma = 0.1 + FACTORS[k : k + 1]
        theirs = tv.gaussian_blur(x, [width, width], [sigma.item()] * 2)
        assert furthest(operations.blur(x, sigma, width), theirs) <= OPERATION


@given(st.floats(0.01, 4.0), st.integers(0, 15))
def test_taps_that_a_blur_leaves_out_weigh_nothing(sigma, reach):
    width = operations.needed_width(sigma, 2 * reach + 1)
    assert width % 2 == 1 and 1 <= width <= 2 * reach + 1
    left_out = np.arange(width // 2 + 1, reach + 1)
    assert (np.exp(-0.5 * (left_out / sigma) ** 2) <= 1e-7).all()
    assert width == 1 or math.exp(-0.5 * (width // 2 / sigma) ** 2) >= 0.99e-7


@given(Seeds)
def test_a_blur_without_these_taps_is_the_same(seed):
    rng = np.random.default_rng(seed)
    sigma = uniforms(rng, 1, 0.1, 2.0)
    x = torch.from_numpy(rng.integers(0, 2, (1, 2, 30, 26)).astype(np.float32))
    needed = operations.needed_width(sigma.item(), 23)
    whole = operations.blur(x, sigma, 23)
    assert furthest(operations.blur(x, sigma, needed), whole) <= 1e-6


@given(Seeds)
def test_sobel_is_scipys_gradient(seed):
    x = pixels(np.random.default_rng(seed))
    ours = operations.sobel(x)
    assert furthest(ours, torch.stack([oracle.sobel(one) for one in x])) <= OPERATION


def test_sobel_of_an_edge_by_hand():
    step = torch.tensor([0.0, 0, 1, 1]).expand(1, 1, 3, 4)
    assert operations.sobel(step)[0, 0].tolist() == [[0, 1, 1, 0]] * 3
    slope = torch.tensor([0.0, 0.25, 0.5, 0.75]).expand(1, 1, 3, 4)
    assert operations.sobel(slope)[0, 0].tolist() == [[0.25, 0.5, 0.5, 0.25]] * 3
    a, b, c = math.sqrt(8), math.sqrt(10), math.sqrt(2)
    diagonal = torch.tensor([[a, b, c], [b, 0, b], [c, b, a]]) / 4
    assert furthest(operations.sobel(torch.eye(3)[None, None])[0, 0], diagonal) <= 1e-6


@given(Seeds)
def test_cutout_is_torchvisions_erase(seed):
    rng = np.random.default_rng(seed)
    x = pixels(rng)
    sides = np.array(x.shape[2:])
    corner = rng.integers(0, sides, (3, 2))
    box = np.concatenate([corner, rng.integers(0, sides - corner + 1)], axis=1)
    fill = torch.from_numpy(rng.random((x.shape[1], 1, 1)).astype(np.float32))
    ours = operations.cutout(x, torch.from_numpy(box), fill)
    for k in range(3):
        assert torch.equal(ours[k], tv.erase(x[k], *box[k].tolist(), fill))


# --- noise


def noise_of(shape, draws, key, sigma=1e-3):
    """The field itself, seen on images of 0.5 by a sigma that clips nothing."""
    x = torch.full((len(draws), *shape), 0.5)
    sigmas = torch.full((len(draws),), sigma)
    noisy = operations.noise(x, sigmas, torch.tensor(draws), key)
    return (noisy.double() - 0.5) / sigma


Words32 = st.integers(0, 2**32 - 1)


@given(st.lists(st.integers(0, 2**48), min_size=1, max_size=4), Words32, Words32)
def test_noise_is_that_of_philox_in_pythons_integers(draws, low, high):
    rng = np.random.default_rng(low)
    x = pixels(rng, n=len(draws), side=6)
    sigma = uniforms(rng, len(draws), 0, 0.3)
    ours = operations.noise(x, sigma, torch.tensor(draws), (low, high))
    for k, draw in enumerate(draws):
        slow = oracle.noise(x[k], sigma[k].item(), draw, (low, high))
        assert furthest(ours[k], slow) <= OPERATION


@given(st.integers(0, 2**62), st.integers(0, 2**31))
def test_noise_has_the_words_of_the_packages_generator(draw, seed):
    key = Key(seed, "views/noise/field", 3, 1)
    field = noise_of((1, 2, 5), [draw], key.words())
    drawn = words(key, np.array([draw]), 12)[0]
    expected = [n for four in drawn.reshape(3, 4).tolist() for n in oracle.normals(four)]
    assert np.allclose(field.flatten(), expected[:10], atol=1e-3)


def test_noise_is_normal_and_unrelated_from_draw_to_draw_and_key_to_key():
    draws, key = [7, 8, 7 + (1 << 32)], Key(1, "noise").words()
    fields = noise_of((3, 64, 64), draws, key).flatten(1).numpy()
    others = noise_of((3, 64, 64), draws, Key(2, "noise").words()).flatten(1).numpy()
    every = np.concatenate([fields, others])
    assert all(stats.kstest(field, "norm").pvalue > 0.01 for field in every)
    off_diagonal = np.corrcoef(every) - np.eye(len(every))
    assert np.abs(off_diagonal).max() < 4 / math.sqrt(fields.shape[1])
    neighbours = [np.corrcoef(f[:-lag], f[lag:])[0, 1] for f in every for lag in (1, 2, 3, 4, 64)]
    assert np.abs(neighbours).max() < 4 / math.sqrt(fields.shape[1])


def test_noise_does_not_depend_on_the_batch_and_is_clipped():
    draws, key = [5, 2, 9, 2], (1, 2)
    together = noise_of((3, 5, 7), draws, key)
    assert torch.equal(together[1], together[3])
    for k, draw in enumerate(draws):
        assert torch.equal(noise_of((3, 5, 7), [draw], key)[0], together[k])
    ends = torch.tensor([0.0, 1.0]).expand(1, 1, 400, 2)
    noisy = operations.noise(ends, torch.tensor([0.1]), torch.tensor([0]), key)
    assert noisy.min() == 0 and noisy.max() == 1
    assert (noisy == ends).double().mean() == pytest.approx(0.5, abs=0.1)


# --- all of them


def test_operations_leave_their_input_alone():
    x = units(random_images(2, seed=3, size=(20, 24)))[0]
    before, half, three = x.clone(), torch.ones(1) / 2, torch.ones(1, 3) / 2
    for name in COLOUR:
        getattr(operations, name)(x, half)
    operations.grayscale(x)
    operations.channel_jitter(x, three, three, three)
    operations.band_drop(x, three > 1)
    operations.solarise(x, 0.5)
    for width in (1, 5):
        operations.blur(x, half, width)
    operations.noise(x, half, torch.tensor([1]), (0, 0))
    operations.sobel(x)
    operations.cutout(x, torch.tensor([[1, 2, 3, 4]]), half[:, None, None])
    assert torch.equal(x, before)
