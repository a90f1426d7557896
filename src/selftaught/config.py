"""The resolved configuration of a run: everything that determines it, and nothing else.

`RUN/config.yaml` is this dataclass; fed back with `--config` it repeats the run. Precedence, from
weak to strong: the recipe, `--preset`, `--config`, `--set`, a flag of its own.
"""

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from selftaught.errors import ConfigError, nearest
from selftaught.files import write_text

T = TypeVar("T")
Overrides = dict[str, Any]
"""Changes to a configuration by dotted name: {"loop.epochs": 100}."""

_YAML_LIMIT = 2**16  # bytes; ours have about 2,000
_BRACKETS_LIMIT = 500  # nesting makes the parser slow
_HEADER = "# selftaught pretrain --config THIS_FILE --out RUN repeats this run.\n"


@dataclass(frozen=True)
class DataSettings:
    """Which images, and how they are stored."""

    path: str = ""
    store_size: int | None = None
    min_side: int = 1


@dataclass(frozen=True)
class NetworkSettings:
    """The encoder f. `width` and `stem_stride` are options of resnet8 and resnet20."""

    encoder: str = "resnet8"
    image_size: int = 32
    stem: str = "auto"
    width: int | None = None
    stem_stride: int | None = None
    init: str | None = None


@dataclass(frozen=True)
class ViewSettings:
    """The views' policy; probabilities are `flip`, `jitter`, `gray` and `blur`."""

    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    gray: float = 0.2
    blur: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)
    normalise: bool = True


@dataclass(frozen=True)
class LoopSettings:
    """How long, and with which optimizer. `total_steps` of 0 means epochs times steps an epoch."""

    epochs: int = 100
    batch_size: int = 256
    total_steps: int = 0
    optimizer: str = "adamw"
    lr: float = 2e-3
    scaling: str = "none"
    weight_decay: float = 1e-4
    momentum: float = 0.9
    precision: str = "auto"
    channels_last: bool = True
    compile: bool = False
    log_every: int = 10
    checkpoint_seconds: float = 300.0
    probe_every: int = 0
    stop_on_alarm: bool = False


@dataclass(frozen=True)
class Config:
    """A run. Two runs of equal configurations on equal images are equal."""

    data: DataSettings = field(default_factory=DataSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    views: ViewSettings = field(default_factory=ViewSettings)
    loop: LoopSettings = field(default_factory=LoopSettings)
    method: str = "simclr"
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    probe: str | None = None


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as plain values, tuples as lists."""
    plain: dict[str, Any] = _plain(dataclasses.asdict(config))
    return plain


def from_dict(values: Any, where: str) -> Config:
    """A configuration from plain values, every name and type checked.

    Raises:
        ConfigError: A name is unknown or missing, or a value has the wrong type; `where` is named.
    """
    return typed(Config, values, where)


def write(config: Config, path: Path) -> None:
    """Write the configuration as YAML."""
    write_text(path, _HEADER + yaml.safe_dump(to_dict(config), sort_keys=False))


def read(path: Path) -> Config:
    """Read a configuration that `write` wrote.

    Raises:
        ConfigError: The file is missing, too large, no YAML, or says something unknown.
    """
    try:
        if path.stat().st_size > _YAML_LIMIT:
            raise ConfigError(f"{path} is larger than 64 KiB", "give a config.yaml of a run")
        text = path.read_text("utf-8")
        if text.count("[") + text.count("{") > _BRACKETS_LIMIT:
            raise ConfigError(f"{path} is nested too deeply", "give a config.yaml of a run")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, yaml.SafeLoader)):
            raise ConfigError(f"{path} holds YAML aliases", "write the values out")
        values = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ConfigError(f"{path} cannot be read ({reason})", "give a run's config.yaml") from None
    except (yaml.YAMLError, RecursionError):
        raise ConfigError(f"{path} is not YAML", "give a run's config.yaml") from None
    return from_dict(values, str(path))


def with_overrides(config: Config, overrides: Overrides, where: str = "--set") -> Config:
    """The configuration with some values changed by dotted name.

    Raises:
        ConfigError: A name is unknown (the nearest is named) or a value has the wrong type.
    """
    values = to_dict(config)
    known = [name for name in flatten(values) if not name.startswith("options.")]
    for name, value in overrides.items():
        section, _, leaf = name.rpartition(".")
        if name not in known and section != "options":
            raise ConfigError(f"{where}: there is no option {name!r}", nearest(name, known))
        (values[section] if section else values)[leaf] = _plain(value)
    return from_dict(values, where)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, dict)
        flat |= flatten(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat


def parse_assignments(assignments: typing.Iterable[str]) -> Overrides:
    """`--set NAME=VALUE`: values are read as YAML; a bare name is an option of the method.

    Raises:
        ConfigError: An assignment has no `=` or its value is not YAML.
    """
    overrides: Overrides = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set {assignment!r} has no value", "write --set NAME=VALUE")
        value = [_number(part) for part in text.split(",")] if "," in text else _number(text)
        overrides[name if "." in name else f"options.{name}"] = value
    return overrides


def typed(cls: type[T], values: Any, where: str) -> T:
    """A dataclass from plain values, every name and type checked.

    Raises:
        ConfigError: A name is unknown or missing, or a value has the wrong type.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected names and values, found {values!r:.60}", "see docs")
    hints = typing.get_type_hints(cls)
    for name in values:
        if name not in hints:
            raise ConfigError(f"{where}: there is no option {name!r}", nearest(str(name), hints))
    missing = [name for name in hints if name not in values]
    if missing:
        raise ConfigError(f"{where}: the option {missing[0]!r} is missing", "add it")
    return cls(**{name: _value(hints[name], values[name], f"{where}: {name}") for name in values})


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return typed(typing.cast(type, hint), value, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return None if value is None else _value(arguments[0], value, where)
    if origin is typing.Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list | tuple) and len(value) == len(arguments):
        return tuple(_value(h, v, where) for h, v in zip(arguments, value, strict=True))
    if origin is dict and isinstance(value, dict):
        return dict(value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise ConfigError(f"{where}: {value!r:.60} is not {_describe(hint)}", "correct the value")


def _describe(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        return f"{len(typing.get_args(hint))} numbers"
    return names.get(hint, str(hint))


def _number(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
        return float(text) if isinstance(value, str) and text[:1] in "-.0123456789" else value
    except (yaml.YAMLError, ValueError):
        return text


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
