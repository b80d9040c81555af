"""Refuse scripts that cannot be rescaled in place, because they shard their state or open a process group."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from types import TracebackType
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from powerflow.elastic.group import lost_peer
from powerflow.errors import InputError

#: Advice to a user whose script cannot be rescaled in place.
RESTART = "use rescale: restart, without powerflow.elastic"
#: Classes that keep a part of the state on each rank, and where they come from.
_SHARDED = {
    "FSDPModule": "FSDP",
    "FullyShardedDataParallel": "FSDP",
    "DTensor": "a DTensor (FSDP, tensor parallelism)",
    "ShardedDataParallel": "fairscale's ShardedDataParallel",
    "OSS": "fairscale's OSS",
    "ZeroRedundancyOptimizer": "ZeRO",
    "DistributedFusedAdam": "apex's DistributedFusedAdam",
    "DistributedOptimizer": "a distributed optimiser",
}


def refuse_sharded(model: nn.Module, others: Iterable[Any]) -> None:
    """Raise an error if the model or an optimiser does not have its whole state on each rank.

    Raises:
        InputError: The model or another object uses FSDP, ZeRO, DeepSpeed or similar, or the model is wrapped by DDP
            already.
    """
    if isinstance(model, DistributedDataParallel):
        raise InputError("the model is wrapped by DDP already", where="run.wrap", fix="give the model itself")
    for thing in (*model.modules(), *model.parameters(), *others):
        name = _sharded(type(thing))
        if name:
            raise InputError(
                f"{name} keeps a part of the state on each rank, which cannot be rescaled in place",
                where="run.wrap",
                fix=RESTART,
            )


def _sharded(kind: type) -> str:
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] == "deepspeed":
            return "DeepSpeed"
        if base.__name__ in _SHARDED:
            return _SHARDED[base.__name__]
    return ""


def refuse_strangers(model: nn.Module, others: Iterable[Any]) -> None:
    """Raise an error if an optimiser trains parameters that are not in the model.

    The gradients of such parameters would differ between ranks.

    Raises:
        InputError: An optimiser among ``others`` trains such parameters.
    """
    ours = {id(parameter) for parameter in model.parameters()}
    for thing in others:
        if isinstance(thing, Optimizer):
            trained = [p for entry in thing.param_groups for p in entry["params"] if p.requires_grad]
            if strangers := sum(id(parameter) not in ours for parameter in trained):
                raise InputError(
                    f"{type(thing).__name__} trains {strangers} parameters that the model given to run.wrap does not"
                    " have: ranks would not share their gradients",
                    where="run.wrap",
                    fix="put all modules that are trained together into one, such as nn.ModuleList([model, loss])",
                )


def refuse_own_group() -> None:
    """Raise an error if the script has opened a process group itself.

    Raises:
        InputError: A process group is open.
    """
    if dist.is_available() and dist.is_initialized():
        raise own_group()


def own_group(said: str = "") -> InputError:
    """Return the error for a script that opens a process group itself.

    Args:
        said: Torch's error message, which is added to the text; "" for none.
    """
    return InputError(
        "the script opens a process group itself, but in an in-place job PowerFlow opens the process group",
        fix=f"for FSDP, ZeRO or DeepSpeed {RESTART}; for plain DDP remove this call: run.rank and run.ranks are known"
        " from the start" + (f" (torch: {said})" if said else ""),
    )


def explain(error: BaseException, trace: TracebackType | None, *, in_place: bool) -> InputError | None:
    """Return the refusal for an error that comes from a script's own use of torch.distributed or of torchrun.

    Args:
        error: The error that ended the script.
        trace: Its traceback.
        in_place: True if PowerFlow started the script.

    Returns:
        The refusal; None for any other error. Its exit code is 1 if another start may succeed.
    """
    if isinstance(error, KeyError) and error.args and error.args[0] in _OF_TORCHRUN:
        return InputError(
            f"the environment variable {error.args[0]} is set only by torchrun",
            fix="use run.device, run.local_rank, run.rank and run.ranks",
        )
    frames = traceback.extract_tb(trace)
    inside = [frame.name for frame in frames if "/torch/distributed/" in frame.filename]
    said = " ".join(str(error).split())[:160]
    if "init_process_group" in inside and "twice" in said:
        return InputError(
            "the process group is open already", fix="remove this call: elastic.init has opened the group"
        )
    if not in_place:
        return None
    if "init_process_group" in inside or any("/deepspeed/" in frame.filename for frame in frames):
        return own_group(said)
    if inside and "process group has not been init" in said:
        return InputError(
            "this needs a process group, but the ranks of an in-place job have none before the first epoch: new ranks"
            " come here while the others train",
            fix="use run.rank, run.ranks and run.wrap, and call collectives inside `for epoch in run.epochs(…)`; for"
            f" FSDP, ZeRO or DeepSpeed {RESTART}",
        )
    if inside and isinstance(error, RuntimeError) and lost_peer(error):
        return InputError(
            f"another rank was lost during a collective that the script calls itself ({said})",
            fix="the run continues on the ranks that are left, or from its last checkpoint",
            exit_code=1,
        )
    return None


#: Environment variables that a script started by torchrun reads.
_OF_TORCHRUN = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
