"""From a configuration to the objects that train: encoder, views, method, plan."""

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from selftaught import distributed
from selftaught.config import Config, ViewSettings, typed
from selftaught.data.batches import Feed
from selftaught.encoders.encoder import Encoder, EncoderConfig, build
from selftaught.encoders.folder import open_encoder
from selftaught.errors import ConfigError, DataError, nearest
from selftaught.machine import cache_folder
from selftaught.meanwhile import meanwhile
from selftaught.methods import find
from selftaught.methods.method import Method
from selftaught.rng import torch_seed
from selftaught.training.schedule import scaled_lr, warmup_steps
from selftaught.training.training import Plan, Training
from selftaught.views import policy as policies
from selftaught.views.policy import Policy, RandomCrop, ViewSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from selftaught.data.check import Checked
    from selftaught.data.store import Images

T = TypeVar("T")

OPERATIONS: dict[type[policies.Operation], dict[str, str]] = {
    policies.Flip: {"p": "flip"},
    policies.Rotate: {"p": "rotate"},
    policies.Jitter: {"p": "jitter"}
    | {name: name for name in ("brightness", "contrast", "saturation", "hue")},
    policies.ChannelJitter: {"p": "channel_jitter"}
    | {name: name for name in ("gain", "offset", "gamma")},
    policies.BandDrop: {"p": "band_drop", "share": "band_share"},
    policies.Gray: {"p": "gray"},
    policies.Solarise: {"p": "solarise", "threshold": "threshold"},
    policies.Blur: {"p": "blur", "sigma": "sigma"},
    policies.Noise: {"p": "noise", "sigma": "noise_sigma"},
    policies.Sobel: {"p": "sobel"},
    policies.Cutout: {"p": "cutout", "side": "cutout_side"},
}
"""Each operation's fields and their names among `views.*`, in the order in which they are done."""

NETWORK_OPTIONS = ("width", "stem_stride", "fc", "drop_rate")
"""Those of `network.*` that belong to the architecture."""


def complete(config: Config) -> Config:
    """The configuration with every option of its method written out and checked.

    Raises:
        ConfigError: The method does not know an option, or its value has the wrong type.
    """
    cls = find(config.method).Options
    defaults = dataclasses.asdict(cls())
    for name in config.options:
        if name not in defaults:
            raise ConfigError(
                f"{config.method} has no option {name!r:.80}", nearest(name[:80], defaults)
            )
    options = typed(cls, defaults | config.options, config.method)
    return replace(config, options=dataclasses.asdict(options))


def fitted(config: Config, images: int) -> tuple[Config, list[str]]:
    """The configuration for so many images, and what its method says to that.

    Raises:
        ConfigError: The method's options make no sense for so many images.
    """
    cls = find(config.method)
    options, sentences = cls.fitted(cls.Options(**config.options), images)
    return replace(config, options=dataclasses.asdict(options)), sentences


def policy(settings: ViewSettings) -> Policy:
    """The policy of views that the settings describe; operations of probability 0 are left out."""
    operations = [
        kind(**{field: getattr(settings, name) for field, name in names.items()})
        for kind, names in OPERATIONS.items()
    ]
    used = tuple(operation for operation in operations if operation.p > 0)
    box = RandomCrop(settings.crop_scale, settings.crop_ratio)
    return Policy(box, used, settings.normalise, settings.interpolation)


def view_specs(config: Config) -> tuple[ViewSpec, ...]:
    """The views that the method shall see."""
    return (ViewSpec(policy(config.views), config.network.image_size, find(config.method).views),)


def encoder(config: Config, images: "Images") -> Encoder:
    """The encoder f, freshly initialised or continued from `network.init`."""
    network = config.network
    if network.init:
        return _continued(config, images)
    cls = find(config.method)
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
    return build(shape, seed=config.seed)


def method(config: Config, images: "Images") -> Method:
    """The method around its encoder; with synchronised batch norm where there are several ranks."""
    cls = find(config.method)
    options, _ = cls.fitted(cls.Options(**config.options), len(images.store))
    f = encoder(config, images)
    with torch.random.fork_rng(devices=[]):  # heads draw their weights from torch's generator
        torch.default_generator.manual_seed(torch_seed(config.seed, -1))  # before step 0
        built: Any = cls(f, options, policy=view_specs(config))
    if distributed.world() > 1:
        built = distributed.synchronise_batch_norm(built)
    assert isinstance(built, Method)
    return built


def plan(config: Config, images: "Images", device: torch.device) -> Plan:
    """The numbers that the loop needs, all of them resolved."""
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
    """Images that a process embeds at once; 0: all of them."""
    size, images = config.loop.micro_batch, config.loop.batch_size // distributed.world()
    if size and images % size:
        raise ConfigError(
            f"--micro-batch {size} does not divide the {images} images of a process",
            f"give {max(n for n in range(1, min(size, images) + 1) if images % n == 0)}",
        )
    return size


def training(config: Config, images: "Images", device: torch.device, threads: int) -> Training:
    """Method, views and plan, at step 0.

    Raises:
        ConfigError: There are fewer images than a batch has, or options contradict each other.
    """
    built = method(config, images)
    feed = Feed(
        images=images,
        specs=built.policy,
        batch_size=config.loop.batch_size,
        seed=config.seed,
        threads=threads,
        device=device,
        intensity=built.encoder.config.intensity,
        labels=_labels(built, images),
        compiled=config.loop.compile,
    )
    return Training(built, feed, plan(config, images, device), device)


def _labels(method: Method, images: "Images") -> "NDArray[Any] | None":
    """The data's labels by row, for a method that needs them or uses them where they are."""
    from selftaught.data.labels import label

    if "labels" not in method.needs | method.wants:
        return None
    try:
        return label(images.checked).labels_N
    except DataError:
        if "labels" in method.needs:
            raise
        return None


def checked(config: Config, cache: Path | None, threads: int) -> "Checked":
    """What is in the images of a configuration, before any pixels are kept."""
    from selftaught.data.check import check
    from selftaught.data.images import find

    path, folder = config.data.path, cache_folder(cache)
    text = f"Reading {path!r} and looking at every image; the cache keeps what is found."
    return _in_turns(
        lambda: check(find(path), cache=folder, threads=threads, min_side=config.data.min_side),
        text,
    )


def opened(
    config: Config, cache: Path | None, threads: int, looked: "Checked | None" = None
) -> "Images":
    """The images of a configuration and their pixels; `looked` is what `checked` has found."""
    from selftaught.data.store import Images, open_store

    found, folder = looked or checked(config, cache, threads), cache_folder(cache)
    text = f"Decoding {len(found):,} images; the cache keeps their pixels."
    store = _in_turns(
        lambda: open_store(
            found,
            cache=folder,
            threads=threads,
            store_size=config.data.store_size,
            dct_scaling=config.data.dct_scaling,
        ),
        text,
    )
    return Images(found, store)


def _in_turns(work: Callable[[], T], text: str) -> T:
    """Process 0 does the work first and leaves the others its cache; `text` says what it is."""
    done: list[T] = []
    first = distributed.rank() == 0
    for turn in (True, False):
        if turn == first:
            with meanwhile(text) if first else contextlib.nullcontext():
                done.append(work())
        distributed.agree(False)
    return done[0]


def _continued(config: Config, images: "Images") -> Encoder:
    """Weights from elsewhere; the channel count and the image size must be the data's."""
    assert config.network.init is not None
    from selftaught.evaluation.evaluate import check_range

    found = open_encoder(config.network.init)
    check_range(found, images)
    if found.config.in_channels != images.store.channels:
        raise ConfigError(
            f"--init {config.network.init} takes {found.config.in_channels} channels, "
            f"the images have {images.store.channels}",
            "choose weights for these images",
        )
    return found
