"""CLASSIFIER/report.html: the names that were learnt, how far to rely on them, and images of each.

Shapes:  N images.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from selftaught.classifier.learn import Members
from selftaught.classifier.name_classifier import Classifier, Said
from selftaught.reports import plots
from selftaught.reports.clusters.gallery import WALLS
from selftaught.reports.clusters.tiles import MOST_BYTES, image_tile, pictures_of, short
from selftaught.reports.page import (
    Html,
    Markup,
    Section,
    bullets,
    code,
    figure,
    folded,
    grid,
    join_html,
    link,
    many,
    paragraph,
    percent,
    table,
    text,
)
from selftaught.reports.page import facts as facts_of
from selftaught.vectors.vectors import Vectors

_SUREST, _TORN = "Surest", "Nearly called otherwise"
_OTHERWISE = "Of its clusters, called otherwise"
_MOST = {_SUREST: 12, _TORN: 6, _OTHERWISE: 6}  # images of a wall


class _Name(NamedTuple):
    """A name: its place among all, its images by what they are, how many images get it, and
    whether people alone gave it."""

    place: int
    name: str
    shown: Mapping[str, list[int]]
    given: int
    of_answers: bool


def classifier_sections(
    vectors: Vectors,
    made: Classifier,
    found: Members,
    said: Said,
    sentences: Sequence[str],
    *,
    asked: int = 0,
    most_bytes: int = MOST_BYTES,
) -> list[Section]:
    """The sections of CLASSIFIER/report.html, in their order.

    Args:
        vectors: Of the images of the clusters.
        made: The classifier, with what `learn` tells of it and `classes`: images by name.
        found: What the images were called before.
        said: What it calls them.
        sentences: What to know of it.
        asked: How many images are to be looked at next.
        most_bytes: Of all pictures together.
    """
    names = _names(made, found, said)
    walled = names[:WALLS]
    wanted = [place for kind in _MOST for name in walled for place in name.shown.get(kind, ())]
    pictures = pictures_of(vectors, wanted, most_bytes)
    walls = [_wall(vectors, pictures, made, said, name) for name in walled]
    words = (
        "Every image gets the name that is most probable. Nearly called otherwise: the name below "
        "the image is nearly as probable. Of its clusters, called otherwise: a cluster, or an "
        "answer, has this name for the image, and the classifier the name below it; one of them "
        "is wrong."
    )
    return [
        _overview(vectors, made, sentences),
        Section("Names", _table(names, made), "names"),
        Section("Images of each name", join_html([paragraph(words), *walls]), "walls"),
        _next(asked),
    ]


def _names(made: Classifier, found: Members, said: Said) -> list[_Name]:
    """All names, that of most images first."""
    given_K = np.bincount(said.first_N, minlength=len(made.names))
    of_clusters = set(found.name_N[~found.answered_N].tolist())
    names = [
        _Name(k, name, _shown(k, found, said), int(given_K[k]), k not in of_clusters)
        for k, name in enumerate(made.names)
    ]
    return sorted(names, key=lambda name: (-name.given, name.place))


def _shown(k: int, found: Members, said: Said) -> dict[str, list[int]]:
    """The images of a name by what they are; none of a kind without images."""
    own, other = said.first_N == k, (found.name_N == k) & (said.first_N != k)
    kinds = {
        _SUREST: _first(own, -said.confidence_N, _MOST[_SUREST]),
        _TORN: _first(own, said.gap_N, _MOST[_TORN]),
        _OTHERWISE: _first(other, -said.confidence_N, _MOST[_OTHERWISE]),
    }
    return {kind: places for kind, places in kinds.items() if places}


def _first(of_N: NDArray[np.bool_], value_N: NDArray[np.float32], most: int) -> list[int]:
    rows = np.flatnonzero(of_N)
    first: list[int] = rows[np.argsort(value_N[rows], kind="stable")[:most]].tolist()
    return first


def _overview(vectors: Vectors, made: Classifier, sentences: Sequence[str]) -> Section:
    """What to know of it, and whether its probabilities mean what they say."""
    told = facts_of(
        {
            "names": len(made.names),
            "images": len(vectors),
            "learnt from": int(made.facts["fitted"]),
        }
    )
    parts = [bullets(sentences)]
    if made.facts["reliability"]:
        drawn = [_reliability(made.facts["reliability"])]
        parts = [grid([parts[0], *drawn], kind="beside")]
    return Section("Overview", join_html([told, *parts]), "overview")


def _reliability(bins: Sequence[Mapping[str, Any]]) -> Html:
    """How often names are right that it is so sure of (Guo et al. 2017, figure 1)."""
    says, right = ([100 * float(one[key]) for one in bins] for key in ("says", "right"))
    pairs = (f"{b:.0f} % where it says {a:.0f} %" for a, b in zip(says, right, strict=True))
    plot = plots.curves(
        "Right of held-out images, %",
        {"is right": (says, right)},
        alt=f"Right on {', '.join(pairs)}",
        level=("as it says", ([0, 100], [0, 100])),
        over="its probability, %",
    )
    words = "Right: what the image's cluster, or an answer, is called. Below the dashed line it is "
    return figure(plot, words + "too sure of itself, above it not sure enough.")


def _table(names: Sequence[_Name], made: Classifier) -> Html:
    """A line a name, and which names it takes for each other."""
    judged, classes = made.facts["by_name"], made.facts["classes"]
    header = ("name", "images that get it", "of its clusters", "learnt from", "held out")
    rows = []
    for at, name in enumerate(names):
        called = Markup(link(_anchor(name), short(name.name)) if at < WALLS else text(name.name))
        counts, share = classes[name.name], judged.get(name.name)
        right = "answers only" if name.of_answers else ""
        if share is not None:
            right = f"{percent(share['share'])} of {share['images']:,} right"
        row = (called, f"{name.given:,}", f"{counts['images']:,}", f"{counts['sure']:,}", right)
        rows.append(row)
    numbers = table(header, rows, numbers=range(1, 5))
    confused = [
        f"{many(one['images'], 'image')} of {short(one['name'])} called {short(one['says'])}"
        for one in made.facts["confused"]
    ]
    if not confused:
        return numbers
    return join_html([numbers, folded("Held-out images that get another name", bullets(confused))])


def _anchor(name: _Name) -> str:
    return f"name-{name.place}"


def _wall(
    vectors: Vectors, pictures: Mapping[int, str], made: Classifier, said: Said, name: _Name
) -> Html:
    """The images of a name by what they are."""
    kinds = []
    for kind, places in name.shown.items():
        tiles = [
            image_tile(pictures, vectors, place, _caption(kind, place, made, said))
            for place in places
        ]
        kinds.append(f"<div><h4>{text(kind)}</h4>{grid(tiles, kind='mosaic')}</div>")
    given = f"{many(name.given, 'image')}, {percent(name.given / len(vectors))}"
    return Html(
        f'<article id="{_anchor(name)}"><h3>{text(short(name.name))} <small>{given}</small></h3>'
        f'<div class="kinds">{"".join(kinds)}</div></article>'
    )


def _caption(kind: str, place: int, made: Classifier, said: Said) -> str:
    if kind == _SUREST:
        return percent(float(said.confidence_N[place]))
    if kind == _TORN:
        second, share = made.names[said.second_N[place]], float(said.next_N[place])
        return f"or {short(second)}, {percent(share)}"
    return f"{short(made.names[said.first_N[place]])}, {percent(float(said.confidence_N[place]))}"


def _next(asked: int) -> Section:
    """How the classifier gets better, and what it is good for."""
    better = "selftaught classify CLUSTERS --answers CLASSIFIER/ask.csv --out BETTER"
    if asked:
        look = paragraph(
            f"Look at the {many(asked, 'image')} of ask.html, beside this page, and write what "
            "they are into the column label of ask.csv. Then learn again:"
        )
        again = [better]
    else:
        look = paragraph("Ask which images are worth a look, and learn again from your answers:")
        again = ["selftaught classify CLUSTERS --ask 100 --out CLASSIFIER", better]
    parts = (
        look,
        code(again),
        paragraph("Give new images their names; CLASSIFIER is the folder of this page:"),
        code(["selftaught assign CLASSIFIER DATA --out table.csv"]),
    )
    return Section("What to do next", join_html(parts), "next")
