"""Views against torchvision's float functionals; channels, types and ranges; batches and parts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from hypothesis import given
from hypothesis import strategies as st

from selftaught.errors import ConfigError
from selftaught.views import tensors
from selftaught.views.policy import (
    Blur,
    CenterCrop,
    Flip,
    Gray,
    Intensity,
    Jitter,
    Policy,
    RandomCrop,
    simclr_cifar,
    simclr_gray,
    simclr_imagenet,
)
from selftaught.views.sample import sample
from tests.oracles import views as oracle
from tests.support.photographs import photograph, random_images

OPERATION, CHAIN = 1e-5, 3e-5  # what may lie between ours and torchvision's
RAW = Intensity(mean=(0.0,), std=(1.0,))


def params_of(images, policy, size=24, seed=0, **how):
    sizes_N2 = np.array([image.shape[:2] for image in images])
    draws_N = np.arange(len(images))
    return sample(policy, size=size, sizes_N2=sizes_N2, draws_N=draws_N, seed=seed, **how)


def torches(images):
    return [torch.from_numpy(image) for image in images]


def units(images):
    """(1, C, H, W) float32 in [0, 1] of each."""
    return [torch.from_numpy(image).permute(2, 0, 1)[None] / 255 for image in images]


def furthest(a, b):
    assert a.shape == b.shape and a.dtype == b.dtype == torch.float32
    return (a - b).abs().max().item()


# --- single operations, 1,000 images each


IMAGES = random_images(1000, seed=1)
RNG = np.random.default_rng(2)
FACTORS = torch.from_numpy(RNG.uniform(0, 2, 1000).astype(np.float32))
TURNS = torch.from_numpy(RNG.uniform(-0.5, 0.5, 1000).astype(np.float32))


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_colour_operations_are_torchvisions(name):
    ours, theirs = getattr(tensors, name), getattr(tv, f"adjust_{name}")
    values = TURNS if name == "hue" else FACTORS
    for k, x in enumerate(units(IMAGES)):
        assert furthest(ours(x, values[k : k + 1]), theirs(x, values[k].item())) <= OPERATION


def test_grayscale_and_flip_are_torchvisions():
    for x in units(IMAGES):
        assert furthest(tensors.grayscale(x), tv.rgb_to_grayscale(x, 3)) <= OPERATION
        assert torch.equal(tensors.flip(x, torch.tensor([True])), tv.horizontal_flip(x))
        assert torch.equal(tensors.flip(x, torch.tensor([False])), x)


def test_resized_crop_is_torchvisions():
    boxes_N4 = params_of(IMAGES, Policy(RandomCrop())).box_N4
    for k, x in enumerate(units(IMAGES)):
        size, mirrored = int(RNG.integers(1, 70)), torch.tensor([k % 3 == 0])
        theirs = tv.resized_crop(x, *boxes_N4[k].tolist(), [size, size], antialias=True)
        theirs = tensors.flip(theirs, mirrored)
        ours = tensors.resized_crop(x, torch.from_numpy(boxes_N4[k : k + 1]), size, mirrored)
        assert furthest(ours, theirs) <= OPERATION


def test_blur_is_torchvisions():
    for k, x in enumerate(units(IMAGES)):
        width = 2 * int(RNG.integers(min(12, *x.shape[2:]))) + 1
        sigma = 0.1 + FACTORS[k : k + 1]
        theirs = tv.gaussian_blur(x, [width, width], [sigma.item()] * 2)
        assert furthest(tensors.blur(x, sigma, width), theirs) <= OPERATION


def test_operations_take_a_parameter_an_image():
    x = torch.cat(units(random_images(8, seed=3, size=(9, 12))))
    for ours in (tensors.brightness, tensors.contrast, tensors.saturation, tensors.hue):
        together = ours(x, FACTORS[:8])
        apart = [ours(x[k : k + 1], FACTORS[k : k + 1]) for k in range(8)]
        assert furthest(together, torch.cat(apart)) <= 1e-6


def test_operations_leave_their_input_alone():
    x = units(random_images(2, seed=3))[0]
    before, one = x.clone(), torch.ones(1) / 2
    for ours in (tensors.brightness, tensors.contrast, tensors.saturation, tensors.hue):
        ours(x, one)
    tensors.normalise(x, RAW)
    tensors.grayscale(x)
    tensors.flip(x, one > 0)
    assert torch.equal(x, before)


# --- the chain


@pytest.mark.parametrize("policy", [simclr_imagenet(), simclr_cifar()])
@pytest.mark.parametrize("size", [1, 20, 32, 47])
def test_chain_of_ragged_images_is_torchvisions(policy, size):
    images = torches(random_images(125, seed=size))
    params = params_of(images, policy, size, seed=4)
    ours = tensors.apply(images, params, policy, Intensity())
    assert furthest(ours, oracle.views(images, params, policy, Intensity())) <= CHAIN


@pytest.mark.parametrize(("side", "size"), [((32, 32), 32), ((28, 45), 32), ((96, 128), 64)])
def test_chain_of_equal_images_is_torchvisions(side, size):
    images = torch.stack(torches(random_images(125, seed=size, size=side)))
    policy = simclr_imagenet()
    params = params_of(images, policy, size, seed=5)
    ours = tensors.apply(images, params, policy, Intensity())
    assert furthest(ours, oracle.views(list(images), params, policy, Intensity())) <= CHAIN


def test_chain_at_224_pixels_is_torchvisions():
    images = torches(random_images(8, seed=6, size=(300, 420)))
    policy = simclr_imagenet()
    params = params_of(images, policy, 224, seed=6)
    ours = tensors.apply(images, params, policy, Intensity())
    assert furthest(ours, oracle.views(images, params, policy, Intensity())) <= CHAIN


@given(st.permutations((Flip(), Jitter(p=1.0), Gray(0.5), Blur(p=1.0))), st.integers(0, 99))
def test_operations_come_in_the_policys_order(operations, seed):
    policy = Policy(RandomCrop(), tuple(operations), normalise=False)
    images = torches(random_images(6, seed=7, size=(20, 20)))
    params = params_of(images, policy, 33, seed=seed)
    ours = tensors.apply(torch.stack(images), params, policy, Intensity())
    assert furthest(ours, oracle.views(images, params, policy, Intensity())) <= CHAIN


def test_a_whole_image_passes_untouched():
    images = torch.stack(torches(random_images(4, seed=8, size=(16, 16))))
    policy = Policy(CenterCrop())
    x = tensors.apply(images, params_of(images, policy, 16), policy, RAW)
    assert furthest(x, images.permute(0, 3, 1, 2) / 255) <= 1e-6


# --- channels, types, ranges


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("policy", [simclr_imagenet(), simclr_gray()])
def test_any_number_of_channels(channels, policy):
    rng = np.random.default_rng(channels)
    images = torch.from_numpy(rng.integers(0, 256, (40, 24, 31, channels), np.uint8))
    intensity = Intensity(mean=(0.4,) * channels, std=(0.2,) * channels)
    params = params_of(images, policy, 20)
    x = tensors.apply(images, params, policy, intensity)
    assert x.shape == (40, channels, 20, 20) and x.dtype == torch.float32
    if channels in (1, 3):  # torchvision's jitter takes no others
        assert furthest(x, oracle.views(list(images), params, policy, intensity)) <= CHAIN
    else:
        jittered = replace(params, gray_N=params.gray_N & False)
        assert torch.equal(x, tensors.apply(images, jittered, policy, intensity))


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_contrast_of_other_channels_turns_about_the_mean_of_all(channels):
    x = torch.rand(3, channels, 7, 9)
    factor = torch.tensor([0.3, 1.0, 1.7])
    for k in range(3):
        mean = x[k].double().mean()
        slow = ((x[k].double() - mean) * factor[k].double() + mean).clamp(0, 1)
        assert furthest(tensors.contrast(x, factor)[k], slow.float()) <= 1e-6


@pytest.mark.parametrize("ragged", [False, True])
def test_types_and_ranges_agree(ragged):
    images = random_images(20, seed=9, size=None if ragged else (24, 24))
    policy, low, high = simclr_imagenet(), -3.5, 1200.0
    params = params_of(images, policy)
    forms = {
        Intensity(): images,
        Intensity(0, 65535): [image.astype(np.uint16) * 257 for image in images],
        Intensity(low, high): [
            (low + image / np.float32(255) * (high - low)).astype(np.float32) for image in images
        ],
    }
    made = []
    for intensity, raw in forms.items():
        batch = torches(raw) if ragged else torch.stack(torches(raw))
        made.append(tensors.apply(batch, params, policy, intensity))
    assert furthest(made[0], made[1]) <= CHAIN and furthest(made[0], made[2]) <= 10 * CHAIN


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_values_outside_the_range_are_clipped_before_resizing(dtype):
    image = torch.tensor([[0, 10, 20, 200, 255, 15]]).to(dtype)[:, :, None].expand(6, 6, 1)
    policy = Policy(CenterCrop())
    params = params_of([image], policy, 3)
    x = tensors.apply([image], params, policy, Intensity(10, 20, (0.0,), (1.0,)))
    clipped = torch.tensor([0, 0, 1, 1, 1, 0.5]).expand(1, 1, 6, 6)
    assert furthest(x, tv.resize(clipped, [3, 3], antialias=True)) <= 1e-6


def test_normalise_needs_one_mean_a_channel():
    x = torch.rand(2, 3, 4, 4)
    three = Intensity(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    assert torch.equal(tensors.normalise(x, three), tv.normalize(x, three.mean, three.std))
    with pytest.raises(ConfigError, match=r"3 means .* 1 channels"):
        tensors.normalise(x[:, :1], three)
    with pytest.raises(ConfigError, match="2 standard deviations"):
        tensors.normalise(x, replace(three, std=(1.0, 1.0)))


# --- a batch and its parts


@pytest.mark.parametrize("side", [(32, 32), (96, 128), None])
def test_a_view_does_not_depend_on_its_batch(side):
    images = torches(random_images(30, seed=10, size=side))
    policy = simclr_imagenet()
    params = params_of(images, policy, 32)
    whole = tensors.apply(torch.stack(images) if side else images, params, policy, Intensity())
    for part in (slice(0, 1), slice(3, 5), slice(7, 30)):
        some = torch.stack(images[part]) if side else images[part]
        assert furthest(tensors.apply(some, params[part], policy, Intensity()), whole[part]) <= 1e-5


def test_a_batch_is_the_same_twice_and_stacked_or_not():
    images = torches(random_images(30, seed=11, size=(32, 32)))
    policy = simclr_imagenet()
    params = params_of(images, policy, 32)
    once, again, loose = (
        tensors.apply(batch, params, policy, Intensity())
        for batch in (torch.stack(images), torch.stack(images), images)
    )
    assert torch.equal(once, again)
    assert furthest(once, loose) <= CHAIN


def test_images_are_left_alone_and_nothing_is_recorded():
    images = torch.rand(4, 12, 12, 3, requires_grad=True)
    before = images.detach().clone()
    policy, intensity = simclr_imagenet(), Intensity(0, 1)
    params = params_of(images, policy, 12)
    plain = tensors.apply(images, params, policy, intensity)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = tensors.apply(images, params, policy, intensity)
    assert torch.equal(images, before) and not plain.requires_grad
    assert torch.equal(plain, cast)


# --- resize


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("to", [(1, 1), (7, 40), (64, 64), (33, 32)])
def test_resize_is_torchvisions_rounded(dtype, to):
    rng = np.random.default_rng(12)
    for channels, (h, w) in ((3, (50, 60)), (1, (1, 1)), (5, (9, 31)), (3, (1, 50))):
        image = photograph(rng, h, w)[..., :1].repeat(channels, axis=2).astype(dtype)
        image *= dtype(257) if dtype == np.uint16 else dtype(1)
        ours = tensors.resize(image, *to)
        x = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)
        theirs = tv.resize(x, list(to), antialias=True).permute(1, 2, 0).numpy()
        assert ours.dtype == dtype and ours.shape == (*to, channels)
        exact = theirs if dtype == np.float32 else np.rint(theirs)
        assert np.abs(ours - exact).max() <= (1e-3 if dtype == np.float32 else 0)


def test_resize_keeps_the_ends_of_the_range_and_takes_read_only_arrays():
    for dtype in (np.uint8, np.uint16):
        image = np.full((40, 30, 3), np.iinfo(dtype).max, dtype)
        image.flags.writeable = False
        assert (tensors.resize(image, 17, 99) == np.iinfo(dtype).max).all()
    whole = photograph(np.random.default_rng(0), 20, 30)
    assert np.array_equal(tensors.resize(whole, 20, 30), whole)
