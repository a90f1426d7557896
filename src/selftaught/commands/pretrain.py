"""The commands pretrain and resume: from options to a run's folder with an encoder in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from selftaught.commands.result import Answer
from selftaught.data.check_images import read_index, write_index
from selftaught.data.open_images import check_data, open_images
from selftaught.data.store import Images
from selftaught.encoders.folder import CONFIG, WEIGHTS, open_encoder, save_config, save_encoder
from selftaught.errors import FileError, StopRun
from selftaught.evaluation.probe import probe
from selftaught.foundation import distributed
from selftaught.foundation.files import locked, quoted, remove_leftovers, write_json
from selftaught.foundation.machine import Machine, describe
from selftaught.foundation.outputs import check_out, claim
from selftaught.foundation.progress import meanwhile
from selftaught.options.shared import MachineOptions
from selftaught.options.train import Pretrain, Resume
from selftaught.recipe import build, config
from selftaught.recipe.config import Config, with_overrides
from selftaught.recipe.resolve import Wishes, echo, resolve, wishes
from selftaught.training import checkpoint, log
from selftaught.training.checkpoint import Checkpoint
from selftaught.training.log import Log, cut_back
from selftaught.training.loop import Loop, Outcome, Probe, seconds_per_step, steps_within
from selftaught.training.training import NotFinite, Training

_NOT_FINITE = "not_finite.json"


def pretrain(options: Pretrain) -> Answer:
    """Train an encoder on unlabelled images.

    Raises:
        UserError: The images, an option, --out or the machine do not allow it.
        StopRun: The run was stopped; it can be resumed.
    """
    machine = _start(options)
    try:
        asked = wishes(options)
        _check_out(options, asked)
        init = None if asked.first.network.init is None else open_encoder(asked.first.network.init)
        found = check_data(asked.first.data, machine)
        resolved = resolve(asked, found, machine.device, init.config if init else None)
        chosen = resolved.config
        images = open_images(chosen.data, machine, checked=found)
        run = _Run(options.out, chosen, images, machine)
        run.prepare()
        _claim(options)
        with _held(options.out), run:
            run.say("\n".join([echo(chosen, found, asked), *resolved.notes]))
            run.fix_steps(options.seconds)
            run.write_inputs()
            return run.train(seconds=options.seconds)
    finally:
        distributed.stop()


def resume(options: Resume) -> Answer:
    """Go on with a stopped run, bit for bit.

    Raises:
        UserError: The folder is no run, its images or its configuration have changed, or its
            checkpoints are damaged.
        StopRun: The run was stopped again.
    """
    machine = _start(options)
    try:
        resolved = config.read_config(_config_of(options.run))
        with _held(options.run):
            found, complaints = _newest(options.run)
            _same_configuration(resolved, found, options.run)
            if _is_finished(options.run, found):
                return _answer_of_finished(options.run, found)
            images = open_images(resolved.data, machine)
            _same_images(images, options.run)
            with _Run(options.run, resolved, images, machine) as run:
                return run.go_on(found, complaints)
    finally:
        distributed.stop()


class _Run:
    """A run's folder and what is trained in it."""

    def __init__(self, folder: Path, config: Config, images: Images, machine: Machine) -> None:
        self.folder, self.config, self.images = folder, build.complete_options(config), images
        self.machine = machine
        self.log: Log | None = None
        self._prepared: Training | None = None
        self._begun = False  # whether this is a run that is resumed

    def __enter__(self) -> "_Run":
        return self

    def __exit__(self, *error: Any) -> None:
        if self.log is not None:
            self.log.close()

    def say(self, text: str) -> None:
        """A sentence to the terminal and the log; from one process only."""
        if distributed.rank() == 0 and text:
            if self.log is None:
                self.log = Log(self.folder, total_steps=0)
            self.log.say(text)

    def fix_steps(self, seconds: float | None) -> None:
        """With a deadline, the number of steps that it allows, measured on some."""
        if seconds is None:
            return
        with meanwhile("Timing 20 steps, to know how many the time allows."):
            pace = torch.tensor([seconds_per_step(self.training())], dtype=torch.float64)
        distributed.broadcast_([pace])
        steps = steps_within(seconds, pace.item())
        self.config = with_overrides(self.config, {"loop.total_steps": steps})
        self.say(
            f"A step takes {1000 * pace.item():.1f} ms here: {steps:,} steps in {seconds:g} s."
        )

    def write_inputs(self) -> None:
        """What determines the run: its configuration and its images."""
        if distributed.rank() == 0:
            config.write_config(self.config, self.folder / "config.yaml")
            write_index(self.images.checked, self.folder)
            (self.folder / "checkpoints").mkdir(exist_ok=True)

    def prepare(self) -> None:
        """Build all that can be wrong before --out is touched: a mistake costs no older run."""
        self._prepared = self.training()
        self._probe(self._prepared)

    def training(self) -> Training:
        """Method, views and plan as the configuration says, at step 0."""
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            return prepared
        built = self.config
        if built.network.init and self._begun:  # what it began from may be gone since
            built = with_overrides(built, {"network.init": str(self.folder)})
        return build.training_for(built, self.images, self.machine)

    def go_on(self, found: Checkpoint, complaints: list[str]) -> Answer:
        """From a checkpoint to the end."""
        self._begun = True
        if found.state.get("complete"):  # killed when all but the encoder was written
            training = self.training()
            training.restore(found)
            self._write_encoder(training)
            return _answer_of_finished(self.folder, found)
        if distributed.rank() == 0:
            cut_back(self.folder, found.step)
        distributed.agree(False)  # the others read the log, and the checkpoint is read by all
        for complaint in [*complaints, *self._differences(found)]:
            self.say(complaint)
        return self.train(found)

    def train(self, found: Checkpoint | None = None, seconds: float | None = None) -> Answer:
        """From the beginning or a checkpoint to the end; then the encoder is written."""
        training = self.training()
        if found is not None:
            training.restore(found)
        start = training.step
        if distributed.rank() == 0:
            if self.log is not None:
                self.log.close()
            self.log = Log(self.folder, total_steps=training.plan.total_steps, start_step=start)
            # So that a stopped run can be opened:
            if not (self.folder / "encoder" / CONFIG).exists():
                save_config(training.method.encoder, self.folder / "encoder")
        loop = Loop(
            training,
            self.folder,
            self.log,
            history=log.read_metrics(self.folder) if found else [],
            remember={"config": config.to_dict(self.config), **self._circumstances()},
            seconds=seconds,
            probe=self._probe(training),
            probe_every=self.config.loop.probe_every,
        )
        try:
            outcome = loop.finish()
        except NotFinite as stop:
            self._record(stop)
            raise StopRun(f"{stop} (named in {self.folder / _NOT_FINITE})") from None
        return self._finish(training, outcome)

    def _finish(self, training: Training, outcome: Outcome) -> Answer:
        self._write_encoder(training)
        value = {
            "run": str(self.folder),
            "step": outcome.step,
            "shortfall": outcome.shortfall,
            "seconds": round(outcome.seconds, 1),
            "alarms": list(outcome.alarms),
            "replaced": training.feed.replaced,
        }
        first = distributed.rank() == 0
        return Answer(value, _summary(self.folder, training, outcome) if first else "")

    def _write_encoder(self, training: Training) -> None:
        if distributed.rank() == 0:
            card = f"Trained by selftaught ({self.config.method}) for {training.step:,} steps."
            save_encoder(training.method.encoder, self.folder / "encoder", card=card)

    def _probe(self, training: Training) -> Probe | None:
        if self.config.probe is None:
            return None
        return probe(self.config.probe, training, self.machine)

    def _circumstances(self) -> dict[str, Any]:
        """What may round differently elsewhere."""
        return {
            "device": describe(self.machine.device),
            "torch": torch.__version__.split("+")[0],
            "torch_threads": torch.get_num_threads(),
            "processes": distributed.world(),
        }

    def _differences(self, found: Checkpoint) -> list[str]:
        """Sentences on what is not as it was; such runs agree up to rounding only."""
        now = self._circumstances()
        changed = [k for k in now if k in found.state and found.state[k] != now[k]]
        names = {"torch_threads": "torch's number of threads", "processes": "number of processes"}
        return [
            f"{names.get(k, k)} was {found.state[k]} and is {now[k]}: "
            "the run goes on, but rounds differently from here."
            for k in changed
        ]

    def _record(self, stop: NotFinite) -> None:
        """The images of the step that went wrong, in not_finite.json."""
        if distributed.rank() == 0:
            names = self.images.checked.images["path"].to_pylist()
            images = [{"row": row, "path": names[row]} for row in stop.rows]
            write_json(self.folder / _NOT_FINITE, {"step": stop.step, "images": images})


def _start(options: MachineOptions) -> Machine:
    """The machine that the options choose, after this process has joined the others, if any."""
    machine = options.machine()
    return replace(machine, device=str(distributed.start(torch.device(machine.device))))


def _check_out(options: Pretrain, asked: Wishes) -> None:
    """Refuse an --out that cannot be written, before any work."""
    if distributed.rank() == 0:
        first = asked.first
        inputs = (first.data.path, first.network.init, first.probe)
        check_out(options.out, "a run", overwrite=options.overwrite, inputs=inputs)


def _claim(options: Pretrain) -> None:
    """Make --out, once; the other processes wait."""
    if distributed.rank() == 0:
        claim(options.out, "a run", overwrite=options.overwrite)
        options.out.mkdir(exist_ok=True)
    distributed.agree(False)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """A run's folder for this process alone (and those that torchrun started with it), without
    what killed processes left half-written there.
    """
    if distributed.rank() > 0:
        yield
        return
    with locked(folder):
        for place in (folder, folder / "checkpoints"):
            remove_leftovers(place)
        yield


def _newest(run: Path) -> tuple[Checkpoint, list[str]]:
    """The newest checkpoint that verifies, and what is wrong with newer ones."""
    found, complaints = checkpoint.newest(run / "checkpoints")
    if found is None:
        raise FileError(
            " ".join([f"{run} has no checkpoint that verifies.", *complaints]).rstrip("."),
            "start again with selftaught pretrain --config config.yaml",
        )
    return found, complaints


def _is_finished(run: Path, found: Checkpoint) -> bool:
    """Whether nothing is left to do; then the images may be gone."""
    return bool(found.state.get("complete")) and (run / "encoder" / WEIGHTS).exists()


def _answer_of_finished(run: Path, found: Checkpoint) -> Answer:
    words = "The run is complete." if distributed.rank() == 0 else ""
    return Answer({"run": str(run), "step": found.step}, words)


def _config_of(run: Path) -> Path:
    path = run / "config.yaml"
    if not path.exists():
        raise FileError(
            f"{run} is no run: it has no config.yaml", "give the --out of selftaught pretrain"
        )
    return path


def _same_images(images: Images, run: Path) -> None:
    """The images are those that the run began with, file by file."""
    was, now = read_index(run), images.checked.images
    columns = ("path", "sha256")
    before = list(zip(*(was[c].to_pylist() for c in columns), strict=True))
    after = list(zip(*(now[c].to_pylist() for c in columns), strict=True))
    if before == after:
        return
    gone, new = set(before) - set(after), set(after) - set(before)
    name = min([path for path, _ in gone] or [path for path, _ in new] or ["(the order)"])
    raise FileError(
        f"the images of {run} have changed since it began, for one {name}",
        "put them back, or begin a new run",
    )


def _same_configuration(now: Config, found: Checkpoint, run: Path) -> None:
    """The configuration is that of the checkpoint, field by field."""
    before, after = config.flatten(found.state["config"]), config.flatten(config.to_dict(now))
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            raise FileError(
                f"{run}/config.yaml: {name} is {after.get(name)}, the run has {before.get(name)}",
                "put it back, or begin a new run with selftaught pretrain --config",
            )


def _summary(folder: Path, training: Training, outcome: Outcome) -> str:
    took = f"{outcome.step:,} steps in {outcome.seconds:.0f} s"
    if training.method.prepares_every:
        took += f", {training.begin_seconds:.0f} s of them features and clustering"
    lines = [f"{took}. The encoder: {folder}/encoder"]
    if outcome.shortfall:
        early = f"The time was up {outcome.shortfall:,} steps before the planned end; "
        early += "the encoder is complete"
        if training.plan.schedule == "cosine":
            early += ", its learning rate had not come down to 0"
        lines.append(f"{early}.")
    if training.feed.replaced:
        names = ", ".join(training.feed.replaced[:5])
        lines.append(f"Files that went bad meanwhile, replaced by others: {names}")
    lines += [f"ALARM. {words}" for words in outcome.alarms]
    run = quoted(folder)
    lines.append(f"Next: selftaught evaluate {run} LABELLED, selftaught report {run}")
    return "\n".join(lines)
