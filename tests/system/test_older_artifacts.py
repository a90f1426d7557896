"""Runs, clusters, classifiers, indexes and caches that an older selftaught wrote still open."""

import json
import shutil
from pathlib import Path

import pytest

import selftaught
from selftaught.data.check_images import read_index
from selftaught.data.open_images import open_images
from selftaught.foundation.machine import Machine

pytestmark = pytest.mark.slow

OLDER = Path(__file__).parents[1] / "golden/artifacts_0_1"


@pytest.fixture
def older(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLDER, tmp_path / "older"))


def how(folder: Path) -> dict[str, object]:
    return {"device": "cpu", "cache": folder / "cache"}


def test_an_older_run_is_complete_and_described(older: Path) -> None:
    for name, method, step in (("run", "simclr", 24), ("deep", "deepcluster", 14)):
        assert selftaught.resume(older / name, **how(older)).value["step"] == step
        found = selftaught.info(str(older / name)).value
        assert (found["method"], found["encoder"], found["images"]) == (method, "resnet8", "digits")


def test_an_older_checkpoint_is_continued(older: Path) -> None:
    """The run as it was when it had been stopped right after it began."""
    shutil.rmtree(older / "run/checkpoints/000024")
    shutil.rmtree(older / "run/encoder")
    assert selftaught.resume(older / "run", **how(older)).value["step"] == 24
    assert selftaught.load(older / "run").dim == 16


def test_an_older_run_is_reported_with_its_evaluation(older: Path) -> None:
    selftaught.report(older / "run", **how(older))
    page = (older / "run/report.html").read_text()
    rows = json.loads((older / "run/evaluation.json").read_text())
    assert f"{rows[0]['value']:.3f}" in page


def test_cached_features_of_an_older_run_are_used(older: Path) -> None:
    (cached,) = (older / "cache/features").iterdir()
    before = cached.stat().st_mtime_ns
    selftaught.embed(str(older / "run"), "digits", out=older / "v.parquet", **how(older))
    assert [path.name for path in (older / "cache/features").iterdir()] == [cached.name]
    assert cached.stat().st_mtime_ns == before


def test_older_clusters_and_names_assign_images(older: Path) -> None:
    run = str(older / "run")
    for made in ("clusters", "classifier"):
        found = selftaught.assign(
            older / made, "digits", out=older / f"{made}.csv", encoder=run, **how(older)
        ).value
        assert found["images"] == 1797
        assert {"zero", "one", "two"} <= set(found["clusters" if made == "clusters" else "names"])


def test_an_older_index_is_searched_and_extended(older: Path) -> None:
    found = selftaught.search(older / "index", ("row:17",), **how(older)).value
    assert [image["row"] for image in found["queries"][0]["neighbours"]][:1] != [17]
    run, out = str(older / "run"), older / "index"
    again = selftaught.index(run, "digits", out=out, add=True, **how(older)).value
    assert (again["new"], again["known"]) == (0, 1797)


def test_the_images_of_an_older_run_are_those_of_today(older: Path) -> None:
    now = open_images("digits", Machine(cache=older / "cache")).checked.images
    assert read_index(older / "run").equals(now)
