"""Measure the speed of our linear probe against scikit-learn's, at the same or a lower objective.

    python -m benchmarks.probes --data DIR [--encoder FOLDER] [--cache DIR] [--json FILE]

The vectors are those of CIFAR-10's training images (DIR/train.npz) from a resnet18 at 32 px, 512
numbers each: untrained with calibrated batch norms, or from the encoder in FOLDER. Both sides get
the same float32 vectors and minimise the same objective, on standardised x,

    1/n sum_i CE(W x_i + b, y_i) + lambda/2 |W|^2,

from zero, standardisation included. scikit-learn's solver is lbfgs, with its default tolerance and
the given --iterations; its default of 100 is too few. One function recomputes both objectives, in
float64.

Shapes:  n vectors, D their size; K classes.
"""

import argparse
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import measure
from benchmarks.measure import Row, append, compare, markdown
from selftaught.evaluation.protocols import linear
from selftaught.foundation.machine import Machine, cores

ROOT = Path(__file__).parents[1]
RESULTS, ROWS = ROOT / "docs/results.md", ROOT / "runs/benchmarks/probes.jsonl"

Floats = NDArray[np.float32] | NDArray[np.float64]
Found = tuple[Floats, Floats]
"""W (K, D) and b (K,), for standardised vectors."""


@dataclass(frozen=True)
class Problem:
    """Vectors and their classes."""

    x_nD: NDArray[np.float32]
    labels_n: NDArray[np.int64]

    @property
    def classes(self) -> int:
        """K."""
        return int(self.labels_n.max()) + 1

    @cached_property
    def z_nD(self) -> NDArray[np.float64]:
        """The standardised vectors, as in the definition of the objective."""
        x_nD = self.x_nD.astype(np.float64)
        deviation_D = x_nD.std(axis=0)
        dead_D = deviation_D <= 1e-5 * np.abs(x_nD.mean(axis=0)) + 1e-12
        return (x_nD - x_nD.mean(axis=0)) / np.where(dead_D, np.inf, deviation_D)

    def objective(self, found: Found, strength: float) -> float:
        """The objective of weights for standardised vectors."""
        W_KD, b_K = (np.asarray(part, np.float64) for part in found)
        scores_nK = self.z_nD @ W_KD.T + b_K
        scores_nK -= scores_nK.max(axis=1, keepdims=True)
        right_n = scores_nK[np.arange(len(scores_nK)), self.labels_n]
        losses_n = np.log(np.exp(scores_nK).sum(axis=1)) - right_n
        return float(losses_n.mean() + strength / 2 * (W_KD**2).sum())


@dataclass(frozen=True)
class Comparison:
    """A row of times, and both objectives.

    Attributes:
        row: Times, for the table.
        strength: lambda.
        ours: Our objective.
        rival: The rival's.
        iterations: Iterations the rival took, and its limit.
    """

    row: Row
    strength: float
    ours: float
    rival: float
    iterations: tuple[int, int]


def problem_from(chosen: Any) -> Problem:
    """Vectors and classes of the first images; the vectors are cached."""
    from selftaught.data.labels import label
    from selftaught.data.open_images import open_images
    from selftaught.encoders.encoder import EncoderConfig
    from selftaught.encoders.folder import open_encoder
    from selftaught.evaluation.representation import EncoderRepresentation, random_init

    images = open_images(str(prefix(chosen)), machine=Machine(cache=chosen.cache))
    machine = Machine(chosen.device, cores(), chosen.cache)
    if chosen.encoder:
        subject = EncoderRepresentation("given", open_encoder(str(chosen.encoder)), machine=machine)
    else:
        config = EncoderConfig(
            "resnet18", images.checked.channels, 32, intensity=images.checked.intensity
        )
        subject = random_init(config, images, np.arange(len(images.store)), machine, seed=0)
    return Problem(subject.vectors(images), label(images.checked).labels_N.astype(np.int64))


def prefix(chosen: Any) -> Path:
    """The array file, or a new one of its first images only."""
    whole = Path(chosen.data) / "train.npz"
    if chosen.images is None:
        return whole
    part = Path(chosen.cache) / f"first-{chosen.images}.npz"
    if not part.exists():
        part.parent.mkdir(parents=True, exist_ok=True)
        with closing(np.load(whole, allow_pickle=False)) as arrays:
            np.savez(part, **{name: arrays[name][: chosen.images] for name in arrays})
    return part


def our_fit(problem: Problem, strength: float, device: str) -> Callable[[], Found]:
    """Fitting with this package, the axes included."""
    x_nD = torch.from_numpy(problem.x_nD).to(device)
    labels_n = torch.from_numpy(problem.labels_n).to(device)

    def fit() -> Found:
        axes = linear.principal_axes(x_nD)
        z_nr = axes.project(x_nD)
        start = linear.zero_weights(z_nr, problem.classes)
        weights = linear.fit_logistic(z_nr, labels_n, axes.variance_r, start, strength=strength)
        deviation_D = (x_nD - axes.mean_D).square().mean(dim=0).sqrt()
        turn_Dr = deviation_D[:, None] * axes.map_Dr
        return (weights[:, :-1] @ turn_Dr.T).cpu().numpy(), weights[:, -1].cpu().numpy()

    return fit


def scikit_learns_fit(
    problem: Problem, strength: float, iterations: int, taken: list[int]
) -> Callable[[], Found]:
    """Fitting with scikit-learn, standardisation included; `taken` gets its iterations."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    def fit() -> Found:
        s_nD = StandardScaler().fit_transform(problem.x_nD)
        penalty = strength / 2 if problem.classes == 2 else strength  # w = 2 W, so |W|^2 = w^2 / 2
        model = LogisticRegression(C=1 / (len(s_nD) * penalty), max_iter=iterations)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(s_nD, problem.labels_n)
        taken.append(int(model.n_iter_[0]))
        if problem.classes == 2:  # it has one row for both classes
            return np.concatenate([-model.coef_, model.coef_]) / 2, _split(model.intercept_)
        return model.coef_, model.intercept_

    return fit


def _split(b_1: Floats) -> Floats:
    return np.concatenate([-b_1, b_1]) / 2


def comparison(
    problem: Problem, strength: float, iterations: int, threads: int, chosen: Any
) -> Comparison:
    """Time ours against scikit-learn's, in turns.

    Raises:
        ValueError: Our objective is higher, so comparing times would be meaningless.
    """
    from threadpoolctl import threadpool_limits

    taken: list[int] = []
    mine = our_fit(problem, strength, chosen.device)
    theirs = scikit_learns_fit(problem, strength, iterations, taken)
    n, D = problem.x_nD.shape
    torch.set_num_threads(threads)
    with threadpool_limits(threads):
        ours, rival = (problem.objective(fit(), strength) for fit in (mine, theirs))
        if ours > rival * (1 + TOLERANCE):
            raise ValueError(f"lambda {strength:g}: our objective {ours:.7f} exceeds {rival:.7f}")
        row = compare(
            f"logistic regression, {n:,} x {D}, {problem.classes} classes, lambda {strength:g}, "
            f"{threads} thread{'s' * (threads != 1)}",
            {"selftaught": mine, f"scikit-learn, at most {iterations} iterations": theirs},
            repeats=chosen.repeats,
            warmup=0,  # both have just run
            packages=["scikit-learn", "scipy"],
        )
    return Comparison(row, strength, ours, rival, (taken[0], iterations))


TOLERANCE = 1e-6
"""Relative tolerance of the objective: float32 precision."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the rows and their section of docs/results.md."""
    chosen = parser().parse_args(arguments)
    problem = problem_from(chosen)
    found = [
        comparison(problem, strength, iterations, threads, chosen)
        for threads in chosen.threads
        for strength in chosen.strengths
        for iterations in chosen.iterations
    ]
    rows = [each.row for each in found]
    for row in rows:
        append(ROWS, row)
    report = f"{markdown(rows)}\n{objectives(found)}\n{words(chosen)}\n"
    print(report)
    if chosen.json:
        measure.write_json(chosen.json, rows)
    if measure.publishes(chosen):
        measure.publish(RESULTS, "probes", f"## The linear probe\n\n{report}")


def objectives(found: Sequence[Comparison]) -> str:
    """One line per strength and iteration limit: both objectives."""
    lines = ["| lambda | scikit-learn's iterations | its objective | ours |", "|---|---|---|---|"]
    for each in found:
        taken, most = each.iterations
        line = f"| {each.strength:g} | {taken} of at most {most} | {each.rival:.6f} "
        lines.append(f"{line}| {each.ours:.6f} |")
    return "\n".join(dict.fromkeys(lines)) + "\n"


def words(chosen: Any) -> str:
    """A description of the measurement."""
    whose = "the given encoder" if chosen.encoder else "an untrained, calibrated resnet18 at 32 px"
    return (
        f"The vectors are those of CIFAR-10's training images from {whose}. Times cover everything "
        "from float32 vectors to weights, standardisation included; scikit-learn uses its default "
        "tolerance.\nReproduce with `python -m benchmarks.probes`."
    )


def parser() -> argparse.ArgumentParser:
    """The script's options."""
    as_written = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    options.add_argument("--data", type=Path, required=True, help="folder with train.npz")
    options.add_argument("--encoder", type=Path, help="a run or an encoder folder")
    options.add_argument("--cache", type=Path, default=ROOT / "runs/benchmarks/probes")
    options.add_argument("--images", type=int, help="only the first images, for a trial run")
    options.add_argument("--strengths", type=float, nargs="+", default=[1e-1, 1e-2, 1e-3, 1e-4])
    options.add_argument("--iterations", type=int, nargs="+", default=[100, 1000])
    options.add_argument("--threads", type=int, nargs="+", default=sorted({1, cores()}))
    options.add_argument("--device", default="cpu", help="device of our probe")
    options.add_argument("--repeats", type=int, default=3)
    measure.output_options(options)
    return options


if __name__ == "__main__":
    main()
