"""Which images people should look at next, so that a classifier learns most from their answers.

Half of them are uncertain: the two best names are nearly as probable (margin sampling; Scheffer,
Decomain, Wrobel 2001). The other half are uncovered: in turn, a typical image of a cluster without
a name, the largest cluster first, and the image that is least like all that have one. None is
nearer to another of them than images usually are to their nearest neighbour.

Shapes:  N images; D size of a vector; Q questions; B sure images.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selftaught.classifier.learn import NOBODY, Members
from selftaught.classifier.name_classifier import Said
from selftaught.foundation.rng import Key, permutation
from selftaught.pairwise.neighbours import top_k

_SAMPLE, _BASE = 2048, 8192  # images whose neighbours are looked at; sure images looked at


@dataclass(frozen=True)
class Question:
    """An image to be looked at.

    Attributes:
        place: Which it is, 0 .. N-1.
        uncertain: Whether it is asked about because the classifier is; else it is uncovered.
        why: The reason, in words.
    """

    place: int
    uncertain: bool
    why: str


def questions(
    unit_ND: Tensor, said: Said, found: Members, number: int, *, seed: int = 0
) -> list[Question]:
    """Up to `number` images, the uncertain ones first.

    Args:
        unit_ND: The encoder's vectors, unit rows: whitened ones of few images are all equally far
            from each other.
        said: What the classifier says of them.
        found: What they are called already; those that people answered are not asked about again.
        number: How many at most.
        seed: Of the images that stand for all.
    """
    usual = usual_similarity(unit_ND, seed)
    free_N = torch.from_numpy(~found.answered_N)
    close_N = torch.full((len(unit_ND),), -torch.inf)  # cosine to the nearest one that was chosen

    def choose(order: NDArray[np.int64], many: int) -> Iterator[int]:
        for _ in range(many):
            open_N = (free_N & (close_N <= usual))[order]
            if not open_N.any():
                return
            place = int(order[int(open_N.int().argmax())])
            free_N[place] = False
            torch.maximum(close_N, unit_ND @ unit_ND[place], out=close_N)
            yield place

    like_N = similarity_to_sure(unit_ND, found, seed)
    unsure = list(choose(said.gap_N.argsort(kind="stable"), number - number // 2))
    new = list(choose(uncovered_order(found, like_N), number // 2))
    return [Question(p, True, _torn(said, found, p)) for p in unsure] + [
        Question(p, False, _new(found, like_N, p)) for p in new
    ]


def usual_similarity(unit_ND: Tensor, seed: int) -> float:
    """The median cosine of an image to its nearest neighbour, from some of the images."""
    if len(unit_ND) < 2:
        return 1.0
    rows = permutation(Key(seed, "groups/usual"), len(unit_ND))[:_SAMPLE]
    near, _ = top_k(unit_ND[rows], unit_ND, 1, own=rows)
    return float(np.median(near))


def similarity_to_sure(unit_ND: Tensor, found: Members, seed: int) -> NDArray[np.float32]:
    """The cosine of each image to the nearest that surely has a name (or to the nearest of some).

    That of a sure image to itself is 1.
    """
    sure_B = np.flatnonzero(found.sure_N)
    some_B = sure_B[permutation(Key(seed, "groups/sure"), len(sure_B))[:_BASE]]
    near, _ = top_k(unit_ND, unit_ND[some_B], 1)
    return np.where(found.sure_N, np.float32(1), near[:, 0])


def uncovered_order(found: Members, like_N: NDArray[np.float32]) -> NDArray[np.int64]:
    """All images that are not sure: one of a cluster without a name, one unlike those with one, ...

    Clusters take turns too, the largest first, each with its most typical image first.
    """
    rows = np.flatnonzero(found.name_N == NOBODY)
    _, cluster, size = np.unique(found.own_N[rows], return_inverse=True, return_counts=True)
    typical = np.lexsort((-found.confidence_N[rows], cluster))
    turn = np.empty(len(rows), np.int64)
    for start, many in zip(np.cumsum(size) - size, size, strict=True):
        turn[typical[start : start + many]] = np.arange(many)
    nameless = rows[np.lexsort((cluster, -size[cluster], turn))]
    unlike = np.flatnonzero(~found.sure_N)
    unlike = unlike[like_N[unlike].argsort(kind="stable")]
    both = np.full((2, len(unlike)), -1, np.int64)  # nameless ones are not sure either
    both[0, : len(nameless)], both[1] = nameless, unlike
    merged = both.T.ravel()
    return merged[merged >= 0]


def _torn(said: Said, found: Members, place: int) -> str:
    first, second = found.names[said.first_N[place]], found.names[said.second_N[place]]
    p, q = said.confidence_N[place], said.next_N[place]
    return f"{first} ({p:.0%}) or {second} ({q:.0%})"


def _new(found: Members, like_N: NDArray[np.float32], place: int) -> str:
    if found.name_N[place] == NOBODY:
        id_ = found.own_N[place]
        size = int((found.own_N == id_).sum())
        many = f"{size:,} images" if size > 1 else "one image"
        return f"in cluster {id_} of {many}, which has no name"
    like, usual = like_N[place], float(np.median(like_N[~found.sure_N]))
    return f"unlike all that have a name: cosine {like:.2f} to the nearest, {usual:.2f} is usual"
