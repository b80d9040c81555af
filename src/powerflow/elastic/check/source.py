"""Read Python files without running them: what their names mean, and which files of the same folder they import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from powerflow.errors import InputError

Function = ast.FunctionDef | ast.AsyncFunctionDef
Scope = Function | ast.Lambda | ast.ClassDef
#: Most files of a script that are read.
FILES = 100


class Source:
    """A parsed file.

    Attributes:
        path: The file.
        name: Its path as the user wrote it, or relative to the script's folder.
        tree: Its syntax tree.
    """

    def __init__(self, path: Path, name: str) -> None:
        """Parse a file.

        Raises:
            InputError: It is no Python that this version of Python can read.
            OSError: It cannot be read.
        """
        self.path, self.name = path, name
        text = path.read_bytes()
        self._may_join = b"powerflow" in text
        try:
            self.tree = ast.parse(text)
        except SyntaxError as error:
            raise InputError(f"no Python ({error.msg})", where=f"{name}:{error.lineno or 1}") from None
        except (ValueError, RecursionError, MemoryError) as error:
            raise InputError(f"no Python ({error})", where=name) from None

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """All nodes of the tree."""
        return list(ast.walk(self.tree))

    @cached_property
    def parents(self) -> dict[ast.AST, ast.AST]:
        """For each node its parent."""
        return {child: node for node in self.nodes for child in ast.iter_child_nodes(node)}

    @cached_property
    def imports(self) -> dict[str, str]:
        """For each imported name its full name: "dist" is "torch.distributed"."""
        found = {}
        for node in self.nodes:
            if isinstance(node, ast.Import):
                for name in node.names:
                    root = name.name.partition(".")[0]
                    found[name.asname or root] = name.name if name.asname else root
            elif isinstance(node, ast.ImportFrom):
                for name in node.names:
                    found[name.asname or name.name] = f"{_module(node)}.{name.name}"
        return found

    @cached_property
    def calls(self) -> list[tuple[ast.Call, str]]:
        """All calls, each with the full name of what is called."""
        return [(node, self.dotted(node.func)) for node in self.nodes if isinstance(node, ast.Call)]

    @cached_property
    def _functions(self) -> dict[ast.AST, Function | None]:
        found: dict[ast.AST, Function | None] = {self.tree: None}
        for node in self.nodes:  # parents come before their children
            inner = node if isinstance(node, Function) else found[node]
            found |= dict.fromkeys(ast.iter_child_nodes(node), inner)
        return found

    def dotted(self, node: ast.AST) -> str:
        """Return the full name of an expression: "torch.distributed.get_rank", "optimizer.step", "().backward"."""
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        parts.append(self.imports.get(node.id, node.id) if isinstance(node, ast.Name) else "()")
        return ".".join(reversed(parts))

    def last(self, node: ast.AST) -> str:
        """Return the last part of the full name of an expression, or of what a call calls: "get_rank"."""
        return self.dotted(node.func if isinstance(node, ast.Call) else node).rpartition(".")[2]

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        """Yield the nodes around a node, the nearest first."""
        while (parent := self.parents.get(node)) is not None:
            yield parent
            node = parent

    def function_of(self, node: ast.AST) -> Function | None:
        """Return the function around a node; None for code of the module."""
        return self._functions[node]

    def joins(self) -> bool:
        """Return True if the file refers to `powerflow.elastic`."""
        if not self._may_join:
            return False
        if any(f"{name}.".startswith(("powerflow.elastic.", "powerflow.*.")) for name in self.imports.values()):
            return True
        texts = (node.value for node in self.nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
        return "powerflow.elastic" in texts or any(name.startswith("powerflow.elastic.") for _, name in self.calls)


def read(script: Path) -> tuple[list[Source], list[str]]:
    """Read a script and the files beside it that it imports, directly or through others; at most `FILES`.

    Returns:
        The files, the script first; and the names of imported packages that are not beside it.

    Raises:
        InputError: A file is not Python.
        OSError: A file cannot be read.
    """
    sources = [Source(script, str(script))]
    seen, elsewhere = {script.resolve()}, set()
    for source in sources:  # grows
        for name in _imported(source):
            found = _beside(name, source.path, script.parent)
            if not found:
                elsewhere.add(name.partition(".")[0])
            for path in found:
                if path.resolve() not in seen and len(sources) < FILES:
                    seen.add(path.resolve())
                    sources.append(Source(path, str(path)))
    return sources, sorted(elsewhere)


def _imported(source: Source) -> Iterator[str]:
    """Yield what a file imports: "package.module", ".module" for one of its own package."""
    for node in source.nodes:
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = _module(node)
            yield from (f"{module}{'' if module.endswith('.') else '.'}{name.name}" for name in node.names)


def _module(node: ast.ImportFrom) -> str:
    return "." * node.level + (node.module or "")


def _beside(name: str, importer: Path, folder: Path) -> list[Path]:
    """Return the files that an import of this name reads, if they are in the folder of the script or of its package."""
    level = len(name) - len(name.lstrip("."))
    start = importer.parent if level else folder
    for _ in range(level - 1):
        start = start.parent
    found: list[Path] = []
    at = start
    for part in name.lstrip(".").split("."):
        if (at / f"{part}.py").is_file():
            return [*found, at / f"{part}.py"]
        at /= part
        if not at.is_dir():
            break
        if (at / "__init__.py").is_file():
            found.append(at / "__init__.py")
    return found
