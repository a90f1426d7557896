"""The short commands: each joins a few parts and says what came out."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from selftaught import assemble, config, options, recipe
from selftaught.answer import Answer, answer
from selftaught.assignments import parse_assignments
from selftaught.config import Config, DataSettings
from selftaught.data.check import write_index
from selftaught.data.store import Images
from selftaught.encoders.encoder import encoder_id
from selftaught.encoders.folder import open_encoder
from selftaught.errors import ConfigError, FileError
from selftaught.evaluating import kept_rows
from selftaught.files import quoted, temporary, write_bytes, write_json, write_table
from selftaught.inputs import open_images
from selftaught.machine import cache_folder, describe, pick_device
from selftaught.outputs import check_out, claim
from selftaught.presets import FIGURE
from selftaught.resolve import Resolved, lasting, resolve_views
from selftaught.rng import Key, permutation
from selftaught.training import log

_LARGEST_SHEET = 10**8  # pixels


def check(chosen: options.Check) -> Answer:
    """Look at every image: counts, faults, and a recipe with the time that it takes here.

    Raises:
        DataError: No image can be used.
        FileError: --out is in the way or cannot be written to.
    """
    from selftaught.report.contents import facts_of

    device = torch.device(pick_device(chosen.device))
    check_out(chosen.out, "a check", overwrite=chosen.overwrite, inputs=[chosen.data])
    data = DataSettings(lasting(chosen.data), min_side=chosen.min_side)
    looked = assemble.checked(Config(data=data), chosen.cache, chosen.threads)
    recipe.check_enough(looked)
    advice = recipe.recommend(looked, str(device))
    advised = dataclasses.replace(recipe.apply_advice(advice), seed=0)
    data = dataclasses.replace(advised.data, path=data.path, min_side=data.min_side)
    advised = assemble.complete(dataclasses.replace(advised, data=data))
    found: dict[str, Any] = facts_of(looked) | {
        "recipe": {choice.what: choice.why for choice in advice}
    }
    if chosen.time_steps:
        images = assemble.opened(advised, chosen.cache, chosen.threads, looked)
        found["expected_seconds"] = _expected(advised, images, device, chosen.threads)
    claim(chosen.out, "a check", overwrite=chosen.overwrite)
    chosen.out.mkdir(exist_ok=True)
    write_index(looked, chosen.out)
    config.write(advised, chosen.out / "config.yaml")
    write_json(chosen.out / "check.json", found)
    return answer(found, _check_text(found, advice, chosen.out, device), as_json=chosen.json)


def views(chosen: options.Views) -> Answer:
    """Draw a contact sheet of views as pretrain would use them, or the paper's figure.

    Raises:
        ConfigError: There is no such policy or option, or it makes no sense for these images.
        FileError: --out is in the way.
    """
    from selftaught.report.contents import sheet

    device = torch.device(pick_device(chosen.device))
    if chosen.out.suffix.lower() != ".png":
        raise FileError(f"--out {chosen.out} is no name of a PNG file", "let it end in .png")
    check_out(chosen.out, "a file", overwrite=chosen.overwrite)
    resolved = resolve_views(chosen, device)
    images, number = resolved.images, min(chosen.rows, len(resolved.images.store))
    _check_sheet(number, resolved.config.network.image_size)
    if chosen.policy == FIGURE:
        drawn, text = _figure(resolved, chosen, number)
    else:
        spec = assemble.view_specs(resolved.config)[0]
        drawn = sheet(images, spec, images.checked.intensity, seed=chosen.seed, number=number)
        text = f"{number} images, each with 8 views: {chosen.out}\n{resolved.echo}".rstrip()
    claim(chosen.out, "a file", overwrite=chosen.overwrite)
    write_bytes(chosen.out, drawn)
    return Answer(str(chosen.out), text)


def embed(chosen: options.Embed) -> Answer:
    """Write a vector for every image as a Parquet table.

    Raises:
        DataError: No image can be used.
        FileError: --out is in the way.
    """
    from selftaught.embed import embed as vectors_of
    from selftaught.evaluation.evaluate import check_fits

    inputs = (chosen.run, chosen.data)
    check_out(chosen.out, "a file", overwrite=chosen.overwrite, inputs=inputs)
    encoder = open_encoder(chosen.run)
    images = open_images(chosen.data, chosen)
    check_fits(encoder, images)
    table = vectors_of(
        encoder,
        images,
        device=pick_device(chosen.device),
        threads=chosen.threads,
        cache=cache_folder(chosen.cache),
    )
    claim(chosen.out, "a file", overwrite=chosen.overwrite)
    write_table(chosen.out, table)
    text = f"{table.num_rows:,} vectors of {encoder.dim} numbers: {chosen.out}"
    return Answer({"out": str(chosen.out), "rows": table.num_rows, "dim": encoder.dim}, text)


def report(chosen: options.Report) -> Answer:
    """Write RUN/report.html, or CLUSTERS/report.html: one self-contained file.

    Raises:
        FileError: The folder is neither.
    """
    from selftaught.grouping import renew_report
    from selftaught.groups.clusters import FACTS
    from selftaught.report.contents import run_sections
    from selftaught.report.report import write_report

    run = chosen.run
    if (run / FACTS).exists():
        return renew_report(chosen)
    if not (run / "config.yaml").exists():
        raise FileError(f"{run} is no run: it has no config.yaml", "give the --out of pretrain")
    resolved = config.read(run / "config.yaml")
    images = assemble.opened(resolved, chosen.cache, chosen.threads)
    sections = run_sections(
        run,
        open_encoder(str(run)),
        images,
        config=config.to_dict(resolved),
        specs=assemble.view_specs(resolved),
        rows=kept_rows(run),
        device=pick_device(chosen.device),
        threads=chosen.threads,
        cache=cache_folder(chosen.cache),
    )
    path = write_report(run, sections)
    return Answer(str(path), f"The report: {path}")


def export(chosen: options.Export) -> Answer:
    """Hand the encoder to another library, once its outputs there match ours.

    Raises:
        ConfigError: That library cannot express the network.
        FileError: The outputs differ, or --out is in the way.
    """
    from selftaught.evaluation.evaluate import check_fits
    from selftaught.export import check_export
    from selftaught.export import export as hand_over

    inputs = (chosen.run, chosen.data)
    check_out(chosen.out, "an encoder", overwrite=chosen.overwrite, inputs=inputs)
    encoder = open_encoder(chosen.run)
    check_export(encoder, chosen.to)
    images = open_images(chosen.data or _data_of(Path(chosen.run)), chosen)
    check_fits(encoder, images)
    rows = permutation(Key(0, "export"), len(images.store))[:16]
    part = temporary(chosen.out)
    difference = hand_over(encoder, chosen.to, part, images.store.read(rows).images())
    claim(
        chosen.out, "an encoder", overwrite=chosen.overwrite
    )  # now that it is known that they agree
    part.rename(chosen.out)
    text = (
        f"{chosen.out}: for {chosen.to}; on {len(rows)} of the images the outputs differ by "
        f"{difference:.1e} at most."
    )
    return Answer({"out": str(chosen.out), "to": chosen.to, "difference": difference}, text)


def import_(chosen: options.Import) -> Answer:
    """Make somebody else's checkpoint an encoder folder.

    Raises:
        FileError: The file is damaged, unsafe or of no known layout, or --out is in the way.
        ConfigError: There is no network --encoder, or it cannot take images of --image-size.
    """
    from selftaught.encoders.folder import save_encoder
    from selftaught.encoders.imports import read_checkpoint

    check_out(chosen.out, "an encoder", overwrite=chosen.overwrite, inputs=[str(chosen.file)])
    found = read_checkpoint(
        chosen.file,
        image_size=chosen.image_size,
        encoder=chosen.encoder,
        pixels=chosen.pixels,
    )
    shape = found.encoder.config
    claim(chosen.out, "an encoder", overwrite=chosen.overwrite)
    origin = f"Imported from {chosen.file.name}, {found.layout}."
    save_encoder(found.encoder, chosen.out, card=" ".join([origin, *found.notes]))
    text = f"{chosen.out}: {shape.architecture} for {shape.image_size} px, front {shape.front}."
    value = {"out": str(chosen.out), "encoder": shape.architecture, "notes": list(found.notes)}
    return Answer(value, "\n".join([text, *found.notes, found.licence]))


def info(chosen: options.Info) -> Answer:
    """What a run folder or an encoder folder holds.

    Raises:
        FileError: It is neither.
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
    } | _info_of_run(Path(chosen.run))
    width = max(map(len, found))
    text = "\n".join(f"{name:<{width}}  {value}" for name, value in found.items())
    return answer(found, text, as_json=chosen.json)


def methods(chosen: options.Methods) -> Answer:
    """The methods that pretrain knows, with their options and defaults."""
    from selftaught.methods import REGISTRY, find

    found = {name: dataclasses.asdict(find(name).Options()) for name in REGISTRY}
    lines = []
    for name, defaults in found.items():
        lines.append(f"{name}: {(find(name).__doc__ or '').splitlines()[0]}")
        lines += [f"  --set {option}={value}" for option, value in defaults.items()]
    return answer(found, "\n".join(lines), as_json=chosen.json)


def _expected(advised: Config, images: Images, device: torch.device, threads: int) -> float:
    """Seconds that the recipe takes on this machine, from 20 steps of it."""
    from selftaught.training.loop import seconds_per_step

    training = assemble.training(advised, images, device, threads)
    return seconds_per_step(training) * training.plan.total_steps


def _check_text(
    found: dict[str, Any], advice: list[recipe.Advice], out: Path, device: torch.device
) -> str:
    lines = [f"{name}: {value}" for name, value in found.items() if isinstance(value, str | int)]
    lines += ["", *found["notes"]] if found["notes"] else []
    lines += [f"left out: {path} ({reason})" for path, reason in found["rejected"][:10]]
    if len(found["rejected"]) > 10:
        lines.append(f"and {len(found['rejected']) - 10} more: {out / 'rejected.parquet'}")
    lines += ["", "The recipe:", recipe.text(advice)]
    if "expected_seconds" in found:
        minutes = max(1, round(found["expected_seconds"] / 60))
        lines.append(f"  about {minutes:,} minutes on {describe(str(device))}")
    config_file = quoted(out / "config.yaml")
    lines += ["", f"selftaught pretrain --config {config_file} --out RUN trains with it."]
    return "\n".join(lines)


def _check_sheet(number: int, size: int) -> None:
    """Refuse pictures that nobody can open; a row has about ten views."""
    if 10 * number * size**2 > _LARGEST_SHEET:
        raise ConfigError(
            f"a sheet of {number} images with views of {size} px would be too large",
            "give a smaller --image-size or fewer --rows",
        )


def _figure(resolved: Resolved, chosen: options.Views, number: int) -> tuple[bytes, str]:
    """The paper's figure as a PNG file, and what is in it."""
    from selftaught.figure import draw, figure

    images, size = resolved.images, resolved.config.network.image_size
    asked = parse_assignments(chosen.set)
    shown = figure(resolved.config.views, size, images.store.channels, chosen.keep, asked)
    rows = [row.name for row in (*shown.paper, *shown.ours)]
    text = f"{number} images, each with {len(rows)} operations: {chosen.out}"
    text += "".join(f"\nnot shown: {reason}" for reason in shown.left_out)
    return draw(shown, images, size=size, seed=chosen.seed, number=number), text


def _data_of(run: Path) -> str:
    """The images that a run was trained on."""
    path = run / "config.yaml"
    if not path.exists():
        raise ConfigError(f"{run} does not say which images it is for", "give some with --data")
    return config.read(path).data.path


def _info_of_run(run: Path) -> dict[str, Any]:
    if not (run / "config.yaml").exists():
        return {}
    resolved = config.read(run / "config.yaml")
    last = (log.read(run) or [{}])[-1]  # none is there before the first step
    return {
        "method": resolved.method,
        "images": resolved.data.path,
        "steps": f"{last.get('step', 0):,}",
        "loss": last.get("loss"),
    }
