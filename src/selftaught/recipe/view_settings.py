"""A policy of views as the settings `views.*`, and back."""

from typing import Any

from selftaught.recipe.config import ViewSettings
from selftaught.views import policy as policies
from selftaught.views.policy import Policy, RandomCrop

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
"""Each operation's fields and their names in `views.*`, in the order of execution."""


def view_policy(settings: ViewSettings) -> Policy:
    """The policy of views that the settings describe, without operations of probability 0."""
    operations = [
        kind(**{field: getattr(settings, name) for field, name in names.items()})
        for kind, names in OPERATIONS.items()
    ]
    used = tuple(operation for operation in operations if operation.p > 0)
    box = RandomCrop(settings.crop_scale, settings.crop_ratio)
    return Policy(box, used, settings.normalise, settings.interpolation)


def policy_settings(policy: Policy) -> dict[str, Any]:
    """A policy of views as `views.*` settings; an operation that it lacks has probability 0."""
    assert isinstance(policy.box, RandomCrop)
    found = {type(operation): operation for operation in policy.operations}
    settings: dict[str, Any] = {
        "crop_scale": policy.box.scale,
        "crop_ratio": policy.box.ratio,
        "interpolation": policy.interpolation,
        "normalise": policy.normalise,
    }
    for kind, names in OPERATIONS.items():
        operation = found.get(kind, kind(p=0.0))
        settings |= {name: getattr(operation, field) for field, name in names.items()}
    return {f"views.{name}": value for name, value in settings.items()}
