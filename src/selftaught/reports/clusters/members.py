"""Which images stand for a cluster, and what is told of it.

Clusters with one name are one group. Of a group are told

    its typical images:  nearest to the centroid
    its border:          with the smallest margin to another group
    its odd images:      with the largest outlier score
    cohesion:            1 - mean |y - c|^2, which is the mean cosine of two of its images

Shapes:  N images; K clusters; G groups; P numbers of a whitened vector; n images of a group; b of
         the borders.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from selftaught.clustering import agreement
from selftaught.clusters.clusters import Assigned, projected
from selftaught.clusters.fit import Grouping
from selftaught.clusters.names import as_name, groups_of

_NEAREST = 3
_CELLS = 2**24  # of a table of groups and classes; a matching of more takes minutes


TYPICAL, BORDER, ODD, ALL = "Typical", "On the border", "Oddest", "All, typical first"


class Most(NamedTuple):
    """Images of a wall at most; a group with no more than all three has `ALL` of them."""

    typical: int
    border: int
    odd: int


@dataclass(frozen=True)
class ShownCluster:
    """A cluster, or several with one name; images are places 0 .. N-1.

    Attributes:
        id: The lowest id of its clusters.
        clusters: Their ids.
        name: "" where it has none.
        members_n: Its images, nearest to their centroid first.
        shown: Images of its wall, by what they are; see `Most`.
        cohesion: 0 nothing in common, 1 all alike.
        doubled: Share of its images that have a near-duplicate.
        label: The commonest label, "" where no image has one.
        purity: Its share of the images that have a label.
    """

    id: int
    clusters: tuple[int, ...]
    name: str
    members_n: NDArray[np.int64]
    shown: Mapping[str, list[int]]
    cohesion: float
    doubled: float
    label: str
    purity: float

    def __len__(self) -> int:
        return len(self.members_n)

    @property
    def called(self) -> str:
        """Its name, or cluster and id."""
        return self.name or f"cluster {self.id}"

    @property
    def short(self) -> str:
        """Its name, or its id."""
        return self.name or str(self.id)


def shown_clusters(
    grouping: Grouping,
    assigned: Assigned,
    outlier_N: NDArray[np.float32] | None,
    duplicates: Sequence[Sequence[int]],
    most: Most,
) -> list[ShownCluster]:
    """All groups that have an image, largest first.

    Args:
        grouping: The clustering.
        assigned: Each image's group; see `merged`.
        outlier_N: The higher, the odder; None where that is not known.
        duplicates: Places of images that are nearly the same.
        most: Images of a wall.
    """
    doubled_N = np.zeros(len(assigned.cluster_N), bool)
    doubled_N[[place for twins in duplicates for place in twins]] = True
    clusters_of, labels = _clusters_of(grouping), classes(grouping.vectors.labels)
    found = []
    for members_n in _members(assigned):
        id_ = int(assigned.cluster_N[members_n[0]])
        label, purity = _commonest(labels, members_n)
        cohesion = 1 - float(np.square(assigned.distance_N[members_n], dtype=np.float64).mean())
        found.append(
            ShownCluster(
                id=id_,
                clusters=clusters_of[id_],
                name=grouping.names.get(id_, ""),
                members_n=members_n,
                shown=_shown(members_n, assigned.margin_N, outlier_N, most),
                cohesion=max(0.0, cohesion),
                doubled=float(doubled_N[members_n].mean()),
                label=label,
                purity=purity,
            )
        )
    return sorted(found, key=lambda group: (-len(group), group.id))


def merged(grouping: Grouping) -> Assigned:
    """Where images belong when clusters with one name are one group."""
    joined = groups_of(grouping.names)
    if all(id_ == group for id_, group in joined.items()):
        return grouping.assigned
    return grouping.clusters.assign(grouping.vectors.x_ND, joined, _places(grouping))


def nearest_clusters(
    grouping: Grouping, found: Sequence[ShownCluster], first: int
) -> list[list[int]]:
    """Of each of the `first` groups, the positions of the groups whose means are nearest."""
    sizes, centroids_KP = _sizes(grouping), grouping.clusters.centroids_KP
    place = {id_: k for k, id_ in enumerate(grouping.clusters.ids_K.tolist())}
    means = []
    for group in found:
        own = [place[id_] for id_ in group.clusters]
        share = torch.from_numpy(sizes[own] / sizes[own].sum()).float()
        means.append(share @ centroids_KP[own])
    means_GP = torch.stack(means)
    far_GG = torch.cdist(means_GP[:first], means_GP)
    far_GG.fill_diagonal_(torch.inf)
    count = min(_NEAREST, len(found) - 1)
    order: list[list[int]] = far_GG.argsort(dim=1, stable=True)[:, :count].tolist()
    return order


def next_groups(grouping: Grouping, assigned: Assigned, places: Sequence[int]) -> dict[int, int]:
    """Of each place, the id of the nearest group that is not its own."""
    own_b = assigned.cluster_N[list(places)]
    if not len(own_b) or len(np.unique(assigned.cluster_N)) == 1:
        return {}
    clusters, joined = grouping.clusters, groups_of(grouping.names)
    groups_K = np.array([joined.get(id_, id_) for id_ in clusters.ids_K.tolist()], np.int64)
    y_bP = projected(grouping.vectors.x_ND[list(places)], clusters.whitening)
    far_bK = torch.cdist(y_bP, clusters.centroids_KP).numpy()
    far_bK[own_b[:, None] == groups_K] = np.inf
    return dict(zip(places, groups_K[far_bK.argmin(1)].tolist(), strict=True))


# --- labels


def classes(labels: Sequence[Any] | None) -> list[str | None] | None:
    """Labels as words, None where an image has none; None where they are no classes.

    Numbers that are not whole are targets, which no cluster can share.
    """
    known = [] if labels is None else [label for label in labels if label is not None]
    if (
        labels is None
        or not known
        or any(isinstance(v, float) and not v.is_integer() for v in known)
    ):
        return None
    return [None if label is None else as_name(label) for label in labels]


def agreements(labels: Sequence[str | None], cluster_N: NDArray[np.int64]) -> dict[str, float]:
    """How far groups and classes agree, over the images that have a label."""
    known = np.array([label is not None for label in labels])
    words = [label for label in labels if label is not None]
    code = {word: number for number, word in enumerate(sorted(set(words)))}
    class_n = np.array([code[word] for word in words], np.int64)
    group_n = np.unique(cluster_N[known], return_inverse=True)[1].astype(np.int64)
    told = {
        "images": float(len(words)),
        "classes": float(len(code)),
        "NMI": agreement.nmi(group_n, class_n),
        "NMI, arithmetic": agreement.nmi(group_n, class_n, "arithmetic"),
        "ARI": agreement.ari(group_n, class_n),
    }
    if len(code) * (group_n.max() + 1) <= _CELLS:
        told["purity"] = agreement.purity(group_n, class_n)
        told["accuracy"] = agreement.best_match_accuracy(group_n, class_n)
    return told


def _commonest(
    labels: Sequence[str | None] | None, members_n: NDArray[np.int64]
) -> tuple[str, float]:
    """The commonest label, of equals the first in the alphabet, and its share."""
    found = [] if labels is None else [labels[place] for place in members_n.tolist()]
    counted = Counter(label for label in found if label is not None)
    if not counted:
        return "", 0.0
    label, count = min(counted.items(), key=lambda pair: (-pair[1], pair[0]))
    return label, count / counted.total()


# --- images


def _members(assigned: Assigned) -> Iterable[NDArray[np.int64]]:
    """The places of each group, nearest to their centroid first."""
    order_N = np.lexsort((assigned.distance_N, assigned.cluster_N))
    borders = np.flatnonzero(np.diff(assigned.cluster_N[order_N])) + 1
    return np.split(order_N, borders)


def _lowest(value_N: NDArray[np.float32], members_n: NDArray[np.int64], most: int) -> list[int]:
    """The members with the lowest values, lowest first."""
    order = np.argsort(value_N[members_n], kind="stable")[:most]
    lowest: list[int] = members_n[order].tolist()
    return lowest


def _shown(
    members_n: NDArray[np.int64],
    margin_N: NDArray[np.float32],
    outlier_N: NDArray[np.float32] | None,
    most: Most,
) -> dict[str, list[int]]:
    """The images of a wall; there is no border where there is no other group."""
    if len(members_n) <= sum(most):
        return {ALL: members_n.tolist()}
    border = _lowest(margin_N, members_n, most.border)
    return {
        TYPICAL: members_n[: most.typical].tolist(),
        **({BORDER: border} if np.isfinite(margin_N[border]).all() else {}),
        **({} if outlier_N is None else {ODD: _lowest(-outlier_N, members_n, most.odd)}),
    }


def _clusters_of(grouping: Grouping) -> Mapping[int, tuple[int, ...]]:
    """The ids of the clusters of each group."""
    joined, found = groups_of(grouping.names), dict[int, tuple[int, ...]]()
    for id_ in sorted(grouping.clusters.ids_K.tolist()):
        group = joined.get(id_, id_)
        found[group] = (*found.get(group, ()), id_)
    return found


def _places(grouping: Grouping) -> NDArray[np.int64]:
    """The place 0 .. K-1 of each image's cluster."""
    place = {id_: k for k, id_ in enumerate(grouping.clusters.ids_K.tolist())}
    return np.array([place[id_] for id_ in grouping.assigned.cluster_N.tolist()], np.int64)


def _sizes(grouping: Grouping) -> NDArray[np.float64]:
    """Images of each cluster; an empty one counts a little, so that every mean exists."""
    return np.maximum(grouping.sizes_K.astype(np.float64), 1e-9)
