"""Golden losses: 20 steps of each method on fixed digits, and a line in the CHANGELOG for a change.

In float64, for float32 drifts between processors and versions of torch. `python -m
tests.unit.methods.test_golden` writes them anew.
"""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from selftaught.data.open_images import DataSettings, open_images
from selftaught.data.store import Images
from selftaught.foundation.machine import Machine
from selftaught.foundation.rng import Key, uniform
from selftaught.methods import REGISTRY
from selftaught.methods.method import Method
from selftaught.recipe import build
from selftaught.recipe.config import (
    Config,
    LoopSettings,
    NetworkSettings,
    ViewSettings,
    with_overrides,
)

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests/golden"
STEPS, IMAGES, TOLERANCE = 20, 256, 1e-6
WHOLE = {"views.crop_scale": (1, 1), "views.crop_ratio": (1, 1), "views.flip": 0, "views.jitter": 0}
OWN = {"deepcluster": {"loop.lr": 0.5, "options.k": 4, "options.every": 2, **WHOLE}}
"""Settings of a method's own, so that it learns in 20 steps."""
FALLING = {"deepcluster": 16}
"""Steps in which the loss falls: DeepCluster's classifier is a new one after two epochs."""


def some_digits(folder: Path) -> Images:
    """The first digits of scikit-learn, as they always were: 8 x 8, values 0 to 16."""
    path = folder / "digits.npz"
    np.savez(path, images=load_digits().images[:IMAGES].astype(np.uint8) * 15)
    return open_images(str(path), machine=Machine(cache=folder / "cache", threads=1))


def losses(method: str, images: Images) -> list[float]:
    """The loss of every step.

    resnet8 has no dropout. Views are float32: one rounding more or less in every pixel moves these
    losses by 8e-8 (measured), under LARS by 2e-5.
    """
    config = Config(
        data=DataSettings("digits"),
        network=NetworkSettings(image_size=16, width=4),
        views=ViewSettings(gray=0.0),  # the digits have one channel
        loop=LoopSettings(
            batch_size=32, total_steps=STEPS, optimizer="sgd", lr=0.02, precision="float64"
        ),
        method=method,
    )
    config = build.complete_options(with_overrides(config, OWN.get(method, {})))
    training = build.training_for(config, images, Machine(threads=1))
    draw_weights(training.method)
    found = []
    while not training.done:
        for batch in training.batches():
            training.take(batch)
            assert training.last_loss is not None
            found.append(training.last_loss.item())
    return found


@torch.no_grad()
def draw_weights(method: Method) -> None:
    """He et al.'s uniform weights from keyed numbers: torch's normal ones differ in the last bit
    between processors."""
    for name, weight in method.named_parameters():
        if weight.ndim > 1:
            fan_in = weight[0].numel()
            numbers = uniform(Key(0, name), np.arange(len(weight)), fan_in)
            weight.copy_(
                torch.from_numpy(numbers - 0.5).reshape(weight.shape) * (24 / fan_in) ** 0.5
            )


def as_text(values: list[float]) -> str:
    return "".join(f"{step} {loss!r}\n" for step, loss in enumerate(values, 1))


def digest(method: str) -> str:
    """The words that the CHANGELOG must hold."""
    data = (GOLDEN / f"{method}.txt").read_bytes()
    return f"golden losses of {method} {hashlib.sha256(data).hexdigest()[:12]}"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return some_digits(tmp_path_factory.mktemp("digits"))


@pytest.mark.parametrize("method", REGISTRY)
def test_losses_are_the_golden_ones_on_any_number_of_cores(method: str, images: Images) -> None:
    golden = np.loadtxt(GOLDEN / f"{method}.txt")
    assert golden[:, 0].tolist() == list(range(1, STEPS + 1))
    before = torch.get_num_threads()
    try:
        by_threads = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            by_threads.append(losses(method, images))
    finally:
        torch.set_num_threads(before)
    how = "python -m tests.unit.methods.test_golden writes them anew"
    assert by_threads[0] == pytest.approx(golden[:, 1].tolist(), rel=0, abs=TOLERANCE), how
    assert by_threads[1] == pytest.approx(by_threads[0], rel=0, abs=1e-9)


@pytest.mark.parametrize("method", REGISTRY)
def test_the_losses_fall_and_no_step_is_like_another(method: str) -> None:
    values = np.loadtxt(GOLDEN / f"{method}.txt")[:, 1]
    last = FALLING.get(method, STEPS)
    assert values[last - 5 : last].mean() < values[:5].mean() - 0.01 and len(set(values)) == STEPS


@pytest.mark.parametrize("method", REGISTRY)
def test_golden_losses_are_named_in_the_changelog(method: str) -> None:
    words = digest(method)
    assert words in (ROOT / "CHANGELOG.md").read_text(), f"say in CHANGELOG.md: {words}"


def test_every_golden_file_belongs_to_a_method() -> None:
    keys = {"deepcluster_alexnet", "deepcluster_vgg16", "torchvision_mobilenet_v2", "wrapped"}
    keys |= {"torchvision_resnet18", "torchvision_resnet50", "timm_mobilenetv2_100"}
    keys |= {"simclr_resnet50"}
    others = {"command_line", *keys}
    assert {path.stem for path in GOLDEN.glob("*.txt")} == {*REGISTRY, *others}


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        pixels = some_digits(Path(folder))
        for name in REGISTRY:
            (GOLDEN / f"{name}.txt").write_text(as_text(losses(name, pixels)))
            print(digest(name))
