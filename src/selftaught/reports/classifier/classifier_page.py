"""CLASSIFIER/report.html: the learned names, their accuracy, and images of each.

Shapes:  N images.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from selftaught.classifier.learn import Members
from selftaught.classifier.name_classifier import Classifier, Predictions
from selftaught.reports import plots
from selftaught.reports.clusters.gallery import WALLS
from selftaught.reports.clusters.tiles import MOST_BYTES, image_tile, pictures_of, shorten
from selftaught.reports.page import (
    Html,
    Markup,
    Section,
    bullets,
    code,
    details,
    figure,
    grid,
    join_html,
    link,
    paragraph,
    percent,
    quantity,
    table,
    text,
)
from selftaught.reports.page import facts as facts_of
from selftaught.vectors.vectors import Vectors

_CONFIDENT, _CLOSE = "Most confident", "Close to another name"
_OTHER_NAME = "Predicted as another name"
_MOST = {_CONFIDENT: 12, _CLOSE: 6, _OTHER_NAME: 6}  # images of a wall


class _Name(NamedTuple):
    """A name: its position among all names, its images by kind, the number of images predicted
    as it, and whether it comes from answers only."""

    place: int
    name: str
    shown: Mapping[str, list[int]]
    given: int
    of_answers: bool


def classifier_sections(
    vectors: Vectors,
    classifier: Classifier,
    found: Members,
    predicted: Predictions,
    sentences: Sequence[str],
    *,
    asked: int = 0,
    most_bytes: int = MOST_BYTES,
) -> list[Section]:
    """The sections of CLASSIFIER/report.html, in their order.

    Args:
        vectors: The vectors of the images of the clusters.
        classifier: The classifier, with the facts of `learn` and `classes`: images by name.
        found: The names of the images before training.
        predicted: The names that the classifier predicts.
        sentences: The summary.
        asked: Number of images to label next.
        most_bytes: Size limit of all pictures together.
    """
    names = _names(classifier, found, predicted)
    walled = names[:WALLS]
    places = [place for kind in _MOST for name in walled for place in name.shown.get(kind, ())]
    pictures = pictures_of(vectors, places, most_bytes)
    walls = [_wall(vectors, pictures, classifier, predicted, name) for name in walled]
    words = (
        "Every image gets the most probable name. Close to another name: the name below the image "
        "is almost as probable. Predicted as another name: the image has this name from its "
        "cluster or from an answer, but the classifier predicts the name below it; one of the two "
        "is wrong."
    )
    return [
        _overview(vectors, classifier, sentences),
        Section("Names", _table(names, classifier), "names"),
        Section("Images of each name", join_html([paragraph(words), *walls]), "walls"),
        _next_steps(asked),
    ]


def _names(classifier: Classifier, found: Members, predicted: Predictions) -> list[_Name]:
    """All names, the most frequent prediction first."""
    given_K = np.bincount(predicted.first_N, minlength=len(classifier.names))
    of_clusters = set(found.name_N[~found.answered_N].tolist())
    names = [
        _Name(k, name, _images_by_kind(k, found, predicted), int(given_K[k]), k not in of_clusters)
        for k, name in enumerate(classifier.names)
    ]
    return sorted(names, key=lambda name: (-name.given, name.place))


def _images_by_kind(k: int, found: Members, predicted: Predictions) -> dict[str, list[int]]:
    """The images of a name by kind, without empty kinds."""
    own, other = predicted.first_N == k, (found.name_N == k) & (predicted.first_N != k)
    kinds = {
        _CONFIDENT: _first(own, -predicted.confidence_N, _MOST[_CONFIDENT]),
        _CLOSE: _first(own, predicted.gap_N, _MOST[_CLOSE]),
        _OTHER_NAME: _first(other, -predicted.confidence_N, _MOST[_OTHER_NAME]),
    }
    return {kind: places for kind, places in kinds.items() if places}


def _first(of_N: NDArray[np.bool_], value_N: NDArray[np.float32], most: int) -> list[int]:
    rows = np.flatnonzero(of_N)
    first: list[int] = rows[np.argsort(value_N[rows], kind="stable")[:most]].tolist()
    return first


def _overview(vectors: Vectors, classifier: Classifier, sentences: Sequence[str]) -> Section:
    """The summary, and the calibration of the probabilities."""
    pairs = facts_of(
        {
            "names": len(classifier.names),
            "images": len(vectors),
            "training images": int(classifier.facts["fitted"]),
        }
    )
    parts = [bullets(sentences)]
    if classifier.facts["reliability"]:
        drawn = [_reliability(classifier.facts["reliability"])]
        parts = [grid([parts[0], *drawn], kind="beside")]
    return Section("Overview", join_html([pairs, *parts]), "overview")


def _reliability(bins: Sequence[Mapping[str, Any]]) -> Html:
    """The accuracy at each level of confidence (Guo et al. 2017, figure 1)."""
    says, right = ([100 * float(one[key]) for one in bins] for key in ("says", "right"))
    pairs = (f"{b:.0f} % at {a:.0f} % confidence" for a, b in zip(says, right, strict=True))
    plot = plots.curves(
        "Correct held-out images, %",
        {"accuracy": (says, right)},
        alt=f"Correct: {', '.join(pairs)}",
        level=("perfect calibration", ([0, 100], [0, 100])),
        over="confidence, %",
    )
    words = (
        "Correct: equal to the name of the image's cluster or answer. Below the dashed line the "
    )
    return figure(plot, words + "classifier is overconfident, above it underconfident.")


def _table(names: Sequence[_Name], classifier: Classifier) -> Html:
    """A row per name, and the most frequent confusions."""
    by_name, classes = classifier.facts["by_name"], classifier.facts["classes"]
    header = ("name", "predicted", "in its clusters", "training images", "held-out images")
    rows = []
    for at, name in enumerate(names):
        title = Markup(link(_anchor(name), shorten(name.name)) if at < WALLS else text(name.name))
        counts, share = classes[name.name], by_name.get(name.name)
        held_out = "answers only" if name.of_answers else ""
        if share is not None:
            held_out = f"{percent(share['share'])} of {share['images']:,} correct"
        numbers = (f"{n:,}" for n in (name.given, counts["images"], counts["sure"]))
        rows.append((title, *numbers, held_out))
    names_table = table(header, rows, numbers=range(1, 5))
    confused = [
        f"{quantity(one['images'], 'image')} of {shorten(one['name'])}, predicted as "
        f"{shorten(one['says'])}"
        for one in classifier.facts["confused"]
    ]
    if not confused:
        return names_table
    return join_html([names_table, details("Confusions on held-out images", bullets(confused))])


def _anchor(name: _Name) -> str:
    return f"name-{name.place}"


def _wall(
    vectors: Vectors,
    pictures: Mapping[int, str],
    classifier: Classifier,
    predicted: Predictions,
    name: _Name,
) -> Html:
    """The images of a name by kind."""
    kinds = []
    for kind, places in name.shown.items():
        tiles = [
            image_tile(pictures, vectors, place, _caption(kind, place, classifier, predicted))
            for place in places
        ]
        kinds.append(f"<div><h4>{text(kind)}</h4>{grid(tiles, kind='mosaic')}</div>")
    given = f"{quantity(name.given, 'image')}, {percent(name.given / len(vectors))}"
    return Html(
        f'<article id="{_anchor(name)}"><h3>{text(shorten(name.name))} <small>{given}</small></h3>'
        f'<div class="kinds">{"".join(kinds)}</div></article>'
    )


def _caption(kind: str, place: int, classifier: Classifier, predicted: Predictions) -> str:
    if kind == _CONFIDENT:
        return percent(float(predicted.confidence_N[place]))
    if kind == _CLOSE:
        second, share = classifier.names[predicted.second_N[place]], float(predicted.next_N[place])
        return f"or {shorten(second)}, {percent(share)}"
    first, share = classifier.names[predicted.first_N[place]], float(predicted.confidence_N[place])
    return f"{shorten(first)}, {percent(share)}"


def _next_steps(asked: int) -> Section:
    """How to improve the classifier and how to use it."""
    better = "selftaught classify CLUSTERS --answers CLASSIFIER/ask.csv --out BETTER"
    if asked:
        advice = paragraph(
            f"Look at the {quantity(asked, 'image')} in ask.html, next to this page, and enter "
            "their names in the column label of ask.csv. Then train again:"
        )
        commands = [better]
    else:
        advice = paragraph("List the images most worth labelling, then train with your answers:")
        commands = ["selftaught classify CLUSTERS --ask 100 --out CLASSIFIER", better]
    parts = (
        advice,
        code(commands),
        paragraph("Name new images; CLASSIFIER is the folder of this page:"),
        code(["selftaught assign CLASSIFIER DATA --out table.csv"]),
    )
    return Section("Next steps", join_html(parts), "next")
