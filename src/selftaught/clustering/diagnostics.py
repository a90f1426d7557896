"""What is told of a clustering while a network learns from it, and when it is alarming.

Shapes:  N images.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from selftaught.clustering import agreement

if TYPE_CHECKING:
    from selftaught.clustering.kmeans import Clustering

FIGURES = (
    "nmi_last",
    "nmi_labels",
    "objective",
    "repairs",
    "largest_share",
    "entropy",
    "clusters_used",
)
NONE = -1.0
"""In the place of a figure that there is not."""

_MOST, _LEAST = 0.5, 0.1


def clustering_metrics(
    found: "Clustering", before_N: Tensor, labels: NDArray[Any] | None
) -> list[float]:
    """FIGURES of a clustering.

    Args:
        found: The clustering.
        before_N: The labels that the last one gave, or none.
        labels: Classes, -1 where an image has none; targets that are no classes are passed over.
    """
    labels_N, k = found.labels_N.cpu().numpy(), len(found.centroids_KD)
    sizes_K = found.sizes.cpu().numpy()
    apart = np.count_nonzero(sizes_K) > 1  # one cluster agrees with one cluster, and means nothing
    last = agreement.nmi(labels_N, before_N.cpu().numpy()) if len(before_N) and apart else NONE
    known = None if labels is None or labels.dtype.kind == "f" else labels >= 0
    classes = NONE
    if known is not None and labels is not None and known.any():
        classes = agreement.nmi(labels_N[known], labels[known])
    return [
        last,
        classes,
        found.objective,
        float(found.repairs),
        float(sizes_K.max() / sizes_K.sum()),
        agreement.entropy(labels_N, k),
        float(np.count_nonzero(sizes_K)),
    ]


def clustering_alarms(line: Mapping[str, Any], k: int) -> list[str]:
    """Plain sentences about a line of the log that holds FIGURES.

    Half of the images are no alarm in one of two or three clusters: twice its share is.
    """
    if "largest_share" not in line:
        return []
    used, largest = line["clusters_used"], line["largest_share"]
    if used == 1:
        return [_ONE]
    found = [_LARGE.format(largest)] if largest > max(_MOST, 2 / k) else []
    return found + ([_UNUSED.format(used, k)] if used < _LEAST * k else [])


_ONE = (
    "All images lie in one cluster: their features are equal. The network has collapsed, or the "
    "images are all alike. Lower --lr, or look at its views with selftaught views."
)
_LARGE = (
    "{:.0%} of the images lie in one cluster, so clusters tell little apart. Look at the images "
    "with selftaught check, or choose another --set k."
)
_UNUSED = (
    "Only {:.0f} of {:,} clusters are in use: fewer images differ than there are clusters, or the "
    "network has collapsed. Choose a smaller --set k."
)
