"""Saved clusters, which assign any vector to a cluster; on disk, the folder CLUSTERS.

    y = unit(x) or unit(W (x - mean)),    cluster(x) = argmin_k |y - c_k|

Shapes:  N vectors, n in a block, D their size; P that of y; K clusters; B vectors stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selftaught.clustering.whitening import Whitening
from selftaught.errors import DataError, FileError
from selftaught.foundation.artifact import Artifact

_PAIR = Artifact("clusters", "cluster", {"ids": list, "encoder": str, "run": str})
TENSORS, FACTS = _PAIR.tensors, _PAIR.facts
_BLOCK = 2**22  # distances at once
_PREFIX = "whitening."


@dataclass(frozen=True, eq=False)
class Assignment:
    """The cluster of each vector.

    Attributes:
        cluster_N: int64, ids.
        distance_N: |y - c| to the nearest centroid, float32, 0 to 2.
        margin_N: How much farther away the nearest centroid with another id is; inf if there is
            only one id.
    """

    cluster_N: NDArray[np.int64]
    distance_N: NDArray[np.float32]
    margin_N: NDArray[np.float32]

    @property
    def confidence_N(self) -> NDArray[np.float32]:
        """1 at a centroid, 0 half-way to the next: margin / the larger of the two distances.

        This is the silhouette with distances to centroids (Hruschka, de Castro, Campello 2004).
        """
        far_N = self.distance_N + np.maximum(self.margin_N, 0)
        alone_N, divisible_N = np.isinf(far_N), (far_N > 0) & np.isfinite(far_N)
        share_N = np.divide(self.margin_N, far_N, out=np.zeros_like(far_N), where=divisible_N)
        return np.where(alone_N, np.float32(1), share_N)


@dataclass(frozen=True, eq=False)
class Clusters:
    """Centroids in the space of one encoder.

    Attributes:
        whitening: From the encoder's vectors to unit rows; None if they are only normalised.
        centroids_KP: float32.
        ids_K: int64, each cluster's id in tables: 0 .. K-1, unless matched to an older clustering.
        encoder: The identity of the encoder (`encoder_id`); "" if unknown.
        run: Absolute path of that encoder, or timm:NAME; "" for a table of vectors.
        reference_BD: Some of the clustered vectors, unit rows, float16: outliers are far from all
            of them.
        facts: Further facts about the clustering, as JSON values.
    """

    whitening: Whitening | None
    centroids_KP: Tensor
    ids_K: NDArray[np.int64]
    encoder: str
    run: str
    reference_BD: Tensor
    facts: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.centroids_KP)

    def assign(
        self,
        x_ND: NDArray[np.float32],
        merged: Mapping[int, int] | None = None,
        own_N: NDArray[np.int64] | None = None,
    ) -> Assignment:
        """The nearest cluster of each vector.

        Args:
            x_ND: Vectors of the encoder.
            merged: By id, the id of the cluster that it is merged into; other ids are unchanged.
            own_N: Places (0 .. K-1) of the clusters to report in place of the nearest; the margin
                is negative where another one is nearer.

        Raises:
            DataError: The vectors differ in size from those that were clustered.
        """
        D = self.reference_BD.shape[1]
        if x_ND.shape[1] != D:
            found = f"the vectors have {x_ND.shape[1]} dimensions, the clusters {D}"
            raise DataError(found, "use the encoder that the clusters were made with")
        merged = merged or {}
        merged_K = np.array([merged.get(id_, id_) for id_ in self.ids_K.tolist()], np.int64)
        n = max(1, _BLOCK // len(self))
        parts = [
            self._nearest(x_ND[rows], merged_K, None if own_N is None else own_N[rows])
            for rows in (slice(start, start + n) for start in range(0, len(x_ND), n))
        ]
        return Assignment(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _nearest(
        self, x_nD: NDArray[np.float32], id_K: NDArray[np.int64], own_n: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Cluster id, distance and margin of some vectors."""
        y_nP, c_KP = unit_projection(x_nD, self.whitening), self.centroids_KP
        merged_K = torch.from_numpy(id_K)
        far_nK = torch.addmm(c_KP.square().sum(1) / 2, y_nP, c_KP.T, alpha=-1)
        first_n = far_nK.argmin(1) if own_n is None else torch.from_numpy(own_n)
        far_nK[merged_K[first_n][:, None] == merged_K] = torch.inf
        next_n = far_nK.argmin(1)
        distance_n = torch.linalg.vector_norm(y_nP - c_KP[first_n], dim=1)
        margin_n = torch.linalg.vector_norm(y_nP - c_KP[next_n], dim=1) - distance_n
        if own_n is None:
            margin_n.clamp_(min=0)  # rounding can make it negative when both are equally near
        margin_n[far_nK.amin(1).isinf()] = torch.inf
        return id_K[first_n.numpy()], distance_n.numpy(), margin_n.numpy()

    def counts(self, cluster_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """How often each id occurs, (K,) in the order of `ids_K`."""
        found, counts = np.unique(cluster_N, return_counts=True)
        count_by_id = dict(zip(found.tolist(), counts.tolist(), strict=True))
        return np.array([count_by_id.get(id_, 0) for id_ in self.ids_K.tolist()], np.int64)

    def with_ids(self, ids_K: NDArray[np.int64]) -> "Clusters":
        """The same clusters with other ids."""
        return replace(self, ids_K=ids_K)


def unit_projection(x_ND: NDArray[np.float32], whitening: Whitening | None) -> Tensor:
    """y: the unit rows that are clustered, (N, P) float32."""
    if whitening is not None:
        return whitening(x_ND)
    return torch.nn.functional.normalize(torch.tensor(x_ND), dim=1)  # x may be read-only


# --- on disk


def save_clusters(clusters: Clusters, folder: Path) -> None:
    """Write clusters.safetensors, then clusters.json, which marks the pair as complete."""
    whitening = {} if clusters.whitening is None else clusters.whitening.tensors()
    tensors = {_PREFIX + name: tensor for name, tensor in whitening.items()}
    tensors |= {"centroids": clusters.centroids_KP, "reference": clusters.reference_BD}
    own = {"ids": clusters.ids_K.tolist(), "encoder": clusters.encoder, "run": clusters.run}
    _PAIR.save(folder, tensors, {**clusters.facts, **own})


def load_clusters(folder: Path) -> Clusters:
    """The clusters that `save_clusters` wrote.

    Raises:
        FileError: A file is missing or damaged, or the two do not belong together.
    """
    tensors, facts = _PAIR.load(folder, lambda facts: _are_valid_ids(facts["ids"]))
    try:
        return _clusters_from(tensors, facts)
    except (KeyError, FileError):
        raise _PAIR.damaged_error(folder / TENSORS) from None


def _clusters_from(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Clusters:
    """Clusters from the tensors and facts on disk.

    Raises:
        KeyError: A tensor is missing.
        FileError: Tensors do not fit together.
    """
    state = {n.removeprefix(_PREFIX): t for n, t in tensors.items() if n.startswith(_PREFIX)}
    whitening = Whitening.from_tensors(state) if state else None
    if facts.get("space") != ("whitened" if state else "unit"):
        raise FileError("the space contradicts the tensors", "restore the file")
    centroids_KP, reference_BD = tensors["centroids"], tensors["reference"]
    P, D = reference_BD.shape[-1:] * 2 if whitening is None else whitening.components_PD.shape
    if centroids_KP.shape != (len(facts["ids"]), P) or not centroids_KP.isfinite().all():
        raise FileError("the centroids have the wrong shape or values", "restore the file")
    if reference_BD.ndim != 2 or reference_BD.shape[1] != D or not len(reference_BD):
        raise FileError("the reference has the wrong shape", "restore the file")
    return Clusters(
        whitening,
        centroids_KP,
        np.array(facts["ids"], np.int64),
        facts["encoder"],
        facts["run"],
        reference_BD,
        _PAIR.other_facts(facts),
    )


def _are_valid_ids(ids: Sequence[Any]) -> bool:
    whole = all(isinstance(id_, int) and 0 <= id_ < 2**31 for id_ in ids)
    return whole and 0 < len(ids) == len(set(ids))
