"""What stands out among the images of a grouping: outliers and near-duplicates.

Shapes:  N images, M of them in the sample that is kept with clusters; D size of a vector.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from selftaught.errors import BadImage
from selftaught.groups import odd
from selftaught.groups.pictures import gray
from selftaught.vectors import Vectors


@dataclass(frozen=True, eq=False)
class Apart:
    """Outliers and near-duplicates.

    Attributes:
        score_N: float32, how surprising each image is, in nats.
        odd_N: Which of them are outliers.
        duplicates: Groups of places 0 .. N-1, rising; the largest group first.
        note: Why pixels were not looked at, if they were not; else "".
    """

    score_N: NDArray[np.float32]
    odd_N: NDArray[np.bool_]
    duplicates: tuple[NDArray[np.int64], ...]
    note: str = ""

    def columns(self, vectors: Vectors) -> dict[str, Any]:
        """For a table: outlier_score, outlier, and duplicate_of, the row of the first that looks
        the same, null where none does."""
        first: list[int | None] = [None] * len(vectors)
        for group in self.duplicates:
            for place in group.tolist()[1:]:
                first[place] = int(vectors.row_N[group[0]])
        return {"outlier_score": self.score_N, "outlier": self.odd_N, "duplicate_of": first}


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


def _apart(vectors: Vectors, pictures: odd.Pictures | None, note: str = "") -> Apart:
    pairs = odd.near_duplicates(vectors.x_ND, pictures=pictures)
    score_N = odd.outlier_scores(vectors.x_ND, pictures=pictures)
    groups = tuple(odd.duplicate_groups(pairs, len(vectors)))
    return Apart(score_N, odd.outliers(score_N), groups, note)


def among(vectors: Vectors, reference_MD: Tensor) -> dict[str, Any]:
    """For a table: outlier_score and outlier of new images among those that were clustered."""
    score_N = odd.scores_among(vectors.x_ND, reference_MD.float().numpy())
    return {"outlier_score": score_N, "outlier": odd.outliers(score_N, known=len(reference_MD))}
