"""`--set NAME=VALUE`: the user's text as plain values by name."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from selftaught.errors import ConfigError

_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None}
_DIGITS = re.compile(r"[+-]?[0-9]{1,400}")


def parse_assignments(
    assignments: Iterable[str], declared_type: Callable[[str], Any] = lambda name: None
) -> dict[str, Any]:
    """The values by name: numbers, true, false, null, a list if there is a comma, or else text.

    Args:
        assignments: NAME=VALUE each.
        declared_type: The type that a name declares, or None: a name declared as text has text.

    Raises:
        ConfigError: An assignment has no name or no `=`.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not all(name.split(".")):
            raise ConfigError(f"--set {assignment!r:.80} is not complete", "write --set NAME=VALUE")
        values[name] = _value(declared_type(name), text)
    return values


def _value(hint: Any, text: str) -> Any:
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
