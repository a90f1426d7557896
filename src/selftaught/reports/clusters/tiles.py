"""Images by their place as thumbnails, or as their paths if there are no pixels.

The pictures of a page have a size limit; the first places have priority.

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
"""Pixels of a picture's longer side; smaller images are not enlarged."""

MOST_BYTES = 10 * 2**20
"""Size limit of all pictures of a page."""

_AT_ONCE, _THREADS = 256, 4
_LONGEST = 200  # characters of a path


def pictures_of(
    vectors: Vectors, places: Iterable[int], most_bytes: int = MOST_BYTES
) -> dict[int, str]:
    """Thumbnails as `data:` URIs, by place.

    Unreadable images have none, and no image has one once `most_bytes` are used up.

    Args:
        vectors: The vectors, with their images.
        places: Places of images, most important first, as often as the page shows them.
        most_bytes: Size limit of all pictures together.
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
    """The thumbnail of an image; "" if it cannot be read."""
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
    """An image of a wall: its picture with the path as alternative text, or its path."""
    path = shorten(vectors.paths[place])
    content = image(pictures[place], path) if place in pictures else address(path)
    words = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    kind = "tile" if place in pictures else "tile words"
    return Html(f'<figure class="{kind}" title="{text(path)}">{content}{words}</figure>')


def shorten(words: str) -> str:
    """A text of at most 200 characters, without its middle if necessary."""
    half = _LONGEST // 2
    return words if len(words) <= _LONGEST else f"{words[:half]}…{words[-half:]}"
