"""Is the encoder worth it? The tables of the protocol `worth` in honest sentences.

Differences are in points (hundredths of accuracy), "ahead by 6.1 ± 1.2": the difference of the
values and half of the paired 95 % interval. What the interval cannot tell from 0 is level.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from selftaught.evaluation.cost import COST, TIME, WEIGHTS
from selftaught.evaluation.protocols.registry import SCRATCH
from selftaught.evaluation.table import Row

WORTH = "worth, "
"""How the protocol's rows are called, before the number of labels."""

_BASELINES = ("random init", "raw pixels")


@dataclass(frozen=True)
class Lead:
    """How far the encoder in question is ahead of another, in points; behind where below 0.

    Attributes:
        labels: With how many labels, in words.
        points: The difference.
        half: Half of its 95 % interval.
        sure: Whether that does not hold 0.
    """

    labels: str
    points: float
    half: float
    sure: bool

    @property
    def ahead(self) -> bool:
        """Surely ahead."""
        return self.sure and self.points > 0

    @property
    def behind(self) -> bool:
        """Surely behind."""
        return self.sure and self.points < 0

    @property
    def within(self) -> float:
        """How far apart they may be, in points, as far as anybody can tell."""
        return abs(self.points) + self.half

    @property
    def amount(self) -> str:
        """How far apart they are, in words."""
        return f"{abs(self.points):.1f} ± {self.half:.1f} points"

    def __str__(self) -> str:
        return f"{self.amount} with {self.labels}"


def verdict(rows: Sequence[Row]) -> list[str]:
    """What to make of the rows of `worth`, a sentence each; nothing without such rows."""
    asked = [row for row in rows if row.protocol.startswith(WORTH) and row.metric == "accuracy"]
    if not asked:
        return []
    ours, *others = dict.fromkeys(row.representation for row in asked)
    leads = {name: _leads(asked, ours, name) for name in others}
    if not any(leads.values()):
        return ["There are too few test images to tell anything."]
    encoders = [name for name in others if name not in (*_BASELINES, SCRATCH)]
    sentences = [_learnt({name: leads[name] for name in _BASELINES if name in leads})]
    sentences += [_beside(name, leads[name]) for name in encoders]
    sentences += [_scratch(leads[SCRATCH])] if SCRATCH in leads else []
    return sentences + _costs(rows, ours, encoders)


def _leads(rows: Sequence[Row], ours: str, name: str) -> list[Lead]:
    """From few labels to all, how far ours is ahead of another; of several seeds the widest."""
    found = []
    for protocol in dict.fromkeys(row.protocol for row in rows):
        here = [row for row in rows if row.protocol == protocol]
        own = next(row.value for row in here if row.representation == ours)
        seeds = [row for row in here if row.representation == name]
        lows = [row.delta_low for row in seeds if row.delta_low is not None]
        highs = [row.delta_high for row in seeds if row.delta_high is not None]
        if lows and highs:
            low, high = 100 * min(lows), 100 * max(highs)
            points = 100 * (own - sum(row.value for row in seeds) / len(seeds))
            labels = protocol.removeprefix(WORTH)
            found.append(Lead(labels, points, (high - low) / 2, low > 0 or high < 0))
    return found


def _learnt(leads: dict[str, list[Lead]]) -> str:
    """Whether training has led anywhere: ahead of what needs no training."""
    beaten = [name for name, of in leads.items() if of and all(lead.ahead for lead in of)]
    if len(beaten) == len(leads):
        return f"It has learnt: ahead of {' and of '.join(map(_by, leads.items()))}."
    worse = [name for name, of in leads.items() if any(lead.behind for lead in of)]
    if any(lead.ahead for name in worse for lead in leads[name]):
        return f"It depends on the labels: {'; '.join(_both(name, leads[name]) for name in worse)}."
    if worse:
        return (
            f"Do not use it as it is: {' and '.join(worse)}, without any training, ahead by "
            f"{_worst([lead for name in worse for lead in leads[name]])}."
        )
    level = [name for name in leads if name not in beaten]
    need = "needs" if len(level) == 1 else "need"
    return f"It is not surely ahead of {' and '.join(level)}, which {need} no training."


def _by(pair: tuple[str, list[Lead]]) -> str:
    name, leads = pair
    least = _worst(leads)
    return f"{name} by at least {least.amount} (with {least.labels})"


def _both(name: str, leads: Sequence[Lead]) -> str:
    """Of what needs no training and is ahead with some numbers of labels."""
    behind, ahead = [x for x in leads if x.behind], [x for x in leads if x.ahead]
    last = f", behind by {_listed(ahead)}" if ahead else ""
    return f"{name}, without any training, ahead by {_listed(behind)}{last}"


def _worst(leads: Sequence[Lead]) -> Lead:
    return min(leads, key=lambda lead: lead.points)


def _beside(name: str, leads: Sequence[Lead]) -> str:
    """This encoder or the other one?"""
    ahead, behind = [x for x in leads if x.ahead], [x for x in leads if x.behind]
    if behind and not ahead:
        return f"Use {name}: it is ahead by {_listed(behind)}{_level(leads)}."
    if ahead and not behind:
        return f"Your encoder is ahead of {name} by {_listed(ahead)}{_level(leads)}."
    if not ahead:
        return f"Beside {name} no difference can be told ({_within(leads)})."
    return (
        f"It depends on the labels: your encoder is ahead of {name} by {_listed(ahead)}, and "
        f"behind by {_listed(behind)}{_level(leads)}."
    )


def _scratch(leads: Sequence[Lead]) -> str:
    """Is it worth training without labels, or would the labels alone have done?"""
    words = {True: "worse", False: "better"}
    parts = [
        f"{words[lead.ahead]} with {lead.labels} (by {lead.amount})"
        if lead.sure
        else f"no different, as far as can be told, with {lead.labels} ({_within([lead])})"
        for lead in leads
    ]
    return f"Training the same network from scratch on the labels alone is {', '.join(parts)}."


def _within(leads: Sequence[Lead]) -> str:
    """How large a difference may have been missed."""
    return f"within {max(lead.within for lead in leads):.1f} points"


def _costs(rows: Sequence[Row], ours: str, others: Sequence[str]) -> list[str]:
    """What the encoders take, where there are several of them."""
    cost = {(row.representation, row.metric): row.value for row in rows if row.protocol == COST}
    known = [name for name in (ours, *others) if (name, TIME) in cost]
    if ours not in known or len(known) < 2:
        return []
    parts = [
        f"{cost[name, TIME]:.3g} ms ({cost[name, WEIGHTS]:.3g} million weights)" for name in known
    ]
    first, *rest = parts
    beside = [f"{name} {part}" for name, part in zip(known[1:], rest, strict=True)]
    return [f"A vector costs your encoder {first}, {', '.join(beside)}."]


def _listed(leads: Sequence[Lead]) -> str:
    return ", ".join(map(str, leads))


def _level(leads: Sequence[Lead]) -> str:
    """With how many labels neither is ahead."""
    level = [lead for lead in leads if not lead.sure]
    labels = ", ".join(lead.labels for lead in level)
    return f"; with {labels} no difference can be told ({_within(level)})" if level else ""
