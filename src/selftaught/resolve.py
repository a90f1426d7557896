"""From the options of pretrain to a resolved configuration and the images that it is for.

Precedence, from weak to strong: the recipe for these images (or --preset, or --config), --keep,
--set, a flag of its own. The views that `views` draws are resolved here too, by the same rules.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from selftaught import assemble, config, distributed, recipe
from selftaught.assignments import parse_assignments
from selftaught.config import Config, Overrides, with_overrides
from selftaught.data.check import Checked
from selftaught.data.store import Images
from selftaught.encoders.encoder import Encoder, check_architecture
from selftaught.encoders.folder import open_encoder
from selftaught.encoders.resnet import CIFAR_RESNETS
from selftaught.errors import ConfigError
from selftaught.keep import check_words, keep
from selftaught.methods import find
from selftaught.options import Pretrain, Views
from selftaught.outputs import check_out
from selftaught.presets import policy_named, preset
from selftaught.views.policy import check_channels

_FLAGS = {  # field of options.Pretrain (some of options.Views): name in the configuration
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
        recipe.check_enough(looked)
    start = base or _advised(looked, device, init.config.image_size if init else None, given)
    if base is None or first.method != base.method:
        start = _recommended(start, given, init)
    fitting, left_out = _with_fitting_views(start, options.keep, given, looked.channels)
    chosen = with_overrides(fitting, given, "pretrain")
    if init is not None:
        chosen = _with_encoder_of(chosen, init)
    else:
        chosen = _with_fitting_options(chosen, start, given)
    chosen = assemble.complete(_with_own_options(chosen, given))
    chosen, expected = assemble.fitted(chosen, len(looked))
    check_channels(assemble.policy(chosen.views), looked.channels)
    images = assemble.opened(chosen, options.cache, options.threads, looked)
    echo = _echo(chosen, images, options.seconds, from_recipe=base is None)
    return Resolved(chosen, images, "\n".join([echo, *left_out, *expected]))


def _recommended(start: Config, given: Overrides, init: Encoder | None) -> Config:
    """The recipe with what the method asks for with its encoder."""
    asked = with_overrides(start, given, "pretrain")
    architecture = init.config.architecture if init else asked.network.encoder
    return with_overrides(start, find(asked.method).recommended(architecture), asked.method)


def resolve_views(options: Views, device: torch.device) -> Resolved:
    """The views that pretrain would use with the same flags, or those of a policy by name.

    Raises:
        ConfigError: An option is unknown, mistyped or makes no sense for these images.
        DataError: The images cannot be used.
    """
    check_words(options.keep)
    given, named = _given(options), policy_named(options.policy) if options.policy else {}
    for name in given:
        if name.startswith(("options.", "loop.")):
            raise ConfigError(f"{name} has no effect on views", "give --set views.NAME=VALUE")
    first = with_overrides(Config(), named | given, "--set")
    looked = assemble.checked(first, options.cache, options.threads)
    start = with_overrides(_advised(looked, device, None, given), named, "--policy")
    fitting, left_out = _with_fitting_views(start, options.keep, given, looked.channels)
    chosen = with_overrides(fitting, given, "--set")
    check_channels(assemble.policy(chosen.views), looked.channels)
    images = assemble.opened(chosen, options.cache, options.threads, looked)
    return Resolved(chosen, images, "\n".join(left_out))


def lasting(name: str) -> str:
    """A path that means the same from another working directory; other names as they are.

    The name of a packaged set means the set, as `data.images.find` has it, whatever lies here.
    """
    from selftaught.data.images import PACKAGED

    is_path = name not in PACKAGED and Path(name).exists()
    return str(Path(name).resolve()) if is_path else name


def _before_reading(first: Config, given: Overrides, options: Pretrain) -> Encoder | None:
    """Whatever can be wrong without a look at the images; the encoder that --init names."""
    if not first.data.path:
        raise ConfigError("pretrain was given no images", "name a folder, a list or a table")
    assemble.complete(_with_own_options(first, given))
    if distributed.rank() == 0:
        inputs = (first.data.path, first.network.init, first.probe)
        check_out(options.out, "a run", overwrite=options.overwrite, inputs=inputs)
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
    check_words(options.keep)
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


def _given(options: Pretrain | Views) -> Overrides:
    """What the user asked for by --set and by flags, flags last."""
    overrides = parse_assignments(options.set)
    for name, place in _FLAGS.items():
        value = getattr(options, name, None)
        if value is not None:
            overrides[place] = value
    if options.data:
        overrides["data.path"] = lasting(options.data)
    for place in ("network.init", "probe"):
        if overrides.get(place):
            overrides[place] = lasting(str(overrides[place]))
    timed = isinstance(options, Pretrain) and options.seconds is not None
    if timed or getattr(options, "epochs", None) is not None:
        overrides.setdefault("loop.total_steps", 0)
    return overrides


def _advised(looked: Checked, device: torch.device, size: int | None, given: Overrides) -> Config:
    """The recipe for these images, and for the size of a view that was asked for."""
    size = size or given.get("network.image_size")
    return recipe.apply_advice(recipe.recommend(looked, str(device), image_size=size))


def _with_fitting_views(
    start: Config, words: Iterable[str], given: Overrides, channels: int
) -> tuple[Config, list[str]]:
    """Views for what matters in images of so many channels, and what was left out of them."""
    kept, sentences = keep(start, words, given)
    if channels == 3 or not kept.views.gray or "views.gray" in given:
        return kept, sentences
    reason = f"Colour drop is left out: it needs 3 channels, these images have {channels}."
    return with_overrides(kept, {"views.gray": 0.0}), [*sentences, reason]


def _with_encoder_of(config: Config, found: Encoder) -> Config:
    """The configuration with the network of an encoder that `--init` named."""
    shape = found.config
    changes = {
        "network.encoder": shape.architecture,
        "network.image_size": shape.image_size,
        "network.stem": shape.stem,
        **{f"network.{name}": shape.options.get(name) for name in assemble.NETWORK_OPTIONS},
    }
    return with_overrides(config, changes, "--init")


def _with_fitting_options(chosen: Config, start: Config, given: Overrides) -> Config:
    """Options of a network that was exchanged go with it; what was asked for stays."""
    encoder = chosen.network.encoder
    if encoder == start.network.encoder or encoder in CIFAR_RESNETS:
        return chosen
    options = [f"network.{name}" for name in assemble.NETWORK_OPTIONS]
    return with_overrides(chosen, {n: None for n in options if n not in given}, "pretrain")


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
    if find(chosen.method).recommended(network.encoder):
        why += f" The optimizer is {chosen.method}'s."
    out = f"\n{left_out} images are left out: rejected.parquet says why." if left_out else ""
    return text + out + why * from_recipe
