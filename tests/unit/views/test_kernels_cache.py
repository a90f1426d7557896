"""The fused kernel is compiled once on a machine and says so; without a place for it, each time."""

import os
import re
import subprocess
import sys

import pytest

from selftaught.views.fused import compiled, draws, view

SCRIPT = """
import numpy as np
from selftaught.views import kernels
from selftaught.views.policy import Intensity, simclr_cifar
from selftaught.views.raw import Raw
from selftaught.views.sample import sample
raw, policy = Raw.of(np.zeros((40, 9, 9, 3), np.uint8)), simclr_cifar()
params = sample(policy, size=8, sizes_N2=raw.sizes_N2, draws_N=np.arange(40), seed=0)
for _ in range(2):
    print(kernels.apply_compiled(raw, params, policy, Intensity()).sum().item())
"""


def run(script, cache):
    """What a new process prints, and what it complains of."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"NUMBA_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, done.stderr.splitlines()


@pytest.mark.slow
def test_compiles_once_and_says_so(tmp_path):
    first, lines = run(SCRIPT, tmp_path)
    assert len(lines) == 2 and "Compiling the augmentations for uint8" in lines[0]
    assert re.fullmatch(r"Compiled in \d+\.\d s\.", lines[1])
    assert run(SCRIPT, tmp_path) == (first, [])


NOWHERE = "from numba.core import caching; caching.CacheImpl._locator_classes = []"
FULL = """
from numba.core import caching
def full(*_): raise OSError(28, "No space left on device")
caching.IndexDataCacheFile.save = full
"""


@pytest.mark.slow
@pytest.mark.parametrize("trouble", [NOWHERE, FULL], ids=["nowhere", "full"])
def test_views_are_made_where_nothing_can_be_kept(trouble, tmp_path):
    views, lines = run(trouble + SCRIPT, tmp_path)
    one, again = views.split()
    assert one == again and len(lines) == 2
    assert not list(tmp_path.rglob("*.nbc"))


@pytest.mark.parametrize("entry", [draws._fill, view.make])
def test_a_change_of_any_source_makes_what_is_cached_stale(entry):
    enclosed = dict(zip(entry.py_func.__code__.co_freevars, entry.py_func.__closure__, strict=True))
    assert enclosed["sources"].cell_contents == compiled.sources()
