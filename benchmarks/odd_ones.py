"""Measure how many near-duplicates and foreign images are found in a folder of photographs.

    python -m benchmarks.odd_ones --data imagenette_128/train --cifar cifar10/test.npz \\
        --encoder ENCODER [--seeds 0 1 2] [--pictures FOLDER]

Each seed gets a folder: 2,000 photographs drawn from --data; modified copies of 100 of them (25 as
JPEG of quality 70, 25 cropped anywhere to 90 % of each side, 25 resized to 80 %, 25 with a
brightness of 90 % or 110 %); and 20 foreign images, 10 of CIFAR-10 (32 px) and 10 of scikit-learn's
digits (8 px), at their original sizes. `near_duplicates` and `outliers` search it, with vectors
alone and with thumbnails as well. A pair counts as found if it is a copy and its original. Any
other pair is a false alarm, even two photographs that are near-duplicates of each other. --pictures
saves the false alarms side by side, for a person to check.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from benchmarks.measure import hardware, publish
from selftaught.clusters import outliers
from selftaught.clusters.gray import gray_pictures
from selftaught.foundation.machine import Machine
from selftaught.foundation.rng import Key, permutation, uniform
from selftaught.vectors.open_vectors import open_vectors
from selftaught.vectors.vectors import Vectors

RESULTS = Path(__file__).parents[1] / "docs/results.md"
PHOTOGRAPHS, COPIES, FOREIGN = 2_000, 100, 10  # foreign: of each kind
KINDS = ("JPEG", "crop", "resize", "brightness")


@dataclass(frozen=True)
class Found:
    """Results in one folder."""

    seed: int
    where: str
    copies: int
    false_pairs: int
    foreign: int
    false_outliers: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the folders, search them, and write the section of docs/results.md."""
    chosen = parser().parse_args(arguments)
    rows = [row for seed in chosen.seeds for row in folder_results(seed, chosen)]
    text = page(rows, chosen.named or Path(chosen.encoder).name)
    print(text)
    if not chosen.no_publish:
        publish(RESULTS, "odd ones", text)


def parser() -> argparse.ArgumentParser:
    """The script's options."""
    as_written = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    options.add_argument("--data", type=Path, required=True, help="folder of photographs")
    options.add_argument("--cifar", type=Path, required=True, help=".npz file of images")
    options.add_argument("--encoder", required=True, help="RUN, an encoder folder, or timm:NAME")
    options.add_argument("--named", help="name of the encoder on the page")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--pictures", type=Path, help="folder for images of false alarms")
    options.add_argument("--no-publish", action="store_true", help="do not update docs/results.md")
    return options


def folder_results(seed: int, chosen: argparse.Namespace) -> list[Found]:
    """Results in one folder, with vectors alone and with thumbnails as well."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "images")
        make_folder(folder, seed, chosen.data, chosen.cifar)
        machine = Machine(threads=chosen.threads, cache=Path(place, "cache"))
        vectors = open_vectors(chosen.encoder, str(folder), machine)
        assert vectors.images is not None
        pictures = partial(gray_pictures, vectors.images.store)
        rows = [
            search_results(seed, "vectors", vectors, None, folder, None),
            search_results(
                seed, "vectors and thumbnails", vectors, pictures, folder, chosen.pictures
            ),
        ]
    print(*rows, sep="\n")
    return rows


def make_folder(folder: Path, seed: int, data: Path, cifar: Path) -> None:
    """Write the folder; the file names say what each image is."""
    from sklearn.datasets import load_digits

    folder.mkdir()
    files = sorted(path for path in data.rglob("*") if path.is_file())
    drawn = [files[i] for i in permutation(Key(seed, "benchmarks/odd"), len(files))[:PHOTOGRAPHS]]
    for i, path in enumerate(drawn):
        shutil.copyfile(path, folder / f"{i:04d}{path.suffix}")
    copied_n = permutation(Key(seed, "benchmarks/odd copies"), PHOTOGRAPHS)[:COPIES]
    place_n3 = uniform(Key(seed, "benchmarks/odd changes"), np.arange(COPIES), 3)
    for i, (row, place_3) in enumerate(zip(copied_n.tolist(), place_n3, strict=True)):
        with Image.open(drawn[row]) as image:
            write_copy(image.convert("RGB"), KINDS[i % 4], place_3, folder / f"copy of {row:04d}")
    digits_nSS = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    for name, images in (("cifar", np.load(cifar)["images"]), ("digit", digits_nSS)):
        for i in permutation(Key(seed, f"benchmarks/odd {name}"), len(images))[:FOREIGN]:
            Image.fromarray(images[i]).save(folder / f"foreign {name} {i}.png")


def write_copy(image: Image.Image, kind: str, place_3: NDArray[np.float64], path: Path) -> None:
    """Write a modified copy."""
    w, h = image.size
    if kind == "JPEG":
        image.save(path.with_name(f"{path.name} {kind}.jpg"), quality=70)
        return
    if kind == "crop":
        cut_w, cut_h = round(0.9 * w), round(0.9 * h)
        left, top = int(place_3[0] * (w - cut_w + 1)), int(place_3[1] * (h - cut_h + 1))
        image = image.crop((left, top, left + cut_w, top + cut_h))
    elif kind == "resize":
        image = image.resize((round(0.8 * w), round(0.8 * h)), Image.Resampling.BILINEAR)
    else:
        factor = 0.9 if place_3[2] < 0.5 else 1.1
        image = image.point([min(255, round(value * factor)) for value in range(256)] * 3)
    image.save(path.with_name(f"{path.name} {kind}.png"))


def search_results(
    seed: int,
    where: str,
    vectors: Vectors,
    pictures: outliers.Pictures | None,
    folder: Path,
    keep: Path | None,
) -> Found:
    """Search for near-duplicates and outliers, and compare with the file names."""
    names = vectors.paths
    originals = {name.split(".")[0]: row for row, name in enumerate(names)}
    copies = {
        tuple(sorted((originals[name.split()[2]], row)))
        for row, name in enumerate(names)
        if name.startswith("copy of")
    }
    pairs = outliers.near_duplicates(vectors.x_ND, pictures=pictures)
    found = {tuple(rows) for rows in pairs.rows_P2.tolist()}
    foreign_N = np.array([name.startswith("foreign") for name in names])
    flagged_N = outliers.outlier_flags(outliers.outlier_scores(vectors.x_ND, pictures=pictures))
    false_outliers = np.flatnonzero(flagged_N & ~foreign_N).tolist()
    for what, rows in [("pair", rows) for rows in sorted(found - copies)] + [
        ("outlier", (row,)) for row in false_outliers
    ]:
        print(f"seed {seed}, {where}, false {what}:", *(names[row] for row in rows), sep="  ")
        if keep is not None:
            sheet([folder / names[row] for row in rows], keep / f"{seed} {what} {rows[0]:04d}.png")
    return Found(
        seed,
        where,
        copies=len(found & copies),
        false_pairs=len(found - copies),
        foreign=int((flagged_N & foreign_N).sum()),
        false_outliers=len(false_outliers),
    )


def sheet(paths: Sequence[Path], out: Path) -> None:
    """Save images side by side."""
    out.parent.mkdir(parents=True, exist_ok=True)
    wide = Image.new("RGB", (256 * len(paths), 256))
    for i, path in enumerate(paths):
        with Image.open(path) as image:
            wide.paste(ImageOps.pad(image.convert("RGB"), (256, 256)), (256 * i, 0))
    wide.save(out)


def page(rows: Sequence[Found], encoder: str) -> str:
    """The section of docs/results.md."""
    lines = [
        "## Near-duplicates and foreign images",
        "",
        f"Folders of {PHOTOGRAPHS:,} photographs of Imagenette (128 px), modified copies of "
        f"{COPIES} of them and {2 * FOREIGN} foreign images ({FOREIGN} of CIFAR-10, {FOREIGN} of "
        f"scikit-learn's digits); encoder: {encoder}. Mean over seeds "
        f"{', '.join(map(str, dict.fromkeys(row.seed for row in rows)))}, with the lowest and "
        "highest in brackets. The thresholds were chosen on other draws.",
        "",
        f"| based on | copies found (of {COPIES}) | false pairs | foreign found (of {2 * FOREIGN}) "
        "| false outliers |",
        "|---|---|---|---|---|",
    ]
    fields: list[Callable[[Found], Any]] = [
        lambda row: row.copies,
        lambda row: row.false_pairs,
        lambda row: row.foreign,
        lambda row: row.false_outliers,
    ]
    for where in dict.fromkeys(row.where for row in rows):
        chosen = [row for row in rows if row.where == where]
        cells = [_cell([field(row) for row in chosen]) for field in fields]
        lines.append(f"| {where} | {' | '.join(cells)} |")
    lines += ["", f"{hardware()}. Reproduce with `python -m benchmarks.odd_ones`.", ""]
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    return f"{mean(values):g} ({min(values):g} to {max(values):g})"


if __name__ == "__main__":
    main()
