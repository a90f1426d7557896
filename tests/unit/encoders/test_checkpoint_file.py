"""`selftaught import`: the released layout, other layouts of it, and files that are refused.

Two files in tests/golden hold the names and shapes of the released checkpoints. Most tests here
shrink their fully connected layers, and the encoder's with them.
"""

import functools
import io
import os
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import selftaught
from selftaught.cli import DONE, main
from selftaught.encoders.encoder import EncoderConfig, build_encoder
from selftaught.encoders.imported import checkpoint_file, deepcluster_layout
from selftaught.encoders.imported.checkpoint_file import read_checkpoint
from selftaught.errors import FileError
from selftaught.foundation import files
from selftaught.views.policy import Intensity
from tests.oracles import deepcluster_networks as oracle
from tests.support.mistakes import refused

GOLDEN = Path(__file__).parents[2] / "golden"
FILTERS = {
    "sobel.0.weight": [[[[1 / 3]], [[1 / 3]], [[1 / 3]]]],
    "sobel.0.bias": [0.0],
    "sobel.1.weight": [
        [[[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]],
        [[[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]]],
    ],
    "sobel.1.bias": [0.0, 0.0],
}
LOADS: dict[str, Callable[[Tensor, dict[str, Tensor]], Tensor]] = {
    "alexnet": oracle.alexnet,
    "vgg16": oracle.vgg16,
}


def released(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes."""
    lines = (GOLDEN / f"deepcluster_{name}.txt").read_text().splitlines()
    words = [line.split() for line in lines if not line.startswith("#")]
    return {name: tuple(map(int, sizes)) for name, *sizes in words}


def checkpoint(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Random weights of these shapes, of a size at which neither units nor images are all alike."""
    generator, found = torch.Generator().manual_seed(0), {}
    for name, shape in shapes.items():
        if name in FILTERS:
            found[name] = torch.tensor(FILTERS[name])
        elif len(shape) == 1:
            found[name] = torch.rand(shape, generator=generator) + 0.5
        else:
            tensor = torch.empty(shape).normal_(generator=generator)
            found[name] = tensor * (2 / tensor[0].numel()) ** 0.5
    return found


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """AlexNet's checkpoint as released, but for images of 65 px and with four units in fc6, fc7."""
    config = functools.partial(EncoderConfig, image_size=65, options={"fc": 4})
    monkeypatch.setattr(deepcluster_layout, "EncoderConfig", config)
    changed = {"classifier.1.weight": (4, 256), "classifier.4.weight": (4, 4)}
    changed |= {"classifier.1.bias": (4,), "classifier.4.bias": (4,), "top_layer.weight": (7, 4)}
    return checkpoint(released("alexnet") | changed)


def stripped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.replace("module.", ""): t for n, t in tensors.items()}


# The released layout


@pytest.mark.slow
@pytest.mark.parametrize("name", LOADS)
def test_the_released_checkpoints_are_what_the_encoder_has(name: str) -> None:
    trunk = build_encoder(EncoderConfig(name, front="sobel")).trunk.state_dict()
    own = {n: tuple(t.shape) for n, t in trunk.items() if "num_batches" not in n}
    theirs = {n.replace("module.", ""): shape for n, shape in released(name).items()}
    extra = {"sobel.0.weight", "sobel.0.bias", "sobel.1.weight", "sobel.1.bias"}
    extra |= {"top_layer.weight", "top_layer.bias"}
    assert {n: s for n, s in theirs.items() if n not in extra} == own
    assert theirs.keys() - own.keys() == extra


@pytest.mark.slow
@pytest.mark.parametrize("name", LOADS)
def test_the_network_is_what_plain_calls_make_of_the_file(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = checkpoint(released(name) | {"top_layer.weight": (3, 4096), "top_layer.bias": (3,)})
    monkeypatch.setattr(
        checkpoint_file, "_read", lambda path: {"state_dict": weights, "epoch": 500}
    )
    encoder = read_checkpoint(Path("x.pth")).encoder.eval()
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        fc7 = LOADS[name](oracle.sobel(x), stripped(weights))
        size = fc7.abs().max().item()
        torch.testing.assert_close(encoder.before_final(x), fc7, rtol=0, atol=1e-4 * size)
        torch.testing.assert_close(encoder(x), fc7.relu(), rtol=0, atol=1e-4 * size)
    assert (fc7[0] - fc7[1]).abs().max() > 0.01 * size


def test_what_the_encoder_becomes_and_what_is_said(
    small: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save({"epoch": 3, "arch": "alexnet", "state_dict": small}, tmp_path / "x.pth.tar")
    found = read_checkpoint(tmp_path / "x.pth.tar")
    config = found.encoder.config
    assert (config.architecture, config.front, config.stem) == ("alexnet", "sobel", "standard")
    assert config.intensity == Intensity(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    assert EncoderConfig("alexnet").image_size == 224  # what `small` replaces
    assert found.notes == (
        "Its Sobel filters are those of the paper and precede the network.",
        "Left out: top_layer, the classifier of 7 pseudo-classes.",
    )
    x = torch.randn(2, 3, 65, 65)
    with torch.no_grad():
        expected = oracle.alexnet(oracle.sobel(x), stripped(small))
        torch.testing.assert_close(found.encoder.eval().before_final(x), expected)


# Other forms of it


def old(value: Any) -> bytes:
    """The file that torch wrote before version 1.6, with the strings of Python 2."""
    buffer = io.BytesIO()
    torch.save(value, buffer, pickle_protocol=2, _use_new_zipfile_serialization=False)
    data, rest = b"", buffer.getvalue()
    for _ in range(5):  # magic number, protocol, system, the value, keys of its tensors
        operations = list(pickletools.genops(rest))
        ends = [position for _, _, position in operations[1:]] + [operations[-1][2] + 1]
        for (operation, argument, start), end in zip(operations, ends, strict=True):
            short = operation.name == "BINUNICODE" and len(argument) < 256
            text = argument.encode() if short else b""
            data += b"U" + bytes([len(text)]) + text if short else rest[start:end]
        rest = rest[ends[-1] :]
    assert b"U\x0estate_dict" not in buffer.getvalue() and b"U\nstate_dict" in data
    return data + rest


def write(form: str, tensors: dict[str, Tensor], path: Path) -> Path:
    if form == "safetensors":
        path = path.with_suffix(".safetensors")
        files.save_tensors(path, tensors)
    elif form == "old":
        path.write_bytes(old({"epoch": 3, "state_dict": OrderedDict(tensors)}))
    elif form == "plain":
        torch.save(tensors, path)
    else:
        torch.save({"state_dict": tensors, "optimizer": {"lr": 0.05, "state": {}}}, path)
    return path


@pytest.mark.parametrize("form", ["safetensors", "old", "plain", "nested"])
def test_any_form_of_file_gives_the_same_encoder(
    form: str, small: dict[str, Tensor], tmp_path: Path
) -> None:
    encoder = read_checkpoint(write(form, small, tmp_path / "x.pth")).encoder
    theirs = stripped(small)
    for name, tensor in encoder.trunk.state_dict().items():
        counts = name.endswith("num_batches_tracked")
        assert torch.equal(tensor, torch.tensor(0) if counts else theirs[name])


def everywhere(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{n}": t for n, t in stripped(tensors).items()}


def counted(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors | {f"features.module.{n}.num_batches_tracked": torch.tensor(9) for n in (1, 5)}


def as_parameters(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: nn.Parameter(t) for n, t in tensors.items()}


def in_colour(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    plain = {n: t for n, t in tensors.items() if "sobel" not in n and "top" not in n}
    return plain | {"features.module.0.weight": torch.ones(96, 3, 11, 11)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "front", "notes"),
    [
        (stripped, "sobel", 2),
        (everywhere, "sobel", 2),
        (counted, "sobel", 2),
        (as_parameters, "sobel", 2),
        (in_colour, "none", 0),
    ],
)
def test_names_and_parts_may_differ(
    change: Callable[..., Any], front: str, notes: int, small: dict[str, Tensor], tmp_path: Path
) -> None:
    found = read_checkpoint(write("nested", change(small), tmp_path / "x.pth"))
    assert found.encoder.config.front == front and len(found.notes) == notes
    counts = found.encoder.trunk.features[5].num_batches_tracked
    assert counts == (9 if change is counted else 0)


# Tensors that are refused


def without(*names: str) -> Callable[[dict[str, Tensor]], Any]:
    return lambda tensors: {n: t for n, t in tensors.items() if n not in names}


def with_(**more: Any) -> Callable[[dict[str, Tensor]], Any]:
    return lambda tensors: tensors | {n.replace("__", "."): t for n, t in more.items()}


BAD: list[tuple[Callable[[dict[str, Tensor]], Any], str]] = [
    (
        without("features.module.4.bias"),
        "lacks features.4.bias: pass a complete checkpoint of alexnet",
    ),
    (
        lambda t: {n: v for n, v in t.items() if "classifier" not in n},
        r"lacks classifier.1.bias, classifier.1.weight, classifier.4.bias and 1 more",
    ),
    (with_(extra__weight=torch.zeros(2)), "holds extra.weight, which alexnet does not have"),
    (with_(classifier__4__bias=torch.zeros(5)), r"classifier.4.bias has shape \(5,\), not \(4,\)"),
    (with_(classifier__4__bias=torch.full((4,), torch.nan)), "classifier.4.bias has values"),
    (with_(classifier__4__bias=torch.zeros(4).long()), "classifier.4.bias has type torch.int64"),
    (with_(sobel__1__weight=-torch.ones(2, 1, 3, 3)), "sobel.1.weight is not the paper's"),
    (with_(sobel__1__bias=torch.ones(2)), "sobel.1.bias is not the paper's"),
    (without("sobel.0.bias"), "sobel.0.bias is not the paper's"),
    (without(*FILTERS), "takes 2 channels, but the file has no Sobel filters"),
    (
        with_(features__module__0__weight=torch.zeros(96, 3, 11, 11)),
        "takes 3 channels, despite its Sobel filters",
    ),
    (with_(features__4__bias=torch.zeros(256)), "tensors both with and without module"),
    (without("features.module.0.weight"), "the network in .* is not recognised"),
    (with_(features__module__0__weight=torch.zeros(96)), "the network in .* is not recognised"),
    (with_(features__module__0__weight=torch.zeros(64, 2, 11, 11)), "is not recognised"),
    (with_(x=3), "no state_dict of tensors"),
    (with_(x=torch.zeros(2, dtype=torch.complex64)), "no state_dict of tensors"),
    (with_(x=torch.zeros(2, device="meta")), "no state_dict of tensors"),
    (lambda t: {5: torch.zeros(1)}, "no state_dict of tensors"),
    (lambda t: [1, 2], "no state_dict of tensors"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("change", "says"), BAD)
def test_tensors_of_another_network_are_named(
    change: Callable[..., Any], says: str, small: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save({"state_dict": change(small)}, tmp_path / "x.pth")
    with pytest.raises(FileError, match=says) as caught:
        read_checkpoint(tmp_path / "x.pth")
    assert "x.pth" in caught.value.what and len(str(caught.value)) < 300


@pytest.mark.slow
@pytest.mark.parametrize("top", [torch.tensor(3.0), torch.zeros(0, 4), torch.zeros(1).expand(9, 4)])
def test_any_top_layer_is_left_out(top: Tensor, small: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(small | {"top_layer.weight": top}, tmp_path / "x.pth")
    assert "top_layer.weight" not in read_checkpoint(tmp_path / "x.pth").encoder.trunk.state_dict()


# Files that are refused


class Touch:
    """Makes the marker when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def saved(value: Any, *, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


HOSTILE = {
    "a pickle": lambda touch: pickle.dumps({"state_dict": touch}),
    "an archive": lambda touch: saved({"state_dict": touch}),
    "an old file": lambda touch: saved({"state_dict": {}, "x": touch}, zipped=False),
    "a module": lambda touch: saved(nn.Linear(2, 2)),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_code_in_a_file_is_not_run(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker, path = tmp_path / "executed", tmp_path / "x.pth"
    path.write_bytes(HOSTILE[kind](Touch(marker)))
    line = refused(["import", path, "--out", tmp_path / "out"], tmp_path, capsys)
    assert not marker.exists()
    if kind == "a pickle":
        pickle.loads(path.read_bytes())
        assert marker.exists()  # it would have worked
    else:
        assert "it holds more than tensors and numbers" in line


def bomb() -> bytes:
    """A good checkpoint, but for an archive that unpacks to a thousand times its size."""
    buffer, whole = io.BytesIO(), io.BytesIO(saved({"x": torch.zeros(10**6)}))
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed, zipfile.ZipFile(whole) as z:
        for entry in z.infolist():
            packed.writestr(entry.filename, z.read(entry))
    return buffer.getvalue()


WHOLE = saved({"state_dict": {"features.0.weight": torch.zeros(96, 2, 11, 11)}})
DAMAGED = {
    "empty": b"",
    "text": b"this is no checkpoint\n" * 9,
    "half": WHOLE[: len(WHOLE) // 2],
    "without its last byte": WHOLE[:-1],
    "half an old file": saved({"x": torch.zeros(99)}, zipped=False)[:400],
    "a bomb": bomb(),
    "an archive of something else": b"PK\x05\x06" + bytes(18),
    "an array": b"\x93NUMPY\x01\x00v\x00{'descr': '<f8'}",
    "zeros": bytes(4000),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_one_line_and_leaves_no_folder(
    kind: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(DAMAGED[kind])
    line = refused(["import", path, "--out", tmp_path / "out"], tmp_path, capsys)
    assert str(path) in line
    if kind == "a bomb" and suffix == ".pth":
        assert "claims more bytes than it has" in line


def test_a_header_that_claims_too_much_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(FileError, match="not a safetensors file"):
        read_checkpoint(tmp_path / "x.safetensors")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["nothing", "a folder", "a pipe"])
def test_what_is_no_file_is_refused(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.pth"
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    with pytest.raises(FileError, match=r"x\.pth is not a file: pass a \.pth"):
        read_checkpoint(path)


# The command


def test_the_command_writes_an_encoder_folder(
    small: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write("nested", small, tmp_path / "x.pth"), tmp_path / "new" / "out"
    assert main(["import", str(path), "--out", str(out)]) == DONE
    printed = capsys.readouterr().out
    for said in ("alexnet for 65 px, front sobel", "7 pseudo-classes", "CC BY-NC 4.0"):
        assert said in printed
    encoder = selftaught.load(out)
    x = torch.randn(2, 3, 65, 65)
    with torch.no_grad():
        expected = oracle.alexnet(oracle.sobel(x), stripped(small)).relu()
        # Sums of thousands of products in two orders: near 10 the sixth digit differs.
        torch.testing.assert_close(encoder(x), expected, rtol=1e-5, atol=1e-4)
    card = (out / "README.md").read_text()
    assert "Imported from x.pth" in card and "Left out: top_layer" in card


@pytest.mark.slow
def test_what_is_there_is_replaced_only_when_asked(
    small: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write("plain", small, tmp_path / "x.pth"), tmp_path / "out"
    answer = selftaught.import_(path, out=out)
    assert answer.value["encoder"] == "alexnet" and len(answer.value["notes"]) == 2
    assert "--overwrite" in refused(["import", path, "--out", out], tmp_path, capsys)
    (tmp_path / "bad.pth").write_bytes(b"text")
    refused(["import", tmp_path / "bad.pth", "--out", out, "--overwrite"], tmp_path, capsys)
    changed = write("plain", small | {"classifier.4.bias": torch.ones(4)}, path)
    selftaught.import_(changed, out=out, overwrite=True)
    assert (selftaught.load(out).trunk.classifier[4].bias == 1).all()
