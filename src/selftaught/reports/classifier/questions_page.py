"""A page of images that people should look at, with the reasons."""

from collections.abc import Sequence
from dataclasses import dataclass

from selftaught.reports.page import Html, Section, Thumbnail, figure, grid, image, page, paragraph


@dataclass(frozen=True)
class Asked:
    """Images that are asked about for one reason."""

    title: str
    words: str
    pictures: Sequence[Thumbnail]


def questions_page(title: str, words: str, parts: Sequence[Asked]) -> str:
    """The page as text: a section a part, each picture above what is said of it."""
    return page(title, [_section(part) for part in parts if part.pictures], subtitle=words)


def _section(part: Asked) -> Section:
    tiles = [_tile(picture) for picture in part.pictures]
    return Section(part.title, Html(paragraph(part.words) + grid(tiles, kind="tiles")))


def _tile(picture: Thumbnail) -> Html:
    shown = image(picture.uri, picture.name) if picture.uri else paragraph("(no picture)")
    return figure(shown, picture.words)
