"""Instance retrieval: find other images of the same object by descriptors.

The protocol of Caron et al. (ECCV 2018, section 4.4): dot products of descriptors rank the
database for each query. Optional additions: averaging descriptors of the database with those of
their neighbours (Arandjelovic, Zisserman, CVPR 2012), and expanding queries by their first results
(Chum et al., ICCV 2007), both with weights cosine^alpha (Radenovic, Tolias, Chum, TPAMI 2019,
section 5.1); and a reranking of the first results, for instance by geometry.

Shapes:  Q queries; N images of the database; D size of a descriptor; n first results.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from selftaught.data.retrieval_sets import Query, RetrievalSet
from selftaught.errors import ConfigError
from selftaught.evaluation.descriptors import (
    DescriptorSettings,
    ImageToDescribe,
    descriptors,
    pooling_used,
)
from selftaught.evaluation.metrics import Figure
from selftaught.evaluation.ranking import (
    mean_over_queries,
    precision_at,
    recall_at,
    retrieval_average_precision,
    revisited_setups,
)
from selftaught.evaluation.representation import Representation, check_finite
from selftaught.evaluation.trial import ProtocolAnswer
from selftaught.foundation.machine import CPU, Machine
from selftaught.pairwise.neighbours import top_k

RECALLS = (1, 5)
PRECISION = 10
"""k of mP@k, as in the revisited protocol's tables."""

_NUMBERS = 2**22  # numbers of vectors per block

Rerank = Callable[[int, NDArray[np.int64]], NDArray[np.int64]]
"""From a query's position and its first results, (n,), to the same results in another order; called
twice per query if queries are expanded."""


@dataclass(frozen=True)
class RetrievalSettings:
    """How images are described and ranked.

    Attributes:
        recipe: From images to descriptors.
        augment: Number of neighbours averaged into each descriptor of the database; 0: none.
        expand: Number of first results averaged into each query; 0: none.
        alpha: Weights are cosine^alpha; 0 is a plain mean.
        reranked: Number of first results passed to `rerank`.
        machine: Where descriptors are computed.

    Raises:
        ConfigError: A number is negative.
    """

    recipe: DescriptorSettings = field(default_factory=DescriptorSettings)
    augment: int = 0
    expand: int = 0
    alpha: float = 3.0
    reranked: int = 100
    machine: Machine = CPU

    def __post_init__(self) -> None:
        for name in ("augment", "expand", "alpha", "reranked"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} = {getattr(self, name)}", "use 0 or more")


@dataclass(frozen=True, eq=False)
class RetrievalResult:
    """Rankings and their quality.

    Attributes:
        ranked_QN: int64: positions in the database, best first.
        values: By metric, one value per query, (Q,); nan, and left out of means, without positives.
        note: A note to the reader.
    """

    ranked_QN: NDArray[np.int64]
    values: Mapping[str, NDArray[np.float64]]
    note: str = ""

    @property
    def answer(self) -> ProtocolAnswer:
        """The protocol's answer: its rows are the queries with a right image, and its figures use
        no labels."""
        has_right_Q = np.isfinite(self.values["mAP"])
        figures: dict[str, Figure] = {
            name: partial(mean_over_queries, values_Q[has_right_Q])
            for name, values_Q in self.values.items()
        }
        queries = int(has_right_Q.sum())
        split = f"{queries} quer{'y' if queries == 1 else 'ies'}"
        return ProtocolAnswer(np.arange(queries), figures, self.note, split)


def retrieval(
    subject: Representation,
    places: RetrievalSet,
    settings: RetrievalSettings | None = None,
    *,
    rerank: Rerank | None = None,
) -> RetrievalResult:
    """Rank the database for each query, and judge the rankings.

    mAP, recall@1 and recall@5 count good and ok images. In the revisited protocol that is the
    Medium setup, and mAP and mP@10 of all three setups are added.

    Args:
        subject: The representation that describes images; it must have a network.
        places: The set.
        settings: How to describe and rank; None: the defaults.
        rerank: Reorders the first results.

    Raises:
        BadImage, DataError: As `descriptors`; or descriptors are not finite.
        ConfigError: As `descriptors`; or the subject has no network.
    """
    settings = settings or RetrievalSettings()
    if subject.encoder is None:
        raise ConfigError(
            f"{subject.name} has vectors but not a network", "pass an encoder, to describe queries"
        )
    targets = [ImageToDescribe(query.path, query) for query in places.queries]
    targets += [ImageToDescribe(path) for path in places.database]
    x_ND = descriptors(
        subject.encoder,
        targets,
        settings.recipe,
        settings.machine,
    )
    check_finite(subject.name, bool(np.isfinite(x_ND).all()))
    Q = len(places.queries)
    ranked_QN = rank_database(x_ND[:Q], x_ND[Q:], settings, rerank)
    values = query_scores(places, ranked_QN)
    return RetrievalResult(ranked_QN, values, _note(subject, places, settings, values))


def rank_database(
    query_QD: NDArray[np.float32],
    database_ND: NDArray[np.float32],
    settings: RetrievalSettings,
    rerank: Rerank | None = None,
) -> NDArray[np.int64]:
    """The whole database for each query, best first, (Q, N); ties go to the lower position.

    Queries are expanded by the first results after `rerank`, and the new ranking is reranked too.

    Args:
        query_QD: Unit vectors.
        database_ND: Unit vectors.
        settings: augment, expand, alpha and reranked are used.
        rerank: As for `retrieval`.
    """
    if settings.augment:
        database_ND = augmented_database(database_ND, settings.augment, settings.alpha)
    ranked_QN = _rankings(query_QD, database_ND, settings, rerank)
    if settings.expand:
        first_Qn = ranked_QN[:, : settings.expand]
        query_QD = expanded_by_images(query_QD, database_ND, first_Qn, settings.alpha)
        ranked_QN = _rankings(query_QD, database_ND, settings, rerank)
    return ranked_QN


def expanded_vectors(
    x_QD: NDArray[np.float32], found_QnD: NDArray[np.float32], alpha: float
) -> NDArray[np.float32]:
    """x + sum_i max(0, x . y_i)^alpha y_i of each vector x and its results y_i, of unit length.

    The vector itself has weight 1, its cosine with itself.
    """
    cosine_Qn = np.einsum("qd,qnd->qn", x_QD, found_QnD)
    weight_Qn = np.maximum(cosine_Qn, 0) ** alpha
    sum_QD = x_QD + np.einsum("qn,qnd->qd", weight_Qn, found_QnD)
    length_Q1 = np.linalg.norm(sum_QD, axis=1, keepdims=True)
    unit_QD: NDArray[np.float32] = (sum_QD / np.maximum(length_Q1, 1e-6)).astype(np.float32)
    return unit_QD


def augmented_database(
    database_ND: NDArray[np.float32], neighbours: int, alpha: float
) -> NDArray[np.float32]:
    """Every image expanded by its original neighbours in the database."""
    N = len(database_ND)
    k = min(neighbours, N - 1)
    if not k:
        return database_ND
    _, near_Nk = top_k(database_ND, database_ND, k, metric="dot", own=np.arange(N))
    return expanded_by_images(database_ND, database_ND, near_Nk, alpha)


def expanded_by_images(
    x_QD: NDArray[np.float32],
    database_ND: NDArray[np.float32],
    first_Qn: NDArray[np.int64],
    alpha: float,
) -> NDArray[np.float32]:
    """Vectors expanded by images of the database, computed in blocks, (Q, D)."""
    step = max(1, _NUMBERS // (first_Qn.shape[1] * x_QD.shape[1]))
    parts = [slice(start, start + step) for start in range(0, len(x_QD), step)]
    return np.concatenate(
        [expanded_vectors(x_QD[part], database_ND[first_Qn[part]], alpha) for part in parts]
    )


def query_scores(
    places: RetrievalSet, ranked_QN: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Each metric of each query's ranking, (Q,)."""
    per_query = [
        _query_metrics(query, ranked_N, places.layout == "revisited")
        for query, ranked_N in zip(places.queries, ranked_QN, strict=True)
    ]
    return {name: np.array([values[name] for values in per_query]) for name in per_query[0]}


def _query_metrics(query: Query, ranked_N: NDArray[np.int64], setups: bool) -> dict[str, float]:
    positive = query.good | query.ok
    values = {"mAP": retrieval_average_precision(ranked_N, positive, query.junk)}
    for k in RECALLS:
        values[f"recall@{k}"] = recall_at(ranked_N, positive, query.junk, k)
    if setups:
        for setup, (right, junk) in revisited_setups(query.good, query.ok, query.junk).items():
            values[f"mAP {setup}"] = retrieval_average_precision(ranked_N, right, junk)
            values[f"mP@{PRECISION} {setup}"] = precision_at(ranked_N, right, junk, PRECISION)
    return values


def _rankings(
    query_QD: NDArray[np.float32],
    database_ND: NDArray[np.float32],
    settings: RetrievalSettings,
    rerank: Rerank | None,
) -> NDArray[np.int64]:
    ranked_QN = np.argsort(-_scores(query_QD, database_ND), axis=1, kind="stable")
    if rerank is not None and settings.reranked:
        for query, ranked_N in enumerate(ranked_QN):
            first_n = ranked_N[: settings.reranked].copy()
            reordered_n = rerank(query, first_n.copy())
            assert np.array_equal(np.sort(reordered_n), np.sort(first_n)), "not the same images"
            ranked_N[: settings.reranked] = reordered_n
    return ranked_QN


def _scores(query_QD: NDArray[np.float32], database_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """Dot products, (Q, N), in float64 and rounded: equal vectors have equal scores."""
    step = max(1, _NUMBERS // database_ND.shape[1])
    parts = [database_ND[start : start + step] for start in range(0, len(database_ND), step)]
    wide_QD = query_QD.astype(np.float64)
    return np.concatenate([(wide_QD @ part.T).astype(np.float32) for part in parts], axis=1)


def _note(
    subject: Representation,
    places: RetrievalSet,
    settings: RetrievalSettings,
    values: Mapping[str, NDArray[np.float64]],
) -> str:
    assert subject.encoder is not None
    recipe = settings.recipe
    pool = pooling_used(subject.encoder, recipe)
    how = [f"{pool}, {' + '.join(map(str, recipe.sides))} px on the longer side"]
    if pool == "vector":
        plain = "f(x) of the evaluation view"
        reason = "" if recipe.pool == "vector" else f"{subject.name} has no maps: "
        how = [reason + plain]
    if recipe.whitening is not None:
        how.append(f"whitened to {len(recipe.whitening.variances_P)}")
    if settings.augment:
        near = min(settings.augment, len(places.database) - 1)
        how.append(f"neighbours averaged into the database: {near}")
    if settings.expand:
        found = min(settings.expand, len(places.database))
        how.append(f"images found first, averaged into queries: {found}")
    without = int(np.isnan(values["mAP"]).sum())
    if without:
        how.append(f"queries without a right image, left out: {without}")
    return "; ".join((*how, *places.notes))
