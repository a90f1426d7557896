"""Notices on stderr during long work."""

import contextlib
import sys
import threading
from collections.abc import Iterator

LONG = 10.0
"""Seconds of work after which a notice is due."""


@contextlib.contextmanager
def notice_if_slow(text: str, *, after: float = 1.5) -> Iterator[None]:
    """Print a line to stderr if the work inside takes longer than `after` seconds."""
    timer = threading.Timer(after, print, [text], {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
