"""`--keep`: properties of images that matter, and the augmentations that would erase them.

The encoder learns to ignore whatever differs between the views of an image. docs/views.md explains
this for users, and why each word removes what it does.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from selftaught.errors import ConfigError, did_you_mean

NAMES = {
    "crop_scale": "crops of various sizes",
    "crop_ratio": "crops of various shapes",
    "flip": "mirroring",
    "rotate": "rotation",
    "jitter": "colour jitter",
    "channel_jitter": "channel jitter",
    "band_drop": "dropped bands",
    "gray": "colour drop",
    "solarise": "solarising",
    "sobel": "Sobel filtering",
}
"""The augmentations, by the setting that removes them."""

# Brightness is colour too: it identifies a stain, a mineral, a measured intensity. Half of the area
# is a large crop that still moves: two crops of a square image share a sixth of it or more.
KEEP: dict[str, dict[str, Any]] = {
    "colour": dict.fromkeys(
        ("jitter", "channel_jitter", "band_drop", "gray", "solarise", "sobel"), 0.0
    ),
    "orientation": dict.fromkeys(("flip", "rotate"), 0.0),
    "scale": {"crop_scale": (0.5, 0.5), "crop_ratio": (1.0, 1.0)},
}
"""The changes to `views.*` for each word."""


def check_words(words: Iterable[str]) -> None:
    """Check the words of --keep.

    Raises:
        ConfigError: A word is unknown; the error suggests the nearest.
    """
    for word in words:
        if word not in KEEP:
            raise ConfigError(f"unknown word {word!r} in --keep", did_you_mean(word, KEEP))


def keep_changes(
    views: Mapping[str, Any], words: Iterable[str], asked: Collection[str]
) -> tuple[dict[str, Any], list[str]]:
    """The changes by dotted name that the words ask for, and a sentence on each word.

    Args:
        views: The values of a recipe by dotted name, `views.*` among them.
        words: Words of `KEEP`; repeated words count once.
        asked: Dotted names that the user has set; these stay unchanged.
    """
    sentences = []
    changes: dict[str, Any] = {}
    for word in dict.fromkeys(words):
        wanted = {f"views.{name}": value for name, value in KEEP[word].items()}
        stays = [name for name in wanted if name in asked]
        new = {name: value for name, value in wanted.items() if name not in stays}
        before = {**views, **changes}
        changed = [name for name, value in new.items() if not _are_equal(before[name], value)]
        sentences.append(_sentence(word, changed, stays))
        changes |= new
    return changes, sentences


def _are_equal(before: Any, value: Any) -> bool:
    """Whether two settings are equal; a pair may be a list or a tuple."""
    return tuple(before) == value if isinstance(value, tuple) else bool(before == value)


def _sentence(word: str, changed: list[str], asked: list[str]) -> str:
    done = [NAMES[name.removeprefix("views.")] for name in changed]
    if not done:
        text = f"--keep {word} has no effect."
    elif asked:  # what stays may still teach the encoder to ignore it
        text = f"--keep {word} turns off {', '.join(done)}."
    else:
        text = f"--keep {word} turns off {', '.join(done)}, so that the encoder does not learn to "
        text += f"ignore {word}."
    return text + "".join(f" {name} stays as set with --set." for name in asked)
