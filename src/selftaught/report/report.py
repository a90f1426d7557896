"""RUN/report.html: what was trained on what, whether it worked, and how one can tell."""

from collections.abc import Sequence
from pathlib import Path

from selftaught.files import write_text
from selftaught.report.page import Section, page


def write_report(run: Path, sections: Sequence[Section], *, title: str = "") -> Path:
    """Write the run's report as one self-contained file, whole or not at all.

    Args:
        run: The run's folder; the report is its `report.html`.
        sections: The parts, in order.
        title: The heading; by default the folder's name.

    Returns:
        The path of the report.
    """
    path = run / "report.html"
    name = title or f"{run.resolve().name}: what was learnt"
    write_text(path, page(name, sections, subtitle="A report by selftaught."))
    return path
