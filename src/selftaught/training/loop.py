"""The loop: epochs and steps of any method. It knows methods/method.py and no method's name.

A run is a function of its configuration and its images alone: the order, the views and torch's own
numbers are keyed by step, the learning rate is a function of the step, and `Training` holds all
that changes. So a run may stop after any step and go on from there, bit for bit.
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
from selftaught.foundation.files import quoted
from selftaught.training import checkpoint, health
from selftaught.training.log import Log
from selftaught.training.signals import StopSignals
from selftaught.training.training import Plan, Training

Probe = Callable[[], float]
"""Measures the encoder on labelled images: a number for the log, never used to choose."""

_TIMED, _WARM = 20, 3  # steps that are timed, and steps before them for compilation and caches
_SHORT = 20.0  # seconds before an epoch that may be spent twice, to know them better
_ALLOWANCE = 0.95  # share of the time asked for that the steps may fill: logs and checkpoints


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        step: Steps done.
        shortfall: Steps that the deadline left undone.
        seconds: Wall-clock time in the loop.
        alarms: What went wrong, in words; empty if nothing did.
    """

    step: int
    shortfall: int
    seconds: float
    alarms: tuple[str, ...]


class Loop:
    """A run from where it stands to its end.

    Args:
        training: What is trained.
        run: The run's folder; this process writes there only if it is rank 0.
        log: The run's log, on rank 0.
        history: The lines that metrics.jsonl holds so far.
        remember: What each checkpoint's state.json shall hold besides, such as the configuration.
        seconds: A deadline, counted from `finish`.
        probe: Measures the encoder now and then.
        probe_every: Epochs between two probes; 0: about ten in the run.
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
        self.saved: tuple[int, int | None] | None = None  # the step, and the epoch that was begun
        self.saved_at, self.save_seconds = self.started, 0.0

    def finish(self) -> Outcome:
        """Train to the last step, the deadline or a signal.

        Raises:
            StopRun: A signal, a number that is not finite, a full disk or (if asked for) an alarm
                stopped the run; what it had is in its newest checkpoint.
        """
        self.save()  # a full disk or a folder in the way is found now, not in an hour
        with StopSignals() as stop:
            while not (self.training.done or self.late):
                self._epoch(stop)
                self.save()
        shortfall = self.plan.total_steps - self.training.step
        seconds = time.monotonic() - self.started
        return Outcome(self.training.step, shortfall, seconds, tuple(self.alarms))

    def _epoch(self, stop: StopSignals) -> None:
        """What is left of an epoch, or of the time."""
        self._begin()
        self._stop_if_asked(stop)
        with closing(self.training.batches()) as batches:
            for batch in batches:
                self.training.take(batch)
                self.report(batch)
                self._stop_if_asked(stop)
                self.late = distributed.agree(time.monotonic() > self.deadline)
                if self.late:
                    return
                if time.monotonic() - self.saved_at > self.plan.checkpoint_seconds:
                    self.save()

    def _stop_if_asked(self, stop: StopSignals) -> None:
        """End on a signal, with all saved, unless everything is done."""
        if distributed.agree(stop.asked) and not self.training.done:
            self.save()
            raise StopRun(f"stopped by {stop.name} after {self._where()}")

    def _begin(self) -> None:
        """What comes before an epoch; saved where to do it again takes longer than to write it."""
        before = self.training.begin_seconds
        self.training.begin_epoch()
        if self.training.begin_seconds - before > self.save_seconds:
            self.save()

    def report(self, batch: Batch) -> None:
        """The step's line, where one is due, and the alarms that it raises."""
        step, probed = self.training.step, self._probe_is_due()
        ends = step in (1, self.plan.total_steps)
        if not (probed or ends or step % self.plan.log_every == 0 or self._has_prepared()):
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
        if self.plan.stop_on_alarm and distributed.agree(bool(new)):
            self.save()
            raise StopRun(f"stopped by an alarm after {self._where()}")

    def save(self) -> None:
        """A checkpoint of where the run stands, if there is none yet."""
        training, began = self.training, time.monotonic()
        training.check_finite()
        stands = training.step, training.draws_of
        if distributed.rank() == 0 and self.saved != stands:
            complete = training.done or self.late
            found = training.checkpoint(complete=complete, **self.remember)
            checkpoint.save_checkpoint(self.run / "checkpoints", found)
            self.save_seconds = time.monotonic() - began
        self.saved, self.saved_at = stands, time.monotonic()

    def _probe_is_due(self) -> bool:
        step, every = self.training.step, self.training.feed.steps_per_epoch
        ended = step % every == 0 and step // every % self.probe_every == 0
        return self.probe is not None and (ended or step == self.plan.total_steps)

    def _has_prepared(self) -> bool:
        """Whether the step just taken is the first after a `begin_epoch` with something to tell."""
        epochs, place = divmod(self.training.step - 1, self.training.feed.steps_per_epoch)
        every = self.training.method.prepares_every
        return every > 0 and place == 0 and epochs % every == 0

    def _new_alarms(self, line: dict[str, Any]) -> list[str]:
        """Alarms of a kind that this run has not raised yet."""
        history = [*self.history, line]
        raised = [*self.training.method.alarms(history), *health.health_alarms(history)]
        known = {_kind(words) for words in self.alarms}
        new = [words for words in raised if _kind(words) not in known]
        self.alarms += new
        return new

    def _where(self) -> str:
        step, total = self.training.step, self.plan.total_steps
        return (
            f"step {step:,} of {total:,}; selftaught resume {quoted(self.run)} goes on from there"
        )


def seconds_per_step(training: Training) -> float:
    """Seconds that a step takes here, with its share of a line of the log and of what the method
    does before an epoch.

    Measured on 20 steps, a line and the beginning of an epoch; the training is then as it was
    before.
    """
    before, seconds = training.checkpoint(), 0.0
    for _ in _some_batches(training, 1):
        pass  # views are compiled once, on no epoch's account
    beginning = _beginning(training)
    if distributed.agree(beginning < _SHORT):  # the first may have had code to load
        training.draws_of = None
        beginning = _beginning(training)
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


def _beginning(training: Training) -> float:
    seconds = -time.perf_counter()
    training.begin_epoch()
    return seconds + time.perf_counter()


def steps_within(seconds: float, seconds_a_step: float) -> int:
    """How many steps fit, with some room for logs and checkpoints; at least one."""
    return max(1, int(_ALLOWANCE * seconds / seconds_a_step))


def _some_batches(training: Training, number: int) -> Iterator[Batch]:
    """Batches of as many epochs as it takes."""
    while number > 0:
        with closing(training.feed.epoch(training.draws, training.progress)) as batches:
            for batch in batches:
                yield batch
                number -= 1
                if number == 0:
                    return


class _Clock:
    """Images a second since the last line, and the time that is left."""

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


def _kind(words: str) -> str:
    """An alarm without its numbers."""
    return "".join(c for c in words if c.isalpha())
