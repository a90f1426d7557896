"""Measure how much libjpeg's scaling speeds up reading large photographs, and the change in pixels.

    python -m benchmarks.dct_scaling --data FOLDER [--number 16] [--repeats 9] [--json FILE]

FOLDER holds JPEG photographs. They are enlarged to camera sizes, with grain like that of a sensor
(without it, enlarged photographs are easier to decode than real ones), and saved as JPEG of quality
92. After shrinking to the store size, they are compared as stored and as views of half that size.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import measure
from benchmarks.measure import Row, compare, markdown
from selftaught.data.check_images import Checked, check_images
from selftaught.data.sources import find_images
from selftaught.data.store import EncodedStore, Store, open_store
from selftaught.foundation.machine import Machine
from selftaught.views.engine import make_views
from selftaught.views.policy import Intensity, Policy, RandomCrop
from selftaught.views.sample import sample

RESULTS = Path(__file__).parents[1] / "docs/results.md"
SIDES = (1000, 2000, 3000)  # pixels of the shorter side of a photograph
STORE_SIZES = (448, 192)  # what the recipe uses for views of 224 and of 96 px
POLICY = Policy(RandomCrop(), normalise=False)
GRAIN, QUALITY = 3.0, 92  # sigma in levels of 255; JPEG quality


@dataclass(frozen=True)
class Difference:
    """Pixel differences of one row, in levels of 255."""

    work: str
    stored: NDArray[np.float64]
    viewed: NDArray[np.float64]


def main() -> None:
    """Measure, print and publish."""
    chosen = _arguments()
    rows, differences = [], []
    for side in SIDES:
        with tempfile.TemporaryDirectory() as folder:
            checked = _write_photographs(chosen.data, Path(folder), side, chosen.number)
            for size in STORE_SIZES:
                row, difference = _measure(checked, side, size, chosen.repeats)
                rows.append(row)
                differences.append(difference)
    if chosen.json:
        measure.write_json(chosen.json, rows)
    text = f"## DCT-scaled decoding\n\n{markdown(rows)}\n{_table(differences)}"
    print(text)
    if measure.publishes(chosen):
        measure.publish(RESULTS, "dct scaling", text)


def _arguments() -> argparse.Namespace:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--number", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=9)
    measure.output_options(parser)
    return parser.parse_args()


def _write_photographs(data: Path, folder: Path, side: int, number: int) -> Checked:
    """Write and check some photographs as JPEG files with `side` px on the shorter side."""
    (folder / "images").mkdir()
    files = sorted(data.rglob("*.jpg"))
    for file in files[:: max(1, len(files) // number)][:number]:
        image = Image.open(file).convert("RGB")
        scale = side / min(image.size)
        wanted = round(image.width * scale), round(image.height * scale)
        pixels = np.asarray(image.resize(wanted, Image.Resampling.LANCZOS), np.float32)
        pixels = pixels + np.random.default_rng(0).normal(0, GRAIN, pixels.shape)
        grainy = Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))
        grainy.save(folder / "images" / file.name, quality=QUALITY)
    return check_images(
        find_images(str(folder / "images")), machine=Machine(cache=folder / "cache")
    )


def _measure(checked: Checked, side: int, size: int, repeats: int) -> tuple[Row, Difference]:
    """Time reading all images of an encoded store, decoded and shrunk, in one thread."""
    scaled, full = (_store(checked, size, dct_scaling=dct) for dct in (True, False))
    rows = np.arange(len(checked))
    work = f"JPEG of {side} px on the shorter side to {size} px"
    row = compare(
        f"{work}, 1 thread",
        {
            "scaled by libjpeg": lambda: scaled.read(rows),
            "decoded in full": lambda: full.read(rows),
        },
        items=len(rows),
        repeats=repeats,
    )
    a, b = scaled.read(rows), full.read(rows)
    stored = np.abs(a.flat.astype(float) - b.flat)
    params = sample(POLICY, size=size // 2, sizes_N2=a.sizes_N2, draws_N=rows, seed=0)
    views = [make_views(raw, params, POLICY, Intensity()).numpy() for raw in (a, b)]
    return row, Difference(work, stored, 255 * np.abs(views[0] - views[1]))


def _store(checked: Checked, size: int, *, dct_scaling: bool) -> Store:
    cache = Path(checked.source.name).parent / "cache"
    store = open_store(
        checked,
        machine=Machine(cache=cache),
        store_size=size,
        dct_scaling=dct_scaling,
        form="encoded",
    )
    assert isinstance(store, EncodedStore)
    return store


def _table(differences: list[Difference]) -> str:
    """Means, 99.9th percentiles and largest differences, in levels of 255."""
    lines = [
        "Pixel differences, in levels of 255:",
        "",
        "| work | stored: mean | 99.9th percentile | largest "
        "| views: mean | 99.9th percentile | largest |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in differences:
        cells = [
            f"{value:.3g}"
            for levels in (one.stored, one.viewed)
            for value in (levels.mean(), np.percentile(levels, 99.9), levels.max())
        ]
        lines.append(f"| {one.work} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
