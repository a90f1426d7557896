"""NT-Xent in tiles: against the dense form, against double loops, by gradcheck, by its memory."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from selftaught.methods.simclr import nt_xent, unit
from selftaught.pairwise import contrast
from tests.oracles import nt_xent as oracle

T = contrast.TILE


def unit_rows(Q: int, D: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Rows of which each pair points in about the same direction."""
    numbers = torch.Generator().manual_seed(seed)
    z, noise = torch.randn(2, Q // 2, 1, D, generator=numbers, dtype=torch.float64)
    pairs = torch.cat([z, z + 0.3 * noise], dim=1)
    return unit(pairs.flatten(0, 1)).to(dtype)


def views(N: int, D: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    rows = unit_rows(2 * N, D, N, dtype)
    return [2 * rows[n::2].clone() for n in (0, 1)]


def dense(query_QD: Tensor, key_KD: Tensor, tau: float, first: int = 0) -> Tensor:
    """What is computed in tiles, the plain way."""
    image_Q = (first + torch.arange(len(query_QD))) // 2
    own = image_Q[:, None] == torch.arange(len(key_KD)) // 2
    return (query_QD @ key_KD.T / tau).masked_fill(own, -math.inf).logsumexp(1)


def cross_entropy(z0_ND: Tensor, z1_ND: Tensor, tau: float) -> Tensor:
    """Eq. 1 with the whole matrix of cosines."""
    z = F.normalize(torch.cat([z0_ND, z1_ND]), dim=1)
    s = (z @ z.T / tau).fill_diagonal_(-math.inf)
    return F.cross_entropy(s, torch.arange(len(z)).roll(len(z0_ND)))


def value_and_gradients(loss, *inputs: Tensor) -> list[Tensor]:
    inputs = tuple(x.clone().requires_grad_() for x in inputs)
    value = loss(*inputs)
    return [value.detach(), *torch.autograd.grad(value, inputs)]


# Eq. 1, above and below the size at which tiles begin.


@pytest.mark.parametrize("tau", [1.0, 0.1, 0.05, 0.01, 0.002])
@pytest.mark.parametrize("N", [T // 2 - 1, T // 2, T // 2 + 1, T, 700])
def test_float64_equals_the_dense_form(N: int, tau: float) -> None:
    z = views(N, 5)
    ours = value_and_gradients(lambda a, b: nt_xent(a, b, tau), *z)
    wanted = value_and_gradients(lambda a, b: cross_entropy(a, b, tau), *z)
    for found, expected in zip(ours, wanted, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("tau", [0.5, 0.1, 0.02])
@pytest.mark.parametrize("N", [T // 2, 700])
def test_float32_gradient_is_within_1e_5_of_its_largest_entry(N: int, tau: float) -> None:
    z = views(N, 32, torch.float32)
    ours = value_and_gradients(lambda a, b: nt_xent(a, b, tau), *z)
    wanted = value_and_gradients(lambda a, b: cross_entropy(a, b, tau), *(x.double() for x in z))
    assert ours[0].item() == pytest.approx(wanted[0].item(), rel=1e-5)
    for found, expected in zip(ours[1:], wanted[1:], strict=True):
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("tau", [0.5, 0.05])
def test_equals_algorithm_1_in_loops(tau: float) -> None:
    z0, z1 = views(T // 2 + 3, 3)
    expected = oracle.nt_xent(z0.numpy(), z1.numpy(), tau)
    assert nt_xent(z0, z1, tau).item() == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_constant_z_gives_ln_2n_minus_1(dtype: torch.dtype) -> None:
    z = torch.full((T, 16), 0.3, dtype=dtype)
    assert nt_xent(z, z, 0.1).item() == pytest.approx(math.log(2 * T - 1), rel=1e-6)


def test_positives_that_are_found_without_doubt_have_an_exact_loss_in_float32() -> None:
    """1 - P of the positive is a sum, not a difference: a loss of 1e-8 keeps its digits."""
    z = torch.eye(T, dtype=torch.float32)
    expected = math.log1p((2 * T - 2) * math.exp(-1 / 0.04))
    assert expected < 2e-8
    assert nt_xent(z, z, 0.04).item() == pytest.approx(expected, rel=2e-5)


def test_zero_rows_and_short_ones_give_finite_numbers() -> None:
    z0, z1 = views(T // 2, 16, torch.float32)
    z0[3], z1[5], z0[7] = 0, 0, 1e-8
    value, *gradients = value_and_gradients(lambda a, b: nt_xent(a, b, 0.1), z0, z1)
    assert value.isfinite() and all(g.isfinite().all() for g in gradients)


def test_a_nan_is_not_hidden() -> None:
    z0, z1 = views(T, 4)
    z0[T // 2, 1] = math.nan
    assert nt_xent(z0, z1, 0.1).isnan()


@pytest.mark.parametrize("images", [T // 2, T])
def test_autocast_changes_nothing(images: int) -> None:
    z = views(images, 32, torch.float32)
    plain = value_and_gradients(lambda a, b: nt_xent(a, b, 0.1), *z)
    with torch.autocast("cpu", torch.bfloat16):
        inside = value_and_gradients(lambda a, b: nt_xent(a, b, 0.1), *z)
    assert all(torch.equal(a, b) for a, b in zip(plain, inside, strict=True))


# The sum of the exponentials.

shapes = given(
    before=st.integers(0, 9),
    own=st.integers(1, 9),
    after=st.integers(1, 9),
    D=st.integers(1, 5),
    tau=st.sampled_from([1.0, 0.2]),
    seed=st.integers(0, 2**32),
    side=st.sampled_from([2, 4, 6]),
)


@shapes
@settings(deadline=None)
def test_any_part_of_any_keys(
    before: int, own: int, after: int, D: int, tau: float, seed: int, side: int
) -> None:
    """Small tiles: every way in which images can lie across their borders."""
    keys = unit_rows(2 * (before + own + after), D, seed)
    queries = keys[2 * before : 2 * (before + own)].clone()
    weights = unit_rows(2 * own, 1, seed + 1)[:, 0]  # of either sign
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contrast, "TILE", side)
        ours = value_and_gradients(
            lambda q, k: (contrast.log_sum_exp(q, k, tau, 2 * before) * weights).sum(),
            *(queries, keys),
        )
        alone = value_and_gradients(lambda k: contrast.log_sum_exp(k, k, tau).square().sum(), keys)
    wanted = value_and_gradients(
        lambda q, k: (dense(q, k, tau, 2 * before) * weights).sum(), queries, keys
    )
    wanted_alone = value_and_gradients(lambda k: dense(k, k, tau).square().sum(), keys)
    for found, expected in zip([*ours, *alone], [*wanted, *wanted_alone], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("side", [4, 100])
def test_gradients_by_differences(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrast, "TILE", side)
    keys, queries = unit_rows(14, 3).requires_grad_(), unit_rows(14, 3)[4:10].requires_grad_()
    assert torch.autograd.gradcheck(lambda k: contrast.log_sum_exp(k, k, 0.5), keys)
    rectangular = torch.autograd.gradcheck(
        lambda q, k: contrast.log_sum_exp(q, k, 0.5, 4), (queries, keys)
    )
    assert rectangular


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("keys", [T, 8192, 10**6])
def test_the_lowest_temperature_that_fits_leaves_every_number_normal(
    keys: int, dtype: torch.dtype
) -> None:
    lowest = next(tau for n in range(1, 1000) if contrast.can_tile(keys, tau := n / 10_000, dtype))
    assert lowest < {torch.float32: 0.02, torch.float64: 0.0016}[dtype]
    tiny = torch.finfo(dtype).tiny
    least, most = (torch.tensor([x / lowest], dtype=dtype).exp() for x in (-1, 1))
    for number in (least, keys * most, 1 / least, 1 / (keys * most), 1 / keys / (keys * most)):
        assert number.isfinite() and number >= tiny


def test_few_keys_are_left_to_the_dense_form() -> None:
    assert not contrast.can_tile(T - 2, 0.1, torch.float32)


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest tensor has that any operation returns."""

    size = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else [result]:
            if isinstance(x, Tensor):
                self.size = max(self.size, x.numel())
        return result


@pytest.mark.parametrize("loss", [nt_xent, cross_entropy])
def test_the_matrix_of_all_pairs_never_exists(loss) -> None:
    z = views(T, 4)
    with Largest() as largest:
        value_and_gradients(lambda a, b: loss(a, b, 0.1), *z)
    assert largest.size == (T**2 if loss is nt_xent else (2 * T) ** 2)


# What the log shows.


@pytest.mark.parametrize("block", [1, 40, 10**6])
def test_accuracy_is_the_share_of_positives_that_are_nearest(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contrast, "_BLOCK", block)
    keys = unit_rows(60, 3)
    s = (keys @ keys.T).fill_diagonal_(-2)
    right = s.argmax(1) == torch.arange(60) ^ 1
    assert 0.1 < right.double().mean() < 0.9
    assert contrast.contrastive_accuracy(keys, keys) == right.double().mean().item()
    assert contrast.contrastive_accuracy(keys[8:22], keys, 8) == right[8:22].double().mean().item()
