"""Measure the peak memory of a training process on a million small images and many photographs.

    python -m benchmarks.memory --data DIR [--json FILE]

DIR holds cifar10/train.npz and coco256_voc. Their images are repeated: 1,000,000 of 32 px in one
array file, 100,000 JPEG files of 224 px (as hard links). A fresh process opens them, as pretrain
does, and trains resnet8 for some steps; its peak is the kernel's figure (VmHWM). The same process
with 1,000 images shows how much is due to the number of images. Arrays are held in memory; files
are read in place and decoded each time ("encoded"), because decoded images in memory would count.

benchmarks/step.py includes these rows.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from benchmarks import measure
from benchmarks.measure import Row
from selftaught.data.open_images import open_images
from selftaught.foundation.machine import Machine
from selftaught.recipe import build
from selftaught.recipe.config import Config, with_overrides
from selftaught.recipe.presets import preset

RESULTS = Path(__file__).parents[1] / "docs/results.md"
FEW, MANY = 1_000, {"arrays": 1_000_000, "files": 100_000}
SIDES = {"arrays": 32, "files": 224}
BATCH, STEPS = {"arrays": 256, "files": 64}, 10


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and publish; or be the process under measurement."""
    chosen = parser().parse_args(arguments)
    if chosen.child:
        print(peak_of_training(str(chosen.data), chosen.child))
        return
    rows = peak_rows(chosen.data)
    print(sentences(rows))
    if chosen.json:
        measure.write_json(chosen.json, rows)
    if measure.publishes(chosen):
        measure.publish(RESULTS, "memory", f"## Memory\n\n{sentences(rows)}")


def parser() -> argparse.ArgumentParser:
    """The script's options."""
    as_written = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--child", choices=MANY, help=argparse.SUPPRESS)
    measure.output_options(options)
    return options


def peak_rows(data: Path) -> list[Row]:
    """One row per kind of images."""
    write = {"arrays": _arrays, "files": _files}
    rows = []
    for kind, many in MANY.items():
        peaks = {}
        for number in (many, FEW):
            with tempfile.TemporaryDirectory() as folder:
                peaks[number] = _peak(write[kind](data, Path(folder), number), kind)
        rows.append(_row(kind, many, peaks))
    return rows


def sentences(rows: Sequence[Row]) -> str:
    """The rows as a list for docs/results.md."""
    return "\n".join(
        f"* {row.work}: {row.ours_value:,.0f} MiB; with {row.rival}: {row.rival_value:,.0f} MiB "
        f"(one process each; {row.hardware})."
        for row in rows
    )


def _row(kind: str, many: int, peaks: dict[int, float]) -> Row:
    ratio = peaks[FEW] / peaks[many]
    once = {"ours": (peaks[many],) * 2, "rival": (peaks[FEW],) * 2, "ratio": (ratio,) * 2}
    return Row(
        work=f"peak memory of a training process, resnet8, {many:,} {kind} of {SIDES[kind]} px",
        ours=f"{many:,} images",
        rival=f"{FEW:,} images",
        ours_value=peaks[many],
        rival_value=peaks[FEW],
        unit="MiB",
        ratio=ratio,
        spread={"repeats": 1, **once},
        versions=measure.versions(),
        hardware=measure.hardware(),
    )


def _arrays(data: Path, folder: Path, number: int) -> Path:
    with np.load(data / "cifar10/train.npz", allow_pickle=False) as arrays:
        pixels = arrays["images"]
    path = folder / "images.npz"
    np.savez(path, images=np.resize(pixels, (number, *pixels.shape[1:])))
    return path


def _files(data: Path, folder: Path, number: int) -> Path:
    """Write photographs of 224 px, under many names each."""
    (images := folder / "images").mkdir()
    originals = []
    for source in sorted((data / "coco256_voc/JPEGImages").glob("*.jpg")):
        picture = ImageOps.fit(Image.open(source).convert("RGB"), (SIDES["files"],) * 2)
        originals.append(folder / source.name)
        picture.save(originals[-1], quality=90)
    for i in range(number):
        part = images / f"{i // 1000:03}"
        part.mkdir(exist_ok=True)
        os.link(originals[i % len(originals)], part / f"{i:06}.jpg")
    return images


def _peak(images: Path, kind: str) -> float:
    """Peak MiB of a separate process."""
    command = [sys.executable, "-m", "benchmarks.memory", "--data", str(images), "--child", kind]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout)


def peak_of_training(data: str, kind: str) -> float:
    """Peak memory of this process, in MiB, after some training steps on these images."""
    with tempfile.TemporaryDirectory() as cache:
        form = "encoded" if kind == "files" else None
        images = open_images(data, machine=Machine(cache=Path(cache)), form=form)
        changes = {"network.image_size": SIDES[kind], "loop.batch_size": BATCH[kind]}
        config = with_overrides(Config(), preset("small") | changes)
        training = build.training_for(config, images, machine=Machine(threads=2))
        with closing(training.batches()) as batches:
            for batch in islice(batches, STEPS):
                training.take(batch)
    return measure.peak_mib()


if __name__ == "__main__":
    main()
