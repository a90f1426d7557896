"""Measure the speed of NT-Xent, forward and backward, against lightly's and two plain versions.

    python -m benchmarks.nt_xent [--threads 1] [--device cpu] [--repeats 1] [--json FILE]

Each pair takes turns in one process; --repeats multiplies the turns. Before any timing, losses and
gradients must agree. On the CPU the script also measures memory: the peak of a fresh process after
a loss of 8,192 views, minus its peak after one of 64, several times for ours and for lightly's.

Shapes:  N images; D size of z. A loss takes the first views and the second views, (N, D) each.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import measure
from benchmarks.measure import Row, append, compare, markdown
from selftaught.methods.simclr import nt_xent

TURNS = {512: 101, 2048: 25, 8192: 7, 16384: 3}  # by 2N
LARGE, SMALL, PROCESSES = 8192, 64, 3  # 2N of the memory measurement, and its repeats
D, TAU = 128, 0.1
ROOT = Path(__file__).parents[1]
RESULTS, ROWS = ROOT / "docs/results.md", ROOT / "runs/benchmarks/nt_xent.jsonl"

Loss = Callable[[Tensor, Tensor], Tensor]


def ours(z0_ND: Tensor, z1_ND: Tensor) -> Tensor:
    """The loss that this package trains with."""
    return nt_xent(z0_ND, z1_ND, TAU)


def plain_cross_entropy(z0_ND: Tensor, z1_ND: Tensor) -> Tensor:
    """The shortest correct version: all cosines, the diagonal masked, cross-entropy."""
    z = F.normalize(torch.cat([z0_ND, z1_ND]), dim=1)
    s = z @ z.T / TAU
    s = s.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -torch.inf)
    positive = torch.arange(len(z), device=z.device).roll(len(z0_ND))
    return F.cross_entropy(s, positive)


def exp_and_sums(z0_ND: Tensor, z1_ND: Tensor) -> Tensor:
    """Eq. 1 as printed, ignoring overflow: the form of solo-learn's loss."""
    z = F.normalize(torch.cat([z0_ND, z1_ND]), dim=1)
    e = torch.exp(z @ z.T / TAU)
    sums = e.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), 0).sum(1)
    positive = torch.exp(z.unflatten(0, (2, -1)).prod(0).sum(1) / TAU)
    return -torch.log(positive.repeat(2) / sums).mean()


def rivals() -> dict[str, Loss]:
    """lightly's loss and the plain versions."""
    from lightly.loss import NTXentLoss

    return {
        "lightly": NTXentLoss(temperature=TAU),
        "plain cross-entropy": plain_cross_entropy,
        "exp and sums": exp_and_sums,
    }


def view_pair(views: int, device: str = "cpu") -> list[Tensor]:
    """First and second views of a batch, 2N in all, as different as after some training."""
    numbers = torch.Generator().manual_seed(0)
    z0, noise = torch.randn(2, views // 2, D, generator=numbers)
    return [rows.to(device).requires_grad_() for rows in (z0, z0 + noise)]


def timings(views: int, device: str, threads: int, repeats: int) -> list[Row]:
    """Time ours against each rival, on one batch of this many views."""
    z = view_pair(views, device)
    where = device if device != "cpu" else _thread_count(threads)
    work = f"NT-Xent, forward and backward, 2N = {views:,}, D = {D}, float32, {where}"
    rows = []
    for name, rival in rivals().items():
        _check_agreement(ours, rival, z)
        variants = {"selftaught": _work(ours, z), name: _work(rival, z)}
        warmup = 3 if views < LARGE else 1
        rows.append(compare(work, variants, repeats=repeats, warmup=warmup, packages=["lightly"]))
    return rows


def _thread_count(threads: int) -> str:
    return f"{threads} thread{'s' * (threads != 1)}"


def _work(loss: Loss, z: list[Tensor]) -> Callable[[], object]:
    return lambda: torch.autograd.grad(loss(*z), z)


def _check_agreement(a: Loss, b: Loss, z: list[Tensor]) -> None:
    torch.testing.assert_close(a(*z), b(*z), rtol=1e-5, atol=1e-6)
    for x, y in zip(torch.autograd.grad(a(*z), z), torch.autograd.grad(b(*z), z), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-7)


def memory(threads: int) -> Row:
    """Peak memory of our loss and of lightly's, in separate processes that take turns."""
    peaks: dict[str, list[float]] = {"selftaught": [], "lightly": []}
    for _ in range(PROCESSES):
        for name, found in peaks.items():
            found.append(_peak_in_a_process(name, threads))
    ours, rival = peaks.values()
    ratios = [theirs / mine for mine, theirs in zip(ours, rival, strict=True)]
    ranges = {"ours": ours, "rival": rival, "ratio": ratios}
    return Row(
        work=f"NT-Xent, peak memory, 2N = {LARGE:,}, D = {D}, float32, {_thread_count(threads)}",
        ours="selftaught",
        rival="lightly",
        ours_value=statistics.median(ours),
        rival_value=statistics.median(rival),
        unit="MiB",
        ratio=statistics.median(ratios),
        spread={"repeats": PROCESSES, **{k: (min(v), max(v)) for k, v in ranges.items()}},
        versions=measure.versions(["lightly"]),
        hardware=measure.hardware(),
    )


def _peak_in_a_process(name: str, threads: int) -> float:
    command = [sys.executable, "-m", "benchmarks.nt_xent", "--child", name]
    command += ["--threads", str(threads)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def peak(name: str) -> float:
    """MiB that a large loss needs beyond a small one."""
    loss = ours if name == "selftaught" else rivals()[name]
    z = view_pair(LARGE)
    _work(loss, view_pair(SMALL))()
    before = measure.peak_mib()
    _work(loss, z)()
    return measure.peak_mib() - before


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the rows and their section of docs/results.md."""
    chosen = parser().parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    if chosen.child:
        print(peak(chosen.child))
        return
    rows = [
        row
        for views in chosen.views
        for row in timings(views, chosen.device, chosen.threads, TURNS[views] * chosen.repeats)
    ]
    report = markdown(rows)
    if chosen.device == "cpu":
        rows.append(used := memory(chosen.threads))
        report += (
            f"\n{used.work}: {used.ours_value:.0f} MiB, "
            f"1/{used.ratio:.0f} of lightly's {used.rival_value:.0f} MiB.\n"
        )
    for row in rows:
        append(ROWS, row)
    print(report)
    if chosen.json:
        measure.write_json(chosen.json, rows)
    if measure.publishes(chosen):
        publish(report, chosen.device, chosen.threads)


def publish(report: str, device: str, threads: int) -> None:
    """Write the section of docs/results.md for this device and number of threads."""
    name, title = "nt_xent gpu", "The loss (GPU)"
    if device == "cpu":
        name, title = f"nt_xent cpu {threads}", f"The loss (CPU, {_thread_count(threads)})"
    measure.publish(RESULTS, name, f"## {title}\n\n{report}")


def parser() -> argparse.ArgumentParser:
    """The script's options."""
    as_written = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--device", default="cpu")
    options.add_argument("--views", type=int, nargs="+", choices=TURNS, default=list(TURNS))
    options.add_argument("--repeats", type=int, default=1)
    options.add_argument("--child", choices=("selftaught", "lightly"), help=argparse.SUPPRESS)
    measure.output_options(options)
    return options


if __name__ == "__main__":
    main()
