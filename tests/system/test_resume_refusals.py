"""R4: what `selftaught resume` refuses, in one line, and destroys nothing; and what it forgives."""

import hashlib
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from selftaught.foundation.files import folder_lock
from tests.support.forked import Child, Server
from tests.support.kills import Ended, ended, metrics

pytestmark = pytest.mark.slow

STEPS, IMAGES, BATCH = 40, 24, 8
DONE, USER, STOPPED = 0, 2, 3
OPTIONS = (
    *("--image-size", "16", "--batch-size", BATCH, "--encoder", "resnet8"),
    *("--set", "network.width=4", "--set", "network.stem_stride=2", "--set", "options.hidden=16"),
    *("--set", "loop.log_every=1", "--set", "loop.checkpoint_seconds=0.001"),
    *("--set", f"loop.total_steps={STEPS}", "--seed", "3"),
)


@dataclass(frozen=True)
class Place:
    """A run that was stopped, its images, and how it would have ended."""

    server: Server
    folder: Path
    straight: Ended

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def images(self) -> Path:
        return self.folder / "images"

    def resume(self, run: Path | None = None) -> tuple[int, str]:
        """Exit code, and what was said."""
        said = self.folder / "said.txt"
        said.unlink(missing_ok=True)
        cache = self.folder / "cache"
        child = self.server.start("resume", run or self.run, "--cache", cache, said=said)
        return child.wait(), said.read_text()

    def refused(self, *names: str, run: Path | None = None) -> None:
        """It is: exit 2, one line with these names, and every file is as it was."""
        before = tree(self.run)
        code, said = self.resume(run)
        assert code == USER, said
        assert said.startswith("selftaught: ") and said.count("\n") == 1, said
        assert [name for name in names if name not in said] == [], said
        assert tree(self.run) == before

    def ends_equal(self) -> str:
        """It goes on and ends like the run that nobody stopped; returns what it said."""
        code, said = self.resume()
        assert code == DONE, said
        assert ended(self.run) == self.straight
        return said


def tree(folder: Path) -> dict[str, str]:
    """Every file's SHA-256, by name."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def write_image(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def start(server: Server, folder: Path, name: str) -> Child:
    images, said = folder / "images", folder / "said.txt"
    where = ("--out", folder / name, "--cache", folder / "cache")
    return server.start("pretrain", images, *OPTIONS, *where, said=said)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture(scope="module")
def made(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Images, a run that went through, and one that was stopped after some steps."""
    folder = tmp_path_factory.mktemp("made") / "place"
    (folder / "images" / "sub").mkdir(parents=True)
    for number in range(IMAGES):
        write_image(folder / "images" / "sub" / f"{number:02d}.png", number)
    assert start(server, folder, "straight").wait() == DONE, (folder / "said.txt").read_text()
    child = start(server, folder, "run")
    while len(list((folder / "run" / "checkpoints").glob("0*"))) < 2:
        assert not child.ended(), (folder / "said.txt").read_text()
        time.sleep(0.002)
    child.signal(signal.SIGTERM)
    assert child.wait() == STOPPED
    assert 1 < len(metrics(folder / "run")) < STEPS
    return Place(server, folder, ended(folder / "straight"))


@pytest.fixture
def place(made: Place) -> Iterator[Place]:
    """It is at the same path each time, for config.yaml names the images by theirs."""
    kept = made.folder.with_name("kept")
    shutil.copytree(made.folder, kept, copy_function=shutil.copy2)
    yield made
    shutil.rmtree(made.folder)
    kept.rename(made.folder)


def change(run: Path, field: str, value: Any) -> None:
    path = run / "config.yaml"
    values = yaml.safe_load(path.read_text())
    section, _, name = field.rpartition(".")
    (values[section] if section else values)[name] = value
    path.write_text(yaml.safe_dump(values))


CHANGES: dict[str, Any] = {
    "data.path": "digits",
    "data.store_size": 18,
    "network.encoder": "resnet20",
    "network.width": 8,
    "network.image_size": 24,
    "views.flip": 0.25,
    "views.crop_scale": [0.3, 1.0],
    "loop.total_steps": STEPS + 1,
    "loop.batch_size": 6,
    "loop.optimizer": "sgd",
    "loop.lr": 1e-3,
    "loop.weight_decay": 0.0,
    "loop.precision": "bf16",
    "options.temperature": 0.5,
    "seed": 4,
    "probe": "digits",
}


@pytest.mark.parametrize(("field", "value"), CHANGES.items(), ids=CHANGES.keys())
def test_R4_a_changed_setting_is_refused_by_name(place: Place, field: str, value: Any) -> None:
    change(place.run, field, value)
    place.refused(f"{place.run}/config.yaml: {field} is ")


def test_R4_settings_that_cannot_be(place: Place) -> None:
    for field, value in (("method", "simcrl"), ("loop.lr", "fast"), ("loop.epoch", 3)):
        kept = (place.run / "config.yaml").read_text()
        change(place.run, field, value)
        place.refused(field.rpartition(".")[2])
        (place.run / "config.yaml").write_text(kept)


def test_what_was_refused_can_be_put_back(place: Place) -> None:
    kept = (place.run / "config.yaml").read_text()
    change(place.run, "seed", 4)
    place.refused("seed")
    (place.run / "config.yaml").write_text(kept)
    place.ends_equal()


# The images.


def changed(image: Path) -> None:
    write_image(image, 1000)


def removed(image: Path) -> None:
    image.unlink()


def damaged(image: Path) -> None:
    image.write_bytes(image.read_bytes()[:-100])


def replaced_by_a_folder(image: Path) -> None:
    image.unlink()
    image.mkdir()


@pytest.mark.parametrize("fault", [changed, removed, damaged, replaced_by_a_folder])
def test_an_image_that_is_not_as_it_was_is_named(
    place: Place, fault: Callable[[Path], None]
) -> None:
    fault(place.images / "sub" / "07.png")
    place.refused("sub/07.png", "the images of", str(place.run))


@pytest.mark.parametrize("name", ["sub/zz.png", "sub/11b.png", "aa.png"])
def test_an_image_that_was_added_is_named(place: Place, name: str) -> None:
    write_image(place.images / name, 1000)
    place.refused(name, "the images of", str(place.run))


def test_an_image_that_was_renamed_is_named(place: Place) -> None:
    (place.images / "sub" / "07.png").rename(place.images / "sub" / "z.png")
    place.refused("sub/07.png")


def test_images_that_are_gone(place: Place) -> None:
    shutil.rmtree(place.images)
    place.refused(str(place.images))


def test_images_that_were_only_touched_are_the_same(place: Place) -> None:
    for image in place.images.rglob("*.png"):
        image.touch()
    (place.images / "notes.txt").write_text("no image")
    shutil.rmtree(place.folder / "cache")
    place.ends_equal()


# The checkpoints.


def checkpoints(run: Path) -> list[Path]:
    """The newest first."""
    return sorted((run / "checkpoints").glob("0*"), reverse=True)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(place: Place) -> None:
    newest, before = checkpoints(place.run)
    flip_a_bit(newest / "training.safetensors")
    said = place.ends_equal()
    assert f"{newest} is damaged and was skipped: training.safetensors" in said
    assert f"step {int(before.name) + 1} of {STEPS}" in said


def test_all_checkpoints_damaged(place: Place) -> None:
    newest, before = checkpoints(place.run)
    flip_a_bit(newest / "model.safetensors")
    (before / "manifest.json").unlink()
    place.refused(str(newest), "model.safetensors", str(before), "manifest.json is missing")


def test_no_checkpoints(place: Place) -> None:
    shutil.rmtree(place.run / "checkpoints")
    place.refused(f"{place.run} has no intact checkpoint")


def test_a_damaged_log_is_refused(place: Place) -> None:
    log = place.run / "metrics.jsonl"
    log.write_text("{]\n" + log.read_text())
    place.refused(str(log))


def test_a_log_that_was_cut_off(place: Place) -> None:
    with (place.run / "metrics.jsonl").open("a") as log:
        log.write('{"step": 9999, "lo')
    place.ends_equal()


def test_leftovers_are_removed(place: Place) -> None:
    for name in (".config.yaml.tmp-1-ab", "checkpoints/.000099.tmp-1-ab/model.safetensors"):
        (place.run / name).parent.mkdir(exist_ok=True)
        (place.run / name).write_text("half")
    place.ends_equal()
    assert list(place.run.rglob(".*tmp-*")) == []


# Runs that are complete, busy, or none.


def test_a_complete_run_is_left_as_it_is(place: Place) -> None:
    place.ends_equal()
    shutil.rmtree(place.images)  # they are needed no more
    before = tree(place.run)
    code, said = place.resume()
    assert (code, said) == (DONE, "The run is complete.\n")
    assert tree(place.run) == before
    change(place.run, "seed", 4)
    place.refused("seed is 4, the run has 3")


def test_a_complete_run_that_was_killed_before_its_encoder_was_written(place: Place) -> None:
    place.ends_equal()
    (place.run / "encoder" / "model.safetensors").unlink()
    assert place.ends_equal() == "The run is complete.\n"


def test_a_run_that_another_process_writes_to(place: Place) -> None:
    with folder_lock(place.run):
        place.refused(f"another process is writing to {place.run}")


def test_what_is_no_run(place: Place) -> None:
    empty, file = place.folder / "empty", place.folder / "file"
    empty.mkdir()
    file.touch()
    for run in (place.folder / "nothing", empty, file, place.images, place.run / "encoder"):
        place.refused(f"{run} is not a run folder", run=run)
    assert not (place.folder / "nothing").exists()
    assert list(empty.iterdir()) == []
