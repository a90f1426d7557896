"""A run's seed fixes every first weight, the head's too, whatever torch's generator has done."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from selftaught.recipe import build
from selftaught.recipe.config import Config
from selftaught.views.policy import Intensity


class Store:
    channels = 3

    def __len__(self) -> int:
        return 100


def first_weights(seed: int) -> dict[str, Tensor]:
    images: Any = SimpleNamespace(store=Store(), checked=SimpleNamespace(intensity=Intensity()))
    config = build.complete_options(Config(seed=seed))
    return build.method_for(config, images).state_dict()


def test_the_seed_fixes_encoder_and_head() -> None:
    first = first_weights(1)
    torch.rand(7)  # somebody else draws
    again, other = first_weights(1), first_weights(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [name for name in first if name.startswith("head.") and first[name].ndim > 1]
    assert drawn and not any(torch.equal(first[name], other[name]) for name in drawn)


def test_torchs_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    first_weights(0)
    assert torch.equal(torch.get_rng_state(), before)
