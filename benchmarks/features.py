"""Measure the speed of computing vectors for a folder of images, against the bare network.

    python -m benchmarks.features DATA [--encoder resnet18] [--image-size 128]

Ours reads decoded pixels from the store, makes the evaluation view and computes f(x) of every
image. The rival applies the same network repeatedly to one batch of ready float32 tensors. Decoding
happens once, beforehand; the cache stores its result, and neither figure includes it.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import measure
from benchmarks.measure import compare, markdown
from selftaught.data.open_images import open_images
from selftaught.data.store import Images
from selftaught.encoders.encoder import Encoder, EncoderConfig, build_encoder
from selftaught.foundation.machine import Machine, cache_folder
from selftaught.vectors.features import evaluation_mode, features

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs/results.md"
BATCH = 256


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the section of docs/results.md."""
    chosen = parser().parse_args(arguments)
    images = open_images(chosen.data, machine=Machine(cache=cache_folder(None)))
    shape = EncoderConfig(
        chosen.encoder,
        images.checked.channels,
        chosen.image_size,
        intensity=images.checked.intensity,
    )
    encoder = build_encoder(shape)
    N = len(images.store)
    work = f"f(x) of {N:,} images at {chosen.image_size} px, {chosen.encoder}"
    machine = Machine(threads=chosen.threads)
    variants = {
        "selftaught": partial(features, encoder, images, machine, batch_size=BATCH),
        "bare network": partial(bare_network, encoder, images),
    }
    items = {"selftaught": N, "bare network": N // BATCH * BATCH}
    row = compare(work, variants, items=items, repeats=chosen.repeats, warmup=1)
    text = markdown([row])
    print(text)
    if chosen.json:
        measure.write_json(chosen.json, [row])
    if measure.publishes(chosen):
        command = "Reproduce with `python -m benchmarks.features DATA`."
        measure.publish(RESULTS, "features", f"## Features\n\n{text}\n{command}")


def parser() -> argparse.ArgumentParser:
    """The script's options."""
    as_written = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    options.add_argument("data", help="images, in any form that selftaught check accepts")
    options.add_argument("--encoder", default="resnet18")
    options.add_argument("--image-size", type=int, default=128)
    options.add_argument("--threads", type=int, default=2, help="data threads")
    options.add_argument("--repeats", type=int, default=3)
    measure.output_options(options)
    return options


def bare_network(encoder: Encoder, images: Images) -> None:
    """Run the network alone, on as many whole batches as the images fill."""
    x = np.random.default_rng(0).normal(
        size=(BATCH, encoder.config.in_channels, *2 * (encoder.config.image_size,))
    )
    x_BCSS = torch.from_numpy(x).float().contiguous(memory_format=torch.channels_last)
    with evaluation_mode(encoder):
        for _ in range(len(images.store) // BATCH):
            encoder(x_BCSS)


if __name__ == "__main__":
    main()
