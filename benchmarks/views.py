"""Measure views in images per second, against lightly, torchvision v2, kornia and albumentations.

    python -m benchmarks.views --data DIR [--cores 1] [--cases 32 96 224] [--repeats 5]

DIR holds cifar10/train.npz (images uint8 NHWC) and coco256_voc (its photographs, JPEG). Each image
gives two views of SimCLR's ImageNet policy: crop, flip, jitter (p 0.8, s 1.0), grey 0.2, normalise;
at 96 and 224 px also blur 0.5. Ours are batches as training takes them, reading and drawing
included; benchmarks/rivals.py has the rivals. The process and its workers are confined to --cores
cores. The two sides of a pair take turns, each with as many images as it makes views of in about
--seconds. On several cores a worker's batches are a quarter as large, so that all workers get some.

Rows and a plot go into docs/. With --json FILE the rows go to that file, and docs/ is left
unchanged unless --publish is given as well. Views of 32 px come from arrays; views of 96 and 224 px
come from JPEG files, decoded each time, and from decoded pixels in memory (our store; arrays for
the others).

Shapes:  B images of a batch; S side of a view.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import measure
from benchmarks.measure import Row
from benchmarks.rivals import Make, Pictures, as_pillow, rivals
from selftaught.data.batch import Progress
from selftaught.data.feed import Feed
from selftaught.data.open_images import open_images
from selftaught.data.store import Images
from selftaught.foundation.machine import Machine
from selftaught.views.policy import Blur, Policy, ViewSpec, simclr_imagenet

DOCS = Path(__file__).parents[1] / "docs"
PACKAGES = ("lightly", "kornia", "albumentations", "opencv-python-headless")
OURS, LIGHTLY = "selftaught", "lightly SimCLRTransform"
JPEG, DECODED = "JPEG files", "decoded pixels"


@dataclass(frozen=True)
class Case:
    """Views of one size from one kind of images.

    Attributes:
        size: S.
        source: Where the images are read from.
        images: Our images.
        pictures: The same images, in the form that the rivals take.
        batch: B.
        cores: Number of usable cores.
    """

    size: int
    source: str
    images: Images
    pictures: Pictures
    batch: int
    cores: int

    @property
    def policy(self) -> Policy:
        """SimCLR's policy; without blur at 32 px, as in the paper (Chen et al. 2020, app. B.9)."""
        policy = simclr_imagenet()
        if self.size > 32:
            return policy
        return replace(
            policy, operations=tuple(o for o in policy.operations if type(o) is not Blur)
        )

    @property
    def ours(self) -> Make:
        """Our maker of views."""
        return Ours(self)

    @property
    def rivals(self) -> dict[str, Make]:
        """The other libraries' makers of views, by name."""
        return rivals(self.pictures, self.policy, self.size, batch=self.batch, cores=self.cores)

    def __str__(self) -> str:
        cores = f"{self.cores} core{'s' * (self.cores > 1)}"
        return f"two views of {self.size} px from {self.source}, {cores}"


class Ours:
    """Batches of the feed, as a step takes them; every call continues with the next epoch."""

    def __init__(self, case: Case) -> None:
        self.feed = Feed(
            case.images,
            specs=(ViewSpec(case.policy, case.size, count=2),),
            batch_size=case.batch,
            seed=0,
            threads=case.cores if case.cores > 1 else 0,
        )
        self.epoch = 0

    def __call__(self, n: int) -> None:
        """Make two views of each of about n images."""
        left, whole = max(1, round(n / self.feed.batch_size)), self.feed.steps_per_epoch
        while left:  # only the end of an epoch, so that threads make no unused batches
            steps = min(left, whole)
            made = self.feed.epoch(None, Progress(self.epoch, 0, whole), skip=whole - steps)
            with closing(made) as batches:
                for batch in batches:
                    del batch
            left, self.epoch = left - steps, self.epoch + 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the rows, their section of docs/results.md and the plot."""
    chosen = parser().parse_args(arguments)
    measure.use_cores(chosen.cores)
    with tempfile.TemporaryDirectory() as cache:
        rows = [row for case in cases(chosen, Path(cache)) for row in comparisons(case, chosen)]
        rows += store_against_files(chosen, Path(cache))
    print(measure.markdown(rows))
    if chosen.json:
        measure.write_json(chosen.json, rows)
    if measure.publishes(chosen):
        publish(rows, chosen.cores)


def parser() -> argparse.ArgumentParser:
    """The script's options."""
    as_written = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--cores", type=int, default=1)
    options.add_argument("--cases", type=int, nargs="+", default=[32, 96, 224])
    options.add_argument("--seconds", type=float, default=1.0, help="target duration of a call")
    options.add_argument("--repeats", type=int, default=5)
    measure.output_options(options)
    return options


def cases(chosen: argparse.Namespace, cache: Path) -> Iterator[Case]:
    """The cases to measure, in order."""
    for size in chosen.cases:
        yield from (
            [from_arrays(chosen, size, cache)]
            if size == 32
            else [from_files(chosen, size, source, cache) for source in (JPEG, DECODED)]
        )


def from_arrays(chosen: argparse.Namespace, size: int, cache: Path) -> Case:
    """A case of CIFAR-10's arrays."""
    path = chosen.data / "cifar10/train.npz"
    images = open_images(str(path), machine=Machine(cache=cache))
    assert images.checked.source.array is not None
    return Case(size, "arrays", images, list(images.checked.source.array), 256, chosen.cores)


def from_files(chosen: argparse.Namespace, size: int, source: str, cache: Path) -> Case:
    """A case of photographs of about 640 x 480."""
    folder = chosen.data / "coco256_voc/JPEGImages"
    form = "encoded" if source == JPEG else "memory"
    images = open_images(str(folder), machine=Machine(cache=cache), form=form)
    files: list[Path] = [folder / name for name in images.checked.source.names]
    pictures: Pictures = files
    if source == DECODED:
        pictures = [np.array(as_pillow(file)) for file in files]
    return Case(size, source, images, pictures, 32, chosen.cores)


def comparisons(case: Case, chosen: argparse.Namespace) -> list[Row]:
    """Time ours against each rival."""
    ours = case.ours
    return [
        timed_row(str(case), case.batch, {OURS: ours, name: rival}, chosen)
        for name, rival in case.rivals.items()
    ]


def store_against_files(chosen: argparse.Namespace, cache: Path) -> list[Row]:
    """Time ours from the store against lightly from files, as lightly has no store."""
    rows = []
    for size in chosen.cases:
        if size > 32:
            stored, files = (from_files(chosen, size, source, cache) for source in (DECODED, JPEG))
            work = f"{stored}; lightly from {JPEG}"
            pair = {OURS: stored.ours, LIGHTLY: files.rivals[LIGHTLY]}
            rows.append(timed_row(work, stored.batch, pair, chosen))
    return rows


def timed_row(work: str, batch: int, makers: dict[str, Make], chosen: argparse.Namespace) -> Row:
    """Time two makers in turns, each on as many images as it handles in about --seconds."""
    number = {name: image_count(make, chosen.seconds, batch) for name, make in makers.items()}
    return measure.compare(
        work,
        {name: partial(make, number[name]) for name, make in makers.items()},
        items=number,
        repeats=chosen.repeats,
        warmup=1,
        packages=PACKAGES,
    )


def image_count(make: Make, seconds: float, batch: int) -> int:
    """Images that a maker handles in about this many seconds: at least one, whole batches."""
    make(batch)  # compilation, workers
    number = batch
    while (taken := _seconds(make, number)) < seconds / 4:
        number *= 4
    return max(1, round(number * seconds / taken / batch)) * batch


def _seconds(make: Make, number: int) -> float:
    start = time.perf_counter()
    make(number)
    return time.perf_counter() - start


def publish(rows: Sequence[Row], cores: int) -> None:
    """Write the section of docs/results.md and its plot."""
    name = f"views_{cores}_core{'s' * (cores > 1)}.svg"
    plot(rows, DOCS / name)
    title = f"## Views ({cores} core{'s' * (cores > 1)})"
    body = f"{title}\n\n![Images per second by library]({name})\n\n{measure.markdown(rows)}"
    measure.publish(DOCS / "results.md", f"views {cores}", body)


def rates(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Images per second of each library, by work; ours is the median over its rivals."""
    found: dict[str, dict[str, float]] = {}
    for work in dict.fromkeys(row.work for row in rows):
        own = [row for row in rows if row.work == work]
        ours = float(np.median([row.ours_value for row in own]))
        found[work] = {OURS: ours} | {row.rival: row.rival_value for row in own}
    return found


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw bars on a logarithmic axis, one panel per work."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "selftaught"  # equal rows give equal files
    from matplotlib import pyplot

    panels = {work: by for work, by in rates(rows).items() if len(by) > 2}
    heights = [len(by) for by in panels.values()]
    figure, axes = pyplot.subplots(
        len(panels),
        1,
        figsize=(8, 0.32 * sum(heights) + 0.6 * len(panels)),
        sharex=True,
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for axis, (work, by_library) in zip(axes[:, 0], panels.items(), strict=True):
        colours = ["#c0392b" if name == OURS else "#7f8c8d" for name in by_library]
        bars = axis.barh(list(by_library), list(by_library.values()), color=colours)
        axis.bar_label(bars, [f"{value:,.0f}" for value in by_library.values()], padding=3)
        axis.set(xscale="log", title=work)
        axis.invert_yaxis()
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.1)
    axes[-1, 0].set_xlabel("images per second, two views each (logarithmic)")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main()
