"""I3: files that go bad after the check: a few are replaced and named, many stop the run."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from selftaught.cli import DONE, USER
from selftaught.data.store import Form
from selftaught.encoders.folder import open_encoder
from selftaught.training import training as step_of
from tests.support.runs import lines, newest, pretrain

pytestmark = pytest.mark.slow

IMAGES, STEPS = 150, 27  # nine steps an epoch; two bad files are more than 1 %
OPEN = import_module("selftaught.data.open_images")
STORE = import_module("selftaught.data.store")


@dataclass
class Folder:
    """Digits as PNG files, and the way to spoil some."""

    path: Path

    def name(self, i: int) -> str:
        return f"{i:03}.png"

    def spoil(self, *which: int) -> None:
        for i in which:
            file = self.path / self.name(i)
            file.write_bytes(file.read_bytes()[:-30])


@pytest.fixture
def folder(tmp_path) -> Folder:
    made = Folder(tmp_path / "photos")
    made.path.mkdir()
    for i, image in enumerate(load_digits().images[:IMAGES]):
        Image.fromarray((image * 15).astype(np.uint8)).save(made.path / made.name(i))
    return made


def kept_as(monkeypatch, form: Form) -> None:
    monkeypatch.setattr(STORE, "_best_form", lambda *_: form)


def after_check(monkeypatch, action) -> None:
    """Do something between the check and the decoding of the store."""
    check = OPEN.check_images

    def checked(*arguments, **options):
        found = check(*arguments, **options)
        action()
        return found

    monkeypatch.setattr(OPEN, "check_images", checked)


def after_step(monkeypatch, step: int, action) -> None:
    """Do something while the run trains."""
    take = step_of.Training.take

    def taken(self, batch):
        take(self, batch)
        if self.step == step:
            action()

    monkeypatch.setattr(step_of.Training, "take", taken)


CLUSTERS = ("--method", "deepcluster", "--set", "k=5")


def run(folder: Folder, out: Path, *more: str) -> int:
    return pretrain(folder.path, out, "--set", f"loop.total_steps={STEPS}", *more)


@pytest.mark.parametrize("form", ["memory", "encoded"])
def test_clustering_does_without_a_file_that_has_gone_bad(
    folder, tmp_path, monkeypatch, capsys, form
):
    kept_as(monkeypatch, form)
    after_check(monkeypatch, lambda: folder.spoil(17))
    assert run(folder, tmp_path / "run", *CLUSTERS) == DONE
    said = capsys.readouterr()
    assert "became unreadable during training" in said.out and folder.name(17) in said.out
    assert folder.name(18) not in said.out
    ended(tmp_path / "run")


def test_a_file_that_goes_bad_between_clusterings_is_named(folder, tmp_path, monkeypatch, capsys):
    kept_as(monkeypatch, "encoded")
    after_step(monkeypatch, 9, lambda: folder.spoil(149))
    assert run(folder, tmp_path / "run", *CLUSTERS) == DONE
    assert folder.name(149) in capsys.readouterr().out
    ended(tmp_path / "run")


def test_many_bad_files_stop_clustering_in_one_line(folder, tmp_path, monkeypatch, capsys):
    kept_as(monkeypatch, "encoded")
    after_step(monkeypatch, 9, lambda: folder.spoil(20, 30, 40))
    assert run(folder, tmp_path / "run", *CLUSTERS) == USER
    one_line(capsys.readouterr().err, folder)


@pytest.mark.parametrize("form", ["memory", "disk", "encoded"])
def test_a_file_that_goes_bad_after_the_check_is_named(folder, tmp_path, monkeypatch, capsys, form):
    kept_as(monkeypatch, form)
    after_check(monkeypatch, lambda: folder.spoil(17))
    assert run(folder, tmp_path / "run") == DONE
    said = capsys.readouterr()
    assert "became unreadable during training" in said.out and folder.name(17) in said.out
    assert folder.name(18) not in said.out
    ended(tmp_path / "run")


def test_a_file_that_goes_bad_in_the_midst_of_a_run_is_named(folder, tmp_path, monkeypatch, capsys):
    kept_as(monkeypatch, "encoded")
    after_step(monkeypatch, 10, lambda: folder.spoil(99))
    assert run(folder, tmp_path / "run") == DONE
    assert folder.name(99) in capsys.readouterr().out
    ended(tmp_path / "run")


def test_a_file_that_is_gone_is_named(folder, tmp_path, monkeypatch, capsys):
    kept_as(monkeypatch, "encoded")
    after_step(monkeypatch, 10, (folder.path / folder.name(3)).unlink)
    assert run(folder, tmp_path / "run") == DONE
    assert folder.name(3) in capsys.readouterr().out
    ended(tmp_path / "run")


def test_pixels_in_memory_do_not_care(folder, tmp_path, monkeypatch, capsys):
    kept_as(monkeypatch, "memory")
    after_step(monkeypatch, 1, lambda: folder.spoil(*range(IMAGES)))
    assert run(folder, tmp_path / "run") == DONE
    assert "went bad" not in capsys.readouterr().out
    ended(tmp_path / "run")


@pytest.mark.parametrize("form", ["memory", "encoded"])
def test_many_bad_files_stop_the_run_in_one_line(folder, tmp_path, monkeypatch, capsys, form):
    kept_as(monkeypatch, form)
    after_check(monkeypatch, lambda: folder.spoil(20, 30, 40))
    assert run(folder, tmp_path / "run") == USER
    one_line(capsys.readouterr().err, folder)


def test_many_that_go_bad_in_the_midst_stop_it_with_the_work_saved(
    folder, tmp_path, monkeypatch, capsys
):
    kept_as(monkeypatch, "encoded")
    after_step(monkeypatch, 12, lambda: folder.spoil(20, 30, 40))
    assert run(folder, tmp_path / "run") == USER
    one_line(capsys.readouterr().err, folder)
    assert newest(tmp_path / "run").step >= 9  # the last epoch's end


def one_line(said: str, folder: Folder) -> None:
    last = said.strip().splitlines()[-1]
    assert last.startswith("selftaught: ") and f"of {IMAGES} images have gone bad" in last
    assert any(folder.name(i) in last for i in (20, 30, 40))


def ended(run: Path) -> None:
    """It is a whole run: every step, every checked image a row, finite losses, an encoder."""
    assert newest(run).step == STEPS and newest(run).state["complete"]
    assert pq.read_table(run / "images.parquet").num_rows == IMAGES
    assert [line["step"] for line in lines(run)] == list(range(1, STEPS + 1))
    assert all(np.isfinite(line["loss"]) for line in lines(run))
    open_encoder(str(run))
