"""The Python API: the names of the package stay functions, whatever is imported."""

import importlib
import inspect
import pkgutil

import pytest

import selftaught
from selftaught.api import COMMANDS
from selftaught.errors import ConfigError


def test_importing_modules_leaves_the_functions_in_place() -> None:
    for module in pkgutil.iter_modules(selftaught.__path__):
        importlib.import_module(f"selftaught.{module.name}")
    for name in selftaught.__all__:
        assert callable(getattr(selftaught, name)), name


def test_every_command_is_a_function_with_the_same_defaults() -> None:
    for name, command in COMMANDS.items():
        assert getattr(selftaught, name) is command
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
