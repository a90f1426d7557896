"""A page of images to label, with the reasons."""

from collections.abc import Sequence
from dataclasses import dataclass

from selftaught.reports.page import Html, Section, Thumbnail, figure, grid, image, page, paragraph


@dataclass(frozen=True)
class Asked:
    """Images to label for one reason."""

    title: str
    words: str
    pictures: Sequence[Thumbnail]


def questions_page(title: str, words: str, parts: Sequence[Asked]) -> str:
    """The page as HTML text: a section per part, each picture above its caption."""
    return page(title, [_section(part) for part in parts if part.pictures], subtitle=words)


def _section(part: Asked) -> Section:
    tiles = [_tile(picture) for picture in part.pictures]
    return Section(part.title, Html(paragraph(part.words) + grid(tiles, kind="tiles")))


def _tile(picture: Thumbnail) -> Html:
    content = image(picture.uri, picture.name) if picture.uri else paragraph("(no image)")
    return figure(content, picture.words)
