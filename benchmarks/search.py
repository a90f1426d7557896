"""Measure exact search against sgemm and faiss, and an index of a million vectors.

    python -m benchmarks.search [--cases exact million] [--images FILE.npz] [--json FILE]

The vectors are patches of real images, whitened by PCA and scaled to length 1. They come from the
two photographs in scikit-learn and their mirror images, or from the images of an array file, such
as CIFAR-10's train.npz. Patches are drawn at random places.

exact: the 10 nearest of 50,000 vectors of 512 numbers, for 10,000 queries. The rivals are the
matrix product alone, in blocks whose scores are discarded, and faiss's IndexFlatIP.

million: an index of 1,000,000 vectors of 256 numbers, built by the functions of `selftaught index`:
the time to build it and to open it, milliseconds per query for 200 other vectors, one by one, and
the recall of their 10 nearest, against exact search.

Shapes:  N vectors; D their size; Q queries; E numbers of a patch.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import measure
from benchmarks.measure import Row, append, compare, markdown
from selftaught.foundation.machine import cores
from selftaught.foundation.rng import Key, uniform
from selftaught.pairwise.neighbours import PreparedVectors, top_k
from selftaught.retrieval.index_writer import Addition, write_vector_index
from selftaught.retrieval.parts import StackedVectors
from selftaught.retrieval.vector_index import open_index
from selftaught.vectors.vectors import Vectors

SIDE, SAMPLE = 16, 60_000  # side of a patch in pixels; patches used to fit the axes
ROOT = Path(__file__).parents[1]
RESULTS, ROWS = ROOT / "docs/results.md", ROOT / "runs/benchmarks/search.jsonl"

F32 = NDArray[np.float32]
T = TypeVar("T")


def photographs() -> NDArray[np.uint8]:
    """The two photographs in scikit-learn, and their mirror images, (4, H, W, 3)."""
    from sklearn.datasets import load_sample_images

    images = np.stack(load_sample_images().images)
    return np.concatenate([images, images[:, :, ::-1]])


def patches(images: NDArray[np.uint8], first: int, last: int) -> F32:
    """Patches number `first` to `last`, each at a random place of a random image, (n, E)."""
    n, height, width, _ = images.shape
    spans = np.array([n, height - SIDE + 1, width - SIDE + 1])
    drawn = uniform(Key(0, "benchmarks/search"), np.arange(first, last), 3)
    which, top, left = (drawn * spans).astype(np.int64).T
    windows = np.lib.stride_tricks.sliding_window_view(images, (SIDE, SIDE), axis=(1, 2))
    return windows[which, top, left].reshape(last - first, -1).astype(np.float32)


def whitening(x_NE: F32, dim: int) -> Callable[[F32], F32]:
    """A whitening fitted to patches: first components, with variance 1, rows of length 1."""
    x = torch.from_numpy(x_NE)
    mean_E = x.mean(0)
    x = x - mean_E
    variance_E, axis_EE = torch.linalg.eigh(x.T.double() @ x.double() / len(x))
    axis_ED = (axis_EE[:, -dim:] / variance_E[-dim:].sqrt()).float()

    def whiten(y_NE: F32) -> F32:
        y_ND = (torch.from_numpy(y_NE) - mean_E) @ axis_ED
        found: F32 = torch.nn.functional.normalize(y_ND, dim=1).numpy()
        return found

    return whiten


def vectors(images: NDArray[np.uint8], number: int, dim: int) -> F32:
    """This many vectors, (N, D)."""
    change = whitening(patches(images, 0, min(SAMPLE, number)), dim)
    x_ND = np.empty((number, dim), np.float32)
    for start in range(0, number, SAMPLE):
        stop = min(start + SAMPLE, number)
        x_ND[start:stop] = change(patches(images, start, stop))
    return x_ND


# --- exact


def exact_rows(images: NDArray[np.uint8], chosen: argparse.Namespace) -> Iterator[Row]:
    """Time ours against the product alone, and against faiss."""
    import faiss

    Q, N, D, k = chosen.queries, chosen.base, 512, 10
    x_ND = vectors(images, Q + N, D)
    query_QD, base_BD = x_ND[:Q], x_ND[Q:]
    base, flat = PreparedVectors(base_BD), faiss.IndexFlatIP(D)
    flat.add(base_BD)
    ours = partial(top_k, query_QD, base, k)
    check_agreement(ours()[0], flat.search(query_QD, k)[0])
    for threads in chosen.threads:
        torch.set_num_threads(threads)
        faiss.omp_set_num_threads(threads)
        for name, rival in (
            ("sgemm alone", product_alone(query_QD, base_BD)),
            ("faiss IndexFlatIP", lambda: flat.search(query_QD, k)),
        ):
            yield compare(
                f"exact top-{k} of {Q:,} in {N:,} x {D}, {threads} thread{'s' * (threads != 1)}",
                {"selftaught": ours, name: rival},
                repeats=chosen.repeats,
                warmup=1,
                packages=["faiss-cpu"],
            )


def product_alone(query_QD: F32, base_BD: F32) -> Callable[[], None]:
    """The product alone: all scores, discarded, in blocks of a size at which it is fast."""
    query, base = torch.from_numpy(query_QD), torch.from_numpy(base_BD)
    room = torch.empty(1024, len(base))

    def multiply() -> None:
        for part in torch.split(query, len(room)):
            torch.mm(part, base.T, out=room[: len(part)])

    return multiply


def check_agreement(ours_Qk: F32, theirs_Qk: F32) -> None:
    """Check for equal cosines, within float32 precision; rows may differ for equal patches.

    Raises:
        ValueError: They differ, so comparing times would be meaningless.
    """
    differ = float(np.abs(ours_Qk - theirs_Qk).max())
    if differ > 1e-5:
        raise ValueError(f"cosines differ from faiss's by up to {differ:.1e}")


# --- a million


def million_table(images: NDArray[np.uint8], chosen: argparse.Namespace) -> str:
    """Build and query an index of many vectors; the results as a table."""
    import faiss

    threads, Q, k, D = max(chosen.threads), 200, 10, 256
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    x_ND = vectors(images, chosen.vectors + Q, D)
    query_QD, base_BD = x_ND[:Q].copy(), x_ND[Q:]
    truth_Qk = StackedVectors([base_BD]).top_k(query_QD, k)[1]
    with tempfile.TemporaryDirectory(dir=chosen.work) as folder:
        building, _ = time_call(lambda: write_vector_index(Path(folder), addition(base_BD)))
        opening, index = time_call(lambda: open_index(Path(folder)))
        index.search(query_QD[:1], k)  # warm
        times = [time_call(lambda q=q: index.search(query_QD[q : q + 1], k)) for q in range(Q)]
        found_Qk = np.concatenate([rows for _, (_, rows) in times])
    times_ms = [1000 * seconds for seconds, _ in times]
    recall = np.mean([len({*a} & {*b}) / k for a, b in zip(found_Qk, truth_Qk, strict=True)])
    kept = index.described["approximate"] or {}
    cells = [
        f"{len(base_BD):,} x {D}, {threads} threads",
        f"{kept.get('probes')} of {kept.get('lists')}",
        f"{building:.0f} s",
        f"{opening:.1f} s",
        f"{statistics.median(times_ms):.1f} ms ({min(times_ms):.1f} to {max(times_ms):.1f})",
        f"{recall:.3f}",
        f"{measure.peak_mib() / 1024:.1f} GiB",
    ]
    return f"{MILLION}| {' | '.join(cells)} |\n"


MILLION = (
    "| vectors | lists searched per query | build | open | time per query, median (range) "
    "| recall@10 | peak memory |\n|---|---|---|---|---|---|---|\n"
)


def addition(x_ND: F32) -> Addition:
    """The vectors in the form an index takes, with numbers as names."""
    numbers = tuple(map(str, range(len(x_ND))))
    return Addition(Vectors(x_ND, np.arange(len(x_ND)), numbers, None, ""), numbers, "", "")


def time_call(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds that the work took, and its result."""
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the rows and their section of docs/results.md."""
    chosen = parser().parse_args(arguments)
    images = photographs()
    if chosen.images:
        with np.load(chosen.images, allow_pickle=False) as held:
            images = held["images"]
    rows = list(exact_rows(images, chosen)) if "exact" in chosen.cases else []
    for row in rows:
        append(ROWS, row)
    parts = [markdown(rows)] if rows else []
    if "million" in chosen.cases:
        parts.append(million_table(images, chosen))
    where = chosen.images.name if chosen.images else "the two photographs in scikit-learn"
    source = f"The vectors are whitened patches, 16 x 16 pixels, from {where}.\n"
    report = "\n".join([*parts, source])
    print(report)
    if chosen.json:
        measure.write_json(chosen.json, rows)
    if measure.publishes(chosen):
        measure.publish(RESULTS, "search", f"## Search\n\n{report}")


def parser() -> argparse.ArgumentParser:
    """The script's options."""
    as_written = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    cases = ("exact", "million")
    options.add_argument("--cases", nargs="+", choices=cases, default=list(cases))
    options.add_argument("--images", type=Path, metavar="FILE.npz", help="source of the patches")
    options.add_argument("--threads", type=int, nargs="+", default=[cores()])
    options.add_argument("--repeats", type=int, default=5, help="timed calls per variant")
    options.add_argument("--queries", type=int, default=10_000, help="queries of the exact case")
    options.add_argument("--base", type=int, default=50_000, help="vectors of the exact case")
    options.add_argument("--vectors", type=int, default=1_000_000, help="vectors of the index")
    options.add_argument("--work", type=Path, help="folder for the temporary index")
    measure.output_options(options)
    return options


if __name__ == "__main__":
    main()
