"""The Python API: the names of the package stay functions, whatever is imported."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
from keyword import iskeyword
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import selftaught
from selftaught.api import COMMANDS, Command
from selftaught.errors import ConfigError
from selftaught.options.assess import Evaluate
from selftaught.options.exchange import Export
from selftaught.options.train import Pretrain


def test_importing_modules_leaves_the_functions_in_place() -> None:
    for module in pkgutil.iter_modules(selftaught.__path__):
        importlib.import_module(f"selftaught.{module.name}")
    for name in selftaught.__all__:
        assert callable(getattr(selftaught, name)), name


def test_every_command_is_a_function_with_the_same_defaults() -> None:
    for name, command in COMMANDS.items():
        if name != "methods":  # the command line's alone: selftaught.methods is a package
            assert getattr(selftaught, name + "_" * iskeyword(name)) is command
        parameters = inspect.signature(command).parameters
        for option, parameter in parameters.items():
            if parameter.default is not inspect.Parameter.empty:
                assert parameter.default == getattr(command.options, option)


def test_a_misspelt_option_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="epochs"):
        selftaught.pretrain("x", out="y", epoch=3)


def test_a_missing_option_is_named() -> None:
    with pytest.raises(ConfigError, match="out"):
        selftaught.pretrain("x")


CHOSEN: list[Any] = []


def record(chosen: Any) -> None:
    CHOSEN.append(chosen)


def chosen(options: type[Any], *positional: Any, **named: Any) -> Any:
    Command(options, f"{__name__}:record")(*positional, **named)
    return CHOSEN.pop()


def test_values_are_taken_as_they_come_in_python() -> None:
    found = chosen(
        Pretrain, Path("photos"), out="run", epochs=np.int64(3), lr=1, set="temperature=0.2"
    )
    assert (found.data, found.out) == ("photos", Path("run"))
    assert (found.epochs, type(found.epochs)) == (3, int)
    assert (found.lr, type(found.lr)) == (1.0, float)
    assert found.set == ("temperature=0.2",)
    assert chosen(Evaluate, "run", "x", protocol=["knn", "linear"]).protocol == ("knn", "linear")
    assert chosen(Pretrain, "x", out="y", lr=np.float32(0.5)).lr == 0.5


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ({"out": 3}, "out: 3 is not a path"),
        ({"out": None}, "out: None is not"),
        ({"data": 3}, "data: 3 is not text"),
        ({"epochs": "ten"}, "epochs: 'ten' is not a whole number"),
        ({"epochs": 1.5}, "epochs: 1.5 is not a whole number"),
        ({"epochs": True}, "epochs: True is not a whole number"),
        ({"epochs": 0}, "epochs is 0: choose a number from 1"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"lr": float("inf")}, "lr is inf"),
        ({"threads": 0}, "threads is 0"),
        ({"image_size": 4}, "image_size is 4"),
        ({"seed": -1}, "seed is -1"),
        ({"overwrite": "yes"}, "overwrite: 'yes' is not true or false"),
        ({"set": 3}, "set: 3 is not a list"),
        ({"set": [3]}, "set: 3 is not text"),
    ],
)
def test_a_wrong_value_is_named(named: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        chosen(Pretrain, **({"data": "x", "out": "y"} | named))
    assert says in str(caught.value)


@pytest.mark.parametrize("to", ["caffe", ["timm"]])
def test_a_word_that_is_not_known_is_named(to: Any) -> None:
    with pytest.raises(ConfigError, match="is not one of timm, torchvision"):
        chosen(Export, "run", to=to, out="y")


def test_a_call_that_python_would_refuse_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="2 positional arguments were given, at most 1"):
        selftaught.pretrain("x", "y", out="z")
    with pytest.raises(TypeError, match="data was given by position and by name"):
        selftaught.pretrain("x", data="y", out="z")
    with pytest.raises(TypeError, match="all are keyword-only"):
        selftaught.demo("x")


def test_the_package_is_imported_without_what_is_heavy() -> None:
    code = (
        "import sys, selftaught;"
        "assert not {'torch', 'numpy', 'PIL', 'pyarrow', 'yaml', 'timm'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
