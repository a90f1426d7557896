"""Whole policies against torchvision's float functionals; boxes; batches and parts; compiled."""

from dataclasses import replace
from shutil import which

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode

from selftaught.errors import ConfigError
from selftaught.views import tensors
from selftaught.views.policy import (
    BandDrop,
    Blur,
    CenterCrop,
    ChannelJitter,
    Cutout,
    Flip,
    Gray,
    Intensity,
    Jitter,
    Noise,
    Policy,
    RandomCrop,
    Rotate,
    Sobel,
    Solarise,
    simclr_cifar,
    simclr_gray,
    simclr_imagenet,
)
from selftaught.views.sample import sample
from tests.oracles import views as oracle
from tests.support.photographs import SIZES, extreme, photograph, random_images

OPERATION, CHAIN = 1e-5, 3e-5  # what may lie between ours and torchvision's
RAW = Intensity(mean=(0.0,), std=(1.0,))
EVERY = (
    *(Flip(), Rotate(), Jitter(), ChannelJitter(), BandDrop(), Gray(), Solarise()),
    *(Blur(), Noise(), Sobel(), Cutout()),
)
LOCAL = tuple(one for one in EVERY if not isinstance(one, Noise))  # 40,000 counters an image
MULTICHANNEL = tuple(one for one in EVERY if not isinstance(one, Gray))


def params_of(images, policy, size=24, seed=0, **how):
    sizes_N2 = np.array([image.shape[:2] for image in images])
    draws_N = np.arange(len(images))
    how["channels"] = images[0].shape[2]
    return sample(policy, size=size, sizes_N2=sizes_N2, draws_N=draws_N, seed=seed, **how)


def without(policy, kind):
    kept = tuple(one for one in policy.operations if not isinstance(one, kind))
    return replace(policy, operations=kept)


def torches(images):
    return [torch.from_numpy(image) for image in images]


def units(images):
    """(1, C, H, W) float32 in [0, 1] of each."""
    return [torch.from_numpy(image).permute(2, 0, 1)[None] / 255 for image in images]


def furthest(a, b):
    assert a.shape == b.shape and a.dtype == b.dtype == torch.float32
    return (a - b).abs().max().item()


# --- boxes, 300 images each


IMAGES = random_images(300, seed=1)
RNG = np.random.default_rng(2)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resized_crop_is_torchvisions(interpolation):
    boxes_N4 = params_of(IMAGES, Policy(RandomCrop())).box_N4
    mode = InterpolationMode(interpolation)
    for k, x in enumerate(units(IMAGES)):
        size, mirrored = int(RNG.integers(1, 70)), k % 3 == 0
        box = boxes_N4[k].tolist()
        theirs = tv.resized_crop(x, *box, [size, size], interpolation=mode, antialias=True)
        theirs = theirs.clamp(0, 1)
        ours = tensors.resized_crop(
            x, torch.tensor([box]), size, torch.tensor([mirrored]), interpolation
        )
        assert furthest(ours, theirs.flip(3) if mirrored else theirs) <= OPERATION


def test_bicubic_is_pillows():
    """Its a is -1/2: with -3/4, usual without antialiasing, it would be off by 0.02."""
    edge = np.tile(np.repeat(np.float32([0, 1]), 4), (8, 1))
    theirs = Image.fromarray(edge).resize((23, 23), Image.Resampling.BICUBIC)
    x = torch.from_numpy(edge)[None, None]
    whole = torch.tensor([[0, 0, 8, 8]])
    products = tensors.resized_crop(x, whole, 23, interpolation="bicubic")
    policy = Policy(CenterCrop(), normalise=False, interpolation="bicubic")
    raw = x[0].permute(1, 2, 0)
    cut = tensors.apply_policy([raw], params_of([raw], policy, 23), policy, Intensity(0, 1))
    for ours in (products, cut):
        assert furthest(ours[0, 0], torch.from_numpy(np.array(theirs)).clamp(0, 1)) <= 1e-6


# --- the chain


@pytest.mark.parametrize("policy", [simclr_imagenet(), simclr_cifar()])
@pytest.mark.parametrize("size", [1, 20, 32, 47])
def test_chain_of_ragged_images_is_torchvisions(policy, size):
    images = torches(random_images(125, seed=size))
    params = params_of(images, policy, size, seed=4)
    ours = tensors.apply_policy(images, params, policy, Intensity())
    assert furthest(ours, oracle.views(images, params, policy, Intensity())) <= CHAIN


@pytest.mark.parametrize(("side", "size"), [((32, 32), 32), ((28, 45), 32), ((96, 128), 64)])
def test_chain_of_equal_images_is_torchvisions(side, size):
    images = torch.stack(torches(random_images(125, seed=size, size=side)))
    policy = simclr_imagenet()
    params = params_of(images, policy, size, seed=5)
    ours = tensors.apply_policy(images, params, policy, Intensity())
    assert furthest(ours, oracle.views(list(images), params, policy, Intensity())) <= CHAIN


@pytest.mark.parametrize(
    "policy", [simclr_imagenet(), Policy(RandomCrop(), LOCAL, interpolation="bicubic")]
)
def test_chain_at_224_pixels_is_torchvisions(policy):
    images = torches(random_images(8, seed=6, size=(300, 420)))
    params = params_of(images, policy, 224, seed=6)
    ours = tensors.apply_policy(images, params, policy, Intensity())
    assert furthest(ours, oracle.views(images, params, policy, Intensity())) <= CHAIN


@pytest.mark.slow
@given(st.permutations(EVERY), st.integers(1, 11), st.integers(0, 99))
def test_operations_come_in_the_policys_order(operations, count, seed):
    always = tuple(replace(one, p=max(one.p, 0.7)) for one in operations[:count])
    policy = Policy(RandomCrop(), always, normalise=False)
    images = torches(random_images(4, seed=7, size=(20, 20)))
    params = params_of(images, policy, 21, seed=seed)
    ours = tensors.apply_policy(torch.stack(images), params, policy, Intensity())
    assert furthest(ours, oracle.views(images, params, policy, Intensity())) <= CHAIN


@pytest.mark.parametrize("ragged", [False, True])
def test_the_mirror_comes_first_wherever_it_is_named(ragged):
    others = (Rotate(p=1.0), Noise(p=1.0), Cutout(p=1.0))
    images = torches(random_images(6, seed=7, size=(20, 20)))
    raw = images if ragged else torch.stack(images)
    first, last = (
        Policy(RandomCrop(), operations)
        for operations in ((Flip(p=1.0), *others), (*others, Flip(p=1.0)))
    )
    params = params_of(images, first)
    x = tensors.apply_policy(raw, params, first, Intensity())
    assert torch.equal(x, tensors.apply_policy(raw, params, last, Intensity()))
    still = replace(params, flip_N=~params.flip_N)
    assert furthest(x.flip(3), tensors.apply_policy(raw, still, first, Intensity())) > 0.1


ODD = ((1, 1), (1, 5000), (31, 257))


def odd_image(rng, kind, size):
    """Also wider than a photograph, and with gaps between its numbers in memory."""
    height, width = size
    narrow = kind(rng, height, min(width, 500))
    whole = np.tile(narrow, (1, -(-width // 500), 1))[:, :width]
    return torch.from_numpy(np.repeat(whole, 2, axis=1))[:, ::2]


def random_case(rng, channels=None):
    """Ten images of one size or of several, a policy of some operations in some order, a size."""
    channels = channels or int(rng.choice([1, 3]))
    size, one_size = int(rng.choice([1, 2, 9, 16, 41, 64])), bool(rng.integers(2))
    sizes = [(SIZES + ODD)[rng.integers(len(SIZES + ODD))] for _ in range(10)]
    images = [
        odd_image(rng, (photograph, extreme)[k % 2], sizes[0 if one_size else k])[..., :channels]
        for k in range(10)
    ]
    allowed = [one for one in EVERY if channels == 3 or not isinstance(one, Gray | BandDrop)]
    chosen = rng.permutation(len(allowed))[: rng.integers(1, len(allowed) + 1)]
    policy = Policy(
        (RandomCrop(), CenterCrop(0.875))[rng.integers(2)],
        tuple(replace(allowed[k], p=float(rng.choice([0.5, 1.0]))) for k in chosen),
        normalise=bool(rng.integers(2)),
        interpolation=("bilinear", "bicubic")[rng.integers(2)],
    )
    return torch.stack(images) if one_size else images, policy, size


def furthest_from_the_oracle(images, policy, size, seed):
    channels = images[0].shape[2]
    intensity = Intensity(
        mean=(0.485, 0.456, 0.406)[:channels], std=(0.229, 0.224, 0.225)[:channels]
    )
    params = params_of(images, policy, size, seed=seed)
    ours = tensors.apply_policy(images, params, policy, intensity)
    return furthest(ours, oracle.views(list(images), params, policy, intensity))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_random_policies_of_random_images(part):
    """2,000 images in all, half photographs, half extremes."""
    rng = np.random.default_rng(part)
    for case in range(10):
        images, policy, size = random_case(rng)
        assert furthest_from_the_oracle(images, policy, size, seed=case) <= CHAIN, policy


@pytest.mark.slow
@pytest.mark.parametrize("operation", EVERY, ids=lambda one: type(one).__name__)
def test_each_operation_alone(operation):
    """2,000 images each, the operation always happens."""
    rng = np.random.default_rng(0)
    policy = Policy(RandomCrop(), (replace(operation, p=1.0),), normalise=False)
    for seed in range(200):
        images, other, size = random_case(rng, channels=3)
        policy = replace(policy, interpolation=other.interpolation)
        assert furthest_from_the_oracle(images, policy, size, seed) <= OPERATION


def test_a_whole_image_passes_untouched():
    images = torch.stack(torches(random_images(4, seed=8, size=(16, 16))))
    policy = Policy(CenterCrop(), (Jitter(0, 0, 0, 0, p=1.0), Blur(sigma=(0.1, 0.1), p=1.0)))
    x = tensors.apply_policy(images, params_of(images, policy, 16), policy, RAW)
    assert furthest(x, images.permute(0, 3, 1, 2) / 255) <= 1e-6


# --- channels, types, ranges


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("policy", [simclr_gray(), Policy(RandomCrop(), MULTICHANNEL)])
def test_any_number_of_channels(channels, policy):
    if channels == 1:
        policy = without(policy, BandDrop)
    rng = np.random.default_rng(channels)
    images = torch.from_numpy(rng.integers(0, 256, (40, 24, 31, channels), np.uint8))
    intensity = Intensity(mean=(0.4,) * channels, std=(0.2,) * channels)
    params = params_of(images, policy, 20)
    x = tensors.apply_policy(images, params, policy, intensity)
    assert x.shape == (40, channels, 20, 20) and x.dtype == torch.float32
    assert furthest(x, oracle.views(list(images), params, policy, intensity)) <= CHAIN


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
        made.append(tensors.apply_policy(batch, params, policy, intensity))
    assert furthest(made[0], made[1]) <= CHAIN and furthest(made[0], made[2]) <= 10 * CHAIN


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_values_outside_the_range_are_clipped_before_resizing(dtype):
    image = torch.tensor([[0, 10, 20, 200, 255, 15]]).to(dtype)[:, :, None].expand(6, 6, 1)
    policy = Policy(CenterCrop())
    params = params_of([image], policy, 3)
    x = tensors.apply_policy([image], params, policy, Intensity(10, 20, (0.0,), (1.0,)))
    clipped = torch.tensor([0, 0, 1, 1, 1, 0.5]).expand(1, 1, 6, 6)
    assert furthest(x, tv.resize(clipped, [3, 3], antialias=True)) <= 1e-6


def test_normalise_needs_one_mean_a_channel():
    x = torch.rand(2, 3, 4, 4)
    three = Intensity(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    assert torch.equal(tensors.standardise(x, three), tv.normalize(x, three.mean, three.std))
    with pytest.raises(ConfigError, match=r"3 means .* 1 channels"):
        tensors.standardise(x[:, :1], three)
    with pytest.raises(ConfigError, match="2 standard deviations"):
        tensors.standardise(x, replace(three, std=(1.0, 1.0)))
    raw, policy = torch.ones(1, 4, 4, 1), Policy(CenterCrop(), (Cutout(),), normalise=False)
    with pytest.raises(ConfigError, match="3 means"):  # they are what is filled in
        tensors.apply_policy(raw, params_of(raw, policy, 4), policy, three)


# --- a batch and its parts


@pytest.mark.parametrize("side", [(32, 32), (96, 128), None])
def test_a_view_does_not_depend_on_its_batch(side):
    images = torches(random_images(30, seed=10, size=side))
    policy = simclr_imagenet()
    params = params_of(images, policy, 32)
    whole = tensors.apply_policy(
        torch.stack(images) if side else images, params, policy, Intensity()
    )
    for part in (slice(0, 1), slice(3, 5), slice(7, 30)):
        some = torch.stack(images[part]) if side else images[part]
        assert (
            furthest(tensors.apply_policy(some, params[part], policy, Intensity()), whole[part])
            <= 1e-5
        )


def test_a_batch_is_the_same_twice_and_stacked_or_not():
    images = torches(random_images(30, seed=11, size=(32, 32)))
    policy = simclr_imagenet()
    params = params_of(images, policy, 32)
    once, again, loose = (
        tensors.apply_policy(batch, params, policy, Intensity())
        for batch in (torch.stack(images), torch.stack(images), images)
    )
    assert torch.equal(once, again)
    assert furthest(once, loose) <= CHAIN


def test_images_are_left_alone_and_nothing_is_recorded():
    images = torch.rand(4, 12, 12, 3, requires_grad=True)
    before = images.detach().clone()
    policy, intensity = simclr_imagenet(), Intensity(0, 1)
    params = params_of(images, policy, 12)
    plain = tensors.apply_policy(images, params, policy, intensity)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = tensors.apply_policy(images, params, policy, intensity)
    assert torch.equal(images, before) and not plain.requires_grad
    assert torch.equal(plain, cast)


# --- compiled


def all_images(images, params, policy):
    """As `apply`, but every operation is worked out for every image."""
    box = replace(policy, operations=(), normalise=False)
    x = tensors.apply_policy(images, params, box, Intensity())
    return tensors.apply_everywhere(x, policy, tensors.on_device(params, x.device), Intensity())


@pytest.mark.slow
@given(st.permutations(EVERY), st.integers(0, 99))
def test_all_operations_for_all_images_give_the_same(operations, seed):
    images = torch.stack(torches(random_images(6, seed=13, size=(20, 30))))
    policy = Policy(RandomCrop(), tuple(operations))
    params = params_of(images, policy, 20, seed=seed)
    some = tensors.apply_policy(images, params, policy, Intensity())
    assert furthest(all_images(images, params, policy), some) <= OPERATION


@pytest.mark.slow
@pytest.mark.skipif(not which("g++"), reason="torch compiles with g++")
@pytest.mark.parametrize("policy", [simclr_imagenet(), Policy(RandomCrop(), EVERY)])
def test_compiled_views_are_the_same_and_other_parameters_compile_nothing(policy):
    images = torch.stack(torches(random_images(6, seed=14, size=(30, 40))))
    for epoch in range(3):
        params = params_of(images, policy, 64, epoch=epoch)
        with torch.compiler.set_stance("fail_on_recompile" if epoch else "default"):
            compiled = tensors.apply_policy(images, params, policy, Intensity(), compiled=True)
        assert (
            furthest(compiled, tensors.apply_policy(images, params, policy, Intensity())) <= CHAIN
        )


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
