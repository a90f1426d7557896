"""The command line: parsing and printing only. Every command is a function of api.py."""

import contextlib
import dataclasses
import errno
import io
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from selftaught.api import COMMANDS, Command, positionals
from selftaught.errors import ConfigError, StopRun, UserError, nearest

DONE, BUG, USER, STOPPED = 0, 1, 2, 3
"""Exit codes: done, a bug (with its traceback), the user's input, stopped with the work saved."""


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_MACHINE = _FULL | {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
"""Errors of files that the user can do something about and the program cannot."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Results go to stdout, all else to stderr."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    for stream in (sys.stdout, sys.stderr):  # a name that is not UTF-8 is printed with escapes
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        _run(arguments[0] if arguments else "--help", arguments[1:])
    except UserError as error:
        return _complain(error, USER)
    except StopRun as stop:
        return _complain(stop, STOPPED)
    except KeyboardInterrupt:
        return _complain("stopped at once; what was saved before that is kept", STOPPED)
    except OSError as error:
        if error.errno not in _MACHINE:
            raise
        remedy = "make room or choose another place"
        return _complain(f"{error.filename or 'a file'} ({error.strerror}): {remedy}", USER)
    return DONE


def _run(name: str, arguments: Sequence[str]) -> None:
    """One command, or what is said about all of them."""
    if name in ("-h", "--help"):
        _print(overview())
    elif name == "--version":
        _print(_version())
    else:
        command = _command(name)
        result = command.run(parse(name, arguments))
        if result is not None and str(result):  # of several processes, the first one speaks
            _print(str(result))


def _print(text: str) -> None:
    """Print a result; a reader that has seen enough (`| head`) is no fault."""
    try:
        print("\n".join(map(_printable, text.split("\n"))), flush=True)
    except BrokenPipeError:  # the interpreter flushes once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(error: object, code: int) -> int:
    print(f"selftaught: {_one_line(str(error))}", file=sys.stderr)
    return code


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
            _print(_without_none(answer.getvalue()).removesuffix("\n"))
            raise
        words = complaint.getvalue()
        gist = _needs(name, command) if "Missing from" in words else _gist(words)
        raise ConfigError(gist, f"see selftaught {name} --help") from None


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
    known = _flags(command)
    for argument in arguments:
        if argument == "--":  # what follows is no option
            return
        option = argument.removeprefix("--").partition("=")[0].replace("_", "-")
        if argument.startswith("--") and option not in known | {"help"}:
            remedy = nearest(option, known).replace("'", "--", 1).replace("'", "", 1)
            raise ConfigError(f"selftaught {name} has no option --{option}", remedy)


def _flags(command: Command) -> set[str]:
    """The options as they are written, without the dashes: what is on is switched off by no-."""
    fields = dataclasses.fields(command.options)
    return {("no-" if f.default is True else "") + f.name.replace("_", "-") for f in fields}


def _needs(name: str, command: Command) -> str:
    """What must be given, of which something is missing."""
    required = [
        f.name for f in dataclasses.fields(command.options) if f.default is dataclasses.MISSING
    ]
    places = positionals(command.options)
    written = [n.upper() if n in places else f"--{n.replace('_', '-')}" for n in required]
    return f"selftaught {name} needs {' and '.join(sorted(written, key=lambda w: w[0] == '-'))}"


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
    return _printable(" ".join(text.split()))


def _printable(line: str) -> str:
    """Without characters that would steer a terminal, and without what is not Unicode."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def _version() -> str:
    from selftaught import __version__

    return f"selftaught {__version__}"


if __name__ == "__main__":
    sys.exit(main())
