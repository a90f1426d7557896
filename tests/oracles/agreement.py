"""Agreement of two labellings from the definitions: by counting, and by trying all matchings."""

import itertools
import math
from collections.abc import Sequence


def nmi(a: Sequence[int], b: Sequence[int], mean: str) -> float:
    def h(labels: Sequence) -> float:
        shares = [list(labels).count(x) / len(labels) for x in set(labels)]
        return -sum(p * math.log(p) for p in shares)

    information = h(a) + h(b) - h(list(zip(a, b, strict=True)))
    below = math.sqrt(h(a) * h(b)) if mean == "geometric" else (h(a) + h(b)) / 2
    return information / below


def ari(a: Sequence[int], b: Sequence[int]) -> float:
    """(Index - expected) / (largest - expected), the index being the pairs together in both."""
    pairs = list(itertools.combinations(range(len(a)), 2))
    in_a = sum(a[i] == a[j] for i, j in pairs)
    in_b = sum(b[i] == b[j] for i, j in pairs)
    both = sum(a[i] == a[j] and b[i] == b[j] for i, j in pairs)
    expected = in_a * in_b / len(pairs)
    return (both - expected) / ((in_a + in_b) / 2 - expected)


def accuracy(clusters: Sequence[int], classes: Sequence[int]) -> float:
    """The best of all ways to give each cluster a class of its own, or none."""
    k, names = sorted(set(clusters)), sorted(set(classes))
    names += [None] * max(0, len(k) - len(names))
    best = 0
    for chosen in itertools.permutations(names, len(k)):
        match = dict(zip(k, chosen, strict=True))
        hits = sum(match[x] == y for x, y in zip(clusters, classes, strict=True))
        best = max(best, hits)
    return best / len(clusters)


def purity(clusters: Sequence[int], classes: Sequence[int]) -> float:
    hits = 0
    for cluster in set(clusters):
        inside = [y for x, y in zip(clusters, classes, strict=True) if x == cluster]
        hits += max(inside.count(y) for y in inside)
    return hits / len(clusters)
