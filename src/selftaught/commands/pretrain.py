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
from selftaught.foundation.files import folder_lock, remove_leftovers, shell_word, write_json
from selftaught.foundation.machine import Machine, hardware_name
from selftaught.foundation.outputs import check_out, claim
from selftaught.foundation.progress import notice_if_slow
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
    machine = _join_processes(options)
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
        with _locked_run(options.out), run:
            run.say("\n".join([echo(chosen, found, asked), *resolved.notes]))
            run.fix_steps(options.seconds)
            run.write_inputs()
            return run.train(seconds=options.seconds)
    finally:
        distributed.stop()


def resume(options: Resume) -> Answer:
    """Continue a stopped run, bit for bit.

    Raises:
        UserError: The folder is not a run, its images or its configuration have changed, or its
            checkpoints are damaged.
        StopRun: The run was stopped again.
    """
    machine = _join_processes(options)
    try:
        resolved = config.read_config(_config_path(options.run))
        with _locked_run(options.run):
            found, complaints = _newest_checkpoint(options.run)
            _check_same_config(resolved, found, options.run)
            if _is_finished(options.run, found):
                return _answer_of_finished(options.run, found)
            images = open_images(resolved.data, machine)
            _check_same_images(images, options.run)
            with _Run(options.run, resolved, images, machine) as run:
                return run.go_on(found, complaints)
    finally:
        distributed.stop()


class _Run:
    """A run: its folder, configuration, images, log and training."""

    def __init__(self, folder: Path, config: Config, images: Images, machine: Machine) -> None:
        self.folder, self.config, self.images = folder, build.complete_options(config), images
        self.machine = machine
        self.log: Log | None = None
        self._untrained: Training | None = None
        self._resumed = False

    def __enter__(self) -> "_Run":
        return self

    def __exit__(self, *error: Any) -> None:
        if self.log is not None:
            self.log.close()

    def say(self, text: str) -> None:
        """Write a sentence to the terminal and the log, from one process only."""
        if distributed.rank() == 0 and text:
            if self.log is None:
                self.log = Log(self.folder, total_steps=0)
            self.log.say(text)

    def fix_steps(self, seconds: float | None) -> None:
        """With a time limit, time some steps and fix the number of steps that it allows."""
        if seconds is None:
            return
        with notice_if_slow("Timing 20 steps to see how many fit into the time."):
            pace = torch.tensor([seconds_per_step(self.training())], dtype=torch.float64)
        distributed.broadcast_([pace])
        steps = steps_within(seconds, pace.item())
        self.config = with_overrides(self.config, {"loop.total_steps": steps})
        self.say(
            f"A step takes {1000 * pace.item():.1f} ms, so {steps:,} steps fit into {seconds:g} s."
        )

    def write_inputs(self) -> None:
        """Write what determines the run: its configuration and the index of its images."""
        if distributed.rank() == 0:
            config.write_config(self.config, self.folder / "config.yaml")
            write_index(self.images.checked, self.folder)
            (self.folder / "checkpoints").mkdir(exist_ok=True)

    def prepare(self) -> None:
        """Build all that can fail before --out is touched, so that no older run is lost."""
        self._untrained = self.training()
        self._probe(self._untrained)

    def training(self) -> Training:
        """Method, views and plan of the configuration, at step 0."""
        training, self._untrained = self._untrained, None
        if training is not None:
            return training
        settings = self.config
        if settings.network.init and self._resumed:  # the initial encoder may no longer exist
            settings = with_overrides(settings, {"network.init": str(self.folder)})
        return build.training_for(settings, self.images, self.machine)

    def go_on(self, found: Checkpoint, complaints: list[str]) -> Answer:
        """Train from a checkpoint to the end."""
        self._resumed = True
        if found.state.get("complete"):  # killed when only the encoder was not yet written
            training = self.training()
            training.restore(found)
            self._write_encoder(training)
            return _answer_of_finished(self.folder, found)
        if distributed.rank() == 0:
            cut_back(self.folder, found.step)
        distributed.any_process(False)  # the others read the log, and all read the checkpoint
        for complaint in [*complaints, *self._differences(found)]:
            self.say(complaint)
        return self.train(found)

    def train(self, found: Checkpoint | None = None, seconds: float | None = None) -> Answer:
        """Train from the beginning or a checkpoint to the end, then write the encoder."""
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
            raise StopRun(f"{stop} (see {self.folder / _NOT_FINITE})") from None
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
        """Facts about the machine that affect rounding."""
        return {
            "device": hardware_name(self.machine.device),
            "torch": torch.__version__.split("+")[0],
            "torch_threads": torch.get_num_threads(),
            "processes": distributed.world(),
        }

    def _differences(self, found: Checkpoint) -> list[str]:
        """Sentences on what has changed; such runs agree only up to rounding."""
        now = self._circumstances()
        changed = [k for k in now if k in found.state and found.state[k] != now[k]]
        names = {
            "torch": "version of torch",
            "torch_threads": "number of torch threads",
            "processes": "number of processes",
        }
        return [
            f"The {names.get(k, k)} has changed from {found.state[k]} to {now[k]}: "
            "the run continues, but rounds differently from here."
            for k in changed
        ]

    def _record(self, stop: NotFinite) -> None:
        """Write the images of the failed step to not_finite.json."""
        if distributed.rank() == 0:
            names = self.images.checked.images["path"].to_pylist()
            images = [{"row": row, "path": names[row]} for row in stop.rows]
            write_json(self.folder / _NOT_FINITE, {"step": stop.step, "images": images})


def _join_processes(options: MachineOptions) -> Machine:
    """Join the other processes, if any; return the machine that the options choose."""
    machine = options.machine()
    return replace(machine, device=str(distributed.start(torch.device(machine.device))))


def _check_out(options: Pretrain, asked: Wishes) -> None:
    """Check, before any work, that --out can be written."""
    if distributed.rank() == 0:
        first = asked.first
        inputs = (first.data.path, first.network.init, first.probe)
        check_out(options.out, "a run", overwrite=options.overwrite, inputs=inputs)


def _claim(options: Pretrain) -> None:
    """Create --out in one process; the others wait."""
    if distributed.rank() == 0:
        claim(options.out, "a run", overwrite=options.overwrite)
        options.out.mkdir(exist_ok=True)
    distributed.any_process(False)


@contextmanager
def _locked_run(folder: Path) -> Iterator[None]:
    """Lock a run's folder for this process (and those that torchrun started with it), and remove
    what killed processes left half-written.
    """
    if distributed.rank() > 0:
        yield
        return
    with folder_lock(folder):
        for place in (folder, folder / "checkpoints"):
            remove_leftovers(place)
        yield


def _newest_checkpoint(run: Path) -> tuple[Checkpoint, list[str]]:
    """The newest intact checkpoint, and what is wrong with newer ones."""
    found, complaints = checkpoint.newest_checkpoint(run / "checkpoints")
    if found is None:
        raise FileError(
            " ".join([f"{run} has no intact checkpoint.", *complaints]).rstrip("."),
            "start again with selftaught pretrain --config config.yaml",
        )
    return found, complaints


def _is_finished(run: Path, found: Checkpoint) -> bool:
    """Whether nothing is left to do; then the images are no longer needed."""
    return bool(found.state.get("complete")) and (run / "encoder" / WEIGHTS).exists()


def _answer_of_finished(run: Path, found: Checkpoint) -> Answer:
    words = "The run is complete." if distributed.rank() == 0 else ""
    return Answer({"run": str(run), "step": found.step}, words)


def _config_path(run: Path) -> Path:
    path = run / "config.yaml"
    if not path.exists():
        raise FileError(
            f"{run} is not a run folder (config.yaml is missing)",
            "pass the output folder of selftaught pretrain",
        )
    return path


def _check_same_images(images: Images, run: Path) -> None:
    """Check that the images are those that the run started with, file by file."""
    was, now = read_index(run), images.checked.images
    columns = ("path", "sha256")
    before = list(zip(*(was[c].to_pylist() for c in columns), strict=True))
    after = list(zip(*(now[c].to_pylist() for c in columns), strict=True))
    if before == after:
        return
    lost, new = set(before) - set(after), set(after) - set(before)
    name = min([path for path, _ in lost] or [path for path, _ in new] or ["(the order)"])
    raise FileError(
        f"the images of {run} have changed since it started (e.g. {name})",
        "restore them or start a new run",
    )


def _check_same_config(now: Config, found: Checkpoint, run: Path) -> None:
    """Check that the configuration is that of the checkpoint, field by field."""
    before, after = config.flatten(found.state["config"]), config.flatten(config.to_dict(now))
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            raise FileError(
                f"{run}/config.yaml: {name} is {after.get(name)}, the run has {before.get(name)}",
                "restore it, or start a new run with selftaught pretrain --config",
            )


def _summary(folder: Path, training: Training, outcome: Outcome) -> str:
    took = f"{outcome.step:,} steps in {outcome.seconds:.0f} s"
    if training.method.prepares_every:
        took += f" ({training.begin_seconds:.0f} s of it for features and clustering)"
    lines = [f"{took}. Encoder: {folder}/encoder"]
    if outcome.shortfall:
        early = f"Time ran out {outcome.shortfall:,} steps before the planned end. "
        early += "The encoder is complete"
        if training.plan.schedule == "cosine":
            early += ", but the learning rate had not yet reached 0"
        lines.append(f"{early}.")
    if training.feed.replaced:
        names = ", ".join(training.feed.replaced[:5])
        lines.append(f"Files that became unreadable during training and were replaced: {names}")
    lines += [f"ALARM. {words}" for words in outcome.alarms]
    run = shell_word(folder)
    lines.append(f"Next: selftaught evaluate {run} LABELLED, selftaught report {run}")
    return "\n".join(lines)
