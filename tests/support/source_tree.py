"""A Python package read with `ast`: its modules, who imports whom, and its functions."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Import:
    """`source` imports `target`; `late` inside a function, `typing` for the type checker only."""

    source: str
    target: str
    late: bool
    typing: bool


@dataclass(frozen=True)
class Function:
    module: str
    name: str
    lines: int  # the docstring not counted


class Package:
    """The package at `root`; modules are named from it: "" itself, "views", "views.policy"."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = {self._name(path): path for path in sorted(root.rglob("*.py"))}
        self.trees = {name: ast.parse(path.read_text()) for name, path in self.paths.items()}

    def _name(self, path: Path) -> str:
        parts = path.relative_to(self.root).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def lines(self, module: str) -> int:
        return len(self.paths[module].read_text().splitlines())

    @cached_property
    def imports(self) -> list[Import]:
        """Imports between modules of the package, the package's own name left out."""
        found = []
        for source, tree in self.trees.items():
            for node, late, typing in _import_nodes(tree):
                targets = {t for t in self._targets(node, source) if t not in ("", source)}
                found += [Import(source, t, late, typing) for t in sorted(targets)]
        return found

    def _targets(self, node: ast.Import | ast.ImportFrom, source: str) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (self._module(alias.name) for alias in node.names)
            return
        base = node.module or ""
        if node.level:  # relative: resolved against the package that holds the source
            parts = [self.root.name, *source.split(".")] if source else [self.root.name]
            depth = len(parts) - node.level + self.paths[source].name.startswith("__init__")
            base = ".".join([*parts[:depth], *([base] if base else [])])
        yield from (
            self._module(f"{base}.{alias.name}") or self._module(base) for alias in node.names
        )

    def _module(self, dotted: str) -> str:
        """The module of a dotted name; "" for the package itself and for what is not ours."""
        top, _, rest = dotted.partition(".")
        return rest if top == self.root.name and rest in self.trees else ""

    @cached_property
    def functions(self) -> list[Function]:
        return [
            Function(module, node.name, _length(node))
            for module, tree in self.trees.items()
            for node in ast.walk(tree)
            if isinstance(node, FunctionNode)
        ]

    def closure(self, module: str, *, late: bool = True) -> set[str]:
        """All modules behind this one: its imports and theirs, those for types left out.

        Args:
            module: Where to begin.
            late: Whether imports inside functions count.
        """
        seen, todo = set(), [module]
        while todo:
            here = todo.pop()
            if here not in seen:
                seen.add(here)
                todo += [
                    i.target
                    for i in self.imports
                    if i.source == here and not i.typing and (late or not i.late)
                ]
        return seen

    def cycles(self) -> list[list[str]]:
        """Rings of modules that import one another when they run, each ring once."""
        graph: dict[str, set[str]] = {name: set() for name in self.trees}
        for edge in self.imports:
            if not edge.typing:
                graph[edge.source].add(edge.target)
        rings, finished = [], set()

        def visit(module: str, trail: list[str]) -> None:
            if module in trail:
                rings.append([*trail[trail.index(module) :], module])
            elif module not in finished:
                for target in sorted(graph[module]):
                    visit(target, [*trail, module])
                finished.add(module)

        for name in graph:
            visit(name, [])
        return rings


def dotted(node: ast.AST) -> str:
    """`np.load` as "np.load"; "" where an expression is no chain of names."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def _import_nodes(
    tree: ast.AST, *, late: bool = False, typing: bool = False
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool, bool]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, late, typing
        elif isinstance(node, ast.If) and dotted(node.test).endswith("TYPE_CHECKING"):
            for child in node.body:
                yield from _import_nodes(ast.Module([child], []), late=late, typing=True)
            for child in node.orelse:
                yield from _import_nodes(ast.Module([child], []), late=late, typing=typing)
        else:
            inside = isinstance(node, FunctionNode | ast.Lambda)
            yield from _import_nodes(node, late=late or inside, typing=typing)


def _length(node: FunctionNode) -> int:
    first = node.body[0]
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    if ast.get_docstring(node) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines
