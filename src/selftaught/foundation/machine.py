"""The machine at hand: which device, how many cores, where the cache lies."""

import contextlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from selftaught.errors import ConfigError


@dataclass(frozen=True)
class Machine:
    """Where to compute: one value for everything that reads images or runs a network.

    Attributes:
        device: torch's name of the device.
        threads: Threads that read and decode images; results do not depend on their number.
        cache: Folder for decoded images and features; None: keep nothing.
    """

    device: str = "cpu"
    threads: int = 2
    cache: Path | None = None


CPU = Machine()
"""The CPU, with two data threads and no cache."""


def pick_device(name: str) -> str:
    """The device that `--device` names: "auto" takes an accelerator where there is one.

    Raises:
        ConfigError: torch does not know the device, or this machine does not have it.
    """
    import torch

    if name == "auto":
        local = os.environ.get("LOCAL_RANK", "0")
        return f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError):
        raise ConfigError(
            f"--device {name!r} is not on this machine", "give cpu, or leave it out"
        ) from None
    return name


def cache_folder(chosen: Path | None) -> Path:
    """Where decoded images and features are kept; created if need be.

    Raises:
        ConfigError: The folder cannot be created.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = chosen or Path(home) / "selftaught"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the cache {folder} cannot be created ({error.strerror})", "give --cache DIR"
        ) from None
    return folder


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int:
    """Bytes of memory that this process may use, at most."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits)


def memory_share() -> int:
    """A quarter of the memory, shared among the processes that torchrun started here, in bytes."""
    return memory() // 4 // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def describe(device: str) -> str:
    """The hardware in a few words, for reports and results."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{cores()} cores of {_processor()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
