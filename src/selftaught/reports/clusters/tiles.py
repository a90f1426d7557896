"""Images by their place as small pictures, or as their paths where there are no pixels.

A page has room for so many bytes of pictures; those that are asked for first come first.

Shapes:  H, W height and width; C channels.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from selftaught.errors import BadImage
from selftaught.reports.page import Html, address, data_uri, image, text
from selftaught.reports.sheets import thumbnail
from selftaught.vectors.vectors import Vectors

SIDE = 64
"""Pixels of a picture's longer side; smaller images stay as they are."""

MOST_BYTES = 10 * 2**20
"""Of all pictures of a page."""

_AT_ONCE, _THREADS = 256, 4
_LONGEST = 200  # characters of a path


def pictures_of(
    vectors: Vectors, places: Iterable[int], most_bytes: int = MOST_BYTES
) -> dict[int, str]:
    """Small pictures as `data:` URIs, by place.

    An image that cannot be read (any more) has none, nor has any after `most_bytes` are used up.

    Args:
        vectors: What knows the images.
        places: Of images, the most important first, as often as the page shows them.
        most_bytes: Of all pictures together.
    """
    found: dict[int, str] = {}
    times = Counter(places if vectors.images is not None else ())
    wanted = list(times)
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(wanted), _AT_ONCE):
            some = wanted[start : start + _AT_ONCE]
            for place, uri in zip(some, pool.map(partial(_picture, vectors), some), strict=True):
                most_bytes -= times[place] * len(uri)
                if most_bytes < 0:
                    return found
                if uri:
                    found[place] = uri
    return found


def _picture(vectors: Vectors, place: int) -> str:
    """One picture, "" where the image cannot be read."""
    assert vectors.images is not None
    try:
        image_HWC = vectors.images.store.read(vectors.row_N[[place]]).image(0)
    except BadImage:
        return ""
    side = min(SIDE, max(image_HWC.shape[:2]))
    return data_uri(thumbnail(image_HWC, vectors.images.checked.intensity, side=side))


def image_tile(
    pictures: Mapping[int, str], vectors: Vectors, place: int, caption: str = ""
) -> Html:
    """An image of a wall: its picture with its path as words, or its path alone."""
    path = short(vectors.paths[place])
    shown = image(pictures[place], path) if place in pictures else address(path)
    words = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    kind = "tile" if place in pictures else "tile words"
    return Html(f'<figure class="{kind}" title="{text(path)}">{shown}{words}</figure>')


def short(words: str) -> str:
    """Long words without their middle."""
    half = _LONGEST // 2
    return words if len(words) <= _LONGEST else f"{words[:half]}…{words[-half:]}"
