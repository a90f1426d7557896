"""A user's mistake through the real command line: one line, a remedy, exit 2, nothing destroyed."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selftaught.cli import USER, main


def tree(folder: Path) -> dict[str, str]:
    """What is below a folder: the hash of each file, the kind of everything else."""
    found = {}
    for path in sorted(folder.rglob("*")):
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else ""
        found[str(path.relative_to(folder))] = kind or hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def refused(arguments: list[object], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that the command says, having left everything in the folder as it was."""
    before = tree(folder)
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == USER
    assert tree(folder) == before
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = [line for line in printed.err.splitlines() if not line.startswith("Reading ")]
    assert len(lines) == 1 and lines[0].startswith("selftaught: "), printed.err
    assert ": " in lines[0].removeprefix("selftaught: "), "there is no remedy"
    return lines[0]


def write_images(folder: Path, number: int, *, channels: int = 1, side: int = 16) -> Path:
    """A folder of small PNG files, all different."""
    folder.mkdir(parents=True)
    drawn = np.random.default_rng(channels).integers(0, 256, (number, side, side, channels))
    for i, pixels in enumerate(drawn.astype(np.uint8)):
        Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(folder / f"{i:03}.png")
    return folder
