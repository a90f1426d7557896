"""Bags of words the slow way: nearest centroids, tf-idf and cosines, one number after the other."""

from math import log, sqrt


def nearest(x: list[float], centroids: list[list[float]]) -> int:
    """The first of the nearest centroids."""
    far = [sum((a - b) ** 2 for a, b in zip(x, c, strict=True)) for c in centroids]
    return far.index(min(far))


def idf(documents: list[list[int]], k: int) -> list[float]:
    """log(n / n_w) of each word; 0 where no document has it."""
    n_w = [sum(w in words for words in documents) for w in range(k)]
    return [log(len(documents) / n) if n else 0.0 for n in n_w]


def weights(words: list[int], idf_k: list[float]) -> list[float]:
    """n_iw / n_i log(n / n_w) of each word."""
    return [words.count(w) / len(words) * idf_k[w] if words else 0.0 for w in range(len(idf_k))]


def cosine(one: list[float], other: list[float]) -> float:
    """0 where one of them is 0."""
    product = sum(a * b for a, b in zip(one, other, strict=True))
    length = sqrt(sum(a * a for a in one)) * sqrt(sum(b * b for b in other))
    return product / length if length else 0.0
