"""Small runs in this process, as the command line starts them."""

import json
from pathlib import Path
from typing import Any

from selftaught.cli import main
from selftaught.training import checkpoint
from selftaught.training.checkpoint import Checkpoint

SMALL = (
    *("--device", "cpu", "--threads", "1", "--encoder", "resnet8", "--image-size", "16"),
    *("--batch-size", "16", "--set", "network.width=4", "--set", "network.stem_stride=2"),
    *("--set", "loop.log_every=1"),
)
"""Options of a run that takes about a second."""


def pretrain(data: object, out: Path, *more: object) -> int:
    """`selftaught pretrain` with small settings, its cache beside the run; the exit code."""
    head = () if "--method" in more else ("--set", "options.hidden=32")
    cache = out.parent / "cache"
    arguments = ("pretrain", data, "--out", out, "--cache", cache, *SMALL, *head, *more)
    return main([str(a) for a in arguments])


def resume(out: Path) -> int:
    """`selftaught resume`; the exit code."""
    cache = out.parent / "cache"
    return main(["resume", str(out), "--cache", str(cache), "--device", "cpu", "--threads", "1"])


def lines(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl."""
    return [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]


def newest(run: Path) -> Checkpoint:
    """The newest checkpoint, undamaged."""
    found, complaints = checkpoint.newest_checkpoint(run / "checkpoints")
    assert found is not None and not complaints
    return found
