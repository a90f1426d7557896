"""One file per paper. The registry is lazy: importing one method imports no other."""

from importlib import import_module
from typing import TYPE_CHECKING

from selftaught.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from selftaught.methods.method import Method

REGISTRY = {
    "deepcluster": "selftaught.methods.deepcluster:DeepCluster",
    "simclr": "selftaught.methods.simclr:SimCLR",
}


def find_method(name: str) -> "type[Method]":
    """The class of a registered method.

    Raises:
        ConfigError: No method has this name.
    """
    if name not in REGISTRY:
        raise ConfigError(f"unknown method {name!r}", did_you_mean(name, REGISTRY))
    module, _, attribute = REGISTRY[name].partition(":")
    method: type[Method] = getattr(import_module(module), attribute)
    return method
