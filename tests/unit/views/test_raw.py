"""Raw pixels in one flat array: every image is found again, wherever it lies."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from selftaught.views.raw import Raw

SIZES = st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=9)
DTYPES = st.sampled_from(["uint8", "uint16", "float32"])


def arrays(
    sizes: list[tuple[int, int]], channels: int = 3, dtype: str = "uint8"
) -> list[NDArray[Any]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, channels)).astype(dtype) for size in sizes]


def equal(found: list[NDArray[Any]], images: list[NDArray[Any]]) -> bool:
    pairs = zip(found, images, strict=True)
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


@given(SIZES, st.integers(1, 5), DTYPES)
def test_images_come_out_as_they_went_in(
    sizes: list[tuple[int, int]], channels: int, dtype: str
) -> None:
    images = arrays(sizes, channels, dtype)
    raw = Raw.of(images)
    assert len(raw) == len(images) and raw.channels == channels
    assert raw.sizes_N2.tolist() == [list(size) for size in sizes]
    assert equal(raw.images(), images)
    assert raw.one_size == (len(set(sizes)) == 1)
    assert equal([np.asarray(one) for one in raw.tensors()], images)


@given(SIZES, st.data())
def test_images_may_lie_anywhere_and_twice(
    sizes: list[tuple[int, int]], data: st.DataObject
) -> None:
    images = arrays(sizes)
    whole = Raw.of(images)
    rows = data.draw(st.lists(st.integers(0, len(images) - 1), min_size=1, max_size=9))
    raw = Raw(whole.flat, whole.starts_N[rows], whole.sizes_N2[rows], whole.channels)
    assert equal(raw.images(), [images[row] for row in rows])
    assert equal(raw[1:].images(), raw.images()[1:])
    assert equal([np.asarray(one) for one in raw.tensors()], raw.images())


def test_an_array_is_taken_as_it_is_and_a_strided_one_is_copied() -> None:
    array = np.stack(arrays([(4, 5)] * 6))
    raw = Raw.of(array)
    assert np.shares_memory(raw.flat, array) and all(
        np.shares_memory(part, array) for part in (raw.image(3), raw[2:].flat)
    )
    for strided in (array[::2], array[:, ::-1], array[:, :, :3], array.transpose(0, 2, 1, 3)):
        for images in (strided, list(strided)):
            found = Raw.of(images)
            assert found.flat.flags.c_contiguous and equal(found.images(), list(strided))


@pytest.mark.parametrize(("sizes", "shared"), [([(4, 5)] * 3, False), ([(4, 5), (2, 3)], True)])
def test_tensors_of_one_size_are_one_tensor(sizes: list[tuple[int, int]], shared: bool) -> None:
    raw = Raw.of(arrays(sizes))
    tensors = raw.tensors()
    assert isinstance(tensors, torch.Tensor) != shared
    assert np.shares_memory(np.asarray(tensors[0]), raw.flat) == shared
