"""R5: the written configuration, fed back, is the same; what is wrong with one is named."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from selftaught import config as configuration
from selftaught.config import Config, parse_assignments, to_dict, with_overrides
from selftaught.errors import ConfigError
from selftaught.presets import PRESETS, preset


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
    configuration.write(config, tmp_path / "config.yaml")
    assert configuration.read(tmp_path / "config.yaml") == config


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
    "three for a pair": ({"views__crop_scale": [1, 2, 3]}, "crop_scale"),
    "list for a section": ({"loop": [1]}, "loop"),
    "text for a number": ({"loop__lr": "fast"}, "lr"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_with_a_configuration_is_named(tmp_path: Path, case: str) -> None:
    changes, named = BAD[case]
    path = written(tmp_path, **changes)
    with pytest.raises(ConfigError, match=named) as caught:
        configuration.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_alias_bomb_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 9) + "]" for i in range(1, 40)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="alias"):
        configuration.read(tmp_path / "bomb.yaml")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[" * 60_000, b"a: b: c", b""])
def test_what_is_not_a_configuration_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd.yaml").write_bytes(content)
    with pytest.raises(ConfigError):
        configuration.read(tmp_path / "odd.yaml")


def test_assignments_are_typed_and_bare_names_belong_to_the_method() -> None:
    given = ["temperature=0.2", "loop.compile=true", "views.crop_scale=0.2,1", "loop.lr=1e-3"]
    overrides = parse_assignments(given)
    config = with_overrides(Config(), overrides)
    assert config.options == {"temperature": 0.2}
    assert config.loop.compile is True
    assert config.views.crop_scale == (0.2, 1.0)
    assert config.loop.lr == 1e-3


@pytest.mark.parametrize(
    ("assignment", "remedy"),
    [("loop.epoch=3", "loop.epochs"), ("view.blur=1", "views.blur"), ("temperature", "NAME=VALUE")],
)
def test_a_misspelt_assignment_gets_the_nearest_name(assignment: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        with_overrides(Config(), parse_assignments([assignment]))


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
