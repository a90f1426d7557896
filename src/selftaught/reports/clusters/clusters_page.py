"""CLUSTERS/report.html: an overview, a wall of images for each cluster, and the next steps.

Clusters with the same name are merged. They are sorted by size, the largest 200 with their images
and the others in a table. The pictures have a size limit, so that every page is small.

Shapes:  N images.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from selftaught.clusters.clusters import Assignment
from selftaught.clusters.fit import ClusteredImages
from selftaught.clusters.standouts import Standouts
from selftaught.reports import plots
from selftaught.reports.clusters.gallery import (
    WALLS,
    Gallery,
    group_link,
    others_section,
    walls_section,
)
from selftaught.reports.clusters.lists import (
    duplicates_section,
    next_section,
    outliers_section,
    places_in_lists,
)
from selftaught.reports.clusters.members import (
    BORDER,
    Most,
    ShownCluster,
    agreements,
    class_labels,
    merged_assignment,
    nearest_clusters,
    next_groups,
    shown_clusters,
)
from selftaught.reports.clusters.tiles import MOST_BYTES, pictures_of
from selftaught.reports.page import (
    Html,
    Section,
    details,
    facts,
    figure,
    grid,
    join_html,
    paragraph,
    quantity,
    table,
    write_report,
)

_FULL, _FULL_WALLS, _SPARE = Most(12, 6, 6), 100, Most(6, 3, 3)  # up to 100 walls; with more walls


class Curve(NamedTuple):
    """Clusterings with several k, and the choice among them.

    Attributes:
        k: Numbers of clusters, increasing.
        stability: One per k, 0 to 1.
        silhouette: One per k, -1 to 1.
        entropy: Entropy of the cluster sizes over ln k, one per k, 0 to 1.
        chosen: The chosen k.
        words: The reason in a sentence.
    """

    k: Sequence[int]
    stability: Sequence[float]
    silhouette: Sequence[float]
    entropy: Sequence[float]
    chosen: int
    words: str


def clustering_sections(found: ClusteredImages, stands: Standouts) -> list[Section]:
    """The sections of CLUSTERS/report.html for a clustering, its outliers and near-duplicates."""
    choice, curve = found.choice, None
    if choice is not None and choice.points:
        columns = zip(*map(dataclasses.astuple, choice.points), strict=True)
        k, stability, silhouette, _, entropy, _ = map(list, columns)
        curve = Curve(k, stability, silhouette, entropy, choice.k, choice.sentence)
    return group_sections(
        found,
        outlier_N=stands.score_N,
        odd_N=stands.outlier_N,
        duplicates=[group.tolist() for group in stands.duplicates],
        curve=curve,
    )


def group_sections(
    grouping: ClusteredImages,
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
        outlier_N: Outlier score of each image; None if there are too few images.
        odd_N: Which images are outliers; None if there are too few images.
        duplicates: Groups of near-duplicates, as places 0 .. N-1.
        curve: The candidates of `--k auto`.
        most_bytes: Size limit of all pictures together; the page is a little larger.
    """
    assigned = merged_assignment(grouping)
    most = _FULL if len(np.unique(assigned.cluster_N)) <= _FULL_WALLS else _SPARE
    found = shown_clusters(grouping, assigned, outlier_N, duplicates, most)
    odd = _outliers_by_score(outlier_N, odd_N)
    twins = sorted(duplicates, key=len, reverse=True)
    places = _places_by_priority(found[:WALLS], places_in_lists(odd, twins))
    pictures = pictures_of(grouping.vectors, places, most_bytes)
    gallery = Gallery(
        vectors=grouping.vectors,
        found=found,
        near=nearest_clusters(grouping, found, WALLS),
        beyond=_nearest_other_groups(grouping, assigned, found),
        odd=frozenset(odd),
        pictures=pictures,
    )
    by_id = {group.id: group for group in found}
    home = {place: group_link(gallery, by_id[int(assigned.cluster_N[place])]) for place in odd}
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
        sections: The sections, in order.
        title: The heading; by default the name of the folder.

    Returns:
        The path of the report.
    """
    return write_report(folder, sections, title=title or f"{folder.resolve().name}: clusters")


def choice_section(curve: Curve) -> Section:
    """The clusterings with several k, and the reason for the choice."""
    meanings = {
        "stability": "1: clusterings of different samples agree.",
        "silhouette": "1: every image is much nearer to its own cluster than to the next.",
        "entropy": "Of the cluster sizes, over ln k. 1: all clusters of equal size.",
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
    parts = (paragraph(curve.words), grid(drawn), details("Values", numbers))
    return Section("Number of clusters", join_html(parts), "choice")


def _overview(
    grouping: ClusteredImages,
    assigned: Assignment,
    found: Sequence[ShownCluster],
    *,
    twins: Sequence[Sequence[int]],
    odd_N: NDArray[np.bool_] | None,
) -> Section:
    """Numbers of images and clusters, notes, and the agreement with labels."""
    sizes, K = [len(group) for group in found], len({id_ for g in found for id_ in g.clusters})
    pairs: dict[str, object] = {"images": sum(sizes), "clusters": K}
    if len(found) < K:
        pairs["merged by name"] = len(found)
    pairs |= {
        "largest cluster": sizes[0],
        "median size": f"{np.median(sizes):,g}",
        "smallest cluster": sizes[-1],
        "near-duplicates": sum(map(len, twins)),
        "outliers": "too few images" if odd_N is None else int(odd_N.sum()),
    }
    parts = [paragraph(note, kind="note") for note in grouping.notes]
    labels = class_labels(grouping.vectors.labels)
    if labels is not None:
        parts.append(paragraph(_agreement_text(agreements(labels, assigned.cluster_N))))
    if len(found) > 1:
        title = "Images in each cluster"
        alt = f"{title}, from {sizes[0]:,} in the largest to {sizes[-1]:,}"
        drawn = plots.bars(title, sizes, alt=alt, over="rank by size")
        parts = [grid([Html(f"<div>{join_html(parts)}</div>"), figure(drawn)], kind="beside")]
    return Section("Overview", join_html([facts(pairs), *parts]), "overview")


def _outliers_by_score(
    outlier_N: NDArray[np.float32] | None, odd_N: NDArray[np.bool_] | None
) -> list[int]:
    """The places of the outliers, highest score first; empty if they are unknown."""
    if outlier_N is None or odd_N is None:
        return []
    places: list[int] = np.flatnonzero(odd_N)[np.argsort(-outlier_N[odd_N], kind="stable")].tolist()
    return places


def _agreement_text(of: Mapping[str, float]) -> str:
    """The agreement of clusters with labels, in a sentence."""
    matched = (
        f"purity {of['purity']:.3f} (share of images with the most common label of their "
        f"cluster), accuracy {of['accuracy']:.3f} (each cluster matched with one label), "
        if "purity" in of
        else ""
    )
    return (
        f"Agreement with the labels of {quantity(int(of['images']), 'image')} "
        f"({of['classes']:,.0f} different labels, not used for clustering): "
        f"{matched}NMI {of['NMI']:.3f} (geometric mean; arithmetic {of['NMI, arithmetic']:.3f}), "
        f"ARI {of['ARI']:.3f} (0 is chance)."
    )


def _places_by_priority(walls: Sequence[ShownCluster], listed: Sequence[int]) -> list[int]:
    """The places whose pictures the page needs: the first kind of each wall, then the others."""
    kinds = [list(group.shown.values()) for group in walls]
    first = [place for first, *_ in kinds for place in first]
    return [*first, *listed, *(p for _, *others in kinds for places in others for p in places)]


def _nearest_other_groups(
    grouping: ClusteredImages, assigned: Assignment, found: Sequence[ShownCluster]
) -> dict[int, ShownCluster]:
    """The nearest other group of each image on a border."""
    border = [place for group in found[:WALLS] for place in group.shown.get(BORDER, ())]
    by_id = {group.id: group for group in found}
    nearest_ids = next_groups(grouping, assigned, border)
    return {place: by_id[id_] for place, id_ in nearest_ids.items() if id_ in by_id}
