"""Measure how good clusters, their names and a classifier made of them are on new images.

    python -m benchmarks.groups --data DIR [--mobilenet FILE] [--sets imagenette_128 cifar10]
                                [--keep DIR]

DIR holds the sets as `unpack.py` unpacks them. Clusters are found in all training images, without
their labels. Ten clusters are named after their most frequent label, and all test images, which
were not used before, are assigned to them. SimCLR trains on the same training images for --seconds.
FILE holds torchvision's MobileNetV2, trained with ImageNet's labels, which include the ten classes
of Imagenette: an upper bound. NMI is arithmetic. --keep saves the clusters and their reports.
"""

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import selftaught
from benchmarks.measure import hardware, publish
from selftaught.clustering import agreement
from selftaught.clusters.names import write_names
from selftaught.data.labels import label
from selftaught.data.open_images import open_images
from selftaught.encoders.folder import open_encoder
from selftaught.evaluation.comparison import measure
from selftaught.evaluation.representation import EncoderRepresentation
from selftaught.evaluation.trial import Trial
from selftaught.foundation.files import read_table
from selftaught.foundation.machine import Machine, cache_folder
from selftaught.pairwise.neighbours import top_k
from selftaught.vectors.parquet import read_vectors

RESULTS = Path(__file__).parents[1] / "docs/results.md"
K = 10
COLUMNS = (
    *("NMI", "ARI", "accuracy", "whitened NMI", "whitened accuracy", "--k auto", "precision@10"),
    *("agreement, named", "agreement, classifier", "linear, all labels", "images/s"),
)


@dataclass(frozen=True)
class Set:
    """Location of a set's images and labels, below the folder of all sets."""

    train: str
    test: str
    label: str
    side: int  # input size of MobileNetV2, in pixels


SETS = {
    "imagenette_128": Set("train", "val", "folders", 128),
    "cifar10": Set("train.npz", "test.npz", "label", 64),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the section of docs/results.md."""
    chosen = parser().parse_args(arguments)
    with tempfile.TemporaryDirectory() as passing:
        folder = (chosen.keep or Path(passing)).resolve()
        folder.mkdir(exist_ok=True)
        tables = [set_table(name, chosen, folder) for name in chosen.sets]
    text = page(tables, chosen)
    print(text)
    publish(RESULTS, "groups", text)


def parser() -> argparse.ArgumentParser:
    """The script's options."""
    as_written = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    options.add_argument("--data", type=Path, required=True, help="folder of the unpacked sets")
    options.add_argument("--mobilenet", type=Path, help="torchvision's MobileNetV2 weights")
    options.add_argument("--seconds", type=float, default=300, help="training time of SimCLR")
    options.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--keep", type=Path, help="empty folder to save all output in")
    return options


def set_table(name: str, chosen: argparse.Namespace, folder: Path) -> str:
    """A table with one column per encoder and one line per figure."""
    found = {}
    for encoder, path in encoders(name, chosen, folder):
        work = folder / f"{path.name}-groups"
        work.mkdir()
        found[encoder] = dict(figures(path, chosen.data / name, SETS[name], work, chosen.seed))
    lines = [f"| {name} | {' | '.join(found)} |", f"|---|{'---|' * len(found)}"]
    lines += [f"| {row} | {' | '.join(of[row] for of in found.values())} |" for row in COLUMNS]
    return "\n".join(lines)


def encoders(name: str, chosen: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Path]]:
    """The encoders to compare, by their name in the table."""
    run, where = folder / f"simclr-{name}", SETS[name]
    data = str(chosen.data / name / where.train)
    selftaught.pretrain(data, out=run, seconds=chosen.seconds, seed=chosen.seed)
    yield f"SimCLR, {chosen.seconds:g} s", run
    if chosen.mobilenet:
        folder = folder / f"mobilenet-{name}"
        selftaught.import_(chosen.mobilenet, out=folder, image_size=where.side)
        yield f"MobileNetV2 (ImageNet's labels), {where.side} px", folder


def figures(
    encoder: Path, data: Path, where: Set, work: Path, seed: int
) -> Iterator[tuple[str, str]]:
    """The figures of one encoder on one set, by their names in COLUMNS."""
    train, test = str(data / where.train), str(data / where.test)

    def clusters(name: str, **how: Any) -> Any:
        how |= {"out": work / name, "seed": seed, "label": where.label}
        return selftaught.cluster(str(encoder), train, **how).value

    clusters("unit", k=K)
    clusters("whitened", k=K, space="whitened")
    yield from zip(COLUMNS[:3], agreements(work / "unit"), strict=True)
    nmi, _, accuracy = agreements(work / "whitened")
    yield from zip(COLUMNS[3:5], (nmi, accuracy), strict=True)
    yield "--k auto", str(clusters("auto", k="auto")["k"])
    selftaught.embed(str(encoder), test, out=work / "test.parquet")
    yield "precision@10", f"{precision(work / 'test.parquet', where):.3f}"
    yield from agreement_figures(encoder, data, where, work, seed)


def agreements(folder: Path) -> tuple[str, str, str]:
    """NMI, ARI and matched accuracy of CLUSTERS against the labels."""
    table = read_table(folder / "assignments.parquet")
    cluster_N, label_N = table["cluster"].to_numpy(), _numbers(table["label"].to_pylist())
    nmi = agreement.nmi(cluster_N, label_N, "arithmetic")
    figures = (
        nmi,
        agreement.ari(cluster_N, label_N),
        agreement.best_match_accuracy(cluster_N, label_N),
    )
    a, b, c = (f"{figure:.3f}" for figure in figures)
    return a, b, c


def precision(table: Path, where: Set) -> float:
    """Share of the ten nearest other images that have the label of the image."""
    vectors = read_vectors(table)
    labels = vectors.labels or [Path(path).parent.name for path in vectors.paths]
    label_N = _numbers(labels)
    _, near_N10 = top_k(vectors.x_ND, vectors.x_ND, 10, own=np.arange(len(label_N)))
    return float((label_N[near_N10] == label_N[:, None]).mean())


def agreement_figures(
    encoder: Path, data: Path, where: Set, work: Path, seed: int
) -> Iterator[tuple[str, str]]:
    """Agreement on test images: named clusters, a classifier of them, a probe on all labels."""
    table = read_table(work / "unit/assignments.parquet")
    pairs = zip(table["cluster"].to_pylist(), table["label"].to_pylist(), strict=True)
    counts = Counter((cluster, str(label)) for cluster, label in pairs)
    names = {cluster: label for (cluster, label), _ in reversed(counts.most_common())}
    write_names(work / "unit", names)
    test = str(data / where.test)
    start = time.perf_counter()
    how = {"label": where.label, "cache": work / "empty"}
    by_name = selftaught.assign(work / "unit", test, out=work / "named.csv", **how).value
    seconds = time.perf_counter() - start
    yield "agreement, named", f"{by_name['agreement']:.3f} ({len(set(names.values()))} names)"
    yield "images/s", f"{by_name['images'] / seconds:,.0f}"
    selftaught.classify(work / "unit", out=work / "classifier", seed=seed)
    how = {"label": where.label}
    by_class = selftaught.assign(work / "classifier", test, out=work / "classes.csv", **how).value
    yield "agreement, classifier", f"{by_class['agreement']:.3f}"
    yield "linear, all labels", f"{probe(encoder, data):.3f}"


def probe(encoder: Path, data: Path) -> float:
    """Test accuracy of logistic regression on all training labels."""
    cache = cache_folder(None)
    images = open_images(str(data), machine=Machine(cache=cache))
    labels = label(images.checked)
    rows = labels.train
    trial = Trial(images, rows, labels.labels_N[rows], labels.test, len(labels.classes))
    subject = EncoderRepresentation("it", open_encoder(str(encoder)), machine=Machine(cache=cache))
    accuracy, *_ = measure([subject], trial, labels, ["linear"])
    return accuracy.value


def _numbers(labels: Sequence[Any]) -> np.ndarray[Any, Any]:
    return np.unique([str(label) for label in labels], return_inverse=True)[1]


def page(tables: Sequence[str], chosen: argparse.Namespace) -> str:
    """The section of docs/results.md."""
    words = (
        f"{hardware()}, seed {chosen.seed}. NMI, ARI and accuracy compare {K} clusters of all "
        "training images with their labels (arithmetic NMI, clusters matched to classes); "
        "precision@10 is among the test images. Clusters are named after their most frequent "
        "label, and the unseen test images are assigned to them. Agreement is how often the name "
        "is the label: by the nearest centroid (named), and by the classifier that `classify` "
        "makes of the named clusters without labels. images/s is the speed of `assign` as a whole, "
        "from unread files to the table. MobileNetV2 was trained with labels of Imagenette's "
        "classes."
    )
    command = "Reproduce with `python -m benchmarks.groups`."
    return "\n\n".join(["## Clusters, names and new images", words, *tables, command])


if __name__ == "__main__":
    main()
