"""A saved classifier, which predicts a name for any vector; on disk, the folder CLASSIFIER.

    p(x) = softmax((W (x - mean) + b) / T)

Shapes:  N vectors, n in a block, D their size; K names.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selftaught.errors import DataError
from selftaught.foundation.artifact import Artifact

_TYPES = {"names": list, "temperature": float, "encoder": str, "run": str}
_PAIR = Artifact("classifier", "classify", _TYPES)
TENSORS, FACTS = _PAIR.tensors, _PAIR.facts
_BLOCK = 2**22  # probabilities at once


@dataclass(frozen=True, eq=False)
class Predictions:
    """The two most probable names of each vector.

    Attributes:
        first_N: int64: the index of the most probable name.
        second_N: int64: the index of the second.
        confidence_N: The probability of the first, float32.
        next_N: The probability of the second, float32.
    """

    first_N: NDArray[np.int64]
    second_N: NDArray[np.int64]
    confidence_N: NDArray[np.float32]
    next_N: NDArray[np.float32]

    @property
    def gap_N(self) -> NDArray[np.float32]:
        """How much more probable the first name is than the second; 0 if they are equal."""
        return self.confidence_N - self.next_N


@dataclass(frozen=True, eq=False)
class Classifier:
    """A linear map of an encoder's vectors to probabilities of names.

    Attributes:
        names: K >= 2 different names.
        mean_D: float32, subtracted from vectors first.
        weight_KD: float32.
        bias_K: float32.
        temperature: T.
        encoder: The identity of the encoder (`encoder_id`); "" if unknown.
        run: Absolute path of that encoder, or timm:NAME; "" for a table of vectors.
        facts: Further facts about the classifier, as JSON values.
    """

    names: tuple[str, ...]
    mean_D: Tensor
    weight_KD: Tensor
    bias_K: Tensor
    temperature: float
    encoder: str
    run: str
    facts: Mapping[str, Any]

    def logits(self, x_ND: NDArray[np.float32]) -> Tensor:
        """W (x - mean) + b, (N, K), before the temperature.

        Raises:
            DataError: The vectors differ in size from those that it was fitted to.
        """
        D = len(self.mean_D)
        if x_ND.shape[1] != D:
            found = f"the vectors have {x_ND.shape[1]} dimensions, the classifier {D}"
            raise DataError(found, "use the encoder that the classifier was made with")
        return torch.addmm(self.bias_K, torch.tensor(x_ND) - self.mean_D, self.weight_KD.T)

    def predict(self, x_ND: NDArray[np.float32]) -> Predictions:
        """Predict the two most probable names of each vector, in blocks.

        Raises:
            DataError: As `logits`.
        """
        n = max(1, _BLOCK // max(len(self.names), len(self.mean_D)))
        parts = [
            (self.logits(x_ND[start : start + n]) / self.temperature).softmax(1).topk(2)
            for start in range(0, max(1, len(x_ND)), n)
        ]
        p_N2 = torch.cat([part.values for part in parts]).numpy()
        name_N2 = torch.cat([part.indices for part in parts]).numpy()
        return Predictions(name_N2[:, 0], name_N2[:, 1], p_N2[:, 0], p_N2[:, 1])


# --- on disk


def save_classifier(classifier: Classifier, folder: Path) -> None:
    """Write classifier.safetensors, then classifier.json, which marks the pair as complete."""
    tensors = {
        "mean": classifier.mean_D,
        "weight": classifier.weight_KD,
        "bias": classifier.bias_K,
    }
    own = {
        "names": list(classifier.names),
        "temperature": classifier.temperature,
        "encoder": classifier.encoder,
        "run": classifier.run,
    }
    _PAIR.save(folder, tensors, {**classifier.facts, **own})


def load_classifier(folder: Path) -> Classifier:
    """The classifier that `save_classifier` wrote.

    Raises:
        FileError: A file is missing or damaged, or the two do not belong together.
    """
    tensors, facts = _PAIR.load(folder, _are_valid_facts)
    if not _have_valid_shapes(tensors, len(facts["names"])):
        raise _PAIR.damaged_error(folder / TENSORS)
    return Classifier(
        tuple(facts["names"]),
        tensors["mean"],
        tensors["weight"],
        tensors["bias"],
        facts["temperature"],
        facts["encoder"],
        facts["run"],
        _PAIR.other_facts(facts),
    )


def _are_valid_facts(facts: Mapping[str, Any]) -> bool:
    names, T = facts["names"], facts["temperature"]
    distinct = all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
    return distinct and len(names) >= 2 and math.isfinite(T) and T > 0


def _have_valid_shapes(tensors: Mapping[str, Tensor], K: int) -> bool:
    """Whether all tensors are present, finite, and of the right shapes and type."""
    if tensors.keys() != {"mean", "weight", "bias"} or tensors["mean"].ndim != 1:
        return False
    D = len(tensors["mean"])
    sizes = tensors["weight"].shape == (K, D) and tensors["bias"].shape == (K,)
    return sizes and all(t.dtype == torch.float32 and t.isfinite().all() for t in tensors.values())
