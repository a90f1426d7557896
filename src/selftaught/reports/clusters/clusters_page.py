"""CLUSTERS/report.html: what was found, a wall of images for each cluster, and what to do with it.

Clusters with one name are shown as one group. They stand largest first, the largest 200 with their
images and the others in a table, and pictures have a limit, so that any clustering makes a small
page.

Shapes:  N images.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from selftaught.clusters.clusters import Assigned
from selftaught.clusters.fit import Grouping
from selftaught.clusters.standouts import Apart
from selftaught.reports import plots
from selftaught.reports.clusters.gallery import (
    WALLS,
    Gallery,
    called,
    others_section,
    walls_section,
)
from selftaught.reports.clusters.lists import (
    duplicates_section,
    next_section,
    outliers_section,
    pictured,
)
from selftaught.reports.clusters.members import (
    BORDER,
    Most,
    ShownCluster,
    agreements,
    classes,
    merged,
    nearest_clusters,
    next_groups,
    shown_clusters,
)
from selftaught.reports.clusters.tiles import MOST_BYTES, pictures_of
from selftaught.reports.page import (
    Html,
    Section,
    facts,
    figure,
    folded,
    grid,
    join_html,
    many,
    paragraph,
    table,
    write_report,
)

_FULL, _FULL_WALLS, _SPARE = Most(12, 6, 6), 100, Most(6, 3, 3)  # up to so many walls, and of more


class Curve(NamedTuple):
    """Clusterings of several k, and why one of them was chosen.

    Attributes:
        k: From the smallest.
        stability: Of each, 0 to 1.
        silhouette: Of each, -1 to 1.
        entropy: Of its sizes over ln k, 0 to 1.
        chosen: One of k.
        words: The choice in a sentence.
    """

    k: Sequence[int]
    stability: Sequence[float]
    silhouette: Sequence[float]
    entropy: Sequence[float]
    chosen: int
    words: str


def clustering_sections(found: Grouping, stands: Apart) -> list[Section]:
    """The sections of CLUSTERS/report.html for a clustering and what stands out in it."""
    choice, curve = found.choice, None
    if choice is not None and choice.points:
        columns = zip(*map(dataclasses.astuple, choice.points), strict=True)
        k, stability, silhouette, _, entropy, _ = map(list, columns)
        curve = Curve(k, stability, silhouette, entropy, choice.k, choice.sentence)
    return group_sections(
        found,
        outlier_N=stands.score_N,
        odd_N=stands.odd_N,
        duplicates=[group.tolist() for group in stands.duplicates],
        curve=curve,
    )


def group_sections(
    grouping: Grouping,
    *,
    outlier_N: NDArray[np.float32] | None,
    odd_N: NDArray[np.bool_] | None,
    duplicates: Sequence[Sequence[int]],
    curve: Curve | None = None,
    most_bytes: int = MOST_BYTES,
) -> list[Section]:
    """The sections of CLUSTERS/report.html, in their order.

    Args:
        grouping: The clustering.
        outlier_N: How odd each image is; the higher, the odder. None of too few images.
        odd_N: Which images are outliers; None of too few.
        duplicates: Groups of images that are nearly the same, as places 0 .. N-1.
        curve: What `--k auto` chose from.
        most_bytes: Of all pictures together; the page is a little larger.
    """
    assigned = merged(grouping)
    most = _FULL if len(np.unique(assigned.cluster_N)) <= _FULL_WALLS else _SPARE
    found = shown_clusters(grouping, assigned, outlier_N, duplicates, most)
    odd = _oddest_first(outlier_N, odd_N)
    twins = sorted(duplicates, key=len, reverse=True)
    wanted = _wanted(found[:WALLS], pictured(odd, twins))
    pictures = pictures_of(grouping.vectors, wanted, most_bytes)
    gallery = Gallery(
        vectors=grouping.vectors,
        found=found,
        near=nearest_clusters(grouping, found, WALLS),
        beyond=_beyond(grouping, assigned, found),
        odd=frozenset(odd),
        pictures=pictures,
    )
    by_id = {group.id: group for group in found}
    home = {place: called(gallery, by_id[int(assigned.cluster_N[place])]) for place in odd}
    return [
        _overview(grouping, assigned, found, twins=twins, odd_N=odd_N),
        *([] if curve is None else [choice_section(curve)]),
        walls_section(gallery),
        *others_section(gallery),
        duplicates_section(grouping.vectors, pictures, twins),
        outliers_section(grouping.vectors, pictures, odd, outlier_N, home),
        next_section(found[0], encoder=bool(grouping.clusters.run)),
    ]


def write_group_report(folder: Path, sections: Sequence[Section], title: str = "") -> Path:
    """Write the report of a clustering as FOLDER/report.html, whole or not at all.

    Args:
        folder: CLUSTERS.
        sections: The parts, in order.
        title: The heading; by default the folder's name.

    Returns:
        The path of the report.
    """
    return write_report(folder, sections, title=title or f"{folder.resolve().name}: clusters")


def choice_section(curve: Curve) -> Section:
    """The clusterings of several k, and why one of them was chosen."""
    meanings = {
        "stability": "1: clusterings of different images agree.",
        "silhouette": "1: every image is far nearer to its own cluster than to the next.",
        "entropy": "Of the sizes, over ln k. 1: clusters of one size.",
    }
    drawn, columns = [], (curve.stability, curve.silhouette, curve.entropy)
    for (name, meaning), values in zip(meanings.items(), columns, strict=True):
        at = (f"{value:.3f} at {k}" for k, value in zip(curve.k, values, strict=True))
        alt = f"{name} over k: {', '.join(at)}"
        lines = {name: (curve.k, values)}
        plot = plots.curves(name.capitalize(), lines, alt=alt, over="k", chosen=curve.chosen)
        drawn.append(figure(plot, meaning))
    rows = [
        [k, *(f"{value:.3f}" for value in values)]
        for k, *values in zip(curve.k, *columns, strict=True)
    ]
    marked = [i for i, k in enumerate(curve.k) if k == curve.chosen]
    numbers = table(("k", *meanings), rows, numbers=range(4), marked=marked)
    parts = (paragraph(curve.words), grid(drawn), folded("The same as numbers", numbers))
    return Section("The number of clusters", join_html(parts), "choice")


def _overview(
    grouping: Grouping,
    assigned: Assigned,
    found: Sequence[ShownCluster],
    *,
    twins: Sequence[Sequence[int]],
    odd_N: NDArray[np.bool_] | None,
) -> Section:
    """How many images in how many clusters, what to know, and how far they agree with labels."""
    sizes, K = [len(group) for group in found], len({id_ for g in found for id_ in g.clusters})
    told: dict[str, object] = {"images": sum(sizes), "clusters": K}
    if len(found) < K:
        told["groups by name"] = len(found)
    of = " group" if len(found) < K else ""
    told |= {
        f"largest{of}": sizes[0],
        f"median{of}": f"{np.median(sizes):,g}",
        f"smallest{of}": sizes[-1],
        "near-duplicates": sum(map(len, twins)),
        "outliers": "not told" if odd_N is None else int(odd_N.sum()),
    }
    parts = [paragraph(note, kind="note") for note in grouping.notes]
    labels = classes(grouping.vectors.labels)
    if labels is not None:
        what = "Groups by name beside" if of else "Beside"
        parts.append(paragraph(f"{what} {_agreement(agreements(labels, assigned.cluster_N))}"))
    if len(found) > 1:
        title = f"Images in each{of or ' cluster'}"
        alt = f"{title}, from {sizes[0]:,} in the largest to {sizes[-1]:,}"
        drawn = plots.bars(title, sizes, alt=alt, over="rank by size")
        parts = [grid([Html(f"<div>{join_html(parts)}</div>"), figure(drawn)], kind="beside")]
    return Section("Overview", join_html([facts(told), *parts]), "overview")


def _oddest_first(
    outlier_N: NDArray[np.float32] | None, odd_N: NDArray[np.bool_] | None
) -> list[int]:
    """The places of the outliers; none where they are not known."""
    if outlier_N is None or odd_N is None:
        return []
    places: list[int] = np.flatnonzero(odd_N)[np.argsort(-outlier_N[odd_N], kind="stable")].tolist()
    return places


def _agreement(of: Mapping[str, float]) -> str:
    """How far clusters agree with labels, in a sentence."""
    matched = (
        f"purity {of['purity']:.3f} (the share of images with the commonest label of their "
        f"cluster), accuracy {of['accuracy']:.3f} (one cluster stands for one label), "
        if "purity" in of
        else ""
    )
    return (
        f"the labels of {many(int(of['images']), 'image')}, {of['classes']:,.0f} different "
        f"ones, which were only looked at afterwards: {matched}NMI {of['NMI']:.3f} (geometric "
        f"mean; arithmetic {of['NMI, arithmetic']:.3f}), ARI {of['ARI']:.3f} (0 is what chance "
        "gives)."
    )


def _wanted(shown: Sequence[ShownCluster], listed: Sequence[int]) -> list[int]:
    """The places whose pictures the page wants: of each wall the first kind, before the others."""
    kinds = [list(group.shown.values()) for group in shown]
    first = [place for first, *_ in kinds for place in first]
    return [*first, *listed, *(p for _, *others in kinds for places in others for p in places)]


def _beyond(
    grouping: Grouping, assigned: Assigned, found: Sequence[ShownCluster]
) -> dict[int, ShownCluster]:
    """The other group that each image of a border is near to."""
    border = [place for group in found[:WALLS] for place in group.shown.get(BORDER, ())]
    by_id = {group.id: group for group in found}
    nearest_ids = next_groups(grouping, assigned, border)
    return {place: by_id[id_] for place, id_ in nearest_ids.items() if id_ in by_id}
