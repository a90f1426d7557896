"""What a run's report shows, gathered from what the run wrote down and from its images.

Shapes:  N images; C channels; S side of a view; D size of a vector.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from selftaught.data.check_images import check_facts
from selftaught.data.store import Images
from selftaught.encoders.encoder import Encoder
from selftaught.evaluation.table import Row
from selftaught.evaluation.verdict import verdict
from selftaught.foundation.machine import CPU, Machine
from selftaught.foundation.rng import Key, permutation
from selftaught.pairwise.neighbours import top_k
from selftaught.reports.page import Section, Thumbnail
from selftaught.reports.run.filters import first_layer, last_stage
from selftaught.reports.run.sections import (
    Neighbourhood,
    clusters_sections,
    health_section,
    loss_section,
    neighbours_section,
    table_section,
    trained_section,
    verdict_sections,
    views_section,
)
from selftaught.reports.sheets import picture, views_sheet
from selftaught.training import log
from selftaught.vectors.features import features
from selftaught.views.policy import Intensity, ViewSpec
from selftaught.views.raw import Raw
from selftaught.views.sample import sample
from selftaught.views.tensors import apply_policy

_QUERIES, _NEIGHBOURS = 12, 6  # images whose neighbours are shown, and how many of them
_SHEET_IMAGES, _SHEET_VIEWS = 6, 8


def run_sections(
    run: Path,
    encoder: Encoder,
    images: Images,
    machine: Machine = CPU,
    *,
    config: Mapping[str, Any],
    specs: Sequence[ViewSpec],
    rows: Sequence[Mapping[str, Any]] = (),
) -> list[Section]:
    """The sections of RUN/report.html, in their order.

    Args:
        run: The run's folder, for its metrics.
        encoder: What was trained.
        images: What it was trained on.
        machine: Where vectors are computed.
        config: The resolved configuration as plain values.
        specs: The views that it saw.
        rows: The lines of evaluation.json.
    """
    metrics = log.read_metrics(run)
    alarms = [words for line in metrics for words in line.get("alarms", [])]
    vectors_ND = features(encoder, images, machine)
    facts = check_facts(images.checked)
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
        *last_stage(encoder, images, machine),
        *evaluation_sections(rows),
    ]


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
        apply_policy(
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
    return image_lines(images, intensity, np.column_stack([own, nearest]))


def image_lines(
    images: Images, intensity: Intensity, rows: Iterable[Iterable[int]]
) -> list[Neighbourhood]:
    """Images by their rows, each line led by its first."""
    names = images.checked.images["path"]

    def small(row: int) -> Thumbnail:
        image, name = images.store.read(np.array([row])).image(0), names[row].as_py()
        return picture(image, intensity, name=name, words=name)

    lines = [[small(int(row)) for row in line] for line in rows]
    return [Neighbourhood(first, others) for first, *others in lines]
