"""Check for objects, random numbers and files of a script that do not follow the ranks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from powerflow.elastic.check.finding import Finding, finding
from powerflow.elastic.check.project import At, CallAt, Project, asks_rank, stored
from powerflow.elastic.check.source import Source

_OPTIMIZER = re.compile(
    r"^torch\.optim\.(?!lr_scheduler|swa_utils)\w*[A-Z]\w*$"
    r"|(?:^|\.)(?:\w*Adam\w*|\w*SGD|Lion\w*|L[Aa][Mm][Bb]|LARS|Adafactor|RMSprop|Muon|Shampoo)$"
)
_SCHEDULE = re.compile(r"\.lr_scheduler\.[A-Z]\w*$|(?:^|\.)(?:\w+LR|\w*Scheduler|get_\w*schedule\w*)$")
_SCALER = re.compile(r"(?:^|\.)\w*GradScaler$")
_AVERAGE = re.compile(r"(?:^|\.)(?:AveragedModel|ModelE[mM][aA]\w*|EMA|ExponentialMovingAverage)$")
_KINDS = {"optimiser": _OPTIMIZER, "schedule": _SCHEDULE, "gradient scaler": _SCALER, "average": _AVERAGE}
_UPDATES = {"parameters", "state_dict", "load_state_dict", "update"}
_RANDOM_STATES = re.compile(
    r"^(?:torch|random|numpy)\b.*\.(?:[gs]et_rng_state(?:_all)?|[gs]et_state|getstate|setstate)$"
)
_GENERATORS = {"torch.Generator", "numpy.random.default_rng", "random.Random"}


def unregistered(project: Project, source: Source) -> Iterator[Finding]:
    """Find optimisers, schedules, scalers, averages and models that ``run.wrap`` does not get."""
    wraps = project.run_calls("wrap")
    if not wraps or any(isinstance(part, ast.Starred) for at in wraps for part in at.node.args):
        return
    given = _names_given(project, wraps)
    fix = "give it to run.wrap, so that new ranks and checkpoints have its state"
    for names, node, call in _made(source):
        called = source.dotted(call.func)
        if not given & set(names):
            kind = next((kind for kind, pattern in _KINDS.items() if pattern.search(called)), "")
            if kind:
                yield finding(source, node, "unregistered", f"run.wrap does not get the {kind} {names[0]}", fix)
            elif called == "copy.deepcopy" and _is_updated(project, source, names):
                what = f"run.wrap does not get {names[0]}, a copy that is updated"
                yield finding(source, node, "unregistered", what, fix)
        for model in _trained(source, call) if _OPTIMIZER.search(called) else ():
            if model.rpartition(".")[2] not in given:
                what = f"run.wrap does not get {model}, which an optimiser trains"
                both = "put all modules that are trained into one: run.wrap(nn.ModuleList([…]), …)"
                yield finding(source, node, "unregistered", what, both)


def _made(source: Source) -> Iterator[tuple[list[str], ast.AST, ast.Call]]:
    """Yield each assignment of what a call returns: the names that it sets, the assignment, the call."""
    for node in source.nodes:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call):
            yield [source.last(target) for target in stored(node)], node, node.value


def _names_given(project: Project, wraps: list[CallAt]) -> set[str]:
    """Return the names in the arguments of ``run.wrap``, and those of which these are made."""
    given: set[str] = set()
    parts = [(at.source, part) for at in wraps for part in (*at.node.args, *at.node.keywords)]
    waiting = [At(source, node) for source, part in parts for node in ast.walk(part)]
    seen = set()
    for source, node in waiting:  # grows
        if not isinstance(node, ast.Name | ast.Attribute) or node in seen:
            continue
        seen.add(node)
        given.add(source.last(node))
        for value in project.values(source, node):
            if _composes(*value):
                waiting += [At(value.source, inner) for inner in ast.walk(value.node)]
    return given


def _composes(source: Source, node: ast.AST) -> bool:
    """Return True if an expression has the state of what is in it: a list of modules, a schedule of schedules."""
    if not isinstance(node, ast.Call):
        return isinstance(node, ast.List | ast.Tuple | ast.Dict)
    return not any(pattern.search(source.dotted(node.func)) for pattern in (_OPTIMIZER, _SCALER, _AVERAGE))


def _trained(source: Source, optimizer: ast.Call) -> Iterator[str]:
    for node in ast.walk(optimizer):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "parameters":
            name = source.dotted(node.func.value)
            if "()" not in name:
                yield name.removesuffix(".module")


def _is_updated(project: Project, source: Source, names: list[str]) -> bool:
    uses = [node for node in source.nodes if isinstance(node, ast.Attribute) and node.attr in _UPDATES]
    return any(node in project.inside and source.last(node.value) in names for node in uses)


def random_numbers(project: Project, source: Source) -> Iterator[Finding]:
    """Find random numbers that the script restores, or draws from a generator of its own."""
    for call, name in source.calls:
        if _RANDOM_STATES.search(name):
            what = "PowerFlow seeds the random numbers of each rank whenever the ranks change"
            yield finding(source, call, "random-state", what, "remove it: run and checkpoint have their own seeds")
    for names, node, call in _made(source):
        function = call.func
        if isinstance(function, ast.Attribute) and function.attr == "manual_seed":  # torch.Generator().manual_seed(1)
            function = function.value.func if isinstance(function.value, ast.Call) else function
        if source.dotted(function) not in _GENERATORS or not project.is_before(source, node):
            continue
        if _is_used(project, source, names):
            what = "a rank that comes later begins this generator anew"
            fix = "make it in the loop, seeded by run.position.step, or draw from the numbers of torch"
            yield finding(source, node, "generator", what, fix)


def _is_used(project: Project, source: Source, names: list[str]) -> bool:
    uses = [node for node in source.nodes if isinstance(node, ast.Name | ast.Attribute)]
    return any(node in project.inside and source.last(node) in names for node in uses)


def saving(project: Project, source: Source) -> Iterator[Finding]:
    """Find files that all ranks write at once."""
    for call, name in source.calls if project.epochs else ():
        saves = name == "torch.save" or name.endswith(".save_pretrained")
        if saves and not project.on_one_rank(source, call) and not asks_rank(source, call):
            what = "all ranks write this file at once"
            yield finding(source, call, "all-save", what, "put it under `if run.is_main:`")
