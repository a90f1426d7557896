"""Measure spatial verification against OpenCV: warps found among wrong matches, and speed.

    python -m benchmarks.verification [--warps 500] [--corridor DIR] [--json FILE]

Crops of the two photographs in scikit-learn (240 x 320) are warped by a scale from 0.6 to 1.6, a
rotation up to 45 degrees and a shear up to 0.2, and their brightness changes. A share of the
matches is replaced by random ones. A warp counts as found if no corner is more than 3 px off. The
rival gets the same matches: OpenCV's RANSAC for an affine transform, with the same tolerance.

DIR holds vpr_corridor as `unpack.py` unpacks it: queries and references along one corridor. For
each query the references are ranked by visual words, then re-ranked; a reference within the
published ground truth is correct.
"""

import argparse
import csv
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import measure
from selftaught.retrieval.local_features import Features, Local, sift
from selftaught.retrieval.verify import RATIO, Verifier, descriptor_pairs, geometric_match, verify
from selftaught.retrieval.visual_words import Words
from tests.support.photographs import photograph, photographs
from tests.support.warps import miss, warped

RESULTS = Path(__file__).parents[1] / "docs/results.md"
SHARES = (0.3, 0.6, 0.8)  # shares of wrong matches

Found = NDArray[np.float64] | None


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the section of docs/results.md."""
    chosen = parser().parse_args(arguments)
    found: dict[str, Any] = {"hardware": measure.hardware(), "speed": speeds()}
    found["warps"] = [warps(chosen.warps, share) for share in SHARES]
    if chosen.corridor:
        found["corridor"] = corridor(chosen.corridor)
    text = json.dumps(found, indent=1)
    print(text)
    if chosen.json:
        chosen.json.write_text(text + "\n")
    if measure.publishes(chosen):
        measure.publish(RESULTS, "verification", page(found, chosen.warps))


def page(found: dict[str, Any], count: int) -> str:
    """The section of docs/results.md."""
    speed = found["speed"]
    lines = [
        "## Spatial verification\n",
        f"{found['hardware']}. {count} warped photographs; a share of the matches is wrong.\n",
        "| wrong matches | found within 3 px: ours | OpenCV's RANSAC | median error: ours | its |",
        "|---|---|---|---|---|",
    ]
    for row in found["warps"]:
        ours, rival = row["selftaught"], row["OpenCV's RANSAC"]
        cells = [f"{one['within 3 px']:.1%}" for one in (ours, rival)]
        cells += [f"{one['median px']:.2f} px" for one in (ours, rival)]
        lines.append(f"| {row['share of outliers']:.0%} | {' | '.join(cells)} |")
    image, same, other = (speed[f"ms to {name}"] for name in ("sift", "verify", "verify another"))
    lines += [
        f"\nAn image with {speed['keypoints']:,} keypoints takes {image:.0f} ms, a pair of images "
        f"{same:.0f} ms if they show the same scene, and {other:.0f} ms if not.",
        "\nReproduce with `python -m benchmarks.verification`.",
    ]
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The script's options."""
    as_written = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    options.add_argument("--warps", type=int, default=500)
    options.add_argument("--corridor", type=Path, help="folder of the unpacked vpr_corridor")
    measure.output_options(options)
    return options


# --- speed


def speeds() -> dict[str, float]:
    """Speeds of SIFT and of verification, with about 1,000 keypoints per image."""
    rng = np.random.default_rng(0)
    china = photographs()[0]
    one, alike = sift(china), sift(warped(china, rng).image_HWC)
    other = sift(photographs()[1])
    pairs = descriptor_pairs(one, alike, RATIO)
    seconds = {
        "sift": median_seconds(lambda: sift(china)),
        "match": median_seconds(lambda: descriptor_pairs(one, alike, RATIO)),
        "explain": median_seconds(lambda: geometric_match(one, alike, pairs)),
        "verify": median_seconds(lambda: verify(one, alike)),
        "verify another": median_seconds(lambda: verify(one, other)),
    }
    return {
        "keypoints": len(one),
        "keypoints of the other": len(alike),
        "matches": len(pairs),
        "keypoints/s": len(one) / seconds["sift"],
        "pairs/s of the same photograph": 1 / seconds["verify"],
        "pairs/s of different photographs": 1 / seconds["verify another"],
        **{f"ms to {name}": 1000 * value for name, value in seconds.items()},
    }


def median_seconds(work: Callable[[], object], repeats: int = 15) -> float:
    """Median seconds of one call, after two warm-up calls."""
    seconds = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[2:]))


# --- warps


def warps(count: int, share: float) -> dict[str, Any]:
    """How many of `count` warps are found with this share of outliers, and how exactly."""
    rng = np.random.default_rng(0)
    misses: dict[str, list[float]] = {"selftaught": [], "OpenCV's RANSAC": []}
    for k in range(count):
        if k % 10 == 0:
            image = photograph(rng, 240, 320)
            original = sift(image)
        warp = warped(image, rng)
        other = sift(warp.image_HWC)
        pairs = descriptor_pairs(original, other, RATIO)
        wrong = rng.permutation(len(pairs))[: round(share * len(pairs))]
        pairs[wrong, 1] = rng.integers(0, len(other), len(wrong))
        answers = {
            "selftaught": geometric_match(original, other, pairs).transform_23,
            "OpenCV's RANSAC": opencv_transform(original, other, pairs),
        }
        for name, answer in answers.items():
            off = np.inf if answer is None else miss(image, answer, warp.truth_23)
            misses[name].append(off)
    return {
        "share of outliers": share,
        **{name: summary(np.array(values)) for name, values in misses.items()},
    }


def opencv_transform(one: Local, other: Local, pairs_M2: NDArray[np.int64]) -> Found:
    """An affine transform from random samples of three matches, refined on its inliers."""
    if len(pairs_M2) < 3:
        return None
    z, y = one.xy_N2[pairs_M2[:, 0]], other.xy_N2[pairs_M2[:, 1]]
    threshold = float(other.tolerance_N[0])
    return cv2.estimateAffine2D(z, y, ransacReprojThreshold=threshold)[0]


def summary(miss_n: NDArray[np.float64]) -> dict[str, float]:
    """Share of misses within 3 px, and the median miss."""
    return {"within 3 px": float((miss_n <= 3).mean()), "median px": float(np.median(miss_n))}


# --- a corridor


def corridor(folder: Path) -> dict[str, float]:
    """Mean average precision, and the share of queries whose first result is correct."""
    queries, references = (sorted((folder / name).glob("*.jpg")) for name in ("query", "ref"))
    right: dict[int, set[int]] = {}
    with (folder / "ground_truth.csv").open() as file:
        for line in csv.DictReader(file):
            right.setdefault(int(line["query"]), set()).add(int(line["reference"]))

    def features(files: list[Path]) -> Features:
        return Features(lambda i: np.asarray(Image.open(files[i]).convert("RGB")), len(files))

    asked, database = features(queries), features(references)
    words = Words.fit(database, 1000)
    verifier = Verifier(asked, database, first=len(references))
    before, after = [], []
    for q in right:
        order = np.argsort(-words.rank(asked[q]), kind="stable")
        before.append(precision(order, right[q]))
        after.append(precision(verifier(q, order), right[q]))
    names = ("mAP", "first correct")
    figures = zip((before, after), ("words", "verified"), strict=True)
    return {
        "queries": len(right),
        "keypoints": float(np.median([len(one) for one in asked])),
        **{
            f"{way}: {name}": float(np.mean(column))
            for rows, way in figures
            for name, column in zip(names, zip(*rows, strict=True), strict=True)
        },
    }


def precision(order_n: NDArray[np.int64], right: set[int]) -> tuple[float, float]:
    """Average precision, and 1 if the first result is correct."""
    hit_n = np.isin(order_n, list(right))
    at_n = np.cumsum(hit_n) / np.arange(1, len(hit_n) + 1)
    return float(at_n[hit_n].mean()), float(hit_n[0])


if __name__ == "__main__":
    main()
