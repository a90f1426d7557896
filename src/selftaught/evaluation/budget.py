"""Few labels: how many, and which images have them. Several draws, the same for all encoders.

Shapes:  n training images; K classes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from selftaught.errors import ConfigError
from selftaught.foundation.rng import Key, permutation

if TYPE_CHECKING:
    from selftaught.evaluation.trial import Trial

DRAWS = 5
"""Draws of few training images that are averaged."""

_WRITTEN = re.compile(r"(\d{1,9})|(\d{1,2}(?:\.\d{1,6})?) ?%")


@dataclass(frozen=True)
class Budget:
    """So many labels.

    Attributes:
        each: Images of each class; or
        share: Of each class's images, one image at least.
    """

    each: int | None = None
    share: float | None = None

    def __str__(self) -> str:
        if self.each is None:
            return f"{100 * (self.share or 0):g} % of the labels"
        return f"{self.each} label{'s' * (self.each != 1)} a class"

    def count(self, images: int) -> int:
        """How many of a class's images it allows; never more than there are."""
        wanted = self.each if self.each is not None else round((self.share or 0) * images)
        return min(images, max(1, wanted))


SEMI_SUPERVISED = tuple(Budget(each) for each in (1, 5, 10, 100))
"""What the protocol `fewshot` looks at where nothing else is asked for."""
ALL = "all labels"
WORTH = tuple(Budget(each) for each in (1, 10, 100))
"""What the verdict `worth` looks at besides all labels."""


def budget(words: str) -> Budget:
    """A number of images a class, such as "10", or a share of them, such as "1%".

    Raises:
        ConfigError: It is neither, or nothing.
    """
    match = _WRITTEN.fullmatch(words.strip())
    found = Budget() if match is None else _read(match)
    if not (found.each or found.share):
        raise ConfigError(
            f"few is {words}", "give a number of images a class, or a share below 100 % such as 1%"
        )
    return found


def _read(match: re.Match[str]) -> Budget:
    each, share = match.groups()
    return Budget(int(each)) if each else Budget(share=float(share) / 100)


def draws(trial: "Trial", few: Budget) -> tuple[list["Trial"], str]:
    """Several trials with few training images of each class, and a note on them."""
    sizes = np.bincount(trial.labels, minlength=trial.classes)
    counts = [few.count(int(size)) for size in sizes]
    trials = []
    for draw in range(DRAWS):
        order = permutation(Key(trial.seed, "evaluation/few", draw), len(trial.train))
        parts = [_first(order, trial.labels, k, count) for k, count in enumerate(counts)]
        chosen = np.sort(np.concatenate(parts))
        trials.append(replace(trial, train=trial.train[chosen], labels=trial.labels[chosen]))
    note = f"mean of {DRAWS} draws of training images"
    if few.each is not None and sizes.min() < few.each:
        note += f"; of a class with fewer than {few.each}, all"
    if few.share is not None and (few.share * sizes[sizes > 0] < 0.5).any():
        note += f"; one of each class at least: {sum(counts)} of {sizes.sum()} images"
    return trials, note


def _first(
    order: NDArray[np.int64], labels: NDArray[np.int64], k: int, count: int
) -> NDArray[np.int64]:
    """The first few positions of a class in an order."""
    of_class: NDArray[np.int64] = order[labels[order] == k]
    return of_class[:count]


def worth_trying(budgets: Sequence[Budget], labels: NDArray[np.int64]) -> list[Budget]:
    """Without those that give every class all of its images: that is the whole set."""
    largest = int(np.bincount(labels).max()) if budgets else 0
    return [few for few in budgets if few.each is None or few.each < largest]
