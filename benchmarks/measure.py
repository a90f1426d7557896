"""Ours against a rival, in turns, in one process: the only way a speed gets into docs/results.md.

On a shared machine a figure by itself says little, so the variants alternate (A B A B ...) and each
pair of neighbouring runs gives one ratio; the row carries the median ratio and how far it strayed.

    row = compare("NT-Xent, 2N = 512", {"ours": ours, "lightly": theirs}, repeats=15)
    append(Path("rows.jsonl"), row)
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

Work = Callable[[], object]
"""One whole piece of the work; what it returns is thrown away."""

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "timm", "numba", "simplejpeg")


@dataclass(frozen=True)
class Row:
    """One line of evidence.

    Attributes:
        work: What was done, sizes included.
        ours: The name of our variant.
        rival: The name of the other one.
        ours_value: Our median.
        rival_value: The rival's median.
        unit: Of the values: "s" for seconds, else something a second, such as "images/s".
        ratio: How many times faster ours was: the median over pairs of neighbouring runs.
        spread: "repeats", and (lowest, highest) of "ours", "rival" and "ratio".
        versions: Python and the packages that matter.
        hardware: Processor, cores that may be used, memory, accelerator.
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
        work: What is done, sizes included.
        variants: Ours first, then the rival, by name.
        items: How many things one call works on, of each variant where they differ: values are
            then things a second.
        of: What those things are.
        repeats: Timed calls of each.
        warmup: Calls of each that are thrown away (compilation, caches).
        packages: More packages whose versions matter, such as the rival's.

    Raises:
        ValueError: There are not exactly two variants, or nothing is to be timed.
    """
    if len(variants) != 2 or repeats < 1:
        raise ValueError(f"two variants and a repetition are wanted, not {list(variants)}")
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
    """Seconds of each call, the variants one after the other in every round: A B A B ..."""
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
    """Add a row to a file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(asdict(row)) + "\n")


def write_json(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows of a run as one JSON array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def output_options(parser: argparse.ArgumentParser) -> None:
    """Where a script's rows go: into docs/results.md, unless a file is named for them."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    publish_help = "write docs/results.md, which is left alone where --json is given"
    parser.add_argument("--publish", action="store_true", help=publish_help)


def publishes(chosen: argparse.Namespace) -> bool:
    """Whether the page shall be written."""
    return bool(chosen.publish or chosen.json is None)


def use_cores(number: int) -> None:
    """Confine this process, and those that it starts, to so many cores and threads.

    Threads of torch, OpenCV and numba alike. Call it before anything is measured.

    Raises:
        ValueError: There are not so many cores.
    """
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= number <= len(cores):
        raise ValueError(f"{number} of {len(cores)} cores are wanted")
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
    """The most memory, in MiB, that this process has held since it began (Linux's VmHWM).

    getrusage's ru_maxrss would also know that of the program that started this one.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def markdown(rows: Sequence[Row]) -> str:
    """Rows as a table for docs/results.md; what all have in common stands below it, once."""
    lines = [
        "| work | ours | value | rival | value | ours is faster by | lowest to highest | runs |",
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
    """Put a script's part into docs/results.md, between its own two marks, and leave the rest."""
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->\n"
    page = results.read_text() if results.exists() else "# Results\n"
    if begin in page:
        before, _, rest = page.partition(begin)
        page = before + begin + body.strip() + "\n" + end + rest.partition(end)[2]
    else:
        page = f"{page.rstrip()}\n\n{begin}{body.strip()}\n{end}"
    results.write_text(page)


def versions(packages: Sequence[str] = ()) -> dict[str, str]:
    """Python's version and those of our packages and `packages`, where they are installed."""
    found = {"python": platform.python_version()}
    for name in (*PACKAGES, *packages):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> str:
    """The machine in one line: processor, cores that may be used, memory, accelerator."""
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
    """What waits until the accelerator has done what it was given; nothing on a CPU."""
    import torch

    return torch.cuda.synchronize if torch.cuda.is_available() else lambda: None


def _range(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)
