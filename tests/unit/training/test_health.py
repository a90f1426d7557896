"""Health and alarms: the measured table of collapses, an SVD oracle, the ring, false alarms."""

import math

import numpy as np
import pytest
import torch

from selftaught.training.health import ENOUGH_ROWS, Ring, health, health_alarms

N, D = 2048, 128


def rank_oracle(z):
    """RankMe as its paper says it, without its epsilon: SVD in float64, term by term."""
    rows = np.array([row / np.linalg.norm(row) for row in z.astype(np.float64)])
    singular = np.linalg.svd(rows, compute_uv=False)
    total = 0.0
    for p in singular / singular.sum():
        total -= p * math.log(p) if p > 0 else 0.0
    return math.exp(total)


def spread_oracle(z):
    rows = np.array([row / np.linalg.norm(row) for row in z.astype(np.float64)])
    return float(np.mean([column.std() for column in rows.T])) * math.sqrt(z.shape[1])


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def subspace(k):
    return normal(N, k) @ normal(k, D, seed=1) + 0.001 * normal(N, D, seed=2)


def clusters(k, noise=0.05):
    which = np.random.default_rng(1).integers(0, k, N)
    return normal(k, D)[which] + noise * normal(N, D, seed=2)


def cone(cosine):
    """Rows whose mean cosine with each other is this."""
    direction = normal(1, D, seed=1)
    axis = direction / np.linalg.norm(direction)
    return normal(N, D) / math.sqrt(D) + math.sqrt(cosine / (1 - cosine)) * axis


def collapsed(noise=0.0):
    return normal(1, D) + noise * normal(N, D, seed=2)


def in_one_direction():
    """Complete in effect: rows nearly alike, and of different lengths."""
    return collapsed(0.02) * np.random.default_rng(3).uniform(0.1, 10, (N, 1))


# What was measured when the alarms were designed: spread, effective rank.
TABLE = {
    "isotropic": (normal(N, D), 1.000, 127.0),
    "complete collapse": (collapsed(), 0.000, 1.0),
    "narrow cone": (cone(0.9), 0.316, 75.8),
    "1-d": (subspace(1), 0.820, 3.0),
    "2-d": (subspace(2), 0.881, 2.2),
    "4-d": (subspace(4), 0.947, 4.1),
    "16-d": (subspace(16), 0.984, 15.9),
    "ten clusters": (clusters(10), 0.921, 21.3),
}


@pytest.mark.parametrize("case", TABLE)
def test_the_measured_table_is_reproduced(case):
    z, spread, rank = TABLE[case]
    found = health(torch.from_numpy(z))
    # The draws are not the table's. Where the directions are few the spread depends on them: over
    # draws of one direction it has mean sqrt(2 / pi) = 0.80 and standard deviation 0.05.
    few = {"1-d": 0.1, "2-d": 0.05, "4-d": 0.03, "ten clusters": 0.03}
    assert found["spread"] == pytest.approx(spread, abs=few.get(case, 0.005))
    assert found["effective_rank"] == pytest.approx(rank, rel=0.12 if case in few else 0.01)


MATRICES = [
    normal(n, d, seed=seed) * np.exp(-decay * np.arange(d)) + offset
    for seed, (n, d, decay, offset) in enumerate(
        (n, d, decay, offset)
        for n, d in ((300, 8), (200, 64), (64, 200), (50, 50), (2, 5))
        for decay, offset in ((0.0, 0.0), (0.05, 0.0), (1.0, 0.0), (0.1, 0.5))
    )
]


@pytest.mark.parametrize("z", MATRICES, ids=lambda z: "x".join(map(str, z.shape)))
def test_health_equals_the_oracle(z):
    assert len(MATRICES) == 20
    found = health(torch.from_numpy(z))
    assert found["effective_rank"] == pytest.approx(rank_oracle(z), rel=1e-4)
    assert found["spread"] == pytest.approx(spread_oracle(z), rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_embeddings_of_any_floating_type_are_read(dtype):
    z = torch.from_numpy(normal(256, 16)).to(dtype)
    assert health(z) == health(z.double())


def test_scaling_and_turning_change_nothing():
    z = torch.from_numpy(subspace(16))
    turn = torch.linalg.qr(torch.from_numpy(normal(D, D, seed=5)))[0]
    found = health(1e-3 * z @ turn)
    assert found["effective_rank"] == pytest.approx(health(z)["effective_rank"], rel=1e-5)
    assert health(1e6 * z) == pytest.approx(health(z), rel=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_give_nan_not_an_error(bad):
    z = torch.ones(10, 4)
    z[3, 2] = bad
    assert all(math.isnan(value) for value in health(z).values())
    assert all(math.isnan(value) for value in health(torch.empty(0, 0)).values())


def test_zero_rows_are_a_complete_collapse():
    found = health(torch.zeros(300, 16))
    assert found["spread"] == 0 and found["effective_rank"] <= 1


@pytest.mark.parametrize("sizes", [[5], [2048], [2047, 1, 1], [700] * 7, [5000], [100, 3000, 3]])
def test_the_ring_keeps_the_newest_rows_oldest_first(sizes):
    ring, every = Ring(), torch.arange(sum(sizes), dtype=torch.float32)[:, None] * torch.ones(3)
    assert ring.rows().shape == (0, 0)
    for part in every.split(sizes):
        ring.add(part.double().requires_grad_())
    assert torch.equal(ring.rows(), every[-2048:]) and ring.rows().dtype == torch.float32


def test_a_ring_filled_from_another_goes_on_as_that_one():
    ring, parts = Ring(), torch.randn(40, 100, 8).unbind()
    for part in parts[:25]:
        ring.add(part)
    copy = Ring()
    copy.add(ring.rows())
    for part in parts[25:]:
        ring.add(part)
        copy.add(part)
        assert torch.equal(ring.rows(), copy.rows()) and health(ring.rows()) == health(copy.rows())


def test_rows_that_were_handed_out_stay_as_they_are():
    ring = Ring()
    ring.add(torch.zeros(10, 2))
    rows = ring.rows()
    ring.add(torch.ones(2048, 2))
    assert not rows.any() and len(rows) == 10


def test_a_ring_begins_anew_with_rows_of_another_size():
    ring = Ring()
    ring.add(torch.zeros(100, 4))
    ring.add(torch.ones(7, 6))
    assert torch.equal(ring.rows(), torch.ones(7, 6))


def line(z=None, **more):
    """A line of metrics.jsonl after warm-up, healthy unless said otherwise."""
    base = {"step": 500, "epoch": 3, "loss": 3.0, "chance": 6.9, "lr": 0.1, "warmup": False}
    found = {"spread": 0.9, "effective_rank": 60.0, "embedding_rows": N, "embedding_dim": D}
    if z is not None:
        found = {**health(torch.from_numpy(z)), "embedding_rows": len(z)}
        found["embedding_dim"] = z.shape[1]
    return base | found | more


COLLAPSES = {
    "complete": (collapsed(), "nearly the same"),
    "nearly complete": (in_one_direction(), "nearly the same"),
    "1-d": (subspace(1), "of their 128 dimensions"),
    "2-d": (subspace(2), "of their 128 dimensions"),
    "4-d": (subspace(4), "of their 128 dimensions"),
}


@pytest.mark.parametrize("case", COLLAPSES)
def test_a_collapse_is_flagged(case):
    z, words = COLLAPSES[case]
    raised = health_alarms([line(), line(z)])
    assert len(raised) == 1 and words in raised[0] and "\n" not in raised[0]
    assert "Try " in raised[0]


@pytest.mark.parametrize("z", [normal(N, D), subspace(16), clusters(10)])
def test_healthy_embeddings_are_not_flagged(z):
    assert health_alarms([line(), line(z)]) == []


def test_nothing_is_said_during_warmup_nor_of_too_few_rows():
    assert health_alarms([]) == []
    assert health_alarms([line(collapsed(), warmup=True)]) == []
    assert health_alarms([line(collapsed()[: ENOUGH_ROWS - 1])]) == []
    assert health_alarms([line(collapsed()[:ENOUGH_ROWS])]) != []
    assert health_alarms([{"step": 1, "loss": 3.0}]) == []


@pytest.mark.parametrize("d", [2, 3, 8])
def test_narrow_embeddings_have_a_threshold_that_they_can_reach(d):
    assert health_alarms([line(normal(N, d))]) == []
    assert health_alarms([line(np.repeat(normal(N, 1), 8, axis=1) + 1e-4 * normal(N, 8))]) != []


def test_wide_embeddings_need_more_than_five_dimensions():
    assert health_alarms([line(effective_rank=9.0, embedding_dim=512)]) != []  # 2 % of 512
    assert health_alarms([line(effective_rank=9.0, embedding_dim=512, embedding_rows=256)]) == []
    assert health_alarms([line(effective_rank=11.0, embedding_dim=512)]) == []


@pytest.mark.parametrize("loss", [math.nan, math.inf, None])  # None: as metrics.jsonl has it
@pytest.mark.parametrize("warmup", [False, True])
def test_a_loss_that_is_not_finite_is_flagged_at_once(loss, warmup):
    (words,) = health_alarms([line(), line(loss=loss, warmup=warmup, step=70)])
    assert "step 70 is not a finite number" in words


def losses(values, chance=4.0, warm=2):
    return [line(loss=x, chance=chance, warmup=n < warm) for n, x in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "flagged"),
    [
        ([4.2, 5, 7, 8, 9, 8, 9], True),
        ([4.2, 5, 5.9, 8, 9, 8, 9], False),  # one of the last five is below 1.5 times chance
        ([4.2, 5, 7, 8, 9, 8], False),  # four lines after warm-up
        ([12, 11, 10.5, 10, 9, 8, 7], False),  # high, and falling since it began
        ([7, 7, 7, 7, 7, 7, 7], True),
        ([3.9, 5, 3, 2, 2, 2, 2], False),
    ],
)
def test_a_loss_that_stays_far_above_chance_is_flagged(values, flagged):
    raised = health_alarms(losses(values))
    assert len(raised) == flagged and all("Training is diverging" in words for words in raised)


def test_divergence_needs_a_chance_to_compare_with():
    assert health_alarms(losses([4, 5, 70, 80, 90, 80, 90], chance=None)) == []


def test_two_things_that_go_wrong_are_two_paragraphs():
    history = [x | {"spread": 0.01} for x in losses([4.2, 5, 7, 8, 9, 8, 9])]
    assert ["diverging" in words for words in health_alarms(history)] == [True, False]
