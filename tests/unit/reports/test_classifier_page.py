"""The report of a classifier: who stands for a name, what is told of it, and hostile names."""

import re
from collections import Counter
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from sklearn.datasets import load_digits

from selftaught.classifier.learn import Members, members, train_classifier
from selftaught.classifier.name_classifier import Classifier, Predictions
from selftaught.clusters.fit import cluster_vectors
from selftaught.data.open_images import open_images
from selftaught.foundation.machine import Machine
from selftaught.reports.classifier.classifier_page import classifier_sections
from selftaught.reports.page import Section, page, text
from selftaught.vectors.vectors import Vectors
from tests.support.html_page import Page
from tests.support.reports import HOSTILE

NAMES = {k: HOSTILE[k // 2] for k in range(10)}  # five names of ten clusters

Learnt = tuple[Vectors, Classifier, Members, Predictions]


@pytest.fixture(scope="module")
def learnt(tmp_path_factory) -> Learnt:
    """Five names of scikit-learn's digits; a few answers say that images are something else."""
    images = open_images("digits", machine=Machine(cache=tmp_path_factory.mktemp("cache")))
    x_ND = load_digits().data.astype(np.float32)
    paths = tuple(f"{i} {HOSTILE[i % len(HOSTILE)]}" for i in range(len(x_ND)))
    vectors = Vectors(x_ND, np.arange(len(x_ND)), paths, None, "", images)
    found = members(
        x_ND, cluster_vectors(vectors, 12).clusters, NAMES, {3: HOSTILE[0], 4: HOSTILE[1]}
    )
    made = train_classifier(vectors, found)
    counts = {name: {"images": 7, "sure": 5} for name in made.names}
    made = replace(made, facts={**made.facts, "classes": counts})
    return vectors, made, found, made.predict(x_ND)


def told(learnt: Learnt, **others: int) -> list[Section]:
    return classifier_sections(*learnt, ["A sentence."], **others)


def parsed(learnt: Learnt) -> Page:
    return Page(page("Names", told(learnt)))


def shown(learnt: Learnt, kind: str) -> list[list[tuple[int, str]]]:
    """The rows and captions of one kind of images, wall by wall."""
    walls = []
    for wall in told(learnt)[2].html.split("<article")[1:]:
        _, found, rest = wall.partition(f"<h4>{kind}</h4>")
        part = rest.partition("<h4>")[0]
        rows = map(int, re.findall(r'title="(\d+) ', part))
        captions = map(unescape, re.findall("<figcaption>(.*?)</figcaption>", part))
        walls += [list(zip(rows, captions, strict=True))] if found else []
    return walls


def test_there_is_a_wall_for_each_name_that_of_most_images_first(learnt: Learnt) -> None:
    _, made, _, said = learnt
    page_of = parsed(learnt)
    counts = Counter(said.first_N.tolist())
    order = sorted(range(len(made.names)), key=lambda k: (-counts[k], k))
    assert [e.attributes["id"] for e in page_of.all("article")] == [f"name-{k}" for k in order]
    assert [s.title for s in told(learnt)] == [
        *("Overview", "Names", "Images of each name", "Next steps"),
    ]
    targets = {a[1:] for a in page_of.addresses() if a.startswith("#")}
    assert targets <= set(page_of.ids()) and {f"name-{k}" for k in order} <= targets


def test_the_surest_images_of_a_name_stand_in_their_order(learnt: Learnt) -> None:
    _, made, _, said = learnt
    walls = shown(learnt, "Most confident")
    assert len(walls) == len(made.names)
    for wall in walls:
        rows = [row for row, _ in wall]
        (k,) = set(said.first_N[rows].tolist())
        own = said.confidence_N[said.first_N == k]
        assert said.confidence_N[rows].tolist() == sorted(own, reverse=True)[: len(rows)]


def test_below_an_image_nearly_called_otherwise_stands_the_other_name(learnt: Learnt) -> None:
    _, made, _, said = learnt
    for wall in shown(learnt, "Close to another name"):
        for row, caption in wall:
            name = str(text(made.names[said.second_N[row]]))
            assert caption.startswith(f"or {unescape(name)}, ")
        gaps = said.gap_N[[row for row, _ in wall]]
        assert (np.diff(gaps) >= 0).all()


def test_what_a_cluster_or_an_answer_calls_otherwise_is_shown(learnt: Learnt) -> None:
    _, _, found, said = learnt
    walls = shown(learnt, "Predicted as another name")
    assert walls
    for wall in walls:
        rows = [row for row, _ in wall]
        (k,) = set(found.name_N[rows].tolist())
        assert (said.first_N[rows] != k).all()
        assert (np.diff(said.confidence_N[rows]) <= 0).all()


def test_what_was_learnt_is_counted_in_the_table(learnt: Learnt) -> None:
    _, made, _, said = learnt
    cells = Page(told(learnt)[1].html).words
    for k, name in enumerate(made.names):
        judged = made.facts["by_name"][name]
        assert f"{(said.first_N == k).sum():,}" in cells
        assert any(f"of {judged['images']:,} correct" in cell for cell in cells)


def test_of_a_name_that_people_alone_gave_nothing_is_held_out(learnt: Learnt) -> None:
    vectors, made, found, said = learnt
    k = 2
    name_N = found.name_N.copy()
    name_N[(name_N == k) & ~found.answered_N] = -1
    name_N[np.flatnonzero(found.answered_N)[0]] = k
    of_people = replace(found, name_N=name_N)
    by_name = {n: share for n, share in made.facts["by_name"].items() if n != made.names[k]}
    unjudged = replace(made, facts={**made.facts, "by_name": by_name})
    sections = classifier_sections(vectors, unjudged, of_people, said, ["A sentence."])
    assert Page(sections[1].html).words.count("answers only") == 1
    assert "answers only" not in told(learnt)[1].html


def test_hostile_names_and_paths_are_words(learnt: Learnt) -> None:
    page_of = parsed(learnt)
    assert page_of.all("script") == []
    assert not any(name.startswith("on") for e in page_of.elements for name in e.attributes)
    assert len(page_of.all("img")) > 50
    assert all(e.attributes["alt"] for e in page_of.all("img"))
    assert all(e.attributes["loading"] == "lazy" for e in page_of.all("img"))


def test_without_pixels_paths_stand_in_their_place(learnt: Learnt) -> None:
    vectors, *others = learnt
    without = (replace(vectors, images=None), *others)
    page_of = Page(page("Names", classifier_sections(*without, ["A sentence."])))
    assert page_of.all("img") == [] and len(page_of.all("figure")) > 50


def test_questions_are_mentioned_where_there_are_some(learnt: Learnt) -> None:
    assert "17 images" in told(learnt, asked=17)[-1].html
    assert "--ask 100" in told(learnt)[-1].html


def test_nothing_judged_is_no_plot(learnt: Learnt) -> None:
    vectors, made, found, said = learnt
    nothing = {"reliability": [], "by_name": {}, "confused": []}
    unjudged = replace(made, facts={**made.facts, **nothing})
    sections = classifier_sections(vectors, unjudged, found, said, ["A sentence."])
    assert "<svg" in told(learnt)[0].html and "<svg" not in sections[0].html
    assert "correct" in told(learnt)[1].html and "correct" not in sections[1].html
