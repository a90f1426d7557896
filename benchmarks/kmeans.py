"""Measure the speed of our k-means against faiss's, from the same start, the final labels included.

    python -m benchmarks.kmeans [--cases 100 1000] [--threads 1 2] [--device cpu] [--json FILE]

The vectors have the form of those that DeepCluster clusters: patches of real photographs, 16 x 16
pixels in colour, reduced to 256 numbers by PCA, whitened, and scaled to length 1. The photographs
are the two in scikit-learn. Before any timing, both must find the same clusters. On a GPU, faiss
runs there too if its build supports it, otherwise on the CPU.

Shapes:  N vectors, D their size, K clusters, E numbers of a patch.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import measure
from benchmarks.measure import Row, append, compare, markdown
from selftaught.clustering.kmeans import kmeans
from selftaught.foundation.machine import cores
from selftaught.foundation.rng import Key, permutation

D, SIDE = 256, 16  # numbers per vector; side of a patch in pixels
ROOT = Path(__file__).parents[1]
RESULTS, ROWS = ROOT / "docs/results.md", ROOT / "runs/benchmarks/kmeans.jsonl"

Found = tuple[float, NDArray[np.int64]]
"""The objective, and the label of each vector."""


@dataclass(frozen=True)
class Case:
    """N vectors in k clusters, with the numbers of iterations and of timed runs."""

    N: int
    k: int
    iterations: int
    turns: int


CASES = {
    "100": Case(50_000, 100, 20, 7),
    "1000": Case(50_000, 1_000, 20, 5),
    "10000": Case(200_000, 10_000, 3, 3),
}


def patches(n: int) -> NDArray[np.float32]:
    """n patches of two photographs, all from different places, (n, E)."""
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    views = [
        np.lib.stride_tricks.sliding_window_view(image, (SIDE, SIDE, 3))[:, :, 0]
        for image in photographs
    ]
    places = [view.shape[0] * view.shape[1] for view in views]
    chosen = permutation(Key(0, "benchmarks/patches"), sum(places))[:n]
    found = np.empty((n, SIDE * SIDE * 3), np.float32)
    for view, first, many in zip(views, np.cumsum([0, *places]), places, strict=False):
        here = (chosen >= first) & (chosen < first + many)
        rows, columns = np.divmod(chosen[here] - first, view.shape[1])
        found[here] = view[rows, columns].reshape(len(rows), -1)
    return found


def whiten(x_NE: NDArray[np.float32]) -> NDArray[np.float32]:
    """The first D principal components, with variance 1 each and rows of length 1."""
    x = torch.from_numpy(x_NE)
    x -= x.mean(0)
    variance_E, axis_EE = torch.linalg.eigh(x.T.double() @ x.double() / len(x))
    x_ND = x @ (axis_EE[:, -D:] / variance_E[-D:].sqrt()).float()
    return torch.nn.functional.normalize(x_ND, dim=1).numpy()


def timing(case: Case, x_ND: NDArray[np.float32], threads: int, chosen: Any) -> Row:
    """Time ours against faiss's, in turns."""
    import faiss

    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    start_KD = x_ND[permutation(Key(0, "benchmarks/start"), len(x_ND))[: case.k]]
    name, theirs = faiss_clustering(case, x_ND, start_KD, chosen.device)
    mine = our_clustering(case, torch.from_numpy(x_ND).to(chosen.device), start_KD)
    check_agreement(mine(), theirs())
    where = chosen.device if chosen.device != "cpu" else f"{threads} thread{'s' * (threads != 1)}"
    return compare(
        f"k-means, {len(x_ND):,} x {D}, k = {case.k:,}, {case.iterations} iterations, {where}",
        {"selftaught": mine, name: theirs},
        repeats=case.turns * chosen.repeats,
        warmup=0,  # both have just run
        packages=["faiss-cpu", "faiss-gpu"],
    )


def our_clustering(case: Case, x_ND: Tensor, start_KD: NDArray[np.float32]) -> Callable[[], Found]:
    """Clustering with this package."""

    def cluster() -> Found:
        found = kmeans(
            x_ND, case.k, seed=0, start=start_KD, iterations=case.iterations, device=x_ND.device
        )
        return found.objective, found.labels_N.cpu().numpy()

    return cluster


def faiss_clustering(
    case: Case, x_ND: NDArray[np.float32], start_KD: NDArray[np.float32], device: str
) -> tuple[str, Callable[[], Found]]:
    """Name for the table, and clustering as DeepCluster used faiss: all vectors, flat index."""
    import faiss

    on_gpu = device != "cpu" and hasattr(faiss, "get_num_gpus") and faiss.get_num_gpus() > 0

    def cluster() -> Found:
        clustering = faiss.Clustering(D, case.k)
        clustering.niter = case.iterations
        clustering.min_points_per_centroid, clustering.max_points_per_centroid = 1, len(x_ND)
        faiss.copy_array_to_vector(start_KD.ravel(), clustering.centroids)
        index = faiss.IndexFlatL2(D)
        if on_gpu:
            index = faiss.index_cpu_to_all_gpus(index)
        clustering.train(x_ND, index)
        squared_N1, labels_N1 = index.search(x_ND, 1)
        return float(squared_N1.mean(dtype=float)), labels_N1[:, 0]

    return ("faiss" if on_gpu or device == "cpu" else "faiss on the CPU"), cluster


def check_agreement(ours: Found, theirs: Found) -> None:
    """Check for equal objectives and labels, within float32 precision.

    Raises:
        ValueError: They differ, so comparing times would be meaningless.
    """
    differ = abs(ours[0] / theirs[0] - 1)
    same = float((ours[1] == theirs[1]).mean())
    if differ > 1e-5 or same < 0.999:
        raise ValueError(f"objectives differ by {differ:.1e}, {same:.2%} of the labels are equal")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the rows and their section of docs/results.md."""
    chosen = parser().parse_args(arguments)
    cases = [CASES[name] for name in chosen.cases]
    x_ND = whiten(patches(chosen.vectors or max(case.N for case in cases)))
    rows = [
        timing(case, x_ND[: case.N], threads, chosen)
        for case in cases
        for threads in (chosen.threads if chosen.device == "cpu" else [cores()])
    ]
    for row in rows:
        append(ROWS, row)
    report = f"{markdown(rows)}\n{WHAT}\n"
    print(report)
    if chosen.json:
        measure.write_json(chosen.json, rows)
    if measure.publishes(chosen):
        where = "cpu" if chosen.device == "cpu" else "gpu"
        measure.publish(RESULTS, f"kmeans {where}", f"## k-means ({where.upper()})\n\n{report}")


WHAT = (
    "The vectors are 16 x 16 patches of two photographs, whitened and scaled to length 1. Both "
    "sides start from the same centroids and include the search for the final labels."
)


def parser() -> argparse.ArgumentParser:
    """The script's options."""
    as_written = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    options.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="by k")
    options.add_argument("--threads", type=int, nargs="+", default=sorted({1, cores()}))
    options.add_argument("--device", default="cpu")
    options.add_argument("--repeats", type=int, default=1, help="multiplier of the timed runs")
    options.add_argument("--vectors", type=int, help="at most this many vectors, for a trial run")
    measure.output_options(options)
    return options


if __name__ == "__main__":
    main()
