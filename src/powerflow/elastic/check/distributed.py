"""Check what a script does with torch.distributed, and what it believes of its launcher."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from powerflow.elastic.check.finding import Finding, finding
from powerflow.elastic.check.project import CallAt, ForLoop, LoopAt, Project, stored
from powerflow.elastic.check.source import Source

#: Advice to a script that cannot be rescaled in place.
RESTART = "submit it with rescale: restart, without powerflow.elastic"
_SYNC = ("PowerFlow decides when ranks exchange gradients", "remove it; a larger global_batch accumulates")
_ASKS = {"get_rank", "get_world_size"}
_COLLECTIVES = {
    *("barrier", "monitored_barrier", "new_group", "all_reduce", "reduce", "broadcast", "broadcast_object_list"),
    *(
        "all_gather",
        "all_gather_into_tensor",
        "all_gather_object",
        "gather",
        "gather_object",
        "scatter",
        "send",
        "recv",
    ),
    *("scatter_object_list", "reduce_scatter", "reduce_scatter_tensor", "all_to_all", "all_to_all_single"),
}
_SHARDED = {"FullyShardedDataParallel", "fully_shard", "ZeroRedundancyOptimizer", "parallelize_module"}
_SPAWNS = {"torch.multiprocessing.spawn", "torch.multiprocessing.start_processes", "torch.distributed.run.main"}
_LAUNCHERS = ("torchrun", "torch.distributed.run", "torch.distributed.launch", "accelerate launch")
_NUMBERS = {"RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK"}


def process_groups(project: Project, source: Source) -> Iterator[Finding]:
    """Find process groups, wrappers and processes that the script makes itself."""
    for node in source.nodes:
        if any(source.dotted(one).endswith(".require_backward_grad_sync") for one in stored(node)):
            yield finding(source, node, "no-sync", *_SYNC)
    for call, name in source.calls:
        last = name.rpartition(".")[2]
        if last == "init_process_group":
            what = "the script opens a process group itself; PowerFlow opens one whenever the ranks change"
            yield finding(source, call, "own-group", what, "run = elastic.init() in its place")
        elif last in _SHARDED or name.startswith(("deepspeed.", "fairscale.")):
            what = f"{last} keeps a part of the state on each rank, which cannot be rescaled in place"
            yield finding(source, call, "sharded", what, RESTART)
        elif last == "DistributedDataParallel":
            what = "DistributedDataParallel belongs to one process group, and new ranks get nothing from it"
            fix = "model = run.wrap(model, optimizer, scheduler, …) in its place, after these are made"
            yield finding(source, call, "ddp", what, fix)
        elif last == "DataParallel":
            what = "DataParallel divides a batch among the GPUs of one process, but each rank has one GPU"
            yield finding(source, call, "ddp", what, "remove it; run.wrap(model, …) uses all ranks")
        elif name in _SPAWNS or last == "elastic_launch" or (last.startswith("notebook_launch")):
            what = "the script starts its ranks itself; PowerFlow starts one process for each GPU"
            yield finding(source, call, "own-launch", what, "call the training function directly")
        elif last == "no_sync":
            yield finding(source, call, "no-sync", *_SYNC)
        elif _starts_program(name) and any(_is_launcher(node) for node in ast.walk(call)):
            what = "the script starts a launcher; PowerFlow starts one process for each GPU itself"
            yield finding(source, call, "own-launch", what, f"run the training script directly, or {RESTART}")


def samplers(project: Project, source: Source) -> Iterator[Finding]:
    """Find samplers that divide the data among the ranks of the moment in which they were made."""
    training = {loader for loaders in trained_loaders(project).values() for _, loader in loaders}
    for call, name in source.calls:
        if not _is_sampler(name):
            continue
        loaders = [loader for _, loader in _loaders_with(project, call)]
        if call in project.inside and not any(loader in training for loader in loaders):
            continue  # made anew for each evaluation
        what = "DistributedSampler divides the data among the ranks that there were when it was made"
        if any(loader in training for loader in loaders):
            fix = "run.batches(dataset, global_batch=…) in place of this sampler and its loader"
        elif loaders and training:
            fix = "run.sampler(dataset) in its place"
        else:
            fix = "run.batches(dataset, global_batch=…) to train, run.sampler(dataset) to evaluate"
        yield finding(source, call, "sampler", what, fix)


def environment(project: Project, source: Source) -> Iterator[Finding]:
    """Find environment variables that torchrun sets, and those that PowerFlow sets."""
    for node in source.nodes:
        name, default, sets = _variable(source, node)
        if name == "CUDA_VISIBLE_DEVICES" and sets:
            what = "PowerFlow sets CUDA_VISIBLE_DEVICES to the GPU of each rank"
            yield finding(source, node, "visible-devices", what, "remove this line; the GPU is run.device")
        elif sets:
            continue
        elif name == "LOCAL_RANK" and default != 0:
            what = "LOCAL_RANK is set by torchrun only"
            yield finding(source, node, "environment", what, "run.device, or run.local_rank")
        elif name in _NUMBERS:
            what = f"{name} is set by torchrun only, and would not change with the ranks"
            yield finding(source, node, "environment", what, "run.rank, run.ranks or run.is_main, where it is needed")


def devices(project: Project, source: Source) -> Iterator[Finding]:
    """Find GPUs that are chosen by the number of the rank on its node."""
    for node in source.nodes:
        given: list[ast.expr] = []
        if isinstance(node, ast.Call) and source.last(node) in ("set_device", "device", "cuda", "to"):
            given = node.args
        elif isinstance(node, ast.JoinedStr) and _text(node.values[0] if node.values else node).startswith("cuda"):
            given = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
        values = [at for one in given for at in project.values(source, one)]
        if any(_is_local_rank(project, *at) for at in values):
            what = "PowerFlow lets each rank see only its own GPU, so this GPU may not be there"
            yield finding(source, node, "device", what, "run.device")


def _is_local_rank(project: Project, source: Source, node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "local_rank" and project.is_run(source, node.value)


def collectives(project: Project, source: Source) -> Iterator[Finding]:
    """Find collectives that not all ranks call, and those before the ranks have a group."""
    for call, name in source.calls:
        root, _, last = name.rpartition(".")
        if not root.startswith("torch.distributed") or last not in _ASKS | _COLLECTIVES:
            continue
        if project.is_before(source, call):
            what = f"{last} before the first epoch: the ranks have no group yet, and new ranks come here later"
            if last in _ASKS:
                fix = "run.rank, run.ranks or run.is_main, where it is needed: they can change"
            else:
                fix = "remove it, or call it in the loop over run.epochs"
            yield finding(source, call, "early-collective", what, fix)
        elif last in _COLLECTIVES and project.on_one_rank(source, call):
            what = f"{last} on some ranks only: they wait for the others for ever"
            yield finding(source, call, "lone-collective", what, "call it on all ranks")


def kept_ranks(project: Project, source: Source) -> Iterator[Finding]:
    """Find ranks and numbers of ranks that are read once, although they change."""
    for node in source.nodes:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            asked = _asked(project, source, node.value)
            is_read = asked and any(_is_read_inside(project, source, target) for target in stored(node))
            if is_read and project.is_before(source, node):
                names = ", ".join(source.dotted(target) for target in stored(node))
                what = f"{names} keeps its first value, but {asked} can change between any two steps"
                yield finding(source, node, "kept-rank", what, f"{_now(asked)} in the loop, where it is needed")
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div | ast.FloorDiv | ast.Mod):
            by_ranks = any(_size(project, source, side) for side in (node.left, node.right))
            if by_ranks and project.is_before(source, node):
                what = "a rate or a batch is computed from the number of ranks, which can change"
                fix = "leave it out: global_batch stays the same on any number of ranks, and so does the rate"
                yield finding(source, node, "scaled-by-ranks", what, fix)


def trained_loaders(project: Project) -> dict[LoopAt, list[CallAt]]:
    """Return for each loop that trains on batches the calls that make the DataLoaders over which it may run."""
    found = {}
    for step in project.steps:
        if isinstance(step.node, ForLoop):
            values = project.values(step.source, step.node.iter)
            found[step] = [CallAt(at, node) for at, node in values if isinstance(node, ast.Call) and _loads(at, node)]
    return found


def _loads(source: Source, call: ast.Call) -> bool:
    return source.last(call).endswith("DataLoader")


def divided(project: Project) -> set[ast.Call]:
    """Return the calls that make DataLoaders with a DistributedSampler."""
    samplers = [call for source in project.sources for call, name in source.calls if _is_sampler(name)]
    return {loader for sampler in samplers for _, loader in _loaders_with(project, sampler)}


def _is_sampler(name: str) -> bool:
    return name.rpartition(".")[2] == "DistributedSampler"


def _loaders_with(project: Project, sampler: ast.Call) -> Iterator[CallAt]:
    """Yield the calls that make the DataLoaders that get a sampler."""
    for source in project.sources:
        for call, _ in source.calls:
            if _loads(source, call):
                given = [keyword.value for keyword in call.keywords if keyword.arg in ("sampler", "batch_sampler")]
                values = [node for value in given for _, node in project.values(source, value)]
                if any(sampler is inner for value in values for inner in ast.walk(value)):
                    yield CallAt(source, call)


def _variable(source: Source, node: ast.AST) -> tuple[str, object, bool]:
    """Return which environment variable a node uses: its name, its default, and True if the node sets it."""
    if isinstance(node, ast.Subscript) and source.dotted(node.value) == "os.environ":
        return _text(node.slice), None, isinstance(node.ctx, ast.Store)
    if not isinstance(node, ast.Call):
        return "", None, False
    name = source.dotted(node.func)
    if name in ("os.environ.get", "os.getenv", "os.environ.setdefault", "os.putenv") and node.args:
        default = node.args[1].value if len(node.args) > 1 and isinstance(node.args[1], ast.Constant) else None
        return _text(node.args[0]), 0 if default in (0, "0") else default, name.endswith(("setdefault", "putenv"))
    return "", None, False


def _text(node: ast.AST) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _starts_program(name: str) -> bool:
    return name.startswith(("subprocess.", "os.system", "os.exec", "os.popen", "os.spawn"))


def _is_launcher(node: ast.AST) -> bool:
    return any(launcher in _text(node) for launcher in _LAUNCHERS)


def _asked(project: Project, source: Source, value: ast.AST) -> str:
    """Return which number that can change an expression reads: "the rank", "the number of ranks"; "" for none."""
    for node in ast.walk(value):
        variable, _, _ = _variable(source, node)
        if variable in ("RANK", "WORLD_SIZE"):
            return "the rank" if variable == "RANK" else "the number of ranks"
        last = source.last(node)
        own = isinstance(node, ast.Attribute) and project.is_run(source, node.value)
        if last == "get_rank" or (own and last in ("rank", "is_main")):
            return "the rank"
        if last == "get_world_size" or (own and last == "ranks"):
            return "the number of ranks"
    return ""


def _now(asked: str) -> str:
    return "run.is_main or run.rank" if asked == "the rank" else "run.ranks"


def _size(project: Project, source: Source, node: ast.expr) -> bool:
    """Return True if an expression is the number of ranks."""
    if isinstance(node, ast.Constant):
        return False
    if isinstance(node, ast.Name) and node.id.lower() in ("world_size", "world", "num_gpus", "ngpus", "n_gpus"):
        return True
    given = [at for at in project.values(source, node) if not isinstance(at.node, ast.BinOp)]
    return any(_asked(project, *at) == "the number of ranks" for at in given)


def _is_read_inside(project: Project, source: Source, target: ast.expr) -> bool:
    name = source.dotted(target)
    scope = source.function_of(target)
    for node in source.nodes:
        if node in project.inside and isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            same = isinstance(target, ast.Attribute) or scope is None or scope in source.above(node)
            if same and source.dotted(node) == name:
                return True
    return False
