"""Batches of views: order, keys, threads, and files that go bad on the way."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from selftaught.data.batch import Batch, Draws, Progress
from selftaught.data.feed import Feed, make_ahead
from selftaught.data.store import Form, Images
from selftaught.errors import ConfigError, DataError
from selftaught.foundation.machine import Machine
from selftaught.foundation.rng import Key, permutation
from selftaught.views.policy import (
    BandDrop,
    ChannelJitter,
    Cutout,
    Flip,
    Intensity,
    Jitter,
    Noise,
    Policy,
    RandomCrop,
    Rotate,
    ViewSpec,
    multi_crop,
    simclr_cifar,
    simclr_imagenet,
)
from selftaught.views.sample import sample
from selftaught.views.tensors import apply_policy
from tests.support.sets import array_set, file_set

START = Progress(epoch=3, step=30, total_steps=100)
SPECS = (ViewSpec(simclr_imagenet(), 20, 2), ViewSpec(simclr_cifar(), 8, 1))
UNFUSED = (ViewSpec(Policy(RandomCrop(), (Flip(), Rotate(), Jitter(), Noise(), Cutout())), 12, 2),)
CROPS = multi_crop(simclr_cifar(), sizes=(20, 8), counts=(2, 3))
FORMS: tuple[Form, ...] = ("memory", "disk", "encoded")
Specs = tuple[ViewSpec, ...]


def feed(images: Images, **changes: Any) -> Feed:
    settings = {"specs": SPECS, "batch_size": 16, "seed": 5, "threads": 2} | changes
    return Feed(images, **settings)


def equal(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x.rows, y.rows)
        and torch.equal(x.draws, y.draws)
        and all(torch.equal(v, w) for v, w in zip(x.views, y.views, strict=True))
        and x.step == y.step
        for x, y in zip(a, b, strict=True)
    )


def rows(batches: list[Batch]) -> list[int]:
    return torch.cat([batch.rows for batch in batches]).tolist()


def our_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


@pytest.mark.slow
@pytest.mark.parametrize("specs", [SPECS, UNFUSED], ids=["fused", "unfused"])
@pytest.mark.parametrize("kind", ["array", "files"])
def test_threads_change_nothing(kind: str, specs: Specs, tmp_path: Path) -> None:
    images = (
        array_set(tmp_path, 130, 32) if kind == "array" else file_set(tmp_path, 130, one_size=False)
    )
    one = list(feed(images, specs=specs, threads=1).epoch(None, START))
    assert len(one) == 8 and [batch.step.step for batch in one] == list(range(30, 38))
    for threads in (0, 2, 5):
        assert equal(list(feed(images, specs=specs, threads=threads).epoch(None, START)), one)


@pytest.mark.parametrize("specs", [SPECS, UNFUSED], ids=["fused", "unfused"])
def test_the_form_of_the_store_changes_nothing(specs: Specs, tmp_path: Path) -> None:
    memory, disk, encoded = (
        list(
            feed(file_set(tmp_path, 70, one_size=False, form=form), specs=specs).epoch(None, START)
        )
        for form in FORMS
    )
    assert len(memory) == 4 and equal(memory, encoded) and equal(disk, encoded)


def test_views_of_several_sizes(tmp_path: Path) -> None:
    """Large ones see most of an image, small ones little of it."""
    batch = next(feed(array_set(tmp_path, 40, 32), specs=CROPS).epoch(None, START))
    assert [tuple(view.shape) for view in batch.views] == [(16, 3, 20, 20)] * 2 + [
        (16, 3, 8, 8)
    ] * 3
    areas = np.array([params.box_N4[:, 2:].prod(axis=1) / 32**2 for params in batch.params])
    assert areas[:2].min() > 0.12 and areas[2:].max() < 0.16  # sides are rounded


def test_images_of_other_channels(tmp_path: Path) -> None:
    policy = Policy(RandomCrop(), (Flip(), ChannelJitter(), BandDrop(p=1.0)))
    images = array_set(tmp_path, 40, channels=5)
    intensity = Intensity(mean=(0.0,), std=(1.0,))
    one = feed(images, specs=(ViewSpec(policy, 12, 2),), intensity=intensity)
    batch = next(one.epoch(None, START))
    assert batch.views[1].shape == (16, 5, 12, 12)
    dropped = torch.from_numpy(~batch.params[1].keep_NC)
    assert dropped.any() and torch.equal((batch.views[1] == 0).all(dim=(2, 3)), dropped)


def elsewhere() -> int:
    """torch's number of threads in a thread that has not set its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


@pytest.mark.parametrize("number", [1, 2, 3])
def test_each_thread_computes_with_one_core_and_others_as_before(number: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(number)
        for inside in make_ahead(lambda item: torch.get_num_threads(), range(9), threads=3):
            assert (inside, torch.get_num_threads(), elsewhere()) == (1, number, number)
    finally:
        torch.set_num_threads(before)


def test_an_epoch_is_a_permutation_without_its_end(tmp_path: Path) -> None:
    images = array_set(tmp_path, 101)
    for epoch in (0, 1):
        batches = list(feed(images).epoch(None, Progress(epoch, 6 * epoch, 12)))
        order = permutation(Key(5, "order", epoch), 101)
        assert rows(batches) == order[:96].tolist()
        assert torch.cat([b.draws for b in batches]).tolist() == list(range(96))


def test_views_are_those_of_the_draw(tmp_path: Path) -> None:
    images = array_set(tmp_path, 40)
    batch = next(feed(images).epoch(None, START))
    pixels = images.store.read(batch.rows.numpy()).tensors()
    assert [view.shape[-1] for view in batch.views] == [20, 20, 8]
    for view, spec in enumerate([SPECS[0], SPECS[0], SPECS[1]]):
        params = sample(
            spec.policy,
            size=spec.size,
            sizes_N2=np.full((16, 2), 8),
            draws_N=np.arange(16),
            seed=5,
            epoch=3,
            view=view,
        )
        expected = apply_policy(pixels, params, spec.policy, feed(images).intensity)
        torch.testing.assert_close(batch.views[view], expected, rtol=0, atol=1e-5)
        assert np.array_equal(batch.params[view].box_N4, params.box_N4)


def test_a_resumed_epoch_goes_on_where_it_was(tmp_path: Path) -> None:
    images = array_set(tmp_path, 101)
    whole = list(feed(images).epoch(None, START))
    assert equal(list(feed(images).epoch(None, START, skip=4)), whole[4:])
    assert list(feed(images).epoch(None, START, skip=6)) == []


def test_a_method_may_choose_rows_and_boxes_a_view(tmp_path: Path) -> None:
    images = array_set(tmp_path, 40)
    rng = np.random.default_rng(0)
    draws = Draws(rng.integers(0, 40, (40, 3)), np.tile([2, 1, 5, 4], (40, 3, 1)))
    batches = list(feed(images, labels=np.arange(40) * 10).epoch(draws, START))
    assert rows(batches) == draws.rows[:32, 0].tolist()
    assert batches[1].labels is not None
    assert torch.equal(batches[1].labels, 10 * batches[1].rows)
    for params in batches[1].params:
        top_left, size = params.box_N4[:, :2], params.box_N4[:, 2:]
        assert (top_left >= [2, 1]).all() and (top_left + size <= [7, 5]).all()
    pixels = images.store.read(draws.rows[16:32, 1]).tensors()
    second = apply_policy(pixels, batches[1].params[1], SPECS[0].policy, feed(images).intensity)
    torch.testing.assert_close(batches[1].views[1], second, rtol=0, atol=1e-5)


def test_a_row_drawn_twice_gets_two_views(tmp_path: Path) -> None:
    draws = Draws(np.zeros(40, np.int64))
    batch = next(feed(array_set(tmp_path, 40)).epoch(draws, START))
    assert len({tuple(box) for box in batch.params[0].box_N4.tolist()}) > 10


def test_a_batch_of_more_than_all_images_is_refused(tmp_path: Path) -> None:
    images = array_set(tmp_path, 40)
    with pytest.raises(ConfigError, match=r"--batch-size 41 is more than the 40 images: pass"):
        feed(images, batch_size=41)
    assert feed(images, batch_size=40).steps_per_epoch == 1
    with pytest.raises(ConfigError):
        feed(images, batch_size=0)


# --- files that go bad


def spoil(images: Images, spoilt: list[int]) -> None:
    assert images.checked.source.root is not None
    for row in spoilt:
        name = images.checked.source.names[images.checked.index_N[row]]
        (images.checked.source.root / name).write_bytes(b"no image any more")


def test_a_bad_file_is_replaced_from_the_end_of_the_order(tmp_path: Path) -> None:
    images = file_set(tmp_path, 230)
    order = permutation(Key(5, "order", 3), 230)
    clean = list(feed(images).epoch(None, START))
    spoil(images, [int(order[20]), int(order[224])])  # one that is used, one of the reserve
    found = [feed(images, threads=threads) for threads in (1, 3)]
    first, second = (list(one.epoch(None, START)) for one in found)
    assert equal(first, second)
    expected = order[:224].copy()
    expected[20] = order[225]
    assert rows(first) == expected.tolist()
    assert found[0].replaced == [images.checked.source.names[order[i]] for i in (20, 224)]
    assert torch.equal(first[1].draws, clean[1].draws)
    kept = [i for i in range(16) if i != 4]
    for view in range(3):
        assert torch.equal(first[1].views[view][kept], clean[1].views[view][kept])
        assert not torch.equal(first[1].views[view][4], clean[1].views[view][4])
    assert equal(first[:1] + first[2:], clean[:1] + clean[2:])


def test_a_bad_file_is_named_once(tmp_path: Path) -> None:
    images = file_set(tmp_path, 96)
    one = feed(images)
    spoil(images, [7])
    for epoch in range(3):
        found = list(one.epoch(None, Progress(epoch, 6 * epoch, 18)))
        assert 7 not in rows(found)
        assert all(len(set(batch.rows.tolist())) == 16 for batch in found)
    assert one.replaced == ["0007.png"]


def test_a_file_that_goes_bad_during_the_epoch(tmp_path: Path) -> None:
    images = file_set(tmp_path, 100)
    one = feed(images, threads=0)
    batches = one.epoch(None, START)
    first = next(batches)
    spoil(images, [int(permutation(Key(5, "order", 3), 100)[40])])
    rest = list(batches)
    assert len(rest) == 5 and len(one.replaced) == 1
    assert len(set(rows([first, *rest]))) == 96


def test_an_image_that_was_good_may_go_bad_later(tmp_path: Path) -> None:
    """The search for a first bad file has found all others good; one of them goes bad after it."""
    images = file_set(tmp_path, 200)
    one = feed(images)
    order = permutation(Key(5, "order", 3), 200)
    for place in (20, 25):  # in the same batch
        spoil(images, [int(order[place])])
        found = list(one.epoch(None, START))
        assert int(order[place]) not in rows(found)
    assert len(one.replaced) == 2


def test_a_bad_file_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = file_set(tmp_path, 96)
    one = feed(images)
    spoil(images, [7])
    list(one.epoch(None, START))
    asked: list[int] = []
    read = images.store.read

    def spy(rows_n: Any) -> Any:
        asked.extend(rows_n.tolist())
        return read(rows_n)

    monkeypatch.setattr(images.store, "read", spy)
    list(one.epoch(None, START))
    assert 7 not in asked and len(asked) == 96


def test_a_stand_in_is_new_to_the_batch(tmp_path: Path) -> None:
    """Where a method's order names rows several times, and pairs of them."""
    images = file_set(tmp_path, 200)
    spoil(images, [150, 151])
    order = np.arange(200).reshape(200, 1) % 100 + np.array([0, 0, 1])
    order[3, 2], order[5, 0] = 150, 151
    order[192:] = [[2, 2, 2], [170, 171, 9], [180, 180, 180], [180, 180, 180], *[[190] * 3] * 4]
    first = next(feed(images).epoch(Draws(order), START))
    expected = order[:16, 0].copy()
    expected[[3, 5]] = 180, 190
    assert first.rows.tolist() == expected.tolist()


def test_a_store_that_was_decoded_without_the_file(tmp_path: Path) -> None:
    good = file_set(tmp_path, 100)
    encoded = list(feed(good).epoch(None, START))
    spoil(good, [3])
    changed = list(feed(good).epoch(None, START))
    from selftaught.data.store import open_store

    store = open_store(good.checked, machine=Machine(cache=tmp_path / "other"), form="memory")
    decoded = feed(Images(good.checked, store))
    assert equal(list(decoded.epoch(None, START)), changed) and not equal(changed, encoded)
    assert decoded.replaced == ["0003.png"]


def test_more_than_one_in_a_hundred_stops_the_run(tmp_path: Path) -> None:
    images = file_set(tmp_path, 250)
    spoil(images, [1, 2])
    assert len(list(feed(images).epoch(None, START))) == 15
    spoil(images, [3])
    with pytest.raises(DataError, match="3 of 250 images have gone bad"):
        list(feed(images).epoch(None, START))
    assert not our_threads()


def test_no_image_is_left_to_stand_in(tmp_path: Path) -> None:
    images = file_set(tmp_path, 16)
    spoil(images, [1])
    with pytest.raises(DataError, match=r"0001\.png has gone bad"):
        list(feed(images).epoch(None, START))


# --- threads


def test_closing_ends_the_threads(tmp_path: Path) -> None:
    images = array_set(tmp_path, 130, 32)
    batches = feed(images, threads=5).epoch(None, START)
    next(batches)
    assert len(our_threads()) == 5
    batches.close()
    assert not our_threads()
    with pytest.raises(KeyError), closing(feed(images).epoch(None, START)) as batches:
        for _ in batches:
            raise KeyError
    assert not our_threads()


def test_the_queue_is_bounded_and_ordered() -> None:
    made: list[int] = []

    def make(item: int) -> int:
        time.sleep(0.001 * (item % 3))
        made.append(item)
        return item

    got = []
    for item in make_ahead(make, range(40), threads=3):
        got.append(item)
        time.sleep(0.002)
        assert len(made) - len(got) <= 3 + 2
    assert got == list(range(40)) and sorted(made) == got


def test_a_failure_arrives_in_its_turn() -> None:
    def make(item: int) -> int:
        if item == 3:
            raise DataError("x is bad", "repair it")
        return item

    got = []
    with pytest.raises(DataError, match="x is bad"):
        for item in make_ahead(make, range(10), threads=2):
            got.append(item)
    assert got == [0, 1, 2] and not our_threads()


def test_nothing_is_made_ahead_without_threads() -> None:
    made: list[int] = []
    for item in make_ahead(made.append, range(5), threads=0):
        assert item is None
        assert len(made) <= 5
        break
    assert made == [0]
