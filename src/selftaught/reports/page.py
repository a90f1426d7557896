"""One self-contained HTML page from a list of sections.

A page asks nobody for anything: style, images and plots are inside the file, and a content security
policy forbids the rest. Builders here escape what they are given; only `Section.html` and the
`Html` that the builders return are taken as they are.
"""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NewType

from selftaught.foundation.files import write_text

Html = NewType("Html", str)
"""Text that is markup already: only the builders of this module and of `plots` make it."""

_STYLE = Path(__file__).with_name("style.css")
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_MAGIC = {b"\x89PNG": "png", b"RIFF": "webp", b"\xff\xd8\xff": "jpeg"}


@dataclass(frozen=True)
class Section:
    """One headed part of a page: markup under a title of plain text; links lead to its anchor."""

    title: str
    html: Html
    anchor: str = ""


@dataclass(frozen=True)
class Thumbnail:
    """A small image of the report: `uri` is a `data:` URI, `words` what is said of it."""

    uri: str
    name: str
    words: str = ""


def page(title: str, sections: Sequence[Section], *, subtitle: str = "") -> str:
    """The whole file as text: readable on a phone and a desk, in light and dark."""
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
<a class="skip" href="#content">Skip to the content</a>
<header><h1>{text(title)}</h1>{paragraph(subtitle) if subtitle else ""}
<nav aria-label="Parts of this page">{links}</nav></header>
<main id="content" tabindex="-1">
{body}
</main>
<footer>Written by selftaught. This file holds everything that it shows; it loads nothing.</footer>
</body>
</html>
"""


def write_report(run: Path, sections: Sequence[Section], *, title: str = "") -> Path:
    """Write the run's report as one self-contained file, whole or not at all.

    Args:
        run: The run's folder; the report is its `report.html`.
        sections: The parts, in order.
        title: The heading; by default the folder's name.

    Returns:
        The path of the report.
    """
    path = run / "report.html"
    name = title or f"{run.resolve().name}: what was learnt"
    write_text(path, page(name, sections, subtitle="A report by selftaught."))
    return path


def text(value: object) -> Html:
    """Anything as harmless text; what cannot be printed (line breaks, direction marks) is shown."""
    shown = "".join(c if c.isprintable() else _visible(c) for c in str(value))
    return Html(html.escape(shown))


def address(path: object) -> Html:
    """A path as text; lines break after its folders."""
    return Html(text(path).replace("/", "/<wbr>"))


def paragraph(words: object, *, kind: str = "") -> Html:
    """A paragraph of text; `kind` is "good", "bad" or "note" for one that must be seen."""
    return Html(f'<p class="{kind}">{text(words)}</p>' if kind else f"<p>{text(words)}</p>")


def bullets(items: Iterable[object]) -> Html:
    """A list of lines of text."""
    return Html("<ul>" + "".join(f"<li>{text(item)}</li>" for item in items) + "</ul>")


def facts(pairs: Mapping[str, object]) -> Html:
    """Names and values, two by two."""
    shown = {k: f"{v:,}" if isinstance(v, int) else v for k, v in pairs.items()}
    rows = (f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in shown.items())
    return Html(f'<dl class="facts">{"".join(rows)}</dl>')


def table(
    header: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    numbers: Sequence[int] = (),
    marked: Sequence[int] = (),
) -> Html:
    """A table that scrolls sideways where it must.

    Args:
        header: Column titles.
        rows: Cells: `Markup` as it is, everything else escaped.
        numbers: Indices of the columns that are set as figures, flush right.
        marked: Indices of the rows that stand out.
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
    """A table cell that is markup already."""

    html: Html


def folded(summary: object, inside: Html) -> Html:
    """Something that most readers need not see: closed until it is clicked."""
    return Html(f"<details><summary>{text(summary)}</summary>{inside}</details>")


def figure(inside: Html, caption: object = "") -> Html:
    """A picture or plot with its caption."""
    words = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return Html(f"<figure>{inside}{words}</figure>")


def image(data: bytes | str, alt: object) -> Html:
    """A PNG, WebP or JPEG file's bytes, or a `data:` URI of one, as an image with its words."""
    source = data if isinstance(data, str) else data_uri(data)
    assert source.startswith("data:image/"), "a page loads nothing from elsewhere"
    late = (
        'loading="lazy" decoding="async"'  # a page of many pictures is read before they are there
    )
    return Html(f'<img src="{html.escape(source)}" alt="{text(alt)}" {late}>')


def link(anchor: str, words: object) -> Html:
    """Words that lead to another part of the page."""
    return Html(f'<a href="#{html.escape(anchor)}">{text(words)}</a>')


def join_html(parts: Iterable[Html], between: str = "") -> Html:
    """Parts one after the other, with plain text between them."""
    return Html(text(between).join(parts))


def many(number: int, thing: str) -> str:
    """A number of things in words: 1 image, 2,000 images."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def percent(share: float) -> str:
    """A share in words; what is not nothing is not 0 %."""
    return f"{100 * share:.0f} %" if share == 0 or share >= 0.1 else f"{100 * share:.2g} %"


def code(lines: Iterable[object]) -> Html:
    """Lines as they are typed."""
    return Html("<pre>" + "\n".join(map(text, lines)) + "</pre>")


def grid(parts: Iterable[Html], *, kind: str = "plots") -> Html:
    """Parts side by side, as many in a line as there is room for."""
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
