"""A line of an evaluation table: one figure of one representation, with everything that qualifies it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One measured figure."""

    representation: str
    """"this encoder", "random init", "raw pixels", or the name that the user gave."""
    protocol: str
    """"knn", "linear", "linear-sgd", "clusters", ...; with its labels a class where there are few."""
    split: str
    """The images that it was measured on, in words: "test (given)"."""
    metric: str
    """"accuracy", "balanced accuracy", "mean average precision", "average precision", "NMI"."""
    seed: int
    """Of the random network that was measured; otherwise that of the evaluation."""
    value: float
    low: float | None
    """Lower end of the 95 % bootstrap interval over test images; None where there is none."""
    high: float | None
    seconds: float
    """Of wall clock for the protocol; features count where they were not cached."""
    note: str = ""
    """What a reader must know: "k = 200 was clipped to 131"."""
    delta_low: float | None = None
    """The 95 % interval of "this encoder minus it", paired on the same resampled test images."""
    delta_high: float | None = None
