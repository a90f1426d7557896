"""From the options of pretrain to a resolved configuration and the images that it is for.

Precedence, from weak to strong: the recipe for these images (or --preset, or --config), --set, a
flag of its own.
"""

import dataclasses
from dataclasses import dataclass

import torch

from selftaught import assemble, config, distributed, recipe
from selftaught.config import Config, Overrides, parse_assignments, with_overrides
from selftaught.data.store import Images
from selftaught.encoders.encoder import Encoder, check_architecture
from selftaught.encoders.folder import open_encoder
from selftaught.encoders.resnet import CIFAR_RESNETS
from selftaught.errors import ConfigError
from selftaught.methods import find
from selftaught.options import Pretrain
from selftaught.outputs import check_out
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
        FileError: --out or --init cannot be used.
    """
    _refuse_contradictions(options)
    given, base = _given(options), _base(options)
    first = with_overrides(base or Config(), given, "pretrain")
    init = _before_reading(first, given, options)
    looked = assemble.checked(first, options.cache, options.threads)
    if base is None:
        size = init.config.image_size if init else given.get("network.image_size")
        start = recipe.apply_advice(recipe.recommend(looked, str(device), image_size=size))
    chosen = with_overrides(base or start, given, "pretrain")
    if init is not None:
        chosen = assemble.with_encoder_of(chosen, init)
    else:
        chosen = _with_fitting_options(chosen, base or start, given)
    chosen = assemble.complete(_with_own_options(chosen, given))
    images = assemble.opened(chosen, options.cache, options.threads, looked)
    return Resolved(
        chosen, images, _echo(chosen, images, options.seconds, from_recipe=base is None)
    )


def _before_reading(first: Config, given: Overrides, options: Pretrain) -> Encoder | None:
    """Whatever can be wrong without a look at the images; the encoder that --init names."""
    if not first.data.path:
        raise ConfigError("pretrain was given no images", "name a folder, a list or a table")
    assemble.complete(_with_own_options(first, given))
    if distributed.rank() == 0:
        inputs = (first.data.path, first.network.init, first.probe)
        check_out(options.out, overwrite=options.overwrite, inputs=inputs)
    if first.network.init is None:
        check_architecture(first.network.encoder)
        return None
    for name in given:
        if name.startswith("network.") and name != "network.init":
            flag = {place: f"--{flag.replace('_', '-')}" for flag, place in _FLAGS.items()}
            remedy = f"leave {flag.get(name, f'--set {name}')} out"
            raise ConfigError("--init brings its own network", remedy)
    return open_encoder(first.network.init)


def _refuse_contradictions(options: Pretrain) -> None:
    if options.seconds is not None and options.epochs is not None:
        raise ConfigError("--seconds and --epochs contradict each other", "give one of them")
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


def _with_fitting_options(chosen: Config, start: Config, given: Overrides) -> Config:
    """Options of a network that was exchanged go with it; what was asked for stays."""
    encoder = chosen.network.encoder
    if encoder == start.network.encoder or encoder in CIFAR_RESNETS:
        return chosen
    gone = {n: None for n in ("network.width", "network.stem_stride") if n not in given}
    return with_overrides(chosen, gone, "pretrain")


def _with_own_options(chosen: Config, given: Overrides) -> Config:
    """Options that the recipe chose for another method are left out; what was asked for stays."""
    known = {field.name for field in dataclasses.fields(find(chosen.method).Options)}
    asked = {name.removeprefix("options.") for name in given if name.startswith("options.")}
    kept = {n: v for n, v in chosen.options.items() if n in known | asked}
    return dataclasses.replace(chosen, options=kept)


def _echo(chosen: Config, images: Images, seconds: float | None, *, from_recipe: bool) -> str:
    """What will be done, in a line or two."""
    network, loop = chosen.network, chosen.loop
    length = f"{loop.total_steps:,} steps" if loop.total_steps else f"{loop.epochs} epochs"
    length = length if seconds is None else f"{seconds:g} s"
    left_out = images.checked.rejected.num_rows
    text = (
        f"{chosen.method} with {network.encoder} on {len(images.store):,} images at "
        f"{network.image_size} px: batch {loop.batch_size}, {length}, "
        f"{loop.optimizer}, lr {loop.lr:g}."
    )
    why = "\nThis is the recipe for these images and your flags; selftaught check says why."
    out = f"\n{left_out} images are left out: rejected.parquet says why." if left_out else ""
    return text + out + why * from_recipe
