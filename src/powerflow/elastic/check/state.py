"""Check what a new rank would not have (plain values, unregistered objects, random numbers), and who saves."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from powerflow.elastic.check.finding import Finding, finding
from powerflow.elastic.check.project import At, Project, line_of, pairs, stored
from powerflow.elastic.check.source import Function, Scope, Source

_STATEFUL = {
    "optimiser": re.compile(
        r"^torch\.optim\.(?!lr_scheduler|swa_utils)\w*[A-Z]\w*$"
        r"|(?:^|\.)(?:\w*Adam\w*|\w*SGD|Lion\w*|L[Aa][Mm][Bb]|LARS|Adafactor|RMSprop|Muon|Shampoo)$"
    ),
    "schedule": re.compile(r"\.lr_scheduler\.[A-Z]\w*$|(?:^|\.)(?:\w+LR|\w*Scheduler|get_\w*schedule\w*)$"),
    "gradient scaler": re.compile(r"(?:^|\.)\w*GradScaler$"),
    "average": re.compile(r"(?:^|\.)(?:AveragedModel|ModelE[mM][aA]\w*|EMA|ExponentialMovingAverage)$"),
}
_GROWS = {"append", "extend", "add", "update", "insert"}
_UPDATES = {"parameters", "state_dict", "load_state_dict", "update"}
_RANDOM_STATES = re.compile(r"(?:^|\.)(?:[gs]et_rng_state(?:_all)?|[gs]et_state|getstate|setstate)$")
_GENERATORS = {"torch.Generator", "numpy.random.default_rng", "random.Random"}


def plain_values(project: Project, source: Source) -> Iterator[Finding]:
    """Find values that the loop over epochs carries on from its past, which a new rank does not have."""
    for loop in project.epochs:
        if loop.source is not source:
            continue
        scope = source.function_of(loop.node)
        before: dict[str, ast.AST] = {}
        for node in source.nodes:
            if source.function_of(node) is scope and line_of(node) < line_of(loop.node):
                for one in stored(node):
                    before.setdefault(source.dotted(one), node)
        declared = {name for node in source.nodes if isinstance(node, ast.Global) for name in node.names}
        for name, first in before.items():
            if "." not in name and name not in declared and _is_carried(project, source, loop.node, name, first):
                yield _not_kept(source, first, name)
    for node in source.nodes:
        if isinstance(node, ast.Global | ast.Nonlocal):
            function = source.function_of(node)
            for name in node.names:
                sets = [at for at in ast.walk(function or source.tree) if name in map(source.dotted, stored(at))]
                if any(at in project.inside and not project.on_one_rank(At(source, at)) for at in sets):
                    outside = [at for at in source.tree.body if name in map(source.dotted, stored(at))]
                    yield _not_kept(source, [*outside, *sets][0], name)
        if isinstance(node, ast.ClassDef):
            yield from _attributes(project, source, node)


def _attributes(project: Project, source: Source, kind: ast.ClassDef) -> Iterator[Finding]:
    if not any(project.is_before(site) for site in project.constructions(source, kind)):
        return  # one for each epoch, as a meter is
    start = next((f for f in kind.body if isinstance(f, Function) and f.name == "__init__"), None)
    for first in ast.walk(start) if start else ():
        for target in stored(first):
            name = source.dotted(target)
            if not name.startswith("self.") or not _is_plain(_given(source, first, name)):
                continue
            later = [at for at in ast.walk(kind) if at in project.inside and name in map(source.dotted, stored(at))]
            later = [at for at in later if not project.on_one_rank(At(source, at))]
            if any(isinstance(at, ast.AugAssign) or _is_conditional(source, at) for at in later):
                yield _not_kept(source, first, name)


def _given(source: Source, node: ast.AST, name: str) -> ast.expr | None:
    """Return the expression that an assignment gives a name; None if it gives it a part of one."""
    if not isinstance(node, ast.Assign | ast.AnnAssign):
        return None
    return next((value for target, value in pairs(node) if source.dotted(target) == name), None)


def _is_carried(project: Project, source: Source, loop: ast.AST, name: str, first: ast.AST) -> bool:
    """Return True if a turn of a loop uses a value that an earlier turn has set."""
    inner = [node for node in ast.walk(loop) if _same_scope(source, loop, node)]
    sets = [at for at in inner if name in map(source.dotted, stored(at))]
    sets = [at for at in sets if not project.on_one_rank(At(source, at))]
    reads = [at for at in inner if isinstance(at, ast.Name) and at.id == name and isinstance(at.ctx, ast.Load)]
    value = _given(source, first, name)
    if isinstance(value, ast.List | ast.Dict | ast.Set) or _is_empty_call(source, value):
        grown = [at for at in reads if _grows(source, at) and not project.on_one_rank(At(source, at))]
        if grown:
            return True
    if not sets:
        return False
    if any(isinstance(at, ast.AugAssign) for at in sets if not _is_reset(source, loop, at, sets)):
        return True
    earliest = min(map(_place, sets))
    read_first = any(_place(at) < earliest or _within(source, at, sets) for at in reads)
    return read_first or (bool(reads) and all(_is_conditional(source, at, loop) for at in sets))


def _is_reset(source: Source, loop: ast.AST, added: ast.AST, sets: list[ast.AST]) -> bool:
    """Return True if the loop sets a name anew in each turn before it adds to it."""
    plain = [at for at in sets if not isinstance(at, ast.AugAssign) and source.parents[at] is loop]
    return any(line_of(at) < line_of(added) for at in plain)


def _within(source: Source, read: ast.AST, sets: list[ast.AST]) -> bool:
    """Return True if a name is read in the first assignment that sets it."""
    first = min(sets, key=_place)
    return first in source.above(read) and not isinstance(first, ast.AugAssign)


def _same_scope(source: Source, loop: ast.AST, node: ast.AST) -> bool:
    for above in source.above(node):
        if above is loop:
            return True
        if isinstance(above, Scope):
            return False
    return False


def _is_conditional(source: Source, node: ast.AST, loop: ast.AST | None = None) -> bool:
    for above in source.above(node):
        if isinstance(above, ast.If):
            return True
        if above is loop or isinstance(above, Function):
            return False
    return False


def _grows(source: Source, read: ast.AST) -> bool:
    parent = source.parents[read]
    if isinstance(parent, ast.Subscript):
        return isinstance(parent.ctx, ast.Store)
    return isinstance(parent, ast.Attribute) and parent.attr in _GROWS


def _is_plain(value: ast.AST | None) -> bool:
    if isinstance(value, ast.UnaryOp):
        value = value.operand
    return isinstance(value, ast.Constant | ast.List | ast.Dict | ast.Set) or (
        isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "float"
    )


def _is_empty_call(source: Source, value: ast.AST | None) -> bool:
    return isinstance(value, ast.Call) and source.dotted(value.func).rpartition(".")[2] in (
        "list",
        "dict",
        "defaultdict",
    )


def _place(node: ast.AST) -> tuple[int, int]:
    return line_of(node), int(getattr(node, "col_offset", 0))


def _not_kept(source: Source, first: ast.AST, name: str) -> Finding:
    value = _given(source, first, name)
    given = ast.unparse(value) if value is not None and _is_plain(value) else "…"
    short = name.removeprefix("self.")
    what = f"a rank that comes later begins with the first value of {name}, and a resumed run as well"
    fix = f"kept = run.keep({short}={given}) before run.wrap, and kept.{short}; run.position.step counts steps"
    return finding(source, first, "plain-value", what, fix)


# -- what run.wrap does not get --------------------------------------------------------------------------------------


def unregistered(project: Project, source: Source) -> Iterator[Finding]:
    """Find optimisers, schedules, scalers, averages and models that ``run.wrap`` does not get."""
    wraps = project.run_calls("wrap")
    if not wraps or any(isinstance(part, ast.Starred) for at in wraps for part in getattr(at.node, "args", ())):
        return
    given = _names_given(project, wraps)
    fix = "give it to run.wrap, so that new ranks and checkpoints have its state"
    for node in source.nodes:
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if not isinstance(value, ast.Call):
            continue
        names = [source.dotted(target).rpartition(".")[2] for target in stored(node)]
        called = source.dotted(value.func)
        for kind, pattern in _STATEFUL.items():
            if pattern.search(called) and not given & set(names):
                yield finding(source, node, "unregistered", f"run.wrap does not get the {kind} {names[0]}", fix)
                break
        if called == "copy.deepcopy" and not given & set(names) and _is_updated(project, source, names):
            yield finding(
                source, node, "unregistered", f"run.wrap does not get {names[0]}, a copy that is updated", fix
            )
        if _STATEFUL["optimiser"].search(called):
            for model in _trained(source, value):
                if model.rpartition(".")[2] not in given:
                    what = f"run.wrap does not get {model}, which an optimiser trains"
                    both = "put all modules that are trained into one: run.wrap(nn.ModuleList([…]), …)"
                    yield finding(source, node, "unregistered", what, both)


def _names_given(project: Project, wraps: list[At]) -> set[str]:
    """Return the names in the arguments of ``run.wrap``, and those of which these are made."""
    given: set[str] = set()
    waiting = [At(at.source, part) for at in wraps for part in (*at.node.args, *at.node.keywords)]  # type: ignore[attr-defined]
    seen: set[ast.AST] = set()
    while waiting:
        source, part = waiting.pop()
        for node in ast.walk(part):
            if isinstance(node, ast.Name | ast.Attribute) and node not in seen:
                seen.add(node)
                given.add(source.dotted(node).rpartition(".")[2])
                for value in project.values(At(source, node)):
                    composes = isinstance(value.node, ast.Call | ast.List | ast.Tuple | ast.Dict)
                    is_optimizer = composes and any(
                        pattern.search(value.source.dotted(getattr(value.node, "func", value.node)))
                        for kind, pattern in _STATEFUL.items()
                        if kind != "schedule"
                    )
                    if composes and not is_optimizer and value.node not in seen:
                        seen.add(value.node)
                        waiting.append(value)
    return given


def _trained(source: Source, optimizer: ast.Call) -> Iterator[str]:
    for node in ast.walk(optimizer):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "parameters":
            name = source.dotted(node.func.value)
            if "()" not in name:
                yield name.removesuffix(".module")


def _is_updated(project: Project, source: Source, names: list[str]) -> bool:
    for node in source.nodes:
        is_update = isinstance(node, ast.Attribute) and node.attr in _UPDATES and node in project.inside
        if is_update and source.dotted(node.value).rpartition(".")[2] in names:  # type: ignore[attr-defined]
            return True
    return False


# -- random numbers, and files ---------------------------------------------------------------------------------------


def random_numbers(project: Project, source: Source) -> Iterator[Finding]:
    """Find random numbers that the script restores, or draws from a generator of its own."""
    for call, name in source.calls():
        if _RANDOM_STATES.search(name) and name.startswith(("torch.", "random.", "numpy.random.")):
            what = "PowerFlow seeds the random numbers of each rank whenever the ranks change"
            yield finding(source, call, "random-state", what, "remove it: run and checkpoint have their own seeds")
    for node in source.nodes:
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        while (
            isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr == "manual_seed"
        ):
            value = value.func.value
        if (
            isinstance(value, ast.Call)
            and source.dotted(value.func) in _GENERATORS
            and project.is_before(At(source, node))
        ):
            names = set(map(source.dotted, stored(node)))
            read = [at for at in source.nodes if at in project.inside and isinstance(at, ast.Name | ast.Attribute)]
            if any(source.dotted(at) in names for at in read):
                what = "a rank that comes later begins this generator anew"
                fix = "make it in the loop, seeded by run.position.step, or draw from the numbers of torch"
                yield finding(source, node, "generator", what, fix)


def saving(project: Project, source: Source) -> Iterator[Finding]:
    """Find files that all ranks write at once."""
    for call, name in source.calls():
        if name in ("torch.save", "()._save") or name.endswith(".save_pretrained"):
            at = At(source, call)
            reached = call in project.inside or isinstance(source.function_of(call), Function) or project.epochs
            if reached and not project.on_one_rank(at) and not project.asks_rank(at) and project.epochs:
                what = "all ranks write this file at once"
                yield finding(source, call, "all-save", what, "put it under `if run.is_main:`")
