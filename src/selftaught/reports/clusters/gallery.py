"""The clusters one by one: a wall of images and a line of facts for each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selftaught.reports.clusters.members import BORDER, ODD, ShownCluster
from selftaught.reports.clusters.tiles import image_tile, shorten
from selftaught.reports.page import (
    Html,
    Section,
    bullets,
    details,
    grid,
    join_html,
    link,
    paragraph,
    percent,
    quantity,
    table,
    text,
)
from selftaught.vectors.vectors import Vectors

WALLS = 200
"""Largest groups, shown with their images."""

_ROWS = 10_000  # of the table of smaller clusters
_FOLDED = 40  # more links to walls than this are folded


@dataclass(frozen=True, eq=False)
class Gallery:
    """The data of the walls.

    Attributes:
        vectors: The vectors of all images.
        found: All groups, largest first.
        near: The positions of the nearest groups, per wall.
        beyond: The nearest other group of each image on a border.
        odd: The outliers.
        pictures: Pictures by place.
    """

    vectors: Vectors
    found: Sequence[ShownCluster]
    near: Sequence[Sequence[int]]
    beyond: Mapping[int, ShownCluster]
    odd: frozenset[int]
    pictures: Mapping[int, str]


def walls_section(gallery: Gallery) -> Section:
    """A wall for each of the largest groups, and links to the walls."""
    shown = gallery.found[:WALLS]
    parts = [
        paragraph(
            "Typical images are nearest to the centroid. Images on the border are almost as near "
            "to the cluster named below them. The most unusual images are least like any other. "
            "Cohesion is the mean cosine similarity of two images of a cluster: 1 if all are "
            "alike, 0 if they have nothing in common."
        ),
        *_without_pictures(gallery, shown),
    ]
    if len(shown) < len(gallery.found):
        words = f"Images of the {len(shown)} largest of {len(gallery.found):,} clusters; "
        parts.append(paragraph(words + "a table below lists the others."))
    if len(shown) > 1:
        parts.append(_index(shown))
    walls = (_wall(gallery, position) for position in range(len(shown)))
    return Section("Clusters", join_html([*parts, *walls]), "clusters")


def others_section(gallery: Gallery) -> list[Section]:
    """The groups without a wall as a table, if any."""
    others = gallery.found[WALLS:]
    if not others:
        return []
    listed = others[:_ROWS]
    words = (
        f"{quantity(len(others), 'cluster')} of at most {quantity(len(others[0]), 'image')} each."
    )
    if len(listed) < len(others):
        words += f" The {len(listed):,} largest are listed; assignments.parquet has all of them."
    labelled = any(group.label for group in listed)
    header = ("cluster", "images", "cohesion", *(("most common label", "share") * labelled))
    numbers = table(header, (_row(group, labelled) for group in listed), numbers=(1, 2, 4))
    parts = (paragraph(words), details(f"Show {quantity(len(listed), 'cluster')}", numbers))
    return [Section("Smaller clusters", join_html(parts), "smaller")]


def _row(group: ShownCluster, labelled: bool) -> list[object]:
    row: list[object] = [shorten(group.title), f"{len(group):,}", f"{group.cohesion:.2f}"]
    return [*row, shorten(group.label), percent(group.purity)] if labelled else row


def _index(shown: Sequence[ShownCluster]) -> Html:
    """Links to all walls."""
    lines = (f"<li>{_link(group)} <small>{len(group):,}</small></li>" for group in shown)
    index = Html(f'<ul class="index">{"".join(lines)}</ul>')
    return index if len(shown) <= _FOLDED else details(f"Links to {len(shown)} clusters", index)


def _wall(gallery: Gallery, position: int) -> Html:
    """The images of a group by kind, below its heading and facts."""
    group, vectors = gallery.found[position], gallery.vectors
    kinds = [
        f"<div><h4>{text(kind)}</h4>{_mosaic(gallery, kind, places)}</div>"
        for kind, places in group.shown.items()
    ]
    places = dict.fromkeys(place for some in group.shown.values() for place in some)
    paths = [shorten(vectors.paths[place]) for place in places if place in gallery.pictures]
    listed = details("Paths", bullets(paths)) if paths else ""
    near = [gallery.found[i] for i in gallery.near[position]]
    return Html(
        f'<article id="{_anchor(group)}"><h3>{text(shorten(_heading(group)))} '
        f"<small>{text(_size(group, len(vectors)))}</small></h3>{_facts_line(gallery, group, near)}"
        f'<div class="kinds">{"".join(kinds)}</div>{listed}</article>'
    )


def _mosaic(gallery: Gallery, kind: str, places: Sequence[int]) -> Html:
    """The tiles of one kind; those on the border name the group beyond."""
    captions = {
        place: f"or {shorten(gallery.beyond[place].short)}"
        for place in places
        if kind == BORDER and place in gallery.beyond
    }
    if kind == ODD:
        captions = {place: "outlier" for place in places if place in gallery.odd}
    tiles = (
        image_tile(gallery.pictures, gallery.vectors, place, captions.get(place, ""))
        for place in places
    )
    return grid(tiles, kind="mosaic")


def _facts_line(gallery: Gallery, group: ShownCluster, near: Sequence[ShownCluster]) -> Html:
    """The facts about a group, in a line."""
    parts = [text(f"Cohesion {group.cohesion:.2f}")] if len(group) > 1 else []
    if group.label:
        parts.append(text(f"most common label {shorten(group.label)} ({percent(group.purity)})"))
    if group.doubled:
        parts.append(text(f"{percent(group.doubled)} near-duplicates"))
    if near:
        links = join_html((group_link(gallery, other) for other in near), ", ")
        parts.append(Html(f"nearest: {links}"))
    return Html(f'<p class="told">{join_html(parts, " · ")}</p>')


def _without_pictures(gallery: Gallery, shown: Sequence[ShownCluster]) -> list[Html]:
    """A note if images are shown as paths."""
    if gallery.vectors.images is None:
        words = "The vectors came without images, so paths are shown instead."
        return [paragraph(words, kind="note")]
    places = {place for group in shown for some in group.shown.values() for place in some}
    missing = len(places - gallery.pictures.keys())
    words = (
        f"{quantity(missing, 'image')} could not be read or did not fit on this page; see the path."
    )
    return [paragraph(words, kind="note")] if missing else []


def _heading(group: ShownCluster) -> str:
    """The name, or "Cluster" and the id."""
    return group.name or f"Cluster {group.id}"


def _size(group: ShownCluster, N: int) -> str:
    """The clusters of a named group, its number of images, and their share of all images."""
    ids = ", ".join(map(str, group.clusters[:20])) + ", …" * (len(group.clusters) > 20)
    own = f"cluster{'s' * (len(group.clusters) > 1)} {ids}: " if group.name else ""
    return f"{own}{quantity(len(group), 'image')}, {percent(len(group) / N)}"


def _anchor(group: ShownCluster) -> str:
    return f"cluster-{group.id}"


def _link(group: ShownCluster) -> Html:
    return link(_anchor(group), shorten(group.title))


def group_link(gallery: Gallery, group: ShownCluster) -> Html:
    """The name of a group, as a link if it has a wall."""
    walls = {other.id for other in gallery.found[:WALLS]}
    return _link(group) if group.id in walls else text(shorten(group.title))
