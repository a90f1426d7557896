"""`--set NAME=VALUE`: what the user writes as text, as typed values by dotted name."""

import dataclasses
import re
import typing
from collections.abc import Iterable
from typing import Any

from selftaught.config import Config, Overrides
from selftaught.errors import ConfigError

_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None}
_DIGITS = re.compile(r"[+-]?[0-9]{1,400}")


def parse_assignments(assignments: Iterable[str]) -> Overrides:
    """`--set NAME=VALUE`: numbers, true, false, null, a comma between two values, or else text.

    A bare name is an option of the method. Where text is declared (data.path), a value is text.

    Raises:
        ConfigError: An assignment has no name or no `=`.
    """
    overrides: Overrides = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not all(name.split(".")):
            raise ConfigError(f"--set {assignment!r:.80} is not complete", "write --set NAME=VALUE")
        name = name if "." in name else f"options.{name}"
        overrides[name] = _assigned(_hint(name), text)
    return overrides


def _hint(name: str) -> Any:
    """The declared type of a dotted name; None where none is declared."""
    hint: Any = Config
    for part in name.split("."):
        hint = typing.get_type_hints(hint).get(part) if dataclasses.is_dataclass(hint) else None
    return hint


def _assigned(hint: Any, text: str) -> Any:
    if hint is str:
        return text
    if hint == str | None:
        return None if text.lower() == "null" else text
    return [_scalar(part) for part in text.split(",")] if "," in text else _scalar(text)


def _scalar(text: str) -> Any:
    """A whole number, a number, true, false, null, or else text as it is (12:30, 2024-01-02)."""
    text = text.strip()
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _DIGITS.fullmatch(text):
        return int(text)
    try:
        return text if "_" in text else float(text)
    except ValueError:
        return text
