"""The verdict: what it says is what the paired intervals say."""

from dataclasses import replace

import pytest

from selftaught.evaluation.table import Row
from selftaught.evaluation.verdict import verdict

BUDGETS = ("1 label per class", "10 labels per class", "all labels")


def row(name: str, labels: str, value: float, low: float | None, high: float | None) -> Row:
    return Row(
        representation=name,
        protocol=f"worth, {labels}",
        split="test",
        metric="accuracy",
        seed=0,
        value=value,
        low=value - 0.01,
        high=value + 0.01,
        seconds=1.0,
        delta_low=low,
        delta_high=high,
    )


def rows(**others: tuple[float, float, float]) -> list[Row]:
    """This encoder at 0.5, and others so far below it at each budget, with intervals of 0.02."""
    found = []
    for k, labels in enumerate(BUDGETS):
        found.append(row("this encoder", labels, 0.5, None, None))
        for name, behind in others.items():
            by = behind[k]
            name = name.replace("_", " ")
            found.append(row(name, labels, 0.5 - by, by - 0.01, by + 0.01))
    return found


BASELINES = {"random_init": (0.1, 0.2, 0.3), "raw_pixels": (0.2, 0.2, 0.25)}


def test_without_such_rows_nothing_is_said() -> None:
    assert verdict([]) == []
    assert verdict([replace(row("x", "all labels", 0.5, None, None), protocol="knn")]) == []


def test_what_is_ahead_of_untrained_things_has_learnt() -> None:
    (sentence,) = verdict(rows(**BASELINES))
    assert sentence == (
        "Training helped: your encoder is ahead of random init by at least 10.0 ± 1.0 points "
        "(with 1 label per class) and of raw pixels by at least 20.0 ± 1.0 points (with 1 label "
        "per class)."
    )


def test_what_is_behind_raw_pixels_with_some_labels_depends() -> None:
    (sentence,) = verdict(rows(random_init=(0.1, 0.1, 0.1), raw_pixels=(0.1, -0.05, 0.1)))
    assert sentence == (
        "It depends on the number of labels: your encoder is behind raw pixels (no training) by "
        "5.0 ± 1.0 points with 10 labels per class, and ahead by 10.0 ± 1.0 points with 1 label "
        "per class, 10.0 ± 1.0 points with all labels."
    )


def test_without_intervals_nothing_can_be_told() -> None:
    found = [replace(row, delta_low=None, delta_high=None) for row in rows(**BASELINES)]
    assert verdict(found) == ["There are too few test images for a verdict."]


def test_what_is_behind_raw_pixels_is_not_to_be_used() -> None:
    (sentence,) = verdict(rows(random_init=(0.1, 0.1, 0.1), raw_pixels=(0.0, -0.05, 0.0)))
    assert sentence == (
        "Do not use this encoder: raw pixels did better without any training, by up to 5.0 ± 1.0 "
        "points with 10 labels per class."
    )


def test_what_cannot_be_told_from_random_is_said() -> None:
    (sentence,) = verdict(rows(random_init=(0.1, 0.005, 0.1), raw_pixels=(0.1, 0.1, 0.1)))
    assert sentence == (
        "Your encoder is not measurably ahead of random init, which needs no training."
    )


@pytest.mark.parametrize(
    ("behind", "expected"),
    [
        (
            (-0.21, -0.1, -0.3),
            "Use other: it is ahead by 21.0 ± 1.0 points with 1 label per class, 10.0 ± 1.0 points "
            "with 10 labels per class, 30.0 ± 1.0 points with all labels.",
        ),
        (
            (0.061, 0.0, 0.005),
            "Your encoder is ahead of other by 6.1 ± 1.0 points with 1 label per class; no "
            "measurable difference with 10 labels per class, all labels (at most 1.5 points).",
        ),
        (
            (0.0, 0.009, -0.009),
            "Your encoder and other do not differ measurably (at most 1.9 points).",
        ),
        (
            (0.05, 0.0, -0.05),
            "It depends on the number of labels: your encoder is ahead of other by 5.0 ± 1.0 "
            "points with 1 label per class, and behind by 5.0 ± 1.0 points with all labels; no "
            "measurable difference with 10 labels per class (at most 1.0 points).",
        ),
    ],
)
def test_beside_another_encoder(behind: tuple[float, float, float], expected: str) -> None:
    _, sentence = verdict(rows(**BASELINES, other=behind))
    assert sentence == expected


def test_from_scratch_is_judged_by_the_number_of_labels() -> None:
    _, sentence = verdict(rows(**BASELINES, from_scratch=(0.2, 0.0, -0.1)))
    assert sentence == (
        "Training the same network from scratch on the labels alone is worse with 1 label per "
        "class (by 20.0 ± 1.0 points), not measurably different with 10 labels per class (at most "
        "1.0 points), better with all labels (by 10.0 ± 1.0 points)."
    )


def test_of_several_seeds_the_widest_interval_counts() -> None:
    told = rows(**BASELINES)
    seeds = [row("random init", labels, 0.4, -0.01, 0.2) for labels in BUDGETS]
    assert "not measurably ahead of random init" in verdict([*told, *seeds])[0]


def test_what_encoders_cost_is_said_of_encoders_alone() -> None:
    found = rows(**BASELINES, other=(0.1, 0.1, 0.1))
    for name, weights, time in (("this encoder", 0.1, 0.25), ("other", 2.25, 6.5)):
        found += cost(name, weights, time)
    found += cost("raw pixels", 0.0, 0.1)
    assert verdict(found)[-1] == (
        "One vector takes your encoder 0.25 ms (0.1 million weights), other 6.5 ms (2.25 million "
        "weights)."
    )


def test_alone_an_encoder_costs_what_it_costs() -> None:
    found = rows(**BASELINES)
    assert verdict(found + cost("this encoder", 0.1, 0.25)) == verdict(found)


def cost(name: str, weights: float, time: float) -> list[Row]:
    own = row(name, "", 0.0, None, None)
    return [
        replace(own, protocol="cost", metric="million weights", value=weights),
        replace(own, protocol="cost", metric="ms per image", value=time),
    ]
