"""Labels carried to one frame from others, a position and a neighbour at a time."""

import math

import numpy as np


def propagate(
    frame: np.ndarray,
    frames: np.ndarray,
    labels: np.ndarray,
    *,
    top: int,
    radius: int,
    temperature: float,
) -> np.ndarray:
    """(O, h, w) from a map (D, h, w), maps (n, D, h, w) and labels (n, O, h, w)."""
    _, height, width = frame.shape
    out = np.zeros(labels.shape[1:])
    for y in range(height):
        for x in range(width):
            near = []
            for n in range(len(frames)):
                for i in range(max(0, y - radius), min(height, y + radius + 1)):
                    for j in range(max(0, x - radius), min(width, x + radius + 1)):
                        near.append((_cosine(frame[:, y, x], frames[n, :, i, j]), n, i, j))
            best = sorted(near, reverse=True)[:top]
            weights = [math.exp(cosine / temperature) for cosine, *_ in best]
            for weight, (_, n, i, j) in zip(weights, best, strict=True):
                out[:, y, x] += weight / sum(weights) * labels[n, :, i, j]
    return out


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
