"""What the options of several commands share, and the decorator that makes a class of options.

Every command's options are one frozen dataclass: names, types, defaults and help text are written
there and nowhere else. The command line parses into it, and the Python function of the same name
takes the same fields. Nothing in this package imports torch when it is imported.
"""

import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform

from tyro.conf import Positional, UseAppendAction, arg

from selftaught.foundation.machine import Machine, cache_folder, pick_device

C = TypeVar("C")

Texts = Annotated[tuple[str, ...], UseAppendAction]
"""An option that may be given several times."""
Settings = Annotated[tuple[str, ...], UseAppendAction, arg(metavar="NAME=VALUE")]

Run = Annotated[str, Positional, arg(metavar="RUN")]
Data = Annotated[str, Positional, arg(metavar="DATA")]
Folder = Annotated[Path, arg(metavar="DIR")]
File = Annotated[Path, arg(metavar="FILE")]
OptionalFolder = Annotated[Path | None, arg(metavar="DIR")]
OptionalFile = Annotated[Path | None, arg(metavar="FILE")]


@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """The machine that does the work."""

    device: str = "auto"
    """cpu, cuda, or a numbered GPU such as cuda:1; auto uses a GPU if there is one."""
    threads: int = 2
    """Number of threads that load data; it does not affect the results."""
    cache: OptionalFolder = None
    """Folder for decoded images and features; safe to delete. Default: a folder in your cache
    directory."""

    def machine(self) -> Machine:
        """The machine that these options choose.

        Raises:
            ConfigError: This machine does not have the device, or the cache cannot be created.
        """
        return Machine(pick_device(self.device), self.threads, cache_folder(self.cache))


@dataclass(frozen=True, kw_only=True)
class SeedOption:
    """For commands that draw random numbers."""

    seed: int = 0
    """Random seed."""


@dataclass(frozen=True, kw_only=True)
class JsonOption:
    """For commands that can answer a program."""

    json: bool = False
    """Print JSON instead of text."""


@dataclass(frozen=True, kw_only=True)
class OverwriteOption:
    """For commands that write."""

    overwrite: bool = False
    """Replace the existing --out."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
def command(cls: type[C]) -> type[C]:
    """A frozen dataclass whose own fields come first, then the shared ones, the machine's last."""
    made = dataclass(frozen=True, kw_only=True)(cls)
    machine = MachineOptions.__dataclass_fields__
    own, fields = cls.__annotations__, made.__dataclass_fields__  # type: ignore[attr-defined]
    made.__dataclass_fields__ = dict(  # type: ignore[attr-defined]
        sorted(fields.items(), key=lambda item: (item[0] not in own, item[0] in machine))
    )
    return made


def is_positional(options: type[Any], name: str) -> bool:
    """Whether a field is an argument that is given without its name."""
    hint = typing.get_type_hints(options, include_extras=True)[name]
    return Positional in getattr(hint, "__metadata__", ())
