"""The resolved configuration of a run: everything that determines it, and nothing else.

`RUN/config.yaml` is this dataclass; fed back with `--config` it repeats the run. Precedence, from
weak to strong: the recipe (or `--preset`, or `--config`), `--keep`, `--set`, a flag of its own.
"""

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from selftaught import ranges
from selftaught.errors import ConfigError, FileError, nearest
from selftaught.files import read_bytes, write_text

T = TypeVar("T")
Overrides = dict[str, Any]
"""Changes to a configuration by dotted name: {"loop.epochs": 100}."""

_YAML_LIMIT = 2**16  # bytes; ours have about 2,000
_BRACKETS_LIMIT = 500  # nesting makes the parser slow
_HEADER = "# selftaught pretrain --config THIS_FILE --out RUN repeats this run.\n"


@dataclass(frozen=True)
class DataSettings:
    """Which images, and how they are stored.

    `dct_scaling` lets libjpeg do a part of the shrinking to `store_size`: large photographs are
    read faster, and their pixels differ a little.
    """

    path: str = ""
    store_size: int | None = None
    dct_scaling: bool = False
    min_side: int = 1


@dataclass(frozen=True)
class NetworkSettings:
    """The encoder f. `width` and `stem_stride` are options of resnet8 and resnet20, `fc`, the size
    of fully connected layers, of alexnet and vgg16, `drop_rate` of these and of timm's.
    """

    encoder: str = "resnet8"
    image_size: int = 32
    stem: Literal["auto", "small", "standard"] = "auto"
    width: int | None = None
    stem_stride: int | None = None
    fc: int | None = None
    drop_rate: float | None = None
    init: str | None = None


@dataclass(frozen=True)
class ViewSettings:
    """The views' policy, in its order; a name of an operation is its probability."""

    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    flip: float = 0.5
    rotate: float = 0.0
    jitter: float = 0.8
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    channel_jitter: float = 0.0
    gain: tuple[float, float] = (0.8, 1.25)
    offset: tuple[float, float] = (-0.1, 0.1)
    gamma: tuple[float, float] = (0.8, 1.25)
    band_drop: float = 0.0
    band_share: float = 0.2
    gray: float = 0.2
    solarise: float = 0.0
    threshold: float = 0.5
    blur: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)
    noise: float = 0.0
    noise_sigma: tuple[float, float] = (0.02, 0.1)
    sobel: float = 0.0
    cutout: float = 0.0
    cutout_side: tuple[float, float] = (0.25, 0.5)
    normalise: bool = True


@dataclass(frozen=True)
class LoopSettings:
    """How long, and with which optimizer. `total_steps` of 0 means epochs times steps an epoch,
    `micro_batch` of 0 a batch that passes the network at once.
    """

    epochs: int = 100
    batch_size: int = 256
    micro_batch: int = 0
    total_steps: int = 0
    optimizer: Literal["sgd", "adamw", "lars"] = "adamw"
    lr: float = 2e-3
    scaling: Literal["none", "linear", "sqrt"] = "none"
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = 1e-4
    momentum: float = 0.9
    precision: Literal["auto", "float32", "float64", "bf16"] = "auto"
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
    """A configuration from plain values, every name, type and range checked.

    Raises:
        ConfigError: A name is unknown or missing, or a value has the wrong type or is out of
            range; `where` is named.
    """
    config = typed(Config, values, where)
    ranges.check(flatten(to_dict(config)), ranges.SETTINGS, f"{where}: ")
    return config


def write(config: Config, path: Path) -> None:
    """Write the configuration as YAML."""
    write_text(path, _HEADER + yaml.safe_dump(to_dict(config), sort_keys=False))


def read(path: Path) -> Config:
    """Read a configuration that `write` wrote.

    Raises:
        ConfigError: The file is missing, too large, no YAML, or says something unknown.
    """
    try:
        text = read_bytes(path, _YAML_LIMIT).decode()
        _refuse_yaml_of_others(text, path)
        values = yaml.safe_load(text)
    except (FileError, UnicodeDecodeError) as error:
        reason = error.what if isinstance(error, FileError) else f"{path} is not text"
        raise ConfigError(reason, "give a run's config.yaml") from None
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} is not YAML", "give a run's config.yaml") from None
    return from_dict(values, str(path))


def _refuse_yaml_of_others(text: str, path: Path) -> None:
    """What a run's configuration never holds, and what would make the parser slow or fail."""
    if text.count("[") + text.count("{") > _BRACKETS_LIMIT:
        raise ConfigError(f"{path} is nested too deeply", "give a config.yaml of a run")
    for token in yaml.scan(text, yaml.SafeLoader):
        if isinstance(token, yaml.AliasToken):
            raise ConfigError(f"{path} holds YAML aliases", "write the values out")
        if isinstance(token, yaml.TagToken):
            raise ConfigError(f"{path} holds YAML tags", "write plain values")


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


def typed(cls: type[T], values: Any, where: str) -> T:
    """A dataclass from plain values, every name and type checked.

    Raises:
        ConfigError: A name is unknown or missing, or a value has the wrong type.
    """
    if not isinstance(values, dict):
        remedy = "write it as a config.yaml of a run has it"
        raise ConfigError(f"{where}: expected names and values, found {_said(values)}", remedy)
    hints = typing.get_type_hints(cls)
    for name in values:
        if name not in hints:
            remedy = nearest(_said(name).strip("'"), hints)
            raise ConfigError(f"{where}: there is no option {_said(name)}", remedy)
    missing = [name for name in hints if name not in values]
    if missing:
        raise ConfigError(f"{where}: the option {missing[0]!r} is missing", "add it")
    return cls(**{n: checked_value(hints[n], values[n], f"{where}: {n}") for n in values})


def checked_value(hint: Any, value: Any, where: str) -> Any:
    """A plain value as its declared type; whole numbers where fractions are declared are fine.

    Raises:
        ConfigError: It is of another type; `where` is named.
    """
    if dataclasses.is_dataclass(hint):
        return typed(typing.cast(type, hint), value, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType or origin is typing.Union:
        words = [word for a in arguments if typing.get_origin(a) is Literal for word in a.__args__]
        if value is None or (isinstance(value, str) and value in words):
            return value
        return checked_value(arguments[0], value, where)
    if origin is Literal:
        return _one_of(arguments, value, where)
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
    raise ConfigError(f"{where}: {_said(value)} is not {_describe(hint)}", "correct the value")


def _one_of(known: tuple[Any, ...], value: Any, where: str) -> Any:
    if type(value) in map(type, known) and value in known:
        return value
    remedy = nearest(str(value), map(str, known)) if isinstance(value, str) else "correct it"
    names = ", ".join(map(str, known))
    raise ConfigError(f"{where}: {_said(value)} is not one of {names}", remedy)


def _said(value: Any) -> str:
    """A value in a complaint, in a few characters."""
    try:
        return f"{value!r:.60}"
    except ValueError:  # Python refuses to write numbers of more than 4,300 digits
        return "a number too long to write"


def _describe(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    arguments = typing.get_args(hint)
    if arguments[1:] == (...,):
        return "a list"
    if typing.get_origin(hint) is tuple:
        return f"{len(arguments)} numbers"
    return names.get(hint, "a path" if hint is Path else "a list of names and values")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
