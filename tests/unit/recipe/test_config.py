"""R5: the written configuration, fed back, is the same; what is wrong with one is named."""

import contextlib
import os
import typing
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from selftaught.api import COMMANDS
from selftaught.errors import ConfigError
from selftaught.options import ranges
from selftaught.recipe import config as configuration
from selftaught.recipe.config import Config, assigned_overrides, to_dict, with_overrides
from selftaught.recipe.presets import PRESETS, preset


def written(tmp_path: Path, **changes: object) -> Path:
    values = to_dict(Config())
    for name, value in changes.items():
        section, _, leaf = name.rpartition("__")
        target = values[section] if section else values
        if value is None:
            del target[leaf]
        else:
            target[leaf] = value
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize("name", [*PRESETS, None])
def test_a_configuration_survives_being_written_and_read(tmp_path: Path, name: str | None) -> None:
    config = with_overrides(Config(), preset(name) if name else {})
    configuration.write_config(config, tmp_path / "config.yaml")
    assert configuration.read_config(tmp_path / "config.yaml") == config


BAD = {
    "unknown section": ({"lop": {}}, "loop"),
    "unknown key": ({"loop__epoch": 3}, "epochs"),
    "unknown network key": ({"network__encodr": "x"}, "encoder"),
    "missing key": ({"loop__epochs": None}, "epochs"),
    "missing section": ({"views": None}, "views"),
    "missing seed": ({"seed": None}, "seed"),
    "text for a whole number": ({"loop__epochs": "ten"}, "epochs"),
    "a fraction for a whole number": ({"loop__epochs": 1.5}, "epochs"),
    "truth for a whole number": ({"seed": True}, "seed"),
    "number for text": ({"method": 3}, "method"),
    "text for truth": ({"views__normalise": "yes!"}, "normalise"),
    "number for a pair": ({"views__crop_scale": 0.2}, "crop_scale"),
    "an interpolation that is not known": ({"views__interpolation": "cubic"}, "bicubic"),
    "three for a pair": ({"views__crop_scale": [1, 2, 3]}, "crop_scale"),
    "list for a section": ({"loop": [1]}, "loop"),
    "text for a number": ({"loop__lr": "fast"}, "lr"),
    "a word that is not known": ({"loop__optimizer": "adam"}, "adamw"),
    "a number that is no text": ({"options": {1: 2}}, "options"),
    "more than a float holds": ({"loop__lr": 10**400}, "lr"),
    "a key of many letters": ({"x" * 5_000: 1}, "unknown option"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_with_a_configuration_is_named(tmp_path: Path, case: str) -> None:
    changes, named = BAD[case]
    path = written(tmp_path, **changes)
    with pytest.raises(ConfigError, match=named) as caught:
        configuration.read_config(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_alias_bomb_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 9) + "]" for i in range(1, 40)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="alias"):
        configuration.read_config(tmp_path / "bomb.yaml")


OUT_OF_RANGE: dict[str, list[object]] = {
    "loop__batch_size": [0, -1, 10**12],
    "loop__epochs": [0, -3],
    "loop__total_steps": [-1],
    "loop__lr": [0, -1e-3, float("inf"), float("nan")],
    "loop__weight_decay": [-1e-9, float("nan")],
    "loop__momentum": [1.1],
    "loop__log_every": [0],
    "loop__checkpoint_seconds": [0, float("nan")],
    "loop__probe_every": [-1],
    "network__image_size": [7, 5_000],
    "network__width": [0],
    "data__store_size": [0],
    "data__min_side": [0],
    "views__flip": [-0.1, 1.1, float("nan")],
    "views__jitter": [2],
    "views__gray": [2],
    "views__blur": [-1],
    "views__brightness": [-1],
    "views__hue": [0.6],
    "views__crop_scale": [[0.5, 0.2], [0, 1], [0.5, 1.5], [float("nan"), 1]],
    "views__crop_ratio": [[2, 1], [0, 1]],
    "views__rotate": [1.01],
    "views__channel_jitter": [-0.1],
    "views__gain": [[-0.1, 1], [2, 1]],
    "views__offset": [[-1.1, 0], [0, 2], [0.5, -0.5]],
    "views__gamma": [[0, 1]],
    "views__band_drop": [2],
    "views__band_share": [1.1],
    "views__solarise": [-1],
    "views__threshold": [1.5],
    "views__sigma": [[2, 1], [-1, 1]],
    "views__noise": [2],
    "views__noise_sigma": [[-0.1, 0.1], [0, 2]],
    "views__sobel": [float("nan")],
    "views__cutout": [1.5],
    "views__cutout_side": [[0.5, 0.25], [0, 1.5]],
    "seed": [-1, 2**63],
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_what_is_out_of_range_is_named(tmp_path: Path, name: str) -> None:
    for value in OUT_OF_RANGE[name]:
        path = written(tmp_path, **{name: value})
        with pytest.raises(ConfigError, match=name.replace("__", r"\.")) as caught:
            configuration.read_config(path)
        assert str(path) in str(caught.value) and "choose " in caught.value.remedy


def test_every_number_has_a_range() -> None:
    values = configuration.flatten(to_dict(Config()))
    pairs_and_numbers = {
        name for name, v in values.items() if type(v) in (int, float, list)
    } - ranges.SETTINGS.keys()
    assert pairs_and_numbers == set()
    assert ranges.SETTINGS.keys() <= values.keys()
    for command in COMMANDS.values():
        hints = typing.get_type_hints(command.options)
        numbers = {n for n, h in hints.items() if {int, float} & {h, *typing.get_args(h)}}
        assert numbers <= ranges.FLAGS.keys(), command.options


ODD = [
    b"\xff\xfe\x00",
    b"[" * 60_000,
    b"a: b: c",
    b"",
    b"seed: 2024-13-45",
    b"seed: !!int abc",
    b"seed: !!int ''",
    b"seed: !!timestamp x",
    b"seed: !!bool x",
    b"seed: !!python/object/apply:os.system [true]",
    b"seed: " + b"9" * 5_000,
    b"seed: 0x" + b"f" * 5_000,
    b"seed: 0b_",
    b"seed: " + b"1:" * 300 + b"1.5",
    b"0x" + b"f" * 5_000 + b": 1",
    b"? [a, b]\n: 1",
    b"seed: 1\n" * 20_000,
]


@pytest.mark.parametrize("content", ODD, ids=lambda content: content[:20].decode("latin-1"))
def test_what_is_not_a_configuration_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        configuration.read_config(tmp_path / "odd.yaml")
    assert len(str(caught.value)) < 1_000 and "\n" not in str(caught.value)


@pytest.mark.parametrize("line", [content.decode() for content in ODD[4:14]])
def test_an_odd_value_in_a_whole_configuration_is_refused(tmp_path: Path, line: str) -> None:
    path = written(tmp_path)
    path.write_text(path.read_text().replace("seed: 0", line))
    with pytest.raises(ConfigError):
        configuration.read_config(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero"), tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match=r"config\.yaml"):
            configuration.read_config(path)


@given(place=st.integers(0, 900), bytes_=st.binary(max_size=8), cut=st.integers(0, 8))
def test_a_damaged_configuration_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: int, bytes_: bytes, cut: int
) -> None:
    whole = yaml.safe_dump(to_dict(Config()), sort_keys=False).encode()
    path = tmp_path_factory.getbasetemp() / "damaged.yaml"
    path.write_bytes(whole[:place] + bytes_ + whole[place + cut :])
    with contextlib.suppress(ConfigError):
        configuration.read_config(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-3", -3),
        ("1e-3", 1e-3),
        (".5", 0.5),
        ("true", True),
        ("False", False),
        ("null", None),
        ("0.2, 1", [0.2, 1]),
        ("12:30", "12:30"),
        ("2024-01-02", "2024-01-02"),
        ("1_000", "1_000"),
        ("paper", "paper"),
        ("", ""),
    ],
)
def test_values_are_numbers_truths_or_text(text: str, value: object) -> None:
    found = assigned_overrides([f"x={text}"])["options.x"]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("path", ["2024", "1,5.npz", "true", "a=b", "12:30", "null"])
def test_the_name_of_the_images_is_text(path: str) -> None:
    config = with_overrides(Config(), assigned_overrides([f"data.path={path}"]))
    assert config.data.path == path


def test_a_text_that_may_be_missing_can_be_taken_away() -> None:
    config = with_overrides(Config(), {"network.init": "run", "probe": "x"})
    assert with_overrides(config, assigned_overrides(["network.init=null"])).network.init is None


def test_assignments_are_typed_and_bare_names_belong_to_the_method() -> None:
    given = ["temperature=0.2", "loop.compile=true", "views.crop_scale=0.2,1", "loop.lr=1e-3"]
    overrides = assigned_overrides(given)
    config = with_overrides(Config(), overrides)
    assert config.options == {"temperature": 0.2}
    assert config.loop.compile is True
    assert config.views.crop_scale == (0.2, 1.0)
    assert config.loop.lr == 1e-3


@pytest.mark.parametrize(
    ("assignment", "remedy"),
    [
        ("loop.epoch=3", "loop.epochs"),
        ("view.blur=1", "views.blur"),
        ("temperature", "NAME=VALUE"),
        ("options.=3", "NAME=VALUE"),
        ("=3", "NAME=VALUE"),
        ("loop..lr=3", "NAME=VALUE"),
    ],
)
def test_a_misspelt_assignment_gets_the_nearest_name(assignment: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        with_overrides(Config(), assigned_overrides([assignment]))


@given(
    epochs=st.integers(1, 10**6),
    lr=st.floats(1e-9, 1e3),
    seed=st.integers(0, 2**62),
    low=st.floats(0.01, 1.0),
)
def test_numbers_come_back_exactly(epochs: int, lr: float, seed: int, low: float) -> None:
    changes = {"loop.epochs": epochs, "loop.lr": lr, "seed": seed, "views.crop_scale": (low, 1.0)}
    config = with_overrides(Config(), changes)
    text = yaml.safe_dump(to_dict(config))
    assert configuration.from_dict(yaml.safe_load(text), "test") == config
