"""cluster and assign as commands, on real files: tables, names, folders, matching, faults."""

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import selftaught
from selftaught.clustering import max_margin
from selftaught.clusters.folders import sort_into_folders
from selftaught.clusters.match import surviving_names
from selftaught.clusters.names import write_names
from selftaught.clusters.standouts import find_standouts
from selftaught.commands import assign, cluster
from selftaught.encoders.encoder import EncoderConfig, build_encoder
from selftaught.encoders.folder import save_encoder
from selftaught.errors import ConfigError, DataError, FileError, UserError
from selftaught.foundation.files import read_json, read_table, write_table
from selftaught.vectors.vectors import Vectors
from tests.support.sets import file_set

pytestmark = pytest.mark.slow

ODD = 'it\'s <b>&"odd".png'


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits in class folders, an encoder, and clusters of them."""
    home = tmp_path_factory.mktemp("home")
    digits = load_digits()
    for number, (image, digit) in enumerate(zip(digits.images[:60], digits.target, strict=False)):
        folder = home / "images" / f"digit{digit}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype("uint8")).save(folder / f"{number:03}.png")
    (home / "images/digit0/000.png").rename(home / "images/digit0" / ODD)
    config = EncoderConfig("resnet8", in_channels=1, image_size=8, options={"width": 4})
    save_encoder(build_encoder(config).eval(), home / "encoder")
    make(home, "clusters")
    return home


def make(home: Path, out: str, **how):
    how = {"k": 5, "cache": home / "cache", "device": "cpu"} | how
    return selftaught.cluster(str(home / "encoder"), str(home / "images"), out=home / out, **how)


def sort(home: Path, out: str, clusters: str = "clusters", data: str = "images", **how):
    how = {"cache": home / "cache", "device": "cpu", "overwrite": True} | how
    return selftaught.assign(home / clusters, str(home / data), out=home / out, **how)


def test_what_is_written(home: Path) -> None:
    files = {p.name for p in (home / "clusters").iterdir()}
    assert files >= {"clusters.json", "clusters.safetensors", "assignments.parquet"}
    table = read_table(home / "clusters/assignments.parquet")
    assert table.num_rows == 60 and f"digit0/{ODD}" in table["path"].to_pylist()
    facts = read_json(home / "clusters/clusters.json")
    assert facts["run"] == str((home / "encoder").resolve())
    counts = np.bincount(table["cluster"].to_numpy(), minlength=5)
    assert len(counts) == 5 and (np.diff(counts) <= 0).all() and counts[-1] > 0


def test_images_that_were_clustered_are_assigned_to_their_cluster(home: Path) -> None:
    sort(home, "again.parquet")
    ours, again = (
        read_table(home / name) for name in ("clusters/assignments.parquet", "again.parquet")
    )
    assert ours["path"].equals(again["path"]) and ours["cluster"].equals(again["cluster"])
    np.testing.assert_allclose(ours["margin"].to_numpy(), again["margin"].to_numpy(), atol=1e-6)


def test_a_table_of_vectors_gives_what_the_encoder_gives(home: Path) -> None:
    table = home / "vectors.parquet"
    selftaught.embed(
        str(home / "encoder"), str(home / "images"), out=table, cache=home / "cache", overwrite=True
    )
    selftaught.cluster(str(table), out=home / "of_table", k=5, device="cpu", overwrite=True)
    sort(home, "from_table.csv", clusters="of_table", data="vectors.parquet")
    sort(home, "from_images.csv")
    assert (home / "from_table.csv").read_bytes() == (home / "from_images.csv").read_bytes()
    with pytest.raises(ConfigError, match="made from a table"):
        sort(home, "from_table.csv", clusters="of_table")
    sort(home, "from_table.csv", clusters="of_table", encoder=str(home / "encoder"))
    assert (home / "from_table.csv").read_bytes() == (home / "from_images.csv").read_bytes()


def test_names_merge_clusters_and_judge_them(home: Path) -> None:
    shutil.copytree(home / "clusters", home / "named")
    (home / "named/names.csv").write_text("cluster,name\n4,digit1\n0,digit1\n2,digit0\n")
    answer = sort(home, "named.csv", clusters="named", label="folders")
    rows = lines(home / "named.csv")
    assert {row["cluster"] for row in rows} == {"0", "1", "2", "3"}
    assert all(
        row["name"] == {"0": "digit1", "2": "digit0"}.get(row["cluster"], "") for row in rows
    )
    right = [row["label"] == row["name"] for row in rows if row["name"]]
    share = sum(right) / len(right)
    assert answer.value["agreement"] == pytest.approx(share) and 0 < sum(right) < len(right) < 60
    assert f"{share:.1%} of the {len(right)} that have both" in answer.text


def test_ids_and_names_are_kept_when_clustering_anew(home: Path) -> None:
    shutil.copytree(home / "clusters", home / "older")
    (home / "older/names.csv").write_text("cluster,name\n1,one\n")
    answer = make(home, "anew", match=home / "older", seed=9)
    older, anew = (
        dict(zip(t["path"].to_pylist(), t["cluster"].to_pylist(), strict=True))
        for t in (read_table(home / n / "assignments.parquet") for n in ("older", "anew"))
    )
    kept = sum(older[path] == anew[path] for path in older) / len(older)
    assert f"{kept:.0%} of the images of older keep their cluster id." in answer.text
    assert kept > 0.4
    assert (home / "anew/names.csv").read_text("utf-8-sig") == "cluster,name\n1,one\n"
    sort(home, "as_older.parquet", clusters="anew", match=home / "older")
    table = read_table(home / "as_older.parquet")
    assert dict(zip(table["path"].to_pylist(), table["cluster"].to_pylist(), strict=True)) == anew


def test_names_need_images_in_common() -> None:
    old = {f"{i}": i % 2 for i in range(20)}
    new = {path: id_ for path, id_ in old.items() if int(path) < 6}
    names = {0: "even", 1: "odd"}
    assert surviving_names(names, old, new) == names
    few = new | {f"new{i}": i % 2 for i in range(80)}  # 3 of 43 are known
    assert surviving_names(names, old, few) == {}
    other = {path: (0 if path in ("0", "1", "3") else 1) for path in new}  # one of three was even
    assert surviving_names(names, old, other) == {}


def test_a_report_is_renewed_with_the_names_and_the_choice(home: Path) -> None:
    make(home, "renewed", k="auto", label="folders")
    page, folder = home / "renewed/report.html", home / "renewed"
    before = page.read_text()
    page.unlink()
    selftaught.report(folder, cache=home / "cache")
    assert page.read_text() == before and "folders" not in before
    (folder / "names.csv").write_text("cluster,name\n0,the first\n")
    selftaught.report(folder, cache=home / "cache")
    assert "the first" in page.read_text() and "the first" not in before
    table = read_table(folder / "assignments.parquet")
    write_table(folder / "assignments.parquet", table.slice(1))
    with pytest.raises(DataError, match=r"the images that .* was made from have changed"):
        selftaught.report(folder, cache=home / "cache")


def test_images_that_are_left_out_are_named(home: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(home / "images", tmp_path / "images")
    (tmp_path / "images/broken.png").write_bytes(b"no image")
    how = {"k": 2, "out": tmp_path / "clusters", "cache": tmp_path / "cache"}
    value = selftaught.cluster(str(home / "encoder"), str(tmp_path / "images"), **how).value
    assert any("1 image is left out: broken.png (" in note for note in value["notes"])
    assert "1 image is left out: broken.png (" in capsys.readouterr().err
    assert "broken.png" in (tmp_path / "clusters/report.html").read_text()


def test_vectors_without_a_direction_are_said_and_too_long_ones_refused(tmp_path: Path) -> None:
    x_ND = np.eye(12, 4, dtype=np.float32) + np.float32(0.1)
    x_ND[3] = 0
    for name, rows in (("zero", x_ND), ("long", x_ND * 1e30), ("nothing", x_ND * 0)):
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 4)
        write_table(tmp_path / f"{name}.parquet", pa.table({"vector": vectors}))
    told = selftaught.cluster(str(tmp_path / "zero.parquet"), out=tmp_path / "c", k=9).value
    assert any(note.startswith("1 vector is all zeros") for note in told["notes"])
    assert any(note.startswith("Fewer than 9 vectors are different") for note in told["notes"])
    with pytest.raises(DataError, match=r"long\.parquet: vectors have numbers above"):
        selftaught.cluster(str(tmp_path / "long.parquet"), out=tmp_path / "l", k=2)
    with pytest.raises(DataError, match=r"nothing\.parquet: vectors are all 0"):
        selftaught.cluster(str(tmp_path / "nothing.parquet"), out=tmp_path / "n", k=2)


def test_clusters_of_another_space_than_their_tensors_are_damaged(home: Path, tmp_path: Path):
    shutil.copytree(home / "clusters", tmp_path / "c")
    path = tmp_path / "c/clusters.json"
    path.write_text(path.read_text().replace('"space": "unit"', '"space": "whitened"'))
    with pytest.raises(FileError, match="damaged"):
        selftaught.assign(tmp_path / "c", str(home / "images"), out=tmp_path / "t.csv")


def test_vectors_of_an_unknown_encoder_are_taken_and_said(home: Path, tmp_path: Path, capsys):
    table = tmp_path / "v.parquet"
    selftaught.embed(str(home / "encoder"), str(home / "images"), out=table, cache=home / "cache")
    write_table(table, read_table(table).replace_schema_metadata(None))
    selftaught.assign(home / "clusters", str(table), out=tmp_path / "t.csv")
    assert "do not name their encoder" in capsys.readouterr().err


def test_a_cluster_without_a_name_is_not_taken_for_one_whose_name_is_its_number(home: Path) -> None:
    shutil.copytree(home / "clusters", home / "numbers")
    (home / "numbers/names.csv").write_text("cluster,name\n1,3\n")
    value = sort(home, "numbers.csv", clusters="numbers", label="folders").value
    sizes = np.bincount(read_table(home / "clusters/assignments.parquet")["cluster"].to_numpy())
    assert value["clusters"] == {"3": sizes[1]} | {f"cluster {i}": sizes[i] for i in (0, 2, 3, 4)}
    assert value["compared"] == sizes[1] and value["agreement"] == 0


def with_names(home: Path, folder: Path, text: str) -> Path:
    """Clusters with this names.csv."""
    shutil.copytree(home / "clusters", folder)
    (folder / "names.csv").write_text(text)
    return folder


def test_labels_without_names_are_told(home: Path) -> None:
    answer = sort(home, "nameless.csv", label="folders")
    assert f"No cluster has a name: write {home / 'clusters/names.csv'} to" in answer.text
    assert len(answer.value["notes"]) == 1 and "agreement" not in answer.value
    assert sort(home, "nameless.csv").value["notes"] == []


def test_names_of_which_none_is_a_label_are_told(home: Path, tmp_path: Path) -> None:
    made = with_names(home, tmp_path / "made", "cluster,name\n0,one\n1,two\n")
    answer = sort(home, "codes.csv", clusters=made, label="folders")
    note = "No name is one of the labels (digit0, digit1, digit2, ...): name clusters like"
    assert note in answer.text and "0.0%" not in answer.text and note in answer.value["notes"][0]
    (made / "names.csv").write_text("cluster,name\n0,one\n1,digit9\n")
    answer = sort(home, "codes.csv", clusters=made, label="folders")
    assert answer.value["notes"] == [] and "that have both" in answer.text


def test_a_name_of_two_lines_is_one_line_of_a_summary(home: Path, tmp_path: Path) -> None:
    made = with_names(home, tmp_path / "made", 'cluster,name\n0,"fish\n\x1bnew"\n')
    sorted_, again = sort(home, "odd.csv", clusters=made), make(home, "again", match=made)
    for answer in (sorted_, again):
        assert r"fish\n\x1bnew" in answer.text and "\x1b" not in answer.text
    assert "fish\n\x1bnew" in sorted_.value["clusters"]


def test_a_cluster_named_by_its_number_has_its_new_number_when_matched(
    home: Path, tmp_path: Path
) -> None:
    made = with_names(home, tmp_path / "made", "cluster,name\n0,cluster 0\n1,Cluster 1\n")
    older = with_names(home, tmp_path / "older", "cluster,name\n")
    table = read_table(older / "assignments.parquet").drop_columns("cluster")
    ids = read_table(home / "clusters/assignments.parquet")["cluster"].to_numpy()
    turned = table.append_column("cluster", pa.array((ids + 1) % 5))
    write_table(older / "assignments.parquet", turned)
    value = sort(home, "turned.csv", clusters=made, match=older).value
    sizes = np.bincount((ids + 1) % 5)
    assert value["clusters"] == {f"cluster {i}": size for i, size in enumerate(sizes)}


def test_copies_and_links_in_the_folders_of_clusters(home: Path) -> None:
    answer = sort(home, "laid.csv", copy_to=home / "copies", link_to=home / "links")
    for row in lines(home / "laid.csv"):
        copy, link = (
            home / out / f"cluster {row['cluster']}" / row["path"] for out in ("copies", "links")
        )
        assert copy.read_bytes() == link.read_bytes() and link.is_symlink()
    assert answer.value["images"] == 60
    with pytest.raises(FileError, match="copies exists"):
        sort(home, "laid2.csv", copy_to=home / "copies")
    assert not (home / "laid2.csv").exists()


def lines(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_the_algorithms_and_the_choice_of_k(home: Path) -> None:
    answer = make(home, "two", by="max-margin", k=2)
    two, bound = answer.value, "The two clusters may differ by at most 10 % of the images."
    assert two["notes"] == [bound] and bound in (home / "two/report.html").read_text()
    assert two["k"] == 2 and min(two["sizes"].values()) >= 60 * 0.45
    graph = make(home, "graph", by="power-iteration", k="auto").value
    assert 2 < graph["k"] < 30
    chosen = make(home, "auto", k="auto")
    assert chosen.value["notes"][0] in chosen.text and chosen.value["k"] >= 2
    page = (home / "auto/report.html").read_text()
    assert 'id="choice"' in page and "it&#x27;s &lt;b&gt;" in page and "<b>&" not in page


def vectors_table(path: Path, n: int) -> str:
    x = np.random.default_rng(n).normal(size=(n, 48)).astype("f4")
    vector = pa.FixedSizeListArray.from_arrays(x.ravel(), 48)
    write_table(path, pa.table({"path": [f"{i}.png" for i in range(n)], "vector": vector}))
    return str(path)


@pytest.mark.parametrize("n", [39, 40])
def test_of_too_few_images_outliers_are_not_told(tmp_path: Path, n: int) -> None:
    few, out = n < 40, tmp_path / "clusters"
    given = vectors_table(tmp_path / "vectors.parquet", n)
    answer = selftaught.cluster(given, out=out, k=2, device="cpu")
    told = ["Too few images to find outliers (at least 40 are needed)."]
    assert answer.value["notes"] == (told if few else [])
    assert (answer.value["outliers"] is None) == few and ("outliers: " in answer.text) != few
    page = (out / "report.html").read_text()
    assert ("too few images to detect outliers" in page) == few
    assert not (few and "No outliers." in page)
    selftaught.assign(out, given, out=tmp_path / "sorted.parquet", device="cpu")
    for name in (out / "assignments.parquet", tmp_path / "sorted.parquet"):
        table = read_table(name)
        assert table.schema.field("outlier").type == pa.bool_()
        assert table.schema.field("outlier_score").type == pa.float32()
        for column in ("outlier", "outlier_score"):
            assert table[column].null_count == (n if few else 0)
    twins = read_table(out / "assignments.parquet")["duplicate_of"]
    assert twins.type == pa.int64() and twins.null_count == n


def test_too_few_images_and_pixels_that_are_gone_are_both_told(tmp_path: Path) -> None:
    images = file_set(tmp_path, 6)
    x_ND = np.repeat(np.random.default_rng(0).normal(size=(3, 48)), 2, axis=0).astype("f4")
    paths = tuple(images.checked.images["path"].to_pylist())
    (tmp_path / "images/0000.png").unlink()
    found = find_standouts(Vectors(x_ND, np.arange(6), paths, None, "", images))
    assert found.note.startswith("Near-duplicates and outliers were found by vectors alone, ")
    few = " is missing or damaged. Too few images to find outliers (at least 40 are needed)."
    assert found.note.endswith(f"0000.png{few}")
    assert sorted(group.tolist() for group in found.duplicates) == [[0, 1], [2, 3], [4, 5]]


def test_whole_numbers_with_gaps_agree_with_names(tmp_path: Path) -> None:
    x, labels = [[1.0, 0.0], [0.0, 1.0]] * 4, [3, 5, 3, 5, None, 5, 3, None]
    table = pa.table({"vector": x, "label": pa.array(labels, pa.float64())})
    write_table(tmp_path / "x.parquet", table)
    selftaught.cluster(tmp_path / "x.parquet", out=tmp_path / "made", k=2, device="cpu")
    made = read_table(tmp_path / "made/assignments.parquet")
    named = {row["cluster"]: int(row["label"]) for row in made.to_pylist() if row["label"]}
    write_names(tmp_path / "made", {id_: str(label) for id_, label in named.items()})
    answer = selftaught.assign(tmp_path / "made", tmp_path / "x.parquet", out=tmp_path / "x.csv")
    assert answer.value["agreement"] == 1


def test_files_whose_names_are_not_utf_8_are_laid_out(home: Path, tmp_path: Path) -> None:
    odd, images = os.fsdecode(b"k\xe4se.png"), tmp_path / "images"
    shutil.copytree(home / "images/digit1", images / "digit1")
    shutil.copy(home / "images/digit0" / ODD, images / odd)
    how = {"clusters": str(home / "clusters"), "data": str(images)}
    sort(home, "odd.csv", **how, copy_to=tmp_path / "copies", link_to=tmp_path / "links")
    (row,) = [row for row in lines(home / "odd.csv") if row["path"] == r"k\xe4se.png"]
    for out in ("copies", "links"):
        assert (tmp_path / out / f"cluster {row['cluster']}" / odd).read_bytes() == (
            images / odd
        ).read_bytes()


def test_labels_that_are_lists_are_none(tmp_path: Path) -> None:
    x, labels = [[1.0, 0.0], [0.0, 1.0]] * 2, [[1], [2, 3], None, []]
    write_table(tmp_path / "x.parquet", pa.table({"vector": x, "label": labels}))
    selftaught.cluster(tmp_path / "x.parquet", out=tmp_path / "made", k=2, device="cpu")
    selftaught.assign(tmp_path / "made", tmp_path / "x.parquet", out=tmp_path / "x.csv")
    assert len(lines(tmp_path / "x.csv")) == 4 and "label" not in lines(tmp_path / "x.csv")[0]


# --- faults


def test_too_many_images_for_max_margin_are_refused_before_any_is_encoded(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complaint = "maximum margin cannot cluster 5,001 vectors: use 2 to 5,000"
    with pytest.raises(UserError, match=complaint):
        given = vectors_table(tmp_path / "many.parquet", 5001)
        selftaught.cluster(given, out=home / "never", by="max-margin", device="cpu")
    monkeypatch.setattr(max_margin, "_MOST", 59)
    cache = tmp_path / "empty"
    with pytest.raises(UserError, match="maximum margin cannot cluster 60 vectors: use 2 to 59"):
        make(home, "never", by="max-margin", k=2, cache=cache)
    assert not (cache / "features").exists() and not (home / "never").exists()
    make(home, "encoded", cache=cache)
    assert (cache / "features").exists()


def test_another_encoder_is_refused(home: Path) -> None:
    config = EncoderConfig("resnet8", in_channels=1, image_size=8, options={"width": 4})
    other = build_encoder(config).eval()
    with torch.no_grad():
        next(other.parameters()).add_(1e-3)
    save_encoder(other, home / "other")
    with pytest.raises(DataError, match="use the encoder it was made with"):
        sort(home, "x.csv", encoder=str(home / "other"))
    assert not (home / "x.csv").exists()


def test_an_encoder_that_has_moved_is_named(home: Path) -> None:
    shutil.copytree(home / "encoder", home / "moved")
    made = selftaught.cluster(
        str(home / "moved"), str(home / "images"), out=home / "of_moved", k=3, device="cpu"
    )
    assert made.value["k"] == 3
    (home / "moved").rename(home / "moved_again")
    with pytest.raises(FileError, match="pass its new location as --encoder"):
        sort(home, "x.csv", clusters="of_moved")
    sort(home, "moved.csv", clusters="of_moved", encoder=str(home / "moved_again"))


def test_vectors_that_are_not_finite_are_named(home: Path) -> None:
    x = [[1.0, 2.0], [float("nan"), 1.0], [2.0, 3.0]]
    write_table(home / "nan.parquet", pa.table({"vector": pa.array(x, pa.list_(pa.float32()))}))
    with pytest.raises(DataError, match="not finite in 1 rows, first in 1"):
        selftaught.cluster(str(home / "nan.parquet"), out=home / "x", k=2)
    assert not (home / "x").exists()


def test_names_are_not_lost_to_overwrite(home: Path) -> None:
    shutil.copytree(home / "clusters", home / "mine")
    (home / "mine/names.csv").write_text("cluster,name\n1,one\n")
    with pytest.raises(FileError, match="names or answers entered by hand"):
        make(home, "mine", overwrite=True)
    assert (home / "mine/clusters.json").exists()


def test_what_is_read_is_not_written_over(home: Path) -> None:
    table, out = home / "kept.parquet", home / "clusters"
    shutil.copy(out / "assignments.parquet", table)
    before = table.read_bytes()
    with pytest.raises(FileError, match="contains the input"):
        sort(home, "kept.parquet", data="kept.parquet")
    with pytest.raises(FileError, match="contains an encoder, not a classifier"):
        selftaught.classify(named(home, "read"), out=home / "encoder", device="cpu", overwrite=True)
    assert table.read_bytes() == before and (home / "encoder/config.json").exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_clusters_and_encoders_are_not_replaced_by_other_things(home: Path) -> None:
    named(home, "guarded")
    before = contents(home / "guarded") | contents(home / "encoder")
    with pytest.raises(FileError, match="contains an encoder, not clusters"):
        selftaught.cluster(
            str(home / "clusters/assignments.parquet"), out=home / "encoder", overwrite=True
        )
    for name in ("names.csv", "assignments.parquet"):
        with pytest.raises(FileError, match="is part of clusters"):
            sort(home, f"guarded/{name}")
    with pytest.raises(FileError, match="is part of clusters"):
        selftaught.embed(
            str(home / "encoder"), str(home / "images"), out=home / "guarded/names.csv"
        )
    assert contents(home / "guarded") | contents(home / "encoder") == before


def test_a_table_that_is_read_is_not_replaced_by_vectors(home: Path) -> None:
    table = home / "list.parquet"
    write_table(table, pa.table({"path": ["images/digit1/001.png"]}))
    before = table.read_bytes()
    with pytest.raises(FileError, match="contains the input"):
        selftaught.embed(str(home / "encoder"), str(table), out=table, overwrite=True)
    assert table.read_bytes() == before


def never(*_: object, **__: object) -> None:
    pytest.fail("work was done")


@pytest.mark.parametrize(
    ("folders", "complaint"),
    [
        ({"copy_to": "x", "link_to": "x"}, "--copy-to .*x and --link-to .*x are the same folder"),
        ({"copy_to": "x", "link_to": "clusters/../x"}, "are the same folder or nested"),
        ({"copy_to": "x/y", "link_to": "x"}, "are the same folder or nested"),
        ({"copy_to": "x", "link_to": "x/y"}, "are the same folder or nested"),
        ({"copy_to": "images/x"}, "--copy-to .* is inside the input folder .*images"),
        ({"link_to": "images/digit1/x"}, "--link-to .* is inside the input folder .*images"),
        ({"copy_to": "clusters"}, "--copy-to .*clusters exists: choose a new folder"),
        ({"link_to": "encoder"}, "--link-to .*encoder exists: choose a new folder"),
        ({"copy_to": "/"}, "--copy-to / exists: choose a new folder"),
        ({"link_to": "encoder/config.json/x"}, "choose another --link-to"),
    ],
)
def test_folders_that_cannot_be_laid_out_are_refused_before_any_work(
    home: Path, monkeypatch: pytest.MonkeyPatch, folders: dict[str, str], complaint: str
) -> None:
    monkeypatch.setattr(assign, "_labelled_vectors", never)
    before = sorted(home.rglob("*"))
    with pytest.raises(FileError, match=complaint):
        sort(home, "refused.csv", **{name: home / folder for name, folder in folders.items()})
    assert sorted(home.rglob("*")) == before


def test_of_two_that_lay_images_out_in_one_folder_one_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").touch()

    def later(source: Path, target: Path) -> None:
        shutil.copy(source, target)
        (tmp_path / "out/of_the_other").mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(shutil, "copy2", later)
    with pytest.raises(FileError, match=r"--copy-to .*out exists: choose a new folder"):
        sort_into_folders(tmp_path, ["a.png"], ["one"], tmp_path / "out", "copy")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["of_the_other"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "out"]


def named(home: Path, copy: str) -> Path:
    """Clusters of which two have names."""
    shutil.copytree(home / "clusters", home / copy)
    (home / copy / "names.csv").write_text("cluster,name\n0,a\n1,b\n")
    return home / copy


def test_answers_are_not_lost_to_another_command(home: Path) -> None:
    selftaught.classify(named(home, "asked"), out=home / "answered", device="cpu", ask=4)
    ask = home / "answered/ask.csv"
    first, *rest = ask.read_text().splitlines()
    with pytest.raises(FileError, match="contains a classifier, not clusters"):
        make(home, "answered", overwrite=True)
    selftaught.classify(home / "asked", out=home / "answered", device="cpu", ask=4, overwrite=True)
    ask.write_text("\n".join([first, rest[0] + "three", *rest[1:]]) + "\n")
    with pytest.raises(FileError, match="names or answers entered by hand"):
        selftaught.classify(home / "asked", out=ask.parent, device="cpu", overwrite=True)
    assert "three" in ask.read_text()


def test_an_older_output_stays_until_the_new_one_is_whole(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(home, "stays")
    before = (home / "stays/clusters.json").read_bytes()

    def fails(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(cluster.cluster.__globals__, "write_group_report", fails)
    with pytest.raises(KeyboardInterrupt):
        make(home, "stays", k=3, overwrite=True)
    assert (home / "stays/clusters.json").read_bytes() == before
    assert not list(home.glob(".stays*"))


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ({"k": 0}, "k is 0"),
        ({"k": 3, "by": "max-margin"}, "max-margin makes 2 clusters"),
        ({"k": 3, "by": "power-iteration"}, "finds the number of clusters itself"),
        ({"k": 61}, "60 vectors cannot form 61 clusters"),
        ({"label": "colour"}, "no column 'colour'"),
        ({"match": "images"}, "is not a clusters folder"),
    ],
)
def test_what_cannot_be_meant_is_one_line(home: Path, how, complaint: str) -> None:
    if "match" in how:
        how = {"match": home / how["match"]}
    with pytest.raises((ConfigError, DataError, FileError, ValueError), match=complaint):
        make(home, "never", **how)
    assert not (home / "never").exists() and not list(home.glob(".never*"))
