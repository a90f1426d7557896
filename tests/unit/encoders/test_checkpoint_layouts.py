"""`selftaught import`: prefixes, heads, numbered layers, SimCLR's names, and --encoder.

Files in tests/golden hold the names and shapes of each layout. What is imported is compared with
torchvision's or timm's own network of the same values, or with plain calls in tests/oracles.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import selftaught
from selftaught.cli import DONE, main
from selftaught.encoders.encoder import EncoderConfig, build_encoder
from selftaught.encoders.imported.checkpoint_file import ImportedEncoder, read_checkpoint
from selftaught.encoders.imported.resnet_layout import NETWORKS, match_layer_names
from selftaught.errors import ConfigError, FileError
from selftaught.views.policy import Intensity
from tests.oracles import simclr_resnet
from tests.support.mistakes import refused

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[2] / "golden"
UNIT = Intensity(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
Tensors = dict[str, Tensor]


def golden(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes."""
    lines = (GOLDEN / f"{name}.txt").read_text().splitlines()
    words = [line.split() for line in lines if not line.startswith("#")]
    return {name: tuple(map(int, sizes)) for name, *sizes in words}


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def values(shapes: Mapping[str, tuple[int, ...]], *, seed: int = 0) -> Tensors:
    """Random tensors at which neither units nor images are all alike."""
    generator, found = torch.Generator().manual_seed(seed), {}
    for name, shape in shapes.items():
        if not shape:
            found[name] = torch.tensor(7)
        elif len(shape) > 1:
            tensor = torch.empty(shape).normal_(generator=generator)
            found[name] = tensor * (2 / tensor[0].numel()) ** 0.5
        else:
            found[name] = torch.rand(shape, generator=generator) + 0.5
    return found


def torchvisions(name: str, *, small: bool = False) -> Any:
    """Its network without a classifier; with the stem of Chen et al. 2020, appendix B.9."""
    network = getattr(torchvision.models, name)(weights=None).eval()
    network.fc = nn.Identity()
    if small:
        network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    return network


def images(side: int) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def check_equal(found: ImportedEncoder, expected: Callable[[Tensor], Tensor], *, side: int) -> None:
    """The same vectors of two images, which differ."""
    assert found.encoder.config.image_size == side
    x = images(side)
    with torch.no_grad():
        theirs, ours = expected(x), found.encoder.eval()(x)
    size = theirs.abs().max().item()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * size)
    assert (theirs[0] - theirs[1]).abs().max() > 0.001 * size


# Layouts


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_golden_resnets_are_what_torchvision_builds_and_what_timm_does(name: str) -> None:
    built = getattr(torchvision.models, name)(weights=None).state_dict()
    assert golden(f"torchvision_{name}") == shapes(built)
    timms: Any = timm.create_model(name)
    assert golden(f"torchvision_{name}") == shapes(timms.state_dict())


def test_the_golden_mobilenet_is_what_timm_builds() -> None:
    timms: Any = timm.create_model("mobilenetv2_100")
    assert golden("timm_mobilenetv2_100") == shapes(timms.state_dict())


def numbered(name: str) -> str:
    """torchvision's names by the order of its layers, cut at layer4."""
    order = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    first, _, rest = name.partition(".")
    return f"{order.index(first)}.{rest}"


def put(tree: dict[str, Any], place: str, tensor: Tensor) -> None:
    """A tensor at a place in mappings of mappings."""
    *mappings, name = place.split("/")
    for mapping in mappings:
        tree = tree.setdefault(mapping, {})
    tree[name] = tensor


def wrapped(program: str) -> tuple[dict[str, Any], Tensors, bool]:
    """What the program saves; its encoder's tensors by torchvision's names; whether it is small."""
    lines = [line.split() for line in (GOLDEN / "wrapped.txt").read_text().splitlines()]
    tree: dict[str, Any] = {}
    network: Tensors = {}
    seed, small = 0, False
    for _, kind, place, *rest in (line for line in lines if line[0] == program):
        seed += 1
        if kind == "tensor":
            put(tree, place, values({place: tuple(map(int, rest))}, seed=seed)[place])
            continue
        small = "small" in rest
        tensors = values(shapes(torchvisions("resnet18", small=small).state_dict()), seed=seed)
        for name, tensor in tensors.items():
            put(tree, place + (numbered(name) if "numbers" in rest else name), tensor)
        network = tensors if kind == "encoder" else network
    return tree, network, small


PROGRAMS = {
    "moco": ("encoder_q.*", "encoder_q.fc (4 tensors)", "encoder_k (124 tensors)", "queue"),
    "moco_v3": ("base_encoder.*", "momentum_encoder (120 tensors)", "predictor"),
    "simsiam": ("encoder.*", "encoder.fc (3 tensors)", "predictor (3 tensors)"),
    "swav": ("projection_head (4 tensors)", "prototypes (3,000 outputs)"),
    "barlow_twins": ("backbone.*", "projector (2 tensors)", "bn (3 tensors)"),
    "dino": ("teacher.backbone.*", "teacher.head (4 tensors)", "student (122 tensors)"),
    "solo_learn": ("backbone.*", "classifier (10 outputs)", "momentum_backbone", "small stem"),
    "lightly": ("backbone.*", "projection_head", "backbone_momentum (120 tensors)"),
    "simclr_pytorch": ("backbone.*", "backbone.fc (4 tensors)", "small stem"),
    "simclr_features": ("features.*", "l1 (512 outputs)", "l2 (64 outputs)"),
    "simclr_encoder": ("encoder.*", "projector (2 tensors)"),
    "byol": ("online_encoder.net.*", "online_encoder.projector", "target_encoder", "net (120"),
    "vissl": ("trunk._feature_blocks.*", "classy_state_dict.base_model.model.heads (4 tensors)"),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_encoder_is_found_behind_the_prefix_of_whoever_trained_it(
    program: str, tmp_path: Path
) -> None:
    tree, tensors, small = wrapped(program)
    torch.save(tree, tmp_path / "x.pth")
    found = read_checkpoint(tmp_path / "x.pth")
    network = torchvisions("resnet18", small=small)
    network.load_state_dict(tensors)
    check_equal(found, network, side=32 if small else 224)
    said = " ".join(found.notes)
    assert all(words in said for words in PROGRAMS[program]), said


def test_every_program_of_the_golden_file_is_tested() -> None:
    lines = (GOLDEN / "wrapped.txt").read_text().splitlines()
    assert {line.split()[0] for line in lines if line[0] != "#"} == PROGRAMS.keys()


def test_timms_mobilenet_is_known_by_its_own_names(tmp_path: Path) -> None:
    tensors = values(golden("timm_mobilenetv2_100"))
    torch.save({"model": tensors}, tmp_path / "x.pth")
    network: Any = timm.create_model("mobilenetv2_100").eval()
    network.load_state_dict(tensors)
    network.reset_classifier(0)
    found = read_checkpoint(tmp_path / "x.pth")
    check_equal(found, network, side=224)
    assert found.notes == ("Left out: classifier (1,000 outputs).",)


@pytest.mark.parametrize("name", NETWORKS.values())
def test_every_resnet_is_known_by_its_blocks_and_shapes(name: str) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(weights=None).state_dict()
        timms: Any = timm.create_model(name)
    match = match_layer_names(theirs, Path("x.pth"))
    assert match is not None and match.config == EncoderConfig(name, stem="standard")
    assert shapes(match.tensors) == shapes(timms.state_dict())


def test_a_second_network_beside_one_without_a_prefix_is_left_out(tmp_path: Path) -> None:
    tensors = values(golden("torchvision_resnet18"))
    torch.save(tensors | {f"target.{n}": -t for n, t in tensors.items()}, tmp_path / "x.pth")
    found = read_checkpoint(tmp_path / "x.pth")
    kept = found.encoder.trunk.state_dict()
    assert torch.equal(kept["conv1.weight"], tensors["conv1.weight"])
    assert found.notes == ("Left out: fc (1,000 outputs), target (122 tensors).",)


def test_other_words_for_shortcuts_and_stages_after_nothing_that_pools(tmp_path: Path) -> None:
    network = torchvisions("resnet34", small=True)
    network.load_state_dict(values(shapes(network.state_dict())))
    places = {"conv1": "0", "bn1": "1"} | {f"layer{i}": str(2 + i) for i in (1, 2, 3, 4)}
    tensors = {}
    for name, tensor in network.state_dict().items():
        first, _, rest = name.partition(".")
        tensors[f"f.{places[first]}.{rest.replace('downsample', 'shortcut')}"] = tensor
    torch.save(tensors | {"g.0.weight": torch.zeros(512, 512)}, tmp_path / "x.pth")
    check_equal(read_checkpoint(tmp_path / "x.pth"), network, side=32)
    large = {n: torch.zeros(64, 3, 7, 7) if n == "f.0.weight" else t for n, t in tensors.items()}
    torch.save(large, tmp_path / "y.pth")
    with pytest.raises(FileError, match="is not recognised"):
        read_checkpoint(tmp_path / "y.pth")


# SimCLR's names


def test_the_plain_resnet_adds_what_the_branches_give() -> None:
    weights = {}
    for name, shape in golden("simclr_resnet50").items():
        ones = name.endswith((".running_var", ".0.bias")) and "fc" not in name
        weights[name] = torch.ones(shape) if ones else torch.zeros(shape)
    x = torch.rand(1, 3, 64, 64)
    # Nothing but biases: the first block of the last stage gives 1 + 1, the two after it 1 more.
    assert torch.equal(simclr_resnet.resnet(x, weights), torch.full((1, 2048), 4.0))


def test_a_converted_simclr_takes_pixels_from_0_to_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors, path, out = values(golden("simclr_resnet50")), tmp_path / "x.pth", tmp_path / "out"
    head = {"layers.0.weight": torch.zeros(2048, 2048), "layers.1.weight": torch.ones(2048)}
    torch.save({"resnet": tensors, "head": head}, path)
    assert main(["import", str(path), "--out", str(out)]) == DONE
    printed, card = capsys.readouterr().out, (out / "README.md").read_text()
    for said in ("Pixels are scaled to 0 to 1, without mean and std.", "resnet.fc (1,000 outputs)"):
        assert said in printed and said in card
    assert "mean 0, 0, 0 and std 1, 1, 1" in card and "SimCLR" in card
    found = read_checkpoint(path)
    assert found.encoder.config.intensity == UNIT == selftaught.load(out).config.intensity
    assert found.encoder.config.architecture == "resnet50"
    check_equal(found, lambda x: simclr_resnet.resnet(x, tensors), side=224)
    imagenet = read_checkpoint(path, pixels="imagenet")
    assert imagenet.encoder.config.intensity == Intensity()
    assert not any("Pixels" in note for note in imagenet.notes)


def test_a_simclr_with_selective_kernels_or_wider_layers_is_none_that_is_known(
    tmp_path: Path,
) -> None:
    tensors = values(golden("simclr_resnet50"))
    deep = {"net.0.2.weight": torch.zeros(32, 32, 3, 3), "net.0.0.weight": torch.zeros(32, 3, 3, 3)}
    wide = {"net.0.0.weight": torch.zeros(128, 3, 7, 7)}
    for change in (deep, wide):
        torch.save({"resnet": tensors | change}, tmp_path / "x.pth")
        with pytest.raises(FileError, match="is not recognised"):
            read_checkpoint(tmp_path / "x.pth")


# --encoder and --pixels


@pytest.mark.parametrize(
    ("name", "side", "prefix"),
    [
        ("resnet26d", 224, "encoder."),
        ("vit_tiny_patch16_224", 224, "module.base_encoder."),
        ("mobilenetv3_small_100", 160, ""),
        ("convnext_atto", 64, "module."),
        ("resnet20", 32, "teacher.backbone."),
    ],
)
def test_any_network_of_timms_is_taken_by_its_name(
    name: str, side: int, prefix: str, tmp_path: Path
) -> None:
    if name == "resnet20":
        network: Any = build_encoder(EncoderConfig(name, image_size=side)).trunk.eval()
        head = {}
    else:
        network = timm.create_model(name, num_classes=10).eval()
        head = network.get_classifier().state_dict(prefix="fc.")
        network.reset_classifier(0)
    tensors = values(shapes(network.state_dict()))
    network.load_state_dict(tensors)
    torch.save({f"{prefix}{n}": t for n, t in (tensors | head).items()}, tmp_path / "x.pth")
    found = read_checkpoint(tmp_path / "x.pth", encoder=name, image_size=side)
    assert found.encoder.config.architecture == name
    check_equal(found, network, side=side)
    left_out = [note for note in found.notes if note.startswith("Left out")]
    assert bool(left_out) == bool(head) and all("fc (10 outputs)" in note for note in left_out)


def test_a_name_finds_the_layout_of_its_network_too(tmp_path: Path) -> None:
    tree, tensors, _ = wrapped("lightly")
    torch.save(tree, tmp_path / "x.pth")
    found = read_checkpoint(tmp_path / "x.pth", encoder="resnet18", image_size=96)
    network = torchvisions("resnet18")
    network.load_state_dict(tensors)
    check_equal(found, network, side=96)
    with pytest.raises(FileError, match=r"lacks .* and \d+ more: pass a complete") as caught:
        read_checkpoint(tmp_path / "x.pth", encoder="resnet50")
    assert "checkpoint of resnet50" in caught.value.remedy


def test_weights_of_another_size_and_pixels_of_timms_own_weights_are_named(tmp_path: Path) -> None:
    name = "vit_tiny_patch16_224"
    network: Any = timm.create_model(name, img_size=96, num_classes=0)
    torch.save(network.state_dict(), tmp_path / "x.pth")
    with pytest.raises(FileError, match=r"pos_embed has shape \(1, 37, 192\), not \(1, 197, 192\)"):
        read_checkpoint(tmp_path / "x.pth", encoder=name)
    found = read_checkpoint(tmp_path / "x.pth", encoder=name, image_size=96)
    assert "timm's own weights of vit_tiny_patch16_224 use mean 0.5" in found.notes[0]
    assert found.encoder.config.intensity == Intensity()
    chosen = read_checkpoint(tmp_path / "x.pth", encoder=name, image_size=96, pixels="symmetric")
    assert chosen.encoder.config.intensity.mean == (0.5, 0.5, 0.5)
    assert chosen.notes == ("Pixels are scaled to -1 to 1, by mean 0.5 and std 0.5.",)


# What is refused


def test_a_network_that_does_not_exist_is_refused_before_the_file_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["import", tmp_path / "x.pth", "--out", tmp_path / "out", "--encoder", "resnet19"]
    assert "unknown encoder 'resnet19': did you mean" in refused(call, tmp_path, capsys)
    with pytest.raises(ConfigError, match="pixels"):
        selftaught.import_(tmp_path / "x.pth", out=tmp_path / "out", pixels="raw")


def half(tensors: Tensors) -> Tensors:
    return {n: t for n, t in tensors.items() if not n.startswith("layer4.")} | {
        "layer4.0.conv1.weight": tensors["layer4.0.conv1.weight"],
        "layer4.1.conv1.weight": tensors["layer4.1.conv1.weight"],
    }


def narrow(tensors: Tensors) -> Tensors:
    return tensors | {"layer4.0.conv1.weight": torch.zeros(9, 256, 3, 3), "bn1.bias": torch.ones(9)}


REFUSED: list[tuple[Callable[[Tensors], Any], str]] = [
    (half, "lacks layer4.0.bn1.bias, layer4.0.bn1.running_mean, layer4.0.bn1.running_var and 20"),
    (narrow, r"bn1.bias has shape \(9,\), not \(64,\), and 1 more do not fit resnet18: name its"),
    (lambda t: t | {"layer1.0.se.weight": torch.zeros(2)}, "holds layer1.0.se.weight, which resn"),
    (lambda t: t | {"gate.weight": torch.zeros(2)}, "holds gate.weight, which resnet18 does not"),
    (lambda t: {"a": t, "b": 3, "c": [t]} | {"a": {**t, "x": 3}}, "no state_dict of tensors"),
    (
        lambda t: {"x": {"y.shortcut.0": t["bn1.bias"], "y.weight": t["bn1.bias"]}},
        "is not recognised",
    ),
]


@pytest.mark.parametrize(("change", "says"), REFUSED)
def test_what_is_missing_or_too_much_or_does_not_fit_is_named_in_one_line(
    change: Callable[[Tensors], Any],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.save(change(values(golden("torchvision_resnet18"))), tmp_path / "x.pth")
    with pytest.raises(FileError, match=says):
        read_checkpoint(tmp_path / "x.pth")
    refused(["import", tmp_path / "x.pth", "--out", tmp_path / "out"], tmp_path, capsys)


def test_a_layer_under_two_names_is_refused(tmp_path: Path) -> None:
    tensors = values(golden("torchvision_resnet18"))
    twice = {"layer2.0.shortcut.0.weight": tensors["layer2.0.downsample.0.weight"]}
    torch.save(tensors | twice, tmp_path / "x.pth")
    with pytest.raises(FileError, match="a layer under two names"):
        read_checkpoint(tmp_path / "x.pth")


@pytest.mark.timeout(20)
def test_mappings_that_hold_one_another_come_to_an_end(tmp_path: Path) -> None:
    tree: dict[str, Any] = {"x": 3}
    tree["itself"] = tree
    for _ in range(7):
        tree = {str(i): tree for i in range(100)}
    torch.save(tree, tmp_path / "x.pth")
    with pytest.raises(FileError, match="no state_dict of tensors"):
        read_checkpoint(tmp_path / "x.pth")
