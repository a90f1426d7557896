"""Measurements that anyone can repeat: `python -m benchmarks.NAME`; each writes its rows."""

import selftaught  # noqa: F401  (before torch: it says how torch's threads wait, for rivals too)
