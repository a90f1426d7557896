"""The command evaluate: an encoder compared with baselines on labelled images."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selftaught.commands.result import Answer, answer
from selftaught.data.labels import check_classes, label
from selftaught.data.open_images import open_images_with_notice
from selftaught.data.sources import absolute_name
from selftaught.encoders.folder import open_encoder
from selftaught.errors import ConfigError, FileError
from selftaught.evaluation import comparison as evaluation
from selftaught.evaluation.budget import Budget, budget
from selftaught.evaluation.folder_protocols import FOLDERS, evaluate_folder
from selftaught.evaluation.protocols.registry import (
    check_options,
    check_protocols,
    predicts_numbers,
)
from selftaught.evaluation.record import record_rows, recorded_rows
from selftaught.evaluation.table import Row, as_dicts, as_text
from selftaught.evaluation.verdict import verdict
from selftaught.foundation.files import write_text
from selftaught.foundation.outputs import check_out, check_suffix, claim
from selftaught.options.assess import Evaluate
from selftaught.reports.page import page
from selftaught.reports.run.run_page import evaluation_sections

if TYPE_CHECKING:
    from selftaught.encoders.encoder import Encoder


def evaluate(chosen: Evaluate) -> Answer:
    """Measure an encoder on labelled images, compared with random init and raw pixels.

    The rows of a run are saved in RUN/evaluation.json, for its report.

    Raises:
        DataError: The images have no labels, or not the kind that a protocol needs.
        ConfigError: A protocol is unknown, or the numbers of labels make no sense.
        FileError: --out exists.
    """
    _check_folder_options(chosen)
    on_labels = not set(chosen.protocol) & FOLDERS.keys()
    if on_labels:
        check_protocols(chosen.protocol, FOLDERS)
    few = tuple(dict.fromkeys(map(budget, chosen.few)))
    _check_page(chosen)
    encoders = {evaluation.THIS: open_encoder(chosen.run), **_other_encoders(chosen)}
    recorded_rows(Path(chosen.run))  # damaged rows raise an error before minutes of work
    found = _label_rows(encoders, few, chosen) if on_labels else [evaluate_folder(encoders, chosen)]
    rows: list[Row] = []
    for block in found:
        rows += block
        record_rows(
            Path(chosen.run), _data_name(absolute_name(chosen.labelled), chosen), as_dicts(rows)
        )
    value = as_dicts(rows)
    text = "\n\n".join([*filter(None, ["\n".join(verdict(rows))]), as_text(rows)])
    if chosen.out is not None:
        try:
            _write_page(chosen.out, chosen, value)
        except FileError:
            print(text, file=sys.stderr)  # the result of minutes of work
            raise
        text += f"\n\nReport: {chosen.out}"
    return answer(value, text, as_json=chosen.json)


def _check_folder_options(chosen: Evaluate) -> None:
    """Check before any work that the options can be combined.

    Raises:
        ConfigError: They cannot.
    """
    asked = [name for name in chosen.protocol if name in FOLDERS]
    if asked and len(chosen.protocol) > 1:
        found = f"{asked[0]} needs a folder of its own layout"
        raise ConfigError(found, "run it without other protocols")
    if asked:
        for name in ("few", "label", "epochs"):
            if getattr(chosen, name):
                raise ConfigError(f"{asked[0]} does not use labels", f"drop --{name}")
    if asked != ["retrieval"]:
        for name in ("whiten", "verify"):
            if getattr(chosen, name):
                raise ConfigError(f"--{name} is an option of retrieval", "add --protocol retrieval")
    if not asked and chosen.set:
        raise ConfigError("--set is an option of retrieval and tracking", "drop --set")


def _data_name(data: str, chosen: Evaluate) -> str:
    """The name of the images and the column of their labels."""
    return data + (f", {chosen.label}" if chosen.label else "")


def _label_rows(
    encoders: "Mapping[str, Encoder]", few: Sequence[Budget], chosen: Evaluate
) -> Iterator[list[Row]]:
    """The rows of protocols on labelled images, block by block."""
    machine = chosen.machine()
    images = open_images_with_notice(chosen.labelled, machine)
    numbers = predicts_numbers(chosen.protocol)
    labels = label(images.checked, column=chosen.label, numbers=numbers)
    check_classes(images.checked, labels, column=chosen.label)
    protocols = chosen.protocol or (("knn", "linear") if labels.classes else ("regression",))
    check_options(protocols, few=bool(few), epochs=chosen.epochs is not None)
    this, *_ = encoders.values()
    return evaluation.evaluation_blocks(
        this,
        images,
        labels,
        protocols=tuple(dict.fromkeys(protocols)),
        few=few,
        seed=chosen.seed,
        machine=machine,
        against={name: each for name, each in encoders.items() if name != evaluation.THIS},
        epochs=chosen.epochs,
    )


def _other_encoders(chosen: Evaluate) -> "Mapping[str, Encoder]":
    """The encoders of --against, by their names.

    Raises:
        ConfigError: One is named twice, or has the name of a row in every table.
    """
    taken = {"this encoder", "random init", "raw pixels", "from scratch"}
    taken |= {"no motion", "colours", "bag of visual words"}
    found: dict[str, Encoder] = {}
    for name in chosen.against:
        if name in taken:
            raise ConfigError(f"every table has a row {name!r}", "rename the encoder's folder")
        if name in found:
            raise ConfigError(f"--against names {name} twice", "name each encoder once")
        found[name] = open_encoder(name)
    return found


def _check_page(chosen: Evaluate) -> None:
    """Check before any work that the report can be written.

    Raises:
        FileError: --out does not end in .html, or exists.
    """
    if chosen.out is None:
        return
    check_suffix(chosen.out, ".html")
    inputs = [chosen.run, chosen.labelled, *chosen.against]
    check_out(chosen.out, "a file", overwrite=chosen.overwrite, inputs=inputs)


def _write_page(out: Path, chosen: Evaluate, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the tables as one page, after the verdict if there is one."""
    title = f"{Path(chosen.run).name or chosen.run}: evaluation"
    claim(out, "a file", overwrite=chosen.overwrite)
    sections = evaluation_sections(
        [{"data": _data_name(chosen.labelled, chosen), **r} for r in rows]
    )
    write_text(out, page(title, sections, subtitle="A report by selftaught."))
