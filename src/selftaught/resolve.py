"""From the options of pretrain to a resolved configuration and the images that it is for.

Precedence, from weak to strong: the recipe for these images (or --preset, or --config), --set, a
flag of its own.
"""

import dataclasses
from dataclasses import dataclass

import torch

from selftaught import assemble, config, recipe
from selftaught.config import Config, Overrides, parse_assignments, with_overrides
from selftaught.data.store import Images
from selftaught.encoders.folder import open_encoder
from selftaught.errors import ConfigError
from selftaught.options import Pretrain
from selftaught.presets import preset

_FLAGS = {  # field of options.Pretrain: name in the configuration
    "method": "method",
    "encoder": "network.encoder",
    "image_size": "network.image_size",
    "init": "network.init",
    "epochs": "loop.epochs",
    "batch_size": "loop.batch_size",
    "lr": "loop.lr",
    "optimizer": "loop.optimizer",
    "store_size": "data.store_size",
    "seed": "seed",
    "probe": "probe",
}


@dataclass(frozen=True)
class Resolved:
    """A configuration, its images, and what to tell the user about the choice."""

    config: Config
    images: Images
    echo: str


def resolve(options: Pretrain, device: torch.device) -> Resolved:
    """The configuration that the options ask for, completed by the recipe for the images.

    Raises:
        ConfigError: An option is unknown, mistyped or contradicts another.
        DataError: The images cannot be used.
    """
    _refuse_contradictions(options)
    given = _given(options)
    base = _base(options)
    first = with_overrides(base or Config(), given)
    if not first.data.path:
        raise ConfigError("pretrain was given no images", "name a folder, a list or a table")
    images = assemble.opened(first, options.cache, options.threads)
    if base is not None:
        chosen, echo = first, ""
    else:
        advice = recipe.recommend(images.checked, str(device), image_size=options.image_size)
        chosen = with_overrides(recipe.apply_advice(advice), given)
        echo = "The recipe for these images; flags change it:\n" + recipe.text(advice)
    chosen = _with_fitting_network(chosen, options)
    if chosen.data != first.data:
        images = assemble.opened(chosen, options.cache, options.threads)
    return Resolved(assemble.complete(chosen), images, echo)


def _refuse_contradictions(options: Pretrain) -> None:
    if options.seconds is not None and options.epochs is not None:
        raise ConfigError("--seconds and --epochs contradict each other", "give one of them")
    if options.seconds is not None and options.seconds <= 0:
        raise ConfigError(f"--seconds {options.seconds:g} is no time", "give more than 0")
    if options.preset and options.config:
        raise ConfigError("--preset and --config are both a beginning", "give one of them")


def _base(options: Pretrain) -> Config | None:
    """What stands in the place of the recipe, if anything does."""
    if options.config is not None:
        return config.read(options.config)
    if options.preset is not None:
        return with_overrides(Config(), preset(options.preset), "--preset")
    return None


def _given(options: Pretrain) -> Overrides:
    """What the user asked for by --set and by flags, flags last."""
    overrides = parse_assignments(options.set)
    for name, place in _FLAGS.items():
        value = getattr(options, name)
        if value is not None:
            overrides[place] = value
    if options.data:
        overrides["data.path"] = assemble.lasting(options.data)
    for place in ("network.init", "probe"):
        if overrides.get(place):
            overrides[place] = assemble.lasting(str(overrides[place]))
    if options.epochs is not None or options.seconds is not None:
        overrides.setdefault("loop.total_steps", 0)
    return overrides


def _with_fitting_network(chosen: Config, options: Pretrain) -> Config:
    """With --init the network is the one found there; options of a network go with it."""
    if chosen.network.init:
        if options.encoder:
            raise ConfigError("--init brings its own network", "leave --encoder out")
        return assemble.with_encoder_of(chosen, open_encoder(chosen.network.init))
    named = {a.partition("=")[0] for a in options.set}
    if recipe.is_small_resnet(chosen.network.encoder):
        return chosen
    network = chosen.network
    if "network.width" not in named:
        network = dataclasses.replace(network, width=None)
    if "network.stem_stride" not in named:
        network = dataclasses.replace(network, stem_stride=None)
    return dataclasses.replace(chosen, network=network)
