"""Keyed randomness: every random number is a pure function of (seed, purpose, epoch, draw, view).

No generator has state, so threads, prefetch depth and the point of a resume cannot change a run.
The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers:
as easy as 1, 2, 3", SC 2011): the key is hashed from (seed, purpose, epoch, view), the counter is
(draw, block), and each counter gives four 32-bit words.

Shapes:  N draws; n numbers per draw.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 10
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))  # Salmon et al., table 2
_WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))  # golden ratio and sqrt(3) - 1
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


@dataclass(frozen=True)
class Key:
    """The purpose of random numbers. Keys that differ in any field give unrelated streams."""

    seed: int
    purpose: str
    epoch: int = 0
    view: int = 0

    def words(self) -> tuple[int, int]:
        """The 64-bit Philox key of this purpose, as two 32-bit words."""
        text = f"{self.seed}/{self.purpose}/{self.epoch}/{self.view}"
        digest = hashlib.sha256(text.encode()).digest()
        return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")


def philox(counters_4N: NDArray[np.uint32], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Philox4x32-10 of many counters with one key, (4, N) to (4, N).

    Wraparound of the 32-bit key schedule is part of the definition.
    """
    c0, c1, c2, c3 = (row.astype(np.uint64) for row in counters_4N)
    k0, k1 = np.uint64(key[0]), np.uint64(key[1])
    for _ in range(_ROUNDS):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (product1 >> _HALF) ^ c1 ^ k0,
            product1 & _LOW,
            (product0 >> _HALF) ^ c3 ^ k1,
            product0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return np.stack([c0, c1, c2, c3]).astype(np.uint32)


def words(key: Key, draws_N: NDArray[np.int64], n: int) -> NDArray[np.uint32]:
    """n random 32-bit words per draw, (N, n), independent of the other draws in the call."""
    blocks = -(-n // 4)
    counters = _counters(draws_N, blocks)
    return philox(counters, key.words()).T.reshape(len(draws_N), 4 * blocks)[:, :n]


def _counters(draws_N: NDArray[np.int64], blocks: int) -> NDArray[np.uint32]:
    """Counters of all draws, (4, N * blocks), those of each draw adjacent."""
    draws_NB = np.repeat(draws_N.astype(np.uint64), blocks)
    counters = np.zeros((4, len(draws_NB)), np.uint32)
    counters[0], counters[1] = draws_NB & _LOW, draws_NB >> _HALF
    counters[2] = np.tile(np.arange(blocks, dtype=np.uint32), len(draws_N))
    return counters


def uniform(key: Key, draws_N: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """n uniform numbers in [0, 1) per draw, (N, n), on a grid of 2^-32."""
    return np.multiply(words(key, draws_N, n), 2.0**-32, dtype=np.float64)


def permutation(key: Key, n: int) -> NDArray[np.int64]:
    """A random order of 0 .. n-1, sorted by n keyed 64-bit words (ties: lower number first)."""
    pairs = words(key, np.arange(n), 2).astype(np.uint64)
    return np.argsort((pairs[:, 0] << _HALF) | pairs[:, 1], kind="stable")


def torch_seed(seed: int, step: int, rank: int = 0, micro_batch: int = 0) -> int:
    """The seed that torch gets before each step, so that dropout survives a resume."""
    low, high = Key(seed, f"torch/{rank}/{micro_batch}", step).words()
    return (high << 31 | low >> 1) & 0x7FFFFFFFFFFFFFFF
