"""preprocess cuts no values off in silence, and says what is no image."""

import numpy as np
import pytest
import torch
from PIL import Image

from selftaught.encoders.encoder import EncoderConfig, build_encoder
from selftaught.errors import DataError
from selftaught.views.policy import Intensity


def encoder(low: float, high: float):
    intensity = Intensity(low, high, (0.5,), (0.25,))
    return build_encoder(EncoderConfig("resnet8", 1, 16, options={"width": 4}, intensity=intensity))


NOISE = np.random.default_rng(0).random((20, 20))


@pytest.mark.parametrize(
    ("low", "high", "image"),
    [
        (500, 3050, (NOISE * 255).astype(np.uint8)),
        (0, 255, (NOISE * 60_000).astype(np.uint16)),
        (0, 255, NOISE.astype(np.float32)),
    ],
    ids=["8 bits for 16", "16 bits for 8", "fractions for 8 bits"],
)
def test_values_of_another_kind_are_refused(low: float, high: float, image: np.ndarray) -> None:
    with pytest.raises(DataError, match="raw values like those"):
        encoder(low, high).preprocess(image)


@pytest.mark.parametrize(
    ("low", "high", "image"),
    [
        (0, 255, np.zeros((8, 8), np.uint8)),
        (0, 255, np.full((8, 8), 255, np.uint8)),
        (0, 1, NOISE.astype(np.float32)),
        (500, 3050, (NOISE * 3000).astype(np.uint16)),
    ],
    ids=["black", "white", "fractions", "a few below"],
)
def test_values_of_its_kind_are_taken(low: float, high: float, image: np.ndarray) -> None:
    assert encoder(low, high).preprocess(image).isfinite().all()


@pytest.mark.parametrize("image", ["x.jpg", torch.zeros(3, 8, 8), None])
def test_what_is_no_image_is_named(image: object) -> None:
    with pytest.raises(DataError, match=f"{type(image).__name__} is not an image"):
        encoder(0, 255).preprocess([image])
    assert encoder(0, 255).preprocess([Image.new("L", (9, 9))]).shape == (1, 1, 16, 16)
