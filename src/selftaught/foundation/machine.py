"""The current machine: its device, cores, memory and cache folder."""

import contextlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from selftaught.errors import ConfigError


@dataclass(frozen=True)
class Machine:
    """Where to compute: passed to everything that reads images or runs a network.

    Attributes:
        device: torch's name of the device.
        threads: Threads that read and decode images; results do not depend on their number.
        cache: Folder for decoded images and features; None: no cache.
    """

    device: str = "cpu"
    threads: int = 2
    cache: Path | None = None


CPU = Machine()
"""The CPU, with two data threads and no cache."""


def pick_device(name: str) -> str:
    """The device for a `--device` value; "auto" means an accelerator if available.

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
            f"--device {name!r} is not available on this machine", "pass cpu, or drop --device"
        ) from None
    return name


def cache_folder(chosen: Path | None) -> Path:
    """The folder for decoded images and features; created if missing.

    Raises:
        ConfigError: The folder cannot be created.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = chosen or Path(home) / "selftaught"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the cache {folder} cannot be created ({error.strerror})", "pass --cache DIR"
        ) from None
    return folder


def cores() -> int:
    """Number of processor cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int:
    """Maximum memory of this process, in bytes."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits)


def memory_share() -> int:
    """A quarter of the memory, divided among torchrun's processes on this machine, in bytes."""
    return memory() // 4 // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def hardware_name(device: str) -> str:
    """Short name of the hardware, for reports and results."""
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
