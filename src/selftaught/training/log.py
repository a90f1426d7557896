"""What a run writes while it trains: metrics.jsonl, log.txt, and a bar or a plain line on stderr.

Only one process of a run has a log. Lines of metrics.jsonl are JSON objects; a number that is not
finite is written as null and named in "nonfinite".
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
_SECONDS, _SHARE = 30.0, 0.1  # a plain line after so long, or after such a share of the steps
_SHOWN = {"spread": "spread {:.2f}", "effective_rank": "rank {:.1f}"}
_SHOWN |= {"contrastive_accuracy": "pairs found {:.1%}", "nmi_last": "NMI {:.2f}"}
_SHOWN |= {"clusters_used": "in use {:.0f}"}
_SHOWN |= {"probe_accuracy": "probe {:.1%}"}


class Log:
    """The log of one run. It adds to what is there; `cut_back` first where a run is resumed.

    Args:
        run: The run's folder.
        total_steps: Steps of the whole run.
        start_step: Steps done before.
        quiet: Whether to write the files only.

    Raises:
        StopRun: The files cannot be written.
    """

    def __init__(
        self, run: Path, *, total_steps: int, start_step: int = 0, quiet: bool = False
    ) -> None:
        self.total_steps, self.start_step, self.quiet = total_steps, start_step, quiet
        self._metrics, self._text = _Appended(run / METRICS), _Appended(run / TEXT)
        self._bar: Progress | None = None
        self._printed: tuple[int, float] | None = None  # step and time of the last plain line

    def step(self, line: dict[str, Any]) -> None:
        """Write a step's line, and show it: the loss always beside `chance`.

        Args:
            line: Has "step" and "loss"; "chance", "epoch", "images_per_second", "seconds_left" and
                health are shown where they are there.

        Raises:
            StopRun: The disk is full or fails.
        """
        self._metrics.write(json.dumps(_finite(line), allow_nan=False))
        if self._terminal:
            self._advance(line)
        if self._is_due(line["step"]):
            text = _plain(line, self.total_steps)
            self._printed = line["step"], time.monotonic()
            self._text.write(text)
            if not (self.quiet or self._terminal):
                _tell(text)

    def say(self, text: str) -> None:
        """Print a sentence, above the bar if there is one, and keep it in log.txt."""
        text = _printable(text)
        self._text.write(text)
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            _tell(text)

    def close(self) -> None:
        """Leave the bar as it stands and close the files; a second time does nothing."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        self._metrics.close()
        self._text.close()

    @property
    def _terminal(self) -> bool:
        return not self.quiet and (self._bar is not None or sys.stderr.isatty())

    def _is_due(self, step: int) -> bool:
        """Whether a plain line is: the first, the last, and now and then between."""
        if self._printed is None or step >= self.total_steps:
            return True
        last_step, last_time = self._printed
        share = (step - last_step) / self.total_steps
        return share >= _SHARE or time.monotonic() - last_time >= _SECONDS

    def _advance(self, line: dict[str, Any]) -> None:
        if self._bar is None:
            self._bar = _bar(self.total_steps, self.start_step)
        self._bar.update(self._bar.task_ids[0], completed=line["step"], description=_short(line))
        self._bar.refresh()


def _tell(text: str) -> None:
    """A line to stderr; a run goes on when nobody reads it any more (`2>&1 | head`)."""
    try:
        print(text, file=sys.stderr, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of the run's metrics.jsonl as they were logged; none where there is no file.

    A last line without its end, cut off when the process was killed, is left out. Numbers that
    were not finite come back as NaN.

    Raises:
        FileError: Another line is no JSON object, or the file cannot be read.
    """
    return [_restored(line) for line in map(json.loads, _lines(run))]


def cut_back(run: Path, step: int) -> None:
    """Keep the lines of metrics.jsonl up to and with a step, the file whole at any moment.

    Raises:
        FileError: A line is no JSON object, or the file cannot be read.
    """
    if (run / METRICS).exists():
        kept = [text for text in _lines(run) if json.loads(text).get("step", 0) <= step]
        files.write_text(run / METRICS, "".join(f"{text}\n" for text in kept))


def _lines(run: Path) -> list[str]:
    """Whole lines, each of them a JSON object."""
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
    raise FileError(f"{path} holds a line that is no JSON object", "restore the file")


def _finite(line: dict[str, Any]) -> dict[str, Any]:
    """The line with null for what JSON cannot say."""
    bad = [k for k, v in line.items() if isinstance(v, float) and not math.isfinite(v)]
    return {**line, **dict.fromkeys(bad), "nonfinite": bad} if bad else line


def _restored(line: dict[str, Any]) -> dict[str, Any]:
    """The line with NaN for what JSON could not say."""
    bad = line.pop("nonfinite", [])
    return {**line, **dict.fromkeys(bad, math.nan)}


def _loss(line: dict[str, Any]) -> str:
    """The loss beside that of a constant output."""
    chance = line.get("chance")
    return f"loss {line['loss']:.3f}" + ("" if chance is None else f" (chance {chance:.3f})")


def _pace(line: dict[str, Any]) -> list[str]:
    """Images a second and the time left, where they are known."""
    speed, left = line.get("images_per_second"), line.get("seconds_left")
    words = [] if speed is None else [f"{speed:,.0f} images/s"]
    return words + ([] if left is None else [f"{_duration(left)} left"])


def _short(line: dict[str, Any]) -> str:
    """What stands beside the bar."""
    return "  ".join([_loss(line), *_pace(line)])


def _plain(line: dict[str, Any], total_steps: int) -> str:
    """A step as a line of text."""
    words = [f"step {line['step']:,} of {total_steps:,}"]
    words += [f"epoch {line['epoch']}"] if "epoch" in line else []
    shown = [form.format(line[k]) for k, form in _SHOWN.items() if line.get(k) is not None]
    return "  ".join([*words, _loss(line), *shown, *_pace(line)])


def _duration(seconds: float) -> str:
    """Seconds in the two largest units that matter to someone who waits."""
    if not math.isfinite(seconds):
        return "unknown time"
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _printable(text: str) -> str:
    """Without control characters: a file's name must not steer the terminal."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def _bar(total_steps: int, start_step: int) -> "Progress":
    """A bar on stderr that is drawn when a line comes; no thread draws it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    bar = Progress(
        *columns, console=Console(stderr=True), auto_refresh=False, redirect_stdout=False
    )
    bar.add_task("", total=total_steps, completed=start_step)
    bar.start()
    return bar


class _Appended:
    """A text file that grows by whole lines, each handed to the system at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.file = path.open("ab", buffering=0)
        except OSError as error:
            raise self._stopped(error) from error

    def write(self, line: str) -> None:
        try:
            self.file.write(f"{line}\n".encode())
        except OSError as error:
            raise self._stopped(error) from error

    def close(self) -> None:
        self.file.close()

    def _stopped(self, error: OSError) -> StopRun:
        full = error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
        problem = "is full" if full else "cannot be written to"
        return StopRun(
            f"the disk of {self.path} {problem} ({error.strerror}): make room or repair it, then "
            f"selftaught resume {self.path.parent}"
        )
