"""Retrieval sets as they lie on disk: three layouts, and what may be wrong with them."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from selftaught.data import retrieval_sets
from selftaught.data.retrieval_sets import Query, RetrievalSet, check_box, read_retrieval_set
from selftaught.errors import DataError, UserError


def image(path: Path, size: tuple[int, int] = (20, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)
    return path


def text(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def oxford(folder: Path, ground_truth: str = "groundtruth", images: str = "") -> Path:
    """Five images, two queries; the first one's image has the prefix in its query only."""
    for name in ("all_souls_1", "all_souls_2", "town_3", "town_4", "town_5"):
        image(folder / images / f"{name}.jpg")
    there = folder / ground_truth
    text(there / "souls_query.txt", "oxc1_all_souls_1 1.5 2 15 9.5")
    text(there / "souls_good.txt", "all_souls_1", "all_souls_2", "all_souls_2")
    text(there / "souls_ok.txt", "", "town_3")
    text(there / "souls_junk.txt", "town_5")
    text(there / "town_query.txt", "town_4 0 0 20 10")
    text(there / "town_good.txt", "town_4")
    text(there / "town_ok.txt")
    text(there / "town_junk.txt")
    return folder


def named(found: RetrievalSet, positions: frozenset[int]) -> set[str]:
    return {found.database[i].stem for i in positions}


def revisited(folder: Path, **changes: object) -> Path:
    for name in ("a", "b", "c", "d", "q1", "q2"):
        image(folder / "jpg" / f"{name}.jpg")
    value = {
        "imlist": ["d", "a", "b", "c"],
        "qimlist": ["q2", "q1"],
        "gnd": [
            {"bbx": [1, 2, 15.5, 9], "easy": [0, 1], "hard": [2], "junk": []},
            {"bbx": None, "easy": [], "hard": [], "junk": [3]},
        ],
    }
    (folder / "gnd_small.json").write_text(json.dumps(value | changes))
    return folder


def plain(folder: Path, *lines: str, queries: str = "queries", database: str = "database") -> Path:
    for name in ("q1", "q2"):
        image(folder / queries / f"{name}.png")
    for name in ("a", "b", "sub/c"):
        image(folder / database / f"{name}.png")
    text(folder / "ground_truth.csv", *lines)
    return folder


# --- what is read


@pytest.mark.parametrize("ground_truth", ["groundtruth", "gt_files", "."])
@pytest.mark.parametrize("images", ["", "images", "jpg", "town/oxford"])
def test_oxford_buildings(ground_truth: str, images: str, tmp_path: Path) -> None:
    found = read_retrieval_set(oxford(tmp_path / "set", ground_truth, images))
    assert found.layout == "oxford" and found.notes == ()
    assert [path.stem for path in found.database] == sorted(path.stem for path in found.database)
    souls, town = found.queries
    assert (souls.name, souls.box, souls.path.stem) == ("souls", (1.5, 2, 15, 9.5), "all_souls_1")
    assert named(found, souls.good) == {"all_souls_1", "all_souls_2"}
    assert named(found, souls.ok) == {"town_3"} and named(found, souls.junk) == {"town_5"}
    assert named(found, town.good) == {"town_4"} and not town.ok | town.junk
    assert all(path.is_file() for path in found.database)


def test_corrupt_images_are_left_out(tmp_path: Path) -> None:
    folder = oxford(tmp_path / "set")
    (folder / "paris_louvre_000136.jpg").write_text("<html>302 Found</html>")
    text(folder / "corrupt.txt", "/town/town_5.jpg")
    found = read_retrieval_set(folder)
    assert {path.stem for path in found.database} == {
        *("all_souls_1", "all_souls_2", "town_3", "town_4")
    }
    assert found.queries[0].junk == frozenset()
    assert found.notes == ("corrupt images, left out: 2",)
    assert len(set(retrieval_sets.CORRUPT)) == 20


def test_the_revisited_protocol(tmp_path: Path) -> None:
    found = read_retrieval_set(revisited(tmp_path))
    assert [path.stem for path in found.database] == ["d", "a", "b", "c"]
    second, first = found.queries
    assert (second.name, second.path.stem, second.box) == ("q2", "q2", (1, 2, 15.5, 9))
    assert (second.good, second.ok, second.junk) == ({0, 1}, {2}, frozenset())
    assert first == Query("q1", first.path, None, frozenset(), frozenset(), frozenset({3}))
    assert found.layout == "revisited"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("folders", [("queries", "database"), ("query", "reference")])
def test_two_folders_and_a_table(delimiter: str, folders: tuple[str, str], tmp_path: Path) -> None:
    lines = ("reference,query,kind", "a.png,q1,good", "b,q1.png,", "sub/c,q1,junk", "c,q2,ok")
    lines = tuple(line.replace(",", delimiter) for line in lines)
    found = read_retrieval_set(plain(tmp_path, *lines, queries=folders[0], database=folders[1]))
    assert [path.name for path in found.database] == ["a.png", "b.png", "c.png"]
    first, second = found.queries
    assert (first.name, first.box) == ("q1", None)
    assert (first.good, first.ok, first.junk) == ({0, 1}, frozenset(), {2})
    assert (second.good, second.ok) == (frozenset(), {2})
    assert (found.layout, found.notes) == ("plain", ())


def test_images_may_be_counted_and_queries_may_have_boxes(tmp_path: Path) -> None:
    lines = ("query,reference,x1,y1,x2,y2", "1,0,1,2,3,4", "1,2,,,,", "", "1,1,1,2,3.0,4")
    found = read_retrieval_set(plain(tmp_path / "set" / "inner", *lines).parent)
    (query,) = found.queries
    assert (query.name, query.box, query.good) == ("q2", (1, 2, 3, 4), {0, 1, 2})
    assert found.notes == ("images of queries/ without a line, left out: 1",)


def test_names_win_over_counting(tmp_path: Path) -> None:
    folder = tmp_path
    for name in ("1", "2"):
        image(folder / "query" / f"{name}.png")
        image(folder / "ref" / f"{name}.png")
    text(folder / "ground_truth.csv", "query,reference", "1,2", "2,1")
    one, two = read_retrieval_set(folder).queries
    assert (one.path.name, two.path.name) == ("1.png", "2.png")
    assert (one.good, two.good) == ({1}, {0})
    text(folder / "ground_truth.csv", "query,reference", "1,0", "2,1")
    refused(folder, r"line 2 .*'0'")  # and not counted, which would find other images


def test_a_set_without_a_right_image_is_refused(tmp_path: Path) -> None:
    folder = plain(tmp_path, "query,reference,kind", "q1,a,junk", "q2,b,junk")
    refused(folder, r"ground_truth.csv names no correct image for any query")
    text(folder / "ground_truth.csv", "query,reference,kind", "q1,a,junk", "q2,b,ok")
    assert len(read_retrieval_set(folder).queries) == 2


def test_a_linked_image_folder_is_read_and_a_link_out_of_it_is_not(tmp_path: Path) -> None:
    folder = oxford(tmp_path / "set", images="images")
    (folder / "images").rename(tmp_path / "elsewhere")
    (folder / "images").symlink_to(tmp_path / "elsewhere")
    assert len(read_retrieval_set(folder).database) == 5
    (tmp_path / "elsewhere" / "town_3.jpg").unlink()
    (tmp_path / "elsewhere" / "town_3.jpg").symlink_to(image(tmp_path / "out.jpg"))
    with pytest.raises(DataError, match=r"town_3\.jpg is a link that leads out"):
        read_retrieval_set(folder)


# --- what is refused


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return Path.mkdir, (tmp_path / "opened",)  # type: ignore[return-value]

    folder = revisited(tmp_path / "set")
    (folder / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(Trap()))
    assert read_retrieval_set(folder).layout == "revisited"  # the JSON is there
    (folder / "gnd_small.json").unlink()
    refused(folder, r"gnd_roxford5k\.pkl is a pickle.*as JSON")
    refused(oxford(folder), r"gnd_roxford5k\.pkl is a pickle.*move it away")
    assert not (tmp_path / "opened").exists()


def changed(name: str, *lines: str) -> Callable[[Path], None]:
    return lambda folder: text(folder / "groundtruth" / name, *lines) and None


def two_of_a_name(folder: Path) -> None:
    for name in ("a/new.png", "b/new.png"):
        image(folder / name)
    text(folder / "groundtruth/souls_ok.txt", "new")


OXFORD = [
    (changed("souls_query.txt"), "souls_query.txt is not a single line"),
    (changed("souls_query.txt", "town_3 1 2 3"), "souls_query.txt is not a single line"),
    (changed("souls_query.txt", *["town_3 1 2 3 4"] * 2), "souls_query.txt is not a single line"),
    (changed("souls_query.txt", "town_3 1 2 x 4"), "line 1: '1 2 x 4' is not a box"),
    (changed("souls_query.txt", "town_3 1 2 nan 4"), "'1 2 nan 4' is not a box"),
    (changed("souls_query.txt", "town_3 5 2 5 4"), "'5 2 5 4' is not a box"),
    (changed("souls_query.txt", "", "nobody 1 2 3 4"), "line 2 names 'nobody', which is not"),
    (changed("souls_ok.txt", "town_3", "../../x"), r"souls_ok.txt, line 2 names '../../x', which"),
    (changed("souls_junk.txt", "a\x07b"), r"names 'a\\\\x07b'"),
    (lambda f: (f / "groundtruth/souls_junk.txt").unlink(), "souls_junk.txt cannot be read"),
    (lambda f: (f / "groundtruth/souls_ok.txt").write_bytes(b"caf\xe9"), "souls_ok.txt is not UTF"),
    (
        two_of_a_name,
        r"line 1 names 'new', which could be .*a/new.png and .*b/new.png: include its folder",
    ),
    (lambda f: text(f / "gt/x_query.txt", "a 1 2 3 4"), "are two ground truths"),
    (lambda f: text(f / "ground_truth.csv", "query,reference"), "are two ground truths"),
]


@pytest.mark.parametrize(("change", "said"), OXFORD)
def test_what_is_wrong_with_an_oxford_set(
    change: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    folder = oxford(tmp_path / "set")
    change(folder)
    refused(folder, said)


QUERY = {"bbx": [1, 2, 3, 4], "easy": [], "hard": [], "junk": []}
REVISITED = [
    ({"imlist": None}, "gnd_small.json has no list 'imlist'"),
    ({"imlist": ["a", 3]}, "imlist contains 3"),
    ({"imlist": ["a", "z"]}, "imlist names 'z', which is not below"),
    ({"gnd": [QUERY]}, "qimlist has 2 names, gnd 1 entries"),
    ({"gnd": [], "qimlist": []}, "gnd_small.json names no queries"),
    ({"imlist": [], "gnd": [QUERY, QUERY]}, "gnd_small.json names no database images"),
    ({"gnd": [QUERY, 1]}, r"gnd\[1\] is not an object"),
    ({"gnd": [QUERY, QUERY | {"bbx": [1, 2, 3]}]}, r"gnd\[1\].bbx: '1 2 3' is not a box"),
    ({"gnd": [QUERY, QUERY | {"bbx": "1 2 3 4"}]}, r"gnd\[1\].bbx is not a list"),
    ({"gnd": [QUERY, QUERY | {"bbx": [1, 2, 10**400, 4]}]}, r"gnd\[1\].bbx: .* is not a box"),
    ({"gnd": [QUERY, QUERY | {"easy": [4]}]}, r"gnd\[1\].easy contains 4: .* 0 to 3"),
    ({"gnd": [QUERY, QUERY | {"hard": [True]}]}, r"gnd\[1\].hard contains True"),
    ({"gnd": [QUERY, {"easy": [], "hard": []}]}, r"gnd\[1\].junk is not a list"),
]


@pytest.mark.parametrize(("changes", "said"), REVISITED)
def test_what_is_wrong_with_a_revisited_set(
    changes: dict[str, object], said: str, tmp_path: Path
) -> None:
    refused(revisited(tmp_path / "set", **changes), said)


PLAIN = [
    ((), "has no column 'query'"),
    (("query,reference",), "ground_truth.csv names no queries"),
    (("query,ref",), "has no column 'reference'"),
    (("query,reference,knd",), "the unknown column 'knd': did you mean 'kind'"),
    (("query,reference,x1,y1",), "all of x1, y1, x2, y2 or none"),
    (("query,reference,query",), "use each once"),
    (("query,reference", "q1"), "line 2 has 1 cells, but the header has 2"),
    (("query,reference", "q1,a,b"), "line 2 has 3 cells"),
    (("query,reference", "q1,a", "q1,nobody"), "line 3 names 'nobody', which is not below"),
    (("query,reference", "q9,a"), "line 2 names 'q9'"),
    (("query,reference", "q1,3"), "line 2 names reference 3, .* has 3 images: count them from 0"),
    (("query,reference", "q1,-1"), "line 2 names '-1'"),
    (("query,reference", f"q1,{'9' * 5000}"), "line 2 names '9999"),
    (("query,reference,kind", "q1,a,god"), "line 2 has the kind 'god': did you mean 'good'"),
    (("query,reference,kind", "q1,a,ok", "q1,a,junk"), "line 3 marks an image junk that an"),
    (("query,reference", '"q1,a'), "line 2: "),
    (("query,reference,x1,y1,x2,y2", "q1,a,1,2,3,"), "line 2: '1 2 3 ' is not a box"),
    (
        ("query,reference,x1,y1,x2,y2", "q1,a,1,2,3,4", "q1,b,1,2,3,5"),
        "differs from that of an earlier",
    ),
]


@pytest.mark.parametrize(("lines", "said"), PLAIN)
def test_what_is_wrong_with_a_table(lines: tuple[str, ...], said: str, tmp_path: Path) -> None:
    refused(plain(tmp_path / "set", *lines), said)


def test_folders_that_are_missing_or_empty(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", "nothing is not a folder")
    refused(tmp_path, "contains no ground truth")
    folder = plain(tmp_path / "set", "query,reference", "q1,a", database="data")
    refused(folder, "has no folder database/: put the images into database/ or reference/")
    (folder / "database").mkdir()
    refused(folder, "database contains no images")


@pytest.fixture(scope="module")
def any_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain(tmp_path_factory.mktemp("any"), "")


TABLE = ("query", "reference", "kind", "x1", "y1", "x2", "y2")
CELLS = st.sampled_from(["q1", "a", "0", "2", "-1", "", "1.5", "good", "nan", "x" * 9]) | st.text()
LINES = st.lists(st.lists(CELLS, min_size=2, max_size=7).map(",".join), max_size=4)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["query,reference", "reference,query,kind", ",".join(TABLE)]), LINES)
def test_any_table_is_read_or_refused(any_set: Path, header: str, lines: list[str]) -> None:
    text = "\n".join([header, *lines])
    (any_set / "ground_truth.csv").write_bytes(text.encode("utf-8", "replace"))
    read_or_refused(any_set)


KEYS = ("imlist", "qimlist", "gnd", "bbx", "easy", "hard", "junk")
SMALL = {"imlist": ["a", "b"], "qimlist": ["q1"]}


@pytest.fixture(scope="module")
def any_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return revisited(tmp_path_factory.mktemp("any"))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["a", "b", "z", ""]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=12,
)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(VALUES, VALUES, VALUES)
def test_any_json_is_read_or_refused(
    any_json: Path, imlist: object, box: object, of: object
) -> None:
    gnd = [{"bbx": box, "easy": of, "hard": [], "junk": []}]
    for value in (imlist, {"imlist": imlist, "qimlist": ["a"], "gnd": of}, SMALL | {"gnd": gnd}):
        (any_json / "gnd_small.json").write_text(json.dumps(value))
        read_or_refused(any_json)


def read_or_refused(folder: Path) -> None:
    try:
        found = read_retrieval_set(folder)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
    else:
        everything = set(range(len(found.database)))
        assert all(query.good | query.ok | query.junk <= everything for query in found.queries)


def refused(folder: Path, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        read_retrieval_set(folder)
    assert "\n" not in str(error.value)


def test_a_box_must_lie_in_its_image(tmp_path: Path) -> None:
    query = Query("it", tmp_path / "it.jpg", (0, 0, 20, 10), *[frozenset[int]()] * 3)
    check_box(query, 10, 20)
    check_box(replace(query, box=(-0.5, 0, 21, 11)), 10, 20)  # counted from 1, or rounded
    check_box(replace(query, box=None), 1, 1)
    for box in ((0, 0, 22, 10), (0, 0, 20, 11.5), (-2, 0, 20, 10), (0, -2, 20, 10)):
        with pytest.raises(DataError, match=r"of the query it leaves its image .* 20 x 10 pixels"):
            check_box(replace(query, box=box), 10, 20)
