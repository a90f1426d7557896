"""Measure the whole SimCLR step, data included, against the bare network and lightly's loop.

    python -m benchmarks.step --data DIR [--cores 2] [--parts bare lightly memory] [--repeats 5]

DIR holds cifar10/train.npz and imagenette_128. Every call trains for an epoch of a few steps, from
reading the first image to the last update; the two sides of a pair take turns.

* bare: the same method, loss, optimizer and batch, on views that are ready on the device. The ratio
  is the share of that speed that remains when the views are made too.
* lightly: the example of its documentation (NTXentLoss, SimCLRProjectionHead, SimCLRTransform, a
  DataLoader with one worker per core) around our network, with our policy, batch and optimizer. It
  is not compiled, because the example is not.
* memory: peak memory of whole processes, see benchmarks/memory.py.

With --device cuda, other networks are trained, in bf16, and the rest is the same; the script also
prints the share of the time that steps wait for views.

Rows go into docs/results.md. With --json FILE they go to that file, and the page is left unchanged
unless --publish is given as well.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks import measure, memory
from benchmarks.measure import Row
from benchmarks.rivals import Pictures, Views, as_pillow, lightly_views, one_thread
from selftaught.data.open_images import open_images
from selftaught.data.store import Images
from selftaught.foundation.machine import Machine
from selftaught.recipe import build
from selftaught.recipe.config import Config, with_overrides
from selftaught.recipe.presets import preset
from selftaught.recipe.view_settings import policy_settings
from selftaught.training.training import Training
from selftaught.views.policy import simclr_imagenet

RESULTS = Path(__file__).parents[1] / "docs/results.md"
PARTS = ("bare", "lightly", "memory")
ENDLESS = 10**6  # steps of a run that never ends


@dataclass(frozen=True)
class Case:
    """A network and how it is trained.

    Attributes:
        encoder: Name of the encoder.
        size: Side of a view in pixels.
        batch: Images per step.
        steps: Steps per epoch, that is, per call.
        rival: Whether lightly's loop also trains it.
    """

    encoder: str
    size: int
    batch: int
    steps: int
    rival: bool = True

    def __str__(self) -> str:
        return f"SimCLR step, {self.encoder} at {self.size} px, batch {self.batch}"

    def config(self, *, compiled: bool) -> Config:
        """The recipe for small machines, with SimCLR's ImageNet policy above 32 px."""
        changes = preset("small") | {
            "network.encoder": self.encoder,
            "network.image_size": self.size,
            "loop.batch_size": self.batch,
            "loop.total_steps": ENDLESS,
            "loop.compile": compiled,
        }
        if self.encoder == "resnet20":
            changes |= {"network.stem_stride": 1}
        if self.encoder not in ("resnet8", "resnet20"):
            changes |= {"network.width": None, "network.stem_stride": None}
        if self.size > 32:
            changes |= policy_settings(simclr_imagenet())
        return with_overrides(Config(), changes)


CASES = {
    "cpu": (
        Case("resnet8", 32, 256, steps=16),
        Case("resnet20", 32, 256, steps=3),
        Case("resnet18", 128, 32, steps=3, rival=False),
    ),
    "cuda": (Case("resnet18", 32, 1024, steps=40), Case("resnet50", 224, 512, steps=10)),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the rows and their section of docs/results.md."""
    chosen = parser().parse_args(arguments)
    measure.use_cores(chosen.cores)
    rows, notes = [], list[str]()
    for case in [c for c in CASES[chosen.device] if c.encoder in (chosen.encoders or c.encoder)]:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(case, *images_for(case, chosen.data, Path(folder)), chosen)
            for compiled in (False, True):
                rows += bench.rows(compiled=compiled)
            notes += bench.waits
    report = measure.markdown(rows)
    if "memory" in chosen.parts:
        used = memory.peak_rows(chosen.data)
        notes.append(memory.sentences(used))
        rows += used
    report = "\n".join([report, *notes])
    print(report)
    if chosen.json:
        measure.write_json(chosen.json, rows)
    if measure.publishes(chosen):
        name = f"step {chosen.device} {chosen.cores}"
        cores = f"{chosen.cores} core{'s' * (chosen.cores > 1)}"
        title = f"## The whole step ({chosen.device.upper()}, {cores})"
        measure.publish(RESULTS, name, f"{title}\n\n{report}")


def parser() -> argparse.ArgumentParser:
    """The script's options."""
    as_written = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--device", choices=CASES, default="cpu")
    options.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    options.add_argument("--parts", choices=PARTS, nargs="+", default=list(PARTS))
    options.add_argument("--encoders", nargs="+", help="only these encoders")
    options.add_argument("--repeats", type=int, default=5)
    measure.output_options(options)
    return options


def images_for(case: Case, data: Path, folder: Path) -> tuple[Images, Pictures]:
    """The images of an epoch: ours, and in the form that lightly's data set takes."""
    number = case.batch * case.steps
    if case.size == 32:
        with np.load(data / "cifar10/train.npz", allow_pickle=False) as arrays:
            pixels = arrays["images"][:number]
        np.savez(folder / "images.npz", images=pixels)
        return open_images(str(folder / "images.npz"), machine=Machine(cache=folder)), list(pixels)
    files = sorted((data / "imagenette_128").resolve().glob("**/*.webp"))
    chosen = [files[i] for i in np.linspace(0, len(files) - 1, number).astype(int)]
    (folder / "images.txt").write_text("\n".join(map(str, chosen)) + "\n")
    return open_images(str(folder / "images.txt"), machine=Machine(cache=folder)), chosen


class Bench:
    """The measurements of one case; `waits` has sentences on how long steps waited for views."""

    def __init__(
        self, case: Case, images: Images, pictures: Pictures, chosen: argparse.Namespace
    ) -> None:
        self.case, self.images, self.pictures, self.chosen = case, images, pictures, chosen
        self.device, self.waits = torch.device(chosen.device), list[str]()

    def rows(self, *, compiled: bool) -> list[Row]:
        """The rows of the requested parts."""
        config = self.case.config(compiled=compiled)
        how = "compiled" if compiled else "eager"
        work, rows = f"{self.case}, {how}, {self._place()}", []
        whole = Whole(self._training(config))
        if "bare" in self.chosen.parts:
            bare = Bare(self._training(config), self.case.steps)
            pair = {"whole step, data included": whole, "bare step on precomputed views": bare}
            rows.append(self._compare(work, pair))
        if "lightly" in self.chosen.parts and self.case.rival:
            rival = Lightly(config, self.images, self.pictures, self.device, self.chosen.cores)
            rows.append(self._compare(work, {"selftaught": whole, "lightly's example loop": rival}))
        if rows and self.device.type == "cuda":  # on a CPU, making views slows the step instead
            share = f"{whole.waiting_share:.1%}"
            self.waits.append(f"* {work}: steps wait for views {share} of the time.")
        return rows

    def _training(self, config: Config) -> Training:
        return build.training_for(config, self.images, Machine(str(self.device), self.chosen.cores))

    def _place(self) -> str:
        if self.device.type == "cuda":
            return "bf16, GPU"
        return f"float32, {self.chosen.cores} core{'s' * (self.chosen.cores > 1)}"

    def _compare(self, work: str, pair: dict[str, Callable[[], None]]) -> Row:
        return measure.compare(
            work,
            pair,
            items=self.case.batch * self.case.steps,
            repeats=self.chosen.repeats,
            warmup=1,
            packages=["lightly"],
        )


class Whole:
    """An epoch as in a run, reading the images included."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.calls: list[tuple[float, float]] = []  # seconds waited, seconds in total
        self.waited = 0.0

    def __call__(self) -> None:
        """Train for an epoch."""
        start, self.waited = time.perf_counter(), 0.0
        with closing(self.training.batches()) as batches:
            for batch in self._time_batches(batches):
                self.training.take(batch)
        self.training.synchronise()
        self.calls.append((self.waited, time.perf_counter() - start))

    def _time_batches(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Pass the batches on, and add up the time spent waiting for them."""
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    @property
    def waiting_share(self) -> float:
        """Share of the time that the host waited for a batch, without the first call."""
        waited, seconds = map(sum, zip(*self.calls[1:], strict=True))
        return waited / seconds


class Bare:
    """The same steps on one precomputed batch."""

    def __init__(self, training: Training, steps: int) -> None:
        self.training, self.steps = training, steps
        with closing(training.batches()) as batches:
            self.ready = next(batches)

    def __call__(self) -> None:
        """Train for as many steps as an epoch has."""
        for _ in range(self.steps):
            self.training.take(self.ready)
        self.training.synchronise()


class Lightly:
    """The loop of the PyTorch example of "SimCLR" in docs.lightly.ai, around our network."""

    def __init__(
        self, config: Config, images: Images, pictures: Pictures, device: torch.device, cores: int
    ) -> None:
        from lightly.loss import NTXentLoss

        (spec,) = build.view_specs(config)
        workers = cores if cores > 1 else 0
        self.device = device
        self.model = LightlySimCLR(config, images).to(device)
        self.loader = DataLoader(
            Views(pictures, as_pillow, lightly_views(spec.policy, spec.size)),
            batch_size=config.loop.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
            worker_init_fn=one_thread,
        )
        self.criterion = NTXentLoss(temperature=config.options["temperature"])
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), config.loop.lr, weight_decay=config.loop.weight_decay
        )

    def __call__(self) -> None:
        """Train for an epoch."""
        for x0, x1 in self.loader:
            x0, x1 = x0.to(self.device), x1.to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, self.device.type == "cuda"):
                z0, z1 = self.model(x0), self.model(x1)
                loss = self.criterion(z0, z1)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()


class LightlySimCLR(nn.Module):
    """A backbone and lightly's projection head, with the sizes of ours."""

    def __init__(self, config: Config, images: Images) -> None:
        from lightly.models.modules import SimCLRProjectionHead

        super().__init__()
        self.backbone = build.encoder_for(config, images)
        options, dim = config.options, self.backbone.dim
        self.projection_head = SimCLRProjectionHead(
            dim, options["hidden"] or dim, options["projection"]
        )

    def forward(self, x: Tensor) -> Tensor:
        """z of a batch of views."""
        z: Tensor = self.projection_head(self.backbone(x).flatten(start_dim=1))
        return z


if __name__ == "__main__":
    main()
