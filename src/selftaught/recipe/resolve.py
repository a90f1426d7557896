"""From the user's wishes and the findings in the images to a configuration.

`wishes` reads the options, and `resolve` joins them with the findings. Both are pure: they open no
image and write no file. Layers, from weak to strong: the defaults; the recipe for these images (or
--preset, or --config); the method's recommendations; --keep; --set; flags; the network of --init.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from selftaught.data.check_images import Checked
from selftaught.data.sources import absolute_name
from selftaught.encoders.encoder import EncoderConfig, check_architecture
from selftaught.encoders.resnet import CIFAR_RESNETS
from selftaught.errors import ConfigError
from selftaught.methods import find_method
from selftaught.options.train import Pretrain, Preview
from selftaught.recipe import advice, config
from selftaught.recipe.build import (
    NETWORK_OPTIONS,
    complete_options,
    options_for,
)
from selftaught.recipe.config import (
    Config,
    Overrides,
    assigned_overrides,
    checked_overrides,
    flat_values,
    join_layers,
)
from selftaught.recipe.keep import check_words, keep_changes
from selftaught.recipe.presets import policy_changes, preset
from selftaught.recipe.view_settings import view_policy
from selftaught.views.policy import check_channels

_FLAGS = {  # field of options.Pretrain (some of Preview): name in the configuration
    "method": "method",
    "encoder": "network.encoder",
    "image_size": "network.image_size",
    "init": "network.init",
    "epochs": "loop.epochs",
    "batch_size": "loop.batch_size",
    "micro_batch": "loop.micro_batch",
    "lr": "loop.lr",
    "optimizer": "loop.optimizer",
    "store_size": "data.store_size",
    "seed": "seed",
    "probe": "probe",
}


@dataclass(frozen=True)
class Wishes:
    """What the user asked for.

    Attributes:
        given: The values of --set and the flags, by dotted name; flags win.
        base: The values of --preset or --config, which replace the recipe; None without either.
        policy: The view settings of a policy by name, stronger than the recipe.
        keep: The words of --keep.
        seconds: A time limit instead of a number of epochs.
    """

    given: Overrides
    base: Overrides | None = None
    policy: Overrides = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    seconds: float | None = None

    @cached_property
    def first(self) -> Config:
        """The configuration as far as it is known without the images: defaults and wishes."""
        return join_layers(self.base or {}, self.policy, self.given)


@dataclass(frozen=True)
class Resolved:
    """A configuration, and sentences that explain it to the user."""

    config: Config
    notes: tuple[str, ...]


def wishes(options: Pretrain) -> Wishes:
    """The wishes in the options of pretrain, checked as far as possible without images.

    Raises:
        ConfigError: An option is unknown, mistyped or contradicts another.
    """
    check_words(options.keep)
    if options.seconds is not None and options.epochs is not None:
        raise ConfigError("--seconds and --epochs cannot be combined", "choose one")
    if options.preset and options.config:
        raise ConfigError("--preset and --config cannot be combined", "choose one")
    asked = Wishes(
        _explicit_settings(options),
        _base_settings(options),
        keep=options.keep,
        seconds=options.seconds,
    )
    first = asked.first
    if not first.data.path:
        raise ConfigError("pretrain needs images", "pass DATA: a folder, a list or a table")
    complete_options(_without_foreign_options(first, asked.given))
    if first.network.init is None:
        check_architecture(first.network.encoder)
    else:
        _refuse_network_settings(asked.given)
    return asked


def view_wishes(options: Preview) -> Wishes:
    """The wishes in the options of preview.

    Raises:
        ConfigError: An option is unknown, mistyped or has no effect on views.
    """
    check_words(options.keep)
    given = _explicit_settings(options)
    for name in given:
        if name.startswith(("options.", "loop.")):
            what = f"--set {name.removeprefix('options.')} has no effect on views"
            raise ConfigError(what, "use --set views.NAME=VALUE")
    policy = policy_changes(options.policy) if options.policy else {}
    return Wishes(given, policy=policy, keep=options.keep)


def resolve(
    asked: Wishes, found: Checked, device: str, init: EncoderConfig | None = None
) -> Resolved:
    """The configuration for these wishes and images.

    Args:
        asked: The user's wishes.
        found: The findings in the images.
        device: Where training will run.
        init: The network of --init.

    Raises:
        ConfigError: Options do not fit the images or each other.
        DataError: There are too few images for a recipe.
    """
    if asked.base is None:
        advice.check_image_count(found)
    start = _starting_values(asked, found, device, init)
    fitting, notes = _view_changes(start, asked, found.channels)
    network = _network_changes(init) if init else _without_network_options(start, asked.given)
    layers = [start, fitting, *([network, asked.given] if init is None else [asked.given, network])]
    chosen = complete_options(_without_foreign_options(join_layers(*layers), asked.given))
    options, sentences = options_for(chosen, len(found))
    chosen = dataclasses.replace(chosen, options=dataclasses.asdict(options))
    check_channels(view_policy(chosen.views), found.channels)
    return Resolved(chosen, (*notes, *sentences))


def resolve_views(asked: Wishes, found: Checked, device: str) -> Resolved:
    """The configuration whose views pretrain would use with the same flags, or a named policy's.

    Raises:
        ConfigError: The views do not fit these images.
    """
    start = _recipe_values(asked, found, device, None) | asked.policy
    fitting, notes = _view_changes(start, asked, found.channels)
    chosen = join_layers(start, fitting, asked.given)
    check_channels(view_policy(chosen.views), found.channels)
    return Resolved(chosen, tuple(notes))


def echo(chosen: Config, found: Checked, asked: Wishes) -> str:
    """What training will do, in one to three lines."""
    network, loop = chosen.network, chosen.loop
    length = f"{loop.total_steps:,} steps" if loop.total_steps else f"{loop.epochs} epochs"
    length = length if asked.seconds is None else f"{asked.seconds:g} s"
    rejected = found.rejected.num_rows
    text = (
        f"{chosen.method} with {network.encoder} on {len(found):,} images at "
        f"{network.image_size} px: batch {loop.batch_size}, {length}, "
        f"{loop.optimizer}, lr {loop.lr:g}."
    )
    why = "\nThis recipe follows from your images and flags; selftaught check explains it."
    if find_method(chosen.method).recommended(network.encoder):
        why += f" The optimizer is the one for {chosen.method}."
    left_out = "1 image was" if rejected == 1 else f"{rejected:,} images were"
    out = f"\n{left_out} left out; rejected.parquet lists the reasons." * bool(rejected)
    return text + out + why * (asked.base is None)


# ---- the user's options


def _base_settings(options: Pretrain) -> Overrides | None:
    """The values of --preset or --config, which replace the recipe; None without either."""
    if options.config is not None:
        return flat_values(config.read_config(options.config))
    return None if options.preset is None else preset(options.preset)


def _explicit_settings(options: Pretrain | Preview) -> Overrides:
    """The values of --set and the flags, checked for type and range; flags win."""
    overrides = assigned_overrides(options.set)
    for name, place in _FLAGS.items():
        value = getattr(options, name, None)
        if value is not None:
            overrides[place] = value
    if options.data:
        overrides["data.path"] = absolute_name(options.data)
    for place in ("network.init", "probe"):
        if overrides.get(place):
            overrides[place] = absolute_name(str(overrides[place]))
    timed = isinstance(options, Pretrain) and options.seconds is not None
    if timed or getattr(options, "epochs", None) is not None:
        overrides.setdefault("loop.total_steps", 0)
    return checked_overrides(overrides, "pretrain" if isinstance(options, Pretrain) else "--set")


def _refuse_network_settings(given: Overrides) -> None:
    for name in given:
        if name.startswith("network.") and name != "network.init":
            flag = {place: f"--{flag.replace('_', '-')}" for flag, place in _FLAGS.items()}
            remedy = f"drop {flag.get(name, f'--set {name}')}"
            raise ConfigError("--init already determines the network", remedy)


# ---- the layers


def _recipe_values(
    asked: Wishes, found: Checked, device: str, init: EncoderConfig | None
) -> Overrides:
    """All values of the recipe for these images, with the user's view size if one is given."""
    size = init.image_size if init else asked.given.get("network.image_size")
    choices = advice.recommend(found, device, image_size=size)
    return flat_values(Config()) | {k: v for each in choices for k, v in each.changes.items()}


def _starting_values(
    asked: Wishes, found: Checked, device: str, init: EncoderConfig | None
) -> Mapping[str, Any]:
    """All values below --keep: the base or the recipe, with the method's recommendations."""
    if asked.base is None:
        start = _recipe_values(asked, found, device, init)
    else:
        start = flat_values(Config()) | asked.base
    wanted = {**start, **asked.given}
    if asked.base is not None and wanted["method"] == start["method"]:
        return start
    network = init.architecture if init else wanted["network.encoder"]
    recommended = find_method(wanted["method"]).recommended(network)
    return {**start, **recommended}


def _view_changes(
    start: Mapping[str, Any], asked: Wishes, channels: int
) -> tuple[Overrides, list[str]]:
    """The layer of --keep and of images without colour, and sentences on what it turned off."""
    changes, sentences = keep_changes(start, asked.keep, asked.given)
    gray = changes.get("views.gray", start["views.gray"])
    if channels == 3 or not gray or "views.gray" in asked.given:
        return changes, sentences
    number = f"{channels} channel{'s' * (channels != 1)}"
    reason = f"Colour drop is off: it needs 3 channels, and these images have {number}."
    return changes | {"views.gray": 0.0}, [*sentences, reason]


def _network_changes(init: EncoderConfig) -> Overrides:
    """The layer with the network of --init."""
    return {
        "network.encoder": init.architecture,
        "network.image_size": init.image_size,
        "network.stem": init.stem,
        **{f"network.{name}": init.options.get(name) for name in NETWORK_OPTIONS},
    }


def _without_network_options(start: Mapping[str, Any], given: Overrides) -> Overrides:
    """The layer that removes the options of a network that the user has replaced."""
    encoder = given.get("network.encoder", start["network.encoder"])
    if encoder == start["network.encoder"] or encoder in CIFAR_RESNETS:
        return {}
    return dict.fromkeys([f"network.{name}" for name in NETWORK_OPTIONS])


def _without_foreign_options(chosen: Config, given: Overrides) -> Config:
    """The configuration without another method's options, unless the user set them."""
    known = {field.name for field in dataclasses.fields(find_method(chosen.method).Options)}
    asked = {name.removeprefix("options.") for name in given if name.startswith("options.")}
    own = {n: v for n, v in chosen.options.items() if n in known | asked}
    return dataclasses.replace(chosen, options=own)
