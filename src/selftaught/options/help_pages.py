"""The pages that --help prints, from the docstrings of the options and of their fields."""

import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from selftaught.options.shared import MachineOptions, is_positional

WIDTH = 80
_COLUMN = 24  # where help text begins
_METAVARS = {int: "N", float: "X", str: "NAME", Path: "PATH"}

GROUPS = {
    "train an encoder": ("check", "preview", "pretrain", "resume"),
    "judge it": ("evaluate", "report"),
    "use it": ("embed", "cluster", "assign", "classify", "index", "search"),
    "exchange it": ("export", "import"),
    "learn more": ("demo", "info", "methods"),
}
"""The commands by purpose, in the order of the overview."""


def overview(options: Mapping[str, type[Any]]) -> str:
    """What `selftaught --help` prints: all commands, one line each.

    Args:
        options: The options of each command by its name.
    """
    lines = ["usage: selftaught COMMAND ...", ""]
    lines += ["Train an encoder on unlabelled images, and find out whether it worked."]
    for purpose, names in GROUPS.items():
        lines += ["", purpose]
        lines += [f"  {name:<10} {summary(options[name])}" for name in names]
    lines += ["", "selftaught COMMAND --help describes that command."]
    return "\n".join(lines)


def help_page(name: str, options: type[Any]) -> str:
    """What `selftaught NAME --help` prints."""
    fields = dataclasses.fields(options)
    positional = [f for f in fields if is_positional(options, f.name)]
    machine = [f for f in fields if f.name in MachineOptions.__dataclass_fields__]
    own = [f for f in fields if f not in positional and f not in machine]
    own.sort(key=_is_optional)
    parts = [_usage(name, options, positional, own), _description(options)]
    for title, some in (("arguments", positional), ("options", own), ("machine", machine)):
        if some:
            parts.append("\n".join([title, *(_entry(options, field) for field in some)]))
    return "\n\n".join([*parts, f"example\n  {_example(options)}"])


def summary(options: type[Any]) -> str:
    """The first line of the docstring."""
    return (options.__doc__ or "").splitlines()[0]


def _description(options: type[Any]) -> str:
    """The docstring up to the example, its paragraphs wrapped."""
    text = inspect.cleandoc(options.__doc__ or "").partition("Example:")[0].strip()
    return "\n\n".join(textwrap.fill(" ".join(p.split()), WIDTH) for p in text.split("\n\n"))


def _example(options: type[Any]) -> str:
    return (options.__doc__ or "").partition("Example:")[2].strip()


def _is_optional(field: "dataclasses.Field[Any]") -> bool:
    return field.default is not dataclasses.MISSING


def _usage(
    name: str,
    options: type[Any],
    positional: list["dataclasses.Field[Any]"],
    own: list["dataclasses.Field[Any]"],
) -> str:
    words = [f"usage: selftaught {name}"]
    for field in positional:
        metavar = _metavar(options, field)
        metavar += " ..." if _is_list(options, field) else ""
        words.append(f"[{metavar}]" if _is_optional(field) else metavar)
    words += [_invocation(options, field) for field in own if not _is_optional(field)]
    return " ".join([*words, "[options]"])


def _entry(options: type[Any], field: "dataclasses.Field[Any]") -> str:
    """An argument or option with its help, in two columns."""
    left = f"  {_invocation(options, field)}"
    words = " ".join([_help_texts(options)[field.name], *_hints(options, field)])
    lines = textwrap.wrap(words, WIDTH - _COLUMN, break_on_hyphens=False)
    indented = [" " * _COLUMN + line for line in lines]
    if len(left) > _COLUMN - 2:
        return "\n".join([left, *indented])
    return "\n".join([left.ljust(_COLUMN) + lines[0], *indented[1:]])


def _invocation(options: type[Any], field: "dataclasses.Field[Any]") -> str:
    """How a user writes it: `DATA`, `--out DIR`, `--json`, `--no-time-steps`."""
    if is_positional(options, field.name):
        return _metavar(options, field)
    flag = field.name.replace("_", "-")
    if isinstance(field.default, bool):
        return f"--no-{flag}" if field.default else f"--{flag}"
    return f"--{flag} {_metavar(options, field)}"


def _hints(options: type[Any], field: "dataclasses.Field[Any]") -> Iterator[str]:
    """What follows the help text: whether it is required or repeatable, or its default."""
    if not _is_optional(field):
        if not is_positional(options, field.name):
            yield "(required)"
    elif _is_list(options, field):
        if not is_positional(options, field.name):
            yield "(repeatable)"
    elif field.default not in (None, "") and not isinstance(field.default, bool):
        yield f"(default: {_number(field.default)})"


def _number(value: object) -> object:
    """A default as a user would write it: 120, not 120.0."""
    return f"{value:g}" if isinstance(value, float) else value


def _is_list(options: type[Any], field: "dataclasses.Field[Any]") -> bool:
    return typing.get_origin(typing.get_type_hints(options)[field.name]) is tuple


def _metavar(options: type[Any], field: "dataclasses.Field[Any]") -> str:
    """The declared name of a value, its choices, or the name of its type."""
    hint = typing.get_type_hints(options, include_extras=True)[field.name]
    for extra in getattr(hint, "__metadata__", ()):
        if metavar := getattr(extra, "metavar", None):
            return str(metavar)
    plain = typing.get_type_hints(options)[field.name]
    is_union = typing.get_origin(plain) in (types.UnionType, typing.Union)
    kinds = typing.get_args(plain) if is_union else (plain,)
    kinds = typing.get_args(kinds[0])[:1] if typing.get_origin(kinds[0]) is tuple else kinds
    return "|".join(word for kind in kinds for word in _kind_words(kind))


def _kind_words(kind: Any) -> Iterator[str]:
    if typing.get_origin(kind) is Literal:
        yield from map(str, typing.get_args(kind))
    elif kind in _METAVARS:
        yield _METAVARS[kind]


def _help_texts(options: type[Any]) -> dict[str, str]:
    """The docstrings of all fields, each as one line."""
    from docstring_parser import parse_from_object

    texts: dict[str, str] = {}
    for cls in reversed(options.__mro__[:-1]):
        for parameter in parse_from_object(cls).params:
            texts[parameter.arg_name] = " ".join((parameter.description or "").split())
    return texts
