"""The images that represent a cluster, and facts about the cluster.

Clusters with the same name form one group. The report shows of a group

    typical images:  nearest to the centroid
    border images:   smallest margin to another group
    unusual images:  largest outlier score
    cohesion:        1 - mean |y - c|^2, which is the mean cosine of two of its images

Shapes:  N images; K clusters; G groups; P numbers of a whitened vector; n images of a group; b on
         borders.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from selftaught.clustering import agreement
from selftaught.clusters.clusters import Assignment, unit_projection
from selftaught.clusters.fit import ClusteredImages
from selftaught.clusters.names import label_text, merged_ids

_NEAREST = 3
_CELLS = 2**24  # of a table of groups and classes; matching more takes minutes


TYPICAL, BORDER, ODD, ALL = "Typical", "On the border", "Most unusual", "All, typical first"


class Most(NamedTuple):
    """Limits of the images in a wall; a group no larger than their sum shows `ALL` its images."""

    typical: int
    border: int
    odd: int


@dataclass(frozen=True)
class ShownCluster:
    """A cluster, or several with the same name; images are places 0 .. N-1.

    Attributes:
        id: The lowest id of its clusters.
        clusters: Their ids.
        name: Its name; "" without one.
        members_n: Its images, nearest to their centroid first.
        shown: The images of its wall, by kind; see `Most`.
        cohesion: 0 if its images have nothing in common, 1 if all are alike.
        doubled: Share of its images that have a near-duplicate.
        label: The most common label; "" if no image has a label.
        purity: Share of that label among the images with a label.
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
    def title(self) -> str:
        """Its name, or "cluster" and the id."""
        return self.name or f"cluster {self.id}"

    @property
    def short(self) -> str:
        """Its name, or its id."""
        return self.name or str(self.id)


def shown_clusters(
    grouping: ClusteredImages,
    assigned: Assignment,
    outlier_N: NDArray[np.float32] | None,
    duplicates: Sequence[Sequence[int]],
    most: Most,
) -> list[ShownCluster]:
    """All groups that contain an image, largest first.

    Args:
        grouping: The clustering.
        assigned: Each image's group; see `merged_assignment`.
        outlier_N: Outlier score of each image; None if unknown.
        duplicates: Places of near-duplicates, by group.
        most: Limits of the images in a wall.
    """
    doubled_N = np.zeros(len(assigned.cluster_N), bool)
    doubled_N[[place for twins in duplicates for place in twins]] = True
    clusters_of, labels = _clusters_of(grouping), class_labels(grouping.vectors.labels)
    found = []
    for members_n in _members(assigned):
        id_ = int(assigned.cluster_N[members_n[0]])
        label, purity = _most_common_label(labels, members_n)
        cohesion = 1 - float(np.square(assigned.distance_N[members_n], dtype=np.float64).mean())
        found.append(
            ShownCluster(
                id=id_,
                clusters=clusters_of[id_],
                name=grouping.names.get(id_, ""),
                members_n=members_n,
                shown=_images_by_kind(members_n, assigned.margin_N, outlier_N, most),
                cohesion=max(0.0, cohesion),
                doubled=float(doubled_N[members_n].mean()),
                label=label,
                purity=purity,
            )
        )
    return sorted(found, key=lambda group: (-len(group), group.id))


def merged_assignment(grouping: ClusteredImages) -> Assignment:
    """The assignment of images when clusters with the same name are merged."""
    joined = merged_ids(grouping.names)
    if all(id_ == group for id_, group in joined.items()):
        return grouping.assigned
    return grouping.clusters.assign(grouping.vectors.x_ND, joined, _places(grouping))


def nearest_clusters(
    grouping: ClusteredImages, found: Sequence[ShownCluster], first: int
) -> list[list[int]]:
    """For each of the `first` groups, the positions of the groups with the nearest means."""
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


def next_groups(
    grouping: ClusteredImages, assigned: Assignment, places: Sequence[int]
) -> dict[int, int]:
    """For each place, the id of the nearest group other than its own."""
    own_b = assigned.cluster_N[list(places)]
    if not len(own_b) or len(np.unique(assigned.cluster_N)) == 1:
        return {}
    clusters, joined = grouping.clusters, merged_ids(grouping.names)
    groups_K = np.array([joined.get(id_, id_) for id_ in clusters.ids_K.tolist()], np.int64)
    y_bP = unit_projection(grouping.vectors.x_ND[list(places)], clusters.whitening)
    far_bK = torch.cdist(y_bP, clusters.centroids_KP).numpy()
    far_bK[own_b[:, None] == groups_K] = np.inf
    return dict(zip(places, groups_K[far_bK.argmin(1)].tolist(), strict=True))


# --- labels


def class_labels(labels: Sequence[Any] | None) -> list[str | None] | None:
    """Labels as words, None for an image without one; None if the labels are not classes.

    Labels with fractional numbers are regression targets, which clusters cannot share.
    """
    known = [] if labels is None else [label for label in labels if label is not None]
    if (
        labels is None
        or not known
        or any(isinstance(v, float) and not v.is_integer() for v in known)
    ):
        return None
    return [None if label is None else label_text(label) for label in labels]


def agreements(labels: Sequence[str | None], cluster_N: NDArray[np.int64]) -> dict[str, float]:
    """The agreement of groups and classes, over the images with a label."""
    known = np.array([label is not None for label in labels])
    words = [label for label in labels if label is not None]
    code = {word: number for number, word in enumerate(sorted(set(words)))}
    class_n = np.array([code[word] for word in words], np.int64)
    group_n = np.unique(cluster_N[known], return_inverse=True)[1].astype(np.int64)
    measures = {
        "images": float(len(words)),
        "classes": float(len(code)),
        "NMI": agreement.nmi(group_n, class_n),
        "NMI, arithmetic": agreement.nmi(group_n, class_n, "arithmetic"),
        "ARI": agreement.ari(group_n, class_n),
    }
    if len(code) * (group_n.max() + 1) <= _CELLS:
        measures["purity"] = agreement.purity(group_n, class_n)
        measures["accuracy"] = agreement.best_match_accuracy(group_n, class_n)
    return measures


def _most_common_label(
    labels: Sequence[str | None] | None, members_n: NDArray[np.int64]
) -> tuple[str, float]:
    """The most common label, the first alphabetically among equals, and its share."""
    found = [] if labels is None else [labels[place] for place in members_n.tolist()]
    counts = Counter(label for label in found if label is not None)
    if not counts:
        return "", 0.0
    label, count = min(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return label, count / counts.total()


# --- images


def _members(assigned: Assignment) -> Iterable[NDArray[np.int64]]:
    """The places of each group, nearest to their centroid first."""
    order_N = np.lexsort((assigned.distance_N, assigned.cluster_N))
    borders = np.flatnonzero(np.diff(assigned.cluster_N[order_N])) + 1
    return np.split(order_N, borders)


def _lowest_members(
    value_N: NDArray[np.float32], members_n: NDArray[np.int64], most: int
) -> list[int]:
    """The members with the lowest values, lowest first."""
    order = np.argsort(value_N[members_n], kind="stable")[:most]
    lowest: list[int] = members_n[order].tolist()
    return lowest


def _images_by_kind(
    members_n: NDArray[np.int64],
    margin_N: NDArray[np.float32],
    outlier_N: NDArray[np.float32] | None,
    most: Most,
) -> dict[str, list[int]]:
    """The images of a wall by kind; a single group has no border."""
    if len(members_n) <= sum(most):
        return {ALL: members_n.tolist()}
    border = _lowest_members(margin_N, members_n, most.border)
    return {
        TYPICAL: members_n[: most.typical].tolist(),
        **({BORDER: border} if np.isfinite(margin_N[border]).all() else {}),
        **({} if outlier_N is None else {ODD: _lowest_members(-outlier_N, members_n, most.odd)}),
    }


def _clusters_of(grouping: ClusteredImages) -> Mapping[int, tuple[int, ...]]:
    """The ids of the clusters of each group."""
    joined, found = merged_ids(grouping.names), dict[int, tuple[int, ...]]()
    for id_ in sorted(grouping.clusters.ids_K.tolist()):
        group = joined.get(id_, id_)
        found[group] = (*found.get(group, ()), id_)
    return found


def _places(grouping: ClusteredImages) -> NDArray[np.int64]:
    """The place 0 .. K-1 of each image's cluster."""
    place = {id_: k for k, id_ in enumerate(grouping.clusters.ids_K.tolist())}
    return np.array([place[id_] for id_ in grouping.assigned.cluster_N.tolist()], np.int64)


def _sizes(grouping: ClusteredImages) -> NDArray[np.float64]:
    """Images per cluster; an empty one counts a little, so that every mean exists."""
    return np.maximum(grouping.sizes_K.astype(np.float64), 1e-9)
