"""Checks plain values from users and files against declared types."""

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar

from selftaught.errors import ConfigError, did_you_mean

T = TypeVar("T")


def parse_dataclass(cls: type[T], values: Any, where: str) -> T:
    """Build a dataclass from plain values, checking every name and type.

    Raises:
        ConfigError: A name is unknown or missing, or a value has the wrong type.
    """
    if not isinstance(values, dict):
        remedy = "use the format of a run's config.yaml"
        raise ConfigError(f"{where}: expected names and values, found {_excerpt(values)}", remedy)
    hints = typing.get_type_hints(cls)
    for name in values:
        if name not in hints:
            remedy = did_you_mean(_excerpt(name).strip("'"), hints)
            raise ConfigError(f"{where}: unknown option {_excerpt(name)}", remedy)
    missing = [name for name in hints if name not in values]
    if missing:
        raise ConfigError(f"{where}: the option {missing[0]!r} is missing", "add it")
    return cls(**{n: checked_value(hints[n], values[n], f"{where}: {n}") for n in values})


def checked_value(hint: Any, value: Any, where: str) -> Any:
    """A plain value as its declared type; an integer is accepted where a float is declared.

    Raises:
        ConfigError: The value has another type; the message starts with `where`.
    """
    if dataclasses.is_dataclass(hint):
        return parse_dataclass(typing.cast(type, hint), value, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType or origin is typing.Union:
        words = [word for a in arguments if typing.get_origin(a) is Literal for word in a.__args__]
        if value is None or (isinstance(value, str) and value in words):
            return value
        return checked_value(arguments[0], value, where)
    if origin is Literal:
        return _choice(arguments, value, where)
    if origin is tuple and isinstance(value, list | tuple):
        if arguments[1:] == (...,):
            return tuple(checked_value(arguments[0], v, where) for v in value)
        if len(value) == len(arguments):
            pairs = zip(arguments, value, strict=True)
            return tuple(checked_value(h, v, where) for h, v in pairs)
    if origin is dict and isinstance(value, dict) and all(isinstance(k, str) for k in value):
        return dict(value)
    if hint is float and type(value) is int and abs(value) < 2**1000:
        return float(value)
    if hint is (Path if isinstance(value, Path) else type(value)):
        return value
    raise ConfigError(f"{where}: {_excerpt(value)} is not {_type_name(hint)}", "correct the value")


def _choice(known: tuple[Any, ...], value: Any, where: str) -> Any:
    if type(value) in map(type, known) and value in known:
        return value
    remedy = did_you_mean(str(value), map(str, known)) if isinstance(value, str) else "correct it"
    names = ", ".join(map(str, known))
    raise ConfigError(f"{where}: {_excerpt(value)} is not one of {names}", remedy)


def _excerpt(value: Any) -> str:
    """A value for an error message, cut to 60 characters."""
    try:
        return f"{value!r:.60}"
    except ValueError:  # Python refuses to write numbers of more than 4,300 digits
        return "a number too long to print"


def _type_name(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    arguments = typing.get_args(hint)
    if arguments[1:] == (...,):
        return "a list"
    if typing.get_origin(hint) is tuple:
        return f"{len(arguments)} numbers"
    return names.get(hint, "a path" if hint is Path else "a list of names and values")
