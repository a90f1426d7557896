"""LARS as google-research/simclr states it, number by number in float64.

v = m v + lr trust (g + wd w);  w = w - v;  trust = eta |w| / |g + wd w|, 1 where a norm is 0 and
for excluded parameters, which are not decayed either.
"""

import math

from numpy.typing import NDArray


def norm(numbers: list[float]) -> float:
    return math.sqrt(sum(x * x for x in numbers))


def step(
    w: NDArray,
    v: NDArray,
    g: NDArray,
    *,
    lr: float,
    m: float = 0.9,
    wd: float = 0.0,
    eta: float = 0.001,
    excluded: bool = False,
) -> None:
    """One step, in place."""
    decay = 0.0 if excluded else wd
    direction = [
        gi + decay * wi for gi, wi in zip(g.flat, w.flat, strict=True)
    ]  # g + wd w, element by element
    trust, size, length = 1.0, norm(list(w.flat)), norm(direction)
    if not excluded and size > 0 and length > 0:
        trust = eta * size / length
    for i, change in enumerate(direction):
        v.flat[i] = m * v.flat[i] + lr * trust * change
        w.flat[i] = w.flat[i] - v.flat[i]
