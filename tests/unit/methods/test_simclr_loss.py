"""NT-Xent and InfoNCE: against Algorithm 1 in loops, by property, and on hostile input."""

import math
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss import NTXentLoss
from torch import Tensor

from selftaught.errors import UserError
from selftaught.methods.simclr import cosine, info_nce, nt_xent, unit
from tests.oracles import nt_xent as oracle

TEMPERATURES = [1.0, 0.5, 0.1, 0.07, 0.05, 0.01]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def pair(N: int, D: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """First views and second views, a tenth of noise apart."""
    numbers = torch.Generator().manual_seed(seed)
    z0, noise = torch.randn(2, N, D, generator=numbers, dtype=torch.float64)
    return z0.to(dtype), (z0 + 0.1 * noise).to(dtype)


@cache
def grid_point(N: int, D: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, list[list[float]]]:
    z0, z1 = pair(N, D, 1000 * N + D, dtype)
    rounded = oracle.interleave(z0.double().numpy(), z1.double().numpy())
    return z0, z1, oracle.similarity(rounded)


# The oracle, by hand.


def test_oracle_on_two_orthogonal_pairs() -> None:
    # Every view: exp(1) to its positive, exp(0) to two negatives.
    z = torch.eye(2, dtype=torch.float64).numpy()
    assert oracle.nt_xent(z, z, 1.0) == pytest.approx(math.log(1 + 2 / math.e), abs=1e-15)


def test_oracle_where_positives_are_orthogonal() -> None:
    # Both images have the views (1, 0) and (0, 2): a view meets its positive at cosine 0, the
    # other image's views at 1 and 0. tau = 1/2 makes that 2 and 0.
    z0 = torch.tensor([[1.0, 0.0], [3.0, 0.0]], dtype=torch.float64).numpy()
    z1 = torch.tensor([[0.0, 2.0], [0.0, 1.0]], dtype=torch.float64).numpy()
    assert oracle.nt_xent(z0, z1, 0.5) == pytest.approx(math.log(2 + math.e**2), abs=1e-15)


# N1: the grid.


@pytest.mark.parametrize("tau", TEMPERATURES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("D", [1, 2, 128])
@pytest.mark.parametrize("N", [2, 3, 32, 256])
def test_n1_equals_algorithm_1(N: int, D: int, dtype: torch.dtype, tau: float) -> None:
    z0, z1, s = grid_point(N, D, dtype)
    z0, z1 = z0.clone().requires_grad_(), z1.clone().requires_grad_()
    loss = nt_xent(z0, z1, tau)
    loss.backward()
    expected = oracle.loss(s, tau)
    assert abs(loss.item() - expected) <= 1e-5 * abs(expected) + 2e-6
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert z0.grad.isfinite().all() and z1.grad.isfinite().all()


@pytest.mark.parametrize("tau", TEMPERATURES)
def test_float64_equals_algorithm_1_to_its_own_rounding(tau: float) -> None:
    z0, z1 = pair(32, 3, 5)
    expected = oracle.nt_xent(z0.numpy(), z1.numpy(), tau)
    assert nt_xent(z0, z1, tau).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("tau", [1.0, 0.1, 0.01])
def test_lightly_as_a_second_opinion(tau: float) -> None:
    z0, z1 = pair(16, 8, 6)
    theirs = NTXentLoss(temperature=tau)(z0, z1)
    assert nt_xent(z0, z1, tau).item() == pytest.approx(theirs.item(), rel=1e-9)


# InfoNCE, Eq. 4.1 of the lecture.


def test_info_nce_by_hand() -> None:
    query = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    positive, negatives = query * 2, torch.tensor([[0.0, 1.0], [-5.0, 0.0]], dtype=torch.float64)
    by_hand = -math.log(math.e / (math.e + 1 + 1 / math.e))
    assert info_nce(query, positive, negatives).item() == pytest.approx(by_hand, abs=1e-15)


def test_info_nce_takes_another_score_and_temperature() -> None:
    query = torch.tensor([[3.0]], dtype=torch.float64)
    positive, negatives = torch.tensor([[2.0]]).double(), torch.tensor([[[1.0], [0.0]]]).double()
    loss = info_nce(query, positive, negatives, lambda q, k: q @ k[0].T, 2.0)
    by_hand = -math.log(math.e**3 / (math.e**3 + math.e**1.5 + 1))
    assert loss.item() == pytest.approx(by_hand, abs=1e-15)


@pytest.mark.parametrize("tau", [1.0, 0.1])
@pytest.mark.parametrize("N", [2, 5])
def test_nt_xent_is_info_nce_with_2n_minus_2_negatives(N: int, tau: float) -> None:
    z0, z1 = pair(N, 4, 7)
    z = torch.cat([z0, z1])
    others = [[k for k in range(2 * N) if k % N != i % N] for i in range(2 * N)]
    negatives = z[torch.tensor(others)]
    assert negatives.shape == (2 * N, 2 * N - 2, 4)
    positives = torch.cat([z1, z0])
    torch.testing.assert_close(
        nt_xent(z0, z1, tau), info_nce(z, positives, negatives, tau=tau), rtol=1e-13, atol=0
    )


def test_shared_negatives_are_each_querys_own() -> None:
    query, positive = pair(4, 3, 8)
    shared = pair(6, 3, 9)[0]
    own = shared.expand(4, 6, 3)
    torch.testing.assert_close(info_nce(query, positive, shared), info_nce(query, positive, own))


def test_cosine_is_torchs() -> None:
    query, keys = pair(5, 7, 1)[0], torch.stack(pair(5, 7, 2), dim=1)
    expected = torch.cosine_similarity(query[:, None], keys, dim=-1)
    torch.testing.assert_close(cosine(query, keys), expected, rtol=1e-12, atol=1e-12)


def test_info_nce_without_negatives_is_refused() -> None:
    z = torch.ones(2, 3)
    with pytest.raises(UserError, match="no negatives"):
        info_nce(z, z, torch.empty(2, 0, 3))


# N2: gradients.


@pytest.mark.parametrize("tau", [1.0, 0.1])
def test_n2_gradient_of_nt_xent(tau: float) -> None:
    z0, z1 = (z.requires_grad_() for z in pair(3, 4, 10))
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, tau), (z0, z1))


@pytest.mark.parametrize("shape", [(3, 5, 4), (5, 4)])
def test_n2_gradient_of_info_nce(shape: tuple[int, ...]) -> None:
    query, positive = (z.requires_grad_() for z in pair(3, 4, 11))
    negatives = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    inputs = (query, positive, negatives.requires_grad_())
    assert torch.autograd.gradcheck(lambda q, p, n: info_nce(q, p, n, tau=0.5), inputs)


# N3: properties.

cases = given(
    N=st.integers(2, 12),
    D=st.integers(1, 9),
    tau=st.sampled_from(TEMPERATURES),
    seed=st.integers(0, 2**32),
)
equal = {"rtol": 1e-9, "atol": 1e-11}


@cases
@settings(deadline=None)
def test_n3_views_may_be_swapped(N: int, D: int, tau: float, seed: int) -> None:
    z0, z1 = pair(N, D, seed)
    torch.testing.assert_close(nt_xent(z0, z1, tau), nt_xent(z1, z0, tau), **equal)


@cases
@settings(deadline=None)
def test_n3_images_may_be_permuted(N: int, D: int, tau: float, seed: int) -> None:
    z0, z1 = pair(N, D, seed)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(nt_xent(z0[order], z1[order], tau), nt_xent(z0, z1, tau), **equal)


@cases
@settings(deadline=None)
def test_n3_space_may_be_rotated(N: int, D: int, tau: float, seed: int) -> None:
    z0, z1 = pair(N, D, seed)
    rotation = torch.linalg.qr(torch.cat(pair(D, D, seed + 1))[:D]).Q
    turned = nt_xent(z0 @ rotation, z1 @ rotation, tau)
    torch.testing.assert_close(turned, nt_xent(z0, z1, tau), **equal)


@cases
@settings(deadline=None)
def test_n3_rows_may_be_scaled(N: int, D: int, tau: float, seed: int) -> None:
    z0, z1 = pair(N, D, seed)
    scales = torch.rand(2, N, 1, generator=torch.Generator().manual_seed(seed)).double() * 9 + 1
    scaled = nt_xent(z0 * scales[0], z1 * scales[1], tau)
    torch.testing.assert_close(scaled, nt_xent(z0, z1, tau), **equal)


@cases
@settings(deadline=None)
def test_n3_lower_bound(N: int, D: int, tau: float, seed: int) -> None:
    # At best a view is at cosine 1 to its positive and at -1 to all others.
    least = math.log1p((2 * N - 2) * math.exp(-2 / tau))
    assert nt_xent(*pair(N, D, seed), tau).item() >= least - 1e-12


@cases
@settings(deadline=None)
def test_n3_constant_z_gives_ln_2n_minus_1(N: int, D: int, tau: float, seed: int) -> None:
    z = pair(1, D, seed)[0].expand(N, D)
    assert nt_xent(z, z, tau).item() == pytest.approx(math.log(2 * N - 1), rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_constant_z_in_every_type(dtype: torch.dtype) -> None:
    z = torch.full((64, 16), 0.3, dtype=dtype)
    assert nt_xent(z, z, 0.01).item() == pytest.approx(math.log(127), rel=1e-6)


# N4: hostile input.


def loss_and_gradient(z0: Tensor, z1: Tensor, tau: float = 0.1) -> tuple[Tensor, Tensor]:
    z0, z1 = z0.clone().requires_grad_(), z1.clone().requires_grad_()
    loss = nt_xent(z0, z1, tau)
    loss.backward()
    return loss.detach(), torch.cat([z0.grad, z1.grad])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_n4_zero_rows_give_finite_numbers(dtype: torch.dtype) -> None:
    z0, z1 = pair(8, 16, 12, dtype)
    z0[3], z1[5] = 0, 0
    loss, gradient = loss_and_gradient(z0, z1)
    assert loss.isfinite()
    if dtype != torch.float16:  # float16 ends at 65,504: the gradient of a zero row is beyond it
        assert gradient.isfinite().all() and gradient.abs().max() < 1e8


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [1e4, 1e-8])
def test_n4_long_and_short_rows_give_finite_numbers(scale: float, dtype: torch.dtype) -> None:
    z0, z1 = pair(8, 16, 13)
    loss, gradient = loss_and_gradient((z0 * scale).to(dtype), (z1 * scale).to(dtype))
    assert loss.isfinite()
    if scale > 1 or dtype != torch.float16:
        assert gradient.isfinite().all()


def test_n4_long_rows_change_nothing() -> None:
    z0, z1 = pair(8, 16, 13, torch.float32)
    torch.testing.assert_close(nt_xent(z0 * 1e4, z1 * 1e4, 0.1), nt_xent(z0, z1, 0.1))


def test_n4_duplicates_of_an_image() -> None:
    z0, z1 = pair(8, 16, 14)
    z0[1], z1[1] = z0[0], z1[0]  # image 1 is image 0: a negative as similar as the positive
    loss, gradient = loss_and_gradient(z0, z1, 0.01)
    assert loss.item() == pytest.approx(oracle.nt_xent(z0.numpy(), z1.numpy(), 0.01), rel=1e-10)
    assert gradient.isfinite().all()


def test_n4_a_nan_is_not_hidden() -> None:
    z0, z1 = pair(8, 16, 15)
    z0[2, 3] = math.nan
    assert nt_xent(z0, z1, 0.1).isnan()


def test_n4_one_image_has_no_negatives() -> None:
    with pytest.raises(UserError, match=r"no negatives.*--batch-size"):
        nt_xent(torch.ones(1, 3), torch.ones(1, 3), 0.1)


# Precision.


@pytest.mark.parametrize("tau", [0.1, 0.01])
def test_autocast_changes_nothing(tau: float) -> None:
    z0, z1 = pair(64, 32, 16, torch.float32)
    negatives = torch.cat(pair(9, 32, 17, torch.float32))
    plain = nt_xent(z0, z1, tau), info_nce(z0, z1, negatives, tau=tau)
    with torch.autocast("cpu", torch.bfloat16):
        inside = nt_xent(z0, z1, tau), info_nce(z0, z1, negatives, tau=tau)
    assert torch.equal(torch.stack(inside), torch.stack(plain))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_types_of_info_nce_and_unit(dtype: torch.dtype) -> None:
    z0, z1 = pair(4, 8, 18, dtype)
    wanted = torch.float64 if dtype == torch.float64 else torch.float32
    assert unit(z0).dtype == info_nce(z0, z1, z1.flip(0)).dtype == wanted
