"""Cut a job's global batch into equal passes of its ranks, so that a step takes as many samples on any number of ranks.

A script with ``rescale: restart`` finds the numbers in its environment, and multiplies out to the global batch with
them: ranks × `LOCAL_BATCH` × `ACCUMULATION` = `GLOBAL_BATCH`, exactly.
"""

from __future__ import annotations

from typing import NamedTuple

#: Samples per step over all ranks.
GLOBAL_BATCH = "POWERFLOW_GLOBAL_BATCH"
#: Samples of one pass of one rank.
LOCAL_BATCH = "POWERFLOW_LOCAL_BATCH"
#: Passes of one rank whose gradients make one step.
ACCUMULATION = "POWERFLOW_ACCUMULATION"


class RankBatch(NamedTuple):
    """What each rank does in a step: ``accumulation`` passes of ``local_batch`` samples."""

    local_batch: int
    accumulation: int


def rank_batch(global_batch: int, ranks: int, local_max: int | None = None) -> RankBatch | None:
    """Return the fewest equal passes per rank that make up the global batch; None where no equal ones do.

    Args:
        global_batch: Samples per step over all ranks.
        ranks: How many ranks there are.
        local_max: Most samples of one pass; None: no limit.
    """
    if global_batch % ranks:
        return None
    share = global_batch // ranks
    passes = -(-share // (local_max or share))
    while share % passes:
        passes += 1
    return RankBatch(share // passes, passes)


def batch_environment(global_batch: int, ranks: int, local_max: int | None = None) -> dict[str, str]:
    """Return the variables that tell ranks of their batch; only the global one where it cannot be cut evenly.

    Args:
        global_batch, ranks, local_max: As for `rank_batch`.
    """
    told = {GLOBAL_BATCH: str(global_batch)}
    cut = rank_batch(global_batch, ranks, local_max)
    if cut is not None:
        told |= {LOCAL_BATCH: str(cut.local_batch), ACCUMULATION: str(cut.accumulation)}
    return told
