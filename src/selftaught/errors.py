"""Errors that a user can fix: each names the problem, the place and the remedy, in one line."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """An error the user can fix: the command line prints it on one line and exits with 2.

    Args:
        what: What is wrong and where (a path, an option, a file), without a final full stop.
        remedy: How to fix it, as an imperative or a command.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}: {remedy}")
        self.what = what
        self.remedy = remedy

    def __reduce__(self) -> tuple[type["UserError"], tuple[str, str]]:
        return type(self), (self.what, self.remedy)


class DataError(UserError):
    """An image, a folder, a table or a label that cannot be used."""


class BadImage(DataError):
    """A file that cannot be used as an image.

    Args:
        name: The file name, as the user wrote it.
        reason: A short phrase: "truncated", "not an image", "empty", ...
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(printable(name), reason)
        self.reason = reason


class ConfigError(UserError):
    """An option or a configuration that is unknown, mistyped or contradicts another."""


class FileError(UserError):
    """A selftaught file (weights, checkpoint, table) that is damaged, unsafe or in the way."""


class StopRun(Exception):
    """The run ended early with its work saved: the command line prints it and exits with 3."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The remedy for a misspelt name: the closest known name, or the list of known names."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(names)}"


def printable(name: str) -> str:
    """A file name as one line of text, with unprintable characters escaped."""
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)
