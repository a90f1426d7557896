"""Train a classifier from named clusters: choose its training images, and measure its accuracy.

An image of a named cluster has that name. It is a confident member if it is in the half of its
cluster with the highest confidence, and its distance to the centroid is below the cluster's upper
fence, Q3 + 1.5 (Q3 - Q1) (Tukey 1977). A person's answer overrides the cluster's name. Each name's
confident members, and separately its other members, are split at random into fifths:

    three fifths    fit: logistic regression on the confident members, and on all answers
    one fifth       calibrate: lambda and the temperature, on confident and other members
    one fifth       evaluate: used once, at the end

so that every figure describes exactly the classifier that is saved. The other members are never
used to fit: their clusters are more often wrong. They do calibrate, because new images resemble all
members, not only the best: these are so well separated that the weakest lambda would nearly always
win. If a name has three members or fewer, all are used to fit. An answer weighs as much as any
image.

All figures measure agreement with the clusters' names, not whether the clusters are right.

Shapes:  N images, n fitted to, M evaluated; D size of a vector; K names.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selftaught.classifier.name_classifier import Classifier
from selftaught.clusters.clusters import Clusters
from selftaught.clusters.names import merged_ids
from selftaught.errors import DataError
from selftaught.evaluation.calibration import (
    expected_calibration_error,
    reliability,
    temperature,
)
from selftaught.evaluation.metrics import share_interval
from selftaught.evaluation.protocols import linear
from selftaught.foundation.rng import Key, permutation
from selftaught.vectors.vectors import Vectors

_FIFTHS, _CALIBRATES, _EVALUATES = 5, 3, 4
_MOST = 100_000  # images used to fit
_CONFUSED = 20  # pairs of names in the facts
NO_NAME = -1


@dataclass(frozen=True, eq=False)
class Members:
    """Names of images from clusters and answers, before training.

    Attributes:
        names: The K names that images have, in alphabetical order.
        own_N: int64: the id of each image's cluster.
        name_N: int64: the index of its name, -1 if it has none.
        confidence_N: Its confidence, with clusters of the same name merged.
        confident_N: Which images are confident members of named clusters.
        answered_N: Which images people labelled.
        contradicted: Number of answers that differ from the name of the image's cluster.
    """

    names: tuple[str, ...]
    own_N: NDArray[np.int64]
    name_N: NDArray[np.int64]
    confidence_N: NDArray[np.float32]
    confident_N: NDArray[np.bool_]
    answered_N: NDArray[np.bool_]
    contradicted: int

    @property
    def reliable_N(self) -> NDArray[np.bool_]:
        """Which images have a reliable name: confident members, and answers."""
        return self.confident_N | self.answered_N


def members(
    x_ND: NDArray[np.float32],
    clusters: Clusters,
    names: Mapping[int, str],
    answers: Mapping[int, str],
) -> Members:
    """The name of each image, and which names are reliable.

    Args:
        x_ND: Vectors of the clusters' encoder.
        clusters: The clusters.
        names: The names of some of them, by id.
        answers: Labels that people gave, by the image's place (0 .. N-1).

    Raises:
        DataError: The vectors differ in size from those that were clustered.
    """
    own_N = clusters.assign(x_ND).cluster_N
    assigned = clusters.assign(x_ND, merged_ids(names))
    of_cluster: list[str | None] = [names.get(id_) for id_ in own_N.tolist()]
    final = list(of_cluster)
    for place, name in answers.items():
        final[place] = name
    known = sorted({name for name in final if name is not None})
    number = {name: k for k, name in enumerate(known)} | {None: NO_NAME}
    answered_N = np.zeros(len(x_ND), bool)
    answered_N[list(answers)] = True
    confident_N = confident_members(own_N, assigned.confidence_N, assigned.distance_N)
    named_N = np.array([name is not None for name in of_cluster])
    return Members(
        tuple(known),
        own_N,
        np.array([number[name] for name in final], np.int64),
        assigned.confidence_N,
        confident_N & named_N & ~answered_N,
        answered_N,
        sum(of_cluster[place] not in (None, name) for place, name in answers.items()),
    )


def confident_members(
    own_N: NDArray[np.int64], confidence_N: NDArray[np.float32], distance_N: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """The more confident half of each cluster without distant members: at least a quarter of it."""
    sure_N, far_N = confidence_N.astype(np.float64), distance_N.astype(np.float64)
    confident_N = np.zeros(len(own_N), bool)
    order = own_N.argsort(kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(own_N[order])) + 1):
        low, high = np.quantile(far_N[rows], [0.25, 0.75])
        near = far_N[rows] <= high + 1.5 * (high - low)
        confident_N[rows] = near & (sure_N[rows] >= np.median(sure_N[rows]))
    return confident_N


def train_classifier(
    vectors: Vectors, found: Members, *, run: str = "", seed: int = 0, device: str = "cpu"
) -> Classifier:
    """Fit, calibrate and evaluate a classifier.

    Args:
        vectors: The images' vectors.
        found: Their names.
        run: Location of the encoder.
        seed: Random seed of the split into fifths.
        device: Device for fitting.

    Raises:
        DataError: The images have fewer than two names.
    """
    if len(found.names) < 2:
        raise DataError("these images have fewer than two names", "name another cluster")
    rank_N = random_ranks(found, seed)
    part_N = np.where(found.answered_N, 0, rank_N % _FIFTHS)
    rows_n = np.flatnonzero(found.reliable_N & (part_N < _CALIBRATES))
    rows_n = rows_n[np.argsort(rank_N[rows_n], kind="stable")[:_MOST]]
    named_N = found.name_N != NO_NAME
    rows = np.flatnonzero(named_N & (part_N == _CALIBRATES))
    mean_D, weight_KD, bias_K, strength = _fit(vectors.x_ND, found, rows_n, rows, seed, device)
    about = {"fitted": len(rows_n), "images": len(vectors), "strength": strength, "seed": seed}
    made = Classifier(found.names, mean_D, weight_KD, bias_K, 1.0, vectors.encoder, run, about)
    T = temperature(made.logits(vectors.x_ND[rows]), torch.from_numpy(found.name_N[rows]))
    made = replace(made, temperature=T)
    figures = _evaluate(made, vectors, found, np.flatnonzero(named_N & (part_N == _EVALUATES)))
    return replace(made, facts=about | figures)


def random_ranks(found: Members, seed: int) -> NDArray[np.int64]:
    """Each image's random rank 0, 1, ... among the confident or the other members of its name.

    Answers have rank 0, so that none is left out.
    """
    pile_N = 2 * found.name_N + found.confident_N
    shuffled = permutation(Key(seed, "groups/dealt"), len(pile_N))
    order = shuffled[np.argsort(pile_N[shuffled], kind="stable")]
    first = np.flatnonzero(np.diff(pile_N[order], prepend=pile_N[order[:1]] - 1))
    rank_N = np.empty(len(order), np.int64)
    rank_N[order] = np.arange(len(order)) - np.repeat(first, np.diff([*first, len(order)]))
    rank_N[found.answered_N] = 0
    return rank_N


def _fit(
    x_ND: NDArray[np.float32],
    found: Members,
    rows_n: NDArray[np.int64],
    held: NDArray[np.int64],
    seed: int,
    device: str,
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Mean, W and b for plain vectors, and the lambda that is best on the held-out images."""
    train_nD = torch.from_numpy(x_ND[rows_n]).to(device)
    labels_n = torch.from_numpy(found.name_N[rows_n]).to(device)
    axes, K = linear.principal_axes(train_nD), len(found.names)
    z_nr, z_held = axes.project(train_nD), axes.project(torch.from_numpy(x_ND[held]).to(device))
    labels_held = torch.from_numpy(found.name_N[held]).to(device)

    def fold(strength: float, start: Tensor) -> tuple[Tensor, float]:
        weights = linear.fit_logistic(z_nr, labels_n, axes.variance_r, start, strength=strength)
        return weights, linear.cross_entropy(weights, z_held, labels_held).item()

    if len(held):
        start = linear.zero_weights(z_nr, K)
        strength, weights = linear.lowest_loss([fold], linear.STRENGTHS, start)
    else:
        weights, strength = linear.best_fit(z_nr, labels_n, axes.variance_r, classes=K, seed=seed)
    weight_KD = weights[:, :-1] @ axes.map_Dr.T
    return axes.mean_D.cpu(), weight_KD.cpu(), weights[:, -1].cpu(), strength


def _evaluate(
    classifier: Classifier, vectors: Vectors, found: Members, rows_M: NDArray[np.int64]
) -> dict[str, Any]:
    """Accuracy on confident members, on the others and per name; calibration; confused names."""
    predictions = classifier.predict(vectors.x_ND[rows_M])
    name_M, confident_M = found.name_N[rows_M], found.confident_N[rows_M]
    correct_M, sure_M = predictions.first_N == name_M, predictions.confidence_N.astype(np.float64)
    shares = ((name, _accuracy(correct_M[name_M == k])) for k, name in enumerate(found.names))
    return {
        "agreement": _accuracy(correct_M[confident_M]),
        "agreement_of_the_rest": _accuracy(correct_M[~confident_M]),
        "by_name": {name: share for name, share in shares if share},
        "confused": _confusions(found.names, name_M, predictions.first_N),
        "calibration_error": expected_calibration_error(sure_M, correct_M) if len(rows_M) else None,
        "reliability": [one._asdict() for one in reliability(sure_M, correct_M)],
    }


def _accuracy(correct_m: NDArray[np.bool_]) -> dict[str, float] | None:
    """The share of correct predictions, with its interval; None without images."""
    hits, images = int(correct_m.sum()), len(correct_m)
    if not images:
        return None
    low, high = share_interval(hits, images)
    return {"share": hits / images, "low": low, "high": high, "images": images}


def _confusions(
    names: tuple[str, ...], name_M: NDArray[np.int64], says_M: NDArray[np.int64]
) -> list[dict[str, Any]]:
    """The most frequent pairs of a name and a wrong prediction, with their numbers of images."""
    wrong = name_M != says_M
    counts = Counter(zip(name_M[wrong].tolist(), says_M[wrong].tolist(), strict=True))
    order = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:_CONFUSED]
    return [{"name": names[k], "says": names[j], "images": images} for (k, j), images in order]
