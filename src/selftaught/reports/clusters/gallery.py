"""The clusters one by one: a wall of images each, and what is told of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selftaught.reports.clusters.members import BORDER, ODD, ShownCluster
from selftaught.reports.clusters.tiles import image_tile, short
from selftaught.reports.page import (
    Html,
    Section,
    bullets,
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
from selftaught.vectors.vectors import Vectors

WALLS = 200
"""Groups that are shown with their images."""

_ROWS = 10_000  # of the table of the others
_FOLDED = 40  # links to walls; more are folded


@dataclass(frozen=True, eq=False)
class Gallery:
    """What walls are made from.

    Attributes:
        vectors: Of all images.
        found: All groups, largest first.
        near: Of each wall, the positions of the nearest groups.
        beyond: The other group that an image of a border is near to.
        odd: Outliers.
        pictures: By place.
    """

    vectors: Vectors
    found: Sequence[ShownCluster]
    near: Sequence[Sequence[int]]
    beyond: Mapping[int, ShownCluster]
    odd: frozenset[int]
    pictures: Mapping[int, str]


def walls_section(gallery: Gallery) -> Section:
    """A wall for each of the largest groups, and links to them."""
    shown = gallery.found[:WALLS]
    parts = [
        paragraph(
            "Typical images are the nearest to the centroid. Those on the border are nearly as "
            "near to the cluster that is named below them. The oddest are the least like any "
            "other. Cohesion is the mean cosine of two images of a cluster: 1 all alike, 0 nothing "
            "in common."
        ),
        *_without_pictures(gallery, shown),
    ]
    if len(shown) < len(gallery.found):
        words = f"The {len(shown)} largest of {len(gallery.found):,} are shown; a table below has "
        parts.append(paragraph(words + "the others."))
    if len(shown) > 1:
        parts.append(_index(shown))
    walls = (_wall(gallery, position) for position in range(len(shown)))
    return Section("Clusters", join_html([*parts, *walls]), "clusters")


def others_section(gallery: Gallery) -> list[Section]:
    """The groups without a wall as a table, where there are such."""
    others = gallery.found[WALLS:]
    if not others:
        return []
    listed = others[:_ROWS]
    words = f"{many(len(others), 'cluster')}, each of {many(len(others[0]), 'image')} at most."
    if len(listed) < len(others):
        words += f" The {len(listed):,} largest are listed; assignments.parquet has all of them."
    labelled = any(group.label for group in listed)
    header = ("cluster", "images", "cohesion", *(("commonest label", "its share") * labelled))
    numbers = table(header, (_row(group, labelled) for group in listed), numbers=(1, 2, 4))
    parts = (paragraph(words), folded(f"Show {many(len(listed), 'cluster')}", numbers))
    return [Section("Smaller clusters", join_html(parts), "smaller")]


def _row(group: ShownCluster, labelled: bool) -> list[object]:
    row: list[object] = [short(group.called), f"{len(group):,}", f"{group.cohesion:.2f}"]
    return [*row, short(group.label), percent(group.purity)] if labelled else row


def _index(shown: Sequence[ShownCluster]) -> Html:
    """Links to all walls."""
    lines = (f"<li>{_link(group)} <small>{len(group):,}</small></li>" for group in shown)
    index = Html(f'<ul class="index">{"".join(lines)}</ul>')
    return index if len(shown) <= _FOLDED else folded(f"Links to {len(shown)} clusters", index)


def _wall(gallery: Gallery, position: int) -> Html:
    """The images of a group by what they are, with what is told of it."""
    group, vectors = gallery.found[position], gallery.vectors
    kinds = [
        f"<div><h4>{text(kind)}</h4>{_mosaic(gallery, kind, places)}</div>"
        for kind, places in group.shown.items()
    ]
    places = dict.fromkeys(place for some in group.shown.values() for place in some)
    paths = [short(vectors.paths[place]) for place in places if place in gallery.pictures]
    listed = folded("Paths", bullets(paths)) if paths else ""
    near = [gallery.found[i] for i in gallery.near[position]]
    return Html(
        f'<article id="{_anchor(group)}"><h3>{text(short(_heading(group)))} '
        f"<small>{text(_size(group, len(vectors)))}</small></h3>{_told(gallery, group, near)}"
        f'<div class="kinds">{"".join(kinds)}</div>{listed}</article>'
    )


def _mosaic(gallery: Gallery, kind: str, places: Sequence[int]) -> Html:
    """Tiles of one kind; on the border, each names the group beyond."""
    captions = {
        place: f"or {short(gallery.beyond[place].short)}"
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


def _told(gallery: Gallery, group: ShownCluster, near: Sequence[ShownCluster]) -> Html:
    """What is told of a group, in a line."""
    told = [text(f"Cohesion {group.cohesion:.2f}")] if len(group) > 1 else []
    if group.label:
        told.append(text(f"commonest label {short(group.label)} ({percent(group.purity)})"))
    if group.doubled:
        told.append(text(f"{percent(group.doubled)} near-duplicates"))
    if near:
        told.append(Html(f"nearest: {join_html((called(gallery, other) for other in near), ', ')}"))
    return Html(f'<p class="told">{join_html(told, " · ")}</p>')


def _without_pictures(gallery: Gallery, shown: Sequence[ShownCluster]) -> list[Html]:
    """A note where images are shown as paths."""
    if gallery.vectors.images is None:
        words = "No images were given with their vectors, so their paths are shown."
        return [paragraph(words, kind="note")]
    places = {place for group in shown for some in group.shown.values() for place in some}
    missing = len(places - gallery.pictures.keys())
    words = (
        f"{many(missing, 'image')} could not be read, or did not fit on this page: see the path."
    )
    return [paragraph(words, kind="note")] if missing else []


def _heading(group: ShownCluster) -> str:
    """Name and clusters, or cluster and id."""
    return group.name or f"Cluster {group.id}"


def _size(group: ShownCluster, N: int) -> str:
    """Which clusters a named group is, its images and their share of all."""
    ids = ", ".join(map(str, group.clusters[:20])) + ", …" * (len(group.clusters) > 20)
    own = f"cluster{'s' * (len(group.clusters) > 1)} {ids}: " if group.name else ""
    return f"{own}{many(len(group), 'image')}, {percent(len(group) / N)}"


def _anchor(group: ShownCluster) -> str:
    return f"cluster-{group.id}"


def _link(group: ShownCluster) -> Html:
    return link(_anchor(group), short(group.called))


def called(gallery: Gallery, group: ShownCluster) -> Html:
    """What a group is called, as a link where it has a wall."""
    walls = {other.id for other in gallery.found[:WALLS]}
    return _link(group) if group.id in walls else text(short(group.called))
