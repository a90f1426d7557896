"""`--keep`: what matters in the images, and what would teach the encoder to ignore it.

Whatever differs between the views of an image the encoder learns to ignore. docs/views.md says it
for people, and why each word takes out what it does.
"""

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

from selftaught.config import Config, ViewSettings
from selftaught.errors import ConfigError, nearest

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
"""What teaches to ignore something, by the setting that removes it."""

# Brightness is colour too: a stain, a mineral and a measured intensity are told by it. Half of the
# area is a large crop that still moves: two of a square image share a sixth of it or more.
KEEP: dict[str, dict[str, Any]] = {
    "colour": dict.fromkeys(
        ("jitter", "channel_jitter", "band_drop", "gray", "solarise", "sobel"), 0.0
    ),
    "orientation": dict.fromkeys(("flip", "rotate"), 0.0),
    "scale": {"crop_scale": (0.5, 0.5), "crop_ratio": (1.0, 1.0)},
}
"""What each word sets among `views.*`."""


def check_words(words: Iterable[str]) -> None:
    """Refuse what nobody can keep.

    Raises:
        ConfigError: A word is unknown; the nearest is named.
    """
    for word in words:
        if word not in KEEP:
            raise ConfigError(f"--keep does not know {word!r}", nearest(word, KEEP))


def keep(config: Config, words: Iterable[str], asked: Collection[str]) -> tuple[Config, list[str]]:
    """The configuration without what the words exclude, and a sentence on each word.

    Args:
        config: With the views of a recipe.
        words: Of `KEEP`; twice is once.
        asked: Dotted names that the user has set, which stay as they were said.
    """
    sentences = []
    for word in dict.fromkeys(words):
        stays = [name for name in KEEP[word] if f"views.{name}" in asked]
        changes = {name: value for name, value in KEEP[word].items() if name not in stays}
        sentences.append(_sentence(word, changes, config.views, stays))
        config = replace(config, views=replace(config.views, **changes))
    return config, sentences


def _sentence(word: str, changes: dict[str, Any], before: ViewSettings, asked: list[str]) -> str:
    done = [NAMES[name] for name, value in changes.items() if getattr(before, name) != value]
    if not done:
        text = f"--keep {word} has no effect."
    elif asked:  # what stays may teach it all the same
        text = f"--keep {word} leaves out {', '.join(done)}."
    else:
        text = f"--keep {word} leaves out {', '.join(done)}, so that the encoder does not learn to "
        text += f"ignore {word}."
    return text + "".join(f" views.{name} stays as --set says." for name in asked)
