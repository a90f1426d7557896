"""Options of the commands about selftaught itself: demo, info, methods."""

from typing import Literal

from selftaught.options.shared import (
    Folder,
    JsonOption,
    MachineOptions,
    OverwriteOption,
    Run,
    SeedOption,
    command,
)


@command
class Demo(SeedOption, OverwriteOption, MachineOptions):
    """Run the whole workflow on images from an installed package.

    Example:
        selftaught demo --out demo
    """

    out: Folder
    """Folder for everything that the demo writes."""
    data: Literal["elpv", "mnist5k"] = "elpv"
    """elpv: solar cells, some of them defective; mnist5k: handwritten digits."""
    seconds: float = 120.0
    """Training time in seconds."""


@command
class Info(JsonOption):
    """Show what a run or an encoder contains.

    Example:
        selftaught info run
    """

    run: Run
    """Run folder, encoder folder, or timm:NAME."""


@command
class Methods(JsonOption):
    """List the training methods with their options.

    Example:
        selftaught methods
    """
