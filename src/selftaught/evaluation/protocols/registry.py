"""The registry of protocols on labelled images; each is imported on first use."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module

from selftaught.errors import ConfigError, did_you_mean
from selftaught.evaluation.budget import SEMI_SUPERVISED, WORTH, Budget
from selftaught.evaluation.representation import EncoderRepresentation, Representation
from selftaught.evaluation.trial import Protocol

SCRATCH = "from scratch"
"""Name of the untrained network when all its weights are trained."""


@dataclass(frozen=True)
class Entry:
    """A row of the registry.

    Attributes:
        place: "module:function", a `Protocol`.
        learns: Whether it uses training labels.
        vectors: Whether it uses f(x), which protocols share and which is computed beforehand.
        numbers: Whether labels are numbers to predict, not classes.
        trains: Whether it trains all weights; only networks take part.
        few: Default numbers of labels; none: all.
        and_all: Whether it also uses all labels.
        scratch: Whether the same network trained from scratch is compared too.
        steps: Whether it trains something for epochs.
        costs: Whether it also reports the cost of the representations.
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
        """Import the protocol."""
        module, _, name = self.place.partition(":")
        protocol: Protocol = getattr(
            import_module(f"selftaught.evaluation.protocols.{module}"), name
        )
        return protocol

    def contest(self, subjects: Sequence[Representation]) -> list[tuple[Protocol, Representation]]:
        """The participants under their names here, each with its protocol."""
        if self.trains:
            from selftaught.evaluation.protocols.finetune import has_weights

            subjects = [_as_from_scratch(subject) for subject in subjects if has_weights(subject)]
        own = self.load()
        contest = [(own, subject) for subject in subjects]
        if self.scratch:
            renamed = (_as_from_scratch(subject) for subject in subjects)
            untrained = next((subject for subject in renamed if subject.name == SCRATCH), None)
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
    """Refuse unknown protocols before any image is read.

    Args:
        protocols: Names of the chosen protocols.
        others: Names of protocols outside this registry, for the hint.

    Raises:
        ConfigError: A protocol is unknown.
    """
    for name in protocols:
        if name not in PROTOCOLS:
            known = [*PROTOCOLS, *others]
            raise ConfigError(f"there is no protocol {name!r}", did_you_mean(name, known))


def check_options(protocols: Sequence[str], *, few: bool, epochs: bool) -> None:
    """Refuse options that none of the protocols uses.

    Args:
        protocols: Names of `PROTOCOLS`.
        few: Whether --few is set.
        epochs: Whether --epochs is set.

    Raises:
        ConfigError: An option would have no effect.
    """
    entries = [PROTOCOLS[name] for name in protocols]
    for name, given, uses in (
        ("few", few, [entry.learns for entry in entries]),
        ("epochs", epochs, [entry.steps for entry in entries]),
    ):
        if given and not any(uses):
            raise ConfigError(f"{', '.join(protocols)} does not use --{name}", f"drop --{name}")


def predicts_numbers(protocols: Sequence[str]) -> bool:
    """Whether the protocols predict numbers.

    Raises:
        ConfigError: Some protocols need numbers and others classes.
    """
    kinds = {PROTOCOLS[name].numbers for name in protocols}
    if len(kinds) > 1:
        raise ConfigError(
            f"{', '.join(protocols)}: some need numbers as labels, others classes",
            "run them one at a time",
        )
    return kinds == {True}


def _as_from_scratch(subject: Representation) -> Representation:
    """The representation, renamed "from scratch" if its network is untrained."""
    if isinstance(subject, EncoderRepresentation) and subject.seed is not None:
        return replace(subject, name=SCRATCH)
    return subject
