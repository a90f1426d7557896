"""H2: a learning rate a hundred times too high is noticed and said, and stops a run on request.

Digits and a small ResNet: at the ordinary rate no alarm is raised, at a hundred times it the
outputs collapse into a few dimensions, with each of the optimizers.
"""

import pytest

from selftaught.cli import DONE, STOPPED, main
from tests.support.runs import lines, newest, pretrain

LR = {"sgd": 0.05, "adamw": 2e-3, "lars": 1.0}
SETTINGS = (
    *("--batch-size", "64", "--set", "loop.total_steps=150", "--set", "loop.log_every=10"),
    *("--set", "network.width=8", "--set", "network.stem_stride=1", "--set", "temperature=0.1"),
)


def train(out, optimizer, times, *more):
    rate = str(times * LR[optimizer])
    return pretrain("digits", out, *SETTINGS, "--optimizer", optimizer, "--lr", rate, *more)


def alarms(run):
    return [words for line in lines(run) for words in line.get("alarms", [])]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", LR)
def test_a_rate_a_hundred_times_too_high_is_noticed(tmp_path, optimizer, capsys):
    run = tmp_path / "run"
    assert train(run, optimizer, 100) == DONE
    said = capsys.readouterr()
    raised = alarms(run)
    assert raised and len(set(raised)) == len(raised)
    assert any("dimensions" in words or "diverge" in words for words in raised)
    for words in raised:
        assert f"ALARM. {words}" in said.err and f"ALARM. {words}" in said.out
        assert words in (run / "log.txt").read_text()
    assert main(["report", str(run), "--cache", str(tmp_path / "cache"), "--device", "cpu"]) == DONE
    page = (run / "report.html").read_text()
    assert all(words in page for words in raised)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", LR)
def test_the_ordinary_rate_raises_none(tmp_path, optimizer, capsys):
    run = tmp_path / "run"
    assert train(run, optimizer, 1) == DONE
    assert alarms(run) == [] and "ALARM" not in "".join(capsys.readouterr())
    assert main(["report", str(run), "--cache", str(tmp_path / "cache"), "--device", "cpu"]) == DONE
    assert "is a collapse)" not in (run / "report.html").read_text()


@pytest.mark.slow
def test_an_alarm_stops_the_run_where_that_is_asked_for(tmp_path, capsys):
    run = tmp_path / "run"
    assert train(run, "lars", 100, "--set", "loop.stop_on_alarm=true") == STOPPED
    said = capsys.readouterr().err.strip().splitlines()
    stopped = newest(run)
    last = lines(run)[-1]
    assert last["alarms"] and last["step"] == stopped.step < 150
    assert said[-1].startswith(f"selftaught: stopped by an alarm after step {stopped.step} of 150")
    assert any(line.startswith("ALARM. ") for line in said)


@pytest.mark.slow
def test_healthy_runs_are_not_stopped(tmp_path):
    assert train(tmp_path / "run", "lars", 1, "--set", "loop.stop_on_alarm=true") == DONE
