"""The command evaluate, and the table that a run keeps of its evaluations."""

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
from selftaught.evaluation.folder_protocols import FOLDERS, on_folder
from selftaught.evaluation.protocols.registry import are_numbers, check_options, check_protocols
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
    """Measure an encoder on labelled images, beside random init and raw pixels.

    Of a run the rows are kept in RUN/evaluation.json, for its report.

    Raises:
        DataError: The images have no labels, or not such as a protocol wants.
        ConfigError: There is no such protocol, or the numbers of labels make no sense.
        FileError: --out is in the way.
    """
    _check_folder_options(chosen)
    on_labels = not set(chosen.protocol) & FOLDERS.keys()
    if on_labels:
        check_protocols(chosen.protocol, FOLDERS)
    few = tuple(dict.fromkeys(map(budget, chosen.few)))
    _check_page(chosen)
    encoders = {evaluation.THIS: open_encoder(chosen.run), **_others(chosen)}
    recorded_rows(Path(chosen.run))  # damaged ones are found before minutes of work
    found = _on_labels(encoders, few, chosen) if on_labels else [on_folder(encoders, chosen)]
    rows: list[Row] = []
    for block in found:
        rows += block
        record_rows(
            Path(chosen.run), _asked(absolute_name(chosen.labelled), chosen), as_dicts(rows)
        )
    value = as_dicts(rows)
    text = "\n\n".join([*filter(None, ["\n".join(verdict(rows))]), as_text(rows)])
    if chosen.out is not None:
        try:
            _write_page(chosen.out, chosen, value)
        except FileError:
            print(text, file=sys.stderr)  # minutes of work
            raise
        text += f"\n\nThe page: {chosen.out}"
    return answer(value, text, as_json=chosen.json)


def _check_folder_options(chosen: Evaluate) -> None:
    """Whether what is asked for goes together, before any work.

    Raises:
        ConfigError: It does not.
    """
    asked = [name for name in chosen.protocol if name in FOLDERS]
    if asked and len(chosen.protocol) > 1:
        found = f"{asked[0]} needs a folder of its own layout"
        raise ConfigError(found, "ask for it alone")
    if asked:
        for name in ("few", "label", "epochs"):
            if getattr(chosen, name):
                raise ConfigError(f"{asked[0]} learns from no labels", f"leave --{name} out")
    if asked != ["retrieval"]:
        for name in ("whiten", "verify"):
            if getattr(chosen, name):
                raise ConfigError(f"--{name} is of retrieval", "add --protocol retrieval")
    if not asked and chosen.set:
        raise ConfigError("--set is of retrieval and tracking", "leave it out")


def _asked(data: str, chosen: Evaluate) -> str:
    """The images, and which of their labels."""
    return data + (f", {chosen.label}" if chosen.label else "")


def _on_labels(
    encoders: "Mapping[str, Encoder]", few: Sequence[Budget], chosen: Evaluate
) -> Iterator[list[Row]]:
    """The rows of protocols on labelled images, question by question."""
    machine = chosen.machine()
    images = open_images_with_notice(chosen.labelled, machine)
    numbers = are_numbers(chosen.protocol)
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


def _others(chosen: Evaluate) -> "Mapping[str, Encoder]":
    """The encoders of --against, by their names.

    Raises:
        ConfigError: One is named twice, or like something that stands in every table.
    """
    taken = {"this encoder", "random init", "raw pixels", "from scratch"}
    taken |= {"no motion", "colours", "bag of visual words"}
    found: dict[str, Encoder] = {}
    for name in chosen.against:
        if name in taken:
            raise ConfigError(f"every table has a row {name!r}", "rename the encoder's folder")
        if name in found:
            raise ConfigError(f"--against {name} is named twice", "name each encoder once")
        found[name] = open_encoder(name)
    return found


def _check_page(chosen: Evaluate) -> None:
    """Whether the page can be written, before any work.

    Raises:
        FileError: It is called otherwise, or something is in the way.
    """
    if chosen.out is None:
        return
    check_suffix(chosen.out, ".html")
    inputs = [chosen.run, chosen.labelled, *chosen.against]
    check_out(chosen.out, "a file", overwrite=chosen.overwrite, inputs=inputs)


def _write_page(out: Path, chosen: Evaluate, rows: Sequence[Mapping[str, Any]]) -> None:
    """The tables as one page, led by the verdict where there is one."""

    title = f"{Path(chosen.run).name or chosen.run}: what the encoder is worth"
    claim(out, "a file", overwrite=chosen.overwrite)
    sections = evaluation_sections([{"data": _asked(chosen.labelled, chosen), **r} for r in rows])
    write_text(out, page(title, sections, subtitle="A report by selftaught."))
