"""search --verify: the image that shows the same scene comes first, whatever the encoder thinks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

import selftaught
from selftaught.cli import DONE, USER, main
from selftaught.encoders.encoder import EncoderConfig, build_encoder
from selftaught.encoders.folder import save_encoder
from tests.support.warps import warped

pytestmark = pytest.mark.slow

PARTS = 12  # of two photographs, none of which overlap
SEEN = 5  # of which the query is a view


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parts of photographs, an index of them by an untrained encoder, and queries."""
    root = tmp_path_factory.mktemp("verify")
    save_encoder(
        build_encoder(EncoderConfig("resnet8", image_size=64, options={"width": 4}), seed=0),
        root / "enc",
    )
    (root / "photos").mkdir()
    for n in range(PARTS):
        Image.fromarray(part(n)).save(root / "photos" / f"{n:02}.png")
    turned = warped(part(SEEN), np.random.default_rng(1)).image_HWC
    Image.fromarray(turned).save(root / "turned.png")
    Image.fromarray(part(SEEN)[16:, 16:]).save(root / "cut.png")
    Image.fromarray(part(SEEN)[::2, ::2]).save(root / "half.png")
    Image.new("RGB", (200, 200)).save(root / "black.png")
    selftaught.index(root / "enc", root / "photos", out=root / "index", **options(root))
    return root


def part(n: int) -> Any:
    photograph = load_sample_image(("china.jpg", "flower.jpg")[n // 6])
    top, left = 213 * (n % 6 // 3), 213 * (n % 3)
    return np.ascontiguousarray(photograph[top : top + 208, left : left + 208])


def options(root: Path) -> dict[str, Any]:
    return {"cache": root / "cache", "device": "cpu", "threads": 1}


def near(root: Path, query: str | Path, **how: Any) -> list[dict[str, Any]]:
    answer = selftaught.search(root / "index", str(query), device="cpu", **how)
    found = answer.value["queries"][0]["neighbours"]
    assert isinstance(found, list)
    return found


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str | Path], *words: str) -> None:
    assert main([*map(str, arguments), "--device", "cpu"]) == USER
    printed = capsys.readouterr()
    assert printed.out == "" and len(printed.err.splitlines()) == 1, printed
    assert all(word in printed.err for word in words), printed.err


def test_a_turned_view_finds_its_image_by_sift(work: Path) -> None:
    before = near(work, work / "turned.png", top=PARTS)
    assert before[0]["path"] != f"{SEEN:02}.png"  # else nothing is shown
    found = near(work, work / "turned.png", top=3, verify="sift")
    assert found[0]["path"] == f"{SEEN:02}.png" and len(found) == 3
    assert found[0]["verified"] and found[0]["inliers"] > 20
    rest = [image["path"] for image in found[1:] if not image["verified"]]
    assert rest == [image["path"] for image in before if image["path"] in rest]


def test_only_the_first_are_compared(work: Path) -> None:
    before = [image["row"] for image in near(work, work / "turned.png", top=PARTS)]
    place = before.index(SEEN)
    found = near(work, work / "turned.png", top=1, verify="sift", first=place)
    assert found[0]["row"] != SEEN
    found = near(work, work / "turned.png", top=1, verify="sift", first=place + 1)
    assert found[0]["row"] == SEEN


def test_a_smaller_one_finds_its_image_by_maps(work: Path) -> None:
    found = near(work, work / "half.png", top=3, verify="maps")
    assert found[0]["row"] == SEEN and found[0]["verified"]


def test_a_row_is_compared_with_the_others(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["search", str(work / "index"), f"row:{SEEN}", "--verify", "sift", "--device", "cpu"]
    assert main(command) == DONE
    text = capsys.readouterr().out
    assert text.count("row:") == 1 + 10 and f"  row:{SEEN}  " not in text
    assert text.count("not verified") + text.count(" inliers") == 10
    assert main([*command, "--json"]) == DONE
    (query,) = json.loads(capsys.readouterr().out)["queries"]
    assert {"inliers", "verified"} <= query["neighbours"][0].keys()


def test_a_black_image_verifies_nothing(work: Path) -> None:
    found = near(work, work / "black.png", verify="sift")
    assert [image["inliers"] for image in found] == [None] * 10
    before = near(work, work / "black.png")
    assert [image["row"] for image in found] == [image["row"] for image in before]


def test_what_cannot_be_compared_is_one_line(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sift = ["--verify", "sift"]
    refused(
        capsys,
        ["search", work / "index", "--duplicates", "0.9", *sift],
        "--verify",
        "drop --verify",
    )
    refused(capsys, ["search", work / "index", "row:1", *sift, "--first", "0"], "first is 0")
    table = tmp_path / "vectors.parquet"
    selftaught.embed(work / "enc", work / "photos", out=table, **options(tmp_path))
    selftaught.index(table, out=tmp_path / "index", cache=tmp_path / "cache")
    refused(
        capsys, ["search", tmp_path / "index", "row:1", *sift], "row:1", "01.png", "drop --verify"
    )


def test_images_that_are_gone_stay_behind_or_are_told(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    for n in range(3):
        Image.fromarray(part(n)).save(tmp_path / "photos" / f"{n}.png")
    selftaught.index(work / "enc", tmp_path / "photos", out=tmp_path / "index", **options(tmp_path))
    (tmp_path / "photos/1.png").unlink()
    found = near(tmp_path, work / "cut.png", verify="sift")
    assert {image["row"]: image["inliers"] for image in found}[1] is None
    for n in (0, 2):
        (tmp_path / f"photos/{n}.png").unlink()
    refused(
        capsys,
        ["search", tmp_path / "index", work / "cut.png", "--verify", "sift"],
        "none of the 3 results can be read",
        "drop --verify",
    )
