"""What a command returns, for programs and for people."""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """The result of a command.

    Attributes:
        value: Plain values: numbers, texts, lists and dicts of them.
        text: What the command line prints to stdout.
    """

    value: Any
    text: str

    def __str__(self) -> str:
        return self.text


def answer(value: Any, text: str, *, as_json: bool = False) -> Answer:
    """An answer that prints `text`, or its value as one JSON object."""
    return Answer(value, json.dumps(value, indent=1, default=str) if as_json else text)
