"""Numbers for many draws under many keys: the same bits as `rng.uniform`, many times as fast.

Shapes:  K keys; N draws; B blocks of four numbers per draw.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selftaught.foundation.rng import Key
from selftaught.views.fused.compiled import call, compiled, entry, inlined, part, sources

_ROUNDS = 10
_MULTIPLIER_0, _MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)  # as in rng
_WEYL_0, _WEYL_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW, _HALF, _GRID = np.uint64(0xFFFFFFFF), np.uint64(32), 2.0**-32


def uniform_draws(keys: Sequence[Key], draws_N: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """The first n numbers in [0, 1) of each draw under each key, (K, N, n)."""
    keys_K2 = np.array([key.words() for key in keys], np.uint64)
    u_KB4N = np.empty((len(keys), -(-n // 4), 4, len(draws_N)))
    call(_fill, u_KB4N.reshape(-1), keys_K2, np.ascontiguousarray(draws_N))
    return u_KB4N.reshape(len(keys), -1, len(draws_N))[:, :n].transpose(0, 2, 1)


@compiled
def _block(
    a_N: Any, b_N: Any, c_N: Any, d_N: Any, draws_N: Any, block: int, key0: Any, key1: Any
) -> None:
    for n in range(len(draws_N)):
        a, b, c, d = philox_block(draws_N[n], block, key0, key1)
        a_N[n], b_N[n], c_N[n], d_N[n] = _fraction(a), _fraction(b), _fraction(c), _fraction(d)


@inlined
def philox_block(draw: Any, block: Any, key0: Any, key1: Any) -> tuple[Any, Any, Any, Any]:
    """The four words of a counter, as in `rng.philox`."""
    low, high = np.uint64(draw) & _LOW, np.uint64(draw) >> _HALF
    c0, c1, c2, c3 = low, high, np.uint64(block) & _LOW, np.uint64(0)
    k0, k1 = np.uint64(key0), np.uint64(key1)
    for _ in range(_ROUNDS):
        product0, product1 = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_1
        c0, c1 = (product1 >> _HALF) ^ c1 ^ k0, product1 & _LOW
        c2, c3 = (product0 >> _HALF) ^ c3 ^ k1, product0 & _LOW
        k0, k1 = (k0 + _WEYL_0) & _LOW, (k1 + _WEYL_1) & _LOW
    return c0, c1, c2, c3


@compiled
def _fraction(word: Any) -> Any:
    """A word as a fraction of 2^32; signed numbers are converted with vector instructions."""
    return np.int64(word) * _GRID


def _compile_fill(sources: int) -> Callable[..., int]:
    def fill(
        u: NDArray[np.float64], keys_K2: NDArray[np.uint64], draws_N: NDArray[np.int64]
    ) -> int:
        N, blocks = len(draws_N), len(u) // max(1, 4 * len(keys_K2) * len(draws_N))
        for k in range(len(keys_K2)):
            for b in range(blocks):
                at = 4 * N * (k * blocks + b)
                a_N, b_N = part(u, at, N), part(u, at + N, N)
                c_N, d_N = part(u, at + 2 * N, N), part(u, at + 3 * N, N)
                _block(a_N, b_N, c_N, d_N, draws_N, b, keys_K2[k, 0], keys_K2[k, 1])
        return sources

    return entry(fill)


_fill = _compile_fill(sources())
