"""What every registered method must be, whatever its paper: one run over methods.REGISTRY.

Each method is built around a tiny encoder as `pretrain` builds it, and gets real batches of digits.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from selftaught.data.batch import Batch
from selftaught.data.open_images import DataSettings, open_images
from selftaught.data.store import Images
from selftaught.errors import ConfigError
from selftaught.foundation.files import load_tensors, save_tensors
from selftaught.foundation.machine import Machine
from selftaught.methods import REGISTRY, find_method
from selftaught.methods.method import Method
from selftaught.recipe import build, config
from selftaught.recipe.config import Config, LoopSettings, NetworkSettings, ViewSettings
from selftaught.training.micro_batches import batch_part
from selftaught.training.training import Training

ROOT = Path(__file__).parents[3]
N = 16
EVERY = pytest.mark.parametrize("name", REGISTRY)
Embedded = dict[str, Tensor]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return open_images("digits", machine=Machine(cache=tmp_path_factory.mktemp("cache"), threads=1))


@pytest.fixture
def start(images: Images) -> Callable[..., tuple[Training, Batch]]:
    """A method's training with its first epoch begun, and that epoch's first batch."""

    def begin(name: str, *, seed: int = 0, precision: str = "float32") -> tuple[Training, Batch]:
        training = build.training_for(
            settings(name, seed, precision), images, machine=Machine(threads=0)
        )
        batches = training.batches()
        batch = next(batches)
        batches.close()
        training.method.train()
        return training, training._cast_views(batch)

    return begin


CPU = torch.device("cpu")


def settings(name: str, seed: int = 0, precision: str = "float32") -> Config:
    return build.complete_options(
        Config(
            data=DataSettings("digits"),
            network=NetworkSettings(image_size=16, width=4),
            views=ViewSettings(gray=0.0),  # the digits have one channel
            loop=LoopSettings(batch_size=N, epochs=1, precision=precision),
            method=name,
            seed=seed,
        )
    )


def step(method: Method, batch: Batch) -> tuple[Embedded, Tensor]:
    torch.manual_seed(0)
    embedded = method.embed(batch)
    return embedded, method.loss(embedded, batch)


@EVERY
@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", torch.float32), ("float64", torch.float64)]
)
def test_embeddings_have_images_first_and_the_loss_is_a_number(start, name, precision, dtype):
    training, batch = start(name, precision=precision)
    method = training.method
    embedded, loss = step(method, batch)
    assert embedded["h"].shape[-1] == method.encoder.dim
    for key, tensor in embedded.items():
        assert len(tensor) == N and tensor.ndim in (2, 3), key
        assert tensor.dtype == dtype and tensor.isfinite().all(), key
    assert loss.shape == () and loss.dtype == dtype and loss.isfinite()


@EVERY
def test_both_precisions_mean_the_same(start, name):
    losses = [
        step(training.method, batch)[1].item()
        for training, batch in (start(name, precision=p) for p in ("float32", "float64"))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and losses[0] != losses[1]


@EVERY
def test_under_autocast_the_loss_is_float32_and_near(start, name):
    training, batch = start(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embedded, half = step(training.method, batch)
    training, batch = start(name)
    _, whole = step(training.method, batch)
    assert embedded["h"].dtype == torch.bfloat16, "autocast was on"
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(whole.item(), rel=0.05) and half != whole
    half.backward()
    assert all(p.grad.isfinite().all() for p in training.method.parameters() if p.grad is not None)


@EVERY
def test_gradients_reach_encoder_and_head(start, name):
    training, batch = start(name)
    step(training.method, batch)[1].backward()
    trained = {n: p for n, p in training.method.named_parameters() if p.requires_grad}
    for where, p in trained.items():
        assert p.grad is not None and p.grad.isfinite().all(), where
    first = next(iter(training.method.encoder.parameters()))
    assert first.grad.abs().max() > 0
    heads = [n for n in trained if not n.startswith("encoder.")]
    assert all(trained[n].grad.abs().max() > 0 for n in heads)


@EVERY
def test_parameter_groups_have_every_parameter_once_by_its_name(start, name):
    training, _ = start(name)
    method = training.method
    groups = method.param_groups(training.progress)
    pairs = [pair for group in groups for pair in group["params"]]
    known = {n: p for n, p in method.named_parameters() if p.requires_grad}
    assert sorted(n for n, _ in pairs) == sorted(known)
    assert all(p is known[n] for n, p in pairs)
    told = {"params", "lr_scale", "excluded", "momentum", "weight_decay", "restart"}
    assert all(set(group) <= told for group in groups)


@EVERY
def test_embed_is_replayable_and_ignores_what_torch_drew_before(start, name):
    training, batch = start(name)
    first, loss = step(training.method, batch)
    torch.rand(11)
    again, loss_again = step(training.method, batch)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert torch.equal(loss, loss_again)


@EVERY
def test_the_state_round_trips_through_a_file(start, name, tmp_path):
    training, batch = start(name)
    training.take(batch)
    save_tensors(tmp_path / "m.safetensors", training.method.state_dict())
    other, _ = start(name, seed=1)
    assert step(other.method, batch)[1] != step(training.method, batch)[1]
    training.method.load_state_dict(load_tensors(tmp_path / "m.safetensors"))
    other.method.load_state_dict(load_tensors(tmp_path / "m.safetensors"))
    assert torch.equal(step(other.method, batch)[1], step(training.method, batch)[1])


@EVERY
def test_chance_is_the_loss_of_a_constant_output(start, name):
    training, batch = start(name, precision="float64")
    embedded, _ = step(training.method, batch)
    chance = training.method.chance(batch)
    generator = torch.Generator().manual_seed(1)
    scale = float(training.method.contrasts_images)  # a new classifier says nothing of zeros
    constant = {
        key: scale * torch.randn(x.shape[-1], generator=generator, dtype=x.dtype).expand_as(x)
        for key, x in embedded.items()
    }
    found = training.method.loss(constant, batch).item()
    assert chance is None or found == pytest.approx(chance, rel=1e-9)


@EVERY
def test_metrics_and_alarms_are_plain(start, name):
    training, batch = start(name)
    assert all(isinstance(v, float) for v in training.method.metrics().values())
    training.take(batch)
    line = training.line(batch)
    assert all(type(v) in (int, float, bool, type(None)) for v in line.values())
    own = training.method.metrics()
    assert all(type(v) is float and math.isfinite(v) for v in own.values())
    assert own.items() <= line.items()
    assert training.method.alarms([]) == [] and training.method.alarms([line]) == []


@EVERY
def test_in_eval_mode_an_image_does_not_see_the_others(start, name):
    training, batch = start(name, precision="float64")
    method = training.method.eval()
    before = {key: buffer.clone() for key, buffer in method.named_buffers()}
    with torch.no_grad():
        whole, loss = step(method, batch)
        some = method.embed(batch_part(batch, slice(3, 8)))
    assert loss.isfinite()
    for key, x in some.items():
        torch.testing.assert_close(x, whole[key][3:8], rtol=1e-9, atol=1e-9)
    assert all(torch.equal(buffer, before[key]) for key, buffer in method.named_buffers())


@EVERY
def test_the_loss_says_whether_it_crosses_images(start, name):
    """A loss that does not is the mean of the losses of its parts."""
    training, batch = start(name, precision="float64")
    embedded, whole = step(training.method, batch)
    halves = [slice(0, N // 2), slice(N // 2, N)]
    parts = [
        training.method.loss({k: x[half] for k, x in embedded.items()}, batch_part(batch, half))
        for half in halves
    ]
    separate = abs(sum(parts) / 2 - whole) <= 1e-9 * abs(whole)
    assert bool(separate) is not training.method.contrasts_images


@EVERY
def test_options_are_frozen_and_round_trip_through_a_configuration(name, tmp_path):
    wanted = settings(name)
    assert wanted.options == dataclasses.asdict(find_method(name).Options())
    config.write_config(wanted, tmp_path / "config.yaml")
    assert build.complete_options(config.read_config(tmp_path / "config.yaml")) == wanted
    with pytest.raises(dataclasses.FrozenInstanceError):
        find_method(name).Options().nothing = 1
    with pytest.raises(ConfigError, match="no option 'nothing'"):
        build.complete_options(dataclasses.replace(wanted, options={"nothing": 1}))


@EVERY
def test_the_views_are_those_of_the_configuration(start, name):
    training, batch = start(name)
    specs = [spec for spec in training.method.policy for _ in range(spec.count)]
    assert [tuple(v.shape[-2:]) for v in batch.views] == [(s.size, s.size) for s in specs]


@EVERY
def test_a_few_steps_change_every_weight_and_stay_finite(start, name):
    training, _ = start(name)
    first = {n: p.detach().clone() for n, p in training.method.named_parameters()}
    batches = training.batches()
    for _, batch in zip(range(12), batches, strict=False):
        training.take(batch)
    batches.close()
    training.check_finite()
    for where, p in training.method.named_parameters():
        assert p.isfinite().all() and not torch.equal(p, first[where]), where


@EVERY
def test_it_is_documented_and_has_golden_losses(name):
    page = (ROOT / f"docs/methods/{name}.md").read_text()
    missing = [
        o.name for o in dataclasses.fields(find_method(name).Options) if f"`{o.name}`" not in page
    ]
    assert not missing, f"docs/methods/{name}.md does not say what {missing} is"
    assert (ROOT / f"tests/golden/{name}.txt").exists()
    module = inspect.getmodule(find_method(name))
    assert module is not None and "arXiv" in (module.__doc__ or ""), "cite the paper"


def test_an_unknown_method_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'simclr'"):
        find_method("simcrl")
