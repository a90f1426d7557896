"""Instance retrieval: ranking, expansion, augmentation, re-ranking, and the protocol as a whole."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from selftaught.clustering.whitening import Whitening
from selftaught.data.retrieval_sets import Query, RetrievalSet
from selftaught.encoders.encoder import Encoder, EncoderConfig, build_encoder
from selftaught.errors import ConfigError, DataError
from selftaught.evaluation.descriptors import DescriptorSettings
from selftaught.evaluation.metrics import resampled_counts
from selftaught.evaluation.protocols import instance_retrieval as r
from selftaught.evaluation.protocols.instance_retrieval import (
    RetrievalSettings,
    rank_database,
    retrieval,
)
from selftaught.evaluation.representation import EncoderRepresentation
from tests.oracles import retrieval as oracle
from tests.support.photographs import photograph

NONE = frozenset[int]()


def unit_rows(n: int, D: int = 6, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, D))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


# --- ranking vectors


def test_all_of_the_database_is_ranked_by_dot_products() -> None:
    query, base = unit_rows(5, seed=1), unit_rows(300)
    expected = np.argsort(-(query.astype(float) @ base.T.astype(float)), axis=1, kind="stable")
    assert (rank_database(query, base, RetrievalSettings()) == expected).all()
    base[200:] = base[:100]  # twice the same: the lower position comes first
    ranked = rank_database(query, base, RetrievalSettings())
    for row in ranked:
        place = np.argsort(row)
        assert (place[:100] == place[200:] - 1).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.sampled_from([0.0, 1.0, 3.0]))
def test_expanded_queries_equal_the_oracle(seed: int, n: int, alpha: float) -> None:
    x, found = unit_rows(3, seed=seed), unit_rows(3 * n, seed=seed + 1).reshape(3, n, 6)
    for got, one, its in zip(r.expanded_vectors(x, found, alpha), x, found, strict=True):
        assert got == pytest.approx(oracle.expanded(one, its, alpha), abs=1e-5)


def test_expansion_by_hand() -> None:
    x = np.array([[1.0, 0.0]], np.float32)
    found = np.array([[[0.6, 0.8], [-1.0, 0.0]]], np.float32)
    # Cosines 0.6 and -1: (1, 0) + 0.6^2 (0.6, 0.8), and nothing of what points away.
    total = np.array([1 + 0.216, 0.288])
    assert r.expanded_vectors(x, found, 2)[0] == pytest.approx(total / np.linalg.norm(total))
    assert oracle.expanded(x[0], found[0], 2) == pytest.approx(total / np.linalg.norm(total))


def test_the_database_is_averaged_with_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    base = unit_rows(20)
    cosines = base @ base.T
    expected = []
    for i in range(20):
        near = [j for j in np.argsort(-cosines[i], kind="stable") if j != i][:3]
        expected.append(oracle.expanded(base[i], base[near], 3))
    assert r.augmented_database(base, 3, 3) == pytest.approx(np.array(expected), abs=1e-5)
    monkeypatch.setattr(r, "_NUMBERS", 50)  # a few rows at a time
    assert r.augmented_database(base, 3, 3) == pytest.approx(np.array(expected), abs=1e-5)
    assert r.augmented_database(base, 99, 3).shape == base.shape
    assert (r.augmented_database(base[:1], 3, 3) == base[:1]).all()


def test_expansion_finds_what_lies_behind_what_is_found() -> None:
    angles = np.radians([0, 20, 40, -35])
    base = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    query = np.array([[1.0, 0.0]], np.float32)
    assert rank_database(query, base, RetrievalSettings()).tolist() == [[0, 1, 3, 2]]
    # The first two pull the query up to 8 degrees: 40 is 32 away then, -35 is 43.
    assert rank_database(query, base, RetrievalSettings(expand=2)).tolist() == [[0, 1, 2, 3]]
    assert sorted(
        rank_database(query, base, RetrievalSettings(expand=9, augment=9))[0].tolist()
    ) == [0, 1, 2, 3]


def test_somebody_else_orders_the_first_images() -> None:
    query, base, asked = unit_rows(3, seed=1), unit_rows(10), []

    def turned(number: int, first: np.ndarray) -> np.ndarray:
        asked.append((number, first.tolist()))
        return first[::-1]

    plain = rank_database(query, base, RetrievalSettings())
    found = rank_database(query, base, RetrievalSettings(reranked=4), turned)
    assert (found[:, :4] == plain[:, 3::-1]).all() and (found[:, 4:] == plain[:, 4:]).all()
    assert asked == [(number, plain[number, :4].tolist()) for number in range(3)]
    assert (
        rank_database(query, base, RetrievalSettings(reranked=99), turned) == plain[:, ::-1]
    ).all()
    asked.clear()
    assert (
        rank_database(query, base, RetrievalSettings(reranked=0), turned) == plain
    ).all() and not asked


def test_queries_are_expanded_by_the_order_of_somebody_else() -> None:
    query, base = np.abs(unit_rows(3, seed=1)), np.abs(unit_rows(10))  # cosines above 0
    plain = rank_database(query, base, RetrievalSettings())
    found = rank_database(
        query, base, RetrievalSettings(expand=2, reranked=10), lambda _, first: first[::-1]
    )
    expected = r.expanded_vectors(query, base[plain[:, :-3:-1]], 3)
    assert (found == rank_database(expected, base, RetrievalSettings())[:, ::-1]).all()


def test_an_order_of_other_images_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="not the same images"):
        rank_database(unit_rows(1), unit_rows(5), RetrievalSettings(), lambda _, first: first * 0)


@pytest.mark.parametrize("name", ["augment", "expand", "alpha", "reranked"])
def test_numbers_below_0_make_no_sense(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} = -1: use 0 or more"):
        RetrievalSettings(**{name: -1})  # type: ignore[arg-type]


# --- the protocol


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> RetrievalSet:
    """Eight photographs; each query is one of them in a frame of noise, its box the photograph."""
    folder, numbers = tmp_path_factory.mktemp("town"), np.random.default_rng(0)
    database, queries = [], []
    for n in range(8):
        pixels = photograph(numbers, 32, 96)
        frame = numbers.integers(0, 256, (96, 96, 3), np.uint8)
        frame[40:72] = pixels
        for name, image, paths in (("d", pixels, database), ("q", frame, queries)):
            paths.append(folder / f"{name}{n}.png")
            Image.fromarray(image).save(paths[-1])
    asked = tuple(
        Query(f"q{n}", path, (0, 40, 96, 72), frozenset({n}), NONE, NONE)
        for n, path in enumerate(queries)
    )
    return RetrievalSet(asked, tuple(database), "plain", ("made by hand",))


RECIPE = DescriptorSettings(longest=96)


def subject(name: str = "it") -> EncoderRepresentation:
    config = EncoderConfig("resnet8", image_size=32, options={"width": 8})
    return EncoderRepresentation(name, build_encoder(config, seed=0))


@pytest.mark.parametrize("pool", ["rmac", "gem", "mean", "vector"])
def test_objects_in_boxes_are_found(pool: str, town: RetrievalSet) -> None:
    found = retrieval(subject(), town, RetrievalSettings(DescriptorSettings(pool, 96)))
    assert found.values["recall@1"].tolist() == [1.0] * 8
    assert found.values["mAP"].tolist() == [1.0] * 8
    assert found.ranked_QN[:, 0].tolist() == list(range(8))
    without = tuple(replace(query, box=None) for query in town.queries)
    whole = retrieval(
        subject(), replace(town, queries=without), RetrievalSettings(DescriptorSettings(pool, 96))
    )
    assert whole.values["recall@1"].mean() < 1, "the frame is noise"


def test_the_answer_is_that_of_other_protocols(town: RetrievalSet) -> None:
    empty = Query("nothing", town.queries[0].path, None, NONE, NONE, frozenset({1}))
    places = replace(town, queries=(empty, *town.queries))
    found = retrieval(subject(), places, RetrievalSettings(RECIPE))
    answer, counts = found.answer, resampled_counts(8, 20, 0)
    assert list(answer.figures) == ["mAP", "recall@1", "recall@5"]
    assert (answer.rows == np.arange(8)).all() and answer.split == "8 queries"
    for name, figure in answer.figures.items():
        assert np.isnan(found.values[name][0])
        ones = figure(np.zeros(8, np.int64), np.ones((8, 1), np.float32))
        assert ones == pytest.approx([found.values[name][1:].mean()])
        assert figure(np.zeros(8, np.int64), counts).shape == (20,)
    assert answer.note == (
        "rmac, 96 px on the longer side; queries without a right image, left out: 1; made by hand"
    )


def test_the_note_says_how_images_were_described(town: RetrievalSet) -> None:
    whitening = Whitening.fit(torch.randn(99, 32, generator=torch.Generator().manual_seed(0)), 4)
    recipe = DescriptorSettings("gem", 64, (1, 0.5), whitening=whitening)
    found = retrieval(subject(), town, RetrievalSettings(recipe, augment=1, expand=2))
    assert found.note == (
        "gem, 64 + 32 px on the longer side; whitened to 4; neighbours averaged into the database: "
        "1; images found first, averaged into queries: 2; made by hand"
    )
    flat = EncoderRepresentation("flat", Encoder(EncoderConfig("x", image_size=8), Flat(), dim=192))
    assert retrieval(flat, town, RetrievalSettings(RECIPE)).note.startswith(
        "flat has no maps: f(x) of"
    )
    assert retrieval(flat, town, RetrievalSettings(DescriptorSettings("vector"))).note.startswith(
        "f(x) of the evalu"
    )


class Flat(torch.nn.Flatten):
    feature_info = ()


def test_the_revisited_protocol_has_three_setups(town: RetrievalSet) -> None:
    first = town.queries[0]
    queries = (
        replace(first, good=frozenset({0}), ok=frozenset({1}), junk=frozenset({2})),
        replace(first, good=NONE, ok=frozenset({0}), junk=frozenset({3})),
    )
    values = retrieval(
        subject(), replace(town, queries=queries, layout="revisited"), RetrievalSettings(RECIPE)
    ).values
    setups = [f"{metric} {setup}" for setup in ("easy", "medium", "hard") for metric in METRICS]
    assert list(values) == ["mAP", "recall@1", "recall@5", *setups]
    assert values["mAP easy"][0] == 1 and np.isnan(values["mAP easy"][1])
    assert (values["mAP"] == values["mAP medium"]).all()
    assert values["mAP hard"][1] == 1 == values["mP@10 hard"][1]


METRICS = ("mAP", "mP@10")


def test_what_cannot_be_evaluated(town: RetrievalSet, tmp_path: Path) -> None:
    @dataclass
    class Vectors:
        name: str = "a table"
        seed: int | None = None
        encoder: Any = None

    with pytest.raises(ConfigError, match="a table has vectors but not a network"):
        retrieval(Vectors(), town)  # type: ignore[arg-type]
    broken = subject("broken")
    with torch.no_grad():
        next(broken.encoder.parameters()).fill_(torch.nan)
    with pytest.raises(DataError, match="broken produces vectors that are not finite"):
        retrieval(broken, town, RetrievalSettings(RECIPE))
