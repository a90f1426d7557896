"""Names to a classifier, end to end: cluster, names.csv, classify, answers, assign."""

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet
from pyarrow.csv import read_csv

import selftaught
from selftaught.cli import USER, main
from selftaught.clusters.names import write_names
from selftaught.commands.result import Answer
from selftaught.encoders.encoder import EncoderConfig, build_encoder
from selftaught.encoders.folder import save_encoder
from selftaught.errors import ConfigError, DataError, FileError, UserError
from tests.support.command_line import selftaught as run_selftaught

pytestmark = pytest.mark.slow

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}


def digits_table(path: Path, rows: slice) -> Path:
    """scikit-learn's digits as a table of vectors, their pixels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x_ND, labels = digits.data[rows].astype("f4"), digits.target[rows].astype(str)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(x_ND.ravel()), x_ND.shape[1])
    paths = [f"{row}.png" for row in range(rows.start or 0, (rows.start or 0) + len(labels))]
    parquet.write_table(pa.table({"path": paths, "label": labels, "vector": vectors}), path)
    return path


def named_by_labels(clusters: Path) -> dict[int, str]:
    """The commonest label of each cluster."""
    table = read_assignments(clusters)
    counts: dict[int, Counter[str]] = {}
    for id_, label in zip(table["cluster"].to_pylist(), table["label"].to_pylist(), strict=True):
        counts.setdefault(id_, Counter())[label] += 1
    return {id_: count.most_common(1)[0][0] for id_, count in counts.items()}


def read_assignments(clusters: Path) -> pa.Table:
    return parquet.read_table(clusters / "assignments.parquet")


def asked(classifier: Path) -> list[dict[str, str]]:
    with (classifier / "ask.csv").open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def answered(classifier: Path, label, out: Path) -> Path:
    """ask.csv with the column label filled in."""
    lines = [line | {"label": label(line["path"])} for line in asked(classifier)]
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    return out


# --- a table of vectors


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of digits, and 20 clusters of the first of them, of which 15 have names."""
    place = tmp_path_factory.mktemp("digits")
    digits_table(place / "train.parquet", slice(0, 1400))
    digits_table(place / "test.parquet", slice(1400, None))
    selftaught.cluster(place / "train.parquet", out=place / "clusters", k=20)
    names = named_by_labels(place / "clusters")
    write_names(place / "clusters", {id_: names[id_] for id_ in range(15)})
    return place


@pytest.fixture(scope="module")
def told(digits: Path) -> Answer:
    return selftaught.classify(digits / "clusters", out=digits / "classifier", ask=40)


def truth(path: str) -> str:
    from sklearn.datasets import load_digits

    return str(load_digits().target[int(path.removesuffix(".png"))])


def test_what_is_told(digits: Path, told: Answer) -> None:
    names = set(list(named_by_labels(digits / "clusters").values())[:15])
    value, table = told.value, read_assignments(digits / "clusters")
    unnamed = int((np.array(table["cluster"]) >= 15).sum())
    assert value["clusters_unnamed"] == 5 and value["images_unnamed"] == unnamed
    assert f"5 clusters have no name; {unnamed} of 1,400 images are left out." in str(told)
    assert set(value["classes"]) == names
    assert sum(found["images"] for found in value["classes"].values()) == 1400 - unnamed
    assert value["agreement"]["share"] > value["agreement_of_the_rest"]["share"] > 0.6


def test_asked_are_half_uncertain_and_half_uncovered(digits: Path, told: Answer) -> None:
    lines = asked(digits / "classifier")
    assert list(lines[0]) == ["row", "path", "why", "says", "confidence", "label"]
    assert len({line["path"] for line in lines}) == 40 == told.value["asked"]
    assert all(line["path"] == f"{line['row']}.png" and not line["label"] for line in lines)
    assert sum(") or " in line["why"] for line in lines) == 20
    assert sum(line["why"].endswith("and no name") for line in lines) >= 10
    page = (digits / "classifier/ask.html").read_text()
    assert page.count("<figure>") == 40 and "(no image)" in page


def test_the_report_has_a_wall_a_name_and_says_what_is_told(digits: Path, told: Answer) -> None:
    page = (digits / "classifier/report.html").read_text()
    assert page.count("<article") == len(told.value["classes"])
    assert "the 40 images in ask.html" in page
    facts = str(told).splitlines()
    assert facts[1] in page and "report.html" in str(told)


def test_assign_takes_a_classifier(digits: Path, told: Answer, tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    value = selftaught.assign(digits / "classifier", digits / "test.parquet", out=out).value
    table = read_csv(out)
    assert table.column_names == ["row", "path", "label", "name", "confidence", "second"]
    assert table.num_rows == 397 == value["images"] == sum(value["names"].values())
    name, label = (np.array(table[c].to_pylist()) for c in ("name", "label"))
    assert value["agreement"] == np.mean(name == label) > 0.7
    confidence = np.array(table["confidence"])
    sure = confidence > np.median(confidence)
    assert (name == label)[sure].mean() > (name == label)[~sure].mean()
    assert not (name == np.array(table["second"].to_pylist())).any()


def test_the_same_seed_makes_the_same_files(digits: Path, told: Answer, tmp_path: Path) -> None:
    selftaught.classify(digits / "clusters", out=tmp_path / "again", ask=40)
    for name in ("classifier.safetensors", "classifier.json", "ask.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (
            digits / "classifier" / name
        ).read_bytes()


def test_answers_teach_and_are_not_asked_again(digits: Path, told: Answer, tmp_path: Path) -> None:
    first = answered(digits / "classifier", truth, tmp_path / "first.csv")
    made = tmp_path / "made"
    value = selftaught.classify(digits / "clusters", out=made, answers=[str(first)], ask=40).value
    assert value["answers"] == 40 and value["answers_missing"] == 0
    paths = {line["path"] for line in asked(made)}
    assert not paths & {line["path"] for line in asked(digits / "classifier")}
    second = answered(made, truth, tmp_path / "second.csv")
    both = [str(first), str(second)]
    again = selftaught.classify(digits / "clusters", out=tmp_path / "more", answers=both)
    assert again.value["answers"] == 80
    shares = [
        selftaught.assign(folder, digits / "test.parquet", out=tmp_path / f"{i}.csv").value[
            "agreement"
        ]
        for i, folder in enumerate((digits / "classifier", tmp_path / "more"))
    ]
    assert shares[1] > shares[0] + 0.03


def test_an_answer_may_be_a_new_name_and_a_lost_image_is_told(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "path;label\n3.png; three times \n5.png;\ngone.png;7\n10.png;three times\n"
    )
    made = selftaught.classify(
        digits / "clusters", out=tmp_path / "made", answers=[str(tmp_path / "a.csv")], ask=0
    )
    assert made.value["classes"]["three times"] == {"images": 2, "sure": 2}
    assert made.value["answers_missing"] == 1
    assert "1 answer left out, because the image does not exist." in str(made)
    assert not (tmp_path / "made/ask.csv").exists()


def learnt(clusters: Path, place: Path, *lines: str) -> Answer:
    """What `classify` tells where these are the answers."""
    (place / "a.csv").write_text("\n".join(["path,label", *lines]))
    how = {"answers": [str(place / "a.csv")], "ask": 0, "overwrite": True}
    return selftaught.classify(clusters, out=place / "made", **how)


def test_images_with_two_labels_are_counted(digits: Path, tmp_path: Path) -> None:
    twice = "has several different answers; the last one counts."
    made = learnt(digits / "clusters", tmp_path, "3.png,3", "3.png,8", "4.png,4", "4.png, 4")
    assert made.value["answered_twice"] == 1 and f"1 image {twice}" in str(made)
    made = learnt(digits / "clusters", tmp_path, "3.png,3", "3.png,8", "4.png,4", "4.png,4 4")
    assert made.value["answered_twice"] == 2
    assert f"2 images {twice.replace('has', 'have')}" in (tmp_path / "made/report.html").read_text()
    made = learnt(digits / "clusters", tmp_path, "3.png,3", "4.png,4")
    assert made.value["answered_twice"] == 0 and "several" not in str(made)


def test_names_that_differ_in_case_only_are_told(digits: Path, tmp_path: Path) -> None:
    lines = [f"{i}.png,{name}" for i, name in enumerate(("HORN", " horn ", "sea  horse"))]
    made = learnt(digits / "clusters", tmp_path, *lines, "3.png,sea horse")
    assert made.value["names_that_differ_in_case"] == [["HORN", "horn"]]
    assert "\nHORN and horn differ only in case, and count as two names.\n" in str(made)
    assert made.value["classes"]["sea horse"]["images"] == 2


def test_what_lowers_agreement_is_told(digits: Path, told: Answer, tmp_path: Path) -> None:
    why, clusters = "Agreement is measured with the names of the clusters", digits / "clusters"
    assert why not in str(told)
    table = read_assignments(clusters).to_pylist()
    names = named_by_labels(clusters)
    path, own = next((row["path"], names[row["cluster"]]) for row in table if row["cluster"] == 0)
    assert why not in str(learnt(clusters, tmp_path, f"{path},{own}"))
    other = next(name for name in names.values() if name != own)
    assert why in str(learnt(clusters, tmp_path, f"{path},{other}"))
    unnamed = next(row["path"] for row in table if row["cluster"] == 19)
    made = learnt(clusters, tmp_path, f"{unnamed},newt")
    assert made.value["answers_against_their_cluster"] == 0 and why in str(made)
    assert made.value["names_of_answers_only"] == ["newt"]
    assert ">answers only<" in (tmp_path / "made/report.html").read_text()


def test_one_cluster_is_too_few(digits: Path, tmp_path: Path) -> None:
    selftaught.cluster(digits / "train.parquet", out=tmp_path / "one", k=1)
    with pytest.raises(ConfigError, match=r"only one cluster, but two .*: cluster with --k 2 or"):
        selftaught.classify(tmp_path / "one", out=tmp_path / "made")
    made = learnt(tmp_path / "one", tmp_path, "0.png,zero", "1.png,one")
    assert set(made.value["classes"]) == {"zero", "one"}


def test_odd_paths_and_names_are_one_line_and_come_back(digits: Path, tmp_path: Path) -> None:
    table = parquet.read_table(digits / "train.parquet").slice(0, 200)
    paths = [f"{i},cr\rx=.webp" for i in range(200)]
    table = table.set_column(table.column_names.index("path"), "path", pa.array(paths))
    parquet.write_table(table, tmp_path / "x.parquet")
    selftaught.cluster(tmp_path / "x.parquet", out=tmp_path / "clusters", k=4)
    write_names(tmp_path / "clusters", {0: "fish\nnew", 1: "FISH\nnew", 2: "bird"})
    made = selftaught.classify(tmp_path / "clusters", out=tmp_path / "made", ask=10)
    assert r"FISH\nnew and fish\nnew differ only in case" in str(made)
    assert all(line["path"] in paths for line in asked(tmp_path / "made"))
    filled = tmp_path / "filled.csv"
    filled.write_bytes((tmp_path / "made/ask.csv").read_bytes().replace(b',""\n', b',"newt"\n'))
    again = {"out": tmp_path / "again", "answers": [str(filled)]}
    value = selftaught.classify(tmp_path / "clusters", **again).value
    assert (value["answers"], value["answers_missing"]) == (made.value["asked"], 0)
    sorted_ = selftaught.assign(
        tmp_path / "made", tmp_path / "x.parquet", out=tmp_path / "t.csv", label="label"
    )
    assert r"  fish\nnew " in str(sorted_) and "No name is one of the labels (0, 1, 2, ...)" in str(
        sorted_
    )


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table whose paths are numbers with zeros before them, as those of arrays are; clusters."""
    place = tmp_path_factory.mktemp("numbered")
    table = parquet.read_table(digits_table(place / "x.parquet", slice(0, 300)))
    paths = pa.array([f"{row:05d}" for row in range(300)])
    parquet.write_table(table.set_column(0, "path", paths), place / "x.parquet")
    selftaught.cluster(place / "x.parquet", out=place / "clusters", k=10, device="cpu")
    write_names(place / "clusters", named_by_labels(place / "clusters"))
    return place


@pytest.mark.parametrize("respell", [lambda n: f"{n}", lambda n: f"{n},0", lambda n: f"{n:.5E}"])
def test_answers_survive_a_spreadsheet(numbered: Path, tmp_path: Path, respell) -> None:
    whole = [f"{row};{respell(row)};new" for row in (17, 120, 299)]
    lines = [*whole, "18;17;wrong", "7;x7;wrong", "900;900;wrong", ";21;wrong"]
    (tmp_path / "a.csv").write_text("\n".join(["row;path;label", *lines]))
    how = {"answers": [str(tmp_path / "a.csv")], "ask": 0}
    value = selftaught.classify(numbered / "clusters", out=tmp_path / "made", **how).value
    assert value["classes"]["new"] == {"images": 3, "sure": 3} and "wrong" not in value["classes"]
    assert value["answers"] == 3 and value["answers_missing"] == len(lines) - 3


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("path,label\n17,a\nx,b\n", r"none of the 2 answers \(e\.g\. 17\) belongs to one of these"),
        ("row,label,path\n17,a,00017\n18,b\n", r"a\.csv, line 3: the label b has no path"),
        ("path,label\n00017,Käse\n", r"a\.csv is not UTF-8"),
    ],
)
def test_answers_that_cannot_be_meant(
    numbered: Path, tmp_path: Path, text: str, complaint: str
) -> None:
    (tmp_path / "a.csv").write_text(text, encoding="cp1252")
    with pytest.raises(UserError, match=complaint) as caught:
        how = {"answers": [str(tmp_path / "a.csv")]}
        selftaught.classify(numbered / "clusters", out=tmp_path / "made", **how)
    assert len(str(caught.value).splitlines()) == 1 and not (tmp_path / "made").exists()


def test_answers_are_not_overwritten(digits: Path, told: Answer, tmp_path: Path) -> None:
    shutil.copytree(digits / "classifier", tmp_path / "made")
    again = {"out": tmp_path / "made", "ask": 4}
    with pytest.raises(FileError, match="exists"):
        selftaught.classify(digits / "clusters", **again)
    selftaught.classify(digits / "clusters", **again, overwrite=True)
    answered(tmp_path / "made", truth, tmp_path / "filled.csv")
    (tmp_path / "filled.csv").replace(tmp_path / "made/ask.csv")
    before = (tmp_path / "made/ask.csv").read_bytes()
    with pytest.raises(FileError, match="answers entered by hand, which would be lost"):
        selftaught.classify(digits / "clusters", **again, overwrite=True)
    answers = [str(tmp_path / "made/ask.csv")]
    with pytest.raises(FileError, match="contains the input"):
        selftaught.classify(digits / "clusters", **again, overwrite=True, answers=answers)
    assert (tmp_path / "made/ask.csv").read_bytes() == before


def test_a_name_without_images_is_told(digits: Path, tmp_path: Path) -> None:
    table, ids = parquet.read_table(digits / "train.parquet"), read_assignments(digits / "clusters")
    kept = np.array(ids["cluster"]) != 2
    parquet.write_table(table.filter(pa.array(kept)), tmp_path / "some.parquet")
    clusters = tmp_path / "clusters"
    shutil.copytree(digits / "clusters", clusters)
    write_names(clusters, {0: "a", 1: "b", 2: "empty"})
    made = selftaught.classify(clusters, data=tmp_path / "some.parquet", out=tmp_path / "made")
    assert "No image is in a cluster named empty." in str(made)
    assert set(made.value["classes"]) == {"a", "b"}
    write_names(clusters, {0: "a", 2: "empty"})
    with pytest.raises(DataError, match="fewer than two names"):
        selftaught.classify(clusters, data=tmp_path / "some.parquet", out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (None, "has no names, but two are needed: write .*names.csv with the header cluster,name"),
        ("cluster,name\n0,cat\n3,\n", "has only one name, but two are needed"),
        ("cluster,name\n0,cat\n3,cat\n", "has only one name, but two are needed"),
        ("cluster,name\n0,cat\n99,dog\n", "line 3: cluster '99' does not exist"),
        ("\0\1\2", "does not have the columns cluster and name"),
    ],
)
def test_too_few_names_are_one_line(
    digits: Path, tmp_path: Path, names: str | None, complaint: str
) -> None:
    clusters = tmp_path / "clusters"
    shutil.copytree(digits / "clusters", clusters)
    (clusters / "names.csv").unlink()
    if names is not None:
        (clusters / "names.csv").write_text(names)
    with pytest.raises(UserError, match=complaint) as caught:
        selftaught.classify(clusters, out=tmp_path / "made")
    assert len(str(caught.value).splitlines()) == 1 and not (tmp_path / "made").exists()


def test_damage_and_contradictions_are_one_line(
    digits: Path, told: Answer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, out = tmp_path / "broken", str(tmp_path / "t.csv")
    shutil.copytree(digits / "classifier", broken)
    (broken / "classifier.safetensors").write_bytes(b"x" * 20)
    test = str(digits / "test.parquet")
    for arguments, complaint in (
        (["assign", str(broken), test, "--out", out], "does not match classifier.json"),
        (["assign", str(tmp_path), test, "--out", out], "is not a clusters folder"),
        (
            ["assign", str(digits / "classifier"), test, "--out", out, "--match", test],
            "drop --match",
        ),
        (["classify", str(digits / "classifier"), "--out", out], "is not a clusters folder"),
        (["classify", str(digits / "clusters"), "--out", out, "--answers", "no.csv"], "no.csv"),
        (["classify", str(digits / "clusters"), "--out", out, "--answers", test], "not UTF-8"),
        (["classify", str(digits / "clusters"), "--out", out, "--ask", "-1"], "ask is -1"),
    ):
        assert main(arguments) == USER
        printed = capsys.readouterr()
        assert len(printed.err.splitlines()) == 1 and complaint in printed.err
    assert not Path(out).exists()


# --- images and an encoder


def write_encoder(folder: Path, seed: int) -> Path:
    config = EncoderConfig("resnet8", image_size=16, options={"width": 4})
    save_encoder(build_encoder(config, seed=seed), folder)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy images of three colours, an encoder, and clusters with names for each."""
    place, noise = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for colour, rgb in COLOURS.items():
        (place / "images" / colour).mkdir(parents=True)
        for i in range(20):
            pixels = np.clip(np.array(rgb) + noise.normal(size=(16, 16, 3)) * 25, 0, 255)
            Image.fromarray(pixels.astype("u1")).save(place / f"images/{colour}/{i:02}.png")
    write_encoder(place / "encoder", 0)
    cache = {"cache": place / "cache", "device": "cpu"}
    encoder, images, out = place / "encoder", place / "images", place / "clusters"
    selftaught.cluster(encoder, images, out=out, k=3, label="folders", **cache)
    write_names(out, named_by_labels(out))
    return place


@pytest.mark.slow
def test_pictures_names_and_folders(photos: Path, tmp_path: Path) -> None:
    made, cache = tmp_path / "made", ["--cache", photos / "cache", "--device", "cpu"]
    done = run_selftaught(
        *("classify", photos / "clusters", "--out", made, "--ask", "6", "--json", *cache)
    )
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["classes"]) == set(COLOURS)
    page = (made / "ask.html").read_text()
    assert 0 < page.count("data:image/webp") == len(asked(made)) <= 6
    done = run_selftaught(
        *("assign", made, photos / "images", "--out", tmp_path / "t.parquet", *cache),
        *("--copy-to", tmp_path / "sorted", "--label", "folders"),
    )
    assert done.returncode == 0, done.stderr
    assert (
        "60 images in 3 names" in done.stdout and "label for 100.0% of the 60 that" in done.stdout
    )
    laid = sorted(p.relative_to(tmp_path / "sorted").parts for p in tmp_path.rglob("sorted/*/*/*"))
    assert len(laid) == 60 and all(name == folder for name, folder, _ in laid)


def test_another_encoder_is_refused(photos: Path, tmp_path: Path) -> None:
    cache = {"cache": photos / "cache", "device": "cpu"}
    made, other = tmp_path / "made", write_encoder(tmp_path / "other", 1)
    with pytest.raises(DataError, match="has encoder"):
        selftaught.classify(photos / "clusters", out=made, encoder=other, **cache)
    selftaught.classify(photos / "clusters", out=made, **cache)
    with pytest.raises(DataError, match="has encoder"):
        selftaught.assign(made, photos / "images", out=tmp_path / "t.csv", encoder=other, **cache)


def test_what_was_moved_is_named(photos: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    for name in ("images", "encoder"):
        shutil.copytree(photos / name, place / name)
    cache = {"cache": photos / "cache", "device": "cpu"}
    clusters, made = tmp_path / "clusters", tmp_path / "made"
    selftaught.cluster(place / "encoder", place / "images", out=clusters, k=3, **cache)
    write_names(clusters, {0: "a", 1: "b"})
    (place / "images").rename(place / "pictures")
    with pytest.raises(DataError, match="pass its new location with --data"):
        selftaught.classify(clusters, out=made, **cache)
    (place / "encoder").rename(place / "network")
    with pytest.raises(FileError, match="pass its new location as --encoder"):
        selftaught.classify(clusters, data=place / "pictures", out=made, **cache)
    found = {"data": place / "pictures", "encoder": place / "network"}
    selftaught.classify(clusters, out=made, **found, **cache)
    selftaught.assign(made, place / "pictures", out=tmp_path / "t.csv", **cache)


def test_images_that_were_deleted_since_are_left_out(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos / "images", tmp_path / "images")
    cache = {"cache": photos / "cache", "device": "cpu"}
    clusters, made = tmp_path / "clusters", tmp_path / "made"
    encoder = photos / "encoder"
    selftaught.cluster(encoder, tmp_path / "images", out=clusters, k=3, label="folders", **cache)
    write_names(clusters, named_by_labels(clusters))
    (tmp_path / "images/red/03.png").unlink()
    (tmp_path / "a.csv").write_text("path,label\nred/03.png,blue\nred/04.png,red\n")
    answers = [str(tmp_path / "a.csv")]
    value = selftaught.classify(clusters, out=made, answers=answers, **cache).value
    assert value["classes"]["red"]["images"] == 19 and value["images"] == 59
    assert (value["answers"], value["answers_missing"]) == (1, 1)


def test_clusters_of_a_table_ask_for_vectors_and_show_their_images(
    photos: Path, tmp_path: Path
) -> None:
    cache = {"cache": photos / "cache", "device": "cpu"}
    table, clusters = tmp_path / "vectors.parquet", tmp_path / "clusters"
    selftaught.embed(photos / "encoder", photos / "images", out=table, **cache)
    selftaught.cluster(table, photos / "images", out=clusters, k=3, **cache)
    write_names(clusters, {0: "a", 1: "b"})
    selftaught.classify(clusters, out=tmp_path / "made", **cache)
    assert "data:image/webp" in (tmp_path / "made/ask.html").read_text()
    table.rename(tmp_path / "moved.parquet")
    with pytest.raises(ConfigError, match="pass --encoder, or a table of vectors as DATA"):
        selftaught.classify(clusters, out=tmp_path / "lost", **cache)
    again = {"out": tmp_path / "again", "data": tmp_path / "moved.parquet"}
    selftaught.classify(clusters, **again, **cache)
    assert "data:image/webp" in (tmp_path / "again/ask.html").read_text()
    encoded = {"out": tmp_path / "encoded", "encoder": photos / "encoder"}
    selftaught.classify(clusters, **encoded, **cache)
    for name in ("again", "encoded"):
        same = [(tmp_path / made / "ask.csv").read_bytes() for made in ("made", name)]
        assert same[0] == same[1]


def test_pictures_that_are_gone_are_left_out(photos: Path, tmp_path: Path) -> None:
    cache = {"cache": photos / "cache", "device": "cpu"}
    table, clusters = tmp_path / "vectors.parquet", tmp_path / "clusters"
    shutil.copytree(photos / "images", tmp_path / "images")
    selftaught.embed(photos / "encoder", tmp_path / "images", out=table, **cache)
    selftaught.cluster(table, tmp_path / "images", out=clusters, k=3, **cache)
    write_names(clusters, {0: "a", 1: "b"})
    shutil.rmtree(tmp_path / "images")
    selftaught.classify(clusters, out=tmp_path / "made", **cache)
    assert "(no image)" in (tmp_path / "made/ask.html").read_text()
    alone = tmp_path / "alone"
    selftaught.cluster(table, out=alone, k=3, **cache)
    write_names(alone, {0: "a", 1: "b"})
    table.unlink()
    with pytest.raises(DataError, match=r"vectors\.parquet, .* does not exist: pass .* --data"):
        selftaught.classify(alone, out=tmp_path / "lost", **cache)


def test_a_parquet_list_of_images_is_data(photos: Path, tmp_path: Path) -> None:
    cache = {"cache": photos / "cache", "device": "cpu"}
    images = photos / "images"
    paths = sorted(str(path) for path in images.rglob("*.png"))
    shade = [Path(path).parent.name for path in paths]
    parquet.write_table(pa.table({"path": paths, "shade": shade}), tmp_path / "list.parquet")
    out, listed = tmp_path / "t.csv", tmp_path / "list.parquet"
    value = selftaught.assign(photos / "clusters", listed, out=out, label="shade", **cache).value
    assert value["images"] == 60 and value["agreement"] == 1
    selftaught.classify(photos / "clusters", out=tmp_path / "made", data=listed, **cache)
    selftaught.cluster(photos / "encoder", listed, out=tmp_path / "clusters", k=3, **cache)
    write_names(tmp_path / "clusters", {0: "a", 1: "b"})
    selftaught.classify(tmp_path / "clusters", out=tmp_path / "again", **cache)
    assert "data:image/webp" in (tmp_path / "again/ask.html").read_text()
    for damaged in ("no.parquet", "bad.parquet"):
        (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
        with pytest.raises(FileError, match=rf"{damaged} cannot be read as a table"):
            selftaught.assign(
                photos / "clusters", tmp_path / damaged, out=tmp_path / "x.csv", **cache
            )
