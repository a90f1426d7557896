"""Outliers and near-duplicates among clustered images, as columns of a table.

Shapes:  N images, M of them in the sample that is stored with clusters; D size of a vector.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from selftaught.clusters import outliers
from selftaught.clusters.gray import gray_pictures
from selftaught.errors import BadImage
from selftaught.foundation.progress import notice_if_slow
from selftaught.vectors.vectors import Vectors


@dataclass(frozen=True, eq=False)
class Standouts:
    """Outliers and near-duplicates.

    Attributes:
        score_N: float32, how surprising each image is, in nats; None with too few images.
        outlier_N: Which images are outliers; None with too few images.
        duplicates: Groups of places 0 .. N-1, rising; the largest group first.
        note: Why pixels were not used, or outliers not found, if so; else "".
    """

    score_N: NDArray[np.float32] | None
    outlier_N: NDArray[np.bool_] | None
    duplicates: tuple[NDArray[np.int64], ...]
    note: str = ""

    def columns(self, vectors: Vectors) -> dict[str, Any]:
        """Table columns: outlier_score and outlier, null with too few images, and duplicate_of, for
        near-duplicates the row of the first of them, null for that first and all others."""
        import pyarrow as pa

        first: list[int | None] = [None] * len(vectors)
        for group in self.duplicates:
            for place in group.tolist()[1:]:
                first[place] = int(vectors.row_N[group[0]])
        columns = _outlier_columns(len(vectors), self.score_N, self.outlier_N)
        return columns | {"duplicate_of": pa.array(first, pa.int64())}


def find_standouts(vectors: Vectors) -> Standouts:
    """Find outliers and near-duplicates by vectors, and by pixels if they can be read."""
    if vectors.images is None:
        return _standouts_by(vectors, None)
    store, row_N = vectors.images.store, vectors.row_N

    def pictures(places: NDArray[np.int64]) -> NDArray[np.float32]:
        return gray_pictures(store, row_N[places])

    try:
        return _standouts_by(vectors, pictures)
    except BadImage as error:
        note = (
            "Near-duplicates and outliers were found by vectors alone, "
            f"because {error.what} is missing or damaged."
        )
        return _standouts_by(vectors, None, note)


def find_standouts_with_notice(vectors: Vectors) -> Standouts:
    """The same as `find_standouts`, with a notice on stderr if it takes long."""
    with notice_if_slow(f"Finding near-duplicates and outliers among {len(vectors):,} images."):
        return find_standouts(vectors)


def _standouts_by(
    vectors: Vectors, pictures: outliers.Pictures | None, note: str = ""
) -> Standouts:
    pairs = outliers.near_duplicates(vectors.x_ND, pictures=pictures)
    groups = tuple(outliers.duplicate_groups(pairs, len(vectors)))
    if len(vectors) < outliers.FEWEST:
        few = f"Too few images to find outliers (at least {outliers.FEWEST} are needed)."
        return Standouts(None, None, groups, f"{note} {few}".lstrip())
    score_N = outliers.outlier_scores(vectors.x_ND, pictures=pictures)
    return Standouts(score_N, outliers.outlier_flags(score_N), groups, note)


def new_outlier_columns(vectors: Vectors, reference_MD: Tensor) -> dict[str, Any]:
    """Table columns: outlier_score and outlier of new images compared with the clustered ones; null
    if those are too few."""
    if len(reference_MD) < outliers.FEWEST:
        return _outlier_columns(len(vectors), None, None)
    score_N = outliers.outlier_scores_against(vectors.x_ND, reference_MD.float().numpy())
    return _outlier_columns(
        len(vectors), score_N, outliers.outlier_flags(score_N, known=len(reference_MD))
    )


def _outlier_columns(
    N: int, score_N: NDArray[np.float32] | None, outlier_N: NDArray[np.bool_] | None
) -> dict[str, Any]:
    """The columns outlier_score and outlier, of the same types with and without values."""
    import pyarrow as pa

    found = ("outlier_score", score_N, pa.float32()), ("outlier", outlier_N, pa.bool_())
    return {
        name: pa.nulls(N, type_) if value_N is None else pa.array(value_N, type_)
        for name, value_N, type_ in found
    }
