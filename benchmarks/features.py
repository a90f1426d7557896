"""Vectors of a folder of images beside the bare network on ready tensors.

    python -m benchmarks.features DATA [--encoder resnet18] [--image-size 128]

Ours reads decoded pixels from the store, makes the evaluation view and computes f(x) of every
image; the rival is the same network on one batch of ready float32 tensors again and again. Decoding
is done once, beforehand: the cache keeps its result, and it is not in either figure.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import measure
from benchmarks.measure import compare, markdown
from selftaught.data.store import Images, open_images
from selftaught.encoders.encoder import Encoder, EncoderConfig, build
from selftaught.features import evaluating, features
from selftaught.machine import cache_folder

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs/results.md"
BATCH = 256


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the section of docs/results.md."""
    chosen = parser().parse_args(arguments)
    images = open_images(chosen.data, cache=cache_folder(None))
    shape = EncoderConfig(
        chosen.encoder,
        images.checked.channels,
        chosen.image_size,
        intensity=images.checked.intensity,
    )
    encoder = build(shape)
    N = len(images.store)
    work = f"f(x) of {N:,} images at {chosen.image_size} px, {chosen.encoder}"
    variants = {
        "selftaught": partial(features, encoder, images, batch_size=BATCH, threads=chosen.threads),
        "bare network": partial(bare, encoder, images),
    }
    items = {"selftaught": N, "bare network": N // BATCH * BATCH}
    row = compare(work, variants, items=items, repeats=chosen.repeats, warmup=1)
    text = markdown([row])
    print(text)
    if chosen.json:
        measure.write_json(chosen.json, [row])
    if measure.publishes(chosen):
        again = "`python -m benchmarks.features DATA` measures it anew."
        measure.publish(RESULTS, "features", f"## Features\n\n{text}\n{again}")


def parser() -> argparse.ArgumentParser:
    """The script's options."""
    as_written = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    options.add_argument("data", help="images, in any form that selftaught check takes")
    options.add_argument("--encoder", default="resnet18")
    options.add_argument("--image-size", type=int, default=128)
    options.add_argument("--threads", type=int, default=2, help="data threads")
    options.add_argument("--repeats", type=int, default=3)
    measure.output_options(options)
    return options


def bare(encoder: Encoder, images: Images) -> None:
    """The network alone, as many whole batches as the images fill."""
    x = np.random.default_rng(0).normal(
        size=(BATCH, encoder.config.in_channels, *2 * (encoder.config.image_size,))
    )
    x_BCSS = torch.from_numpy(x).float().contiguous(memory_format=torch.channels_last)
    with evaluating(encoder):
        for _ in range(len(images.store) // BATCH):
            encoder(x_BCSS)


if __name__ == "__main__":
    main()
