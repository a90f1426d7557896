"""Vectors as a table: columns, labels, what the metadata say, and that they are f(x)."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from selftaught.data.open_images import open_images
from selftaught.data.store import Images
from selftaught.encoders.encoder import Encoder, EncoderConfig, build_encoder, encoder_id
from selftaught.foundation.files import read_table, write_table
from selftaught.foundation.machine import Machine
from selftaught.vectors.parquet import vector_table

VECTORS = np.arange(6, dtype=np.float32).reshape(3, 2) / 7
LIST_OF_2 = pa.list_(pa.float32(), 2)


@pytest.fixture
def encoder() -> Encoder:
    config = EncoderConfig("resnet8", in_channels=1, image_size=16, options={"width": 4})
    return build_encoder(config).eval()


def three_images(columns: dict[str, Any] | None = None) -> Any:
    """Rows 0, 1, 2 are the positions 0, 2, 3 of a source of four: position 1 was rejected."""
    table = pa.table({"row": [0, 1, 2], "path": ["a.png", "c.png", "ä/d.png"]})

    class Checked(SimpleNamespace):
        def __len__(self) -> int:
            return 3

    source = SimpleNamespace(columns=columns or {})
    checked = Checked(images=table, source=source, index_N=np.array([0, 2, 3]))
    return SimpleNamespace(checked=checked, content="the pixels")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `features` was asked for."""
    asked: dict[str, Any] = {}

    def features(encoder: Encoder, images: Images, machine: Machine) -> np.ndarray:
        asked["machine"] = machine
        return VECTORS

    monkeypatch.setitem(vector_table.__globals__, "features", features)
    return asked


def test_columns_types_and_metadata(encoder: Encoder, asked: dict[str, Any]) -> None:
    table = vector_table(
        encoder, three_images(), machine=Machine(device="cpu", threads=1, cache=Path("cache"))
    )
    assert table.schema.names == ["row", "path", "vector"]
    assert table.schema.types == [pa.int64(), pa.string(), LIST_OF_2]
    assert table["path"].to_pylist() == ["a.png", "c.png", "ä/d.png"]
    assert np.array_equal(np.array(table["vector"].to_pylist(), np.float32), VECTORS)
    assert table.schema.metadata == {
        b"encoder_id": encoder_id(encoder).encode(),
        b"content": b"the pixels",
    }
    assert asked == {"machine": Machine("cpu", 1, Path("cache"))}


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({0: "ant", 2: "bee"}, ["ant", None, "bee"]),
        ({0: 0, 1: 7, 2: 1}, [0, 7, 1]),
        ({0: 0.5, 1: float("nan"), 2: 1.5}, [0.5, None, 1.5]),
    ],
)
def test_labels_by_row(encoder: Encoder, labels: dict[int, Any], expected: list[Any]) -> None:
    table = vector_table(encoder, three_images(), labels=labels)
    assert table.schema.names == ["row", "path", "label", "vector"]
    assert table["label"].to_pylist() == expected


@pytest.mark.usefixtures("asked")
def test_labels_that_came_along_belong_to_positions_of_the_source(encoder: Encoder) -> None:
    images = three_images({"label": np.array(["ant", "rejected", "bee", "cow"])})
    assert vector_table(encoder, images)["label"].to_pylist() == ["ant", "bee", "cow"]
    assert "label" not in vector_table(encoder, images, labels={}).schema.names


@pytest.mark.usefixtures("asked")
def test_a_parquet_file_keeps_types_and_metadata(encoder: Encoder, tmp_path: Path) -> None:
    table = vector_table(encoder, three_images(), labels={1: "bee"})
    write_table(tmp_path / "vectors.parquet", table)
    back = read_table(tmp_path / "vectors.parquet")
    assert back.equals(table) and back.schema.metadata == table.schema.metadata


def test_vectors_are_those_of_the_encoder(encoder: Encoder, tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    pictures = [numbers.integers(0, 256, (20, 24 + i), np.uint8) for i in range(5)]
    for i, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    (tmp_path / "photos" / "2.png").write_bytes(b"no image")
    images = open_images(str(tmp_path / "photos"), machine=Machine(cache=tmp_path / "cache"))
    table = vector_table(encoder, images, machine=Machine(cache=tmp_path / "cache"))
    assert table["row"].to_pylist() == [0, 1, 2, 3]
    assert table["path"].to_pylist() == ["0.png", "1.png", "3.png", "4.png"]
    usable = [pixels for i, pixels in enumerate(pictures) if i != 2]
    with torch.inference_mode():
        expected = encoder(encoder.preprocess(usable))
    found = torch.tensor(table["vector"].to_pylist())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert table.schema.metadata[b"content"].decode() == images.content
