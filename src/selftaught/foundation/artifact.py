"""Tensors and facts that are kept together: NAME.safetensors, and NAME.json with its SHA-256."""

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
    """What lies in a folder under one name.

    Attributes:
        name: Of the two files, and of what they are.
        command: That writes them.
        types: Of the facts that must be there, besides those that every pair has.
    """

    name: str
    command: str
    types: Mapping[str, type]

    @property
    def tensors(self) -> str:
        """The file of tensors."""
        return f"{self.name}.safetensors"

    @property
    def facts(self) -> str:
        """The file of facts."""
        return f"{self.name}.json"

    def save(self, folder: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write the tensors, and then the facts, which say that all is there."""
        data = tensors_to_bytes({name: t.contiguous() for name, t in tensors.items()})
        own = {"format": _FORMAT, "sha256": hashlib.sha256(data).hexdigest()}
        write_bytes(folder / self.tensors, data)
        write_bytes(folder / self.facts, json_bytes({**facts, **own}))

    def load(
        self, folder: Path, holds: Callable[[dict[str, Any]], bool]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors, and the facts.

        Args:
            folder: Where they are.
            holds: Whether facts of the right types make sense.

        Raises:
            FileError: A file is missing or damaged, or they do not belong together.
        """
        path = folder / self.facts
        if not path.is_file():
            remedy = f"give the --out of selftaught {self.command}"
            raise FileError(f"{folder} holds no {self.name}", remedy)
        facts = read_json(path)
        if not self._typed(facts) or not holds(facts):
            raise self.damaged(path)
        if hashlib.sha256(read_bytes(folder / self.tensors)).hexdigest() != facts["sha256"]:
            found = f"{folder / self.tensors} is not the file that {self.facts} was written with"
            raise FileError(found, f"restore both, or {self.command} anew")
        return load_tensors(folder / self.tensors), facts

    def others(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """The facts that are neither every pair's nor in `types`."""
        return {n: v for n, v in facts.items() if n not in {*self.types, "format", "sha256"}}

    def damaged(self, path: Path) -> FileError:
        """What is said of a file that is not as it was written."""
        return FileError(f"{path} is damaged", f"restore it, or {self.command} anew")

    def _typed(self, facts: Any) -> bool:
        if not isinstance(facts, dict) or facts.get("format") != _FORMAT:
            return False
        types = {**self.types, "format": int, "sha256": str}
        return all(isinstance(facts.get(name), kind) for name, kind in types.items())
