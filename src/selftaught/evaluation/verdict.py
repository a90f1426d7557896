"""Is the encoder worth it? The tables of the protocol `worth` summarised in sentences.

Differences are in points (hundredths of accuracy), "ahead by 6.1 ± 1.2": the difference of the
values and half of the paired 95 % interval. If the interval includes 0, neither is ahead.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from selftaught.evaluation.cost import COST, TIME, WEIGHTS
from selftaught.evaluation.protocols.registry import SCRATCH
from selftaught.evaluation.table import Row

WORTH = "worth, "
"""Start of the protocol's name in its rows, before the number of labels."""

_BASELINES = ("random init", "raw pixels")


@dataclass(frozen=True)
class Lead:
    """Lead of this encoder over another, in points; negative if behind.

    Attributes:
        labels: Number of labels, in words.
        points: The difference.
        half: Half of its 95 % interval.
        significant: Whether the interval excludes 0.
    """

    labels: str
    points: float
    half: float
    significant: bool

    @property
    def ahead(self) -> bool:
        """Significantly ahead."""
        return self.significant and self.points > 0

    @property
    def behind(self) -> bool:
        """Significantly behind."""
        return self.significant and self.points < 0

    @property
    def largest(self) -> float:
        """The largest plausible difference, in points."""
        return abs(self.points) + self.half

    @property
    def amount(self) -> str:
        """The difference in words."""
        return f"{abs(self.points):.1f} ± {self.half:.1f} points"

    def __str__(self) -> str:
        return f"{self.amount} with {self.labels}"


def verdict(rows: Sequence[Row]) -> list[str]:
    """Sentences that summarise the rows of `worth`; none without such rows."""
    worth = [row for row in rows if row.protocol.startswith(WORTH) and row.metric == "accuracy"]
    if not worth:
        return []
    ours, *others = dict.fromkeys(row.representation for row in worth)
    leads = {name: _leads(worth, ours, name) for name in others}
    if not any(leads.values()):
        return ["There are too few test images for a verdict."]
    encoders = [name for name in others if name not in (*_BASELINES, SCRATCH)]
    sentences = [_training_sentence({name: leads[name] for name in _BASELINES if name in leads})]
    sentences += [_comparison_sentence(name, leads[name]) for name in encoders]
    sentences += [_scratch_sentence(leads[SCRATCH])] if SCRATCH in leads else []
    return sentences + _cost_sentences(rows, ours, encoders)


def _leads(rows: Sequence[Row], ours: str, name: str) -> list[Lead]:
    """Our leads over another from few labels to all; of several seeds the widest interval."""
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


def _training_sentence(leads: dict[str, list[Lead]]) -> str:
    """Whether training helped: is the encoder ahead of the untrained baselines?"""
    beaten = [name for name, of in leads.items() if of and all(lead.ahead for lead in of)]
    if len(beaten) == len(leads):
        amounts = " and of ".join(map(_smallest_lead, leads.items()))
        return f"Training helped: your encoder is ahead of {amounts}."
    worse = [name for name, of in leads.items() if any(lead.behind for lead in of)]
    if any(lead.ahead for name in worse for lead in leads[name]):
        parts = "; ".join(_behind_and_ahead(name, leads[name]) for name in worse)
        return f"It depends on the number of labels: your encoder is {parts}."
    if worse:
        return (
            f"Do not use this encoder: {' and '.join(worse)} did better without any training, "
            f"by up to {_worst([lead for name in worse for lead in leads[name]])}."
        )
    level = [name for name in leads if name not in beaten]
    need = "needs" if level == ["random init"] else "need"
    names = " and ".join(level)
    return f"Your encoder is not measurably ahead of {names}, which {need} no training."


def _smallest_lead(pair: tuple[str, list[Lead]]) -> str:
    name, leads = pair
    least = _worst(leads)
    return f"{name} by at least {least.amount} (with {least.labels})"


def _behind_and_ahead(name: str, leads: Sequence[Lead]) -> str:
    """A clause on an untrained baseline that is ahead with some numbers of labels."""
    behind, ahead = [x for x in leads if x.behind], [x for x in leads if x.ahead]
    last = f", and ahead by {_lead_list(ahead)}" if ahead else ""
    return f"behind {name} (no training) by {_lead_list(behind)}{last}"


def _worst(leads: Sequence[Lead]) -> Lead:
    return min(leads, key=lambda lead: lead.points)


def _comparison_sentence(name: str, leads: Sequence[Lead]) -> str:
    """A sentence on this encoder and another one."""
    ahead, behind = [x for x in leads if x.ahead], [x for x in leads if x.behind]
    if behind and not ahead:
        return f"Use {name}: it is ahead by {_lead_list(behind)}{_level_clause(leads)}."
    if ahead and not behind:
        return f"Your encoder is ahead of {name} by {_lead_list(ahead)}{_level_clause(leads)}."
    if not ahead:
        return f"Your encoder and {name} do not differ measurably ({_largest_difference(leads)})."
    return (
        f"It depends on the number of labels: your encoder is ahead of {name} by "
        f"{_lead_list(ahead)}, and behind by {_lead_list(behind)}{_level_clause(leads)}."
    )


def _scratch_sentence(leads: Sequence[Lead]) -> str:
    """A sentence on whether training on the labels alone would have been enough."""
    words = {True: "worse", False: "better"}
    parts = [
        f"{words[lead.ahead]} with {lead.labels} (by {lead.amount})"
        if lead.significant
        else f"not measurably different with {lead.labels} ({_largest_difference([lead])})"
        for lead in leads
    ]
    return f"Training the same network from scratch on the labels alone is {', '.join(parts)}."


def _largest_difference(leads: Sequence[Lead]) -> str:
    """The largest plausible difference in words."""
    return f"at most {max(lead.largest for lead in leads):.1f} points"


def _cost_sentences(rows: Sequence[Row], ours: str, others: Sequence[str]) -> list[str]:
    """A sentence on the cost of the encoders, if there are several."""
    cost = {(row.representation, row.metric): row.value for row in rows if row.protocol == COST}
    known = [name for name in (ours, *others) if (name, TIME) in cost]
    if ours not in known or len(known) < 2:
        return []
    parts = [
        f"{cost[name, TIME]:.3g} ms ({cost[name, WEIGHTS]:.3g} million weights)" for name in known
    ]
    first, *rest = parts
    others_cost = [f"{name} {part}" for name, part in zip(known[1:], rest, strict=True)]
    return [f"One vector takes your encoder {first}, {', '.join(others_cost)}."]


def _lead_list(leads: Sequence[Lead]) -> str:
    return ", ".join(map(str, leads))


def _level_clause(leads: Sequence[Lead]) -> str:
    """A clause on the numbers of labels with which neither is ahead."""
    level = [lead for lead in leads if not lead.significant]
    labels = ", ".join(lead.labels for lead in level)
    return (
        f"; no measurable difference with {labels} ({_largest_difference(level)})" if level else ""
    )
