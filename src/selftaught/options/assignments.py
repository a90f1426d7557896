"""`--set NAME=VALUE`: parses the user's text into plain values by name."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from selftaught.errors import ConfigError

_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None}
_DIGITS = re.compile(r"[+-]?[0-9]{1,400}")


def parse_assignments(
    assignments: Iterable[str], declared_type: Callable[[str], Any] = lambda name: None
) -> dict[str, Any]:
    """Parse values by name: numbers, true, false, null, a list if there is a comma, else text.

    Args:
        assignments: Texts of the form NAME=VALUE.
        declared_type: Returns the declared type of a name, or None; text types stay text.

    Raises:
        ConfigError: The name or the `=` of an assignment is missing.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not all(name.split(".")):
            raise ConfigError(f"--set {assignment!r:.80} is incomplete", "write --set NAME=VALUE")
        values[name] = _parse_value(declared_type(name), text)
    return values


def _parse_value(hint: Any, text: str) -> Any:
    if hint is str:
        return text
    if hint == str | None:
        return None if text.lower() == "null" else text
    return [_parse_scalar(part) for part in text.split(",")] if "," in text else _parse_scalar(text)


def _parse_scalar(text: str) -> Any:
    """Parse an integer, a number, true, false or null; else return the text (12:30, 2024-01-02)."""
    text = text.strip()
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _DIGITS.fullmatch(text):
        return int(text)
    try:
        return text if "_" in text else float(text)
    except ValueError:
        return text
