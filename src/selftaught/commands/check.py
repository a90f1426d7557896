"""The command check: decode every image, report broken files, recommend a recipe."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selftaught.commands.result import Answer, answer
from selftaught.data.check_images import Checked, check_facts, write_index
from selftaught.data.open_images import DataSettings, check_data, open_images
from selftaught.data.sources import absolute_name
from selftaught.foundation.files import shell_word, write_json
from selftaught.foundation.machine import Machine, hardware_name
from selftaught.foundation.outputs import check_out, claim
from selftaught.options.train import Check
from selftaught.recipe import advice, build, config
from selftaught.recipe.config import Config
from selftaught.training.loop import seconds_per_step

_LISTED = 10  # rejected images in the text; check.json lists all


def check(chosen: Check) -> Answer:
    """Check every image: counts, broken files, and a recipe with its duration here.

    Raises:
        DataError: No image is usable.
        FileError: --out exists or cannot be written to.
    """
    machine = chosen.machine()
    check_out(chosen.out, "a check", overwrite=chosen.overwrite, inputs=[chosen.data])
    data = DataSettings(absolute_name(chosen.data), min_side=chosen.min_side)
    checked = check_data(data, machine)
    advice.check_image_count(checked)
    choices = advice.recommend(checked, machine.device)
    advised = _configuration(choices, data)
    found: dict[str, Any] = check_facts(checked)
    found["recipe"] = {choice.what: choice.why for choice in choices}
    if chosen.time_steps:
        found["expected_seconds"] = _expected_seconds(advised, checked, machine)
    claim(chosen.out, "a check", overwrite=chosen.overwrite)
    chosen.out.mkdir(exist_ok=True)
    write_index(checked, chosen.out)
    config.write_config(advised, chosen.out / "config.yaml")
    write_json(chosen.out / "check.json", found)
    return answer(found, _text(found, choices, chosen.out, machine), as_json=chosen.json)


def _configuration(choices: Sequence[advice.Advice], data: DataSettings) -> Config:
    """The complete configuration for these images."""
    advised = advice.advised_config(choices)
    stored = dataclasses.replace(advised.data, path=data.path, min_side=data.min_side)
    return build.complete_options(dataclasses.replace(advised, data=stored))


def _expected_seconds(advised: Config, checked: Checked, machine: Machine) -> float:
    """The duration of the recipe on this machine, extrapolated from 20 steps."""
    images = open_images(advised.data, machine, checked=checked)
    training = build.training_for(advised, images, machine)
    return seconds_per_step(training) * training.plan.total_steps


def _text(
    found: Mapping[str, Any], choices: Sequence[advice.Advice], out: Path, machine: Machine
) -> str:
    rejected = found["rejected"]
    lines = [f"{name}: {value}" for name, value in found.items() if isinstance(value, str | int)]
    lines += ["", *found["notes"]] if found["notes"] else []
    lines += [f"left out: {path} ({reason})" for path, reason in rejected[:_LISTED]]
    if len(rejected) > _LISTED:
        lines.append(f"and {len(rejected) - _LISTED} more, in {out / 'rejected.parquet'}")
    lines += ["", "Recipe:", advice.advice_text(choices)]
    if "expected_seconds" in found:
        minutes = max(1, round(found["expected_seconds"] / 60))
        unit = "minute" if minutes == 1 else "minutes"
        lines.append(f"  about {minutes:,} {unit} on {hardware_name(machine.device)}")
    config_file = shell_word(out / "config.yaml")
    lines += ["", f"Next: selftaught pretrain --config {config_file} --out RUN"]
    return "\n".join(lines)
