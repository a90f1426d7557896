"""The command line: parsing and printing only. Every command is a function of `api`."""

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
from selftaught.errors import ConfigError, StopRun, UserError, did_you_mean
from selftaught.options.help_pages import help_page, overview

DONE, BUG, USER, STOPPED = 0, 1, 2, 3
"""Exit codes: done, a bug (with a traceback), a user error, stopped with the work saved."""


_FORMER_NAMES = {"views": "preview"}
"""Former names of commands, which still work."""

_VALUE = r"could be instantiated from \['(.*)'\]"
_PLAIN = (
    (r"\{None\}\||, 'None'|'None', ", ""),
    (rf"no type matching INT {_VALUE}", r"'\1' is not a whole number"),
    (rf"no type matching FLOAT {_VALUE}", r"'\1' is not a number"),
    (rf"no type matching INT\|\{{(.*)\}} {_VALUE}", r"'\2' is neither a whole number nor \1"),
    (r"invalid literal for int\(\) with base 10: ('.*')", r"\1 is not a whole number"),
    (r"could not convert string to float: ('.*')", r"\1 is not a number"),
    (r"Expected 1 values", "It takes one value"),
)
"""What the parser says, and how we say it."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_MACHINE = _FULL | {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
"""File errors that the user can fix and the program cannot."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code; results go to stdout, all else to stderr."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    for stream in (sys.stdout, sys.stderr):  # escape names that are not UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        _run(arguments[0] if arguments else "--help", arguments[1:])
    except UserError as error:
        return _print_error(error, USER)
    except StopRun as stop:
        return _print_error(stop, STOPPED)
    except KeyboardInterrupt:
        return _print_error("stopped immediately; everything saved before is intact", STOPPED)
    except OSError as error:
        if error.errno not in _MACHINE:
            raise
        remedy = "make room or choose another place"
        return _print_error(f"{error.filename or 'a file'} ({error.strerror}): {remedy}", USER)
    return DONE


def _run(name: str, arguments: Sequence[str]) -> None:
    """Run one command, or print the overview or the version."""
    if name in ("-h", "--help"):
        _print(overview({name: command.options for name, command in COMMANDS.items()}))
    elif name == "--version":
        _print(_version())
    else:
        command = _command(name)
        result = command.run(parse(name, arguments))
        if result is not None and str(result):  # of several processes, only the first prints
            _print(str(result))


def _print(text: str) -> None:
    """Print a result; a reader that stops early (`| head`) is not an error."""
    try:
        print("\n".join(map(_printable, text.split("\n"))), flush=True)
    except BrokenPipeError:  # the interpreter flushes again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_error(error: object, code: int) -> int:
    print(f"selftaught: {_one_line(str(error))}", file=sys.stderr)
    return code


def parse(name: str, arguments: Sequence[str]) -> Any:
    """The options of a command from its arguments.

    Raises:
        ConfigError: An option is unknown, missing or mistyped.
        SystemExit: `--help` was requested and printed.
    """
    import tyro

    name = _FORMER_NAMES.get(name, name)
    command = _command(name)
    if _asks_for_help(arguments):
        _print(help_page(name, command.options))
        raise SystemExit(DONE)
    _check_options(name, command, arguments)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(io.StringIO()):
            return tyro.cli(
                command.options,
                prog=f"selftaught {name}",
                args=list(arguments),
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit:
        words = complaint.getvalue()
        what = (
            _missing_arguments(name, command)
            if "Missing from" in words
            else _relevant_sentence(words)
        )
        raise ConfigError(what, f"see selftaught {name} --help") from None


def _asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether --help is among the options; nothing after `--` is an option."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--help" in options or "-h" in options


def _command(name: str) -> Command:
    name = _FORMER_NAMES.get(name, name)
    if name not in COMMANDS:
        raise ConfigError(f"unknown command {name!r}", did_you_mean(name, COMMANDS))
    return COMMANDS[name]


def _check_options(name: str, command: Command, arguments: Sequence[str]) -> None:
    known = _flags(command)
    for argument in arguments:
        if argument == "--":  # the rest are not options
            return
        option = argument.removeprefix("--").partition("=")[0].replace("_", "-")
        if argument.startswith("--") and option not in known | {"help"}:
            remedy = did_you_mean(option, known).replace("'", "--", 1).replace("'", "", 1)
            raise ConfigError(f"selftaught {name} has no option --{option}", remedy)


def _flags(command: Command) -> set[str]:
    """The options as typed, without the dashes; options that are on have the prefix no-."""
    fields = dataclasses.fields(command.options)
    return {("no-" if f.default is True else "") + f.name.replace("_", "-") for f in fields}


def _missing_arguments(name: str, command: Command) -> str:
    """The arguments that a command needs, as an error."""
    required = [
        f.name for f in dataclasses.fields(command.options) if f.default is dataclasses.MISSING
    ]
    places = positionals(command.options)
    written = [n.upper() if n in places else f"--{n.replace('_', '-')}" for n in required]
    return f"an argument is missing: {name} needs {' and '.join(written)}"


def _relevant_sentence(complaint: str) -> str:
    """The relevant sentence of a parser's complaint."""
    lines = [line.strip() for line in complaint.splitlines()]
    lines = [line for line in lines if line and not set(line) <= {"-", "─"}]
    words = " ".join(lines[1:])
    for end in (". Got errors", "Got errors:", "Argument helptext", "For full helptext"):
        words = words.partition(end)[0]
    words = _plain_types(_one_line(words)).rstrip(" .:")
    return words[:1].lower() + words[1:] or "the arguments cannot be read"


def _plain_types(words: str) -> str:
    """A parser's complaint without its names of types, and without None, which nobody writes."""
    for pattern, plain in _PLAIN:
        words = re.sub(pattern, plain, words)
    return re.sub(r"Expected one of \((.*)\)", _choices, words)


def _choices(found: re.Match[str]) -> str:
    """The choices of an option, always in the same order."""
    names = re.findall(r"'([^']*)'", found[1])
    return f"Choose one of {', '.join(sorted(names))}"


def _one_line(text: str) -> str:
    return _printable(" ".join(text.split()))


def _printable(line: str) -> str:
    """A line with control characters and invalid Unicode escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def _version() -> str:
    from selftaught import __version__

    return f"selftaught {__version__}"


if __name__ == "__main__":
    sys.exit(main())
