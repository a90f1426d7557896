"""Whitening: PCA's definition, scikit-learn's PCA, input of any kind, and degenerate rows."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize

from selftaught.clustering import whitening
from selftaught.clustering.whitening import Whitening
from selftaught.errors import FileError, UserError
from selftaught.foundation import files
from tests.oracles import whitening as oracle


def rows(N: int = 60, D: int = 7, seed: int = 0) -> np.ndarray:
    """Correlated columns of different scales, far from 0."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(N, D)) @ rng.normal(size=(D, D)) * np.geomspace(1, 5, D) + 30


@pytest.mark.parametrize(("size", "floor"), [(4, 1e-5), (9, 1e-5), (9, 0.1)])
def test_it_is_what_its_definition_says(size, floor):
    x, new = rows(12, 5), rows(4, 5, seed=1)
    found = Whitening.fit(x, size, floor)(new)
    np.testing.assert_allclose(found, oracle.whitened(x, new, size, floor), rtol=0, atol=1e-10)


def test_the_oracles_eigenvectors_are_eigenvectors():
    square = np.cov(rows().T)
    values, vectors = oracle.jacobi(square)
    np.testing.assert_allclose(square @ vectors, vectors * values, rtol=0, atol=1e-9)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(7), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("N", "D", "size"), [(60, 7, 3), (60, 7, 256), (9, 20, 256), (2, 3, 256)])
def test_it_is_scikit_learns_pca_with_unit_rows(N, D, size):
    x, new = rows(N, D), rows(5, D, seed=1)
    P = min(size, D, N - 1)
    theirs = PCA(P, whiten=True, svd_solver="full").fit(x)
    expected = normalize(theirs.transform(new))
    found = Whitening.fit(x, size)
    assert found(new).shape == (5, P) and found(new).dtype == torch.float64
    same = np.sign((found.components_PD.numpy() * theirs.components_).sum(1))
    np.testing.assert_allclose(found(new), expected * same, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.variances_P, theirs.explained_variance_, rtol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(-1e3, 1e3), st.integers(0, 9))
def test_neither_scale_nor_place_matter(scale, shift, seed):
    x = rows(seed=seed)
    np.testing.assert_allclose(
        Whitening.fit(x * scale + shift)(x * scale + shift), Whitening.fit(x)(x), rtol=0, atol=1e-6
    )


def test_rows_have_unit_length_and_directions_variance_one():
    x = torch.from_numpy(rows(400))
    fitted = Whitening.fit(x)
    assert torch.allclose(fitted(x).norm(dim=1), torch.ones(400, dtype=torch.float64))
    y = (x - fitted.mean_D) @ fitted.components_PD.T / fitted.variances_P.sqrt()
    assert torch.allclose(torch.cov(y.T), torch.eye(7, dtype=torch.float64), atol=1e-9)


def test_small_eigenvalues_are_raised_to_the_floor():
    x = rows(50, 3)
    x = np.concatenate([x, x[:, :1]], axis=1)  # a column twice: an eigenvalue of 0
    fitted = Whitening.fit(x)
    assert fitted.variances_P[3] == 1e-5 * fitted.variances_P[0]
    assert torch.isfinite(fitted(x)).all()
    assert fitted(x)[:, 3].abs().max() < 1e-9


@pytest.mark.parametrize("block", [1, 8, 50, 10**6])
@pytest.mark.parametrize("kind", ["float16", "float32", "bfloat16", "memory map"])
def test_input_of_any_kind_in_blocks_of_any_size(kind, block, monkeypatch, tmp_path):
    x = rows(20, 4) - 30
    if kind == "memory map":
        np.save(tmp_path / "x.npy", x.astype(np.float16))
        x = np.load(tmp_path / "x.npy", mmap_mode="r")
    elif kind == "bfloat16":
        x = torch.from_numpy(x).bfloat16()
    else:
        x = x.astype(kind)
    exact = torch.as_tensor(np.array(x) if isinstance(x, np.ndarray) else x).double()
    monkeypatch.setattr(whitening, "_BLOCK", block)
    found = Whitening.fit(x)
    assert found(x).dtype == torch.float32
    torch.testing.assert_close(found(x).double(), Whitening.fit(exact)(exact), rtol=0, atol=1e-6)
    torch.testing.assert_close(found(x[3:4]), found(x)[3:4], rtol=0, atol=1e-6)


def test_float32_far_from_zero_keeps_its_digits():
    x = (rows(200, 5) + 3e4).astype(np.float32)
    exact = x.astype(np.float64)
    torch.testing.assert_close(
        Whitening.fit(x)(x).double(), Whitening.fit(exact)(exact), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (7, 1), (30, 5)])
def test_rows_that_are_all_equal_become_zero(value, shape):
    x = np.full(shape, value)
    fitted = Whitening.fit(x)
    assert fitted(x).shape == (shape[0], max(1, min(shape[1], shape[0] - 1)))
    assert not fitted(x).any() and not fitted.variances_P.any()
    assert not fitted(x + 1).any()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rows_that_differ_by_a_rounding_are_equal(dtype):
    x = np.broadcast_to(rows(1, 64), (257, 64)).astype(dtype)
    x[256] = np.nextafter(x[256], dtype(np.inf))  # as of a batch of another size
    assert (x[0] != x[256]).all()
    assert not Whitening.fit(x)(x).any()
    apart = x.copy()
    apart[::2] *= dtype(1.01)
    assert Whitening.fit(apart)(apart).any()


def test_what_is_no_table_of_vectors_is_refused():
    x = rows(20, 4)
    for wrong, size in ((x[0], 2), (x[:0], 2), (x[:, :0], 2), (x, 0)):
        with pytest.raises(UserError, match="pass one row per vector"):
            Whitening.fit(wrong, size)
    for wrong in (x[0], x[:, :3]):
        with pytest.raises(UserError, match="pass rows of 4 numbers"):
            Whitening.fit(x)(wrong)
    whole = np.rint(9 * x).astype(np.int32)
    torch.testing.assert_close(
        Whitening.fit(whole)(whole).double(),
        Whitening.fit(whole.astype(float))(whole.astype(float)),
        rtol=0,
        atol=1e-5,
    )


def test_equal_rows_among_others_and_one_column():
    assert Whitening.fit(np.array([[1.0], [1.0], [4.0]]))(
        np.array([[0.0], [2.0], [9.0]])
    ).tolist() == [[-1], [0], [1]]
    x = np.repeat(rows(3), 5, axis=0)
    assert torch.isfinite(Whitening.fit(x)(x)).all()


@pytest.mark.parametrize("seed", range(8))
def test_signs_do_not_follow_rounding(seed):
    """Two columns of equal variance: both entries of each eigenvector are equally large."""
    x = np.random.default_rng(seed).normal(size=(40, 2))
    x = (x - x.mean(0)) / x.std(0)
    np.testing.assert_allclose(Whitening.fit(x).components_PD[:, 0], 0.5**0.5, rtol=1e-6)


def test_no_rows_and_no_numbers_are_refused():
    with pytest.raises(UserError, match="pass one row per vector"):
        Whitening.fit(np.zeros((0, 3)))
    for wrong in (np.nan, np.inf):
        x = rows(5, 3)
        x[4, 1] = wrong
        with pytest.raises(UserError, match="not finite"):
            Whitening.fit(x)


def test_its_state_comes_back_to_the_bit(tmp_path):
    fitted = Whitening.fit(rows())
    files.save_tensors(tmp_path / "whitening.safetensors", fitted.tensors())
    again = Whitening.from_tensors(files.load_tensors(tmp_path / "whitening.safetensors"))
    assert torch.equal(again(rows(seed=1)), fitted(rows(seed=1)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        again.mean_D = torch.zeros(7)


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": None},
        {"mean": torch.zeros(6).double()},
        {"mean": torch.zeros(7)},
        {"variances": torch.zeros(7, 1).double()},
        {"components": torch.full((7, 7), torch.nan).double()},
    ],
)
def test_a_state_that_does_not_fit_is_refused(changes):
    state = Whitening.fit(rows()).tensors() | changes
    with pytest.raises(FileError, match="the whitening's tensors"):
        Whitening.from_tensors({name: t for name, t in state.items() if t is not None})
