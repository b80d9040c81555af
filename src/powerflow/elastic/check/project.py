"""Find in a script what the checks ask for: the loops that train, what runs inside them, and what names stand for."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from powerflow.elastic.check.source import Function, Source

ForLoop = ast.For | ast.AsyncFor
Loop = ForLoop | ast.While
_INIT = "powerflow.elastic.init"
#: Functions that yield the elements of what they are given.
_AROUND = {"enumerate", "tqdm", "trange", "iter", "zip", "cycle", "islice", "track"}
#: Most calls of a function that are followed, and longest way from a call to a call.
_WAY = 8
_MAIN = {"is_main", "get_rank", "is_main_process", "is_master", "master", "is_rank_zero", "main_process", "is_root"}


class At(NamedTuple):
    """A node in a file."""

    source: Source
    node: ast.AST


class LoopAt(NamedTuple):
    """A loop in a file."""

    source: Source
    node: Loop


class CallAt(NamedTuple):
    """A call in a file."""

    source: Source
    node: ast.Call


class Project:
    """The files of a script.

    Attributes:
        sources: The files, the script first.
        begins_run: True if the script calls ``elastic.init``.
        epochs: Loops over training epochs.
        steps: Loops whose body trains on a batch.
        inside: Nodes that run in a loop over training epochs, also through functions that it calls.
    """

    def __init__(self, sources: list[Source]) -> None:
        self.sources = sources
        self._functions: dict[str, list[tuple[Source, Function]]] = {}
        self._sites: dict[str, list[CallAt]] = {}
        self._given_to: dict[tuple[Source, str], list[tuple[ast.expr, ast.expr]]] = {}
        for source in sources:
            for node in source.nodes:
                if isinstance(node, Function):
                    self._functions.setdefault(_called_as(source, node), []).append((source, node))
                elif isinstance(node, ast.Call):
                    self._sites.setdefault(source.last(node), []).append(CallAt(source, node))
                elif isinstance(node, ast.Assign | ast.AnnAssign):
                    for target, value in pairs(node):
                        self._given_to.setdefault((source, source.dotted(target)), []).append((target, value))
        self.begins_run = any(name == _INIT for source in sources for _, name in source.calls)
        self._run_names: set[str] = set()
        self._run_names = set(self._find_run_names())
        chains = [self._loops_around(at) for at in self._backwards()]
        self.epochs = self._find_epochs(chains)
        self.steps = self._find_steps(chains)
        self.inside = self._reached(part for loop in self.epochs for part in loop.node.body)
        self._begins = self._find_begins()
        self._before: set[ast.AST] = set()
        self._before = self._find_before()

    # -- names -------------------------------------------------------------------------------------------------------

    def named(self, name: str) -> list[tuple[Source, Function]]:
        """Return the functions of the script with this name."""
        return self._functions.get(name, [])

    def calls_of(self, source: Source, made: Function | ast.ClassDef) -> list[CallAt]:
        """Return the calls of a function or class, but those in itself."""
        name = _called_as(source, made) if isinstance(made, Function) else made.name
        return [at for at in self._sites.get(name, []) if made not in at.source.above(at.node)]

    def is_run(self, source: Source, node: ast.AST) -> bool:
        """Return True if an expression is what ``elastic.init`` returned, or has the name of such a variable."""
        if not self.begins_run:
            return False
        if isinstance(node, ast.Name | ast.Attribute) and source.last(node) in self._run_names:
            return True
        return any(isinstance(at, ast.Call) and home.dotted(at.func) == _INIT for home, at in self.values(source, node))

    def _find_run_names(self) -> Iterator[str]:
        for (source, name), given in self._given_to.items() if self.begins_run else ():
            if any(isinstance(value, ast.Call) and self.is_run(source, value) for _, value in given):
                yield name.rpartition(".")[2]

    def calls_run(self, source: Source, node: ast.AST, method: str) -> bool:
        """Return True if an expression is a call of a method of the run, such as ``run.batches(…)``."""
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            return False
        return node.func.attr == method and self.is_run(source, node.func.value)

    def run_calls(self, method: str) -> list[CallAt]:
        """Return all calls of a method of the run."""
        return [at for at in self._sites.get(method, []) if self.calls_run(*at, method)]

    def values(self, source: Source, node: ast.AST) -> Iterator[At]:
        """Yield the expressions that an expression may stand for.

        They are what its name was given, here or by a caller, and what a function of the script returns.
        """
        seen = set()
        waiting = [At(source, node)]
        for at in waiting:  # grows
            if at.node in seen:
                continue
            seen.add(at.node)
            found = self._stands_for(*at)
            waiting += found
            if not found:
                yield at

    def _stands_for(self, source: Source, node: ast.AST) -> list[At]:
        if isinstance(node, ast.Call):
            if source.last(node) in _AROUND:
                return [At(source, argument) for argument in node.args]
            return list(self._returned(source, node))
        if isinstance(node, ast.Name | ast.Attribute):
            given = list(self._given(source, node))
            return given or list(self._given_by_callers(source, node))
        return []

    def _returned(self, source: Source, call: ast.Call, part: int | None = None, parts: int = 0) -> Iterator[At]:
        """Yield what a function of the script returns, or one part of the tuples that it returns."""
        for home, function in self.named(source.last(call)):
            for node in ast.walk(function):
                if isinstance(node, ast.Return) and node.value is not None:
                    if part is None:
                        yield At(home, node.value)
                    elif isinstance(node.value, ast.Tuple) and len(node.value.elts) == parts:
                        yield At(home, node.value.elts[part])

    def _given(self, source: Source, node: ast.Name | ast.Attribute) -> Iterator[At]:
        scope = source.function_of(node)
        for target, value in self._given_to.get((source, source.dotted(node)), ()):
            seen = isinstance(node, ast.Attribute) or source.function_of(target) in (scope, None)
            if not seen or any(inner is node for inner in ast.walk(value)):
                continue
            whole = source.parents[target]
            found: list[At] = []
            if isinstance(whole, ast.Tuple) and isinstance(value, ast.Call):
                found = list(self._returned(source, value, whole.elts.index(target), len(whole.elts)))
            yield from found or [At(source, value)]

    def _given_by_callers(self, source: Source, node: ast.Name | ast.Attribute) -> Iterator[At]:
        function = source.function_of(node)
        if function is None or not isinstance(node, ast.Name):
            return
        given = function.args
        names = [argument.arg for argument in (*given.posonlyargs, *given.args)]
        if node.id not in (*names, *(argument.arg for argument in given.kwonlyargs)):
            return
        skip = 1 if names[:1] in (["self"], ["cls"]) else 0
        for home, call in self.calls_of(source, function):
            by_name = [keyword.value for keyword in call.keywords if keyword.arg == node.id]
            place = names.index(node.id) - skip if node.id in names else len(call.args)
            yield from (At(home, value) for value in by_name or call.args[place : place + 1])

    # -- the loops that train ----------------------------------------------------------------------------------------

    def _backwards(self) -> Iterator[CallAt]:
        for source in self.sources:
            yield from (CallAt(source, call) for call, name in source.calls if name.endswith(".backward"))

    def _loops_around(self, at: CallAt, seen: frozenset[Function] = frozenset()) -> list[LoopAt]:
        """Return the loops around a call, also those around the calls of its function, the outermost first."""
        loops: list[LoopAt] = []
        for above in at.source.above(at.node):
            if isinstance(above, Loop):
                loops.insert(0, LoopAt(at.source, above))
            if isinstance(above, Function):
                if above in seen or len(seen) > _WAY:
                    return loops
                sites = self.calls_of(at.source, above)
                chains = [self._loops_around(site, seen | {above}) for site in sites[:_WAY]]
                return [*max(chains, key=len, default=[]), *loops]
        return loops

    def is_over(self, loop: LoopAt, method: str) -> bool:
        """Return True if a loop is one over ``run.epochs`` or ``run.batches``."""
        if not isinstance(loop.node, ForLoop) or not self.begins_run:
            return False
        return any(self.calls_run(*value, method) for value in self.values(loop.source, loop.node.iter))

    def _find_epochs(self, chains: list[list[LoopAt]]) -> list[LoopAt]:
        loops = [LoopAt(s, node) for s in self.sources if self.begins_run for node in s.nodes if isinstance(node, Loop)]
        found = [loop for loop in loops if self.is_over(loop, "epochs")]
        return found or list(dict.fromkeys(chain[0] for chain in chains if chain))

    def _find_steps(self, chains: list[list[LoopAt]]) -> list[LoopAt]:
        found = []
        for chain in chains:
            start = next((i for i, loop in enumerate(chain) if loop in self.epochs), 0)
            over = [loop for loop in chain[start:] if self.is_over(loop, "batches")]
            trains = [loop for loop in chain[start:] if not only_accumulates(*loop)]
            found += over[:1] or trains[1:2] or trains[:1]
        return list(dict.fromkeys(found))

    # -- when, and on which ranks ------------------------------------------------------------------------------------

    def is_before(self, source: Source, node: ast.AST) -> bool:
        """Return True if a node runs before the first training epoch, as far as can be seen."""
        if node in self.inside:
            return False
        around = source.function_of(node)
        begins = self._begins.get((source, around))
        if begins is not None:
            return _end(node) < begins
        return bool(self.epochs) and (around is None or around in self._before)

    def _find_begins(self) -> dict[tuple[Source, Function | None], tuple[int, int]]:
        """Return for each function, and the code of each module, where in it the training begins."""
        begins: dict[tuple[Source, Function | None], tuple[int, int]] = {}
        waiting: list[tuple[Source, ast.AST, tuple[int, int]]] = [(*loop, start_of(loop.node)) for loop in self.epochs]
        for source, node, place in waiting:  # grows
            around = source.function_of(node)
            known = begins.get((source, around))
            begins[source, around] = place if known is None else min(known, place)
            if around is not None and known is None:
                waiting += [(*site, _end(site.node)) for site in self.calls_of(source, around)]
        return begins

    def _find_before(self) -> set[ast.AST]:
        """Return the nodes of functions that are called before the training begins."""
        calls = [(source, call) for source in self.sources for call, _ in source.calls]
        early = [(source, call) for source, call in calls if self.is_before(source, call)]
        called = [at for source, call in early for at in self.named(source.last(call))]
        return self._reached(function for source, function in called if (source, function) not in self._begins)

    def _reached(self, start: Iterable[ast.AST]) -> set[ast.AST]:
        """Return nodes, those in them, and those in the functions that they call."""
        reached: set[ast.AST] = set()
        waiting = list(start)
        for part in waiting:  # grows
            for node in ast.walk(part) if part not in reached else ():
                reached.add(node)
                if isinstance(node, ast.Call):
                    waiting += [function for _, function in self.named(_called(node))]
        return reached

    def on_one_rank(self, source: Source, node: ast.AST, seen: frozenset[Function] = frozenset()) -> bool:
        """Return True if a node runs only where a condition on the rank's number holds."""
        child = node
        for above in source.above(node):
            if isinstance(above, ast.If | ast.IfExp) and child is not above.test and asks_rank(source, above.test):
                return True
            for body in (getattr(above, name, None) for name in ("body", "orelse", "finalbody")):
                before = body[: body.index(child)] if isinstance(body, list) and child in body else []
                if any(_turns_away(source, statement) for statement in before):
                    return True
            if isinstance(above, Function):
                sites = [] if above in seen else self.calls_of(source, above)
                return bool(sites) and all(self.on_one_rank(*site, seen | {above}) for site in sites[:_WAY])
            child = above
        return False


def asks_rank(source: Source, node: ast.AST) -> bool:
    """Return True if an expression depends on the number of the rank.

    A comparison with -1 does not: scripts use this number if there is only one rank.
    """
    whether_alone = [
        part for part in ast.walk(node) if isinstance(part, ast.Compare) and _is_minus_one(part.comparators)
    ]
    left_out = {inner for part in whether_alone for inner in ast.walk(part)}
    for inner in ast.walk(node):
        if inner in left_out:
            continue
        if isinstance(inner, ast.Name | ast.Attribute):
            last = source.last(inner).lower()
            if "rank" in last.split("_") or last in _MAIN:
                return True
    return False


def _is_minus_one(values: list[ast.expr]) -> bool:
    return any(isinstance(value, ast.UnaryOp) and ast.unparse(value) == "-1" for value in values)


def only_accumulates(source: Source, node: ast.AST) -> bool:
    """Return True for ``for i in range(4)`` around a backward, if the update comes after the loop."""
    if not isinstance(node, ast.For) or not isinstance(node.iter, ast.Call) or source.last(node.iter) != "range":
        return False
    names = {source.last(inner) for inner in ast.walk(node) if isinstance(inner, ast.Call)}
    return "backward" in names and "step" not in names


def line_of(node: ast.AST) -> int:
    """Return the line of a node."""
    return int(getattr(node, "lineno", 1))


def start_of(node: ast.AST) -> tuple[int, int]:
    """Return line and column at which a node begins."""
    return line_of(node), int(getattr(node, "col_offset", 0))


def _end(node: ast.AST) -> tuple[int, int]:
    return int(getattr(node, "end_lineno", 1)), int(getattr(node, "end_col_offset", 0))


def stored(node: ast.AST) -> list[ast.expr]:
    """Return what an assignment sets: names, attributes, items."""
    if isinstance(node, ast.Assign):
        return [one for target in node.targets for one in _flat(target)]
    return [node.target] if isinstance(node, ast.AugAssign | ast.AnnAssign) else []


def pairs(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Yield each target of an assignment with the expression that it gets, or that it gets a part of."""
    if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
        return
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        value = node.value
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            yield from zip(target.elts, value.elts, strict=True)
        else:
            yield from ((one, value) for one in _flat(target))


def _flat(target: ast.expr) -> Iterator[ast.expr]:
    if isinstance(target, ast.Tuple | ast.List):
        for part in target.elts:
            yield from _flat(part)
    else:
        yield target


def _called(call: ast.Call) -> str:
    """Return the name that a call calls, without its object."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _called_as(source: Source, function: Function) -> str:
    """Return the name by which a function is called: that of its class for ``__init__``."""
    parent = source.parents.get(function)
    return parent.name if function.name == "__init__" and isinstance(parent, ast.ClassDef) else function.name


def _turns_away(source: Source, node: ast.AST) -> bool:
    """Return True for ``if run.rank != 0: return``."""
    if not isinstance(node, ast.If) or not asks_rank(source, node.test):
        return False
    return isinstance(node.body[-1], ast.Return | ast.Continue | ast.Break)
