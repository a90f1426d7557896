"""RUN/evaluation.json: the rows of a run's evaluations, for its report."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selftaught.errors import FileError
from selftaught.evaluation.cost import COST, TIME
from selftaught.evaluation.table import Row
from selftaught.evaluation.verdict import WORTH
from selftaught.foundation.files import read_json, write_json

_EVALUATION = "evaluation.json"
_OLD_TIME = "ms an image"  # of files written by version 0.1, like "10 labels a class"


def record_rows(run: Path, data: str, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows to RUN/evaluation.json, replacing earlier rows of the same question.

    All rows of `worth` are one question, because a verdict belongs to one evaluation.
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
    """The rows of RUN/evaluation.json, with today's names; none if there is no such file.

    Raises:
        FileError: It is damaged.
    """
    path = run / _EVALUATION
    rows = read_json(path) if path.exists() else []
    fields = dataclasses.fields(Row)
    names = {"data", *(f.name for f in fields if f.default is dataclasses.MISSING)}
    if isinstance(rows, list) and all(_is_row(row, names) for row in rows):
        return [_renamed(row) for row in rows]
    raise FileError(f"{path} is not a table of evaluations", "remove it, or restore it")


def _is_row(row: Any, names: set[str]) -> bool:
    """Whether it has these fields, with numbers as figures."""
    figures = ("value", "low", "high", "seconds")
    return (
        isinstance(row, dict)
        and row.keys() >= names
        and all(isinstance(row[name], int | float | None) for name in figures)
        and row["value"] is not None
    )


def _renamed(row: dict[str, Any]) -> dict[str, Any]:
    """The row with today's names of protocol and metric."""
    protocol = re.sub(r"(, \d+ labels?) a class$", r"\1 per class", str(row["protocol"]))
    metric = TIME if row["metric"] == _OLD_TIME else row["metric"]
    return {**row, "protocol": protocol, "metric": metric}
