"""An index on disk: what is written is found again, and what is damaged is refused in one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selftaught.errors import ConfigError, FileError
from selftaught.pairwise.neighbours import top_k
from selftaught.retrieval import approximate, index_writer, parts, vector_index
from selftaught.retrieval.index_writer import Addition, vector_sums, write_vector_index
from selftaught.retrieval.parts import StackedVectors
from selftaught.retrieval.vector_index import INDEX, VectorIndex, open_index
from selftaught.vectors.vectors import Vectors

pytestmark = pytest.mark.slow


def digits(start: int, stop: int) -> Vectors:
    """Pixels of handwritten digits as vectors."""
    from sklearn.datasets import load_digits

    found = load_digits()
    x_ND = found.data[start:stop].astype(np.float32)
    paths = tuple(f"{i}'\"<b>.png" for i in range(start, stop))
    labels = tuple(found.target[start:stop].tolist())
    return Vectors(x_ND, np.arange(stop - start), paths, labels, "an id")


def added(vectors: Vectors) -> Addition:
    return Addition(vectors, vector_sums(vectors.x_ND), "", "RUN")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An index of 500 digits in two parts."""
    write_vector_index(tmp_path, added(digits(0, 300)))
    write_vector_index(tmp_path, added(digits(300, 500)), open_index(tmp_path))
    return tmp_path


def test_what_is_written_is_found_again(folder: Path) -> None:
    opened, all_of = open_index(folder), digits(0, 500)
    assert len(opened) == 500 and opened.encoder == "an id" and opened.described["run"] == "RUN"
    assert np.array_equal(opened.stack.take(np.arange(500)), all_of.x_ND)
    for row in (0, 299, 300, 499):
        assert opened.path(row) == all_of.paths[row] and opened.label(row) == all_of.labels[row]
    query = digits(500, 520).x_ND
    for mine, expected in zip(opened.search(query, 10), top_k(query, all_of.x_ND, 10), strict=True):
        assert np.array_equal(mine, expected)
    assert len(opened.known) == 500


def test_fewer_are_found_where_there_are_fewer(folder: Path) -> None:
    opened, query = open_index(folder), digits(0, 2).x_ND
    assert opened.search(query, 1000)[1].shape == (2, 500)
    assert opened.search(query, 1000, np.arange(2))[1].shape == (2, 499)
    assert opened.search(query[:0], 3)[1].shape == (0, 3)


def test_a_new_index_takes_the_place_of_the_old_one(folder: Path) -> None:
    write_vector_index(folder, added(digits(0, 40)))
    assert len(open_index(folder)) == 40
    assert [path.name for path in (folder / "parts").iterdir()] == ["000002"]


def test_adding_does_not_touch_what_is_there(folder: Path) -> None:
    old = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (folder / "parts").rglob("*.*")}
    write_vector_index(folder, added(digits(500, 510)), open_index(folder))
    assert len(old) == 4
    assert all((p.stat().st_mtime_ns, p.read_bytes()) == found for p, found in old.items())


# --- what is damaged


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def _remove(path: Path) -> None:
    path.unlink()


def _objects(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([{}], object), allow_pickle=True)


@pytest.mark.parametrize("damage", [_cut, _lengthen, _flip, _remove, _objects])
@pytest.mark.parametrize("name", ["parts/000001/vectors.npy", "parts/000000/rows.parquet"])
def test_a_damaged_file_is_named_in_one_line(name: str, damage: Any, folder: Path) -> None:
    damage(folder / name)
    with pytest.raises(FileError, match=Path(name).name) as error:
        open_index(folder)
    assert len(str(error.value).splitlines()) == 1


def test_index_json_that_is_cut_anywhere_is_refused(folder: Path) -> None:
    text = (folder / INDEX).read_bytes()
    for end in range(0, len(text) - 2, 7):
        (folder / INDEX).write_bytes(text[:end])
        with pytest.raises(FileError, match=INDEX):
            open_index(folder)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_index_json_with_another_value_is_refused_or_harmless(data: st.DataObject) -> None:
    """No value that index.json may hold raises anything but an error of ours."""
    folder = FOLDER[0]
    found = json.loads((folder / "whole.json").read_text())
    place = data.draw(st.sampled_from([found, found["parts"][0], found["parts"][0]["sha256"]]))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(JSON)
    (folder / INDEX).write_text(json.dumps(found))
    try:
        assert isinstance(open_index(folder), VectorIndex)
    except FileError as error:
        assert len(str(error).splitlines()) == 1


FOLDER: list[Path] = []


@pytest.fixture(autouse=True, scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("index")
    write_vector_index(folder, added(digits(0, 20)))
    (folder / INDEX).rename(folder / "whole.json")
    FOLDER.append(folder)


@pytest.mark.parametrize("name", ["../000000", "/etc", "000000/../000000", ".", "00000a"])
def test_a_name_that_leads_elsewhere_is_refused(name: str, folder: Path) -> None:
    found = json.loads((folder / INDEX).read_text())
    found["parts"][0]["name"] = name
    (folder / INDEX).write_text(json.dumps(found))
    with pytest.raises(FileError, match="is damaged"):
        open_index(folder)


def test_no_index_and_another_version(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(FileError, match="cannot be read"):
        open_index(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match="not a complete index"):
        open_index(tmp_path / "empty")
    found = json.loads((folder / INDEX).read_text()) | {"format": 2}
    (folder / INDEX).write_text(json.dumps(found))
    with pytest.raises(FileError, match="another version"):
        open_index(folder)


# --- many vectors


@pytest.mark.parametrize("chunk", [7, 100, 1000])
def test_chunks_find_what_all_at_once_find(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small whole numbers tie all the time."""
    monkeypatch.setattr(parts, "CHUNK", chunk)
    monkeypatch.setattr(parts.StackedVectors.chunks, "__defaults__", (chunk,))
    rng = np.random.default_rng(0)
    base = rng.integers(-2, 3, (300, 3)).astype(np.float32)
    base.flags.writeable = False  # as what is memory-mapped
    stack = StackedVectors([base[:50], base[50:51], base[51:]])
    own, query = np.arange(40), base[:40].copy()
    for k in (1, 10, 299):
        for mine, theirs in (
            (stack.top_k(query, k), top_k(query, base.copy(), k)),
            (stack.top_k(query, k, own), top_k(query, base.copy(), k, own=own)),
        ):
            assert np.array_equal(mine[1], theirs[1])
            np.testing.assert_allclose(mine[0], theirs[0], atol=1e-6)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if 200 vectors were many."""
    pytest.importorskip("faiss")
    for module in (vector_index, index_writer):
        monkeypatch.setattr(module, "EXACT", 200)
    monkeypatch.setattr(approximate, "SAMPLE", 100)


def test_faiss_finds_nearly_all_and_says_how_many(small: None, tmp_path: Path) -> None:
    made = write_vector_index(tmp_path, added(digits(0, 1500)))
    kept = made.described["approximate"]
    assert made.approximate is not None and 1 <= kept["probes"] <= kept["lists"] == 32
    query, base = digits(1500, 1797).x_ND, digits(0, 1500).x_ND
    scores, rows = made.search(query, 10)
    exact_scores, exact_rows = top_k(query, base, 10)
    recall = np.mean([len({*a} & {*b}) / 10 for a, b in zip(rows, exact_rows, strict=True)])
    assert recall > 0.95 and kept["recall_at_10"] > 0.95 and kept["sample"] == 100
    assert (np.diff(scores) <= 0).all()
    same = rows == exact_rows
    np.testing.assert_allclose(scores[same], exact_scores[same], atol=1e-6)
    own = np.arange(1500)
    assert not (made.search(base, 5, own)[1] == own[:, None]).any()


def test_an_index_grows_over_the_limit_and_further(small: None, tmp_path: Path) -> None:
    assert write_vector_index(tmp_path, added(digits(0, 150))).approximate is None
    assert (
        write_vector_index(tmp_path, added(digits(150, 300)), open_index(tmp_path)).approximate
        is not None
    )
    grown = write_vector_index(tmp_path, added(digits(300, 700)), open_index(tmp_path))
    assert grown.approximate is not None and grown.approximate.inner.ntotal == 700
    assert [path.name for path in (tmp_path / "approximate").iterdir()] == ["000002.faiss"]
    _, rows = grown.search(digits(600, 650).x_ND, 1)
    assert (rows[:, 0] == np.arange(600, 650)).mean() > 0.95


def test_a_damaged_file_of_faiss_is_not_read(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import faiss

    write_vector_index(tmp_path, added(digits(0, 300)))
    _flip(tmp_path / "approximate/000000.faiss")
    monkeypatch.setattr(faiss, "read_index", lambda path: pytest.fail("it was read"))
    with pytest.raises(FileError, match=r"000000\.faiss is damaged"):
        open_index(tmp_path)


def test_without_faiss_the_remedy_is_named(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_vector_index(tmp_path, added(digits(0, 300)))
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    for work in (lambda: open_index(tmp_path), lambda: index_writer.check_index_size(201)):
        with pytest.raises(ConfigError, match=r"pip install 'selftaught\[search\]'"):
            work()
    index_writer.check_index_size(200)
