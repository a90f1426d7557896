"""selftaught: from a folder of unlabelled images to an encoder, and whether it worked.

>>> import selftaught
>>> selftaught.pretrain("photos", out="run")  # doctest: +SKIP
>>> encoder = selftaught.load("run")  # doctest: +SKIP
"""

import os

from selftaught.api import COMMANDS, load

# torch's threads would spin for long while they wait, and so keep cores from the data threads: on
# two busy cores training then runs at a sixth of its speed. If they did not spin at all, every
# operation would have to wake them. Read when torch is imported, if it is not yet; the count is
# libgomp's.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__version__ = "0.1.0"

check = COMMANDS["check"]
preview = COMMANDS["preview"]
pretrain = COMMANDS["pretrain"]
resume = COMMANDS["resume"]
evaluate = COMMANDS["evaluate"]
report = COMMANDS["report"]
embed = COMMANDS["embed"]
cluster = COMMANDS["cluster"]
assign = COMMANDS["assign"]
classify = COMMANDS["classify"]
index = COMMANDS["index"]
search = COMMANDS["search"]
export = COMMANDS["export"]
demo = COMMANDS["demo"]
info = COMMANDS["info"]
import_ = COMMANDS["import"]  # `import` is a Python keyword

__all__ = [
    "assign",
    "check",
    "classify",
    "cluster",
    "demo",
    "embed",
    "evaluate",
    "export",
    "import_",
    "index",
    "info",
    "load",
    "pretrain",
    "preview",
    "report",
    "resume",
    "search",
]
