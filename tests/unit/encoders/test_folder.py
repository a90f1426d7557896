"""Encoder folders: written whole, read with suspicion, loadable by timm, found by name."""

import dataclasses
import io
import json
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from selftaught.encoders.encoder import Encoder, EncoderConfig, build_encoder, encoder_id
from selftaught.encoders.folder import load_weights, open_encoder, save_config, save_encoder
from selftaught.errors import ConfigError, FileError, UserError
from selftaught.foundation import files
from selftaught.training.checkpoint import Checkpoint, save_checkpoint
from selftaught.views.policy import Intensity

TINY = EncoderConfig("resnet8", image_size=32, options={"width": 4})
TIMMS = EncoderConfig("test_resnet", image_size=64, stem="standard")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved encoder."""
    save_encoder(build_encoder(TINY, seed=1), tmp_path / "encoder", card="Trained on leaves.")
    return tmp_path / "encoder"


def checkpoint_of(encoder: Encoder, run: Path, step: int) -> Path:
    model = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    head = {"head.last.0.weight": torch.zeros(2, 2)}
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    return save_checkpoint(
        run / "checkpoints", Checkpoint(step, {}, model | head, {"x": torch.zeros(1)})
    )


def change(folder: Path, changes: dict[str, Any]) -> None:
    """Edit our part of config.json."""
    value = json.loads((folder / "config.json").read_text())
    value["selftaught"] |= changes
    (folder / "config.json").write_text(json.dumps(value))


# Written and read


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        TIMMS,
        EncoderConfig("test_resnet", image_size=32, in_channels=2, options={"drop_rate": 0.1}),
        dataclasses.replace(TINY, intensity=Intensity(10, 4095.0, (0.1, 0.2, 0.3), (1.0, 1, 0.5))),
        EncoderConfig("test_vit", image_size=64, in_channels=1),
    ],
)
def test_an_encoder_comes_back_to_the_bit(config, tmp_path):
    encoder = build_encoder(config, seed=1)
    save_encoder(encoder, tmp_path / "there")
    found = open_encoder(str(tmp_path / "there"))
    assert found.config == encoder.config
    assert encoder_id(found) == encoder_id(encoder)


def test_the_folder_holds_weights_configuration_and_card(folder):
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    card = (folder / "README.md").read_text()
    for said in (
        "Trained on leaves.",
        "0 to 255",
        "selftaught.load",
        "weights belong to",
        "no resnet8",
    ):
        assert said in card
    assert "timm.create_model" not in card  # it could not build this one


def test_an_encoder_that_is_there_is_replaced(folder):
    new = build_encoder(TINY, seed=2)
    save_encoder(new, folder)
    assert encoder_id(open_encoder(str(folder))) == encoder_id(new)
    assert [p.name for p in folder.parent.iterdir()] == ["encoder"]


@pytest.mark.parametrize("failing", ["save_tensors", "write_json", "write_text", "sync_folder"])
def test_a_failed_write_leaves_what_was_there(failing, folder, monkeypatch):
    before = encoder_id(open_encoder(str(folder)))

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, failing, full)
    with pytest.raises(OSError):
        save_encoder(build_encoder(TINY, seed=2), folder)
    assert encoder_id(open_encoder(str(folder.parent))) == before


def test_a_process_that_ends_while_replacing_leaves_what_was_there(folder, monkeypatch):
    before, rename = encoder_id(open_encoder(str(folder))), Path.rename

    def killed(path: Path, target: Path) -> Path:
        if target == folder:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        save_encoder(build_encoder(TINY, seed=2), folder)
    assert encoder_id(open_encoder(str(folder.parent))) == before


@pytest.mark.parametrize("arguments", [{}, {"num_classes": 0}])
@pytest.mark.parametrize(
    "config",
    [
        EncoderConfig("resnet18", image_size=64, stem="standard"),
        dataclasses.replace(TIMMS, in_channels=2),
        EncoderConfig("test_vit", image_size=64),
    ],
)
def test_timm_loads_the_folder_as_the_same_network(config, arguments, tmp_path):
    encoder = build_encoder(config, seed=1).eval()
    for name, tensor in encoder.trunk.state_dict().items():
        if name.endswith(("running_mean", "running_var")) or "bn" in name:
            tensor.add_(1)  # not what a new network has, in which the blocks do nothing
    save_encoder(encoder, tmp_path / "encoder")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'encoder'}", pretrained=True, **arguments)
    x = torch.randn(2, config.in_channels, 64, 64)
    with torch.no_grad():
        assert torch.equal(theirs.eval()(x), encoder(x))
    assert theirs.num_classes == 0
    assert theirs.pretrained_cfg["mean"] == list(encoder.config.intensity.mean)


def test_timm_makes_a_classifier_on_top(tmp_path):
    save_encoder(build_encoder(TIMMS), tmp_path / "encoder")
    model = timm.create_model(f"local-dir:{tmp_path / 'encoder'}", pretrained=True, num_classes=7)
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


def test_timm_refuses_a_small_stem(tmp_path):
    save_encoder(build_encoder(dataclasses.replace(TIMMS, stem="small")), tmp_path / "encoder")
    with pytest.raises(RuntimeError, match="conv1"):
        timm.create_model(f"local-dir:{tmp_path / 'encoder'}", pretrained=True)


# Damaged


def missing(tensors: dict[str, Tensor]) -> None:
    del tensors["layer2.0.bn1.running_var"]


def extra(tensors: dict[str, Tensor]) -> None:
    tensors["fc.weight"] = torch.zeros(2)


def reshaped(tensors: dict[str, Tensor]) -> None:
    tensors["conv1.weight"] = tensors["conv1.weight"][:, :1]


def broadcastable(tensors: dict[str, Tensor]) -> None:
    tensors["bn1.weight"] = torch.ones(1)


def integer(tensors: dict[str, Tensor]) -> None:
    tensors["bn1.weight"] = torch.ones(4, dtype=torch.int32)


def nan(tensors: dict[str, Tensor]) -> None:
    tensors["layer3.0.conv2.weight"][0, 0, 0, 0] = float("nan")


def infinite(tensors: dict[str, Tensor]) -> None:
    tensors["bn1.running_var"][1] = float("-inf")


DAMAGE = [
    (missing, "layer2.0.bn1.running_var is missing"),
    (extra, "fc.weight does not belong"),
    (reshaped, r"conv1.weight has shape \(4, 1, 3, 3\), not \(4, 3, 3, 3\)"),
    (broadcastable, r"bn1.weight has shape \(1,\)"),
    (integer, "bn1.weight has type torch.int32"),
    (nan, "layer3.0.conv2.weight has values that are not finite"),
    (infinite, "bn1.running_var has values that are not finite"),
]


@pytest.mark.parametrize(("damage", "named"), DAMAGE)
def test_wrong_weights_are_named(damage, named, folder):
    tensors = files.load_tensors(folder / "model.safetensors")
    damage(tensors)
    files.save_tensors(folder / "model.safetensors", tensors)
    with pytest.raises(FileError, match=named) as error:
        open_encoder(str(folder))
    assert str(folder / "model.safetensors") in error.value.what


@pytest.mark.parametrize(("damage", "named"), DAMAGE)
def test_wrong_weights_change_nothing(damage, named, tmp_path):
    encoder, other = build_encoder(TINY, seed=1), build_encoder(TINY, seed=2)
    before = encoder_id(encoder)
    tensors = other.trunk.state_dict()
    damage(tensors)
    with pytest.raises(FileError, match=named):
        load_weights(encoder, tensors, tmp_path)
    assert encoder_id(encoder) == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"architecture": "resnt8"}, "did you mean 'resnet8'"),
        ({"architecture": None}, "architecture is missing or invalid"),
        ({"architecture": "../../etc/passwd"}, "unknown encoder"),
        ({"image_size": "32"}, "image_size"),
        ({"image_size": 10**12}, "image_size"),
        ({"in_channels": True}, "in_channels"),
        ({"in_channels": 4.0}, "in_channels"),
        ({"options": []}, "options"),
        ({"options": {"width": 10**9}}, "width"),
        ({"options": {"checkpoint_path": "x"}}, "no option 'checkpoint_path'"),
        ({"intensity": None}, "intensity"),
        ({"intensity": {"low": 0, "high": 255, "mean": [0.5], "std": [0]}}, "intensity"),
        ({"intensity": {"low": 9, "high": 9, "mean": [0.5], "std": [1]}}, "intensity"),
        ({"intensity": {"low": 0, "high": 9, "mean": [float("nan")], "std": [1]}}, "intensity"),
        ({"intensity": {"low": 0, "high": 9, "mean": 1, "std": [1]}}, "intensity"),
        ({"intensity": {"low": 0, "high": 9, "mean": [1]}}, "intensity"),
        ({"format": 2}, "another version"),
        ({"colour": "red"}, "another version"),
        ({"stem": "standard"}, "no standard stem"),
        ({"front": "sobl"}, "unknown front 'sobl': did you mean 'sobel'"),
    ],
)
def test_a_wrong_configuration_is_named(changes, named, folder):
    change(folder, changes)
    with pytest.raises(FileError, match=named) as error:
        open_encoder(str(folder))
    assert str(folder / "config.json") in error.value.what


@pytest.mark.parametrize("text", ["[]", "{}", '{"selftaught": 1}', "null"])
def test_a_configuration_of_somebody_else_is_refused(text, folder):
    (folder / "config.json").write_text(text)
    with pytest.raises(FileError, match="not a selftaught encoder"):
        open_encoder(str(folder))


def test_values_that_an_older_version_did_not_write_take_their_defaults(folder):
    value = json.loads((folder / "config.json").read_text())
    del value["selftaught"]["front"], value["selftaught"]["intensity"]
    (folder / "config.json").write_text(json.dumps(value))
    assert open_encoder(str(folder)).config == dataclasses.replace(TINY, stem="small")


# Files that could run code, or use up the machine

ARRAYS = io.BytesIO()
np.save(ARRAYS, np.array([{}], dtype=object), allow_pickle=True)

PAYLOADS = {
    "a pickle": lambda marker: pickle.dumps(Touch(marker)),
    "a torch file": lambda marker: torch_file(Touch(marker)),
    "an object array": lambda marker: ARRAYS.getvalue(),
    "a header of 2^60 bytes": lambda marker: struct.pack("<Q", 2**60) + b"{}",
    "a tensor of 2^60 bytes": lambda marker: tensor_of(2**60),
}


class Touch:
    """Makes the marker when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def torch_file(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def tensor_of(size: int) -> bytes:
    entry = {"conv1.weight": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    header = json.dumps(entry).encode()
    return struct.pack("<Q", len(header)) + header


@pytest.mark.timeout(5)
@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("place", ["encoder", "cache"])
def test_S2_payloads_are_refused(payload, place, folder, cache):
    marker = folder.parent / "executed"
    data = PAYLOADS[payload](marker)
    if place == "cache":
        put_in_cache(cache, "test_resnet", {}).write_bytes(data)
    else:
        (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(FileError):
        open_encoder("timm:test_resnet" if place == "cache" else str(folder))
    assert not marker.exists()
    if payload == "a pickle":
        pickle.loads(data)
        assert marker.exists()  # it would have worked


def test_S2_a_million_brackets_are_refused(folder):
    (folder / "config.json").write_text("[" * 10**6 + "]" * 10**6)
    with pytest.raises(FileError):
        open_encoder(str(folder))


# Found by name


def test_a_run_has_its_encoder(tmp_path):
    encoder = build_encoder(TINY, seed=1)
    save_encoder(encoder, tmp_path / "run" / "encoder")
    checkpoint_of(build_encoder(TINY, seed=2), tmp_path / "run", 5)
    assert encoder_id(open_encoder(str(tmp_path / "run"))) == encoder_id(encoder)


@pytest.mark.parametrize("name", ["run", "run/encoder"])
def test_a_run_that_goes_on_has_its_newest_checkpoint(name, tmp_path):
    run, encoder = tmp_path / "run", build_encoder(TINY, seed=3)
    run.mkdir()
    save_config(encoder, run / "encoder")
    checkpoint_of(build_encoder(TINY, seed=2), run, 999_999)
    checkpoint_of(encoder, run, 1_000_000)
    assert encoder_id(open_encoder(str(tmp_path / name))) == encoder_id(encoder)


@pytest.mark.parametrize("file", ["model.safetensors", "manifest.json"])
def test_a_damaged_checkpoint_is_passed_over(file, tmp_path):
    encoder = build_encoder(TINY, seed=3)
    save_config(encoder, tmp_path / "encoder")
    checkpoint_of(encoder, tmp_path, 5)
    newest = checkpoint_of(build_encoder(TINY, seed=2), tmp_path, 6)
    data = bytearray((newest / file).read_bytes())
    data[-5] ^= 1
    (newest / file).write_bytes(data)
    assert encoder_id(open_encoder(str(tmp_path))) == encoder_id(encoder)


def test_a_run_without_a_good_checkpoint_says_so(tmp_path):
    save_config(build_encoder(TINY), tmp_path / "encoder")
    with pytest.raises(FileError, match="no encoder and no intact checkpoint"):
        open_encoder(str(tmp_path))


def test_a_run_killed_while_replacing_its_encoder_has_the_old_one(folder):
    before = encoder_id(open_encoder(str(folder)))
    folder.rename(folder.with_name("encoder.old"))
    assert encoder_id(open_encoder(str(folder.parent))) == before


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("encodr", "did you mean 'encoder'"),
        ("qqqq", "pass a run folder"),
        ("resnet18", "did you mean 'timm:resnet18'"),
        ("\0", "pass a run folder"),
        ("x" * 300, "pass a run folder"),
        ("x" * 300 + "/y", "pass a run folder"),
        ("encoder/model.safetensors", "pass a run folder"),
    ],
)
def test_what_is_no_encoder_is_refused_with_a_near_name(name, named, folder):
    with pytest.raises(FileError, match=named):
        open_encoder(str(folder.parent / name))


# timm's pretrained weights, from the cache alone


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and a network that fails the test when it is asked for."""
    import socket

    from huggingface_hub import constants

    def refuse(*args: Any, **named: Any) -> None:
        raise AssertionError("network access")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tmp_path


def put_in_cache(cache: Path, name: str, tensors: dict[str, Tensor]) -> Path:
    repository = timm.get_pretrained_cfg(name).hf_hub_id.replace("/", "--")
    snapshot = cache / f"models--{repository}" / "snapshots" / "0123abc"
    (snapshot.parents[1] / "refs").mkdir(parents=True)
    (snapshot.parents[1] / "refs" / "main").write_text("0123abc")
    snapshot.mkdir(parents=True)
    files.save_tensors(snapshot / "model.safetensors", tensors)
    return snapshot / "model.safetensors"


@pytest.mark.parametrize("name", ["test_resnet", "test_resnet.r160_in1k"])
def test_pretrained_weights_come_from_the_cache(name, cache):
    theirs = timm.create_model("test_resnet").eval()
    put_in_cache(cache, name, theirs.state_dict())
    ours = open_encoder(f"timm:{name}").eval()
    x = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        assert torch.equal(
            ours(x), theirs.forward_head(theirs.forward_features(x), pre_logits=True)
        )
    cfg = theirs.pretrained_cfg
    assert ours.config.image_size == cfg["input_size"][1]
    assert ours.config.intensity == Intensity(mean=tuple(cfg["mean"]), std=tuple(cfg["std"]))


def test_pretrained_weights_that_are_not_there_are_not_fetched(cache):
    with pytest.raises(UserError) as error:
        open_encoder("timm:resnet18")
    expected = "run python -c \"import timm; timm.create_model('resnet18', pretrained=True)\""
    assert error.value.remedy == expected


@pytest.mark.parametrize(
    "damage", [lambda t: t.pop("bn1.weight"), lambda t: t.update(x=t["fc.bias"])]
)
def test_pretrained_weights_of_another_network_are_refused(damage, cache):
    tensors = timm.create_model("test_resnet").state_dict()
    damage(tensors)
    path = put_in_cache(cache, "test_resnet", tensors)
    with pytest.raises(FileError, match="not what timm expects") as error:
        open_encoder("timm:test_resnet")
    assert str(path) in error.value.what


def test_pretrained_weights_that_can_run_code_are_refused(cache):
    path = put_in_cache(cache, "test_resnet", {})
    path.write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(FileError, match="not a safetensors file"):
        open_encoder("timm:test_resnet")


@pytest.mark.parametrize("name", ["timm:resnt18", "timm:", "timm:qqqqzzzz", "timm:resnet18.nope"])
def test_an_unknown_pretrained_network_is_refused(name, cache):
    with pytest.raises(ConfigError, match="timm has no network"):
        open_encoder(name)
