"""From pixels to views: which backend, pixels that travel, and memory that is used again."""

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from selftaught.data.batch import Progress
from selftaught.data.feed import Feed
from selftaught.views import tensors
from selftaught.views.engine import Buffers, Engine, _PackedPixels, make_views
from selftaught.views.policy import (
    CenterCrop,
    Cutout,
    Flip,
    Gray,
    Intensity,
    Jitter,
    Noise,
    Policy,
    RandomCrop,
    Rotate,
    ViewSpec,
    simclr_cifar,
    simclr_imagenet,
)
from selftaught.views.raw import Raw
from selftaught.views.sample import ViewParams, sample
from tests.support.photographs import random_images
from tests.support.sets import array_set

CPU = torch.device("cpu")
FUSED = {
    "evaluation": Policy(CenterCrop()),
    "cifar": simclr_cifar(),
    "imagenet": simclr_imagenet(),
    "noise": Policy(RandomCrop(), (Flip(), Noise())),
}
UNFUSED = {
    "rotate": Policy(RandomCrop(), (Flip(), Rotate(), Jitter())),
    "another order": Policy(RandomCrop(), (Gray(p=0.5), Jitter())),
    "cutout": Policy(RandomCrop(), (Flip(), Cutout())),
}
POLICIES = FUSED | UNFUSED
CHAIN = 3e-5


def params_of(raw: Raw, policy: Policy, size: int = 24, view: int = 0) -> ViewParams:
    draws_N = np.arange(len(raw))
    return sample(
        policy, size=size, sizes_N2=raw.sizes_N2, draws_N=draws_N, seed=0, view=view, channels=3
    )


def furthest(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape and a.dtype == b.dtype == torch.float32
    return (a - b).abs().max().item()


@pytest.mark.parametrize("size", [None, (32, 32)])
@pytest.mark.parametrize("name", POLICIES)
def test_either_backend_makes_the_same_views(name: str, size: tuple[int, int] | None) -> None:
    policy, raw = POLICIES[name], Raw.of(random_images(60, seed=1, size=size))
    params = params_of(raw, policy)
    expected = tensors.apply_policy(raw.tensors(), params, policy, Intensity())
    assert furthest(make_views(raw, params, policy, Intensity()), expected) <= CHAIN


def asked(monkeypatch: pytest.MonkeyPatch) -> list[Policy]:
    """What PyTorch is asked for from now on."""
    policies: list[Policy] = []
    apply = tensors.apply_policy

    def spy(images: object, params: ViewParams, policy: Policy, intensity: Intensity) -> object:
        policies.append(policy)
        return apply(images, params, policy, intensity)  # type: ignore[arg-type]

    monkeypatch.setattr(tensors, "apply_policy", spy)
    return policies


def test_the_kernel_does_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    raw, by_torch = Raw.of(random_images(4, seed=2)), asked(monkeypatch)
    for policy in POLICIES.values():
        make_views(raw, params_of(raw, policy), policy, Intensity())
    assert by_torch == list(UNFUSED.values())


# --- pixels that travel; the way to a GPU is the same without its last step


def gathered(raw: Raw) -> torch.Tensor | list[torch.Tensor]:
    return _PackedPixels.of(raw, pinned=False).on(CPU)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("size", [None, (9, 7)])
def test_pixels_arrive(dtype: str, size: tuple[int, int] | None) -> None:
    """From wherever they lie in the array, some of them twice; and what was packed is a copy."""
    images: list[NDArray] = [x.astype(dtype) for x in random_images(20, seed=3, size=size)]
    whole, rows = Raw.of(images), [7, 3, 7, 19, 0]
    raw = Raw(whole.flat, whole.starts_N[rows], whole.sizes_N2[rows], 3)
    arrived = gathered(raw)
    assert isinstance(arrived, torch.Tensor) == (size is not None)
    whole.flat[:] = 0
    for row, image in zip(rows, arrived, strict=True):
        assert image.numpy().dtype == dtype and np.array_equal(image.numpy(), images[row])


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("name", ["imagenet", "rotate"])
def test_views_of_pixels_that_travelled(name: str, each: bool) -> None:
    """Of one set of pixels for all views, and of one for each."""
    policy = POLICIES[name]
    pixels = [Raw.of(random_images(12, seed=seed)) for seed in range(3 if each else 1)]
    of_each = pixels if each else pixels * 3
    wanted = [(params_of(raw, policy, view=v), policy) for v, raw in enumerate(of_each)]
    ours = Engine(Intensity(), CPU)
    at_once = ours.begin(pixels, wanted)()
    travelled = ours.finish([_PackedPixels.of(raw, pinned=False) for raw in pixels], wanted)
    assert len(at_once) == len(travelled) == 3
    for a, b, raw, (params, _) in zip(at_once, travelled, of_each, wanted, strict=True):
        expected = tensors.apply_policy(raw.tensors(), params, policy, Intensity())
        assert furthest(a, expected) <= CHAIN and furthest(b, expected) <= CHAIN
    assert furthest(at_once[0], at_once[1]) > 0.1


def test_a_compiling_engine_compiles_what_a_gpu_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch makes of it is compared in test_views_tensors.py."""
    compiled: list[Policy] = []

    def everywhere(x: torch.Tensor, policy: Policy, *_: object) -> torch.Tensor:
        compiled.append(policy)
        return x

    monkeypatch.setattr(tensors, "_compiled_operations", lambda: everywhere)
    raw, policy = Raw.of(random_images(4, seed=0)), POLICIES["imagenet"]
    wanted = [(params_of(raw, policy), policy)]
    for ours in (Engine(Intensity(), CPU), Engine(Intensity(), CPU, compiled=True)):
        ours.begin([raw], wanted)()
        ours.finish([_PackedPixels.of(raw, pinned=False)], wanted)
    assert compiled == [policy]


# --- memory


def test_memory_is_used_again_when_nothing_holds_it() -> None:
    buffers, shape = Buffers(), (2, 3, 4, 4)
    first, second = buffers.take(shape), buffers.take(shape)
    places = {first.data_ptr(), second.data_ptr()}
    assert len(places) == 2 and first.shape == shape and first.dtype == torch.float32
    del first, second
    again = [buffers.take(shape) for _ in range(3)]
    assert {x.data_ptr() for x in again[:2]} == places and again[2].data_ptr() not in places
    assert buffers.take((2, 3, 5, 5)).shape == (2, 3, 5, 5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "hold",
    [
        lambda x: x[1:],
        lambda x: x.view(-1).detach(),
        lambda x: x[0].numpy(),
        lambda x: x * torch.ones(1, requires_grad=True),  # whose graph needs x
        lambda x: torch.utils.dlpack.from_dlpack(x),
        lambda x: memoryview(x.numpy()),
    ],
)
def test_memory_that_anything_holds_is_left_alone(hold: Callable[[torch.Tensor], object]) -> None:
    buffers, shape = Buffers(), (2, 3, 4, 4)
    taken = buffers.take(shape)
    place = taken.data_ptr()
    holder = hold(taken)
    del taken
    gc.collect()
    assert buffers.take(shape).data_ptr() != place
    del holder
    assert place in {x.data_ptr() for x in [buffers.take(shape) for _ in range(2)]}


def test_a_batch_is_not_changed_by_those_that_come_after_it(tmp_path: Path) -> None:
    specs = (ViewSpec(simclr_cifar(), 12, 2),)
    feed = Feed(array_set(tmp_path, 200), specs=specs, batch_size=8, seed=0, threads=3)
    batches = list(feed.epoch(None, Progress(0, 0, 1)))
    kept = [view.clone() for batch in batches for view in batch.views]
    feed.threads = 0
    for number, batch in enumerate(feed.epoch(None, Progress(0, 0, 1))):  # while all are held
        assert all(torch.equal(a, b) for a, b in zip(batch.views, kept[2 * number :], strict=False))
    held = [view for batch in batches for view in batch.views]
    assert all(torch.equal(a, b) for a, b in zip(held, kept, strict=True))
    places = {view.data_ptr() for view in held}
    assert len(places) == len(held) == 50
