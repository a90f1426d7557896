"""The command line, which kills itself, or waits, at a chosen point of the writing of an index.

    DIES=described python -m tests.support.dies_indexing index ...

SIGKILL comes from the process itself, so that it comes at that point and at no other. With WAITS in
place of DIES the process says so on stdout there, and goes on when its stdin ends.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from selftaught import cli
from selftaught.foundation import files
from selftaught.retrieval import approximate, index_writer

POINTS = ("writing", "written", "described", "removing")
"""With half of a part written; with the part under its name; before index.json is renamed; after
that, before what it no longer names is removed."""


def main() -> int:
    """Run the command line."""
    dies, waits = os.environ.get("DIES"), os.environ.get("WAITS")
    if os.environ.get("EXACT"):
        index_writer.EXACT = int(os.environ["EXACT"])
        approximate.SAMPLE = 20
    table, part, json, rest = (
        files.write_table,
        index_writer._write_part,
        files.write_json,
        index_writer._remove_rest,
    )

    def here(point: str) -> None:
        if point == dies:
            os.kill(os.getpid(), signal.SIGKILL)
        if point == waits:
            print("waiting", flush=True)
            sys.stdin.read()

    def mortal_table(path: Path, *arguments: Any) -> None:
        if path.name == "rows.parquet":
            here("writing")
        table(path, *arguments)

    def mortal_part(*arguments: Any) -> Any:
        named = part(*arguments)
        here("written")
        return named

    def mortal_json(path: Path, *arguments: Any) -> None:
        if path.name == "index.json":
            here("described")
        json(path, *arguments)

    def mortal_rest(*arguments: Any) -> None:
        here("removing")
        rest(*arguments)

    files.write_table, index_writer._write_part = mortal_table, mortal_part
    files.write_json, index_writer._remove_rest = mortal_json, mortal_rest
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
