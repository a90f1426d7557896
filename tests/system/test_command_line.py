"""The command line is frozen: a change of it needs a new snapshot and a line in the CHANGELOG."""

import hashlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from selftaught.api import COMMANDS
from selftaught.cli import USER, main, parse
from selftaught.options.help_pages import GROUPS, help_page
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
    assert found == SNAPSHOT.read_text(), "python -m tests.system.test_command_line writes it again"


def test_the_snapshot_is_named_in_the_changelog() -> None:
    digest = hashlib.sha256(SNAPSHOT.read_bytes()).hexdigest()[:12]
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert f"command line {digest}" in changelog, f"say in CHANGELOG.md: command line {digest}"


def test_every_command_is_in_one_group_of_the_overview() -> None:
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(COMMANDS)
    assert selftaught().stdout == selftaught("--help").stdout


def test_help_fits_in_eighty_columns_and_ends_on_an_example() -> None:
    for line in whole_command_line().splitlines():
        assert len(line) <= 80, line
    for name in COMMANDS:
        page = selftaught(name, "--help").stdout
        assert f"example\n  selftaught {name}" in page
        assert "STR" not in page and "(default: False)" not in page


def test_an_old_name_of_a_command_still_works() -> None:
    assert selftaught("views", "--help").stdout == selftaught("preview", "--help").stdout


def test_the_examples_of_help_can_be_parsed() -> None:
    for name, command in COMMANDS.items():
        page = help_page(name, command.options)
        words = shlex.split(page.rpartition("example\n  selftaught ")[2])
        assert words[0] == name
        assert isinstance(parse(name, words[1:]), command.options)


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
        (["export", "x", "--to", "caffe", "--out", "y"], "Choose one of timm, torchvision"),
        (["pretrain", "x", "--out", "y", "--optimizer", "adam"], "one of adamw, lars, sgd:"),
        (["pretrain", "x", "--out", "y", "--epochs", "1e3"], "'1e3' is not a whole number"),
        (["pretrain", "x", "--out", "y", "--lr", "much"], "'much' is not a number"),
        (["preview", "x", "--out", "y", "--rows", "1e3"], "'1e3' is not a whole number"),
        (["cluster", "x", "y", "--out", "z", "--k", "auot"], "neither a whole number nor auto"),
        (["check", "x"], "check needs DATA and --out"),
        (["check", "x", "--out"], "It takes one value"),
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
