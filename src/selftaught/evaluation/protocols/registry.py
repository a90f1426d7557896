"""The registry of protocols on labelled images; none is imported before it is used."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module

from selftaught.errors import ConfigError, did_you_mean
from selftaught.evaluation.budget import SEMI_SUPERVISED, WORTH, Budget
from selftaught.evaluation.representation import EncoderRepresentation, Representation
from selftaught.evaluation.trial import Protocol

SCRATCH = "from scratch"
"""What the untrained network is called where all weights are trained."""


@dataclass(frozen=True)
class Entry:
    """A row of the registry.

    Attributes:
        place: "module:function", a `Protocol`.
        learns: Whether training labels matter to it.
        vectors: Whether it looks at f(x), which protocols share and which is made beforehand.
        numbers: Whether labels are numbers to predict, and not classes.
        trains: Whether it trains all weights: only networks take part.
        few: The numbers of labels that it looks at unless others are asked for; none: all.
        and_all: Whether it looks at all labels too.
        scratch: Whether the same network that is trained from scratch stands beside the others.
        steps: Whether something in it is trained by steps, for epochs.
        costs: Whether what the representations cost is told too.
    """

    place: str
    learns: bool = True
    vectors: bool = True
    numbers: bool = False
    trains: bool = False
    few: tuple[Budget, ...] = ()
    and_all: bool = False
    scratch: bool = False
    steps: bool = False
    costs: bool = False

    def load(self) -> Protocol:
        """The protocol itself."""
        module, _, name = self.place.partition(":")
        protocol: Protocol = getattr(
            import_module(f"selftaught.evaluation.protocols.{module}"), name
        )
        return protocol

    def contest(self, subjects: Sequence[Representation]) -> list[tuple[Protocol, Representation]]:
        """Who takes part, as they are called here, and by which protocol each answers."""
        if self.trains:
            from selftaught.evaluation.protocols.finetune import takes

            subjects = [_from_scratch(subject) for subject in subjects if takes(subject)]
        own = self.load()
        contest = [(own, subject) for subject in subjects]
        if self.scratch:
            named = (_from_scratch(subject) for subject in subjects)
            untrained = next((subject for subject in named if subject.name == SCRATCH), None)
            contest += [] if untrained is None else [(PROTOCOLS["finetune"].load(), untrained)]
        return contest


PROTOCOLS = {
    "knn": Entry("knn:knn"),
    "linear": Entry("linear:linear"),
    "linear-sgd": Entry("linear_sgd:linear_sgd", steps=True),
    "fewshot": Entry("linear:linear", few=SEMI_SUPERVISED),
    "finetune": Entry("finetune:finetune", vectors=False, trains=True, steps=True),
    "regression": Entry("regression:regression", numbers=True),
    "clusters": Entry("kmeans_agreement:clusters", learns=False),
    "layers": Entry("layers:layers", vectors=False),
    "worth": Entry("linear:linear", few=WORTH, and_all=True, scratch=True, steps=True, costs=True),
}


def check_protocols(protocols: Sequence[str], others: Iterable[str] = ()) -> None:
    """Refuse what `evaluate` would refuse, before any image is read.

    Args:
        protocols: Names that were asked for.
        others: Names of protocols that are found elsewhere, for the hint.

    Raises:
        ConfigError: A protocol is unknown.
    """
    for name in protocols:
        if name not in PROTOCOLS:
            known = [*PROTOCOLS, *others]
            raise ConfigError(f"there is no protocol {name!r}", did_you_mean(name, known))


def check_options(protocols: Sequence[str], *, few: bool, epochs: bool) -> None:
    """Refuse options that none of the protocols looks at.

    Args:
        protocols: Names of `PROTOCOLS`.
        few: Whether numbers of labels are given.
        epochs: Whether a number of epochs is.

    Raises:
        ConfigError: One is given in vain.
    """
    entries = [PROTOCOLS[name] for name in protocols]
    for name, given, looks in (
        ("few", few, [entry.learns for entry in entries]),
        ("epochs", epochs, [entry.steps for entry in entries]),
    ):
        if given and not any(looks):
            raise ConfigError(
                f"{', '.join(protocols)} does not look at --{name}", f"leave --{name} out"
            )


def are_numbers(protocols: Sequence[str]) -> bool:
    """Whether labels shall be numbers.

    Raises:
        ConfigError: Some protocols want numbers and others classes.
    """
    kinds = {PROTOCOLS[name].numbers for name in protocols}
    if len(kinds) > 1:
        raise ConfigError(
            f"{', '.join(protocols)}: some want numbers as labels, others classes",
            "ask for them one at a time",
        )
    return kinds == {True}


def _from_scratch(subject: Representation) -> Representation:
    """An untrained network whose weights are all trained is one that is trained from scratch."""
    if isinstance(subject, EncoderRepresentation) and subject.seed is not None:
        return replace(subject, name=SCRATCH)
    return subject
