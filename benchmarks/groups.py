"""Clusters as people use them: found, chosen, named, given to new images, made a classifier.

    python -m benchmarks.groups --data DIR [--mobilenet FILE] [--sets imagenette_128 cifar10]
                                [--keep DIR]

DIR holds the sets as `unpack.py` lays them out. Clusters are found in all training images, without
their labels; ten of them are named by their commonest label, and all test images, which took no
part, are sorted into them. SimCLR trains on the same training images for --seconds. FILE holds
torchvision's MobileNetV2 with ImageNet's labels, whose ten classes of Imagenette it has seen:
a bound from above. NMI is the arithmetic one. --keep leaves the clusters and their reports.
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
from selftaught.data.labels import label
from selftaught.data.store import open_images
from selftaught.encoders.folder import open_encoder
from selftaught.evaluation.evaluate import measure
from selftaught.evaluation.representation import EncoderRepresentation
from selftaught.evaluation.trial import Trial
from selftaught.files import read_table
from selftaught.groups.names import write_names
from selftaught.machine import cache_folder
from selftaught.neighbours import top_k
from selftaught.vectors import of_table

RESULTS = Path(__file__).parents[1] / "docs/results.md"
K = 10
COLUMNS = (
    *("NMI", "ARI", "accuracy", "whitened NMI", "whitened accuracy", "--k auto"),
    *("precision@10", "named: agreement", "classifier", "linear, all labels", "images/s"),
)


@dataclass(frozen=True)
class Set:
    """Where images and labels of a set are, below the folder of all sets."""

    train: str
    test: str
    label: str
    side: int  # that MobileNetV2 sees, in pixels


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
        tables = [measured_set(name, chosen, folder) for name in chosen.sets]
    text = page(tables, chosen)
    print(text)
    publish(RESULTS, "groups", text)


def parser() -> argparse.ArgumentParser:
    """The script's options."""
    as_written = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    options.add_argument("--data", type=Path, required=True, help="where the sets lie unpacked")
    options.add_argument("--mobilenet", type=Path, help="torchvision's weights")
    options.add_argument("--seconds", type=float, default=300, help="of SimCLR's training")
    options.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--keep", type=Path, help="an empty folder for all that is made")
    return options


def measured_set(name: str, chosen: argparse.Namespace, folder: Path) -> str:
    """A table: a column an encoder, a line a figure."""
    found = {}
    for encoder, path in encoders(name, chosen, folder):
        work = folder / f"{path.name}-groups"
        work.mkdir()
        found[encoder] = dict(measured(path, chosen.data / name, SETS[name], work, chosen.seed))
    lines = [f"| {name} | {' | '.join(found)} |", f"|---|{'---|' * len(found)}"]
    lines += [f"| {row} | {' | '.join(of[row] for of in found.values())} |" for row in COLUMNS]
    return "\n".join(lines)


def encoders(name: str, chosen: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Path]]:
    """What is compared, by the name that the table gives it."""
    run, where = folder / f"simclr-{name}", SETS[name]
    data = str(chosen.data / name / where.train)
    selftaught.pretrain(data, out=run, seconds=chosen.seconds, seed=chosen.seed)
    yield f"SimCLR, {chosen.seconds:g} s", run
    if chosen.mobilenet:
        folder = folder / f"mobilenet-{name}"
        selftaught.import_(chosen.mobilenet, out=folder, image_size=where.side)
        yield f"MobileNetV2 (ImageNet's labels), {where.side} px", folder


def measured(
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
    yield from of_names(encoder, data, where, work, seed)


def agreements(folder: Path) -> tuple[str, str, str]:
    """NMI, ARI and matched accuracy of CLUSTERS beside the labels."""
    table = read_table(folder / "assignments.parquet")
    cluster_N, label_N = table["cluster"].to_numpy(), _numbers(table["label"].to_pylist())
    nmi = agreement.nmi(cluster_N, label_N, "arithmetic")
    figures = nmi, agreement.ari(cluster_N, label_N), agreement.accuracy(cluster_N, label_N)
    a, b, c = (f"{figure:.3f}" for figure in figures)
    return a, b, c


def precision(table: Path, where: Set) -> float:
    """How many of the ten nearest other images have an image's label."""
    vectors = of_table(table)
    labels = vectors.labels or [Path(path).parent.name for path in vectors.paths]
    label_N = _numbers(labels)
    _, near_N10 = top_k(vectors.x_ND, vectors.x_ND, 10, own=np.arange(len(label_N)))
    return float((label_N[near_N10] == label_N[:, None]).mean())


def of_names(
    encoder: Path, data: Path, where: Set, work: Path, seed: int
) -> Iterator[tuple[str, str]]:
    """Test images sorted by named clusters, by a classifier of these, by a probe of all labels."""
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
    yield "named: agreement", f"{by_name['agreement']:.3f} ({len(set(names.values()))} names)"
    yield "images/s", f"{by_name['images'] / seconds:,.0f}"
    selftaught.classify(work / "unit", out=work / "classifier", seed=seed)
    how = {"label": where.label}
    by_class = selftaught.assign(work / "classifier", test, out=work / "classes.csv", **how).value
    yield "classifier", f"{by_class['agreement']:.3f}"
    yield "linear, all labels", f"{probe(encoder, data):.3f}"


def probe(encoder: Path, data: Path) -> float:
    """Accuracy on the test images of logistic regression on all training labels."""
    cache = cache_folder(None)
    images = open_images(str(data), cache=cache)
    labels = label(images.checked)
    rows = labels.train
    trial = Trial(images, rows, labels.labels_N[rows], labels.test, len(labels.classes))
    subject = EncoderRepresentation("it", open_encoder(str(encoder)), cache=cache)
    accuracy, *_ = measure([subject], trial, labels, ["linear"])
    return accuracy.value


def _numbers(labels: Sequence[Any]) -> np.ndarray[Any, Any]:
    return np.unique([str(label) for label in labels], return_inverse=True)[1]


def page(tables: Sequence[str], chosen: argparse.Namespace) -> str:
    """What docs/results.md says."""
    words = (
        f"{hardware()}, seed {chosen.seed}. NMI, ARI and accuracy of {K} clusters of all "
        "training images beside their labels (NMI arithmetic, clusters matched to classes); "
        "precision@10 among the test images. Clusters are named by their commonest label, and the "
        "test images, which took no part, sorted into them: how often the name is the label, by "
        "the nearest centroid and by the classifier that `classify` makes of the named clusters "
        "without a label. images/s: `assign` as a whole, from files that were never read to "
        "the table. MobileNetV2 has seen Imagenette's classes with their labels."
    )
    again = "`python -m benchmarks.groups` measures it anew."
    return "\n\n".join(["## Clusters as people use them", words, *tables, again])


if __name__ == "__main__":
    main()
