"""Elastic data order: processes and threads change neither order nor pixels."""

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from selftaught.data.batch import Progress
from selftaught.data.feed import Feed
from selftaught.data.store import Images
from selftaught.errors import ConfigError
from selftaught.foundation import distributed
from selftaught.views.policy import ViewSpec, simclr_cifar
from tests.support import gloo
from tests.support.sets import array_set, file_set

pytestmark = pytest.mark.slow

N, BATCH = 1001, 100
Line = tuple[int, int, list[int]]  # row, draw, box
Part = tuple[list[list[Line]], list[Tensor], list[str]]


def epoch(images: Images, threads: int) -> Part:
    """What this process gets of each batch of an epoch, and the files that were replaced."""
    specs = (ViewSpec(simclr_cifar(), 8, 2),)
    feed = Feed(images, specs=specs, batch_size=BATCH, seed=3, threads=threads)
    lines, views = [], []
    for batch in feed.epoch(None, Progress(2, 20, 30)):
        boxes = batch.params[1].box_N4.tolist()
        lines.append(list(zip(batch.rows.tolist(), batch.draws.tolist(), boxes, strict=True)))
        views.append(torch.stack(batch.views, dim=1))
    return lines, views, feed.replaced


def array_epoch(folder: Path, threads: int) -> Part:
    return epoch(array_set(folder, N), threads)


def spoilt_epoch(folder: Path, bad: tuple[str, ...]) -> Part:
    """An epoch with files that go bad after the check."""
    images = file_set(folder, 300)
    distributed.any_process(False)  # every process has checked the good files
    for name in bad:
        (folder / "images" / name).write_bytes(b"no image any more")
    distributed.any_process(False)
    return epoch(images, 2)


def joined(parts: list[Part]) -> Part:
    """Global batches: the processes' parts in the order of their ranks."""
    lines, views, replaced = zip(*parts, strict=True)
    whole = [[line for part in batch for line in part] for batch in zip(*lines, strict=True)]
    pixels = [torch.cat(batch) for batch in zip(*views, strict=True)]
    return whole, pixels, sorted({name for names in replaced for name in names})


def equal(a: Part, b: Part) -> bool:
    """The same order and boxes; pixels to rounding, for products are blocked differently."""
    close = [torch.allclose(x, y, rtol=0, atol=1e-5) for x, y in zip(a[1], b[1], strict=True)]
    return a[0] == b[0] and all(close) and a[2] == b[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("order")
    array_set(path, N)
    return path


@cache
def truth(folder: Path) -> Part:
    return array_epoch(folder, 0)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("threads", [0, 1, 3])
def test_elastic_order(folder: Path, world: int, threads: int) -> None:
    found = joined(gloo.run(world, array_epoch, folder, threads))
    assert equal(found, truth(folder))
    rows = [row for batch in found[0] for row, _, _ in batch]
    assert [len(batch) for batch in found[0]] == [BATCH] * (N // BATCH)
    assert len(set(rows)) == len(rows) == 1000 and not found[2]


def test_bad_files_are_replaced_alike_by_all(tmp_path: Path) -> None:
    """Two files of one global batch go bad, on two processes where there are several: each gets a
    stand-in of its own, the same as one process finds. The epoch uses every image, so there is no
    reserve."""
    images = file_set(tmp_path, 300)
    clean, _, _ = epoch(images, 1)
    bad = tuple(images.checked.source.names[clean[1][place][0]] for place in (3, 97))
    found = {}
    for world in (1, 2, 4):
        for name in bad:
            (tmp_path / "images" / name).unlink(missing_ok=True)
        file_set(tmp_path, 300)  # writes the missing files again
        found[world] = joined(gloo.run(world, spoilt_epoch, tmp_path, bad))
    assert equal(found[1], found[2]) and equal(found[1], found[4])
    first, second, third = found[1][0]
    changed = [place for place in range(BATCH) if second[place] != clean[1][place]]
    assert changed == [3, 97] and len({row for row, _, _ in second}) == BATCH
    assert first == clean[0] and third == clean[2]
    assert found[1][2] == sorted(bad)


def uneven(folder: Path) -> str:
    with pytest.raises(ConfigError) as error:
        Feed(array_set(folder, N), specs=(), batch_size=101, seed=0)
    return str(error.value)


def test_processes_must_divide_the_batch(folder: Path) -> None:
    for text in gloo.run(2, uneven, folder):
        assert "--batch-size 101" in text and "multiple of 2" in text
