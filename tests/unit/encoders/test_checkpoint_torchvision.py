"""`selftaught import` of networks in torchvision's layout, beside torchvision's own.

A file in tests/golden holds the names and shapes of the released MobileNetV2.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import selftaught
from selftaught.cli import DONE, main
from selftaught.encoders.imported.checkpoint_file import read_checkpoint
from selftaught.errors import FileError
from selftaught.views.policy import Intensity
from tests.support.mistakes import refused

GOLDEN = Path(__file__).parents[2] / "golden"
RESNETS = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]


def theirs(name: str, *, seed: int = 0) -> Any:
    """torchvision's network, every tensor of it random, batch norm's statistics too."""
    network = getattr(torchvision.models, name)(weights=None).eval()
    generator = torch.Generator().manual_seed(seed)
    for key, tensor in network.state_dict().items():
        if tensor.ndim > 1:
            tensor.normal_(generator=generator).mul_((2 / tensor[0].numel()) ** 0.5)
        elif tensor.ndim == 1 and ("var" in key or "weight" in key):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.ndim == 1:
            tensor.normal_(0, 0.2, generator=generator)
        else:
            tensor.fill_(7)
    return network


def without_classifier(network: Any) -> nn.Module:
    setattr(network, "classifier" if hasattr(network, "classifier") else "fc", nn.Identity())
    return network


def test_the_released_mobilenet_is_what_torchvision_builds() -> None:
    lines = (GOLDEN / "torchvision_mobilenet_v2.txt").read_text().splitlines()
    words = [line.split() for line in lines if not line.startswith("#")]
    released = {name: tuple(map(int, sizes)) for name, *sizes in words}
    built = torchvision.models.mobilenet_v2(weights=None).state_dict()
    assert released == {name: tuple(tensor.shape) for name, tensor in built.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "resnet50"])
def test_the_encoder_is_torchvisions_network_without_its_classifier(
    name: str, tmp_path: Path
) -> None:
    network = theirs(name)
    torch.save(network.state_dict(), tmp_path / "x.pth")
    encoder = read_checkpoint(tmp_path / "x.pth").encoder.eval()
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = without_classifier(network)(x), encoder(x)
    size = expected.abs().max().item()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * size)
    assert (expected[0] - expected[1]).abs().max() > 0.01 * size


@pytest.mark.slow
@pytest.mark.parametrize("name", RESNETS)
def test_every_resnet_is_recognised_by_its_blocks(name: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = getattr(torchvision.models, name)(weights=None).state_dict()
    torch.save({n: torch.zeros(t.shape, dtype=t.dtype) for n, t in shapes.items()}, tmp_path / "x")
    config = read_checkpoint(tmp_path / "x").encoder.config
    assert (config.architecture, config.stem, config.front) == (name, "standard", "none")


def uncounted(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: t for n, t in tensors.items() if "num_batches" not in n}


def of_several_gpus(tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {"epoch": 3, "state_dict": {f"module.{n}": t for n, t in tensors.items()}}


def headless(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: t for n, t in tensors.items() if "classifier" not in n}


@pytest.mark.slow
@pytest.mark.parametrize("change", [dict, uncounted, of_several_gpus, headless])
def test_other_forms_of_the_file_give_the_same_encoder(
    change: Callable[..., Any], tmp_path: Path
) -> None:
    tensors = theirs("mobilenet_v2").state_dict()
    torch.save(change(tensors), tmp_path / "x.pth")
    found = read_checkpoint(tmp_path / "x.pth")
    trunk = found.encoder.trunk
    assert torch.equal(trunk.conv_head.weight, tensors["features.18.0.weight"])
    assert torch.equal(trunk.blocks[1][1].bn3.bias, tensors["features.3.conv.3.bias"])
    assert trunk.bn1.num_batches_tracked == (0 if change is uncounted else 7)
    left_out = "Left out: classifier.1 (1,000 outputs)."
    assert found.notes == (() if change is headless else (left_out,))


def renamed(old: str, new: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {n.replace(old, new): t for n, t in tensors.items()}


BAD: list[tuple[str, Callable[[dict[str, Tensor]], Any], str]] = [
    ("mobilenet_v2", renamed("features.7.conv.1.0", "x"), "lacks blocks.3.0.conv_dw.weight"),
    ("mobilenet_v2", lambda t: t | {"features.19.conv.2.weight": t["features.18.1.bias"]}, "holds"),
    ("mobilenet_v2", lambda t: t | {"features.9.conv.9.bias": t["features.18.1.bias"]}, "holds"),
    (
        "mobilenet_v2",
        lambda t: t | {"features.0.0.weight": torch.zeros(32, 1, 3, 3)},
        r"conv_stem.weight has shape \(32, 1, 3, 3\)",
    ),
    ("resnet18", renamed("layer4.1.", "layer4.2."), "lacks layer4.1.bn1.bias"),
    ("resnet18", lambda t: t | {"extra.0.weight": torch.zeros(2)}, "holds extra.0"),
    ("resnet18", renamed("layer1.1.", "layer1.7.conv1."), "the network in .* is not recognised"),
    ("resnet18", renamed("layer", "block"), "the network in .* is not recognised"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "change", "says"), BAD)
def test_tensors_of_another_network_are_named(
    name: str, change: Callable[..., Any], says: str, tmp_path: Path
) -> None:
    torch.save(change(theirs(name).state_dict()), tmp_path / "x.pth")
    with pytest.raises(FileError, match=says) as caught:
        read_checkpoint(tmp_path / "x.pth")
    assert "x.pth" in caught.value.what and len(str(caught.value)) < 300


@pytest.mark.slow
def test_the_folder_is_timms_network_at_the_size_that_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out, network = tmp_path / "x.pth", tmp_path / "out", theirs("mobilenet_v2")
    torch.save(network.state_dict(), path)
    assert main(["import", str(path), "--out", str(out), "--image-size", "128"]) == DONE
    printed = capsys.readouterr().out
    for said in (
        "mobilenetv2_100 for 128 px, front none",
        "1,000 outputs",
        "licence of these weights",
    ):
        assert said in printed
    assert "DeepCluster" not in printed
    encoder = selftaught.load(out)
    assert encoder.config.image_size == 128 and encoder.dim == 1280
    assert encoder.config.intensity == Intensity(
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    timms: Any = timm.create_model(f"local-dir:{out}", pretrained=True)
    x = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = without_classifier(network)(x)
        tolerance = 1e-5 * expected.abs().max().item()
        torch.testing.assert_close(encoder(x), expected, rtol=0, atol=tolerance)
        torch.testing.assert_close(timms.eval()(x), expected, rtol=0, atol=tolerance)
    card = (out / "README.md").read_text()
    assert "Imported from x.pth, a state_dict in torchvision's layout. Left out" in card


def test_deepclusters_networks_have_one_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"features.0.weight": torch.zeros(96, 3, 11, 11)}, tmp_path / "x.pth")
    call = ["import", tmp_path / "x.pth", "--out", tmp_path / "out", "--image-size", 128]
    line = refused(call, tmp_path, capsys)
    assert "fully connected layers need images of 224 px: drop --image-size" in line
