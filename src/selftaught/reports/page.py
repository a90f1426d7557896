"""One self-contained HTML page from a list of sections.

A page loads nothing: style, images and plots are inside the file, and a content security policy
forbids the rest. The builders here escape their arguments; only `Section.html` and the `Html` that
the builders return are inserted unchanged.
"""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NewType

from selftaught.foundation.files import write_text

Html = NewType("Html", str)
"""Markup; only the builders of this module and of `plots` create it."""

_STYLE = Path(__file__).with_name("style.css")
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_MAGIC = {b"\x89PNG": "png", b"RIFF": "webp", b"\xff\xd8\xff": "jpeg"}


@dataclass(frozen=True)
class Section:
    """A part of a page: markup under a plain-text title; links point to its anchor."""

    title: str
    html: Html
    anchor: str = ""


@dataclass(frozen=True)
class Thumbnail:
    """A small image of the report: `uri` is a `data:` URI, `words` its caption."""

    uri: str
    name: str
    words: str = ""


def page(title: str, sections: Sequence[Section], *, subtitle: str = "") -> str:
    """The whole HTML file as text, for small and large screens, light and dark mode."""
    anchors = [section.anchor or f"part-{i}" for i, section in enumerate(sections, 1)]
    links = "".join(
        f'<a href="#{anchor}">{text(section.title)}</a>'
        for anchor, section in zip(anchors, sections, strict=True)
    )
    body = "\n".join(
        f'<section id="{anchor}"><h2>{text(section.title)}</h2>\n{section.html}\n</section>'
        for anchor, section in zip(anchors, sections, strict=True)
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<link rel="icon" href="data:,">
<title>{text(title)}</title>
<style>
{_STYLE.read_text()}</style>
</head>
<body>
<a class="skip" href="#content">Skip to content</a>
<header><h1>{text(title)}</h1>{paragraph(subtitle) if subtitle else ""}
<nav aria-label="Sections of this page">{links}</nav></header>
<main id="content" tabindex="-1">
{body}
</main>
<footer>Written by selftaught. This page is self-contained and loads nothing.</footer>
</body>
</html>
"""


def write_report(run: Path, sections: Sequence[Section], *, title: str = "") -> Path:
    """Write the run's report as one self-contained file, whole or not at all.

    Args:
        run: The run's folder; the report is its `report.html`.
        sections: The sections, in order.
        title: The heading; by default the name of the folder.

    Returns:
        The path of the report.
    """
    path = run / "report.html"
    name = title or f"{run.resolve().name}: training report"
    write_text(path, page(name, sections, subtitle="A report by selftaught."))
    return path


def text(value: object) -> Html:
    """Any value as escaped text; unprintable characters become visible escapes."""
    printable = "".join(c if c.isprintable() else _visible(c) for c in str(value))
    return Html(html.escape(printable))


def address(path: object) -> Html:
    """A path as text that may wrap after each folder."""
    return Html(text(path).replace("/", "/<wbr>"))


def paragraph(words: object, *, kind: str = "") -> Html:
    """A paragraph of text; the `kind` "good", "bad" or "note" highlights it."""
    return Html(f'<p class="{kind}">{text(words)}</p>' if kind else f"<p>{text(words)}</p>")


def bullets(items: Iterable[object]) -> Html:
    """A bulleted list of texts."""
    return Html("<ul>" + "".join(f"<li>{text(item)}</li>" for item in items) + "</ul>")


def facts(pairs: Mapping[str, object]) -> Html:
    """A list of names and values."""
    formatted = {k: f"{v:,}" if isinstance(v, int) else v for k, v in pairs.items()}
    rows = (f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in formatted.items())
    return Html(f'<dl class="facts">{"".join(rows)}</dl>')


def table(
    header: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    numbers: Sequence[int] = (),
    marked: Sequence[int] = (),
) -> Html:
    """A table that scrolls sideways if it is too wide.

    Args:
        header: Column titles.
        rows: Cells: `Markup` is inserted unchanged, everything else is escaped.
        numbers: Indices of numeric columns, aligned to the right.
        marked: Indices of highlighted rows.
    """
    head = "".join(_cell("th", cell, i in numbers) for i, cell in enumerate(header))
    body = "".join(
        ('<tr class="ours">' if number in marked else "<tr>")
        + "".join(_cell("td", cell, i in numbers) for i, cell in enumerate(row))
        + "</tr>"
        for number, row in enumerate(rows)
    )
    inside = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return Html(f'<div class="scroll">{inside}</div>')


@dataclass(frozen=True)
class Markup:
    """A table cell that contains markup."""

    html: Html


def details(summary: object, inside: Html) -> Html:
    """Content that stays folded until its summary is clicked."""
    return Html(f"<details><summary>{text(summary)}</summary>{inside}</details>")


def figure(inside: Html, caption: object = "") -> Html:
    """An image or plot with its caption."""
    words = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return Html(f"<figure>{inside}{words}</figure>")


def image(data: bytes | str, alt: object) -> Html:
    """An image with alternative text, from the bytes or `data:` URI of a PNG, WebP or JPEG file."""
    source = data if isinstance(data, str) else data_uri(data)
    assert source.startswith("data:image/"), "a page loads nothing from elsewhere"
    late = 'loading="lazy" decoding="async"'  # text appears before hundreds of images are decoded
    return Html(f'<img src="{html.escape(source)}" alt="{text(alt)}" {late}>')


def link(anchor: str, words: object) -> Html:
    """A link to another part of the page."""
    return Html(f'<a href="#{html.escape(anchor)}">{text(words)}</a>')


def join_html(parts: Iterable[Html], between: str = "") -> Html:
    """Parts joined by plain text."""
    return Html(text(between).join(parts))


def quantity(number: int, thing: str) -> str:
    """A count with its noun: 1 image, 2,000 images."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def percent(share: float) -> str:
    """A share as a percentage; only 0 itself becomes 0 %."""
    return f"{100 * share:.0f} %" if share == 0 or share >= 0.1 else f"{100 * share:.2g} %"


def code(lines: Iterable[object]) -> Html:
    """Lines as a block of code."""
    return Html("<pre>" + "\n".join(map(text, lines)) + "</pre>")


def grid(parts: Iterable[Html], *, kind: str = "plots") -> Html:
    """Parts side by side, as many per row as fit."""
    return Html(f'<div class="{kind}">{"".join(parts)}</div>')


def data_uri(data: bytes) -> str:
    """A PNG, WebP or JPEG file as a `data:` URI."""
    kind = next(kind for magic, kind in _MAGIC.items() if data.startswith(magic))
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _cell(tag: str, cell: object, number: bool) -> str:
    inside = cell.html if isinstance(cell, Markup) else text(cell)
    kind = ' class="number"' if number else ""
    return (
        f"<{tag}{kind}>{inside}</{tag}>" if tag == "td" else f'<th scope="col"{kind}>{inside}</th>'
    )


def _visible(character: str) -> str:
    return character.encode("unicode_escape").decode()
