"""Find in a script what the checks ask for: the loops that train, what runs inside them, and what names stand for."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple

from powerflow.elastic.check.source import Function, Source

Loop = ast.For | ast.AsyncFor | ast.While
#: Functions that yield the elements of what they are given.
_AROUND = {"enumerate", "tqdm", "trange", "iter", "zip", "cycle", "islice", "track"}
#: Longest way that is followed from a call to a call.
_DEPTH = 6


class At(NamedTuple):
    """A node in a file."""

    source: Source
    node: ast.AST


class Project:
    """The files of a script.

    Attributes:
        sources: The files, the script first.
        runs: Names of the variables that hold what ``elastic.init`` returned.
        epochs: Loops over training epochs.
        steps: Loops whose body trains on a batch.
        inside: Nodes that run in a loop over training epochs, also through functions that it calls.
    """

    def __init__(self, sources: list[Source]) -> None:
        self.sources = sources
        self._functions: dict[str, list[At]] = {}
        self._sites: dict[str, list[At]] = {}
        for source in sources:
            for node in source.nodes:
                if isinstance(node, Function):
                    self._functions.setdefault(_called_as(source, node), []).append(At(source, node))
                elif isinstance(node, ast.Call):
                    self._sites.setdefault(source.dotted(node.func).rpartition(".")[2], []).append(At(source, node))
        self.runs = set(self._find_runs())
        chains = [self._loops_around(At(source, call)) for source, call in self._backwards()]
        self.epochs = self._find_epochs(chains)
        self.steps = self._find_steps(chains)
        self.inside = self._reached()
        self._begins = self._find_begins()

    def sites(self, function: At) -> list[At]:
        """Return the calls of a function."""
        assert isinstance(function.node, Function)
        name = _called_as(function.source, function.node)
        return [at for at in self._sites.get(name, []) if function.node not in at.source.above(at.node)]

    def constructions(self, source: Source, kind: ast.ClassDef) -> list[At]:
        """Return the calls that make an object of a class."""
        return [at for at in self._sites.get(kind.name, []) if kind not in at.source.above(at.node)]

    def is_run(self, source: Source, node: ast.AST) -> bool:
        """Return True if an expression is what ``elastic.init`` returned."""
        if isinstance(node, ast.Call):
            return source.dotted(node.func) == "powerflow.elastic.init"
        return isinstance(node, ast.Name | ast.Attribute) and source.dotted(node).rpartition(".")[2] in self.runs

    def calls_run(self, source: Source, node: ast.AST, method: str) -> bool:
        """Return True if an expression is a call of a method of the run, such as ``run.batches(…)``."""
        is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method
        return is_call and self.is_run(source, node.func.value)  # type: ignore[attr-defined]

    def run_calls(self, method: str) -> list[At]:
        """Return all calls of a method of the run."""
        return [At(s, node) for s in self.sources for node in s.nodes if self.calls_run(s, node, method)]

    def values(self, at: At, depth: int = _DEPTH) -> Iterator[At]:
        """Yield the expressions that an expression may stand for.

        They are what its name was given, here or by a caller, and what a function of the script returns.
        """
        source, node = at
        found: list[At] = []
        if isinstance(node, ast.Call):
            around = source.dotted(node.func).rpartition(".")[2] in _AROUND
            found = [At(source, argument) for argument in node.args] if around else list(self._returned(at))
        elif isinstance(node, ast.Name | ast.Attribute):
            found = list(self._given(at))
        if not found or not depth:
            yield at
            return
        for value in found:
            yield from self.values(value, depth - 1)

    def _returned(self, call: At, part: int | None = None, parts: int = 0) -> Iterator[At]:
        """Yield what a function of the script returns, or one part of the tuples that it returns."""
        for function in self.functions(call):
            for node in ast.walk(function.node):
                if isinstance(node, ast.Return) and node.value is not None:
                    if part is None:
                        yield At(function.source, node.value)
                    elif isinstance(node.value, ast.Tuple) and len(node.value.elts) == parts:
                        yield At(function.source, node.value.elts[part])

    def _given(self, at: At) -> Iterator[At]:
        source, node = at
        name = source.dotted(node)
        scope = source.function_of(node)
        for given in source.nodes:
            if not isinstance(given, ast.Assign | ast.AnnAssign):
                continue
            if isinstance(node, ast.Attribute) or source.function_of(given) in (scope, None):
                for target, value in pairs(given):
                    if name == source.dotted(target) and node not in ast.walk(value):
                        whole = source.parents[target]
                        several = isinstance(whole, ast.Tuple) and isinstance(value, ast.Call)
                        part = whole.elts.index(target) if several else 0  # type: ignore[attr-defined]
                        returned = self._returned(At(source, value), part, len(whole.elts)) if several else ()  # type: ignore[attr-defined]
                        yield from list(returned) or [At(source, value)]
        if isinstance(scope, Function) and isinstance(node, ast.Name):
            names = [argument.arg for argument in (*scope.args.posonlyargs, *scope.args.args)]
            for site in self.sites(At(source, scope)) if name in names or name in _keywords(scope) else ():
                assert isinstance(site.node, ast.Call)
                by_name = [keyword.value for keyword in site.node.keywords if keyword.arg == name]
                skip = 1 if names[:1] in (["self"], ["cls"]) else 0
                place = names.index(name) - skip if name in names else len(site.node.args)
                given_here = by_name or site.node.args[place : place + 1]
                yield from (At(site.source, value) for value in given_here)

    def named(self, name: str) -> list[At]:
        """Return the functions of the script with this name."""
        return self._functions.get(name, [])

    def functions(self, at: At) -> list[At]:
        """Return the functions of the script that a call may call."""
        assert isinstance(at.node, ast.Call)
        return self.named(at.source.dotted(at.node.func).rpartition(".")[2])

    # -- the loops that train ----------------------------------------------------------------------------------------

    def _find_runs(self) -> Iterator[str]:
        for source in self.sources:
            for node in source.nodes:
                value = node.value if isinstance(node, ast.Assign | ast.NamedExpr) else None
                if isinstance(value, ast.Call) and source.dotted(value.func) == "powerflow.elastic.init":
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]  # type: ignore[attr-defined]
                    yield from (source.dotted(target).rpartition(".")[2] for target in targets)

    def _backwards(self) -> Iterator[tuple[Source, ast.Call]]:
        for source in self.sources:
            yield from ((source, call) for call, name in source.calls() if name.endswith(".backward"))

    def _loops_around(self, at: At, depth: int = _DEPTH) -> list[At]:
        """Return the loops around a node, also those around the calls of its function, the outermost first."""
        loops: list[At] = []
        for above in at.source.above(at.node):
            if isinstance(above, Loop):
                loops.insert(0, At(at.source, above))
            if isinstance(above, Function):
                sites = self.sites(At(at.source, above)) if depth else []
                around = [self._loops_around(site, depth - 1) for site in sites]
                return max(around, key=len, default=[]) + loops
        return loops

    def is_over(self, loop: At, method: str) -> bool:
        """Return True if a loop is one over ``run.epochs`` or ``run.batches``."""
        if not isinstance(loop.node, ast.For | ast.AsyncFor):
            return False
        return any(self.calls_run(*value, method) for value in self.values(At(loop.source, loop.node.iter)))

    def _find_epochs(self, chains: list[list[At]]) -> list[At]:
        loops = [At(s, node) for s in self.sources for node in s.nodes if isinstance(node, Loop)]
        found = [loop for loop in loops if self.is_over(loop, "epochs")]
        return found or list(dict.fromkeys(chain[0] for chain in chains if chain))

    def _find_steps(self, chains: list[list[At]]) -> list[At]:
        found = []
        for chain in chains:
            start = next((i for i, loop in enumerate(chain) if loop in self.epochs), 0)
            over = [loop for loop in chain[start:] if self.is_over(loop, "batches")]
            trains = [loop for loop in chain[start:] if not only_accumulates(loop)]
            found += over[:1] or trains[1:2] or trains[:1]
        return list(dict.fromkeys(found))

    def _reached(self) -> set[ast.AST]:
        reached: set[ast.AST] = set()
        waiting = [At(loop.source, part) for loop in self.epochs for part in loop.node.body]  # type: ignore[attr-defined]
        while waiting:
            source, start = waiting.pop()
            for node in ast.walk(start):
                if node in reached:
                    continue
                reached.add(node)
                if isinstance(node, ast.Call):
                    waiting += self.functions(At(source, node))
        return reached

    def _find_begins(self) -> dict[tuple[Source, Function | None], tuple[int, int]]:
        """Return for each function, and the code of each module, where in it the training begins."""
        begins: dict[tuple[Source, Function | None], tuple[int, int]] = {}
        waiting = [(loop, _start(loop.node)) for loop in self.epochs]
        while waiting:
            at, place = waiting.pop()
            around = at.source.function_of(at.node)
            known = begins.get((at.source, around))
            begins[at.source, around] = place if known is None else min(known, place)
            if around is not None and known is None:
                waiting += [(site, _end(site.node)) for site in self.sites(At(at.source, around))]
        return begins

    # -- when, and on which ranks ------------------------------------------------------------------------------------

    def is_before(self, at: At, depth: int = _DEPTH) -> bool:
        """Return True if a node runs before the first training epoch, as far as can be seen."""
        if at.node in self.inside:
            return False
        around = at.source.function_of(at.node)
        begins = self._begins.get((at.source, around))
        if begins is not None:
            return _end(at.node) < begins
        if around is None:
            return bool(self.epochs)
        return depth > 0 and any(self.is_before(site, depth - 1) for site in self.sites(At(at.source, around)))

    def on_one_rank(self, at: At, depth: int = _DEPTH) -> bool:
        """Return True if a node runs only where a condition on the rank's number holds."""
        child = at.node
        for above in at.source.above(at.node):
            is_branch = isinstance(above, ast.If | ast.IfExp) and child is not above.test
            if is_branch and self.asks_rank(At(at.source, above.test)):  # type: ignore[attr-defined]
                return True
            for body in (getattr(above, name, None) for name in ("body", "orelse", "finalbody")):
                if isinstance(body, list) and child in body:
                    before = body[: body.index(child)]
                    if any(self._turns_away(At(at.source, statement)) for statement in before):
                        return True
            if isinstance(above, Function):
                sites = self.sites(At(at.source, above))
                return bool(depth and sites) and all(self.on_one_rank(site, depth - 1) for site in sites)
            child = above
        return False

    def _turns_away(self, at: At) -> bool:
        """Return True for ``if run.rank != 0: return``."""
        node = at.node
        if not isinstance(node, ast.If) or not self.asks_rank(At(at.source, node.test)):
            return False
        return isinstance(node.body[-1], ast.Return | ast.Continue | ast.Break)

    def asks_rank(self, at: At) -> bool:
        """Return True if an expression depends on the number of the rank."""
        return any(_of_rank(at.source, node) for node in ast.walk(at.node))


def only_accumulates(loop: At) -> bool:
    """Return True for ``for i in range(4)`` around a backward, if the update comes after the loop."""
    node = loop.node
    over_range = (
        isinstance(node, ast.For) and isinstance(node.iter, ast.Call) and _last(loop.source, node.iter) == "range"
    )
    calls = [inner for inner in ast.walk(node) if isinstance(inner, ast.Call)]
    names = {_last(loop.source, call) for call in calls}
    return over_range and "backward" in names and "step" not in names


def _last(source: Source, call: ast.Call) -> str:
    return source.dotted(call.func).rpartition(".")[2]


def line_of(node: ast.AST) -> int:
    """Return the line of a node."""
    return int(getattr(node, "lineno", 1))


def _start(node: ast.AST) -> tuple[int, int]:
    return line_of(node), int(getattr(node, "col_offset", 0))


def _end(node: ast.AST) -> tuple[int, int]:
    return int(getattr(node, "end_lineno", 1)), int(getattr(node, "end_col_offset", 0))


def stored(node: ast.AST) -> list[ast.expr]:
    """Return what an assignment sets: names, attributes, items."""
    if isinstance(node, ast.Assign):
        return [one for target in node.targets for one in _flat(target)]
    return [node.target] if isinstance(node, ast.AugAssign | ast.AnnAssign) else []


def _flat(target: ast.expr) -> Iterator[ast.expr]:
    if isinstance(target, ast.Tuple | ast.List):
        for part in target.elts:
            yield from _flat(part)
    else:
        yield target


def pairs(node: ast.Assign | ast.AnnAssign) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Yield each target of an assignment with the expression that it gets, or that it gets a part of."""
    if node.value is None:
        return
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        one_by_one = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
        if one_by_one and len(target.elts) == len(node.value.elts):  # type: ignore[attr-defined]
            yield from zip(target.elts, node.value.elts, strict=True)  # type: ignore[attr-defined]
        else:
            yield from ((one, node.value) for one in _flat(target))


def _keywords(function: Function) -> list[str]:
    return [argument.arg for argument in function.args.kwonlyargs]


def _called_as(source: Source, function: Function) -> str:
    """Return the name by which a function is called: that of its class for ``__init__``."""
    parent = source.parents.get(function)
    return parent.name if function.name == "__init__" and isinstance(parent, ast.ClassDef) else function.name


def _of_rank(source: Source, node: ast.AST) -> bool:
    if not isinstance(node, ast.Name | ast.Attribute):
        return False
    last = source.dotted(node).rpartition(".")[2].lower()
    return "rank" in last.split("_") or last in _MAIN


_MAIN = {"is_main", "get_rank", "is_main_process", "is_master", "master", "is_rank_zero", "main_process", "is_root"}
