"""What is said on stderr while work takes its time."""

import contextlib
import sys
import threading
from collections.abc import Iterator

LONG = 10.0
"""Seconds after which a part of a long work is named."""


@contextlib.contextmanager
def meanwhile(text: str, *, after: float = 1.5) -> Iterator[None]:
    """Print a line to stderr if the work inside takes longer than `after` seconds."""
    timer = threading.Timer(after, print, [text], {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
