"""Clusters that are kept: nearest centroids, names, ids that stay, folders, damaged files."""

import codecs
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selftaught.clusters import clusters as kept
from selftaught.clusters.clusters import Assignment, Clusters
from selftaught.clusters.fit import cluster_vectors
from selftaught.clusters.folders import folder_names, sort_into_folders
from selftaught.clusters.match import matched_ids
from selftaught.clusters.names import merged_ids, names_differing_in_case, read_names, write_names
from selftaught.errors import DataError, FileError
from selftaught.vectors.vectors import Vectors


def blobs(
    each: int = 30, k: int = 4, size: int = 6, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors about k far centres, and the number of each vector's centre."""
    numbers = np.random.default_rng(seed)
    label_N = numbers.permutation(np.repeat(np.arange(k), each))
    centre_KD = numbers.normal(size=(k, size)) * 6
    return (centre_KD[label_N] + numbers.normal(size=(len(label_N), size))).astype("f4"), label_N


def vectors_of(x_ND: np.ndarray, labels: tuple[str, ...] | None = None) -> Vectors:
    paths = tuple(f"{row:04}.png" for row in range(len(x_ND)))
    return Vectors(x_ND, np.arange(len(x_ND)), paths, labels, "an encoder")


@pytest.fixture(scope="module", params=["unit", "whitened"])
def found(request: pytest.FixtureRequest) -> Clusters:
    return cluster_vectors(vectors_of(blobs()[0]), 4, seed=1, space=request.param).clusters


def slow_assignment(
    clusters: Clusters, x_ND: np.ndarray, groups: dict[int, int]
) -> list[tuple[int, float, float]]:
    """Group, distance and margin, a vector and a centroid at a time, in float64."""
    y_NP = x_ND.astype(float)
    if clusters.whitening is not None:
        state = clusters.whitening.tensors()
        y_NP = (y_NP - state["mean"].numpy()) @ state["components"].numpy().T
        y_NP /= np.sqrt(state["variances"].numpy())
    y_NP = y_NP / np.linalg.norm(y_NP, axis=1, keepdims=True)
    answers = []
    for y_P in y_NP:
        far = {
            int(id_): float(np.sqrt(((y_P - c_P) ** 2).sum()))
            for id_, c_P in zip(clusters.ids_K, clusters.centroids_KP.double().numpy(), strict=True)
        }
        nearest = min(far, key=lambda id_: far[id_])
        own = groups.get(nearest, nearest)
        others = [d for id_, d in far.items() if groups.get(id_, id_) != own]
        answers.append((own, far[nearest], min(others, default=np.inf) - far[nearest]))
    return answers


@pytest.mark.parametrize("groups", [{}, {2: 0}, {1: 0, 2: 0, 3: 0}, {3: 2}])
def test_the_nearest_centroid_and_the_next_of_another_group(
    found: Clusters, groups: dict[int, int]
) -> None:
    x_ND = np.random.default_rng(3).normal(size=(50, 6)).astype("f4") * 5
    assigned = found.assign(x_ND, groups)
    expected = slow_assignment(found, x_ND, groups)
    assert assigned.cluster_N.tolist() == [own for own, _, _ in expected]
    np.testing.assert_allclose(assigned.distance_N, [d for _, d, _ in expected], atol=2e-6)
    np.testing.assert_allclose(assigned.margin_N, [m for _, _, m in expected], atol=4e-6)


def test_blocks_do_not_change_what_is_assigned(
    found: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    x_ND = np.random.default_rng(5).normal(size=(50, 6)).astype("f4")
    whole = found.assign(x_ND)
    monkeypatch.setattr(kept, "_BLOCK", 4 * 7)
    parts = found.assign(x_ND)
    assert (whole.cluster_N == parts.cluster_N).all()
    np.testing.assert_allclose(whole.margin_N, parts.margin_N, atol=1e-6)


def test_far_blobs_are_found_and_new_vectors_join_them() -> None:
    x_ND, label_N = blobs(each=40)
    made = cluster_vectors(vectors_of(x_ND[:80]), 4, seed=0)
    ids_80 = made.assigned.cluster_N
    of = {int(label): {int(i) for i in ids_80[label_N[:80] == label]} for label in range(4)}
    assert all(len(ids) == 1 for ids in of.values()) and len(set(map(tuple, of.values()))) == 4
    joined = made.clusters.assign(x_ND[80:]).cluster_N
    assert [int(i) for i in joined] == [next(iter(of[int(label)])) for label in label_N[80:]]


def test_confidence_is_1_at_a_centroid_0_half_way_and_negative_beyond() -> None:
    numbers = (
        np.array([0, 0, 0, 0], np.int64),
        np.array([0, 1, 1.5, 0.5], np.float32),
        np.array([2, 0, -0.5, np.inf], np.float32),
    )
    np.testing.assert_allclose(Assignment(*numbers).confidence_N, [1, 0, -1 / 3, 1], atol=1e-6)


def test_the_largest_cluster_comes_first() -> None:
    x_ND, label_N = blobs(each=40)
    made = cluster_vectors(vectors_of(x_ND[(label_N != 1) | (np.arange(160) < 50)]), 4)
    assert made.sizes_K.tolist() == sorted(made.sizes_K.tolist(), reverse=True)
    assert (made.assigned.cluster_N == made.clusters.assign(made.vectors.x_ND).cluster_N).all()


def test_all_vectors_equal_are_one_cluster() -> None:
    made = cluster_vectors(vectors_of(np.ones((20, 3), np.float32)), 4)
    assert made.sizes_K.tolist() == [20] and not made.assigned.distance_N.any()


def test_vectors_of_another_size_are_refused(found: Clusters) -> None:
    with pytest.raises(DataError, match="the vectors have 7 dimensions, the clusters 6: use the"):
        found.assign(np.zeros((2, 7), np.float32))


# --- on disk


def test_saved_clusters_come_back_bit_for_bit(found: Clusters, tmp_path: Path) -> None:
    kept.save_clusters(found.with_ids(np.array([5, 0, 9, 2])), tmp_path)
    again = kept.load_clusters(tmp_path)
    assert again.ids_K.tolist() == [5, 0, 9, 2] and again.encoder == "an encoder"
    assert torch.equal(again.centroids_KP, found.centroids_KP)
    assert torch.equal(again.reference_BD, found.reference_BD) and again.facts == found.facts
    x_ND = blobs(seed=8)[0]
    expected = np.array([5, 0, 9, 2])[found.assign(x_ND).cluster_N]
    assert (again.assign(x_ND).cluster_N == expected).all()


def damaged_json(folder: Path) -> None:
    (folder / kept.FACTS).write_text("{")


def other_tensors(folder: Path) -> None:
    path = folder / kept.TENSORS
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def no_tensors(folder: Path) -> None:
    (folder / kept.TENSORS).unlink()


def ids_twice(folder: Path) -> None:
    facts = json.loads((folder / kept.FACTS).read_text())
    (folder / kept.FACTS).write_text(json.dumps(facts | {"ids": [0, 0, 1, 2]}))


def fewer_ids(folder: Path) -> None:
    facts = json.loads((folder / kept.FACTS).read_text())
    (folder / kept.FACTS).write_text(json.dumps(facts | {"ids": [0, 1]}))


def nothing(folder: Path) -> None:
    (folder / kept.FACTS).unlink()


@pytest.mark.parametrize(
    "damage", [damaged_json, other_tensors, no_tensors, ids_twice, fewer_ids, nothing]
)
def test_damaged_clusters_are_one_line(found: Clusters, tmp_path: Path, damage) -> None:
    kept.save_clusters(found, tmp_path)
    damage(tmp_path)
    with pytest.raises(FileError, match="clusters"):
        kept.load_clusters(tmp_path)


# --- names


def test_names_are_read_as_spreadsheets_write_them(tmp_path: Path) -> None:
    text = "\ufeffName;Cluster\r\nred \"x\"; 2 \r\n;1\r\n'<b>';0\r\n"
    (tmp_path / "names.csv").write_text(text, encoding="utf-8", newline="")
    names = read_names(tmp_path, np.arange(3))
    assert names == {2: 'red "x"', 0: "'<b>'"}


def test_names_go_to_disk_and_back(tmp_path: Path) -> None:
    names = {0: 'a "quoted", name', 3: "line\nbreak", 7: "ü;", 8: "carriage\rreturn"}
    names[9] = "both\r\nof them"
    write_names(tmp_path, names)
    assert read_names(tmp_path, np.array([7, 3, 0, 8, 9])) == names


def test_names_are_utf_8_and_spreadsheets_see_it(tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_bytes("cluster,name\n0,Käse\n1,Kúse\n".encode("cp1252"))
    with pytest.raises(FileError, match=r"names\.csv is not UTF-8: save it as CSV UTF-8"):
        read_names(tmp_path, np.arange(3))
    write_names(tmp_path, {0: "Käse"})
    assert (
        tmp_path / "names.csv"
    ).read_bytes() == codecs.BOM_UTF8 + "cluster,name\n0,Käse\n".encode()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "does not have the columns cluster and name"),
        ("cluster,title\n0,x\n", "does not have the columns cluster and name"),
        ("cluster,name\n4,x\n", "line 2: cluster '4' does not exist"),
        ("cluster,name\n0,x\nzero,y\n", "line 3: cluster 'zero' does not exist"),
        ("cluster,name\n0,x\n0,y\n", "cluster 0 has two names"),
        ("cluster,name\n" + "1" * 5000 + ",x\n", "line 2: cluster '1{20}' does not exist"),
        ('cluster,name\n0,"' + "x" * 200_000, "is not a table"),
        ("cluster,name\n1.5,x\n", "line 2: cluster '1.5' does not exist"),
        ("cluster,name\n-0.0,x\n", "line 2: cluster '-0.0' does not exist"),
        ("cluster,name\n0,x\n0.0,X\n", "line 3: cluster 0 has two names"),
        ("cluster,name\n1,cluster 2\n", "line 2: the name 'cluster 2' of cluster 1 is the number"),
        ("cluster,name\n1,CLUSTER  02\n", "line 2: the name 'CLUSTER 02' of cluster 1 is the num"),
        ("cluster,name\n1,cluster 7\n", "'cluster 7' of cluster 1 is the number of another clust"),
        ("cluster,name\n0,=cmd|calc\n", "run the name =cmd|calc as a formula.*not begin with ="),
        ("cluster,name\n0, @x\n", "a spreadsheet would run the name @x as a formula: choose one"),
    ],
)
def test_names_that_cannot_be_meant(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "names.csv").write_text(text)
    with pytest.raises(FileError, match=complaint) as caught:
        read_names(tmp_path, np.arange(3))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cluster;name\n0.0;a\n2,0;b\n1.;c\n", {0: "a", 1: "c", 2: "b"}),
        ("cluster,name\n1,a\n1,a\n1.0, a \n", {1: "a"}),
        ("cluster,name\n0,  two \t\u00a0 words \n", {0: "two words"}),
        ("cluster,name\n2,Cluster 2\n1,cluster two\n", {2: "Cluster 2", 1: "cluster two"}),
        ("cluster,name\n1,+1\n2,-\n", {1: "+1", 2: "-"}),
    ],
)
def test_names_that_can_be_meant(tmp_path: Path, text: str, names: dict[int, str]) -> None:
    (tmp_path / "names.csv").write_text(text)
    assert read_names(tmp_path, np.arange(3)) == names


def test_names_that_differ_in_case_are_found() -> None:
    names = ["horn", "fish", "Stra\u00dfe", "HORN", "strasse", "fish", "Horn", "bird"]
    assert names_differing_in_case(names) == [["HORN", "Horn", "horn"], ["Stra\u00dfe", "strasse"]]


def test_clusters_of_one_name_are_one_group() -> None:
    assert merged_ids({4: "a", 1: "b", 2: "a", 3: "c"}) == {1: 1, 2: 2, 3: 3, 4: 2}


# --- ids that stay


def test_a_permuted_clustering_gets_its_old_ids_back() -> None:
    old = {f"{i}": i % 5 for i in range(100)}
    new = {path: (id_ * 2 + 1) % 5 for path, id_ in old.items()}
    ids_K, share = matched_ids(old, new, np.arange(5))
    assert {path: int(ids_K[id_]) for path, id_ in new.items()} == old and share == 1


def test_a_cluster_without_a_partner_gets_an_id_that_was_never_used() -> None:
    old = {"a": 3, "b": 3, "c": 8}
    ids_K, share = matched_ids(old, {"a": 0, "b": 1, "c": 2, "new": 3}, np.arange(4))
    assert ids_K[2] == 8 and 3 in ids_K[:2] and set(ids_K.tolist()) == {3, 8, 9, 10}
    assert share == pytest.approx(2 / 3)


def test_clusterings_without_a_common_image_cannot_be_matched() -> None:
    with pytest.raises(DataError, match="no image in common"):
        matched_ids({"a": 0}, {"b": 0}, np.arange(1))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_as_many_images_as_possible_keep_their_id(pairs: list[tuple[int, int]]) -> None:
    from itertools import permutations

    old = {str(i): a for i, (a, _) in enumerate(pairs)}
    new = {str(i): b for i, (_, b) in enumerate(pairs)}
    ids_K, share = matched_ids(old, new, np.arange(5))
    best = max(sum(p[b] == a for a, b in pairs) for p in permutations(range(5)))
    assert len(set(ids_K.tolist())) == 5
    assert sum(ids_K[b] == a for a, b in pairs) == best == round(share * len(pairs))


# --- folders


@pytest.mark.parametrize("how", ["copy", "link"])
def test_images_are_laid_out(tmp_path: Path, how) -> None:
    root = tmp_path / "images"
    paths = ["a.png", "deep/a.png", "it's <b>.png"]
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(bytes([number]))
    out = tmp_path / "out"
    sort_into_folders(root, paths, ["../up", "0", "../up"], out, how)
    laid = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*.png")}
    assert laid == {"___up/a.png": b"\0", "0/deep/a.png": b"\1", "___up/it's <b>.png": b"\2"}
    assert all(p.is_symlink() == (how == "link") for p in out.rglob("*.png"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "out"]


def test_nothing_is_written_over_and_nothing_is_left_half_done(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "b.png").write_bytes(b"2")
    with pytest.raises(FileError, match="exists"):
        sort_into_folders(tmp_path, ["a.png"], ["x"], taken, "copy")
    with pytest.raises(DataError, match=r"b\.png is missing"):
        sort_into_folders(tmp_path, ["a.png", "b.png"], ["x", "x"], tmp_path / "out", "copy")
    with pytest.raises(FileError, match="leads out"):
        sort_into_folders(tmp_path / "taken", ["../a.png"], ["x"], tmp_path / "out", "copy")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "taken"]
    (tmp_path / "empty").mkdir()
    sort_into_folders(tmp_path, ["a.png"], ["x"], tmp_path / "empty", "copy")
    assert (tmp_path / "empty/x/a.png").read_bytes() == b"1"
    assert (taken / "b.png").read_bytes() == b"2"


def test_folders_of_long_names_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    names = ["\u7dda" * 90, "\u7dda" * 89, "x" * 300]
    sort_into_folders(tmp_path, ["a.png"] * 3, names, tmp_path / "out", "copy")
    assert len(list((tmp_path / "out").iterdir())) == 3


@given(st.lists(st.text(max_size=8), max_size=6))
def test_different_names_are_different_harmless_folders(names: list[str]) -> None:
    plain = folder_names(names)
    assert all(p and p not in (".", "..") and "/" not in p and "\0" not in p for p in plain)
    assert len({p.casefold() for p in plain}) == len(set(names))
