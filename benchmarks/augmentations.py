"""Measure how single augmentations and pairs of them affect the learned representation.

    python -m benchmarks.augmentations --data DIR [--seconds 120] [--cells N] [--share I OF]

The design follows figure 5 of SimCLR (Chen et al. 2020, section 3.1): one view is the plain image,
and the other has one or two operations applied. DIR holds train.npz and test.npz of CIFAR-10.
resnet8 is trained on the training images without their labels, and evaluated with the protocol
`linear` on all test images. Two deviations: no crop comes first, because all images have the same
size, and the operations of a pair have one order, that of views/policy.py.

There are 7 single operations with three seeds each, their 21 pairs, and three untrained networks.
The first run fixes the number of steps of all runs: as many as fit into --seconds. Runs already in
--out are not repeated. --cells N does only the next N. --share I OF does the I-th of OF shares, for
processes that run at once; one process per core is faster than one on all cores. docs/ is written
when all runs are done, or with --publish.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import measure
from selftaught.data.feed import Feed
from selftaught.data.labels import label
from selftaught.data.open_images import open_images
from selftaught.encoders.encoder import Encoder
from selftaught.evaluation.protocols.linear import linear
from selftaught.evaluation.representation import EncoderRepresentation, random_init
from selftaught.evaluation.trial import Trial
from selftaught.foundation.machine import Machine, cores
from selftaught.methods.simclr import SimCLR, SimCLROptions
from selftaught.recipe import build
from selftaught.recipe.config import Config, with_overrides
from selftaught.recipe.presets import preset
from selftaught.recipe.view_settings import OPERATIONS as SETTINGS_OF
from selftaught.training.loop import seconds_per_step, steps_within
from selftaught.training.training import Training
from selftaught.views import policy as views
from selftaught.views.policy import CenterCrop, Policy, ViewSpec

DOCS = Path(__file__).parents[1] / "docs"
SIZE = 32

OPERATIONS: dict[str, tuple[Any, ...]] = {
    "crop and resize": (views.RandomCrop((0.08, 1.0)),),
    "cutout": (views.Cutout(p=1.0),),
    "colour": (views.Jitter(), views.Gray()),
    "Sobel": (views.Sobel(p=1.0),),
    "noise": (views.Noise(p=1.0),),
    "blur": (views.Blur(p=1.0),),
    "rotate": (views.Rotate(p=0.75),),
}
"""In the order of the figure. Rotate: all four angles are equally likely."""

RANDOM = "random init"
_ORDER = [kind.__name__ for kind in SETTINGS_OF]
SEEDS = (0, 1, 2)
PLAIN = ViewSpec(Policy(CenterCrop()), SIZE)


@dataclass(frozen=True, order=True)
class Cell:
    """One run: two operations, or one twice, and a seed; RANDOM means no training."""

    first: str
    second: str
    seed: int = 0

    def __str__(self) -> str:
        names = " + ".join(dict.fromkeys((self.first, self.second)))
        return f"{names}, seed {self.seed}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Do the remaining runs, then write the page if all are done."""
    chosen = parser().parse_args(arguments)
    with tempfile.TemporaryDirectory() as cache:
        study = Study(chosen.data, Path(cache), chosen.out)
        share, of = chosen.share
        left = [cell for cell in list(cells())[share::of] if cell not in study.accuracy]
        for cell in left[: chosen.cells]:
            study.run(cell, chosen.seconds)
        study.read()  # what other processes have done since
    if chosen.publish or all(cell in study.accuracy for cell in cells()):
        publish(study.accuracy, study.steps)


def parser() -> argparse.ArgumentParser:
    """The script's options."""
    as_written = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--out", type=Path, default=Path("runs/augmentations.jsonl"))
    options.add_argument("--seconds", type=float, default=120)
    options.add_argument("--cells", type=int)
    options.add_argument("--share", type=int, nargs=2, default=(0, 1), metavar=("I", "OF"))
    options.add_argument("--publish", action="store_true")
    return options


def cells() -> Iterator[Cell]:
    """All runs: the diagonal, the pairs, the diagonal with the other seeds, no training."""
    yield from (Cell(name, name) for name in OPERATIONS)
    yield from (Cell(*pair) for pair in combinations(OPERATIONS, 2))
    yield from (Cell(name, name, seed) for seed in SEEDS[1:] for name in OPERATIONS)
    yield from (Cell(RANDOM, RANDOM, seed) for seed in SEEDS)


def policy(*names: str) -> Policy:
    """The named operations, in the order in which views/policy.py applies them."""
    parts = [part for name in dict.fromkeys(names) for part in OPERATIONS[name]]
    boxes = [part for part in parts if isinstance(part, views.RandomCrop)]
    operations = [part for part in parts if not isinstance(part, views.RandomCrop)]
    operations.sort(key=lambda operation: _ORDER.index(type(operation).__name__))
    return Policy(boxes[0] if boxes else CenterCrop(), tuple(operations))


class Study:
    """The finished runs, and what the remaining ones need.

    Attributes:
        accuracy: Accuracy of the finished runs, as a fraction.
        steps: Steps per run; 0 until the first run fixes them.
    """

    def __init__(self, data: Path, cache: Path, out: Path) -> None:
        self.unlabelled = open_images(str(data / "train.npz"), machine=Machine(cache=cache))
        self.images = open_images(str(data), machine=Machine(cache=cache))
        self.labels = label(self.images.checked)
        self.out, self.steps, self.accuracy = out, 0, dict[Cell, float]()
        self.read()

    def read(self) -> None:
        """Read the runs in --out."""
        for line in self.out.read_text().splitlines() if self.out.exists() else []:
            self._note(json.loads(line))

    def run(self, cell: Cell, seconds: float) -> None:
        """Train and evaluate a cell, and append a line to --out."""
        if cell.first == RANDOM:
            network = build.encoder_for(self._config(cell), self.images).config
            subject = random_init(network, self.images, self.labels.train, seed=cell.seed)
        else:
            encoder = self._train(cell, seconds)
            subject = EncoderRepresentation(str(cell), encoder, machine=Machine(threads=cores()))
        done = asdict(cell) | {"steps": self.steps, "accuracy": self._accuracy(subject)}
        print(f"{cell}: {done['accuracy']:.1%}", flush=True)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        with self.out.open("a") as file:
            file.write(json.dumps(done) + "\n")
        self._note(done)

    def _note(self, line: dict[str, Any]) -> None:
        self.accuracy[Cell(line["first"], line["second"], line["seed"])] = line["accuracy"]
        self.steps = self.steps or line["steps"]

    def _train(self, cell: Cell, seconds: float) -> Encoder:
        """Train an encoder for as many steps as every run takes."""
        if not self.steps:
            self.steps = steps_within(seconds, seconds_per_step(self._training(cell)))
        training = self._training(cell)
        while not training.done:
            with closing(training.batches()) as batches:
                for batch in batches:
                    training.take(batch)
        training.check_finite()
        return training.method.encoder

    def _training(self, cell: Cell) -> Training:
        """SimCLR whose first view is the plain image and whose second is the cell's."""
        config, images, device = self._config(cell), self.unlabelled, torch.device("cpu")
        specs = (PLAIN, ViewSpec(policy(cell.first, cell.second), SIZE))
        torch.manual_seed(cell.seed)  # for the head
        options = SimCLROptions(**config.options)
        method = SimCLR(build.encoder_for(config, images), options, policy=specs)
        feed = Feed(
            images,
            specs=specs,
            batch_size=config.loop.batch_size,
            seed=cell.seed,
            threads=cores(),
            intensity=method.encoder.config.intensity,
        )
        return Training(method, feed, build.plan_for(config, images, device), device)

    def _config(self, cell: Cell) -> Config:
        changes = {"network.image_size": SIZE, "seed": cell.seed, "loop.total_steps": self.steps}
        return with_overrides(Config(), preset("small") | changes)

    def _accuracy(self, subject: EncoderRepresentation) -> float:
        """Accuracy on all test images, by the protocol `linear`."""
        train, labels_N = self.labels.train, self.labels.labels_N
        classes = len(self.labels.classes)
        answer = linear(
            subject, Trial(self.images, train, labels_N[train], self.labels.test, classes=classes)
        )
        each_once = np.ones((len(answer.rows), 1), np.float32)
        return float(answer.figures["accuracy"](labels_N[answer.rows], each_once)[0])


# --- the page


def publish(accuracy: Mapping[Cell, float], steps: int) -> None:
    """Write the section of docs/results.md and its heat map."""
    heat_map(matrix(accuracy), DOCS / "augmentations.svg")
    text = page(accuracy, steps)
    print(text)
    measure.publish(DOCS / "results.md", "augmentations", text)


def matrix(accuracy: Mapping[Cell, float]) -> NDArray[np.float64]:
    """Per cent by pair, symmetric; the diagonal is a mean over seeds; NaN for missing runs."""
    names = list(OPERATIONS)
    values = np.full((len(names), len(names)), np.nan)
    for i, first in enumerate(names):
        for j, second in enumerate(names):
            found = _seeds(accuracy, first, second) or _seeds(accuracy, second, first)
            values[i, j] = 100 * mean(found) if found else np.nan
    return values


def _seeds(accuracy: Mapping[Cell, float], first: str, second: str) -> list[float]:
    """Accuracies of all finished seeds."""
    return [accuracy[cell] for seed in SEEDS if (cell := Cell(first, second, seed)) in accuracy]


def page(accuracy: Mapping[Cell, float], steps: int) -> str:
    """The section of docs/results.md."""
    header = [
        "## Effect of augmentations",
        "",
        "Linear accuracy in per cent on CIFAR-10 (resnet8, all 10,000 test images) after "
        f"{steps:,} steps of 256 images. One view was the plain image; the other had the "
        "operations of the row and of the column. The diagonal shows one operation alone, as "
        f"{_extremes(accuracy)} Reproduce with `python -m benchmarks.augmentations`.",
        "",
        "![The table as a heat map](augmentations.svg)",
        "",
    ]
    names = list(OPERATIONS)
    table = ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for name, row in zip(names, matrix(accuracy), strict=True):
        cells = ["" if np.isnan(value) else f"{value:.1f}" for value in row]
        table.append(f"| {name} | " + " | ".join(cells) + " |")
    place = f"\n{measure.hardware()}; " + ", ".join(
        f"{name} {version}" for name, version in measure.versions().items()
    )
    return "\n".join([*header, *table, place + "."])


def _extremes(accuracy: Mapping[Cell, float]) -> str:
    """The spread over seeds, and the accuracy without training."""
    alone = [_seeds(accuracy, name, name) for name in OPERATIONS]
    apart = max((max(found) - min(found) for found in alone if found), default=0.0)
    random = _seeds(accuracy, RANDOM, RANDOM)
    words = f"the mean of up to {len(SEEDS)} seeds, which are at most {100 * apart:.1f} apart."
    return words + (f" No training: {100 * mean(random):.1f}." if random else "")


def heat_map(values: NDArray[np.float64], path: Path) -> None:
    """Draw the matrix as a heat map."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "selftaught"  # equal values give equal files
    from matplotlib import pyplot

    names = list(OPERATIONS)
    figure, axis = pyplot.subplots(figsize=(7, 6), layout="constrained")
    picture = axis.imshow(values, cmap="viridis")
    figure.colorbar(picture, label="linear accuracy on CIFAR-10, per cent")
    axis.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axis.set_yticks(range(len(names)), names)
    middle = np.nanmean([np.nanmin(values), np.nanmax(values)])
    for (i, j), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = "black" if value > middle else "white"
            axis.text(j, i, f"{value:.1f}", ha="center", va="center", color=colour)
    axis.spines[:].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main()
