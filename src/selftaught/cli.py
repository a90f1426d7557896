"""The command line: parsing and printing only. Every command is a function of api.py."""

import contextlib
import dataclasses
import io
import re
import sys
from collections.abc import Sequence
from typing import Any

from selftaught.api import COMMANDS, Command
from selftaught.errors import ConfigError, StopRun, UserError, nearest

DONE, BUG, USER, STOPPED = 0, 1, 2, 3
"""Exit codes: done, a bug (with its traceback), the user's input, stopped with the work saved."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Results go to stdout, all else to stderr."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    name = arguments[0] if arguments else "--help"
    try:
        if name in ("-h", "--help"):
            print(overview())
        elif name == "--version":
            print(_version())
        else:
            result = _command(name).run(parse(name, arguments[1:]))
            if result is not None:
                print(result)
    except UserError as error:
        print(f"selftaught: {_one_line(str(error))}", file=sys.stderr)
        return USER
    except StopRun as stop:
        print(f"selftaught: {_one_line(str(stop))}", file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt:
        print("selftaught: stopped before there was work to save", file=sys.stderr)
        return STOPPED
    return DONE


def parse(name: str, arguments: Sequence[str]) -> Any:
    """The options of a command from its arguments.

    Raises:
        ConfigError: An option is unknown, missing or mistyped.
        SystemExit: `--help` was asked for, and is printed.
    """
    import tyro

    command = _command(name)
    _refuse_unknown(name, command, arguments)
    complaint, answer = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(answer):
            return tyro.cli(
                command.options,
                prog=f"selftaught {name}",
                args=list(arguments),
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if not stop.code:
            print(_without_none(answer.getvalue()), end="")
            raise
        raise ConfigError(_gist(complaint.getvalue()), f"see selftaught {name} --help") from None


def overview() -> str:
    """What `selftaught --help` prints: the commands, a line each."""
    lines = [f"  {name:<10} {_summary(command)}" for name, command in COMMANDS.items()]
    head = "selftaught: from a folder of unlabelled images to an encoder, and whether it worked."
    return "\n".join([head, "", *lines, "", "selftaught COMMAND --help says more."])


def _command(name: str) -> Command:
    if name not in COMMANDS:
        raise ConfigError(f"there is no command {name!r}", nearest(name, COMMANDS))
    return COMMANDS[name]


def _summary(command: Command) -> str:
    return (command.options.__doc__ or "").splitlines()[0]


def _refuse_unknown(name: str, command: Command, arguments: Sequence[str]) -> None:
    fields = {field.name.replace("_", "-") for field in dataclasses.fields(command.options)}
    for argument in arguments:
        option = argument.removeprefix("--").partition("=")[0].replace("_", "-")
        if argument.startswith("--") and option not in fields | {"help", ""}:
            remedy = nearest(option, fields).replace("'", "--", 1).replace("'", "", 1)
            raise ConfigError(f"selftaught {name} has no option --{option}", remedy)


def _gist(complaint: str) -> str:
    """The one sentence of a parser's complaint that matters."""
    lines = [line.strip() for line in complaint.splitlines()]
    lines = [line for line in lines if line and not set(line) <= {"-", "─"}]
    words = " ".join(lines[1:])
    for end in (". Got errors", "Got errors:", "Argument helptext", "For full helptext"):
        words = words.partition(end)[0]
    return _one_line(_without_none(words)).rstrip(" .:") or "the arguments cannot be read"


def _without_none(text: str) -> str:
    """Help that does not speak of None: an option that is not given is simply not there."""
    text = re.sub(r"\{None\}\|(\w+)", r"\1       ", text)
    text = re.sub(r"\{None,([^}]*)\}", r"{\1}     ", text)
    text = re.sub(r"\s*\(default:\s+(None|'')\)", "", text)
    return "\n".join(line.rstrip() for line in text.split("\n"))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _version() -> str:
    from selftaught import __version__

    return f"selftaught {__version__}"


if __name__ == "__main__":
    sys.exit(main())
