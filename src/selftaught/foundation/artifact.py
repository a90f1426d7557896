"""Tensors and facts stored as a pair: NAME.safetensors, and NAME.json with its SHA-256."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from selftaught.errors import FileError
from selftaught.foundation.files import (
    json_bytes,
    load_tensors,
    read_bytes,
    read_json,
    tensors_to_bytes,
    write_bytes,
)

_FORMAT = 1


@dataclass(frozen=True)
class Artifact:
    """A pair of files in a folder: tensors and facts under one name.

    Attributes:
        name: Name of the two files, and of what they contain.
        command: The command that writes them.
        types: Types of the required facts, in addition to those of every pair.
    """

    name: str
    command: str
    types: Mapping[str, type]

    @property
    def tensors(self) -> str:
        """File name of the tensors."""
        return f"{self.name}.safetensors"

    @property
    def facts(self) -> str:
        """File name of the facts."""
        return f"{self.name}.json"

    def save(self, folder: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write the tensors, then the facts, which mark the pair as complete."""
        data = tensors_to_bytes({name: t.contiguous() for name, t in tensors.items()})
        own = {"format": _FORMAT, "sha256": hashlib.sha256(data).hexdigest()}
        write_bytes(folder / self.tensors, data)
        write_bytes(folder / self.facts, json_bytes({**facts, **own}))

    def load(
        self, folder: Path, is_valid: Callable[[dict[str, Any]], bool]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Read the tensors and the facts.

        Args:
            folder: The folder of the pair.
            is_valid: Whether facts of the right types are consistent.

        Raises:
            FileError: A file is missing or damaged, or the two do not belong together.
        """
        path = folder / self.facts
        if not path.is_file():
            remedy = f"pass the output folder of selftaught {self.command}"
            what = f"{folder} is not a {self.name} folder ({self.facts} is missing)"
            raise FileError(what, remedy)
        facts = read_json(path)
        if not self._has_types(facts) or not is_valid(facts):
            raise self.damaged_error(path)
        if hashlib.sha256(read_bytes(folder / self.tensors)).hexdigest() != facts["sha256"]:
            what = f"{folder / self.tensors} does not match {self.facts}"
            raise FileError(what, f"restore both, or run selftaught {self.command} again")
        return load_tensors(folder / self.tensors), facts

    def other_facts(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """The facts that are neither in `types` nor part of every pair."""
        return {n: v for n, v in facts.items() if n not in {*self.types, "format", "sha256"}}

    def damaged_error(self, path: Path) -> FileError:
        """The error for a damaged file."""
        remedy = f"restore it, or run selftaught {self.command} again"
        return FileError(f"{path} is damaged", remedy)

    def _has_types(self, facts: Any) -> bool:
        if not isinstance(facts, dict) or facts.get("format") != _FORMAT:
            return False
        types = {**self.types, "format": int, "sha256": str}
        return all(isinstance(facts.get(name), kind) for name, kind in types.items())
