"""The worst habits of our English, refused wherever a user or a reader meets them.

CONTRIBUTING.md lists the habits. A pattern only catches what is never right.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

NEVER = {
    r"(?<!there )\b(is|are|was|were) no\b(?! (more|less|worse|\w+er)\b)": "is not a",
    r"\banew\b": "again",
    r"\bshall\b": "must, will, or leave it out",
    r"\bso many\b": "this many, that many, or the number",
    r"\b(is|are) (told|said)\b": "says, in the active voice",
    r"\blearnt\b": "learned",
}
"""What is never right, and what to write in its place."""

PAGES = [
    *ROOT.glob("docs/**/*.md"),
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md")),
    ROOT / "tests/golden/command_line.txt",
]
SOURCES = sorted(ROOT.glob("src/selftaught/**/*.py"))
OPTIONS = sorted(ROOT.glob("src/selftaught/options/*.py"))


def habits(text: str) -> Iterator[str]:
    """What should be written otherwise, with the words around it; quotations are left alone."""
    flat = re.sub(r"[\"“][^\"“”\n]{0,200}[\"”]", "", text)
    for pattern, instead in NEVER.items():
        for found in re.finditer(pattern, flat, re.I):
            around = flat[max(0, found.start() - 30) : found.end() + 30]
            yield f"{' '.join(around.split())!r}: write {instead}"


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Every text in a module, docstrings and the plain parts of f-strings too, with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def help_texts(source: str) -> Iterator[str]:
    """The docstrings of classes of options and of their fields."""
    for cls in ast.walk(ast.parse(source)):
        if isinstance(cls, ast.ClassDef):
            for node in cls.body:
                if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                    yield str(node.value.value)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages_and_help_are_plain_english(path: Path) -> None:
    assert list(habits(path.read_text())) == []


def test_messages_and_docstrings_are_plain_english() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} {complaint}"
        for path in SOURCES
        for line, text in texts(path.read_text())
        for complaint in habits(text)
    ]
    assert found == []


def test_help_does_not_begin_with_a_fragment() -> None:
    helps = [text for path in OPTIONS for text in help_texts(path.read_text())]
    assert len(helps) > 100
    assert [text for text in helps if re.match(r"(Of|Where|What|Whether|Which)\b", text)] == []


def test_docs_are_wrapped_at_a_hundred_columns() -> None:
    """Tables, links, code and pictures may be longer."""
    long = []
    for path in PAGES[:-1]:
        prose = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
        lines = [line for line in prose.splitlines() if len(line) > 100]
        long += [f"{path.name}: {x}" for x in lines if "|" not in x and "](" not in x]
    assert long == []


@pytest.mark.parametrize(
    "text",
    [
        "run is no run: it has no config.yaml",
        "Write the report anew",
        "images that it shall take",
        "for so many images",
        "which is said",
        "what was learnt",
    ],
)
def test_a_bad_habit_is_seen(text: str) -> None:
    assert len(list(habits(text))) == 1


def test_good_english_is_left_alone() -> None:
    good = "It is no longer there. There is no such file. A is no larger than B. It has no name."
    assert list(habits(good)) == []
