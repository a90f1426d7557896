"""NT-Xent, forward and backward: ours against lightly's and against a plain cross-entropy.

    python -m benchmarks.nt_xent [--threads 1] [--device cpu] [--repeats 51]

Each pair takes turns in one process. Before anything is timed, losses and gradients must agree.

Shapes:  N images; D size of z. A loss takes the first views and the second views, (N, D) each.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import Row, append, compare, markdown, publish
from selftaught.methods.simclr import nt_xent

VIEWS = (512, 2048)  # 2N
D, TAU = 128, 0.1
RESULTS, ROWS = Path("docs/results.md"), Path("runs/benchmarks/nt_xent.jsonl")

Loss = Callable[[Tensor, Tensor], Tensor]


def ours(z0_ND: Tensor, z1_ND: Tensor) -> Tensor:
    """What the package trains with."""
    return nt_xent(z0_ND, z1_ND, TAU)


def plain(z0_ND: Tensor, z1_ND: Tensor) -> Tensor:
    """The shortest right way: all cosines, the diagonal masked, cross-entropy."""
    z = F.normalize(torch.cat([z0_ND, z1_ND]), dim=1)
    s = z @ z.T / TAU
    s = s.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -torch.inf)
    positive = torch.arange(len(z), device=z.device).roll(len(z0_ND))
    return F.cross_entropy(s, positive)


def rivals() -> dict[str, Loss]:
    """Other people's losses, and the plain one."""
    from lightly.loss import NTXentLoss

    return {"lightly": NTXentLoss(temperature=TAU), "plain cross-entropy": plain}


def measure(views: int, device: str, threads: int, repeats: int) -> list[Row]:
    """Ours against each rival, on one batch of this many views."""
    numbers = torch.Generator().manual_seed(0)
    z0, noise = torch.randn(2, views // 2, D, generator=numbers)
    z = [rows.to(device).requires_grad_() for rows in (z0, z0 + noise)]
    where = device if device != "cpu" else f"{threads} thread{'s' * (threads != 1)}"
    work = f"NT-Xent, forward and backward, 2N = {views:,}, D = {D}, float32, {where}"
    rows = []
    for name, rival in rivals().items():
        _must_agree(ours, rival, z)
        variants = {"selftaught": _work(ours, z), name: _work(rival, z)}
        rows.append(compare(work, variants, repeats=repeats, warmup=3, packages=["lightly"]))
    return rows


def _work(loss: Loss, z: list[Tensor]) -> Callable[[], object]:
    return lambda: torch.autograd.grad(loss(*z), z)


def _must_agree(a: Loss, b: Loss, z: list[Tensor]) -> None:
    torch.testing.assert_close(a(*z), b(*z), rtol=1e-5, atol=1e-6)
    for x, y in zip(torch.autograd.grad(a(*z), z), torch.autograd.grad(b(*z), z), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-7)


def main() -> None:
    """Measure, print, and write the rows and their part of docs/results.md."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=51)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    rows = [
        row
        for views in VIEWS
        for row in measure(views, chosen.device, chosen.threads, chosen.repeats)
    ]
    for row in rows:
        append(ROWS, row)
    table = markdown(rows)
    print(table)
    where = "cpu" if chosen.device == "cpu" else "gpu"
    publish(RESULTS, f"nt_xent {where}", f"## The loss ({where.upper()})\n\n{table}")


if __name__ == "__main__":
    main()
