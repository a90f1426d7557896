"""The resolved configuration of a run: everything that determines it, and nothing else.

`RUN/config.yaml` is this dataclass; passed to `--config` it repeats the run. Precedence, from
weak to strong: the recipe (or `--preset`, or `--config`), `--keep`, `--set`, a dedicated flag.
"""

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from selftaught.data.open_images import DataSettings
from selftaught.errors import ConfigError, FileError, did_you_mean
from selftaught.foundation.files import read_bytes, write_text
from selftaught.foundation.typed_values import checked_value, parse_dataclass
from selftaught.options import ranges
from selftaught.options.assignments import parse_assignments

Overrides = dict[str, Any]
"""Changes to a configuration by dotted name: {"loop.epochs": 100}."""

_YAML_LIMIT = 2**16  # bytes; ours have about 2,000
_BRACKETS_LIMIT = 500  # nesting makes the parser slow
_HEADER = "# selftaught pretrain --config THIS_FILE --out RUN repeats this run.\n"


@dataclass(frozen=True)
class NetworkSettings:
    """The encoder f. resnet8 and resnet20 take `width` and `stem_stride`; alexnet and vgg16 take
    `fc`, the size of fully connected layers, and `drop_rate`, as do timm's networks.
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
    """The views' policy, in order; a setting named after an operation is its probability."""

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
    """Length and optimizer of training. `total_steps` 0 means epochs times steps per epoch,
    `micro_batch` 0 means that a batch passes the network whole.
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
    """A run. Runs with equal configurations on equal images are equal."""

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
            range; the error names `where`.
    """
    config = parse_dataclass(Config, values, where)
    ranges.check_ranges(flatten(to_dict(config)), ranges.SETTINGS, f"{where}: ")
    return config


def write_config(config: Config, path: Path) -> None:
    """Write the configuration as YAML."""
    write_text(path, _HEADER + yaml.safe_dump(to_dict(config), sort_keys=False))


def read_config(path: Path) -> Config:
    """Read a configuration that `write_config` wrote.

    Raises:
        ConfigError: The file is missing, too large, not YAML, or has unknown settings.
    """
    try:
        text = read_bytes(path, _YAML_LIMIT).decode()
        _refuse_foreign_yaml(text, path)
        values = yaml.safe_load(text)
    except (FileError, UnicodeDecodeError) as error:
        reason = error.what if isinstance(error, FileError) else f"{path} is not text"
        raise ConfigError(reason, "pass the config.yaml of a run") from None
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} is not YAML", "pass the config.yaml of a run") from None
    return from_dict(values, str(path))


def _refuse_foreign_yaml(text: str, path: Path) -> None:
    """Refuse YAML that a run's configuration never contains, or that makes the parser slow."""
    if text.count("[") + text.count("{") > _BRACKETS_LIMIT:
        raise ConfigError(f"{path} is nested too deeply", "pass the config.yaml of a run")
    for token in yaml.scan(text, yaml.SafeLoader):
        if isinstance(token, yaml.AliasToken):
            raise ConfigError(f"{path} holds YAML aliases", "write the values out")
        if isinstance(token, yaml.TagToken):
            raise ConfigError(f"{path} holds YAML tags", "write plain values")


def with_overrides(config: Config, overrides: Overrides, where: str = "--set") -> Config:
    """The configuration with some values changed by dotted name.

    Raises:
        ConfigError: A name is unknown (the error suggests the nearest) or a value has the wrong
            type.
    """
    return join_layers(flat_values(config), overrides, where=where)


def join_layers(*layers: Mapping[str, Any], where: str = "pretrain") -> Config:
    """One configuration from changes by dotted name, the last layer strongest, checked once.

    Raises:
        ConfigError: A name is unknown (the error suggests the nearest), or a value has the wrong
            type or is out of range; the message begins with `where`.
    """
    joined = {name: value for layer in layers for name, value in layer.items()}
    _check_names(joined, where)
    values = to_dict(Config())
    for name, value in joined.items():
        section, _, leaf = name.rpartition(".")
        (values[section] if section else values)[leaf] = _plain(value)
    return from_dict(values, where)


def assigned_overrides(assignments: Iterable[str]) -> Overrides:
    """The changes that `--set NAME=VALUE` asks for; a bare name is an option of the method.

    Raises:
        ConfigError: An assignment has no name or no `=`.
    """
    values = parse_assignments(assignments, declared_type)
    return {name if "." in name else f"options.{name}": value for name, value in values.items()}


def checked_overrides(overrides: Overrides, where: str) -> Overrides:
    """The same changes, checked: known names, declared types, values in range.

    Raises:
        ConfigError: A check fails; the message begins with `where`.
    """
    _check_names(overrides, where)
    found = {
        name: _plain(value)
        if name.startswith("options.")
        else checked_value(declared_type(name), _plain(value), f"{where}: {name.split('.')[-1]}")
        for name, value in overrides.items()
    }
    ranges.check_ranges(found, ranges.SETTINGS, f"{where}: ")
    return found


def flat_values(config: Config) -> Overrides:
    """All values of a configuration by dotted name."""
    return flatten(to_dict(config))


def declared_type(name: str) -> Any:
    """The declared type of a dotted name; None if the name is unknown."""
    hint: Any = Config
    for part in name.split("."):
        hint = typing.get_type_hints(hint).get(part) if dataclasses.is_dataclass(hint) else None
    return hint


def _check_names(overrides: Mapping[str, Any], where: str) -> None:
    known = [name for name in flat_values(Config()) if not name.startswith("options.")]
    for name in overrides:
        if name not in known and name.rpartition(".")[0] != "options":
            raise ConfigError(f"{where}: unknown option {name!r}", did_you_mean(name, known))


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, dict)
        flat |= flatten(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
