"""Read Python files without running them: what their names mean, and which files of the same folder they import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from powerflow.errors import InputError

Function = ast.FunctionDef | ast.AsyncFunctionDef
Scope = Function | ast.Lambda | ast.ClassDef
#: Most files of a script that are read, and most bytes of one.
_FILES, _BYTES = 200, 2_000_000


class Source:
    """A parsed file.

    Attributes:
        path: The file.
        name: Its path as the user wrote it, or relative to the script's folder.
        tree: Its syntax tree.
        nodes: All nodes of the tree.
        parents: For each node its parent.
        imports: For each imported name of the file its full name: "dist" is "torch.distributed".
    """

    def __init__(self, path: Path, name: str) -> None:
        """Parse a file.

        Raises:
            InputError: It is no Python that this version of Python can read.
            OSError: It cannot be read.
        """
        self.path, self.name = path, name
        try:
            self.tree = ast.parse(path.read_bytes()[:_BYTES])
        except SyntaxError as error:
            raise InputError(f"no Python ({error.msg})", where=f"{name}:{error.lineno or 1}") from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"no Python ({error})", where=name) from None
        self.nodes = list(ast.walk(self.tree))
        self.parents = {child: node for node in self.nodes for child in ast.iter_child_nodes(node)}
        self.imports = dict(self._imports())

    def _imports(self) -> Iterator[tuple[str, str]]:
        for node in self.nodes:
            if isinstance(node, ast.Import):
                for name in node.names:
                    yield (name.asname, name.name) if name.asname else (name.name.partition(".")[0],) * 2
            elif isinstance(node, ast.ImportFrom):
                module = "." * node.level + (node.module or "")
                for name in node.names:
                    yield name.asname or name.name, f"{module}.{name.name}"

    def dotted(self, node: ast.AST) -> str:
        """Return the full name of an expression: "torch.distributed.get_rank", "optimizer.step", "().backward"."""
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name):
            parts.append(self.imports.get(node.id, node.id))
        else:
            parts.append("()")
        return ".".join(reversed(parts))

    def calls(self) -> Iterator[tuple[ast.Call, str]]:
        """Yield each call with the full name of what is called."""
        for node in self.nodes:
            if isinstance(node, ast.Call):
                yield node, self.dotted(node.func)

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        """Yield the nodes around a node, the nearest first."""
        while (parent := self.parents.get(node)) is not None:
            yield parent
            node = parent

    def function_of(self, node: ast.AST) -> Function | None:
        """Return the function around a node; None for code of the module."""
        return next((at for at in self.above(node) if isinstance(at, Function)), None)

    def joins(self) -> bool:
        """Return True if the file refers to `powerflow.elastic`."""
        if any(f"{name}.".startswith(("powerflow.elastic.", "powerflow.*.")) for name in self.imports.values()):
            return True
        texts = (node.value for node in self.nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
        return "powerflow.elastic" in texts or any(call.startswith("powerflow.elastic.") for _, call in self.calls())


def read(script: Path) -> tuple[list[Source], list[str]]:
    """Read a script and the files beside it that it imports, directly or through others.

    Returns:
        The files, the script first; and the names of imported packages that are not beside it.

    Raises:
        InputError: The script is not Python.
        OSError: The script cannot be read.
    """
    sources = [Source(script, str(script))]
    seen, elsewhere = {script.resolve()}, set()
    for source in sources:  # grows
        for name in _modules(source):
            found = _beside(name, source.path, script.parent)
            if not found:
                elsewhere.add(name.partition(".")[0])
            for path in found:
                if path.resolve() in seen or len(sources) >= _FILES:
                    continue
                seen.add(path.resolve())
                sources.append(Source(path, str(path)))
    return sources, sorted(elsewhere)


def _modules(source: Source) -> Iterator[str]:
    """Yield what a file imports: "package.module", ".module" for one of its own package."""
    for node in source.nodes:
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (f"{module}{'' if module.endswith('.') else '.'}{name.name}" for name in node.names)


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
