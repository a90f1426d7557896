"""The command evaluate, and the table that a run keeps of its evaluations."""

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selftaught import evaluate_options
from selftaught.answer import Answer, answer
from selftaught.data.labels import check_classes, label
from selftaught.encoders.folder import open_encoder
from selftaught.errors import ConfigError, FileError
from selftaught.evaluation.cost import COST
from selftaught.evaluation.few import Budget, budget
from selftaught.evaluation.protocols import check_options
from selftaught.evaluation.row import Row, as_dicts, as_text
from selftaught.evaluation.verdict import WORTH, verdict
from selftaught.files import read_json, write_json, write_text
from selftaught.inputs import open_images
from selftaught.machine import cache_folder, pick_device
from selftaught.outputs import check_out, claim
from selftaught.resolve import lasting

if TYPE_CHECKING:
    from selftaught.encoders.encoder import Encoder

_EVALUATION = "evaluation.json"


def evaluate(chosen: evaluate_options.Evaluate) -> Answer:
    """Measure an encoder on labelled images, beside random init and raw pixels.

    Of a run the rows are kept in RUN/evaluation.json, for its report.

    Raises:
        DataError: The images have no labels, or not such as a protocol wants.
        ConfigError: There is no such protocol, or the numbers of labels make no sense.
        FileError: --out is in the way.
    """
    from selftaught.evaluation import evaluate as evaluation
    from selftaught.on_folders import FOLDERS, check_folder_options, on_folder

    check_folder_options(chosen)
    on_labels = not set(chosen.protocol) & FOLDERS.keys()
    if on_labels:
        evaluation.check_protocols(chosen.protocol, FOLDERS)
    few = tuple(dict.fromkeys(map(budget, chosen.few)))
    _check_page(chosen)
    encoders = {evaluation.THIS: open_encoder(chosen.run), **_others(chosen)}
    kept_rows(Path(chosen.run))  # damaged ones are found before minutes of work
    found = _on_labels(encoders, few, chosen) if on_labels else [on_folder(encoders, chosen)]
    rows: list[Row] = []
    for block in found:
        rows += block
        keep_evaluation(Path(chosen.run), _asked(lasting(chosen.labelled), chosen), as_dicts(rows))
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


def _asked(data: str, chosen: evaluate_options.Evaluate) -> str:
    """The images, and which of their labels."""
    return data + (f", {chosen.label}" if chosen.label else "")


def _on_labels(
    encoders: "Mapping[str, Encoder]", few: Sequence[Budget], chosen: evaluate_options.Evaluate
) -> Iterator[list[Row]]:
    """The rows of protocols on labelled images, question by question."""
    from selftaught.evaluation import evaluate as evaluation

    images = open_images(chosen.labelled, chosen)
    numbers = evaluation.are_numbers(chosen.protocol)
    labels = label(images.checked, column=chosen.label, numbers=numbers)
    check_classes(images.checked, labels, column=chosen.label)
    protocols = chosen.protocol or (("knn", "linear") if labels.classes else ("regression",))
    check_options(protocols, few=bool(few), epochs=chosen.epochs is not None)
    this, *_ = encoders.values()
    return evaluation.blocks(
        this,
        images,
        labels,
        protocols=tuple(dict.fromkeys(protocols)),
        few=few,
        seed=chosen.seed,
        device=pick_device(chosen.device),
        threads=chosen.threads,
        cache=cache_folder(chosen.cache),
        against={name: each for name, each in encoders.items() if name != evaluation.THIS},
        epochs=chosen.epochs,
    )


def _others(chosen: evaluate_options.Evaluate) -> "Mapping[str, Encoder]":
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


def _check_page(chosen: evaluate_options.Evaluate) -> None:
    """Whether the page can be written, before any work.

    Raises:
        FileError: It is called otherwise, or something is in the way.
    """
    if chosen.out is None:
        return
    if chosen.out.suffix.lower() != ".html":
        raise FileError(f"--out {chosen.out} is no name of a page", "let it end in .html")
    inputs = [chosen.run, chosen.labelled, *chosen.against]
    check_out(chosen.out, "a file", overwrite=chosen.overwrite, inputs=inputs)


def _write_page(
    out: Path, chosen: evaluate_options.Evaluate, rows: Sequence[Mapping[str, Any]]
) -> None:
    """The tables as one page, led by the verdict where there is one."""
    from selftaught.report.contents import evaluation_sections
    from selftaught.report.page import page

    title = f"{Path(chosen.run).name or chosen.run}: what the encoder is worth"
    claim(out, "a file", overwrite=chosen.overwrite)
    sections = evaluation_sections([{"data": _asked(chosen.labelled, chosen), **r} for r in rows])
    write_text(out, page(title, sections, subtitle="A report by selftaught."))


def keep_evaluation(run: Path, data: str, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows to RUN/evaluation.json, in place of earlier ones of the same question.

    Those of `worth` are one question: a verdict is of one evaluation.
    """
    if not (run / "config.yaml").exists():
        return

    def question(row: Mapping[str, Any]) -> tuple[str, str]:
        protocol = str(row["protocol"])
        whole = protocol.startswith(WORTH) or protocol == COST
        return (WORTH, "") if whole else (protocol, str(row["split"]))

    asked = set(map(question, rows))
    kept = [r for r in kept_rows(run) if r["data"] != data or question(r) not in asked]
    write_json(run / _EVALUATION, [*kept, *({"data": data, **row} for row in rows)])


def kept_rows(run: Path) -> list[dict[str, Any]]:
    """The rows of RUN/evaluation.json; none where there is no such file.

    Raises:
        FileError: It is damaged.
    """
    path = run / _EVALUATION
    rows = read_json(path) if path.exists() else []
    fields = dataclasses.fields(Row)
    names = {"data", *(f.name for f in fields if f.default is dataclasses.MISSING)}
    if isinstance(rows, list) and all(_is_row(row, names) for row in rows):
        return rows
    raise FileError(f"{path} is not a table of evaluations", "remove it, or restore it")


def _is_row(row: Any, names: set[str]) -> bool:
    """Whether it has these fields, and numbers where figures are."""
    figures = ("value", "low", "high", "seconds")
    return (
        isinstance(row, dict)
        and row.keys() >= names
        and all(isinstance(row[name], int | float | None) for name in figures)
        and row["value"] is not None
    )
