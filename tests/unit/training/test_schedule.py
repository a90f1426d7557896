"""The learning rate: batch scaling, warm-up, cosine."""

import math

import numpy as np
import pytest

from selftaught.errors import ConfigError
from selftaught.training.schedule import lr_at, scaled_lr, warmup_steps


@pytest.mark.parametrize(
    ("lr", "batch", "scaling", "peak"),
    [
        (0.3, 4096, "linear", 4.8),  # the paper's two ways to the same peak (appendix B.1)
        (0.075, 4096, "sqrt", 4.8),
        (1.0, 512, "linear", 2.0),  # google-research/simclr's README for CIFAR-10
        (2e-3, 4096, "none", 2e-3),
    ],
)
def test_the_peak_is_that_of_the_papers(lr, batch, scaling, peak):
    assert scaled_lr(lr, batch, scaling) == pytest.approx(peak, rel=1e-12)


def test_an_unknown_scaling_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"'linaer'.*did you mean 'linear'"):
        scaled_lr(1.0, 256, "linaer")


@pytest.mark.parametrize(
    ("total", "per_epoch", "steps"),
    [(10_000, 10, 100), (10_000, 100, 1000), (10_000, 101, 1000), (19, 1, 1), (9, 3, 0)],
)
def test_warmup_takes_ten_epochs_or_a_tenth_of_the_run(total, per_epoch, steps):
    assert warmup_steps(total, per_epoch) == steps


def test_linear_to_the_peak_then_cosine_to_zero():
    lr = np.array([lr_at(s, peak=2.0, total_steps=110, warmup=10) for s in range(111)])
    assert lr[:11] == pytest.approx(np.linspace(0, 2, 11))
    assert lr[60] == pytest.approx(1.0) and lr[35] == pytest.approx(1 + math.sqrt(0.5))
    assert lr[110] == pytest.approx(0, abs=1e-15) and np.all(np.diff(lr[10:]) < 0)


@pytest.mark.parametrize("total", [0, 1, 2, 9])
def test_a_run_of_a_few_steps_has_a_rate_at_each(total):
    warmup = warmup_steps(total, 1)
    rates = [lr_at(s, peak=1.0, total_steps=total, warmup=warmup) for s in range(total)]
    assert all(0 < rate <= 1 for rate in rates)
    assert lr_at(total + 5, peak=1.0, total_steps=total, warmup=warmup) == pytest.approx(0)


def test_a_run_that_is_all_warmup_ends_at_the_peak():
    assert lr_at(10, peak=3.0, total_steps=10, warmup=10) == 3.0
