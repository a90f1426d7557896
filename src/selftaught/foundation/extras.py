"""Packages that only some commands need, and how to install them."""

from importlib import import_module
from typing import Any

from selftaught.errors import ConfigError


def import_extra(module: str, why: str, extra: str) -> Any:
    """A module that an extra of selftaught installs.

    Args:
        module: Its name.
        why: What needs it, with its usual name, for the error: "SIFT needs OpenCV".
        extra: The extra.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        return import_module(module)
    except ImportError:
        remedy = f"pip install 'selftaught[{extra}]'"
        raise ConfigError(f"{why}, which is not installed", remedy) from None
