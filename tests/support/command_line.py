"""The command line as a user runs it: a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

QUIET = {"OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "80"}


def environment(**more: str) -> dict[str, str]:
    """The environment of a child: one thread, no colours, eighty columns."""
    return os.environ | QUIET | more


def selftaught(
    *arguments: object, timeout: float = 240, cwd: Path | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run `selftaught ARGUMENTS` and wait for it."""
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        env=environment(**more),
        check=False,
    )


def command(*arguments: object) -> list[str]:
    """The process's argument list."""
    return [sys.executable, "-m", "selftaught.cli", *map(str, arguments)]
