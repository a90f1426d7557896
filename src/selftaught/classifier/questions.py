"""Choose images to label next, from which a classifier would learn most.

Half of them are uncertain: their two best names are almost equally probable (margin sampling;
Scheffer, Decomain, Wrobel 2001). The other half are uncovered: in turn, a typical image of an
unnamed cluster, the largest cluster first, and the image least similar to all with a reliable name.
No two of them are nearer to each other than images usually are to their nearest neighbour.

Shapes:  N images; D size of a vector; Q questions; B images with a reliable name.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selftaught.classifier.learn import NO_NAME, Members
from selftaught.classifier.name_classifier import Predictions
from selftaught.foundation.rng import Key, permutation
from selftaught.pairwise.neighbours import top_k

_SAMPLE, _BASE = (
    2048,
    8192,
)  # sampled images whose neighbours are searched; reliable images searched


@dataclass(frozen=True)
class Question:
    """An image to label.

    Attributes:
        place: Its index, 0 .. N-1.
        uncertain: Whether the classifier is uncertain about it; else it is uncovered.
        why: The reason, in words.
    """

    place: int
    uncertain: bool
    why: str


def questions(
    unit_ND: Tensor, predictions: Predictions, found: Members, number: int, *, seed: int = 0
) -> list[Question]:
    """Up to `number` images, the uncertain ones first.

    Args:
        unit_ND: The encoder's vectors, unit rows; not whitened, because whitened vectors of few
            images are all equally far from each other.
        predictions: The classifier's predictions.
        found: Their names so far; images that people labelled are not chosen again.
        number: Maximum number of images.
        seed: Random seed of the samples.
    """
    usual = usual_similarity(unit_ND, seed)
    free_N = torch.from_numpy(~found.answered_N)
    close_N = torch.full((len(unit_ND),), -torch.inf)  # cosine to the nearest chosen image

    def choose(order: NDArray[np.int64], number: int) -> Iterator[int]:
        for _ in range(number):
            open_N = (free_N & (close_N <= usual))[order]
            if not open_N.any():
                return
            place = int(order[int(open_N.int().argmax())])
            free_N[place] = False
            torch.maximum(close_N, unit_ND @ unit_ND[place], out=close_N)
            yield place

    like_N = similarity_to_named(unit_ND, found, seed)
    unsure = list(choose(predictions.gap_N.argsort(kind="stable"), number - number // 2))
    new = list(choose(uncovered_order(found, like_N), number // 2))
    return [Question(p, True, _uncertain_reason(predictions, found, p)) for p in unsure] + [
        Question(p, False, _uncovered_reason(found, like_N, p)) for p in new
    ]


def usual_similarity(unit_ND: Tensor, seed: int) -> float:
    """The median cosine of an image to its nearest neighbour, from a sample of the images."""
    if len(unit_ND) < 2:
        return 1.0
    rows = permutation(Key(seed, "groups/usual"), len(unit_ND))[:_SAMPLE]
    near, _ = top_k(unit_ND[rows], unit_ND, 1, own=rows)
    return float(np.median(near))


def similarity_to_named(unit_ND: Tensor, found: Members, seed: int) -> NDArray[np.float32]:
    """The cosine of each image to the nearest in a sample of those with a reliable name.

    It is 1 for images that have a reliable name themselves.
    """
    reliable_B = np.flatnonzero(found.reliable_N)
    some_B = reliable_B[permutation(Key(seed, "groups/sure"), len(reliable_B))[:_BASE]]
    near, _ = top_k(unit_ND, unit_ND[some_B], 1)
    return np.where(found.reliable_N, np.float32(1), near[:, 0])


def uncovered_order(found: Members, like_N: NDArray[np.float32]) -> NDArray[np.int64]:
    """All images without a reliable name: one of an unnamed cluster, one unlike the named, ...

    Clusters take turns too, the largest first, each with its most typical image first.
    """
    rows = np.flatnonzero(found.name_N == NO_NAME)
    _, cluster, size = np.unique(found.own_N[rows], return_inverse=True, return_counts=True)
    typical = np.lexsort((-found.confidence_N[rows], cluster))
    turn = np.empty(len(rows), np.int64)
    for start, length in zip(np.cumsum(size) - size, size, strict=True):
        turn[typical[start : start + length]] = np.arange(length)
    nameless = rows[np.lexsort((cluster, -size[cluster], turn))]
    unlike = np.flatnonzero(~found.reliable_N)
    unlike = unlike[like_N[unlike].argsort(kind="stable")]
    both = np.full((2, len(unlike)), -1, np.int64)  # nameless images are not reliable either
    both[0, : len(nameless)], both[1] = nameless, unlike
    merged = both.T.ravel()
    return merged[merged >= 0]


def _uncertain_reason(predictions: Predictions, found: Members, place: int) -> str:
    first, second = (
        found.names[predictions.first_N[place]],
        found.names[predictions.second_N[place]],
    )
    p, q = predictions.confidence_N[place], predictions.next_N[place]
    return f"{first} ({p:.0%}) or {second} ({q:.0%})"


def _uncovered_reason(found: Members, like_N: NDArray[np.float32], place: int) -> str:
    if found.name_N[place] == NO_NAME:
        id_ = found.own_N[place]
        size = int((found.own_N == id_).sum())
        images = f"{size:,} images" if size > 1 else "one image"
        return f"in cluster {id_}, which has {images} and no name"
    like, usual = like_N[place], float(np.median(like_N[~found.reliable_N]))
    return f"unlike all named images: cosine {like:.2f} to the nearest (usually {usual:.2f})"
