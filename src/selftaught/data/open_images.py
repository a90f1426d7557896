"""The single entry point to images: finds, checks and stores DATA."""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from selftaught.data.check_images import Checked, check_images
from selftaught.data.sources import Source, absolute_name, find_images
from selftaught.data.store import Form, Images, open_store
from selftaught.errors import DataError, printable
from selftaught.foundation import distributed
from selftaught.foundation.machine import Machine
from selftaught.foundation.progress import notice_if_slow

T = TypeVar("T")

_NAMED = 5  # rejected images that the sentence lists


@dataclass(frozen=True)
class DataSettings:
    """Which images to use, and how to store them.

    `dct_scaling` lets libjpeg do part of the shrinking to `store_size`: large photographs are read
    faster, and their pixels differ slightly. `benchmarks/dct_scaling.py` measures both.
    """

    path: str = ""
    store_size: int | None = None
    dct_scaling: bool = False
    min_side: int = 1


def check_data(settings: DataSettings, machine: Machine) -> Checked:
    """Check every image that the settings name; process 0 goes first.

    Raises:
        DataError: No image is usable.
    """
    name, min_side = settings.path, settings.min_side
    text = f"Checking every image of {name!r}; the results are cached."
    return _rank_0_first(
        lambda: check_images(find_images(name), machine, min_side=min_side),
        text,
    )


def open_images(
    data: str | DataSettings,
    machine: Machine,
    *,
    checked: Checked | None = None,
    form: Form | None = None,
) -> Images:
    """The usable images that DATA names, with their pixels; process 0 goes first.

    Args:
        data: Any form of DATA, or settings that name it.
        machine: Threads for decoding, and the cache.
        checked: The result of `check_data`, to skip that step.
        form: See `data.store.open_store`.

    Raises:
        DataError: No image is usable.
    """
    settings = data if isinstance(data, DataSettings) else DataSettings(absolute_name(data))
    found = checked or check_data(settings, machine)
    store = _rank_0_first(
        lambda: open_store(
            found,
            machine,
            store_size=settings.store_size,
            dct_scaling=settings.dct_scaling,
            form=form,
        ),
        f"Decoding {len(found):,} images; their pixels are cached.",
    )
    return Images(found, store)


def open_images_with_notice(data: str, machine: Machine) -> Images:
    """The usable images that DATA names; a line on stderr lists the unusable ones.

    Raises:
        DataError: No image is usable.
    """
    images = open_images(data, machine)
    _print_rejected(images.checked)
    return images


def open_files(paths: Sequence[Path], machine: Machine) -> Images:
    """Open all of these files, each once.

    Raises:
        DataError: A file cannot be used.
    """
    real = dict.fromkeys(path.parent.resolve() / path.name for path in paths)
    root = Path(os.path.commonpath([path.parent for path in real]))
    source = Source(str(root), root, tuple(path.relative_to(root).as_posix() for path in real))
    checked = check_images(source, machine)
    for name, reason in zip(*checked.rejected.to_pydict().values(), strict=True):
        what = f"{printable(str(root / name))} cannot be used ({reason})"
        raise DataError(what, "restore it, or remove it from the set")
    return open_images(DataSettings(str(root)), machine, checked=checked)


def open_new_images(
    data: str, machine: Machine, known: Set[tuple[str, str]]
) -> tuple[Images | None, int]:
    """The usable images of DATA that are new, and the number of known ones.

    Args:
        data: Images, in any form.
        machine: Threads and cache.
        known: Path and SHA-256 of each known image.

    Returns:
        The new images in order, rows 0 .. n-1, or None if all are known; and the number known.

    Raises:
        DataError: No image is usable.
    """
    settings = DataSettings(absolute_name(data))
    checked = check_data(settings, machine)
    _print_rejected(checked)
    columns = (checked.images[name].to_pylist() for name in ("path", "sha256"))
    new = np.flatnonzero([pair not in known for pair in zip(*columns, strict=True)])
    old = len(checked) - len(new)
    if not len(new):
        return None, old
    if old:
        images = checked.images.take(new).set_column(0, "row", [np.arange(len(new))])
        checked = replace(checked, index_N=checked.index_N[new], images=images)
    return open_images(settings, machine, checked=checked), old


def rejected_sentence(checked: Checked) -> str:
    """A sentence that lists the unusable images with reasons; "" if all are usable."""
    columns = (checked.rejected[name].to_pylist() for name in ("path", "reason"))
    faults = [f"{printable(path)} ({reason})" for path, reason in zip(*columns, strict=True)]
    if not faults:
        return ""
    more = len(faults) - _NAMED
    which = ", ".join(faults[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")
    images = "1 image is" if len(faults) == 1 else f"{len(faults):,} images are"
    return f"{images} left out: {which}."


def _print_rejected(checked: Checked) -> None:
    if words := rejected_sentence(checked):
        print(words, file=sys.stderr)


def _rank_0_first(work: Callable[[], T], text: str) -> T:
    """Run work on process 0 first, so that the others find its cache; `text` is its notice."""
    done: list[T] = []
    first = distributed.rank() == 0
    for turn in (True, False):
        if turn == first:
            with notice_if_slow(text) if first else contextlib.nullcontext():
                done.append(work())
        distributed.any_process(False)
    return done[0]
