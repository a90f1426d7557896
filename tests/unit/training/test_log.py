"""The log: JSON lines that are always valid, plain lines now and then, a bar, cutting back."""

import io
import json
import math
import subprocess
import sys

import pytest

from selftaught.errors import FileError, StopRun
from selftaught.training import log as log_module
from selftaught.training.log import Log, cut_back, read_metrics


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    """Time that passes only when told to."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


def line(step, **more):
    health = {"spread": 0.71, "effective_rank": 80.1, "contrastive_accuracy": 0.25}
    pace = {"images_per_second": 1234.4, "seconds_left": 125.0}
    base = {"step": step, "epoch": step // 10, "loss": 4.3212, "chance": 6.9304, "lr": 0.1}
    return base | health | pace | more


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(log_module, "time", clock)
    return clock


@pytest.fixture
def log(tmp_path):
    log = Log(tmp_path, total_steps=100)
    yield log
    log.close()


def test_every_step_is_a_json_object_and_is_read_as_it_was_logged(tmp_path, log):
    lines = [line(step, loss=1 / 3, alarms=["é\n✓"]) for step in range(1, 8)]
    for one in lines:
        log.step(one)
        assert read_metrics(tmp_path)[-1] == one  # at once, not when the file is closed
    assert read_metrics(tmp_path) == lines
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 7


def test_numbers_that_are_not_finite_are_null_and_named(tmp_path, log):
    log.step(line(1, loss=math.nan, spread=-math.inf))
    text = (tmp_path / "metrics.jsonl").read_text()
    strict = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert strict["loss"] is None and strict["nonfinite"] == ["loss", "spread"]
    (back,) = read_metrics(tmp_path)
    assert math.isnan(back["loss"]) and math.isnan(back["spread"])
    assert back.keys() == line(1).keys()


def test_a_log_goes_on_where_one_ended(tmp_path):
    for start in (0, 5):
        log = Log(tmp_path, total_steps=10, start_step=start, quiet=True)
        log.step(line(start + 1))
        log.say(f"from {start}")
        log.close()
    assert [one["step"] for one in read_metrics(tmp_path)] == [1, 6]
    said = (tmp_path / "log.txt").read_text()
    assert "from 0" in said and "from 5" in said


def test_a_plain_line_has_the_loss_beside_chance(log, capsys):
    log.step(line(1))
    assert capsys.readouterr().err == (
        "step 1 of 100  epoch 0  loss 4.321 (chance 6.930)  spread 0.71  rank 80.1  "
        "pairs found 25.0%  1,234 images/s  2 min left\n"
    )


def test_what_is_not_known_is_left_out(log, capsys):
    log.step({"step": 1, "loss": 2.0, "chance": None})
    assert capsys.readouterr().err == "step 1 of 100  loss 2.000\n"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59, "59 s"), (95, "2 min"), (5760, "1 h 36 min"), (7190, "2 h 0 min")],
)
def test_the_time_that_is_left_is_in_words(log, capsys, seconds, words):
    log.step(line(1, seconds_left=seconds))
    assert f"  {words} left\n" in capsys.readouterr().err


def test_plain_lines_come_now_and_then(tmp_path, capsys, clock):
    log = Log(tmp_path, total_steps=1000)
    for step in range(1, 1001):
        clock.now += 31 if step == 250 else 0.001
        log.step(line(step))
    log.close()
    printed = capsys.readouterr().err.splitlines()
    steps = [int(text.split()[1].replace(",", "")) for text in printed]
    assert steps == [1, 101, 201, 250, 350, 450, 550, 650, 750, 850, 950, 1000]
    assert (tmp_path / "log.txt").read_text().splitlines() == printed
    assert len(read_metrics(tmp_path)) == 1000


def test_quiet_writes_the_files_and_prints_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    log = Log(tmp_path, total_steps=2, quiet=True)
    log.step(line(1))
    log.say("A sentence.")
    log.close()
    assert sys.stderr.getvalue() == "" and capsys.readouterr() == ("", "")
    assert (
        "A sentence.\n" in (tmp_path / "log.txt").read_text() and len(read_metrics(tmp_path)) == 1
    )


def test_a_sentence_goes_to_stderr_and_into_the_text(tmp_path, log, capsys):
    log.say("Two files\nwent bad.")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "Two files\nwent bad.\n")
    assert (tmp_path / "log.txt").read_text() == err


@pytest.mark.parametrize("terminal", [False, True])
def test_a_file_name_cannot_steer_the_terminal(tmp_path, monkeypatch, terminal):
    monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
    log = Log(tmp_path, total_steps=10)
    log.step(line(1))
    log.say("bad \x1b[2Jfile \u202e[bold red]x[/] \udcff.jpg")
    shown = sys.stderr.getvalue()
    log.close()
    for text in (shown, (tmp_path / "log.txt").read_text()):
        assert r"bad \x1b[2Jfile \u202e[bold red]x[/] \udcff.jpg" in text


def test_a_terminal_gets_a_bar(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "120")
    log = Log(tmp_path, total_steps=100, start_step=20)
    log.say("before the first step")
    for step in range(21, 101):
        log.step(line(step, seconds_left=100.0 - step))
        if step == 60:
            log.say("in the middle")
    shown = sys.stderr.getvalue()
    log.close()
    for words in (" 21/100", "100/100", "loss 4.321 (chance 6.930)  1,234 images/s  40 s left"):
        assert words in shown
    assert "before the first step" in shown and "in the middle" in shown
    assert "spread" not in shown  # the plain lines are in the text alone
    assert (tmp_path / "log.txt").read_text().count("step ") >= 9
    assert capsys.readouterr().out == ""


def test_the_bar_leaves_stdout_to_results(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", Terminal())
    log = Log(tmp_path, total_steps=2)
    log.step(line(1))
    print("a result")
    log.close()
    log.close()  # a second time does nothing
    assert capsys.readouterr().out == "a result\n" and "a result" not in sys.stderr.getvalue()


def test_a_run_without_lines_is_empty(tmp_path):
    assert read_metrics(tmp_path) == []
    cut_back(tmp_path, 3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("torn", [b'{"step": 4, "lo', b'{"step": 4}', b"\0\0\0", b"\xff"])
def test_a_line_that_was_cut_off_is_dropped(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    whole = b"".join(b'{"step": %d,  "x": 1.50}\n' % n for n in (1, 2, 3))
    path.write_bytes(whole + torn)
    assert [one["step"] for one in read_metrics(tmp_path)] == [1, 2, 3]
    cut_back(tmp_path, 9)
    assert path.read_bytes() == whole  # and the others keep their bytes


@pytest.mark.parametrize(("step", "kept"), [(0, []), (2, [1, 2]), (3, [1, 2]), (9, [1, 2, 4])])
def test_lines_after_a_step_are_cut(tmp_path, step, kept):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 4}\n')
    cut_back(tmp_path, step)
    assert [one["step"] for one in read_metrics(tmp_path)] == kept
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize(
    "bad", [b"{\n", b"3\n", b"[1]\n", b'"x"\n', b"\xff\n", b"[" * 99999 + b"\n"]
)
@pytest.mark.parametrize("use", [read_metrics, lambda run: cut_back(run, 1)])
def test_a_whole_line_that_is_no_object_is_named(tmp_path, bad, use):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + bad + b'{"step": 2}\n')
    before = path.read_bytes()
    with pytest.raises(FileError, match=r"metrics\.jsonl holds a line that is not a JSON object"):
        use(tmp_path)
    assert path.read_bytes() == before


def test_metrics_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(FileError, match=r"metrics\.jsonl cannot be read \(Is a directory\)"):
        read_metrics(tmp_path)


def test_a_folder_that_is_gone_stops_the_run(tmp_path):
    with pytest.raises(StopRun, match=r"gone/metrics\.jsonl cannot be written to"):
        Log(tmp_path / "gone", total_steps=1)


FILL = """
import resource, sys
from pathlib import Path
from selftaught.errors import StopRun
from selftaught.training.log import Log
log = Log(Path(sys.argv[1]), total_steps=10**6, quiet=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    for step in range(1000):
        log.step({"step": step, "loss": 1.0})
except StopRun as stop:
    print(stop)
log.close()
"""


def test_a_full_disk_stops_the_run_in_words_and_what_was_written_is_read(tmp_path):
    done = subprocess.run([sys.executable, "-c", FILL, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert f"the disk of {tmp_path / 'metrics.jsonl'} is full (File too large)" in done.stdout
    assert f"selftaught resume {tmp_path}" in done.stdout
    steps = [one["step"] for one in read_metrics(tmp_path)]
    assert len(steps) > 10 and steps == list(range(len(steps)))
