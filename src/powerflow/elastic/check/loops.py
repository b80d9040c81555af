"""Check the loops that train: what they run over, how gradients are computed, and what counts passes or steps."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from powerflow.elastic.check.distributed import divided, trained_loaders
from powerflow.elastic.check.finding import Finding, finding
from powerflow.elastic.check.project import Project, only_accumulates, stored
from powerflow.elastic.check.source import Source

_CLOCKS = ("time.time", "time.monotonic", "time.perf_counter", "datetime.datetime.now")
_OPTIMIZERS = ("optim", "opt", "scaler")
_BY_HAND = (
    "gradients are accumulated by hand: a rank that comes later would have none of them",
    "update in every turn of the loop; a larger global_batch accumulates, batch.local_max limits a pass",
)
_PRINTS = {"print", "info", "debug", "set_description", "set_postfix"}


def loops(project: Project, source: Source) -> Iterator[Finding]:
    """Find loops over epochs and batches that are not the run's own."""
    for loop in project.epochs:
        if loop.source is source and not project.is_over(loop, "epochs"):
            what = "this loop begins anew on a rank that comes later"
            fix = "for epoch in run.epochs(count): it begins at the present epoch; start= for an own checkpoint"
            yield finding(source, loop.node, "epochs", what, fix)
    already = divided(project)  # the check of samplers names these
    by_step = trained_loaders(project)
    for step in project.steps:
        if project.is_over(step, "batches"):
            continue
        loaders: list[tuple[Source, ast.AST]] = [*by_step.get(step, [])[:1]] or [(step.source, step.node)]
        what = "the samples do not follow the ranks: new ranks would train other samples, or the same ones twice"
        fix = "run.batches(dataset, global_batch=…), with the samples of a step over all GPUs"
        for at, node in loaders:
            if at is source and node not in already:
                yield finding(source, node, "batches", what, fix)


def resuming(project: Project, source: Source) -> Iterator[Finding]:
    """Find runs that begin at epoch 0, although the script has loaded an optimiser of its own checkpoint."""
    loads = [(at, call) for at in project.sources for call, name in at.calls if name.endswith(".load_state_dict")]
    of_optimizers = [(at, call) for at, call in loads if _is_optimizer(at.dotted(call.func))]
    if not any(project.is_before(at, call) for at, call in of_optimizers):
        return
    for at, call in project.run_calls("epochs"):
        if at is source and not any(keyword.arg == "start" for keyword in call.keywords):
            what = "the script loads its own checkpoint, but the run begins at epoch 0"
            yield finding(source, call, "resume", what, "run.epochs(count, start=…), with the epoch of the checkpoint")


def backwards(project: Project, source: Source) -> Iterator[Finding]:
    """Find gradients that PowerFlow does not see."""
    for call, name in source.calls:
        root, _, last = name.rpartition(".")
        if last != "backward" or project.calls_run(source, call, "backward") or root in ("self", "super()"):
            continue
        assert isinstance(call.func, ast.Attribute)
        loss = ast.unparse(call.args[0] if call.args else call.func.value)
        what = "gradients of this backward are not weighted by the size of the pass, nor averaged over the ranks"
        yield finding(source, call, "backward", what, f"run.backward({loss if len(loss) < 60 else 'loss'})")


def updates(project: Project, source: Source) -> Iterator[Finding]:
    """Find accumulation by hand, and closures."""
    steps_over_batches = {step.node for step in project.steps if project.is_over(step, "batches")}
    for node in source.nodes:
        if isinstance(node, ast.If) and _counts(node.test):
            steps = [name for inner in node.body for call, name in _calls(source, inner) if name.endswith(".step")]
            if any(_is_optimizer(name) for name in steps):
                yield finding(source, node, "accumulation", *_BY_HAND)
        if only_accumulates(source, node) and not steps_over_batches & set(source.above(node)):
            yield finding(source, node, "accumulation", *_BY_HAND)
        if isinstance(node, ast.Call) and source.dotted(node.func).endswith(".step"):
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            if any(isinstance(one, ast.Lambda) or project.named(getattr(one, "id", "")) for one in given):
                what = "a closure computes gradients inside the update, which cannot be undone when a rank is lost"
                yield finding(source, node, "closure", what, "run.backward(loss) before optimizer.step()")


def counters(project: Project, source: Source) -> Iterator[Finding]:
    """Find numbers that count passes of one rank where steps of the run are meant."""
    for step in project.steps:
        if step.source is not source or not isinstance(step.node, ast.For):
            continue
        index = _index(source, step.node)
        for node in (inner for part in step.node.body for inner in ast.walk(part)):
            if isinstance(node, ast.Name) and node.id == index and _matters(source, node):
                what = f"{index} counts passes since this rank has come, and a step may have several passes"
                fix = "run.position.step, or run.position.within for the step of the epoch, under `if run.updates:`"
                yield finding(source, node, "pass-counter", what, fix)
                break
        summed = {
            source.dotted(one)
            for part in step.node.body
            for inner in ast.walk(part)
            if isinstance(inner, ast.AugAssign)
            for one in stored(inner)
        }
        around = source.function_of(step.node) or source.tree
        quotients = [at for at in ast.walk(around) if isinstance(at, ast.BinOp) and isinstance(at.op, ast.Div)]
        for node in quotients:
            is_mean = _is_length(source, node.right)
            if is_mean and summed & {source.dotted(inner) for inner in ast.walk(node.left)}:
                what = "a sum over passes of this rank is divided by the number of steps of the run"
                fix = "count in the loop what is summed, and sum both over all ranks with dist.all_reduce"
                yield finding(source, node, "pass-mean", what, fix)


def lengths(project: Project, source: Source) -> Iterator[Finding]:
    """Find numbers of steps that depend on the number of ranks."""
    trained: set[ast.AST] = {call for loaders in trained_loaders(project).values() for _, call in loaders}
    for call, _ in source.calls:
        if not _is_length(source, call) or not project.is_before(source, call):
            continue
        if any(node in trained for _, node in project.values(source, call.args[0])):
            what = "the length of this loader is that of one rank's part, so it depends on the number of ranks"
            fix = "with run.batches(…) it is right as it stands: the number of steps on any number of ranks"
            yield finding(source, call, "length", what, fix)


def decisions(project: Project, source: Source) -> Iterator[Finding]:
    """Find decisions by the clock."""
    for node in source.nodes:
        if not isinstance(node, ast.If) or node not in project.inside:
            continue
        leaves = any(isinstance(at, ast.Break | ast.Return | ast.Raise) for part in node.body for at in ast.walk(part))
        if leaves and any(name in _CLOCKS for _, name in _calls(source, node.test)):
            what = "ranks have different clocks, so some may leave the loop and others not"
            fix = "decide by run.position or a value of run.keep, or sum the decision with dist.all_reduce"
            yield finding(source, node, "clock", what, fix)


def _calls(source: Source, node: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    return ((inner, source.dotted(inner.func)) for inner in ast.walk(node) if isinstance(inner, ast.Call))


def _counts(test: ast.expr) -> bool:
    """Return True for a condition such as ``(i + 1) % 4 == 0`` or ``i - last >= 4``."""
    if isinstance(test, ast.Compare) and isinstance(test.left, ast.BinOp) and isinstance(test.left.op, ast.Sub):
        return True
    return any(isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod) for node in ast.walk(test))


def _is_optimizer(method: str) -> bool:
    """Return True if a method named "optimizer.step" is that of an optimiser or a gradient scaler, by its name."""
    parts = method.rpartition(".")[0].rpartition(".")[2].lower().split("_")
    return any(part.startswith(_OPTIMIZERS) for part in parts)


def _index(source: Source, loop: ast.For) -> str:
    """Return the variable that ``enumerate`` counts in; "" if there is none."""
    called = loop.iter.func if isinstance(loop.iter, ast.Call) else loop.iter
    if source.dotted(called) == "enumerate" and isinstance(loop.target, ast.Tuple):
        return source.dotted(loop.target.elts[0])
    return ""


def _matters(source: Source, index: ast.Name) -> bool:
    """Return True if a counter is used for more than to print."""
    computed = False
    for above in source.above(index):
        if isinstance(above, ast.BinOp) and isinstance(above.op, ast.Add | ast.Mult):
            computed |= not isinstance(above.right, ast.Constant)
        if isinstance(above, ast.Call) and source.last(above) in _PRINTS:
            return False
        if isinstance(above, ast.If) and index in ast.walk(above.test):
            calls = [name for part in above.body for _, name in _calls(source, part)]
            stepped = any(name.endswith(".step") for name in calls)
            return stepped and not any(_is_optimizer(name) for name in calls)  # accumulation says it
        if isinstance(above, ast.stmt):
            return computed
    return computed


def _is_length(source: Source, node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and source.dotted(node.func) == "len" and len(node.args) == 1
