"""R1: a run that stops and goes on ends with the same bits and the same log as one that never did.

Dropout is on, so that torch's own random numbers matter. A run is stopped by a real signal to this
very process, or leaves as if it had been killed; what goes on is built anew from the checkpoint,
with another number of data threads.
"""

import hashlib
import json
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from selftaught.data.batch import Batch, Draws, Progress
from selftaught.data.feed import Feed
from selftaught.data.open_images import open_images
from selftaught.data.store import Images
from selftaught.encoders.encoder import EncoderConfig, build_encoder
from selftaught.errors import StopRun
from selftaught.foundation.machine import Machine
from selftaught.methods.deepcluster import DeepCluster, DeepClusterOptions
from selftaught.methods.method import Features
from selftaught.methods.simclr import SimCLR, SimCLROptions
from selftaught.training import checkpoint
from selftaught.training.log import Log, cut_back, read_metrics
from selftaught.training.loop import Loop, seconds_per_step
from selftaught.training.training import Plan, Training
from selftaught.views.policy import ViewSpec, simclr_cifar

STEPS, EPOCH, BATCH = 12, 4, 16  # 64 images
TIMES = {"images_per_second", "seconds_left", "seconds", "begin_seconds"}


class Dropped(SimCLR):
    """SimCLR with dropout in its head."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.head.middle.append(nn.Dropout(0.3))


class Restless(Dropped):
    """All that a method may do between epochs: it reads every image, chooses the order, keeps
    a buffer whose shape changes, shrinks its last layer and restarts the optimizer of its head.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.register_buffer("assigned", torch.empty(0, dtype=torch.bool))

    def begin_epoch(self, features: Features, labels: Any, progress: Progress) -> Draws:
        h_N = features()[:, 0]
        self.assigned = torch.from_numpy(h_N[: 10 + progress.epoch] > 0)
        with torch.no_grad():
            self.head.last[0].weight.mul_(0.5)
        return Draws(np.argsort(h_N, kind="stable"))

    def param_groups(self, progress: Progress) -> list[dict[str, Any]]:
        groups = super().param_groups(progress)
        head = [(n, p) for n, p in groups[0]["params"] if n.startswith("head.")]
        rest = [(n, p) for n, p in groups[0]["params"] if not n.startswith("head.")]
        return [
            {"params": rest},
            {"params": head, "restart": True, "lr_scale": 2.0},
            *groups[1:],
        ]


class Clustered(DeepCluster):
    """DeepCluster with dropout before its classifier."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.encoder.final = nn.Dropout(0.3)


OPTIONS: dict[type, Any] = {
    SimCLROptions: SimCLROptions(head="bn"),
    DeepClusterOptions: DeepClusterOptions(k=7),
}


class Killed(Exception):
    pass


@dataclass(frozen=True)
class Stop:
    """When a run stops, and how: by a signal after a step, or dead after a step or a beginning."""

    after: int
    how: str = "signal"  # "killed", "begun"


class Stopping(Training):
    """Training that stops."""

    stop = Stop(-1)
    run: Path

    def take(self, batch: Batch) -> None:
        super().take(batch)
        if self.step == self.stop.after and self.stop.how != "begun":
            if self.stop.how == "killed":
                raise Killed
            signal.raise_signal(signal.SIGTERM)

    def begin_epoch(self) -> None:
        super().begin_epoch()
        if self.stop == Stop(self.step, "begun"):
            checkpoint.save_checkpoint(self.run / "checkpoints", self.checkpoint(complete=False))
            raise Killed


@dataclass(frozen=True)
class Setup:
    """What determines a run."""

    method: type[SimCLR | DeepCluster] = Dropped
    precision: str = "float32"
    optimizer: str = "adamw"
    steps: int = STEPS
    micro_batch: int = 0


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    folder = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), np.uint8)
    np.savez(folder / "noise.npz", images=pixels.repeat(4, 1).repeat(4, 2))
    return open_images(
        str(folder / "noise.npz"), machine=Machine(cache=folder / "cache", threads=1)
    )


def training(images: Images, setup: Setup, run: Path, threads: int, stop: Stop) -> Stopping:
    config = EncoderConfig("resnet8", image_size=32, options={"width": 4, "stem_stride": 2})
    policy = (ViewSpec(simclr_cifar(), 32, setup.method.views),)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = setup.method(build_encoder(config), OPTIONS[setup.method.Options], policy=policy)
    feed = Feed(images, specs=policy, batch_size=BATCH, seed=7, threads=threads)
    plan = Plan(
        epochs=-(-setup.steps // EPOCH),
        batch_size=BATCH,
        total_steps=setup.steps,
        seed=7,
        optimizer=setup.optimizer,
        peak_lr=0.05 if setup.optimizer == "sgd" else 2e-3,
        weight_decay=1e-2,
        momentum=0.9,
        warmup_steps=2,
        precision=setup.precision,
        channels_last=True,
        compile=False,
        log_every=1,
        checkpoint_seconds=1e9,
        stop_on_alarm=False,
        micro_batch=setup.micro_batch,
    )
    made = Stopping(method, feed, plan, torch.device("cpu"))
    made.stop, made.run = stop, run
    return made


def go(
    images: Images, setup: Setup, run: Path, threads: int = 2, stop: Stop | None = None
) -> Stopping:
    """From nothing or the newest checkpoint to the end, or to where it stops."""
    run.mkdir(exist_ok=True)
    made = training(images, setup, run, threads, stop or Stop(-1))
    found, damaged = checkpoint.newest_checkpoint(run / "checkpoints")
    assert not damaged
    if found is not None:
        made.restore(found)
        cut_back(run, found.step)
    log = Log(run, total_steps=setup.steps, start_step=made.step, quiet=True)
    try:
        Loop(made, run, log, history=read_metrics(run)).finish()
    finally:
        log.close()
    return made


def hashes(made: Training) -> dict[str, str]:
    """The SHA-256 of every tensor: weights, buffers, optimizer, ring, order."""
    kept = made.checkpoint()
    tensors = kept.model | {f"training/{name}": t for name, t in kept.training.items()}
    return {name: _sha256(tensor) for name, tensor in tensors.items()}


def _sha256(tensor: Tensor) -> str:
    raw = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(repr((tensor.dtype, tensor.shape)).encode() + raw).hexdigest()


def lines(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what tells the time."""
    text = (run / "metrics.jsonl").read_text()
    return [
        {k: v for k, v in json.loads(line).items() if k not in TIMES} for line in text.splitlines()
    ]


@dataclass(frozen=True)
class Ended:
    hashes: dict[str, str]
    lines: list[dict[str, Any]]


Straight = Callable[[Setup], Ended]


@pytest.fixture(scope="module")
def straight(images: Images, tmp_path_factory: pytest.TempPathFactory) -> Straight:
    """How the uninterrupted run of a setup ends."""
    known: dict[Setup, Ended] = {}

    def run(setup: Setup) -> Ended:
        if setup not in known:
            folder = tmp_path_factory.mktemp("straight")
            known[setup] = Ended(hashes(go(images, setup, folder)), lines(folder))
            assert len(known[setup].lines) == setup.steps
        return known[setup]

    return run


def assert_equal(made: Training, run: Path, expected: Ended) -> None:
    found = hashes(made)
    assert found.keys() == expected.hashes.keys()
    assert [name for name in found if found[name] != expected.hashes[name]] == []
    for one, other in zip(lines(run), expected.lines, strict=True):
        assert one == other


def stopped_and_resumed(
    images: Images, setup: Setup, run: Path, threads: int, stop: Stop
) -> Stopping:
    """Stopped, and finished by something built anew with another number of threads."""
    with pytest.raises(StopRun if stop.how == "signal" else Killed):
        go(images, setup, run, threads, stop)
    return go(images, setup, run, 4 - threads)


STOPS = {
    "step 1": Stop(1),
    "mid-epoch": Stop(6),
    "last step of an epoch": Stop(8),
    "first step of the next": Stop(9),
    "epoch begun": Stop(4, "begun"),
}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS.keys())
def test_R1_matrix(
    images: Images, straight: Straight, tmp_path: Path, stop: Stop, threads: int, precision: str
) -> None:
    setup = Setup(precision=precision)
    made = stopped_and_resumed(images, setup, tmp_path, threads, stop)
    assert_equal(made, tmp_path, straight(setup))


@pytest.mark.slow
@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS.keys())
def test_a_method_that_begins_epochs(
    images: Images, straight: Straight, tmp_path: Path, stop: Stop
) -> None:
    setup = Setup(method=Restless)
    made = stopped_and_resumed(images, setup, tmp_path, 1, stop)
    assert_equal(made, tmp_path, straight(setup))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS.keys())
def test_R1_matrix_of_deepcluster(
    images: Images, straight: Straight, tmp_path: Path, stop: Stop, threads: int, precision: str
) -> None:
    """Stop(4, "begun") is a run that is killed between clustering and training."""
    setup = Setup(method=Clustered, precision=precision, optimizer="sgd")
    made = stopped_and_resumed(images, setup, tmp_path, threads, stop)
    assert_equal(made, tmp_path, straight(setup))


def test_clustering_is_not_repeated(images: Images, tmp_path: Path) -> None:
    setup = Setup(method=Clustered, optimizer="sgd")
    with pytest.raises(Killed):
        go(images, setup, tmp_path, 1, Stop(4, "begun"))
    found, _ = checkpoint.newest_checkpoint(tmp_path / "checkpoints")
    assert found is not None
    made = training(images, setup, tmp_path, 1, Stop(-1))
    made.restore(found)
    made.method.begin_epoch = None  # type: ignore[assignment,method-assign]
    next(made.batches())
    assert len(made.method.labels_N) == 64


class Slow(Stopping):
    """A beginning that seems to take long, and dies after it."""

    seconds = 1e6

    def begin_epoch(self) -> None:
        before = self.begun_epoch
        super().begin_epoch()
        self.begin_seconds += self.seconds if self.begun_epoch != before else 0

    def take(self, batch: Batch) -> None:
        if self.step == EPOCH:
            raise Killed
        super().take(batch)


@pytest.mark.parametrize(("seconds", "begun"), [(1e6, 1), (-1e6, 0)], ids=["slow", "quick"])
def test_a_beginning_is_saved_where_it_takes_longer_than_saving(
    images: Images, straight: Straight, tmp_path: Path, seconds: float, begun: int
) -> None:
    setup = Setup(method=Restless)
    made = training(images, setup, tmp_path, 1, Stop(-1))
    made.__class__, Slow.seconds = Slow, seconds
    log = Log(tmp_path, total_steps=STEPS, quiet=True)
    with pytest.raises(Killed):
        Loop(made, tmp_path, log).finish()
    log.close()
    found, _ = checkpoint.newest_checkpoint(tmp_path / "checkpoints")
    assert found is not None and (found.step, found.state["begun"]) == (EPOCH, begun)
    assert_equal(go(images, setup, tmp_path), tmp_path, straight(setup))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "lars"])
def test_other_optimizers(
    images: Images, straight: Straight, tmp_path: Path, optimizer: str
) -> None:
    setup = Setup(optimizer=optimizer)
    made = stopped_and_resumed(images, setup, tmp_path, 1, Stop(6))
    assert_equal(made, tmp_path, straight(setup))


@pytest.mark.slow
def test_micro_batches(images: Images, straight: Straight, tmp_path: Path) -> None:
    setup = Setup(micro_batch=4)
    made = stopped_and_resumed(images, setup, tmp_path, 1, Stop(6))
    assert_equal(made, tmp_path, straight(setup))
    assert straight(setup).hashes != straight(Setup()).hashes


@pytest.mark.parametrize("step", [2, 7])
def test_what_came_after_the_newest_checkpoint_is_done_again(
    images: Images, straight: Straight, tmp_path: Path, step: int
) -> None:
    setup = Setup()
    with pytest.raises(Killed):
        go(images, setup, tmp_path, 1, Stop(step, "killed"))
    found, _ = checkpoint.newest_checkpoint(tmp_path / "checkpoints")
    assert found is not None and found.step == step // EPOCH * EPOCH
    assert len(lines(tmp_path)) == step - 1  # the step that was killed is not logged
    assert_equal(go(images, setup, tmp_path), tmp_path, straight(setup))


def test_stopped_after_every_step(images: Images, straight: Straight, tmp_path: Path) -> None:
    setup = Setup(method=Restless)
    for step in range(1, STEPS):
        with pytest.raises(StopRun, match=f"step {step} of {STEPS}"):
            go(images, setup, tmp_path, step % 4, Stop(step))
    assert_equal(go(images, setup, tmp_path), tmp_path, straight(setup))


@pytest.mark.slow
def test_50_steps_are_20_and_a_resume_and_30(
    images: Images, straight: Straight, tmp_path: Path
) -> None:
    setup = Setup(steps=50)
    made = stopped_and_resumed(images, setup, tmp_path, 1, Stop(20))
    assert_equal(made, tmp_path, straight(setup))


def test_steps_that_are_timed_leave_no_trace(
    images: Images, straight: Straight, tmp_path: Path
) -> None:
    made = training(images, Setup(), tmp_path, 2, Stop(-1))
    before = hashes(made)
    assert seconds_per_step(made) > 0
    assert hashes(made) == before
    log = Log(tmp_path, total_steps=STEPS, quiet=True)
    Loop(made, tmp_path, log).finish()
    log.close()
    assert_equal(made, tmp_path, straight(Setup()))


def test_views_are_compiled_before_an_epoch_is_timed(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = training(images, Setup(), tmp_path, 2, Stop(-1))
    order, begin, epoch = [], made.begin_epoch, made.feed.epoch
    monkeypatch.setattr(made, "begin_epoch", lambda: (order.append("begin"), begin()))
    monkeypatch.setattr(made.feed, "epoch", lambda *a: (order.append("views"), epoch(*a))[1])
    seconds_per_step(made)
    assert order[:4] == ["views", "begin", "begin", "views"], "the first loads code, too"


# The tests above can fail: what if one thing were forgotten?


def forget_seed(made: Training) -> None:
    """torch's numbers go on from where they are."""
    made.plan = _Unseeded(made.plan)  # type: ignore[assignment]


class _Unseeded:
    def __init__(self, plan: Plan) -> None:
        self._plan, self._calls = plan, 0

    def __getattr__(self, name: str) -> Any:
        if name == "seed":
            self._calls += 1
            return self._calls
        return getattr(self._plan, name)


def forget_optimizer(made: Training) -> None:
    made.optimizer = made._new_optimizer()


def forget_ring(made: Training) -> None:
    made.ring = type(made.ring)()


def forget_a_buffer(made: Training) -> None:
    next(b for n, b in made.method.named_buffers() if n.endswith("running_var")).fill_(1)


def forget_the_step(made: Training) -> None:
    made.step -= 1


@pytest.mark.parametrize(
    "forget", [forget_seed, forget_optimizer, forget_ring, forget_a_buffer, forget_the_step]
)
def test_what_is_forgotten_is_noticed(
    images: Images,
    straight: Straight,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    forget: Callable[[Training], None],
) -> None:
    restore = Training.restore

    def incomplete(made: Training, found: checkpoint.Checkpoint) -> None:
        restore(made, found)
        forget(made)

    monkeypatch.setattr(Stopping, "restore", incomplete)
    made = stopped_and_resumed(images, Setup(), tmp_path, 1, Stop(6))
    with pytest.raises(AssertionError):
        assert_equal(made, tmp_path, straight(Setup()))
