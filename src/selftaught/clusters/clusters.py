"""Clusters that are kept: what says to which of them any vector belongs, on disk as CLUSTERS.

    y = unit(x) or unit(W (x - mean)),    cluster(x) = argmin_k |y - c_k|

Shapes:  N vectors, n in a block, D their size; P that of y; K clusters; B vectors kept.
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
class Assigned:
    """Where vectors belong.

    Attributes:
        cluster_N: int64, ids.
        distance_N: |y - c| to the nearest centroid, float32, 0 to 2.
        margin_N: How much farther the nearest centroid of another group is, inf where there is
            none.
    """

    cluster_N: NDArray[np.int64]
    distance_N: NDArray[np.float32]
    margin_N: NDArray[np.float32]

    @property
    def confidence_N(self) -> NDArray[np.float32]:
        """1 at a centroid, 0 half-way to the next: margin / the larger of the two distances.

        It is the silhouette with distances to centroids (Hruschka, de Castro, Campello 2004).
        """
        far_N = self.distance_N + np.maximum(self.margin_N, 0)
        alone_N, apart_N = np.isinf(far_N), (far_N > 0) & np.isfinite(far_N)
        share_N = np.divide(self.margin_N, far_N, out=np.zeros_like(far_N), where=apart_N)
        return np.where(alone_N, np.float32(1), share_N)


@dataclass(frozen=True, eq=False)
class Clusters:
    """Centroids in the space of one encoder.

    Attributes:
        whitening: From the encoder's vectors to unit rows; None where they are only made as long.
        centroids_KP: float32.
        ids_K: int64, what each cluster is called in tables: 0 .. K-1, unless ids were kept from an
            older clustering.
        encoder: The identity of the encoder (`encoder_id`); "" where it is unknown.
        run: Where that encoder was found, absolute, or timm:NAME; "" for a table of vectors.
        reference_BD: Some of the vectors that were clustered, unit rows, float16: outliers are far
            from all of them.
        facts: What else is told of the clustering, as JSON knows it.
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
        groups: Mapping[int, int] | None = None,
        own_N: NDArray[np.int64] | None = None,
    ) -> Assigned:
        """The nearest cluster of each vector.

        Args:
            x_ND: Vectors of the encoder.
            groups: By id, the id of the cluster that it is merged with; other ids stand for
                themselves.
            own_N: Places (0 .. K-1) of the clusters that vectors were put in, in place of the
                nearest; where another one is nearer the margin is negative.

        Raises:
            DataError: The vectors have another size than those that were clustered.
        """
        D = self.reference_BD.shape[1]
        if x_ND.shape[1] != D:
            found = f"vectors of {x_ND.shape[1]} numbers, and clusters of vectors of {D}"
            raise DataError(found, "give the encoder that the clusters were made with")
        groups = groups or {}
        group_K = np.array([groups.get(id_, id_) for id_ in self.ids_K.tolist()], np.int64)
        n = max(1, _BLOCK // len(self))
        parts = [
            self._nearest(x_ND[rows], group_K, None if own_N is None else own_N[rows])
            for rows in (slice(start, start + n) for start in range(0, len(x_ND), n))
        ]
        return Assigned(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _nearest(
        self, x_nD: NDArray[np.float32], group_K: NDArray[np.int64], own_n: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Group, distance and margin of some vectors."""
        y_nP, c_KP = projected(x_nD, self.whitening), self.centroids_KP
        groups_K = torch.from_numpy(group_K)
        far_nK = torch.addmm(c_KP.square().sum(1) / 2, y_nP, c_KP.T, alpha=-1)
        first_n = far_nK.argmin(1) if own_n is None else torch.from_numpy(own_n)
        far_nK[groups_K[first_n][:, None] == groups_K] = torch.inf
        next_n = far_nK.argmin(1)
        distance_n = torch.linalg.vector_norm(y_nP - c_KP[first_n], dim=1)
        margin_n = torch.linalg.vector_norm(y_nP - c_KP[next_n], dim=1) - distance_n
        if own_n is None:
            margin_n.clamp_(min=0)  # where rounding could not tell which is nearer
        margin_n[far_nK.amin(1).isinf()] = torch.inf
        return group_K[first_n.numpy()], distance_n.numpy(), margin_n.numpy()

    def counts(self, cluster_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """How often each id occurs, (K,) in the order of `ids_K`."""
        found, many = np.unique(cluster_N, return_counts=True)
        of = dict(zip(found.tolist(), many.tolist(), strict=True))
        return np.array([of.get(id_, 0) for id_ in self.ids_K.tolist()], np.int64)

    def renamed(self, ids_K: NDArray[np.int64]) -> "Clusters":
        """The same clusters under other ids."""
        return replace(self, ids_K=ids_K)


def projected(x_ND: NDArray[np.float32], whitening: Whitening | None) -> Tensor:
    """y: unit rows in which clusters are looked for, (N, P) float32."""
    if whitening is not None:
        return whitening(x_ND)
    return torch.nn.functional.normalize(torch.tensor(x_ND), dim=1)  # it may be read-only


# --- on disk


def save_clusters(clusters: Clusters, folder: Path) -> None:
    """Write clusters.safetensors, and clusters.json, which says that all is there."""
    whitening = {} if clusters.whitening is None else clusters.whitening.tensors()
    tensors = {_PREFIX + name: tensor for name, tensor in whitening.items()}
    tensors |= {"centroids": clusters.centroids_KP, "reference": clusters.reference_BD}
    own = {"ids": clusters.ids_K.tolist(), "encoder": clusters.encoder, "run": clusters.run}
    _PAIR.save(folder, tensors, {**clusters.facts, **own})


def load_clusters(folder: Path) -> Clusters:
    """What `save` wrote.

    Raises:
        FileError: A file is missing or damaged, or they do not belong together.
    """
    tensors, facts = _PAIR.load(folder, lambda facts: _distinct(facts["ids"]))
    try:
        return _built(tensors, facts)
    except (KeyError, FileError):
        raise _PAIR.damaged(folder / TENSORS) from None


def _built(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Clusters:
    """Clusters from what was read.

    Raises:
        KeyError: A tensor is missing.
        FileError: Tensors do not fit together.
    """
    state = {n.removeprefix(_PREFIX): t for n, t in tensors.items() if n.startswith(_PREFIX)}
    whitening = Whitening.from_tensors(state) if state else None
    if facts.get("space") != ("whitened" if state else "unit"):
        raise FileError("the space is not that of the tensors", "restore the file")
    centroids_KP, reference_BD = tensors["centroids"], tensors["reference"]
    P, D = reference_BD.shape[-1:] * 2 if whitening is None else whitening.components_PD.shape
    if centroids_KP.shape != (len(facts["ids"]), P) or not centroids_KP.isfinite().all():
        raise FileError("the centroids do not fit", "restore the file")
    if reference_BD.ndim != 2 or reference_BD.shape[1] != D or not len(reference_BD):
        raise FileError("the reference does not fit", "restore the file")
    return Clusters(
        whitening,
        centroids_KP,
        np.array(facts["ids"], np.int64),
        facts["encoder"],
        facts["run"],
        reference_BD,
        _PAIR.others(facts),
    )


def _distinct(ids: Sequence[Any]) -> bool:
    whole = all(isinstance(id_, int) and 0 <= id_ < 2**31 for id_ in ids)
    return whole and 0 < len(ids) == len(set(ids))
