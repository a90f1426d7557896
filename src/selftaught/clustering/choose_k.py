"""How many clusters? A sweep over k that also reports whether any number stands out.

At each k, three questions are answered on a sample of the vectors:

* Would other images give the same clusters? The sample is split into halves, each half is clustered
  alone, and both clusterings are applied to the whole sample (stability: their mean ARI over some
  splits; after Lange, Roth, Braun, Buhmann, "Stability-based validation of clustering solutions",
  2004). Halves, because two bootstrap samples share two fifths of all images and with them the
  accidents of the sample; even a ring then gives the same clusters twice.
* Are there gaps between the clusters? The silhouette (Rousseeuw 1987): 1 all gap, 0 none.
* Would data without clusters look the same? The silhouette of data with the same mean and the same
  spread in all directions, once normal and once uniform in a box (Tibshirani, Walther, Hastie,
  "the gap statistic", 2001); the larger of the two. Elongated data without a gap is stable in two
  clusters, and only this question reveals that it has no gap.

A number is clear if the stability is at least 0.8 and the silhouette s stands out: s / (1 - s) is
at least twice that of data without clusters. Among clear numbers, the one with the largest lead of
the silhouette wins. If none is clear, Choice.clear is False and the sentence says so. With more
than two dozen clusters, k-means misses some from any start and the number found is too large, by up
to a quarter in our tests (30 and 100 round clusters).

The cost is bounded for any N and D: see `choose_k`.

Shapes:  N vectors, D their size; n of them in the sample, k clusters.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selftaught.clustering.agreement import ari, entropy
from selftaught.clustering.kmeans import Clustering, kmeans
from selftaught.errors import UserError
from selftaught.foundation.rng import Key, permutation, uniform

STABLE = 0.8  # from this ARI of two halves on, clusters are reproducible
LEAD = 2.0  # times the s / (1 - s) of data without clusters
_ROWS, _NUMBERS = 5_000, 2**21  # limits of the sample
_EACH = 39  # images per cluster, faiss's minimum for k-means
_FEWEST, _FEW = 10, 4  # minimum of images, and of images per cluster in small samples
_COARSE, _ALL = 8, 14  # candidates before the search around the best, and in total
_CUTS, _RESTARTS, _PLAIN_RESTARTS = 4, 6, 2  # with few restarts, halves differ by bad luck
_SILHOUETTE = 2_000  # rows
_SAME_LENGTH = 1e-3  # lengths within this share of their mean: vectors on a sphere


@dataclass(frozen=True)
class Point:
    """One candidate on the curve.

    Attributes:
        k: Number of clusters.
        stability: ARI of the clusterings of two halves: 1 the same, 0 chance.
        silhouette: Silhouette of at most 2,000 vectors, -1 to 1.
        reference: The silhouette of data of the same spread without clusters.
        entropy: Entropy of the cluster sizes over ln k: 1 if all are equally large.
        objective: k-means' objective per vector.
    """

    k: int
    stability: float
    silhouette: float
    reference: float
    entropy: float
    objective: float

    @property
    def lead(self) -> float:
        """The silhouette minus that of data without clusters."""
        return self.silhouette - self.reference

    @property
    def stands_out(self) -> bool:
        """Whether the gaps between clusters clearly exceed those in data without clusters."""
        s, r = max(self.silhouette, 0.0), max(self.reference, 0.0)
        return s * (1 - r) > 0 and s * (1 - r) >= LEAD * r * (1 - s)

    @property
    def clear(self) -> bool:
        """Whether the clusters are reproducible, with gaps between them."""
        return self.stability >= STABLE and self.stands_out


@dataclass(frozen=True)
class Choice:
    """A number of clusters and the reasons.

    Attributes:
        k: The number; if none is clear, a starting point.
        clear: Whether it stands out.
        points: All candidates, k ascending; empty if there was nothing to compare.
        sentence: The reasons in words.
        rows: Number of vectors in the sample.
    """

    k: int
    clear: bool
    points: tuple[Point, ...]
    sentence: str
    rows: int


@torch.no_grad()
def choose_k(x_ND: Tensor | NDArray[Any], *, seed: int, most: int | None = None) -> Choice:
    """The number of clusters that the vectors themselves suggest.

    The sample has at most 5,000 vectors and 2^21 numbers (1,024 vectors of length 2,048). There are
    at most 14 candidates: 8 from 2 to n / 39 (or to 10 if vectors are few) in equal ratios, then
    more around the best. Each takes 58 runs of k-means, 48 of them on half of the sample: in total
    at most about 1.5 10^12 multiplications.

    Args:
        x_ND: Finite vectors, as they will be clustered; a tensor, an array or a memory map.
        seed: Keys all random choices.
        most: The largest candidate; default n / 39. The time is proportional to it.

    Raises:
        UserError: The shape is wrong, values are not finite, or `most` is below 2.
    """
    if x_ND.ndim != 2 or 0 in x_ND.shape:
        raise UserError(f"vectors have shape {tuple(x_ND.shape)}", "pass one row per vector (N, D)")
    if most is not None and most < 2:
        raise UserError(f"at most {most} clusters leave no choice", "use 2 or more")
    x_nD = _sample(x_ND, seed)
    largest = _largest(x_nD, most)
    if largest < 2:
        return _trivial_choice(x_nD)
    return _choice(_sweep(_Candidates(x_nD, seed), largest), len(x_nD), len(x_ND))


def _sample(x_ND: Any, seed: int) -> Tensor:
    n = min(len(x_ND), _ROWS, max(_EACH, _NUMBERS // x_ND.shape[1]))
    rows = np.sort(permutation(Key(seed, "choice/sample"), len(x_ND))[:n])
    x_nD = torch.as_tensor(x_ND[rows]).detach().cpu()
    x_nD = x_nD if x_nD.dtype == torch.float64 else x_nD.float()
    if not x_nD.isfinite().all():
        raise UserError("some vectors are not finite", "remove those rows")
    return x_nD


def _largest(x_nD: Tensor, most: int | None) -> int:
    """The largest candidate: at most the number of distinct vectors; 1 if vectors are too few."""
    n = len(x_nD)
    if n < _FEWEST:
        return 1
    wanted = max(n // _EACH, min(10, n // _FEW)) if most is None else min(most, n // _FEW)
    return min(wanted, len(torch.unique(x_nD, dim=0)))


def _trivial_choice(x_nD: Tensor) -> Choice:
    n = len(x_nD)
    if (x_nD == x_nD[0]).all():
        why = f"k = 1: all {n:,} vectors are equal." if n > 1 else "k = 1: only one vector."
    else:
        why = f"k = 1: {n} vectors are too few to look for clusters ({_FEWEST} are needed)."
    return Choice(1, False, (), why, n)


# --- the sweep


class _Candidates:
    """The sample and two similar sets of data without clusters, on which candidates are tried."""

    def __init__(self, x_nD: Tensor, seed: int) -> None:
        self.x_nD, self.seed = x_nD, seed
        self.plain = unclustered_data(x_nD, seed)

    def point(self, k: int) -> Point:
        found = self._cluster(self.x_nD, k, _RESTARTS)
        labels_n = found.labels_N.numpy()
        plain = [self._cluster(x_nD, k, _PLAIN_RESTARTS).labels_N.numpy() for x_nD in self.plain]
        return Point(
            k,
            float(np.mean([self._stability(k, cut) for cut in range(_CUTS)])),
            self._silhouette(self.x_nD, labels_n),
            max(map(self._silhouette, self.plain, plain)),
            entropy(labels_n, k),
            found.objective,
        )

    def _cluster(self, x_nD: Tensor, k: int, restarts: int) -> Clustering:
        return kmeans(x_nD, k, seed=self.seed, start="k-means++", restarts=restarts)

    def _stability(self, k: int, cut: int) -> float:
        """ARI of the clusterings of two halves, each applied to the whole sample."""
        n = len(self.x_nD)
        order_n = permutation(Key(self.seed, "choice/halves", cut), n)
        labels = []
        for half in (order_n[: n // 2], order_n[n // 2 :]):
            centroids_kD = self._cluster(self.x_nD[half], k, _RESTARTS).centroids_KD
            whole = kmeans(self.x_nD, k, seed=self.seed, start=centroids_kD, iterations=0)
            labels.append(whole.labels_N.numpy())
        return ari(*labels)

    def _silhouette(self, x_nD: Tensor, labels_n: NDArray[np.int64]) -> float:
        """0 if the chosen rows are all in one cluster, or each in its own."""
        from sklearn.metrics import silhouette_score

        rows = permutation(Key(self.seed, "choice/silhouette"), len(x_nD))[:_SILHOUETTE]
        if not 1 < len(np.unique(labels_n[rows])) < len(rows):
            return 0.0
        return float(silhouette_score(x_nD[rows].numpy(), labels_n[rows]))


def unclustered_data(x_nD: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Data of the same mean and spread without clusters, normal and uniform, (n, D) each.

    The axes are the principal ones. If all vectors have the same length, these have it too.
    """
    from scipy.special import ndtri

    x, n, D = x_nD.double(), *x_nD.shape
    mean_D = x.mean(0)
    variance_D, axes_DD = torch.linalg.eigh((x - mean_D).T @ (x - mean_D) / n)
    u_nD = uniform(Key(seed, "choice/plain"), np.arange(n), 2 * D) + 2.0**-33  # never 0
    normal_nD = torch.from_numpy(ndtri(u_nD[:, :D])) * variance_D.clamp(min=0).sqrt()
    along_nD = (x - mean_D) @ axes_DD
    low_D, high_D = along_nD.min(0).values, along_nD.max(0).values
    uniform_nD = low_D + torch.from_numpy(u_nD[:, D:]) * (high_D - low_D)
    normal_nD, uniform_nD = (mean_D + y_nD @ axes_DD.T for y_nD in (normal_nD, uniform_nD))
    length = torch.linalg.vector_norm(x, dim=1)
    if ((length - length.mean()).abs() <= _SAME_LENGTH * length.mean()).all():
        normal_nD, uniform_nD = (
            torch.nn.functional.normalize(y_nD) * length.mean() for y_nD in (normal_nD, uniform_nD)
        )
    return normal_nD.to(x_nD.dtype), uniform_nD.to(x_nD.dtype)


def _sweep(candidates: _Candidates, largest: int) -> tuple[Point, ...]:
    """The coarse candidates, then repeatedly the midpoints between the best and its neighbours."""
    coarse = np.unique(np.geomspace(2, largest, _COARSE).round().astype(int)).tolist()
    points = {k: candidates.point(k) for k in coarse}
    while between := list(_midpoints(_best(tuple(points.values())).k, sorted(points))):
        for k in between[: _ALL - len(points)]:
            points[k] = candidates.point(k)
        if len(points) >= _ALL:
            break
    return tuple(points[k] for k in sorted(points))


def _midpoints(best: int, known: list[int]) -> Iterator[int]:
    """The geometric means of the best and its known neighbours."""
    at = known.index(best)
    for other in known[max(0, at - 1) : at] + known[at + 1 : at + 2]:
        low, high = sorted((best, other))
        if high - low > 1:
            yield min(max(round((low * high) ** 0.5), low + 1), high - 1)


def _best(points: tuple[Point, ...]) -> Point:
    """The clear point with the largest lead; if none is clear, the most stable one.

    Among unclear points, those that stand out and are at least half as stable come first.
    """
    clear = [point for point in points if point.clear]
    if clear:
        return max(clear, key=lambda point: point.lead)
    standing = [point for point in points if point.stands_out and point.stability >= STABLE / 2]
    return max(standing or points, key=lambda point: point.stability)


# --- in words


def _choice(points: tuple[Point, ...], n: int, N: int) -> Choice:
    best = _best(points)
    sentence = _clear_sentence(best, points) if best.clear else _unclear_sentence(best, points)
    if n < N:
        sentence += f" Based on {n:,} of {N:,} vectors."
    return Choice(best.k, best.clear, points, sentence, n)


def _clear_sentence(best: Point, points: tuple[Point, ...]) -> str:
    """Why this number, and the range of other numbers that would do."""
    low, high = _clear_range(best, points)
    which = f"{low} to {high} clusters" if low < high else f"{best.k} clusters"
    return (
        f"k = {best.k}: {which} are reproducible with other images "
        f"(ARI {best.stability:.2f}{f' at {best.k}' if low < high else ''}) and separated by gaps "
        f"(silhouette {best.silhouette:.2f}, compared with {best.reference:.2f} for data without "
        f"clusters){_finer_text(high, points)}."
    )


def _clear_range(best: Point, points: tuple[Point, ...]) -> tuple[int, int]:
    """The first and last k of the unbroken range of clear candidates around the best."""
    at = points.index(best)
    low = high = at
    while low > 0 and points[low - 1].clear:
        low -= 1
    while high + 1 < len(points) and points[high + 1].clear:
        high += 1
    return points[low].k, points[high].k


def _finer_text(high: int, points: tuple[Point, ...]) -> str:
    later = [point for point in points if point.k > high]
    if not later:
        return "; more were not tried"
    finer = ", ".join(str(point.k) for point in later if point.clear)
    return f"; the same holds for {finer}" if finer else f"; {later[0].k} or more are not"


def _unclear_sentence(best: Point, points: tuple[Point, ...]) -> str:
    tried = f"from {points[0].k} to {points[-1].k}" if len(points) > 1 else f"(only {best.k} tried)"
    if best.stands_out:
        return (
            f"No number of clusters {tried} stands out: there are gaps, but other images give "
            f"other clusters. Start with k = {best.k}, where they agree best "
            f"(ARI {np.floor(100 * best.stability) / 100:.2f}; {STABLE} would be clear)."
        )
    return (
        f"No number of clusters {tried} stands out: no reproducible gaps exceed those of data "
        f"without clusters (silhouette {best.silhouette:.2f} compared with {best.reference:.2f} at "
        f"{best.k}). k = {best.k} is only a starting point."
    )
