"""Reports in a real browser, from the file system: a run's, a clustering's, a classifier's and its
questions, and a clustering's without pixels.

A page asks for nothing but itself, complains of nothing, is never wider than its window, and can be
used with keys alone.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from selftaught.classifier.learn import members, train_classifier
from selftaught.clusters.fit import ClusteredImages, cluster_vectors
from selftaught.data.open_images import open_images
from selftaught.foundation.machine import Machine
from selftaught.reports.classifier.classifier_page import classifier_sections
from selftaught.reports.classifier.questions_page import Asked, questions_page
from selftaught.reports.clusters.clusters_page import Curve, group_sections, write_group_report
from selftaught.reports.page import write_report
from selftaught.reports.sheets import picture
from selftaught.vectors.vectors import Vectors
from tests.support import reports
from tests.support.chromium import Browser, browser

pytestmark = pytest.mark.browser

KINDS = ("run", "clusters", "classifier", "questions", "no-pixels")

LAID_OUT = "document.head.append(Object.assign(document.createElement('style'), {textContent:"
LAID_OUT += "'* { content-visibility: visible !important }'})); 0"
LOADED = """Promise.all([...document.images].map(
  i => { i.loading = 'eager'; return i.decode(); })).then(() => 0)"""
UNFOLDED = """[...document.links].filter(a => !a.closest('details:not([open])'))
  .map(a => a.getAttribute('href'))"""
OPENED = "document.querySelectorAll('details').forEach(d => d.open = true); 0"
WIDE = """[...document.querySelectorAll('body *')].filter(e => {
  const right = e.getBoundingClientRect().right, scroller = e.closest('.scroll, pre, svg');
  return right > innerWidth + 1 && !(scroller && scroller !== e);
}).map(e => e.outerHTML.slice(0, 200))"""
FOCUSED = """(() => { const e = document.activeElement, s = getComputedStyle(e);
  return [e.tagName, e.getAttribute('href'), s.outlineStyle, s.outlineWidth]; })()"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A report of each kind, with hostile names and very long ones wherever a name can stand."""
    folder = tmp_path_factory.mktemp("reports")
    for kind in KINDS:
        (folder / kind).mkdir()
    reports.write(folder / "run")
    data, target = load_digits(return_X_y=True)
    images = open_images("digits", machine=Machine(cache=folder / "cache"))
    paths = tuple(f"{i}{reports.HOSTILE[i % 8]}{'long' * (i % 60)}" for i in range(len(data)))
    labels = tuple(reports.HOSTILE[digit % 8] for digit in target)
    vectors = Vectors(data.astype(np.float32), np.arange(len(data)), paths, labels, "", images)
    found = replace(cluster_vectors(vectors, 12), names={1: reports.HOSTILE[0], 2: "x" * 300})
    curve = Curve([2, 12, 80], [0.9, 0.8, 0.1], [0.3, 0.4, -0.2], [1.0, 0.9, 0.8], 12, "Because.")
    for kind, some in (("clusters", images), ("no-pixels", None)):
        grouping = replace(found, vectors=replace(vectors, images=some), notes=("A note.",))
        sections = group_sections(
            grouping,
            outlier_N=grouping.assigned.distance_N,
            odd_N=np.arange(len(data)) % 3 == 0,
            duplicates=[list(range(i, i + 2 + i % 9)) for i in range(0, 1000, 10)],
            curve=curve,
        )
        write_group_report(folder / kind, sections, reports.HOSTILE[3])
    _write_classifier(folder / "classifier", vectors, found)
    _write_questions(folder / "questions", vectors)
    return folder


def _write_classifier(folder: Path, vectors: Vectors, found: ClusteredImages) -> None:
    names = {k: (*reports.HOSTILE, "y" * 300)[k] for k in range(9)}
    known = members(vectors.x_ND, found.clusters, names, {})
    made = train_classifier(vectors, known)
    counts = {name: {"images": 10, "sure": 5} for name in made.names}
    made = replace(made, facts={**made.facts, "classes": counts})
    said = made.predict(vectors.x_ND)
    write_report(folder, classifier_sections(vectors, made, known, said, reports.HOSTILE, asked=3))


def _write_questions(folder: Path, vectors: Vectors) -> None:
    assert vectors.images is not None
    image = vectors.images.store.read(np.array([0])).image(0)
    shown = [
        picture(image, vectors.images.checked.intensity, name=path, words=path)
        for path in vectors.paths[:99]
    ]
    asked = Asked(reports.HOSTILE[1], reports.HOSTILE[2], shown)
    (folder / "report.html").write_text(questions_page(reports.HOSTILE[0], "Words.", [asked]))


@pytest.fixture(scope="module")
def tab(tmp_path_factory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("user")) as tab:
        yield tab


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [1280, 400])
def test_a_page_fits_its_window_with_everything_opened(kind, width, folder, tab):
    tab.show(folder / kind / "report.html", width=width)
    for script in (LAID_OUT, OPENED):
        tab.run(script)
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.run(WIDE) == []


@pytest.mark.parametrize(("width", "columns"), [(400, 2), (360, 2), (1280, 4)])
def test_pictures_that_are_asked_about_stand_side_by_side(folder, tab, width, columns):
    tab.show(folder / "questions" / "report.html", width=width)
    style = "getComputedStyle(document.querySelector('.tiles')).gridTemplateColumns"
    assert tab.run(f"{style}.split(' ').length") == columns


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_asks_for_itself_alone_and_complains_of_nothing(kind, folder, tab):
    tab.asked.clear()
    tab.complaints.clear()
    file = folder / kind / "report.html"
    tab.show(file)
    tab.run(OPENED)
    assert [address for address in tab.asked if not address.startswith("data:")] == [file.as_uri()]
    assert tab.complaints == []
    assert tab.run("document.scripts.length") == 0


@pytest.mark.parametrize("kind", KINDS)
def test_every_picture_is_there_and_has_words(kind, folder, tab):
    tab.show(folder / kind / "report.html")
    tab.run(LAID_OUT)
    tab.run(LOADED)
    assert (tab.run("document.images.length") > 80) == (kind != "no-pixels")
    assert tab.run("[...document.images].filter(i => !i.alt || !i.naturalWidth).length") == 0
    assert tab.run("[...document.querySelectorAll('svg')].every(s => s.ariaLabel)")


def test_keys_reach_the_content_every_link_and_the_walls(folder, tab):
    tab.show(folder / "clusters" / "report.html")
    links = tab.run(UNFOLDED)
    tab.press("Tab")
    assert tab.run(FOCUSED) == ["A", "#content", "solid", "2px"]
    assert tab.run("document.activeElement.getBoundingClientRect().top") > 0
    reached = []
    for _ in range(len(links) + 80):  # what folds and scrolls is reached too
        tab.press("Tab")
        tag, href, *outline = tab.run(FOCUSED)
        if tag == "BODY":
            break
        assert tag in ("A", "SUMMARY", "PRE", "DIV") and outline == ["solid", "2px"], (tag, href)
        reached.append(href)
    assert [href for href in reached if href] == links[1:] and len(links) > 100


def test_enter_goes_where_a_link_leads_and_opens_what_is_folded(folder, tab):
    tab.show(folder / "clusters" / "report.html")
    tab.press("Tab")
    tab.press("Enter")
    assert tab.run("document.activeElement.id") == "content"
    tab.run("document.querySelector('.index a').focus()")
    tab.press("Enter")
    target = tab.run("document.querySelector(location.hash).getBoundingClientRect().top")
    assert -2 <= target <= 200
    tab.run("document.querySelector('summary').focus()")
    tab.press("Enter")
    assert tab.run("document.querySelector('details').open")


@pytest.mark.parametrize("kind", KINDS)
def test_words_can_be_told_from_their_background_in_light_and_dark(kind, folder, tab):
    for dark in (False, True):
        tab.show(folder / kind / "report.html", dark=dark)
        lowest, where = tab.run(CONTRAST)
        assert lowest >= 4.5, (where, dark)


CONTRAST = """(() => {
  const numbers = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => { const [r, g, b] = numbers(c).map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) {
    const c = getComputedStyle(e).backgroundColor;
    if (numbers(c).length < 4 || numbers(c)[3] > 0) return c; } };
  const ratio = e => { const a = light(getComputedStyle(e).color), b = light(behind(e));
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05); };
  const told = [...document.querySelectorAll('body *')].filter(e => !e.closest('svg') &&
    [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()));
  const ratios = told.map(e => [ratio(e), e.outerHTML.slice(0, 100)]);
  return ratios.reduce((a, b) => a[0] <= b[0] ? a : b); })()"""
