"""The log of a run: metrics.jsonl, log.txt, and a progress bar or plain lines on stderr.

Only one process of a run has a log. Lines of metrics.jsonl are JSON objects; a number that is not
finite is written as null, and "nonfinite" lists its name.
"""

import errno
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selftaught.errors import FileError, StopRun
from selftaught.foundation import files

if TYPE_CHECKING:
    from rich.progress import Progress

METRICS, TEXT = "metrics.jsonl", "log.txt"
_SECONDS, _SHARE = 30.0, 0.1  # a plain line after this time, or after this share of the steps
_SHOWN = {"spread": "spread {:.2f}", "effective_rank": "rank {:.1f}"}
_SHOWN |= {"contrastive_accuracy": "pairs found {:.1%}", "nmi_last": "NMI {:.2f}"}
_SHOWN |= {"clusters_used": "in use {:.0f}"}
_SHOWN |= {"probe_accuracy": "probe {:.1%}"}


class Log:
    """The log of one run. It appends to existing files; call `cut_back` first to resume a run.

    Args:
        run: The run folder.
        total_steps: Steps of the whole run.
        start_step: Steps already done.
        quiet: Whether to write only the files.

    Raises:
        StopRun: The files cannot be written.
    """

    def __init__(
        self, run: Path, *, total_steps: int, start_step: int = 0, quiet: bool = False
    ) -> None:
        self.total_steps, self.start_step, self.quiet = total_steps, start_step, quiet
        self._metrics, self._text = _AppendFile(run / METRICS), _AppendFile(run / TEXT)
        self._bar: Progress | None = None
        self._printed: tuple[int, float] | None = None  # step and time of the last plain line

    def step(self, line: dict[str, Any]) -> None:
        """Write a step's line, and show it: the loss always with `chance`.

        Args:
            line: Has "step" and "loss"; "chance", "epoch", "images_per_second", "seconds_left" and
                health are shown if present.

        Raises:
            StopRun: The disk is full or fails.
        """
        self._metrics.write(json.dumps(_json_line(line), allow_nan=False))
        if self._terminal:
            self._advance(line)
        if self._is_due(line["step"]):
            text = _step_text(line, self.total_steps)
            self._printed = line["step"], time.monotonic()
            self._text.write(text)
            if not (self.quiet or self._terminal):
                _print_line(text)

    def say(self, text: str) -> None:
        """Print a sentence, above the bar if there is one, and write it to log.txt."""
        text = _printable_text(text)
        self._text.write(text)
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            _print_line(text)

    def close(self) -> None:
        """Stop the bar and close the files; calling it again does nothing."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        self._metrics.close()
        self._text.close()

    @property
    def _terminal(self) -> bool:
        return not self.quiet and (self._bar is not None or sys.stderr.isatty())

    def _is_due(self, step: int) -> bool:
        """Whether to print a plain line: the first, the last, and some between."""
        if self._printed is None or step >= self.total_steps:
            return True
        last_step, last_time = self._printed
        share = (step - last_step) / self.total_steps
        return share >= _SHARE or time.monotonic() - last_time >= _SECONDS

    def _advance(self, line: dict[str, Any]) -> None:
        if self._bar is None:
            self._bar = _bar(self.total_steps, self.start_step)
        self._bar.update(self._bar.task_ids[0], completed=line["step"], description=_bar_text(line))
        self._bar.refresh()


def _print_line(text: str) -> None:
    """Print a line to stderr; the run continues if the reader has closed it (`2>&1 | head`)."""
    try:
        print(text, file=sys.stderr, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of the run's metrics.jsonl as they were logged; none if the file does not exist.

    Drops an incomplete last line, which a killed process leaves. Numbers that were not finite
    become NaN.

    Raises:
        FileError: Another line is not a JSON object, or the file cannot be read.
    """
    return [_logged_line(line) for line in map(json.loads, _lines(run))]


def cut_back(run: Path, step: int) -> None:
    """Drop the lines of metrics.jsonl after a step; the file is whole at any moment.

    Raises:
        FileError: A line is not a JSON object, or the file cannot be read.
    """
    if (run / METRICS).exists():
        kept = [text for text in _lines(run) if json.loads(text).get("step", 0) <= step]
        files.write_text(run / METRICS, "".join(f"{text}\n" for text in kept))


def _lines(run: Path) -> list[str]:
    """The complete lines, each a JSON object."""
    path = run / METRICS
    try:
        whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
        lines = whole.decode().split("\n") if whole else []
        if all(isinstance(json.loads(line), dict) for line in lines):
            return lines
    except OSError as error:
        raise FileError(f"{path} cannot be read ({error.strerror})", "restore the file") from None
    except (ValueError, RecursionError):
        pass
    raise FileError(f"{path} holds a line that is not a JSON object", "restore the file")


def _json_line(line: dict[str, Any]) -> dict[str, Any]:
    """The line with null for numbers that JSON cannot hold."""
    bad = [k for k, v in line.items() if isinstance(v, float) and not math.isfinite(v)]
    return {**line, **dict.fromkeys(bad), "nonfinite": bad} if bad else line


def _logged_line(line: dict[str, Any]) -> dict[str, Any]:
    """The line with NaN for numbers that JSON could not hold."""
    bad = line.pop("nonfinite", [])
    return {**line, **dict.fromkeys(bad, math.nan)}


def _loss_text(line: dict[str, Any]) -> str:
    """The loss, and that of a constant output."""
    chance = line.get("chance")
    return f"loss {line['loss']:.3f}" + ("" if chance is None else f" (chance {chance:.3f})")


def _pace_words(line: dict[str, Any]) -> list[str]:
    """Images per second and the time left, if known."""
    speed, left = line.get("images_per_second"), line.get("seconds_left")
    words = [] if speed is None else [f"{speed:,.0f} images/s"]
    return words + ([] if left is None else [f"{_duration(left)} left"])


def _bar_text(line: dict[str, Any]) -> str:
    """The text next to the bar."""
    return "  ".join([_loss_text(line), *_pace_words(line)])


def _step_text(line: dict[str, Any], total_steps: int) -> str:
    """A step as a line of text."""
    words = [f"step {line['step']:,} of {total_steps:,}"]
    words += [f"epoch {line['epoch']}"] if "epoch" in line else []
    shown = [form.format(line[k]) for k, form in _SHOWN.items() if line.get(k) is not None]
    return "  ".join([*words, _loss_text(line), *shown, *_pace_words(line)])


def _duration(seconds: float) -> str:
    """Seconds as hours and minutes, minutes, or seconds."""
    if not math.isfinite(seconds):
        return "unknown time"
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _printable_text(text: str) -> str:
    """The text without control characters: a file name must not control the terminal."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def _bar(total_steps: int, start_step: int) -> "Progress":
    """A bar on stderr, redrawn with each line and not by a thread."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    bar = Progress(
        *columns, console=Console(stderr=True), auto_refresh=False, redirect_stdout=False
    )
    bar.add_task("", total=total_steps, completed=start_step)
    bar.start()
    return bar


class _AppendFile:
    """A text file that grows by whole lines, each written immediately."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.file = path.open("ab", buffering=0)
        except OSError as error:
            raise self._disk_error(error) from error

    def write(self, line: str) -> None:
        try:
            self.file.write(f"{line}\n".encode())
        except OSError as error:
            raise self._disk_error(error) from error

    def close(self) -> None:
        self.file.close()

    def _disk_error(self, error: OSError) -> StopRun:
        full = error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
        problem = "is full" if full else "cannot be written to"
        return StopRun(
            f"the disk of {self.path} {problem} ({error.strerror}): free some space or repair it, "
            f"then run selftaught resume {self.path.parent}"
        )
