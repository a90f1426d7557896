"""Timing of two variants in turns, in one process: the source of every speed in docs/results.md.

On a shared machine a single figure says little, so the variants alternate (A B A B ...) and each
pair of neighbouring runs gives one ratio; a row holds the median ratio and its range.

    row = compare("NT-Xent, 2N = 512", {"ours": ours, "lightly": theirs}, repeats=15)
    append(Path("rows.jsonl"), row)
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

Work = Callable[[], object]
"""One complete piece of the work; its return value is discarded."""

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "timm", "numba", "simplejpeg")


@dataclass(frozen=True)
class Row:
    """One comparison of two variants.

    Attributes:
        work: What was done, including sizes.
        ours: Name of our variant.
        rival: Name of the other variant.
        ours_value: Our median.
        rival_value: The rival's median.
        unit: Unit of the values: "s" for seconds, otherwise a rate such as "images/s".
        ratio: How many times faster ours was: the median over pairs of neighbouring runs.
        spread: "repeats", and (lowest, highest) of "ours", "rival" and "ratio".
        versions: Versions of Python and of the relevant packages.
        hardware: Processor, usable cores, memory, accelerator.
    """

    work: str
    ours: str
    rival: str
    ours_value: float
    rival_value: float
    unit: str
    ratio: float
    spread: dict[str, object]
    versions: dict[str, str]
    hardware: str


def compare(
    work: str,
    variants: Mapping[str, Work],
    *,
    items: float | Mapping[str, float] | None = None,
    of: str = "images",
    repeats: int = 9,
    warmup: int = 2,
    packages: Sequence[str] = (),
) -> Row:
    """Time two variants of the same work in turns.

    Args:
        work: What is done, including sizes.
        variants: By name: ours first, then the rival.
        items: Number of things that one call processes, per variant if they differ. The values
            are then things per second.
        of: Name of those things.
        repeats: Timed calls per variant.
        warmup: Untimed calls per variant beforehand (compilation, caches).
        packages: Further packages whose versions matter, such as the rival's.

    Raises:
        ValueError: The number of variants is not two, or `repeats` is below 1.
    """
    if len(variants) != 2 or repeats < 1:
        raise ValueError(f"need two variants and at least one repeat, not {list(variants)}")
    seconds = alternate(variants, repeats=repeats, warmup=warmup)
    (ours, a), (rival, b) = seconds.items()
    each = items if isinstance(items, Mapping) else dict.fromkeys(variants, items or 1.0)
    ratios = [
        (theirs / each[rival]) / (mine / each[ours]) for mine, theirs in zip(a, b, strict=True)
    ]
    if items:
        a, b = ([each[name] / t for t in seconds[name]] for name in (ours, rival))
    return Row(
        work=work,
        ours=ours,
        rival=rival,
        ours_value=statistics.median(a),
        rival_value=statistics.median(b),
        unit=f"{of}/s" if items else "s",
        ratio=statistics.median(ratios),
        spread={"repeats": repeats, "ours": _range(a), "rival": _range(b), "ratio": _range(ratios)},
        versions=versions(packages),
        hardware=hardware(),
    )


def alternate(
    variants: Mapping[str, Work], *, repeats: int, warmup: int = 2
) -> dict[str, list[float]]:
    """Seconds per call; the variants alternate in every round: A B A B ..."""
    finish = _finisher()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(warmup + repeats):
        for name, call in variants.items():
            finish()
            start = time.perf_counter()
            call()
            finish()
            if round_ >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def append(path: Path, row: Row) -> None:
    """Append a row to a JSON Lines file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(asdict(row)) + "\n")


def write_json(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows of a run as one JSON array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def output_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for a script's output: docs/results.md, or a file instead."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE")
    publish_help = "update docs/results.md even if --json is given"
    parser.add_argument("--publish", action="store_true", help=publish_help)


def publishes(chosen: argparse.Namespace) -> bool:
    """Whether to update docs/results.md."""
    return bool(chosen.publish or chosen.json is None)


def use_cores(number: int) -> None:
    """Confine this process and its children to this many cores and threads.

    This covers the threads of torch, OpenCV and numba. Call it before measuring anything.

    Raises:
        ValueError: The number is below 1 or above the number of usable cores.
    """
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= number <= len(cores):
        raise ValueError(f"cannot use {number} of {len(cores)} cores")
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), cores[-number:])
    import numba
    import torch

    torch.set_num_threads(number)
    numba.set_num_threads(min(number, numba.config.NUMBA_NUM_THREADS))
    with contextlib.suppress(ImportError):
        import cv2

        cv2.setNumThreads(number)


def peak_mib() -> float:
    """Peak memory of this process since it started, in MiB (Linux's VmHWM).

    getrusage's ru_maxrss would include the peak of the program that started this one.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def markdown(rows: Sequence[Row]) -> str:
    """Rows as a table for docs/results.md, followed by hardware and versions, once each."""
    lines = [
        "| work | ours | value | rival | value | speed-up | lowest to highest | runs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row.spread["ratio"]
        lines.append(
            f"| {row.work} | {row.ours} | {row.ours_value:,.4g} {row.unit} | {row.rival} "
            f"| {row.rival_value:,.4g} {row.unit} | {row.ratio:.2f}x "
            f"| {low:.2f}x to {high:.2f}x | {row.spread['repeats']} of each |"
        )
    for place in dict.fromkeys((row.hardware, *row.versions.items()) for row in rows):
        lines.append(f"\n{place[0]}; " + ", ".join(f"{k} {v}" for k, v in place[1:]) + ".")
    return "\n".join(lines) + "\n"


def publish(results: Path, name: str, body: str) -> None:
    """Replace a script's section of docs/results.md, between its markers, and keep the rest."""
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->\n"
    page, body = results.read_text() if results.exists() else "# Results\n", wrapped(body.strip())
    if begin in page:
        before, _, rest = page.partition(begin)
        page = before + begin + body + "\n" + end + rest.partition(end)[2]
    else:
        page = f"{page.rstrip()}\n\n{begin}{body}\n{end}"
    results.write_text(page)


def wrapped(body: str, width: int = 100) -> str:
    """Markdown with long lines of prose broken; tables, pictures, links and code stay."""
    lines, code = [], False
    for line in body.split("\n"):
        code ^= line.startswith("```")
        if code or len(line) <= width or line.startswith(("|", "!", "#", "```")):
            lines.append(line)
        else:
            indent = "  " * line.startswith("* ")
            lines += textwrap.wrap(
                line,
                width,
                subsequent_indent=indent,
                break_on_hyphens=False,
                break_long_words=False,
            )
    return "\n".join(lines)


def versions(packages: Sequence[str] = ()) -> dict[str, str]:
    """Versions of Python, of our packages and of `packages`, where installed."""
    found = {"python": platform.python_version()}
    for name in (*PACKAGES, *packages):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> str:
    """The machine in one line: processor, usable cores, memory, accelerator."""
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    parts = [_processor(), f"{cores} cores", f"{memory:.0f} GiB"]
    import torch

    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join(parts)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _finisher() -> Callable[[], object]:
    """A function that waits for the accelerator to finish; on a CPU it does nothing."""
    import torch

    return torch.cuda.synchronize if torch.cuda.is_available() else lambda: None


def _range(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)
