"""The content of a run's report, from the files of the run and its images.

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
from selftaught.reports.run.filters import first_layer_sections, last_stage_sections
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

_QUERIES, _NEIGHBOURS = 12, 6  # query images, and neighbours of each
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
        encoder: The trained encoder.
        images: The training images.
        machine: Where vectors are computed.
        config: The resolved configuration as plain values.
        specs: The views used in training.
        rows: The rows of evaluation.json.
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
        views_section(
            preview_sheet(images, specs[0], encoder.config.intensity, seed=config["seed"])
        ),
        neighbours_section(neighbourhoods(images, vectors_ND, encoder.config.intensity)),
        *first_layer_sections(encoder),
        *last_stage_sections(encoder, images, machine),
        *evaluation_sections(rows),
    ]


def evaluation_sections(rows: Sequence[Mapping[str, Any]]) -> list[Section]:
    """One section of tables per labelled data set, after its verdict if one was requested."""
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


def preview_sheet(
    images: Images, spec: ViewSpec, intensity: Intensity, *, seed: int, number: int = _SHEET_IMAGES
) -> bytes:
    """A contact sheet of `number` random images, each with views as in training."""
    raw = images.store.read(random_rows(images, seed, number))
    views = random_views(raw, spec, intensity, seed=seed, number=_SHEET_VIEWS)
    return views_sheet(raw.images(), views, intensity, normalised=spec.policy.normalise)


def random_rows(images: Images, seed: int, number: int) -> NDArray[np.int64]:
    """The rows of `number` random images, in order."""
    return np.sort(permutation(Key(seed, "views sheet"), len(images.store))[:number])


def random_views(
    raw: Raw, spec: ViewSpec, intensity: Intensity, *, seed: int, number: int
) -> list[Tensor]:
    """`number` views of each image, each a tensor (N, C, S, S)."""
    pixels = raw.tensors()  # compiling the kernel does not pay for a few images
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
    """Some images, by default a dozen random ones, each with its nearest neighbours."""
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
    """Lines of images given by their rows; the first of each line is the query."""
    names = images.checked.images["path"]

    def thumbnail_of(row: int) -> Thumbnail:
        image, name = images.store.read(np.array([row])).image(0), names[row].as_py()
        return picture(image, intensity, name=name, words=name)

    lines = [[thumbnail_of(int(row)) for row in line] for line in rows]
    return [Neighbourhood(first, others) for first, *others in lines]
