"""Few labels: how many, and which images have them. Every encoder gets the same draws.

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
"""Number of draws of few training images that are averaged."""

_WRITTEN = re.compile(r"(\d{1,9})|(\d{1,2}(?:\.\d{1,6})?) ?%")


@dataclass(frozen=True)
class Budget:
    """A number of labels.

    Attributes:
        per_class: Images per class; or
        share: Share of each class's images, at least one image.
    """

    per_class: int | None = None
    share: float | None = None

    def __str__(self) -> str:
        if self.per_class is None:
            return f"{100 * (self.share or 0):g} % of the labels"
        return f"{self.per_class} label{'s' * (self.per_class != 1)} per class"

    def count(self, images: int) -> int:
        """Number of images taken from a class that has this many."""
        wanted = self.per_class if self.per_class is not None else round((self.share or 0) * images)
        return min(images, max(1, wanted))


SEMI_SUPERVISED = tuple(Budget(number) for number in (1, 5, 10, 100))
"""Default numbers of labels of the protocol `fewshot`."""
ALL = "all labels"
WORTH = tuple(Budget(number) for number in (1, 10, 100))
"""Default numbers of labels of the protocol `worth`, in addition to all labels."""


def budget(words: str) -> Budget:
    """A number of images per class, such as "10", or a share of them, such as "1%".

    Raises:
        ConfigError: It is neither, or it is zero.
    """
    match = _WRITTEN.fullmatch(words.strip())
    found = Budget() if match is None else _budget_from_match(match)
    if not (found.per_class or found.share):
        raise ConfigError(
            f"few = {words} is not a number of labels",
            "pass a number of images per class, or a share below 100 % such as 1%",
        )
    return found


def _budget_from_match(match: re.Match[str]) -> Budget:
    number, share = match.groups()
    return Budget(int(number)) if number else Budget(share=float(share) / 100)


def draws(trial: "Trial", few: Budget) -> tuple[list["Trial"], str]:
    """Several trials with few training images per class, and a note on them."""
    sizes = np.bincount(trial.labels, minlength=trial.classes)
    counts = [few.count(int(size)) for size in sizes]
    trials = []
    for draw in range(DRAWS):
        order = permutation(Key(trial.seed, "evaluation/few", draw), len(trial.train))
        parts = [_first_of_class(order, trial.labels, k, count) for k, count in enumerate(counts)]
        chosen = np.sort(np.concatenate(parts))
        trials.append(replace(trial, train=trial.train[chosen], labels=trial.labels[chosen]))
    note = f"mean of {DRAWS} draws of training images"
    if few.per_class is not None and sizes.min() < few.per_class:
        note += f"; all images of classes with fewer than {few.per_class}"
    if few.share is not None and (few.share * sizes[sizes > 0] < 0.5).any():
        note += f"; at least one per class: {sum(counts)} of {sizes.sum()} images"
    return trials, note


def _first_of_class(
    order: NDArray[np.int64], labels: NDArray[np.int64], k: int, count: int
) -> NDArray[np.int64]:
    """The first positions of a class in an order."""
    of_class: NDArray[np.int64] = order[labels[order] == k]
    return of_class[:count]


def partial_budgets(budgets: Sequence[Budget], labels: NDArray[np.int64]) -> list[Budget]:
    """The budgets that leave out some images; the others would be the whole set."""
    largest = int(np.bincount(labels).max()) if budgets else 0
    return [few for few in budgets if few.per_class is None or few.per_class < largest]
