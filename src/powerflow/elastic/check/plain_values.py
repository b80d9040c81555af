"""Check for plain values, such as the best accuracy so far, that a new rank would not have."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from powerflow.elastic.check.finding import Finding, finding
from powerflow.elastic.check.project import LoopAt, Project, line_of, pairs, start_of, stored
from powerflow.elastic.check.source import Function, Scope, Source

_GROWS = {"append", "extend", "add", "update", "insert"}


def plain_values(project: Project, source: Source) -> Iterator[Finding]:
    """Find values that the loop over epochs carries on from its past: of variables, globals and attributes."""
    for loop in project.epochs:
        if loop.source is source:
            yield from _variables(project, loop)
    for node in source.nodes:
        if isinstance(node, ast.Global | ast.Nonlocal):
            yield from _globals(project, source, node)
        elif isinstance(node, ast.ClassDef):
            yield from _attributes(project, source, node)


def _variables(project: Project, loop: LoopAt) -> Iterator[Finding]:
    source, scope = loop.source, loop.source.function_of(loop.node)
    first: dict[str, ast.AST] = {}
    for node in source.nodes:
        if source.function_of(node) is scope and line_of(node) < line_of(loop.node):
            for target in stored(node):
                if isinstance(target, ast.Name):
                    first.setdefault(target.id, node)
    declared = {name for node in source.nodes if isinstance(node, ast.Global) for name in node.names}
    for name, node in first.items():
        if name not in declared and _is_carried(project, loop, name, _given(source, node, name)):
            yield _not_kept(source, node, name)


def _globals(project: Project, source: Source, declared: ast.Global | ast.Nonlocal) -> Iterator[Finding]:
    function = source.function_of(declared)
    for name in declared.names:
        sets = _sets(source, function or source.tree, name)
        if any(at in project.inside and not project.on_one_rank(source, at) for at in sets):
            outside = [at for at in source.tree.body if name in map(source.dotted, stored(at))]
            yield _not_kept(source, [*outside, *sets][0], name)


def _attributes(project: Project, source: Source, kind: ast.ClassDef) -> Iterator[Finding]:
    start = next((at for at in kind.body if isinstance(at, Function) and at.name == "__init__"), None)
    if start is None or not any(project.is_before(*call) for call in project.calls_of(source, kind)):
        return  # one for each epoch, as a meter is
    for first in ast.walk(start):
        for name in map(source.dotted, stored(first)):
            if not name.startswith("self.") or not _is_plain(_given(source, first, name)):
                continue
            later = [at for at in _sets(source, kind, name) if at in project.inside]
            carried = [at for at in later if isinstance(at, ast.AugAssign) or _is_conditional(source, at, kind)]
            if any(not project.on_one_rank(source, at) for at in carried):
                yield _not_kept(source, first, name)


def _is_carried(project: Project, loop: LoopAt, name: str, value: ast.expr | None) -> bool:
    """Return True if a turn of a loop uses a value that an earlier turn has set.

    Args:
        project: The script.
        loop: The loop.
        name: Name of the variable.
        value: What the variable gets before the loop; None if that is not known.
    """
    source = loop.source
    inner = [node for node in ast.walk(loop.node) if _is_in_scope_of(source, loop.node, node)]
    reads = [at for at in inner if isinstance(at, ast.Name) and at.id == name and isinstance(at.ctx, ast.Load)]
    if isinstance(value, ast.List | ast.Dict | ast.Set) and any(
        _grows(source, at) and not project.on_one_rank(source, at) for at in reads
    ):
        return True
    sets = [at for at in inner if name in map(source.dotted, stored(at)) and not project.on_one_rank(source, at)]
    if not sets or all(_is_same(value, _given(source, at, name)) for at in sets):
        return False
    earliest = min(sets, key=start_of)
    anew = [at for at in sets if not isinstance(at, ast.AugAssign) and source.parents[at] is loop.node]
    if any(isinstance(at, ast.AugAssign) and not any(line_of(new) < line_of(at) for new in anew) for at in sets):
        return True
    if isinstance(earliest, ast.AugAssign):
        return False
    if any(start_of(at) < start_of(earliest) or earliest in source.above(at) for at in reads):
        return True
    return bool(reads) and all(_is_conditional(source, at, loop.node) for at in sets)


def _sets(source: Source, where: ast.AST, name: str) -> list[ast.AST]:
    return [at for at in ast.walk(where) if name in map(source.dotted, stored(at))]


def _given(source: Source, node: ast.AST, name: str) -> ast.expr | None:
    """Return the expression that an assignment gives a name; None if it gives it a part of one."""
    return next((value for target, value in pairs(node) if source.dotted(target) == name), None)


def _is_in_scope_of(source: Source, loop: ast.AST, node: ast.AST) -> bool:
    for above in source.above(node):
        if above is loop or isinstance(above, Scope):
            return above is loop
    return False


def _is_conditional(source: Source, node: ast.AST, until: ast.AST) -> bool:
    for above in source.above(node):
        if isinstance(above, ast.If) or above is until:
            return above is not until
    return False


def _is_same(value: ast.expr | None, other: ast.expr | None) -> bool:
    """Return True if two expressions read alike: what is computed anew, such as a time, is not carried on."""
    return value is not None and other is not None and ast.dump(value) == ast.dump(other)


def _grows(source: Source, read: ast.AST) -> bool:
    parent = source.parents[read]
    if isinstance(parent, ast.Subscript):
        return isinstance(parent.ctx, ast.Store)
    return isinstance(parent, ast.Attribute) and parent.attr in _GROWS


def _is_plain(value: ast.AST | None) -> bool:
    if isinstance(value, ast.UnaryOp):
        value = value.operand
    is_float = isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "float"
    return is_float or isinstance(value, ast.Constant | ast.List | ast.Dict | ast.Set)


def _not_kept(source: Source, first: ast.AST, name: str) -> Finding:
    value = _given(source, first, name)
    given = ast.unparse(value) if value is not None and _is_plain(value) else "…"
    short = name.removeprefix("self.")
    what = f"a rank that comes later begins with the first value of {name}, and a resumed run as well"
    fix = f"kept = run.keep({short}={given}) before run.wrap, and kept.{short}; run.position.step counts steps"
    return finding(source, first, "plain-value", what, fix)
