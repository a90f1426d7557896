"""The loop: epochs and steps of any method. It depends on methods/method.py, on no one method.

A run is a function of its configuration and its images alone: the order, the views and torch's own
random numbers are keyed by step, the learning rate is a function of the step, and `Training` holds
all that changes. So a run can stop after any step and continue from there, bit for bit.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selftaught.data.batch import Batch
from selftaught.errors import StopRun
from selftaught.foundation import distributed
from selftaught.foundation.files import shell_word
from selftaught.training import checkpoint, health
from selftaught.training.log import Log
from selftaught.training.signals import StopSignals
from selftaught.training.training import Plan, Training

Probe = Callable[[], float]
"""Measures the encoder on labelled images: a number for the log, never used for a choice."""

_TIMED, _WARM = 20, 3  # timed steps, and steps before them for compilation and caches
_SHORT = 20.0  # seconds: the work before an epoch is timed again if it took less
_ALLOWANCE = 0.95  # share of the requested time for steps; the rest is for logs and checkpoints


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        step: Steps done.
        shortfall: Steps not done before the deadline.
        seconds: Wall-clock time in the loop.
        alarms: What went wrong, in words; empty if nothing did.
    """

    step: int
    shortfall: int
    seconds: float
    alarms: tuple[str, ...]


class Loop:
    """A run from its current step to its end.

    Args:
        training: The method in training.
        run: The run folder; only rank 0 writes to it.
        log: The log of the run, on rank 0.
        history: The lines of metrics.jsonl so far.
        remember: More values for each checkpoint's state.json, such as the configuration.
        seconds: A deadline, counted from the construction of the loop.
        probe: Measures the encoder at intervals.
        probe_every: Epochs between two probes; 0: about ten probes in the run.
    """

    def __init__(
        self,
        training: Training,
        run: Path,
        log: Log | None,
        *,
        history: Sequence[dict[str, Any]] = (),
        remember: dict[str, Any] | None = None,
        seconds: float | None = None,
        probe: Probe | None = None,
        probe_every: int = 0,
    ) -> None:
        self.training, self.plan, self.run, self.log = training, training.plan, run, log
        self.history, self.remember = list(history), remember or {}
        self.alarms = [words for line in self.history for words in line.get("alarms", [])]
        self.probe, self.probe_every = probe, probe_every or max(1, self.plan.epochs // 10)
        self.clock, self.started = _Clock(training.step), time.monotonic()
        self.deadline, self.late = math.inf if seconds is None else self.started + seconds, False
        self.saved: tuple[int, int | None] | None = None  # the step, and the last epoch begun
        self.saved_at, self.save_seconds = self.started, 0.0

    def finish(self) -> Outcome:
        """Train to the last step, the deadline or a signal.

        Raises:
            StopRun: A signal, a number that is not finite, a full disk or (if requested) an alarm
                stopped the run; its newest checkpoint has the progress so far.
        """
        self.save()  # a full disk or an unwritable folder fails now, not in an hour
        with StopSignals() as stop:
            while not (self.training.done or self.late):
                self._epoch(stop)
                self.save()
        shortfall = self.plan.total_steps - self.training.step
        seconds = time.monotonic() - self.started
        return Outcome(self.training.step, shortfall, seconds, tuple(self.alarms))

    def _epoch(self, stop: StopSignals) -> None:
        """Train for the rest of the epoch, or until the deadline."""
        self._begin_epoch()
        self._stop_if_asked(stop)
        with closing(self.training.batches()) as batches:
            for batch in batches:
                self.training.take(batch)
                self.report(batch)
                self._stop_if_asked(stop)
                self.late = distributed.any_process(time.monotonic() > self.deadline)
                if self.late:
                    return
                if time.monotonic() - self.saved_at > self.plan.checkpoint_seconds:
                    self.save()

    def _stop_if_asked(self, stop: StopSignals) -> None:
        """Save and stop if a signal came, unless the run is done."""
        if distributed.any_process(stop.asked) and not self.training.done:
            self.save()
            raise StopRun(f"stopped by {stop.name} after {self._position()}")

    def _begin_epoch(self) -> None:
        """Begin an epoch; save if repeating the preparation would take longer than saving it."""
        before = self.training.begin_seconds
        self.training.begin_epoch()
        if self.training.begin_seconds - before > self.save_seconds:
            self.save()

    def report(self, batch: Batch) -> None:
        """Log the step's line if one is due, and the alarms that it raises."""
        step, probed = self.training.step, self._probe_is_due()
        ends = step in (1, self.plan.total_steps)
        if not (probed or ends or step % self.plan.log_every == 0 or self._is_first_prepared()):
            return
        line = self.training.line(batch) | self.clock.line(step, self.plan)
        line["begin_seconds"] = self.training.begin_seconds
        if probed and self.probe is not None:
            line["probe_accuracy"] = self.probe()
        new = self._new_alarms(line)
        self.history.append(line | ({"alarms": new} if new else {}))
        if self.log is not None:
            self.log.step(self.history[-1])
            for words in new:
                self.log.say(f"ALARM. {words}")
        if self.plan.stop_on_alarm and distributed.any_process(bool(new)):
            self.save()
            raise StopRun(f"stopped by an alarm after {self._position()}")

    def save(self) -> None:
        """Write a checkpoint of the current state, unless there is one."""
        training, began = self.training, time.monotonic()
        training.check_finite()
        position = training.step, training.begun_epoch
        if distributed.rank() == 0 and self.saved != position:
            complete = training.done or self.late
            found = training.checkpoint(complete=complete, **self.remember)
            checkpoint.save_checkpoint(self.run / "checkpoints", found)
            self.save_seconds = time.monotonic() - began
        self.saved, self.saved_at = position, time.monotonic()

    def _probe_is_due(self) -> bool:
        step, every = self.training.step, self.training.feed.steps_per_epoch
        ended = step % every == 0 and step // every % self.probe_every == 0
        return self.probe is not None and (ended or step == self.plan.total_steps)

    def _is_first_prepared(self) -> bool:
        """Whether the last step is the first after a `begin_epoch` that prepared something."""
        epochs, place = divmod(self.training.step - 1, self.training.feed.steps_per_epoch)
        every = self.training.method.prepares_every
        return every > 0 and place == 0 and epochs % every == 0

    def _new_alarms(self, line: dict[str, Any]) -> list[str]:
        """Alarms of a kind that this run has not raised yet."""
        history = [*self.history, line]
        raised = [*self.training.method.alarms(history), *health.health_alarms(history)]
        known = {_alarm_kind(words) for words in self.alarms}
        new = [words for words in raised if _alarm_kind(words) not in known]
        self.alarms += new
        return new

    def _position(self) -> str:
        step, total = self.training.step, self.plan.total_steps
        resume = f"selftaught resume {shell_word(self.run)}"
        return f"step {step:,} of {total:,}; {resume} continues from there"


def seconds_per_step(training: Training) -> float:
    """Seconds per step here, with its share of a log line and of the method's work before an epoch.

    Measured on 20 steps, a line and the beginning of an epoch; afterwards the training is restored.
    """
    before, seconds = training.checkpoint(), 0.0
    for _ in _some_batches(training, 1):
        pass  # compile the views before the timing
    beginning = _begin_seconds(training)
    if distributed.any_process(beginning < _SHORT):  # the first may have had code to load
        training.begun_epoch = None
        beginning = _begin_seconds(training)
    for number, batch in enumerate(_some_batches(training, _WARM + _TIMED)):
        if number == _WARM:
            seconds = -time.perf_counter()
        training.take(batch)
    training.synchronise()
    seconds += time.perf_counter()
    line = -time.perf_counter()
    training.line(batch)
    line += time.perf_counter()
    training.restore(before)
    preparation = training.feed.steps_per_epoch * max(1, training.method.prepares_every)
    return seconds / _TIMED + line / training.plan.log_every + beginning / preparation


def _begin_seconds(training: Training) -> float:
    seconds = -time.perf_counter()
    training.begin_epoch()
    return seconds + time.perf_counter()


def steps_within(seconds: float, step_seconds: float) -> int:
    """Number of steps that fit, with some room for logs and checkpoints; at least one."""
    return max(1, int(_ALLOWANCE * seconds / step_seconds))


def _some_batches(training: Training, number: int) -> Iterator[Batch]:
    """This many batches, of several epochs if needed."""
    while number > 0:
        with closing(training.feed.epoch(training.draws, training.progress)) as batches:
            for batch in batches:
                yield batch
                number -= 1
                if number == 0:
                    return


class _Clock:
    """Images per second since the last line, and the remaining time."""

    def __init__(self, step: int) -> None:
        self.step, self.time = step, time.monotonic()
        self.first_step, self.first_time = step, self.time

    def line(self, step: int, plan: Plan) -> dict[str, float]:
        now = time.monotonic()
        images = (step - self.step) * plan.batch_size / max(now - self.time, 1e-9)
        pace = (now - self.first_time) / max(1, step - self.first_step)
        self.step, self.time = step, now
        left = pace * (plan.total_steps - step)
        return {"images_per_second": images, "seconds_left": left, "seconds": now - self.first_time}


def _alarm_kind(words: str) -> str:
    """An alarm without its numbers."""
    return "".join(c for c in words if c.isalpha())
