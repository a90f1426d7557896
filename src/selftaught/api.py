"""The commands as Python functions of the same names, with the same options and defaults.

`import` is a Python keyword: its function is `import_`.

`selftaught.pretrain("photos", out="run", epochs=100)` is `selftaught pretrain photos --out run
--epochs 100`. Nothing heavy is imported before a function is called.
"""

import dataclasses
import inspect
import numbers
import os
import types
import typing
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selftaught.errors import ConfigError, did_you_mean
from selftaught.foundation.typed_values import checked_value
from selftaught.options import about, assess, exchange, ranges, train, use
from selftaught.options.shared import is_positional

if TYPE_CHECKING:
    from selftaught.encoders.encoder import Encoder


@dataclass(frozen=True)
class Command:
    """A command: its options, and the function that runs it, imported when called."""

    options: type[Any]
    place: str  # "module:function"; the only argument is the options

    def run(self, chosen: Any) -> Any:
        """Run the command with these options.

        Raises:
            ConfigError: A number is out of range.
        """
        given = {field.name: getattr(chosen, field.name) for field in dataclasses.fields(chosen)}
        ranges.check_ranges(given, ranges.FLAGS, "")
        module, _, function = self.place.partition(":")
        return getattr(import_module(module), function)(chosen)

    def __call__(self, *positional: Any, **named: Any) -> Any:
        """Run the command as a Python function; paths may be text.

        Raises:
            ConfigError: An option is unknown or missing, or its value has the wrong type.
            TypeError: There are too many positional arguments, or one is also passed by name.
        """
        names = {field.name: field for field in dataclasses.fields(self.options)}
        required = [f.name for f in names.values() if f.default is dataclasses.MISSING]
        given = self._by_name(positional, named)
        for name in given:
            if name not in names:
                raise ConfigError(f"unknown option {name!r}", did_you_mean(name, names))
        for name in required:
            if name not in given:
                raise ConfigError(f"the option {name!r} is missing", f"pass {name}=…")
        return self.run(self.options(**_typed_values(self.options, given)))

    def _by_name(self, positional: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        """All arguments by name, bound as Python would bind them."""
        order = positionals(self.options)
        if len(positional) > len(order):
            raise TypeError(
                f"{len(positional)} positional arguments were given, at most {len(order)} are "
                f"allowed ({', '.join(order) or 'all are keyword-only'})"
            )
        given = dict(zip(order, positional, strict=False))
        if duplicates := given.keys() & named.keys():
            raise TypeError(f"{min(duplicates)} was given by position and by name")
        return given | named

    @property
    def __signature__(self) -> inspect.Signature:
        order = positionals(self.options)
        kinds = inspect.Parameter
        parameters = [
            kinds(
                field.name,
                kinds.POSITIONAL_OR_KEYWORD if field.name in order else kinds.KEYWORD_ONLY,
                default=kinds.empty if field.default is dataclasses.MISSING else field.default,
            )
            for field in dataclasses.fields(self.options)
        ]
        required = [p for p in parameters if p.default is kinds.empty]
        optional = [p for p in parameters if p.default is not kinds.empty]
        return inspect.Signature(sorted(required + optional, key=lambda p: p.kind))


_COMMANDS = "selftaught.commands"

COMMANDS = {
    "check": Command(train.Check, f"{_COMMANDS}.check:check"),
    "preview": Command(train.Preview, f"{_COMMANDS}.preview:preview"),
    "pretrain": Command(train.Pretrain, f"{_COMMANDS}.pretrain:pretrain"),
    "resume": Command(train.Resume, f"{_COMMANDS}.pretrain:resume"),
    "evaluate": Command(assess.Evaluate, f"{_COMMANDS}.evaluate:evaluate"),
    "report": Command(assess.Report, f"{_COMMANDS}.report:report"),
    "embed": Command(use.Embed, f"{_COMMANDS}.embed:embed"),
    "cluster": Command(use.Cluster, f"{_COMMANDS}.cluster:cluster"),
    "assign": Command(use.Assign, f"{_COMMANDS}.assign:assign"),
    "classify": Command(use.Classify, f"{_COMMANDS}.classify:classify"),
    "index": Command(use.Index, f"{_COMMANDS}.index:index"),
    "search": Command(use.Search, f"{_COMMANDS}.search:search"),
    "export": Command(exchange.Export, f"{_COMMANDS}.export:export"),
    "import": Command(exchange.Import, f"{_COMMANDS}.import_:import_"),
    "demo": Command(about.Demo, f"{_COMMANDS}.demo:demo"),
    "info": Command(about.Info, f"{_COMMANDS}.info:info"),
    "methods": Command(about.Methods, f"{_COMMANDS}.info:methods"),
}
"""Every command by name; `methods` exists on the command line only."""


def load(run: str | Path) -> "Encoder":
    """The encoder of a run, an encoder folder, or `timm:NAME`, in evaluation mode.

    Its `.preprocess` turns PIL images and arrays into its input.

    Raises:
        FileError: The encoder is missing or damaged.
    """
    from selftaught.encoders.folder import open_encoder

    return open_encoder(str(run)).eval()


def positionals(cls: type[Any]) -> list[str]:
    """The positional arguments of a command, in order."""
    return [f.name for f in dataclasses.fields(cls) if is_positional(cls, f.name)]


def _typed_values(cls: type[Any], given: dict[str, Any]) -> dict[str, Any]:
    """The values with their declared types; `_plain` accepts a few others."""
    hints = typing.get_type_hints(cls)
    return {
        name: checked_value(hints[name], _converted(hints[name], v), name)
        for name, v in given.items()
    }


def _converted(hint: Any, value: Any) -> Any:
    """Convert text to a path and back, one name to a list, and numpy's numbers."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if isinstance(value, str | os.PathLike) and Path in kinds:
        return Path(value)
    if isinstance(value, os.PathLike) and str in kinds:
        return os.fspath(value)
    if isinstance(value, str) and typing.get_origin(hint) is tuple:
        return (value,)
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) and not isinstance(value, int) else value
