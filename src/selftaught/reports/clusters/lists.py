"""What the report of a clustering lists: near-duplicates, outliers, and what to do next."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from selftaught.reports.clusters.members import ShownCluster
from selftaught.reports.clusters.tiles import image_tile, short
from selftaught.reports.page import (
    Html,
    Markup,
    Section,
    address,
    bullets,
    code,
    folded,
    grid,
    join_html,
    many,
    paragraph,
    table,
)
from selftaught.vectors.vectors import Vectors

_OUTLIERS, _TWINS, _OF_EACH = 48, 60, 5  # with pictures: outliers, groups of duplicates, of each
_MORE, _PATHS = 500, 10  # more of either, as text; paths of a group
_TABLE = "assignments.parquet has all of them."


def pictured(odd: Sequence[int], twins: Sequence[Sequence[int]]) -> list[int]:
    """The places whose pictures these lists want."""
    return [*odd[:_OUTLIERS], *(place for group in twins[:_TWINS] for place in group[:_OF_EACH])]


def duplicates_section(
    vectors: Vectors, pictures: Mapping[int, str], twins: Sequence[Sequence[int]]
) -> Section:
    """Images that are nearly the same, group by group, the largest first."""
    title, anchor = "Near-duplicates", "duplicates"
    if not twins:
        words = "No two images are nearly the same."
        return Section(title, paragraph(words, kind="good"), anchor)
    number = sum(map(len, twins))
    words = (
        f"{many(number, 'image')} in {many(len(twins), 'group')}, alike within each. "
        f"With one of each kept, {many(number - len(twins), 'image')} would go."
    )
    shown = [_twins(vectors, pictures, group) for group in twins[:_TWINS]]
    rest = twins[_TWINS : _TWINS + _MORE]
    parts = [paragraph(words), grid(shown, kind="twins")]
    if rest:
        lines = (" · ".join(_paths(vectors, group)) for group in rest)
        parts.append(folded(f"The next {many(len(rest), 'group')}", bullets(lines)))
    return Section(title, join_html([*parts, _left(len(twins), _TWINS + _MORE)]), anchor)


def outliers_section(
    vectors: Vectors,
    pictures: Mapping[int, str],
    odd: Sequence[int],
    outlier_N: NDArray[np.float32] | None,
    cluster: Mapping[int, Html],
) -> Section:
    """Images unlike the others.

    Args:
        vectors: Of all images.
        pictures: By place.
        odd: The places of the outliers, oddest first.
        outlier_N: How odd each image is; None where there are too few to tell.
        cluster: What the group of each outlier is called.
    """
    title, anchor = "Outliers", "outliers"
    if outlier_N is None:
        words = "Outliers are not told: there are too few images."
        return Section(title, paragraph(words, kind="note"), anchor)
    if not odd:
        return Section(title, paragraph("No image stands out.", kind="good"), anchor)

    few, more = odd[:_OUTLIERS], odd[_OUTLIERS : _OUTLIERS + _MORE]
    words = (
        f"{many(len(odd), 'image')} unlike the others, the oddest first: the higher the score, the "
        "odder. Look for what does not belong: broken images, captions, other subjects."
    )
    cards = [
        Html(
            f"<div>{_small(pictures, vectors, place)}<p>{address(short(vectors.paths[place]))}<br>"
            f"<small>{cluster[place]}, score {outlier_N[place]:.3f}</small></p></div>"
        )
        for place in few
    ]
    parts = [paragraph(words), grid(cards, kind="cards")]
    if more:
        rows = [
            (
                Markup(address(short(vectors.paths[place]))),
                Markup(cluster[place]),
                f"{outlier_N[place]:.3f}",
            )
            for place in more
        ]
        lines = table(("path", "cluster", "score"), rows, numbers=(2,))
        parts.append(folded(f"The next {many(len(more), 'image')}", lines))
    return Section(title, join_html([*parts, _left(len(odd), _OUTLIERS + _MORE)]), anchor)


def next_section(group: ShownCluster, *, encoder: bool = True) -> Section:
    """How clusters are named, and what they are good for; one of them is the example.

    Args:
        group: The example.
        encoder: Whether it is known where the encoder is.
    """
    where = "" if encoder else " --encoder RUN"
    parts = (
        paragraph(
            "Name the clusters: write the file names.csv into the folder of this report, with the "
            "columns cluster and name and a line for each cluster that you have a name for. "
            "Clusters with one name become one group."
        ),
        code(["cluster,name", *(f"{id_},a name" for id_ in group.clusters)]),
        paragraph(
            "Then put new images into these clusters, under their names; CLUSTERS is the folder of "
            "this report, DATA the new images:"
        ),
        code([f"selftaught assign CLUSTERS DATA{where} --out table.parquet"]),
    )
    return Section("What to do next", join_html(parts), "next")


def _small(pictures: Mapping[int, str], vectors: Vectors, place: int) -> Html:
    """A picture, where there is one: the path stands beside it."""
    return image_tile(pictures, vectors, place) if place in pictures else Html("")


def _twins(vectors: Vectors, pictures: Mapping[int, str], group: Sequence[int]) -> Html:
    """The pictures of a group of duplicates, and their paths."""
    tiles = [
        image_tile(pictures, vectors, place) for place in group[:_OF_EACH] if place in pictures
    ]
    mosaic = grid(tiles, kind="mosaic") if tiles else Html("")
    paths = (f"<li>{address(path)}</li>" for path in _paths(vectors, group))
    return Html(f"<div>{mosaic}<ul>{''.join(paths)}</ul></div>")


def _paths(vectors: Vectors, group: Sequence[int]) -> list[str]:
    """The paths of a group; of a large one, the first and how many there are."""
    paths = [short(vectors.paths[place]) for place in group[:_PATHS]]
    left = len(group) - _PATHS
    return [*paths, f"and {left:,} more"] if left > 0 else paths


def _left(number: int, listed: int) -> Html:
    """What the page leaves out, if anything."""
    left = number - listed
    return paragraph(f"{left:,} more are not on this page: {_TABLE}") if left > 0 else Html("")
