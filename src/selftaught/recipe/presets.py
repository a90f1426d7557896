"""Named recipes: the papers', and ours for machines without a GPU.

Sources: SimCLR's README commands and defaults (google-research/simclr), Chen et al. 2020. Every
preset is a set of changes to `config.Config`; docs/methods/simclr.md has the table.
"""

from typing import Any

from selftaught.errors import ConfigError, did_you_mean
from selftaught.recipe.view_settings import policy_settings
from selftaught.views.policy import PRESETS as POLICIES

PRESETS: dict[str, dict[str, Any]] = {
    "simclr-imagenet": {
        "network.encoder": "resnet50",
        "network.image_size": 224,
        "loop.batch_size": 4096,
        "loop.epochs": 100,
        "loop.optimizer": "lars",
        "loop.lr": 0.3,
        "loop.scaling": "linear",
        "loop.weight_decay": 1e-6,  # the paper's and TF2's; the README's command says 1e-4
        "options.temperature": 0.1,
        "options.head": "paper",
    },
    "simclr-cifar10": {
        "network.encoder": "resnet18",
        "network.image_size": 32,
        "network.stem": "small",
        "loop.batch_size": 512,
        "loop.epochs": 1000,
        "loop.optimizer": "lars",
        "loop.lr": 1.0,
        "loop.scaling": "linear",
        "loop.weight_decay": 1e-4,
        "options.temperature": 0.5,
        "options.head": "released",
    },
    "deepcluster-imagenet": {
        "method": "deepcluster",
        "network.encoder": "alexnet",
        "network.image_size": 224,
        "loop.batch_size": 256,
        "loop.epochs": 500,  # the paper's table 1; the released code's default is 200
        "loop.optimizer": "sgd",
        "loop.lr": 0.05,
        "loop.schedule": "constant",
        "loop.scaling": "none",
        "loop.weight_decay": 1e-5,
        "options.k": 10_000,
    },
    # Chosen on CIFAR-10 with two CPU cores (benchmarks/cifar10_cpu.py).
    "small": {
        "network.encoder": "resnet8",
        "network.width": 16,
        "network.stem_stride": 2,
        "loop.batch_size": 256,
        "loop.optimizer": "adamw",
        "loop.lr": 5e-3,
        "loop.scaling": "none",
        "loop.weight_decay": 1e-4,
        "options.temperature": 0.2,
        "options.head": "bn",
        "options.hidden": 256,
        "options.projection": 128,
        "views.crop_scale": (0.2, 1.0),
    },
}

FIGURE = "figure"
"""`views --policy` also accepts this: not a policy but the paper's figure of all operations."""

_POLICY_OF = {
    "simclr-imagenet": "simclr_imagenet",
    "simclr-cifar10": "simclr_cifar",
    "deepcluster-imagenet": "deepcluster",
    "small": "simclr_cifar",
}


def preset(name: str) -> dict[str, Any]:
    """The changes that a named preset makes, including its policy of views.

    Raises:
        ConfigError: No preset has this name.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}", did_you_mean(name, PRESETS))
    return policy_settings(POLICIES[_POLICY_OF[name]]()) | PRESETS[name]


def policy_changes(name: str) -> dict[str, Any]:
    """The changes that a policy of views makes, by its name in views/policy.py; none for `figure`.

    Raises:
        ConfigError: No policy has this name.
    """
    if name == FIGURE:
        return {}
    if name not in POLICIES:
        raise ConfigError(f"unknown policy {name!r}", did_you_mean(name, [*POLICIES, FIGURE]))
    return policy_settings(POLICIES[name]())
