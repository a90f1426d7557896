"""Allowed ranges of numeric options: one table for flags, one for configurations.

Imports little on purpose: every start of the command line loads it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selftaught.errors import ConfigError

_MANY = 10**9  # more steps, epochs or pixels than anyone needs


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, excluding `low` if `above`; never inf or NaN."""

    low: float
    high: float = math.inf
    above: bool = False

    def contains(self, value: float) -> bool:
        """Whether a number is in the range."""
        inside = self.low <= value <= self.high and value != math.inf
        return inside and not (self.above and value == self.low)

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"a number above {self.low:g}" if self.above else f"{self.low:g} or more"
        start = f"above {self.low:g} and up to" if self.above else f"from {self.low:g} to"
        return f"a number {start} {self.high:,}"


@dataclass(frozen=True)
class PairRange(Range):
    """Two numbers in the range, the lower one first."""

    def contains(self, value: Any) -> bool:
        """Whether both numbers are in the range and in order."""
        low, high = value
        return super().contains(low) and super().contains(high) and low <= high

    def __str__(self) -> str:
        return f"two numbers, the lower first, each {super().__str__()}"


COUNT, SHARE = Range(1, _MANY), Range(0, 1)
POSITIVE, NOT_NEGATIVE = Range(0, above=True), Range(0)
STRENGTH = Range(0, 2)  # a factor of up to 3; the papers use 0.8 or less
SEED = Range(0, 2**63 - 1)  # the range of torch's generators
SIDE = Range(8, 4096)  # side of a view in pixels

FLAGS: dict[str, Range] = {
    "threads": Range(1, 1024),
    "min_side": COUNT,
    "image_size": SIDE,
    "rows": Range(1, 64),
    "seed": SEED,
    "epochs": COUNT,
    "batch_size": COUNT,
    "micro_batch": Range(0, _MANY),
    "seconds": POSITIVE,
    "lr": POSITIVE,
    "store_size": SIDE,
    "k": COUNT,
    "top": Range(1, 1000),
    "first": Range(1, 1000),
    "duplicates": Range(0, 1, above=True),
    "ask": Range(0, 10_000),
}
"""Ranges by option name, the same in every command."""

SETTINGS: dict[str, Range] = {
    "data.store_size": SIDE,
    "data.min_side": COUNT,
    "network.image_size": SIDE,
    "network.width": Range(1, 1024),
    "network.stem_stride": Range(1, 8),
    "network.fc": Range(1, 8192),
    "network.drop_rate": Range(0, 0.99),
    "views.crop_scale": PairRange(0, 1, above=True),
    "views.crop_ratio": PairRange(0, 100, above=True),
    "views.flip": SHARE,
    "views.rotate": SHARE,
    "views.jitter": SHARE,
    "views.brightness": STRENGTH,
    "views.contrast": STRENGTH,
    "views.saturation": STRENGTH,
    "views.hue": Range(0, 0.5),
    "views.channel_jitter": SHARE,
    "views.gain": PairRange(0, 100),
    "views.offset": PairRange(-1, 1),
    "views.gamma": PairRange(0, 100, above=True),
    "views.band_drop": SHARE,
    "views.band_share": SHARE,
    "views.gray": SHARE,
    "views.solarise": SHARE,
    "views.threshold": SHARE,
    "views.blur": SHARE,
    "views.sigma": PairRange(0, 100, above=True),
    "views.noise": SHARE,
    "views.noise_sigma": PairRange(0, 1),
    "views.sobel": SHARE,
    "views.cutout": SHARE,
    "views.cutout_side": PairRange(0, 1),
    "loop.epochs": COUNT,
    "loop.batch_size": COUNT,
    "loop.micro_batch": Range(0, _MANY),
    "loop.total_steps": Range(0, _MANY),
    "loop.lr": POSITIVE,
    "loop.weight_decay": NOT_NEGATIVE,
    "loop.momentum": SHARE,
    "loop.log_every": COUNT,
    "loop.checkpoint_seconds": POSITIVE,
    "loop.probe_every": Range(0, _MANY),
    "seed": SEED,
}
"""Ranges by dotted name in a configuration."""


def check_ranges(values: Mapping[str, Any], ranges: Mapping[str, Range], where: str) -> None:
    """Refuse the first value outside its range; None means not given.

    Args:
        values: Numbers and pairs of numbers by name; other values and names are ignored.
        ranges: Allowed ranges by name.
        where: Start of the error message, such as a file name and a colon.

    Raises:
        ConfigError: A value is out of range; the message names the value and the range.
    """
    for name, value in values.items():
        word = value is None or isinstance(value, str)  # such as auto
        if name in ranges and not word and not ranges[name].contains(value):
            raise ConfigError(f"{where}{name} is {_value_text(value)}", f"choose {ranges[name]}")


def _value_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_value_text, value))
    number = isinstance(value, int) and abs(value) > 10**15  # Python refuses to write 5,000 digits
    return "too large" if number else f"{value:g}"
