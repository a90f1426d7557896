"""The command evaluate, and the table that a run keeps of its evaluations."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selftaught import evaluate_options
from selftaught.answer import Answer, answer
from selftaught.data.labels import check_classes, label
from selftaught.encoders.folder import open_encoder
from selftaught.errors import ConfigError, FileError
from selftaught.evaluation.few import Budget, budget
from selftaught.evaluation.row import Row, as_dicts, as_text
from selftaught.evaluation.verdict import verdict
from selftaught.files import read_json, write_json, write_text
from selftaught.inputs import open_images
from selftaught.machine import cache_folder, pick_device
from selftaught.outputs import check_out, claim

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
    few = tuple(map(budget, chosen.few))
    _check_page(chosen)
    encoders = {evaluation.THIS: open_encoder(chosen.run), **_others(chosen)}
    kept_rows(Path(chosen.run))  # damaged ones are found before minutes of work
    rows = _on_labels(encoders, few, chosen) if on_labels else on_folder(encoders, chosen)
    value, sentences = as_dicts(rows), verdict(rows)
    asked = chosen.labelled + (f", {chosen.label}" if chosen.label else "")
    keep_evaluation(Path(chosen.run), asked, value)
    text = "\n\n".join([*filter(None, ["\n".join(sentences)]), as_text(rows)])
    if chosen.out is not None:
        _write_page(chosen.out, chosen, [{"data": asked, **row} for row in value])
        text += f"\n\nThe page: {chosen.out}"
    return answer(value, text, as_json=chosen.json)


def _on_labels(
    encoders: "Mapping[str, Encoder]", few: Sequence[Budget], chosen: evaluate_options.Evaluate
) -> list[Row]:
    """The rows of protocols on labelled images."""
    from selftaught.evaluation import evaluate as evaluation

    images = open_images(chosen.labelled, chosen)
    numbers = evaluation.are_numbers(chosen.protocol)
    labels = label(images.checked, column=chosen.label, numbers=numbers)
    check_classes(images.checked, labels, column=chosen.label)
    this, *_ = encoders.values()
    return evaluation.evaluate(
        this,
        images,
        labels,
        protocols=chosen.protocol or (("knn", "linear") if labels.classes else ("regression",)),
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
        if name in taken | found.keys():
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
    sections = evaluation_sections(rows)
    write_text(out, page(title, sections, subtitle="A report by selftaught."))


def keep_evaluation(run: Path, data: str, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows to RUN/evaluation.json, in place of earlier ones of the same question."""
    if not (run / "config.yaml").exists():
        return
    asked = {(data, row["protocol"], row["split"]) for row in rows}
    kept = [r for r in kept_rows(run) if (r["data"], r["protocol"], r["split"]) not in asked]
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
    if isinstance(rows, list) and all(isinstance(r, dict) and r.keys() >= names for r in rows):
        return rows
    raise FileError(f"{path} is not a table of evaluations", "remove it, or restore it")
