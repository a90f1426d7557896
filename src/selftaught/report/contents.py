"""What a run's report shows, gathered from what the run wrote down and from its images.

Shapes:  N images; C channels; S side of a view; D size of a vector.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from selftaught.data.check import Checked
from selftaught.data.store import Images
from selftaught.encoders.encoder import Encoder
from selftaught.evaluation.row import Row
from selftaught.evaluation.verdict import verdict
from selftaught.features import features
from selftaught.neighbours import top_k
from selftaught.report.filters import first_layer, last_stage
from selftaught.report.page import Section
from selftaught.report.sections import (
    Neighbourhood,
    Picture,
    clusters_sections,
    health_section,
    loss_section,
    neighbours_section,
    table_section,
    trained_section,
    verdict_sections,
    views_section,
)
from selftaught.report.sheets import picture, views_sheet
from selftaught.rng import Key, permutation
from selftaught.training import log
from selftaught.views.policy import Intensity, ViewSpec
from selftaught.views.raw import Raw
from selftaught.views.sample import sample
from selftaught.views.tensors import apply

_QUERIES, _NEIGHBOURS = 12, 6  # images whose neighbours are shown, and how many of them
_SHEET_IMAGES, _SHEET_VIEWS = 6, 8


def run_sections(
    run: Path,
    encoder: Encoder,
    images: Images,
    *,
    config: Mapping[str, Any],
    specs: Sequence[ViewSpec],
    rows: Sequence[Mapping[str, Any]] = (),
    device: str = "cpu",
    threads: int = 2,
    cache: Path | None = None,
) -> list[Section]:
    """The sections of RUN/report.html, in their order.

    Args:
        run: The run's folder, for its metrics.
        encoder: What was trained.
        images: What it was trained on.
        config: The resolved configuration as plain values.
        specs: The views that it saw.
        rows: The lines of evaluation.json.
        device: Where vectors are computed.
        threads: Data threads.
        cache: Where vectors are kept.
    """
    metrics = log.read(run)
    alarms = [words for line in metrics for words in line.get("alarms", [])]
    vectors_ND = features(encoder, images, device=device, threads=threads, cache=cache)
    facts = facts_of(images.checked)
    return [
        trained_section(
            config,
            {name: value for name, value in facts.items() if isinstance(value, str | int)},
            notes=images.checked.notes,
            rejected=facts["rejected"],
        ),
        loss_section(metrics),
        health_section(metrics, alarms),
        *clusters_sections(metrics),
        views_section(sheet(images, specs[0], encoder.config.intensity, seed=config["seed"])),
        neighbours_section(neighbourhoods(images, vectors_ND, encoder.config.intensity)),
        *first_layer(encoder),
        *last_stage(encoder, images, device=device, threads=threads),
        *evaluation_sections(rows),
    ]


def facts_of(checked: Checked) -> dict[str, Any]:
    """What the check found, as plain values: texts and numbers, "notes" and "rejected"."""
    sides = [checked.images[name].to_numpy() for name in ("height", "width")]
    shorter, longer = np.minimum(*sides), np.maximum(*sides)
    intensity = checked.intensity
    columns = (checked.rejected[name].to_pylist() for name in ("path", "reason"))
    return {
        "usable images": len(checked),
        "left out": checked.rejected.num_rows,
        "shorter side": _pixels(shorter),
        "longer side": _pixels(longer),
        "channels": checked.channels,
        "values": f"{checked.dtype}, used from {intensity.low:g} to {intensity.high:g}",
        "channel mean": ", ".join(f"{value:.3f}" for value in intensity.mean),
        "channel std": ", ".join(f"{value:.3f}" for value in intensity.std),
        "notes": list(checked.notes),
        "rejected": list(zip(*columns, strict=True)),
    }


def _pixels(sides_N: NDArray[np.int64]) -> str:
    """The sides of all images in words."""
    low, high = sides_N.min(), sides_N.max()
    return f"{low} px" if low == high else f"{low} to {high} px, median {np.median(sides_N):g}"


def evaluation_sections(rows: Sequence[Mapping[str, Any]]) -> list[Section]:
    """One table section for each set of labelled images that the encoder was judged on, and above
    it the verdict, where one was asked for."""
    if not rows:
        return [table_section([])]
    by_data: dict[str, list[Row]] = {}
    for row in rows:
        fields = {name: value for name, value in row.items() if name != "data"}
        by_data.setdefault(str(row["data"]), []).append(Row(**fields))
    titles = {data: data if data.endswith("?") else f"Evaluation on {data}" for data in by_data}
    return [
        section
        for data, group in by_data.items()
        for section in (
            *verdict_sections(verdict(group), titles[data]),
            table_section(group, title=titles[data]),
        )
    ]


def sheet(
    images: Images, spec: ViewSpec, intensity: Intensity, *, seed: int, number: int = _SHEET_IMAGES
) -> bytes:
    """A contact sheet of `number` images drawn at random, each with views as in training."""
    raw = images.store.read(drawn_rows(images, seed, number))
    views = seen(raw, spec, intensity, seed=seed, number=_SHEET_VIEWS)
    return views_sheet(raw.images(), views, intensity, normalised=spec.policy.normalise)


def drawn_rows(images: Images, seed: int, number: int) -> NDArray[np.int64]:
    """The rows of `number` images drawn at random, in their order."""
    return np.sort(permutation(Key(seed, "views sheet"), len(images.store))[:number])


def seen(raw: Raw, spec: ViewSpec, intensity: Intensity, *, seed: int, number: int) -> list[Tensor]:
    """`number` views of each image, each a tensor (N, C, S, S)."""
    pixels = raw.tensors()  # a few images are not worth the kernel's compilation
    return [
        apply(
            pixels,
            sample(
                spec.policy,
                size=spec.size,
                sizes_N2=raw.sizes_N2,
                draws_N=np.arange(len(raw)),
                seed=seed,
                view=view,
                channels=raw.channels,
            ),
            spec.policy,
            intensity,
        )
        for view in range(number)
    ]


def neighbourhoods(
    images: Images,
    vectors_ND: NDArray[np.float32],
    intensity: Intensity,
    queries: Sequence[int] | None = None,
) -> list[Neighbourhood]:
    """Some images, by default a dozen drawn at random, each with its nearest neighbours."""
    N = len(vectors_ND)
    if queries is None:
        queries = np.sort(permutation(Key(0, "report queries"), N)[:_QUERIES]).tolist()
    own = np.asarray(queries)
    count = min(_NEIGHBOURS, N - 1)
    _, nearest = top_k(vectors_ND[own], vectors_ND, count, own=own)
    return lines_of(images, intensity, np.column_stack([own, nearest]))


def lines_of(
    images: Images, intensity: Intensity, rows: Iterable[Iterable[int]]
) -> list[Neighbourhood]:
    """Images by their rows, each line led by its first."""
    names = images.checked.images["path"]

    def small(row: int) -> Picture:
        image, name = images.store.read(np.array([row])).image(0), names[row].as_py()
        return picture(image, intensity, name=name, words=name)

    lines = [[small(int(row)) for row in line] for line in rows]
    return [Neighbourhood(first, others) for first, *others in lines]
