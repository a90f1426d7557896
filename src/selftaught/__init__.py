"""selftaught: from a folder of unlabelled images to an encoder, and whether it worked.

>>> import selftaught
>>> selftaught.pretrain("photos", out="run")  # doctest: +SKIP
>>> encoder = selftaught.load("run")  # doctest: +SKIP
"""

from selftaught.api import (
    check,
    demo,
    embed,
    evaluate,
    export,
    info,
    load,
    methods,
    pretrain,
    report,
    resume,
    views,
)

__version__ = "0.1.0"

__all__ = [
    "check",
    "demo",
    "embed",
    "evaluate",
    "export",
    "info",
    "load",
    "methods",
    "pretrain",
    "report",
    "resume",
    "views",
]
