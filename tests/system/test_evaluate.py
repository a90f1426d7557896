"""evaluate as a user runs it: other encoders, few labels, numbers, the verdict, folders, pages."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image

import selftaught
from selftaught.cli import DONE, USER, main
from selftaught.encoders.encoder import EncoderConfig, build_encoder
from selftaught.encoders.folder import save_encoder
from selftaught.errors import ConfigError, DataError, FileError, UserError
from selftaught.evaluation.record import record_rows, recorded_rows
from selftaught.evaluation.table import Row
from tests.support.html_page import Page
from tests.support.made_clips import write_clip
from tests.unit.evaluation.test_tracking import dahlia

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two encoders, digits in class folders and with their ink as numbers, places, and a clip."""
    root = tmp_path_factory.mktemp("evaluate")
    for seed, name in enumerate(("enc", "other")):
        config = EncoderConfig("resnet8", image_size=16, options={"width": 4})
        save_encoder(build_encoder(config, seed=seed), root / name)
    _write_digits(root)
    _write_places(root / "places")
    flower, temple = load_sample_image("flower.jpg"), load_sample_image("china.jpg")
    for name, photograph in (("china", temple), ("flower", flower)):
        (root / "words" / name).mkdir(parents=True)
        Image.fromarray(photograph).save(root / "words" / name / "0.png")
    size = (120, 160)
    write_clip(root / "clips", "dahlia", [dahlia(flower)], temple[::2, ::2], size=size, frames=4)
    return root


def _write_digits(root: Path) -> None:
    digits = load_digits()
    rows = [["path", "ink", "digit"]]
    for i in np.flatnonzero(digits.target < 3)[:240]:
        name = f"digits/{digits.target[i]}/{i:04}.png"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        gray = (digits.images[i] * 15).astype(np.uint8)
        Image.fromarray(np.stack([gray] * 3, 2)).resize((16, 16)).save(root / name)
        rows.append([name, str(digits.images[i].mean()), str(digits.target[i])])
    with (root / "ink.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def _write_places(folder: Path) -> None:
    """Twelve places of a photograph, each seen once more from a few pixels beside."""
    photograph = load_sample_image("china.jpg")
    lines = [["query", "reference"]]
    for kind in ("queries", "database"):
        (folder / kind).mkdir(parents=True)
    for n in range(12):
        top, left = 90 * (n // 4), 130 * (n % 4)
        for kind, step in (("queries", 0), ("database", 6)):
            crop = photograph[top + step : top + step + 120, left + step : left + step + 160]
            Image.fromarray(crop).save(folder / kind / f"{n:02}.png")
        lines.append([f"{n:02}.png", f"{n:02}.png"])
    with (folder / "ground_truth.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)


def rows_of(work: Path, data: str, protocol: str, **how: object) -> list[dict[str, object]]:
    rows = selftaught.evaluate(work / "enc", work / data, protocol=(protocol,), **how).value
    assert isinstance(rows, list)
    return rows


def named(rows: Sequence[dict[str, object]]) -> list[object]:
    return list(dict.fromkeys(row["representation"] for row in rows))


def test_other_encoders_stand_beside_it_and_the_same_one_is_level(work: Path) -> None:
    same, other = str(work / "enc"), str(work / "other")
    rows = rows_of(work, "digits", "knn", against=(other, same))
    assert named(rows) == ["this encoder", other, same, "random init", "raw pixels"]
    for row in rows:
        if row["representation"] == same:
            assert (row["delta_low"], row["delta_high"]) == (0, 0)


def test_few_labels_are_asked_for_by_number_and_by_share(work: Path) -> None:
    rows = rows_of(work, "digits", "linear", few=("2", "10%"))
    asked = {str(row["protocol"]): row["train"] for row in rows}
    assert asked.keys() == {"linear, 2 labels per class", "linear, 10 % of the labels"}
    assert asked["linear, 2 labels per class"] == 6
    assert abs(int(str(asked["linear, 10 % of the labels"])) - 0.1 * 0.8 * 240) <= 3


def test_fewshot_leaves_out_what_would_be_the_whole_set(work: Path) -> None:
    rows = rows_of(work, "digits", "fewshot")
    assert [row["train"] for row in rows if row["representation"] == "this encoder"][::3] == [
        *(3, 15, 30)
    ]


def test_the_seed_draws_other_images(work: Path) -> None:
    values = [rows_of(work, "digits", "knn", few=("1",), seed=s)[0]["value"] for s in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


def test_numbers_are_predicted_where_labels_are_fractions(work: Path) -> None:
    rows = selftaught.evaluate(work / "enc", work / "ink.csv", label="ink").value
    best = {row["representation"]: row["value"] for row in rows if row["metric"] == "R2"}
    assert best["raw pixels"] > 0.99 and 0 < best["this encoder"] <= 1
    classes = rows_of(work, "ink.csv", "regression", label="digit")
    assert {row["metric"] for row in classes} == {"R2", "mean absolute error"}


def test_what_is_asked_twice_is_answered_once(work: Path) -> None:
    rows = rows_of(work, "digits", "linear", few=("2", "2", "02"))
    assert {row["protocol"] for row in rows} == {"linear, 2 labels per class"}
    assert len(rows) == 3 * 5  # this encoder, three random ones, raw pixels
    twice = selftaught.evaluate(work / "enc", work / "digits", protocol=("knn", "knn")).value
    assert len(twice) == 3 * 5


def test_of_two_verdicts_a_run_keeps_the_later(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    worth = [f"worth, {n}" for n in ("1 label per class", "all labels")]
    row = asdict(Row("it", "knn", "test", "accuracy", 0, 0.5, None, None, 1.0))
    asked = [[*worth, "cost"], ["knn"], ["worth, 2 labels per class"]]
    for protocols in asked:
        record_rows(tmp_path, "/images", [row | {"protocol": name} for name in protocols])
    record_rows(tmp_path, "/others", [row | {"protocol": worth[0]}])
    kept = [(kept["data"], kept["protocol"]) for kept in recorded_rows(tmp_path)]
    assert kept == [
        *(("/images", name) for name in ("knn", "worth, 2 labels per class")),
        ("/others", worth[0]),
    ]


def test_rows_of_older_files_get_the_names_of_today(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    row = asdict(Row("it", "knn", "test", "accuracy", 0, 0.5, None, None, 1.0)) | {
        "data": "/images"
    }
    names = [("linear, 1 label a class", "accuracy"), ("cost", "ms an image")]
    old = [row | {"protocol": protocol, "metric": metric} for protocol, metric in names]
    (tmp_path / "evaluation.json").write_text(json.dumps(old))
    found = [(one["protocol"], one["metric"]) for one in recorded_rows(tmp_path)]
    assert found == [("linear, 1 label per class", "accuracy"), ("cost", "ms per image")]
    record_rows(tmp_path, "/images", [row | {"protocol": found[0][0], "value": 0.75}])
    assert [one["value"] for one in recorded_rows(tmp_path)] == [0.5, 0.75]


def test_a_damaged_table_of_evaluations_is_named(tmp_path: Path) -> None:
    row = asdict(Row("it", "knn", "test", "accuracy", 0, 0.5, None, None, 1.0)) | {"data": "x"}
    for wrong in (None, "much", [1]):
        (tmp_path / "evaluation.json").write_text(json.dumps([row | {"value": wrong}]))
        with pytest.raises(FileError, match=r"evaluation.json is not a table of evaluations"):
            recorded_rows(tmp_path)


def test_the_verdict_leads_text_and_page(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "worth.html"
    other = str(work / "other")
    how = {"protocol": ("worth",), "against": (other,), "epochs": 1, "out": out}
    told = selftaught.evaluate(work / "enc", work / "digits", **how)
    asked = list(dict.fromkeys(row["protocol"] for row in told.value))
    budgets = ("1 label per class", "10 labels per class", "all labels")
    assert asked == [*(f"worth, {n}" for n in budgets), "cost"]
    assert named(told.value)[-1] == "from scratch"
    sentences = str(told).split("\n\n")[0].splitlines()
    assert len(sentences) == 4 and other in sentences[1] and "from scratch" in sentences[2]
    assert sentences[3].startswith("One vector takes your encoder ") and other in sentences[3]
    page = Page(out.read_text())
    assert all(sentence in "".join(page.words) for sentence in sentences)
    assert "Accuracy over labelled images, worth" in out.read_text()
    with pytest.raises(UserError, match="exists"):
        selftaught.evaluate(work / "enc", work / "digits", **how)


def test_places_are_found_again(work: Path) -> None:
    rows = rows_of(work, "places", "retrieval", set=("longest=160", "pool=gem"))
    values = {(row["representation"], row["metric"]): row["value"] for row in rows}
    assert {metric for _, metric in values} == {"mAP", "recall@1", "recall@5"}
    assert values["this encoder", "recall@5"] > 0.6 and rows[0]["split"] == "12 queries"
    assert "gem, 160 px" in str(rows[0]["note"])


def test_verified_places_are_all_found(work: Path) -> None:
    rows = rows_of(work, "places", "retrieval", set=("longest=160",), verify="sift")
    values = {(row["representation"], row["metric"]): row["value"] for row in rows}
    assert named(rows)[-1] == "bag of visual words"
    for name in named(rows):  # of twelve places some are nearly all sky
        assert values[name, "recall@1"] >= 10 / 12, name
    cells = rows_of(work, "places", "retrieval", set=("longest=160",), verify="maps")
    assert cells[0]["protocol"] == "retrieval, verified by maps, longest=160"


def test_whitening_is_learned_from_other_images(work: Path) -> None:
    plain, whitened = (
        rows_of(work, "places", "retrieval", set=("longest=160",), **how)
        for how in ({}, {"whiten": work / "digits"})
    )
    assert "whitened to" in str(whitened[0]["note"]) and "whitened" not in str(plain[0]["note"])
    assert plain[0]["value"] != whitened[0]["value"]


def test_masks_are_followed_beside_what_stays(work: Path) -> None:
    rows = rows_of(work, "clips", "tracking", set=("side=120",))
    assert named(rows) == ["this encoder", "random init", "colours", "no motion"]
    assert {row["split"] for row in rows} == {"1 object in clips"}
    assert {row["low"] for row in rows} == {None}  # of one object
    values = {(row["representation"], row["metric"]): row["value"] for row in rows}
    assert values["colours", "J"] > values["no motion", "J"] + 0.2


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ({"protocol": ("retrieval", "knn")}, "retrieval needs a folder of its own layout"),
        ({"protocol": ("tracking",), "few": ("3",)}, "tracking does not use labels"),
        ({"verify": "sift"}, "--verify is an option of retrieval"),
        ({"set": ("side=3",)}, "--set is an option of retrieval and tracking"),
        ({"protocol": ("regression", "knn")}, "some need numbers as labels, others classes"),
        ({"protocol": ("retrieval",), "set": ("longst=3",)}, "no setting 'longst'.*longest"),
        (
            {"protocol": ("retrieval",), "set": ("longest=big",)},
            "--set longest: 'big' is not a whole number",
        ),
        ({"protocol": ("retrieval",), "whiten": "places"}, "contains images to search"),
        ({"protocol": ("retrieval",), "against": ("colours",)}, "every table has a row"),
        ({"few": ("ten",)}, "few = ten is not a number of labels"),
        ({"protocol": ("clusters",), "few": ("2",)}, "clusters does not use --few"),
        ({"protocol": ("knn",), "epochs": 3}, "knn does not use --epochs"),
        ({"against": ("raw pixels",)}, "every table has a row 'raw pixels'"),
        ({"against": ("enc", "enc")}, "names enc twice"),
    ],
)
def test_what_does_not_go_together_is_one_line(
    work: Path, how: dict[str, object], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    data = "places" if "retrieval" in how.get("protocol", ()) else "digits"
    with pytest.raises(ConfigError, match=what) as raised:
        selftaught.evaluate("enc", data, **how)
    assert "\n" not in str(raised.value)


def test_folders_may_be_numbers_and_words_are_named(work: Path) -> None:
    rows = rows_of(work, "digits", "regression")
    assert {row["metric"] for row in rows} == {"R2", "mean absolute error"}
    with pytest.raises(
        DataError, match=r"the label of china/0.png is not a number \(china\): correct it"
    ):
        selftaught.evaluate(work / "enc", work / "words", protocol=("regression",))


def test_a_command_line_prints_rows_and_ends_with_2_for_users_mistakes(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    enc, digits = str(work / "enc"), str(work / "digits")
    assert main(["evaluate", enc, digits, "--protocol", "knn", "--few", "1%", "--json"]) == DONE
    rows = json.loads(capsys.readouterr().out)
    assert {row["protocol"] for row in rows} == {"knn, 1 % of the labels"}
    assert main(["evaluate", enc, digits, "--protocol", "retrieval"]) == USER
    assert capsys.readouterr().err.count("\n") == 1
