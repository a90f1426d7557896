"""What stands out among the images of a grouping: outliers and near-duplicates.

Shapes:  N images, M of them in the sample that is kept with clusters; D size of a vector.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from selftaught.clusters import outliers
from selftaught.clusters.gray import gray
from selftaught.errors import BadImage
from selftaught.foundation.progress import meanwhile
from selftaught.vectors.vectors import Vectors


@dataclass(frozen=True, eq=False)
class Apart:
    """Outliers and near-duplicates.

    Attributes:
        score_N: float32, how surprising each image is, in nats; None of too few images.
        odd_N: Which of them are outliers; None of too few images.
        duplicates: Groups of places 0 .. N-1, rising; the largest group first.
        note: Why pixels were not looked at, or outliers not told, where that is so; else "".
    """

    score_N: NDArray[np.float32] | None
    odd_N: NDArray[np.bool_] | None
    duplicates: tuple[NDArray[np.int64], ...]
    note: str = ""

    def columns(self, vectors: Vectors) -> dict[str, Any]:
        """For a table: outlier_score and outlier, null where they cannot be told, and duplicate_of,
        the row of the first that looks the same, null where none does."""
        import pyarrow as pa

        first: list[int | None] = [None] * len(vectors)
        for group in self.duplicates:
            for place in group.tolist()[1:]:
                first[place] = int(vectors.row_N[group[0]])
        told = _columns(len(vectors), self.score_N, self.odd_N)
        return told | {"duplicate_of": pa.array(first, pa.int64())}


def apart(vectors: Vectors) -> Apart:
    """Outliers and near-duplicates, by vectors, and by pixels where they can be read."""
    if vectors.images is None:
        return _apart(vectors, None)
    store, row_N = vectors.images.store, vectors.row_N

    def pictures(places: NDArray[np.int64]) -> NDArray[np.float32]:
        return gray(store, row_N[places])

    try:
        return _apart(vectors, pictures)
    except BadImage as error:
        note = (
            f"Near-duplicates and outliers are told by vectors alone: {error.what} is gone or bad."
        )
        return _apart(vectors, None, note)


def apart_with_notice(vectors: Vectors) -> Apart:
    """The same as `apart`, announced on stderr when it takes long."""
    with meanwhile(f"Looking for near-duplicates and outliers in {len(vectors):,} images."):
        return apart(vectors)


def _apart(vectors: Vectors, pictures: outliers.Pictures | None, note: str = "") -> Apart:
    pairs = outliers.near_duplicates(vectors.x_ND, pictures=pictures)
    groups = tuple(outliers.duplicate_groups(pairs, len(vectors)))
    if len(vectors) < outliers.FEWEST:
        few = f"Too few images to tell outliers ({outliers.FEWEST} are the least)."
        return Apart(None, None, groups, f"{note} {few}".lstrip())
    score_N = outliers.outlier_scores(vectors.x_ND, pictures=pictures)
    return Apart(score_N, outliers.outlier_flags(score_N), groups, note)


def among(vectors: Vectors, reference_MD: Tensor) -> dict[str, Any]:
    """For a table: outlier_score and outlier of new images among those that were clustered; null
    where those are too few."""
    if len(reference_MD) < outliers.FEWEST:
        return _columns(len(vectors), None, None)
    score_N = outliers.scores_among(vectors.x_ND, reference_MD.float().numpy())
    return _columns(len(vectors), score_N, outliers.outlier_flags(score_N, known=len(reference_MD)))


def _columns(
    N: int, score_N: NDArray[np.float32] | None, odd_N: NDArray[np.bool_] | None
) -> dict[str, Any]:
    """Of one type whether there are values or not."""
    import pyarrow as pa

    found = ("outlier_score", score_N, pa.float32()), ("outlier", odd_N, pa.bool_())
    return {
        name: pa.nulls(N, type_) if value_N is None else pa.array(value_N, type_)
        for name, value_N, type_ in found
    }
