"""RUN/evaluation.json: the rows that evaluations of a run produced, for its report."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selftaught.errors import FileError
from selftaught.evaluation.cost import COST
from selftaught.evaluation.table import Row
from selftaught.evaluation.verdict import WORTH
from selftaught.foundation.files import read_json, write_json

_EVALUATION = "evaluation.json"


def record_rows(run: Path, data: str, rows: Sequence[dict[str, Any]]) -> None:
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
    kept = [r for r in recorded_rows(run) if r["data"] != data or question(r) not in asked]
    write_json(run / _EVALUATION, [*kept, *({"data": data, **row} for row in rows)])


def recorded_rows(run: Path) -> list[dict[str, Any]]:
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
