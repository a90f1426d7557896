"""The lists of a clustering's report: near-duplicates, outliers and next steps."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from selftaught.reports.clusters.members import ShownCluster
from selftaught.reports.clusters.tiles import image_tile, shorten
from selftaught.reports.page import (
    Html,
    Markup,
    Section,
    address,
    bullets,
    code,
    details,
    grid,
    join_html,
    paragraph,
    quantity,
    table,
)
from selftaught.vectors.vectors import Vectors

_OUTLIERS, _TWINS, _OF_EACH = (
    48,
    60,
    5,
)  # with pictures: outliers; groups of near-duplicates; images per group
_MORE, _PATHS = 500, 10  # more of either, as text; paths per group


def places_in_lists(odd: Sequence[int], twins: Sequence[Sequence[int]]) -> list[int]:
    """The places whose pictures these lists show."""
    return [*odd[:_OUTLIERS], *(place for group in twins[:_TWINS] for place in group[:_OF_EACH])]


def duplicates_section(
    vectors: Vectors, pictures: Mapping[int, str], twins: Sequence[Sequence[int]]
) -> Section:
    """Groups of near-duplicates, the largest first."""
    title, anchor = "Near-duplicates", "duplicates"
    if not twins:
        return Section(title, paragraph("No near-duplicates.", kind="good"), anchor)
    number = sum(map(len, twins))
    words = (
        f"{quantity(number, 'near-duplicate')} in {quantity(len(twins), 'group')}. "
        f"Keeping one image per group would remove {quantity(number - len(twins), 'image')}."
    )
    shown = [_twins(vectors, pictures, group) for group in twins[:_TWINS]]
    rest = twins[_TWINS : _TWINS + _MORE]
    parts = [paragraph(words), grid(shown, kind="twins")]
    if rest:
        lines = (" · ".join(_paths(vectors, group)) for group in rest)
        parts.append(details(f"The next {quantity(len(rest), 'group')}", bullets(lines)))
    return Section(title, join_html([*parts, _omission_note(len(twins), _TWINS + _MORE)]), anchor)


def outliers_section(
    vectors: Vectors,
    pictures: Mapping[int, str],
    odd: Sequence[int],
    outlier_N: NDArray[np.float32] | None,
    cluster: Mapping[int, Html],
) -> Section:
    """The outliers.

    Args:
        vectors: The vectors of all images.
        pictures: Pictures by place.
        odd: The places of the outliers, highest score first.
        outlier_N: Outlier score of each image; None if there are too few images.
        cluster: The name of each outlier's group.
    """
    title, anchor = "Outliers", "outliers"
    if outlier_N is None:
        words = "There are too few images to detect outliers."
        return Section(title, paragraph(words, kind="note"), anchor)
    if not odd:
        return Section(title, paragraph("No outliers.", kind="good"), anchor)

    few, more = odd[:_OUTLIERS], odd[_OUTLIERS : _OUTLIERS + _MORE]
    words = (
        f"{quantity(len(odd), 'outlier')}, highest score first. Look for images that do not "
        "belong, such as broken images, captions or other subjects."
    )
    cards = [
        Html(
            f"<div>{_picture(pictures, vectors, place)}"
            f"<p>{address(shorten(vectors.paths[place]))}<br>"
            f"<small>{cluster[place]}, score {outlier_N[place]:.3f}</small></p></div>"
        )
        for place in few
    ]
    parts = [paragraph(words), grid(cards, kind="cards")]
    if more:
        rows = [
            (
                Markup(address(shorten(vectors.paths[place]))),
                Markup(cluster[place]),
                f"{outlier_N[place]:.3f}",
            )
            for place in more
        ]
        lines = table(("path", "cluster", "score"), rows, numbers=(2,))
        parts.append(details(f"The next {quantity(len(more), 'image')}", lines))
    return Section(title, join_html([*parts, _omission_note(len(odd), _OUTLIERS + _MORE)]), anchor)


def next_section(group: ShownCluster, *, encoder: bool = True) -> Section:
    """How to name clusters and how to use them.

    Args:
        group: The cluster of the example.
        encoder: Whether the location of the encoder is known.
    """
    where = "" if encoder else " --encoder RUN"
    parts = (
        paragraph(
            "Name the clusters: create the file names.csv in the folder of this report, with the "
            "columns cluster and name and one line per cluster that you want to name. Clusters "
            "with the same name are merged."
        ),
        code(["cluster,name", *(f"{id_},a name" for id_ in group.clusters)]),
        paragraph(
            "Then assign new images to these clusters. CLUSTERS is the folder of this report, DATA "
            "the new images:"
        ),
        code([f"selftaught assign CLUSTERS DATA{where} --out table.parquet"]),
    )
    return Section("Next steps", join_html(parts), "next")


def _picture(pictures: Mapping[int, str], vectors: Vectors, place: int) -> Html:
    """The picture, if there is one; its path is printed next to it."""
    return image_tile(pictures, vectors, place) if place in pictures else Html("")


def _twins(vectors: Vectors, pictures: Mapping[int, str], group: Sequence[int]) -> Html:
    """The pictures of a group of near-duplicates, and their paths."""
    tiles = [
        image_tile(pictures, vectors, place) for place in group[:_OF_EACH] if place in pictures
    ]
    mosaic = grid(tiles, kind="mosaic") if tiles else Html("")
    paths = (f"<li>{address(path)}</li>" for path in _paths(vectors, group))
    return Html(f"<div>{mosaic}<ul>{''.join(paths)}</ul></div>")


def _paths(vectors: Vectors, group: Sequence[int]) -> list[str]:
    """The paths of a group; for a large one, the first paths and the number of the others."""
    paths = [shorten(vectors.paths[place]) for place in group[:_PATHS]]
    left = len(group) - _PATHS
    return [*paths, f"and {left:,} more"] if left > 0 else paths


def _omission_note(number: int, listed: int) -> Html:
    """A note on what the page leaves out, if anything."""
    left = number - listed
    words = f"{left:,} more are not on this page; assignments.parquet has all of them."
    return paragraph(words) if left > 0 else Html("")
