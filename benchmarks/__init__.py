"""Repeatable measurements: `python -m benchmarks.NAME`; each script writes its own results."""

import selftaught  # noqa: F401  (before torch: it says how torch's threads wait, for rivals too)
