"""Hypotheses of single matches the slow way: plain trigonometry, one match after the other."""

from math import cos, hypot, log, sin

Keypoint = tuple[float, float, float, float]  # x, y, scale, angle
Transform = tuple[tuple[float, float, float], tuple[float, float, float]]


def similarity(query: Keypoint, candidate: Keypoint) -> Transform:
    """Turn and enlarge about the query's place, then move it to the candidate's."""
    zoom, turn = candidate[2] / query[2], candidate[3] - query[3]
    p, q, r, s = zoom * cos(turn), -zoom * sin(turn), zoom * sin(turn), zoom * cos(turn)
    x, y = query[:2]
    return (
        (p, q, candidate[0] - p * x - q * y),
        (r, s, candidate[1] - r * x - s * y),
    )


def explains(
    transform: Transform,
    query: Keypoint,
    candidate: Keypoint,
    near: float,
    far: float,
    most_zoom: float,
) -> bool:
    """Whether a transform explains a match: by place, in each image, and by scale."""
    (p, q, u), (r, s, v) = transform
    zoom = (p * s - q * r) ** 0.5
    x, y = query[:2]
    miss = hypot(p * x + q * y + u - candidate[0], r * x + s * y + v - candidate[1])
    ratio = candidate[2] / query[2] / zoom
    return miss <= far and miss / zoom <= near and abs(log(ratio)) <= log(most_zoom)


def counts(
    queries: list[Keypoint],
    candidates: list[Keypoint],
    near: list[float],
    far: list[float],
    most_zoom: float,
) -> list[int]:
    """How many matches the hypothesis of each match explains."""
    found = []
    for one, other in zip(queries, candidates, strict=True):
        transform, number = similarity(one, other), 0
        for m in range(len(queries)):
            number += explains(transform, queries[m], candidates[m], near[m], far[m], most_zoom)
        found.append(number)
    return found
