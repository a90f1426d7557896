"""The learning rate as a function of the step alone, so that it needs no state in a checkpoint.

The rules are google-research/simclr's: batch scaling, linear warm-up, cosine to 0.
"""

import math

from selftaught.errors import ConfigError, did_you_mean

_WARMUP_EPOCHS, _WARMUP_SHARE = 10, 10  # at most 10 epochs, at most a 10th of the steps


def scaled_lr(lr: float, batch_size: int, scaling: str) -> float:
    """The peak learning rate for a batch of this size (Chen et al. 2020, appendix B.1).

    Args:
        lr: The learning rate as configured.
        batch_size: Images of the global batch.
        scaling: "none": lr; "linear": lr * batch_size / 256; "sqrt": lr * sqrt(batch_size).

    Raises:
        ConfigError: The scaling is unknown.
    """
    factors = {"none": 1.0, "linear": batch_size / 256, "sqrt": math.sqrt(batch_size)}
    if scaling not in factors:
        raise ConfigError(f"loop.scaling {scaling!r} is unknown", did_you_mean(scaling, factors))
    return lr * factors[scaling]


def warmup_steps(total_steps: int, steps_per_epoch: int) -> int:
    """Number of warm-up steps: 10 epochs, but at most 10 % of the run."""
    return min(_WARMUP_EPOCHS * steps_per_epoch, total_steps // _WARMUP_SHARE)


def lr_at(
    step: int, *, peak: float, total_steps: int, warmup: int, schedule: str = "cosine"
) -> float:
    """The learning rate of a step, counted from 0: linear from 0 to the peak, then cosine to 0.

    As in the released code, the first warm-up step has rate 0 and step `warmup` has the peak rate.
    Schedule "constant" is the peak rate throughout (Caron et al. 2018, section 4).
    """
    if schedule == "constant":
        return peak
    if step < warmup:
        return peak * step / warmup
    done = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    return peak * 0.5 * (1 + math.cos(math.pi * done))
