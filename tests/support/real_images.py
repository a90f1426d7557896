"""The real images that SELFTAUGHT_DATA names (by default ../shared/data), unpacked where asked."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def unpacked(name: str, out: Path) -> Path:
    """One of the sets, in `out`/`name`."""
    folder = Path(os.environ.get("SELFTAUGHT_DATA", ROOT / "../shared/data"))
    unpack = [sys.executable, str(folder / "unpack.py"), str(out), name]
    subprocess.run(unpack, check=True, capture_output=True)
    return out / name
