"""From vectors to clusters: projected, grouped, and everything told of each image.

Shapes:  N vectors, D their size; P of projected ones; K clusters; B vectors kept.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selftaught.clustering.choose_k import Choice, Point, choose_k
from selftaught.clustering.kmeans import kmeans
from selftaught.clustering.max_margin import check_many, max_margin
from selftaught.clustering.means import means
from selftaught.clustering.power_iteration import power_iteration
from selftaught.clustering.whitening import Whitening
from selftaught.clusters.clusters import Assigned, Clusters, projected
from selftaught.foundation.rng import Key, permutation
from selftaught.vectors.vectors import Vectors

if TYPE_CHECKING:
    import pyarrow as pa

_ITERATIONS, _STARTS = 100, 3
_KEPT = 2**23  # numbers of the vectors that are kept
_BALANCE = 0.1  # of max-margin: how far sizes may differ, as a share of all


@dataclass(frozen=True, eq=False)
class Grouping:
    """A clustering of images and what is told of it.

    Attributes:
        vectors: What was clustered.
        clusters: The clusters, to be kept, the largest first.
        assigned: Each image's cluster by the algorithm, and its distances.
        names: Names by id, where clusters have one.
        notes: What people should know, a sentence each.
        choice: Why there are so many, where the number was to be chosen.
    """

    vectors: Vectors
    clusters: Clusters
    assigned: Assigned
    names: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    choice: Choice | None = None

    @property
    def sizes_K(self) -> NDArray[np.int64]:
        """Images in each cluster, in the order of `clusters.ids_K`."""
        return self.clusters.counts(self.assigned.cluster_N)

    def under(self, ids_K: NDArray[np.int64], names: Mapping[int, str], note: str) -> "Grouping":
        """The same groups under other ids and names."""
        order_K = self.clusters.ids_K.argsort()
        place_N = order_K[self.clusters.ids_K[order_K].searchsorted(self.assigned.cluster_N)]
        return replace(
            self,
            clusters=self.clusters.renamed(ids_K),
            assigned=replace(self.assigned, cluster_N=ids_K[place_N]),
            names=names,
            notes=(*self.notes, note),
        )


def group(
    vectors: Vectors,
    k: int | None,
    *,
    by: str = "kmeans",
    run: str = "",
    data: str = "",
    table: str = "",
    space: str = "unit",
    seed: int = 0,
    device: str = "cpu",
) -> Grouping:
    """Cluster vectors.

    Args:
        vectors: Of images.
        k: How many clusters; None: as many as the vectors suggest, or the algorithm finds.
        by: The algorithm, one of `ALGORITHMS`.
        run: Where the encoder was found.
        data: What the images, or their vectors, came from.
        table: The table that the vectors came from, if they did.
        space: "unit", where vectors are made equally long, or "whitened", PCA to 256 numbers of
            equal variance before that (DeepCluster's).
        seed: Of all that is random.
        device: Where k-means works.

    Raises:
        UserError: There are fewer vectors than clusters, or too many for the algorithm.
    """
    check_cluster_input(by, len(vectors))
    whitening = Whitening.fit(vectors.x_ND, device=device) if space == "whitened" else None
    y_NP = projected(vectors.x_ND, whitening)
    choice = choose_k(y_NP, seed=seed) if k is None and by not in FINDS_K else None
    label_N = _by_size(ALGORITHMS[by](y_NP, k or (choice.k if choice else 0), seed, device))
    centroids_KP = means(y_NP, label_N).float()
    facts = {"by": by, "space": space, "k": len(centroids_KP), "images": len(vectors)}
    facts |= {"seed": seed, "data": data, "vectors": table}
    facts |= {} if choice is None else {"choice": asdict(choice)}
    clusters = Clusters(
        whitening,
        centroids_KP,
        np.arange(len(centroids_KP)),
        vectors.encoder,
        run,
        _reference(vectors.x_ND, seed),
        facts,
    )
    assigned = clusters.assign(vectors.x_ND, own_N=label_N.numpy())
    return Grouping(vectors, clusters, assigned, notes=_notes(by, choice), choice=choice)


def regrouped(
    vectors: Vectors, clusters: Clusters, own_N: NDArray[np.int64], **names: Any
) -> Grouping:
    """A grouping from what was kept of it.

    Args:
        vectors: Of the images that were clustered.
        clusters: Their clusters.
        own_N: The place 0 .. K-1 of each image's cluster.
        names: `names` of a Grouping.
    """
    kept = clusters.facts.get("choice")
    choice = kept and Choice(**{**kept, "points": tuple(Point(**p) for p in kept["points"])})
    assigned = clusters.assign(vectors.x_ND, own_N=own_N)
    notes = _notes(str(clusters.facts.get("by")), choice)
    return Grouping(vectors, clusters, assigned, notes=notes, choice=choice, **names)


def check_cluster_input(by: str, N: int) -> None:
    """Whether an algorithm takes so many vectors.

    Raises:
        UserError: It does not.
    """
    if by == "max-margin":
        check_many(N)


def _notes(by: str, choice: Choice | None) -> tuple[str, ...]:
    """What people should know of how clusters came about."""
    if by == "max-margin":
        return (f"The two clusters may differ by at most {100 * _BALANCE:g} % of the images.",)
    return () if choice is None else (choice.sentence,)


def _by_kmeans(y_NP: Tensor, k: int, seed: int, device: str) -> Tensor:
    found = kmeans(
        y_NP,
        k,
        seed=seed,
        iterations=_ITERATIONS,
        start="k-means++",
        restarts=_STARTS,
        device=device,
    )
    return found.labels_N.cpu()


def _by_power_iteration(y_NP: Tensor, k: int, seed: int, device: str) -> Tensor:
    return power_iteration(y_NP).labels_N


def _by_max_margin(y_NP: Tensor, k: int, seed: int, device: str) -> Tensor:
    return max_margin(y_NP, seed=seed, balance=_BALANCE).labels_N


ALGORITHMS: Mapping[str, Callable[[Tensor, int, int, str], Tensor]] = {
    "kmeans": _by_kmeans,
    "power-iteration": _by_power_iteration,
    "max-margin": _by_max_margin,
}
"""From unit vectors, k, a seed and a device to a label each."""

FINDS_K = frozenset({"power-iteration", "max-margin"})
"""Those that need no k."""


def _by_size(label_N: Tensor) -> Tensor:
    """Labels 0 .. K-1, the largest cluster first, none empty; equal ones by their first vector."""
    _, first_K, place_N, size_K = np.unique(
        label_N.numpy(), return_index=True, return_inverse=True, return_counts=True
    )
    rank_K = np.lexsort((first_K, -size_K)).argsort()
    return torch.from_numpy(rank_K[place_N])


def _reference(x_ND: NDArray[np.float32], seed: int) -> Tensor:
    """Some of the vectors, unit rows, (B, D) float16."""
    B = max(1, _KEPT // x_ND.shape[1])
    rows_B = np.sort(permutation(Key(seed, "groups/reference"), len(x_ND))[:B])
    unit_BD = torch.nn.functional.normalize(torch.from_numpy(x_ND[rows_B]), dim=1)
    return unit_BD.half()


def table_of(
    vectors: Vectors, assigned: Assigned, names: Mapping[int, str], more: Mapping[str, Any]
) -> "pa.Table":
    """A line an image: row, path, label and name where there are such, cluster, distances, more."""
    import pyarrow as pa

    columns: dict[str, Any] = {"row": vectors.row_N, "path": list(vectors.paths)}
    if vectors.labels is not None:
        columns["label"] = pa.array(vectors.labels)
    columns["cluster"] = assigned.cluster_N
    if names:
        columns["name"] = [names.get(id_) for id_ in assigned.cluster_N.tolist()]
    columns["distance"], columns["margin"] = assigned.distance_N, assigned.margin_N
    columns["confidence"] = assigned.confidence_N
    return pa.table(columns | dict(more))
