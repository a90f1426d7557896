"""Match a new clustering to an older one, so that clusters keep their ids and names.

Shapes:  M images in both clusterings; A ids of the old one, B of the new one.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from selftaught.clusters.clusters import FACTS
from selftaught.errors import DataError, FileError
from selftaught.foundation.files import read_table

if TYPE_CHECKING:
    import pyarrow as pa

ASSIGNMENTS = "assignments.parquet"
"""The file with the cluster of each image."""


def matched_ids(
    old: Mapping[str, int], new: Mapping[str, int], ids_K: NDArray[np.int64]
) -> tuple[NDArray[np.int64], float]:
    """Give each new cluster the id of the old one with which it shares most images.

    Pairs are chosen so that as many images as possible keep their id (the Hungarian method); pairs
    without a common image do not count. The remaining clusters get ids above all old ones.

    Args:
        old: The old id of each image, by path.
        new: The new id of each image, by path.
        ids_K: All ids of the new clustering.

    Returns:
        The matched ids, in the order of ids_K, and the share of common images that keep their id.

    Raises:
        DataError: No image is in both.
    """
    common = sorted(old.keys() & new.keys())
    if not common:
        raise DataError("the two clusterings have no image in common", "drop --match")
    old_M, new_M = _ids_of(old, common), _ids_of(new, common)
    partner, matched = _best_pairs(old_M, new_M)
    fresh = int(max(old.values())) + 1
    ids = []
    for id_ in ids_K.tolist():
        if id_ not in partner:
            partner[id_], fresh = fresh, fresh + 1
        ids.append(partner[id_])
    return np.array(ids, np.int64), matched / len(common)


def surviving_names(
    names: Mapping[int, str], old: Mapping[str, int], new: Mapping[str, int]
) -> dict[int, str]:
    """The names of old clusters that still hold for the new clusters with the same ids.

    At least half of the images that the new cluster shares with the old clustering must have had
    the name, and at least a tenth of its images must be shared.

    Args:
        names: Names of the old clusters, by id.
        old: The old id of each image, by path.
        new: The matched id of each image, by path.
    """
    size, shared, same = Counter(new.values()), Counter[int](), Counter[int]()
    for path, id_ in new.items():
        if path in old:
            shared[id_] += 1
            same[id_] += names.get(old[path]) == names.get(id_)
    return {
        id_: name
        for id_, name in names.items()
        if shared[id_] and 2 * same[id_] >= shared[id_] and 10 * shared[id_] >= size[id_]
    }


def _ids_of(clustering: Mapping[str, int], paths: Sequence[str]) -> NDArray[np.int64]:
    return np.array([clustering[path] for path in paths], np.int64)


def _best_pairs(old_M: NDArray[np.int64], new_M: NDArray[np.int64]) -> tuple[dict[int, int], int]:
    """The old id of each matched new id, and how many images the pairs share."""
    from scipy.optimize import linear_sum_assignment

    old_A, a_M = np.unique(old_M, return_inverse=True)
    new_B, b_M = np.unique(new_M, return_inverse=True)
    shared_AB = np.zeros((len(old_A), len(new_B)), np.int64)
    np.add.at(shared_AB, (a_M, b_M), 1)
    chosen = zip(*linear_sum_assignment(-shared_AB), strict=True)
    pairs = [(a, b) for a, b in chosen if shared_AB[a, b]]
    return (
        {int(new_B[b]): int(old_A[a]) for a, b in pairs},
        int(sum(shared_AB[a, b] for a, b in pairs)),
    )


# --- older clusterings


def read_assignments(folder: Path) -> "pa.Table":
    """The table with the cluster of each image.

    Raises:
        FileError: The folder does not hold clusters, or its table is damaged.
    """
    if not (folder / FACTS).is_file():
        what = f"{folder} is not a clusters folder ({FACTS} is missing)"
        raise FileError(what, "pass the output folder of selftaught cluster")
    table = read_table(folder / ASSIGNMENTS)
    if not {"path", "cluster"} <= set(table.column_names):
        remedy = "restore it, or run selftaught cluster again"
        raise FileError(f"{folder / ASSIGNMENTS} is damaged", remedy)
    return table


def cluster_by_path(table: "pa.Table") -> dict[str, int]:
    """The cluster of each image, by path."""
    paths: Sequence[str] = table["path"].to_pylist()
    return dict(zip(paths, table["cluster"].to_pylist(), strict=True))
