"""Fit clusters to vectors, and tabulate the cluster of each image.

Shapes:  N vectors, D their size; P of projected ones; K clusters; B vectors stored.
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
from selftaught.clustering.max_margin import check_vector_count, max_margin
from selftaught.clustering.means import means
from selftaught.clustering.power_iteration import power_iteration
from selftaught.clustering.whitening import Whitening
from selftaught.clusters.clusters import Assignment, Clusters, unit_projection
from selftaught.foundation.rng import Key, permutation
from selftaught.vectors.vectors import Vectors

if TYPE_CHECKING:
    import pyarrow as pa

_ITERATIONS, _STARTS = 100, 3
_STORED = 2**23  # numbers in the stored vectors
_BALANCE = 0.1  # of max-margin: how far sizes may differ, as a share of all images


@dataclass(frozen=True, eq=False)
class ClusteredImages:
    """Images and their clusters.

    Attributes:
        vectors: The vectors that were clustered.
        clusters: The clusters, the largest first.
        assigned: Each image's cluster by the algorithm, and its distances.
        names: Names by id, for clusters that have one.
        notes: Remarks for the user, one sentence each.
        choice: Why there are this many clusters, if the number was chosen automatically.
    """

    vectors: Vectors
    clusters: Clusters
    assigned: Assignment
    names: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    choice: Choice | None = None

    @property
    def sizes_K(self) -> NDArray[np.int64]:
        """Images in each cluster, in the order of `clusters.ids_K`."""
        return self.clusters.counts(self.assigned.cluster_N)

    def with_ids(
        self, ids_K: NDArray[np.int64], names: Mapping[int, str], note: str
    ) -> "ClusteredImages":
        """The same clusters with other ids and names, and one more note."""
        order_K = self.clusters.ids_K.argsort()
        place_N = order_K[self.clusters.ids_K[order_K].searchsorted(self.assigned.cluster_N)]
        return replace(
            self,
            clusters=self.clusters.with_ids(ids_K),
            assigned=replace(self.assigned, cluster_N=ids_K[place_N]),
            names=names,
            notes=(*self.notes, note),
        )


def cluster_vectors(
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
) -> ClusteredImages:
    """Cluster vectors.

    Args:
        vectors: The images' vectors.
        k: Number of clusters; None: as many as the vectors suggest, or the algorithm finds.
        by: The algorithm, one of `ALGORITHMS`.
        run: Location of the encoder.
        data: Source of the images, or of their vectors.
        table: The table of vectors, if they were read from one.
        space: "unit" (vectors are normalised) or "whitened" (before that, PCA to 256 numbers of
            equal variance, as in DeepCluster).
        seed: Random seed.
        device: Device for k-means.

    Raises:
        UserError: There are fewer vectors than clusters, or too many for the algorithm.
    """
    check_cluster_input(by, len(vectors))
    whitening = Whitening.fit(vectors.x_ND, device=device) if space == "whitened" else None
    y_NP = unit_projection(vectors.x_ND, whitening)
    choice = choose_k(y_NP, seed=seed) if k is None and by not in FINDS_K else None
    label_N = _largest_first(ALGORITHMS[by](y_NP, k or (choice.k if choice else 0), seed, device))
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
        _reference_vectors(vectors.x_ND, seed),
        facts,
    )
    assigned = clusters.assign(vectors.x_ND, own_N=label_N.numpy())
    return ClusteredImages(vectors, clusters, assigned, notes=_notes(by, choice), choice=choice)


def restored_clusters(
    vectors: Vectors, clusters: Clusters, own_N: NDArray[np.int64], **names: Any
) -> ClusteredImages:
    """The clustered images, restored from saved clusters.

    Args:
        vectors: Vectors of the images that were clustered.
        clusters: Their clusters.
        own_N: The place 0 .. K-1 of each image's cluster.
        names: `names` of `ClusteredImages`.
    """
    saved = clusters.facts.get("choice")
    choice = saved and Choice(**{**saved, "points": tuple(Point(**p) for p in saved["points"])})
    assigned = clusters.assign(vectors.x_ND, own_N=own_N)
    notes = _notes(str(clusters.facts.get("by")), choice)
    return ClusteredImages(vectors, clusters, assigned, notes=notes, choice=choice, **names)


def check_cluster_input(by: str, N: int) -> None:
    """Check that an algorithm can cluster N vectors.

    Raises:
        UserError: It cannot.
    """
    if by == "max-margin":
        check_vector_count(N)


def _notes(by: str, choice: Choice | None) -> tuple[str, ...]:
    """Remarks for the user on how the clusters were made."""
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
"""By name: from unit vectors, k, a seed and a device to one label per vector."""

FINDS_K = frozenset({"power-iteration", "max-margin"})
"""The algorithms that find k themselves."""


def _largest_first(label_N: Tensor) -> Tensor:
    """Labels 0 .. K-1, the largest cluster first, none empty; ties by their first vector."""
    _, first_K, place_N, size_K = np.unique(
        label_N.numpy(), return_index=True, return_inverse=True, return_counts=True
    )
    rank_K = np.lexsort((first_K, -size_K)).argsort()
    return torch.from_numpy(rank_K[place_N])


def _reference_vectors(x_ND: NDArray[np.float32], seed: int) -> Tensor:
    """Some of the vectors, unit rows, (B, D) float16."""
    B = max(1, _STORED // x_ND.shape[1])
    rows_B = np.sort(permutation(Key(seed, "groups/reference"), len(x_ND))[:B])
    unit_BD = torch.nn.functional.normalize(torch.from_numpy(x_ND[rows_B]), dim=1)
    return unit_BD.half()


def assignments_table(
    vectors: Vectors, assigned: Assignment, names: Mapping[int, str], more: Mapping[str, Any]
) -> "pa.Table":
    """One row per image: row, path, label and name if known, cluster, distances, more."""
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
