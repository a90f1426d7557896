"""From a configuration to the objects that train: encoder, views, method, plan."""

import dataclasses
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from selftaught.data.feed import Feed
from selftaught.data.labels import label
from selftaught.data.store import Images
from selftaught.encoders.encoder import Encoder, EncoderConfig, build_encoder
from selftaught.encoders.fits import check_range
from selftaught.encoders.folder import open_encoder
from selftaught.errors import ConfigError, DataError, did_you_mean
from selftaught.foundation import distributed
from selftaught.foundation.machine import Machine
from selftaught.foundation.rng import torch_seed
from selftaught.foundation.typed_values import parse_dataclass
from selftaught.methods import find_method
from selftaught.methods.method import Method
from selftaught.recipe.config import Config
from selftaught.recipe.view_settings import view_policy
from selftaught.training.schedule import scaled_lr, warmup_steps
from selftaught.training.training import Plan, Training
from selftaught.views.policy import ViewSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

NETWORK_OPTIONS = ("width", "stem_stride", "fc", "drop_rate")
"""The settings of `network.*` that are options of the architecture."""


def complete_options(config: Config) -> Config:
    """The configuration with every option of its method written out and checked.

    Raises:
        ConfigError: The method lacks an option, or its value has the wrong type.
    """
    cls = find_method(config.method).Options
    defaults = dataclasses.asdict(cls())
    for name in config.options:
        if name not in defaults:
            raise ConfigError(
                f"{config.method} has no option {name!r:.80}", did_you_mean(name[:80], defaults)
            )
    options = parse_dataclass(cls, defaults | config.options, config.method)
    return replace(config, options=dataclasses.asdict(options))


def options_for(config: Config, images: int) -> tuple[Any, list[str]]:
    """The method's options for this number of images, and its sentences about them.

    Raises:
        ConfigError: The options make no sense for this number of images.
    """
    cls = find_method(config.method)
    return cls.options_for_images(cls.Options(**config.options), images)


def view_specs(config: Config) -> tuple[ViewSpec, ...]:
    """The views that the method sees."""
    return (
        ViewSpec(
            view_policy(config.views), config.network.image_size, find_method(config.method).views
        ),
    )


def encoder_for(config: Config, images: Images) -> Encoder:
    """The encoder f, freshly initialised or continued from `network.init`."""
    network = config.network
    if network.init:
        return _pretrained_encoder(config, images)
    cls = find_method(config.method)
    options = {name: getattr(network, name) for name in NETWORK_OPTIONS}
    shape = EncoderConfig(
        architecture=network.encoder,
        in_channels=images.store.channels,
        image_size=network.image_size,
        stem=network.stem,
        options={name: value for name, value in options.items() if value is not None},
        intensity=images.checked.intensity,
        front=cls.front(cls.Options(**config.options), network.encoder),
    )
    return build_encoder(shape, seed=config.seed)


def method_for(config: Config, images: Images) -> Method:
    """The method around its encoder, with synchronised batch norm if there are several ranks."""
    cls = find_method(config.method)
    options, _ = options_for(config, len(images.store))
    f = encoder_for(config, images)
    with torch.random.fork_rng(devices=[]):  # heads draw their weights from torch's generator
        torch.default_generator.manual_seed(torch_seed(config.seed, -1))  # before step 0
        built: Any = cls(f, options, policy=view_specs(config))
    if distributed.world() > 1:
        built = distributed.synchronise_batch_norm(built)
    assert isinstance(built, Method)
    return built


def plan_for(config: Config, images: Images, device: torch.device) -> Plan:
    """The resolved numbers that the loop needs."""
    loop = config.loop
    steps_per_epoch = max(1, len(images.store) // loop.batch_size)
    total = loop.total_steps or loop.epochs * steps_per_epoch
    precision = loop.precision
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" else "float32"
    return Plan(
        epochs=-(-total // steps_per_epoch),
        batch_size=loop.batch_size,
        total_steps=total,
        seed=config.seed,
        optimizer=loop.optimizer,
        peak_lr=scaled_lr(loop.lr, loop.batch_size, loop.scaling),
        weight_decay=loop.weight_decay,
        momentum=loop.momentum,
        warmup_steps=warmup_steps(total, steps_per_epoch),
        precision=precision,
        channels_last=loop.channels_last,
        compile=loop.compile,
        log_every=loop.log_every,
        checkpoint_seconds=loop.checkpoint_seconds,
        stop_on_alarm=loop.stop_on_alarm,
        micro_batch=_micro_batch(config),
        schedule=loop.schedule,
    )


def _micro_batch(config: Config) -> int:
    """Number of images that a process embeds at once; 0: all of them."""
    size, images = config.loop.micro_batch, config.loop.batch_size // distributed.world()
    if size and images % size:
        raise ConfigError(
            f"--micro-batch {size} does not divide the {images} images per process",
            f"use {max(n for n in range(1, min(size, images) + 1) if images % n == 0)}",
        )
    return size


def training_for(config: Config, images: Images, machine: Machine) -> Training:
    """Method, views and plan, at step 0.

    Raises:
        ConfigError: There are fewer images than in a batch, or options contradict each other.
    """
    built, device = method_for(config, images), torch.device(machine.device)
    feed = Feed(
        images=images,
        specs=built.policy,
        batch_size=config.loop.batch_size,
        seed=config.seed,
        threads=machine.threads,
        device=device,
        intensity=built.encoder.config.intensity,
        labels=_labels(built, images),
        compiled=config.loop.compile,
    )
    return Training(built, feed, plan_for(config, images, device), device)


def _labels(method: Method, images: Images) -> "NDArray[Any] | None":
    """The data's labels by row, for a method that needs them or uses them if available."""
    if "labels" not in method.needs | method.wants:
        return None
    try:
        return label(images.checked).labels_N
    except DataError:
        if "labels" in method.needs:
            raise
        return None


def _pretrained_encoder(config: Config, images: Images) -> Encoder:
    """The encoder of `network.init`; its channels and value range must match the images."""
    assert config.network.init is not None
    found = open_encoder(config.network.init)
    check_range(found, images)
    if found.config.in_channels != images.store.channels:
        raise ConfigError(
            f"--init {config.network.init} takes {found.config.in_channels} channels, "
            f"the images have {images.store.channels}",
            "choose weights that match",
        )
    return found
