"""Metrics and alarms for the clusterings that a network learns from.

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
"""Stands for a missing figure."""

_MOST, _LEAST = 0.5, 0.1


def clustering_metrics(
    found: "Clustering", before_N: Tensor, labels: NDArray[Any] | None
) -> list[float]:
    """FIGURES of a clustering.

    Args:
        found: The clustering.
        before_N: The labels of the previous clustering, or none.
        labels: Classes, -1 for an image without one; targets that are not classes are ignored.
    """
    labels_N, k = found.labels_N.cpu().numpy(), len(found.centroids_KD)
    sizes_K = found.sizes.cpu().numpy()
    several = np.count_nonzero(sizes_K) > 1  # one cluster always agrees with one cluster
    last = agreement.nmi(labels_N, before_N.cpu().numpy()) if len(before_N) and several else NONE
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
    """Alarms for a line of the log that holds FIGURES.

    With k of 2 or 3, half of the images in one cluster is normal: the threshold is twice 1 / k.
    """
    if "largest_share" not in line:
        return []
    used, largest = line["clusters_used"], line["largest_share"]
    if used == 1:
        return [_ONE]
    found = [_LARGE.format(largest)] if largest > max(_MOST, 2 / k) else []
    return found + ([_UNUSED.format(used, k)] if used < _LEAST * k else [])


_ONE = (
    "All images are in one cluster because their features are equal. The network has collapsed, or "
    "the images are all the same. Lower --lr, or check the views with selftaught preview."
)
_LARGE = (
    "{:.0%} of the images are in one cluster, so the clusters separate little. Look at the images "
    "with selftaught check, or choose another --set k."
)
_UNUSED = (
    "Only {:.0f} of {:,} clusters are in use: there are fewer distinct images than clusters, or "
    "the network has collapsed. Choose a smaller --set k."
)
