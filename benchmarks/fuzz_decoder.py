"""Count how the decoder answers damaged files: with pixels or BadImage, and never anything else.

    python -m benchmarks.fuzz_decoder [--seconds 600] [--seed 0]

Whole files of every format are cut, spliced and lengthened, and bits are flipped. Prints how many
files were decoded and how many were refused, by reason. Stops at the first file that causes
anything else, and saves it.
"""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from selftaught.data.decode import decode
from selftaught.errors import BadImage
from tests.support.bad_files import encoded, photograph

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "AVIF")


def main() -> int:
    """Fuzz for the requested time."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    random = np.random.default_rng(chosen.seed)
    files, found = _whole_files(), Counter[str]()
    end = time.monotonic() + chosen.seconds
    while time.monotonic() < end:
        data = _damaged_file(files, random)
        try:
            decode(data, "fuzz")
            found["decoded"] += 1
        except BadImage as bad:
            found[bad.reason.split("(")[0].strip()] += 1
        except BaseException:
            Path("fuzz_failure.bin").write_bytes(data)
            print("neither decoded nor refused: saved as fuzz_failure.bin", file=sys.stderr)
            raise
    for reason, number in found.most_common():
        print(f"{number:>9,}  {reason}")
    print(f"{found.total():>9,}  files in {chosen.seconds:g} s, no other outcome")
    return 0


def _whole_files() -> list[bytes]:
    colour = photograph(0)
    files = [encoded(colour, kind) for kind in FORMATS]
    gray, alpha = Image.fromarray(colour).convert("L"), Image.fromarray(colour).convert("RGBA")
    files += [encoded(gray, kind) for kind in ("JPEG", "PNG", "TIFF")]
    return [*files, encoded(alpha, "PNG"), encoded(alpha, "WEBP")]


def _damaged_file(files: list[bytes], random: np.random.Generator) -> bytes:
    """One of the files with one to four faults."""
    data = bytearray(files[random.integers(len(files))])
    for _ in range(random.integers(1, 5)):
        place = int(random.integers(len(data))) if data else 0
        match random.integers(5):
            case 0:
                del data[place:]
            case 1 if data:
                data[place] ^= 1 << int(random.integers(8))
            case 2:
                data[place : place + int(random.integers(64))] = random.bytes(
                    int(random.integers(64))
                )
            case 3:
                other = files[random.integers(len(files))]
                data[place:] = other[int(random.integers(len(other))) :]
            case _:
                data += random.bytes(int(random.integers(64)))
    return bytes(data)


if __name__ == "__main__":
    sys.exit(main())
