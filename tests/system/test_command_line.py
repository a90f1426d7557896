"""The command line is frozen: a change of it needs a new snapshot and a line in the CHANGELOG."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from selftaught.api import COMMANDS
from selftaught.cli import USER, main
from tests.support.command_line import environment, selftaught

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SNAPSHOT = ROOT / "tests/golden/command_line.txt"


def whole_command_line() -> str:
    """What every --help prints, at eighty columns."""
    parts = []
    for name in [None, *COMMANDS]:
        arguments = [name, "--help"] if name else ["--help"]
        done = selftaught(*arguments)
        assert done.returncode == 0, done.stderr
        parts.append(f"$ selftaught {' '.join(arguments)}\n{done.stdout}")
    return "\n".join(parts)


def test_the_command_line_is_the_snapshot() -> None:
    found = whole_command_line()
    assert found == SNAPSHOT.read_text(), "python -m tests.system.test_command_line writes it anew"


def test_the_snapshot_is_named_in_the_changelog() -> None:
    digest = hashlib.sha256(SNAPSHOT.read_bytes()).hexdigest()[:12]
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert f"command line {digest}" in changelog, f"say in CHANGELOG.md: command line {digest}"


def test_no_command_has_more_than_twenty_flags_of_its_own() -> None:
    for name in COMMANDS:
        flags = set(re.findall(r"^  --([a-z-]+)", selftaught(name, "--help").stdout, re.M))
        assert flags, name
        assert len(flags - {"device", "threads", "cache"}) <= 20, (name, flags)


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys, selftaught, selftaught.cli as c; c.main(['--help']);"
        "assert not {'torch', 'numpy', 'pyarrow'} & set(sys.modules), 'imported too much'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["pretrian"], "'pretrain'"),
        (["pretrain", "x", "--out", "y", "--epchs", "3"], "--epochs"),
        (["pretrain", "x", "--out", "y", "--epochs", "ten"], "selftaught pretrain --help"),
        (["pretrain", "x"], "--out"),
        (["check", "x", "--out", "y", "--jsn"], "--json"),
        (["export", "x", "--to", "caffe", "--out", "y"], "timm"),
    ],
)
def test_a_mistake_is_one_line_with_a_remedy(
    arguments: list[str], remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == USER
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert remedy in printed.err


if __name__ == "__main__":
    SNAPSHOT.write_text(whole_command_line())
    print("command line", hashlib.sha256(SNAPSHOT.read_bytes()).hexdigest()[:12])
