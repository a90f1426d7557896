"""The commands info and methods: the contents of a folder, and the training methods."""

import dataclasses
from pathlib import Path
from typing import Any

from selftaught.commands.result import Answer, answer
from selftaught.encoders.encoder import encoder_id
from selftaught.encoders.folder import open_encoder
from selftaught.methods import REGISTRY, find_method
from selftaught.options.about import Info, Methods
from selftaught.recipe.config import read_config
from selftaught.training import log


def info(chosen: Info) -> Answer:
    """Describe a run folder or an encoder folder.

    Raises:
        FileError: The folder is neither.
    """
    encoder = open_encoder(chosen.run)
    shape = encoder.config
    found: dict[str, Any] = {
        "encoder": shape.architecture,
        "stem": shape.stem,
        "front": shape.front,
        "dim": encoder.dim,
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "image size": shape.image_size,
        "channels": shape.in_channels,
        "range": [shape.intensity.low, shape.intensity.high],
        "id": encoder_id(encoder)[:16],
    } | _run_info(Path(chosen.run))
    width = max(map(len, found))
    text = "\n".join(f"{name:<{width}}  {value}" for name, value in found.items())
    return answer(found, text, as_json=chosen.json)


def methods(chosen: Methods) -> Answer:
    """The training methods, with their options and defaults."""
    found = {name: dataclasses.asdict(find_method(name).Options()) for name in REGISTRY}
    lines = []
    for name, defaults in found.items():
        lines.append(f"{name}: {(find_method(name).__doc__ or '').splitlines()[0]}")
        lines += [f"  --set {option}={value}" for option, value in defaults.items()]
    return answer(found, "\n".join(lines), as_json=chosen.json)


def _run_info(run: Path) -> dict[str, Any]:
    if not (run / "config.yaml").exists():
        return {}
    resolved = read_config(run / "config.yaml")
    last = (log.read_metrics(run) or [{}])[-1]  # empty before the first step
    return {
        "method": resolved.method,
        "images": resolved.data.path,
        "steps": f"{last.get('step', 0):,}",
        "loss": last.get("loss"),
    }
