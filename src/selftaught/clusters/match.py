"""Ids that stay the same from one clustering to the next, where most images stay together.

Shapes:  M images that both clusterings know; A ids of the old one, B of the new one.
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
"""Which image is in which cluster."""


def matched_ids(
    old: Mapping[str, int], new: Mapping[str, int], ids_K: NDArray[np.int64]
) -> tuple[NDArray[np.int64], float]:
    """The new clusters under the ids of those old ones that they share most images with.

    Pairs are chosen so that as many images as possible keep their id (the Hungarian method); pairs
    without a common image do not count. Clusters that are left get ids after all of the old ones'.

    Args:
        old: The old id of each image, by path.
        new: The new id of each image, by path.
        ids_K: All ids of the new clustering.

    Returns:
        The new ids, in the order of ids_K, and the share of common images that keep their id.

    Raises:
        DataError: No image is in both.
    """
    common = sorted(old.keys() & new.keys())
    if not common:
        raise DataError("the two clusterings have no image in common", "leave --match out")
    old_M, new_M = _ids(old, common), _ids(new, common)
    partner, kept = _assignment(old_M, new_M)
    fresh = int(max(old.values())) + 1
    ids = []
    for id_ in ids_K.tolist():
        if id_ not in partner:
            partner[id_], fresh = fresh, fresh + 1
        ids.append(partner[id_])
    return np.array(ids, np.int64), kept / len(common)


def kept_names(
    names: Mapping[int, str], old: Mapping[str, int], new: Mapping[str, int]
) -> dict[int, str]:
    """The names of the old clusters that the new ones of the same ids still deserve.

    At least half of the images that a new cluster shares with the old clustering had that name, and
    at least a tenth of its images are shared.

    Args:
        names: Of the old clusters, by id.
        old: The old id of each image, by path.
        new: The new id of each image, by path, under the old ones' ids.
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


def _ids(clustering: Mapping[str, int], paths: Sequence[str]) -> NDArray[np.int64]:
    return np.array([clustering[path] for path in paths], np.int64)


def _assignment(old_M: NDArray[np.int64], new_M: NDArray[np.int64]) -> tuple[dict[int, int], int]:
    """The old id of each new one that has a partner, and how many images the pairs share."""
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


def assignments(folder: Path) -> "pa.Table":
    """Which image is in which cluster.

    Raises:
        FileError: The folder holds no clusters.
    """
    if not (folder / FACTS).is_file():
        raise FileError(f"{folder} holds no clusters", "give the --out of selftaught cluster")
    table = read_table(folder / ASSIGNMENTS)
    if not {"path", "cluster"} <= set(table.column_names):
        raise FileError(f"{folder / ASSIGNMENTS} is damaged", "restore it, or cluster anew")
    return table


def by_path(table: "pa.Table") -> dict[str, int]:
    """The cluster of each image."""
    paths: Sequence[str] = table["path"].to_pylist()
    return dict(zip(paths, table["cluster"].to_pylist(), strict=True))
