"""How speeds are measured: in turns, pair by pair, with the spread beside them."""

import argparse
import json
import os
import subprocess
import sys

import pytest

from benchmarks import measure


class Clock:
    """Time that passes only where a variant says so."""

    def __init__(self, monkeypatch) -> None:
        self.now = 0.0
        self.calls: list[str] = []
        monkeypatch.setattr(measure.time, "perf_counter", lambda: self.now)

    def variant(self, name: str, *seconds: float):
        """A piece of work that takes these seconds, call after call, then starts anew."""

        def call() -> None:
            self.now += seconds[self.calls.count(name) % len(seconds)]
            self.calls.append(name)

        return call


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


def test_variants_take_turns_and_the_warm_up_is_thrown_away(clock):
    work = {"a": clock.variant("a", 9, 1, 2), "b": clock.variant("b", 9, 3, 5)}
    assert measure.alternate(work, repeats=2, warmup=1) == {"a": [1, 2], "b": [3, 5]}
    assert clock.calls == list("ababab")


def test_the_ratio_is_that_of_pairs_and_not_of_medians(clock):
    """A machine that slows down by 10 hits both of a pair: every pair says 2."""
    work = {"ours": clock.variant("ours", 1, 10, 100), "rival": clock.variant("rival", 2, 20, 200)}
    row = measure.compare("work", work, repeats=3, warmup=0)
    assert (row.ratio, row.spread["ratio"]) == (2.0, (2.0, 2.0))
    assert (row.ours, row.ours_value, row.spread["ours"]) == ("ours", 10, (1, 100))
    assert (row.rival, row.rival_value, row.spread["rival"]) == ("rival", 20, (2, 200))
    assert (row.unit, row.spread["repeats"]) == ("s", 3)


def test_items_make_it_a_rate_and_faster_stays_above_one(clock):
    work = {"ours": clock.variant("ours", 0.5), "rival": clock.variant("rival", 2)}
    row = measure.compare("work", work, items=100, of="views", repeats=1, warmup=0)
    assert (row.ours_value, row.rival_value, row.unit, row.ratio) == (200, 50, "views/s", 4)


def test_variants_may_work_on_different_numbers_of_items(clock):
    """A slow rival gets less to do, and is judged by its rate all the same."""
    work = {"ours": clock.variant("ours", 1, 2), "rival": clock.variant("rival", 1, 2)}
    items = {"ours": 1000, "rival": 50}
    row = measure.compare("work", work, items=items, repeats=2, warmup=0)
    assert (row.ours_value, row.rival_value, row.ratio) == (750, 37.5, pytest.approx(20))


@pytest.mark.parametrize(("names", "repeats"), [("a", 1), ("abc", 1), ("ab", 0)])
def test_two_variants_and_a_repetition_are_wanted(names, repeats):
    with pytest.raises(ValueError, match="two variants"):
        measure.compare("work", dict.fromkeys(names, int), repeats=repeats)


def test_a_row_is_a_line_of_json_with_where_it_was_measured(clock, tmp_path):
    work = {"ours": clock.variant("ours", 1), "rival": clock.variant("rival", 3)}
    row = measure.compare("work", work, repeats=1, packages=("pytest", "no-such-package"))
    path = tmp_path / "new" / "rows.jsonl"
    measure.append(path, row)
    measure.append(path, row)
    first, second = map(json.loads, path.read_text().splitlines())
    assert first == second
    assert set(first) == {
        *("work", "ours", "rival", "ours_value", "rival_value"),
        *("unit", "ratio", "spread", "versions", "hardware"),
    }
    assert {"python", "torch", "pytest"} <= first["versions"].keys()
    assert "no-such-package" not in first["versions"]
    assert "cores" in first["hardware"] and "GiB" in first["hardware"]


def test_the_rows_of_a_run_are_one_array_of_json(clock, tmp_path):
    work = {"ours": clock.variant("ours", 1), "rival": clock.variant("rival", 3)}
    rows = [measure.compare(name, work, repeats=1, warmup=0) for name in ("first", "second")]
    measure.write_json(tmp_path / "new/rows.json", rows)
    written = json.loads((tmp_path / "new/rows.json").read_text())
    assert [(row["work"], row["ratio"]) for row in written] == [("first", 3), ("second", 3)]


@pytest.mark.parametrize(
    ("arguments", "publishes"),
    [([], True), (["--json", "a"], False), (["--json", "a", "--publish"], True)],
)
def test_the_page_is_left_alone_where_rows_go_to_a_file(arguments, publishes):
    parser = argparse.ArgumentParser()
    measure.output_options(parser)
    assert measure.publishes(parser.parse_args(arguments)) is publishes


@pytest.mark.slow
def test_a_process_is_confined_to_some_cores():
    """In a process of its own, for it does not get its cores back."""
    code = (
        "import os, torch; from benchmarks.measure import use_cores; use_cores(1); "
        "print(len(os.sched_getaffinity(0)), torch.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]


def test_long_prose_is_wrapped_and_tables_code_and_pictures_stay():
    long, row = "word " * 40, "| cell " * 40 + "|"
    picture, code = "![" + "a" * 120 + "](b.svg)", "```text\n" + "x" * 150 + "\n```"
    lines = measure.wrapped("\n".join([long.strip(), "* " + long.strip(), row, picture, code]))
    assert row in lines and picture in lines and code in lines
    prose = lines.split(row)[0].splitlines()
    assert max(map(len, prose)) <= 100 and " ".join(prose).split().count("word") == 80
    assert measure.wrapped(lines) == lines


def test_rows_become_a_table_with_one_line_of_place(clock):
    work = {"ours": clock.variant("ours", 1, 2), "lightly": clock.variant("lightly", 3, 5)}
    row = measure.compare("NT-Xent", work, repeats=2, warmup=0)
    text = measure.markdown([row, row])
    line = "| NT-Xent | ours | 1.5 s | lightly | 4 s | 2.75x | 2.50x to 3.00x | 2 of each |"
    assert text.count(line) == 2
    assert text.count(row.hardware) == 1 and f"python {row.versions['python']}" in text


def test_a_script_replaces_its_own_part_of_the_results(tmp_path):
    results = tmp_path / "results.md"
    measure.publish(results, "speed", "one\n")
    measure.publish(results, "accuracy", "two")
    measure.publish(results, "speed", "three")
    assert results.read_text() == (
        "# Results\n\n<!-- begin speed -->\nthree\n<!-- end speed -->\n"
        "\n<!-- begin accuracy -->\ntwo\n<!-- end accuracy -->\n"
    )


@pytest.mark.slow
def test_the_peak_is_what_a_process_of_its_own_held_at_once():
    code = (
        "from benchmarks import measure; before = measure.peak_mib();"
        "held = b'1' * 2**26; del held; print(measure.peak_mib() - before)"
    )
    mine = b"1" * 2**28  # of the program that starts it: does not count
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(mine) and float(done.stdout) == pytest.approx(64, abs=2)


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [({}, ["PASSIVE", "1000", "False"]), ({"OMP_WAIT_POLICY": "ACTIVE"}, ["ACTIVE", "-", "False"])],
)
def test_threads_wait_in_benchmarks_as_they_do_in_training(theirs, expected):
    """Spinning ones ran a benchmark on two cores at a sixth of its speed: torch came first."""
    code = (
        "import benchmarks, os, sys; print(os.environ['OMP_WAIT_POLICY'],"
        "os.environ.get('GOMP_SPINCOUNT', '-'), 'torch' in sys.modules)"
    )
    ours = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    clean = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean | theirs, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == expected
