"""Split a job's global batch (samples per step) equally among its ranks, so that a step does not depend on their
number.

A script of a job with ``rescale: restart`` finds the numbers in environment variables. Always, number of ranks ×
`LOCAL_BATCH` × `ACCUMULATION` = `GLOBAL_BATCH`.
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
    """Work of each rank in a step: ``accumulation`` passes of ``local_batch`` samples."""

    local_batch: int
    accumulation: int


def rank_batch(global_batch: int, ranks: int, local_max: int | None = None) -> RankBatch | None:
    """Split the global batch equally among ranks, and each rank's part into the fewest equal passes.

    Args:
        global_batch: Samples per step over all ranks.
        ranks: Number of ranks.
        local_max: Most samples of one pass; None for no limit.

    Returns:
        The work of a rank; None if the global batch is not a multiple of the number of ranks.
    """
    if global_batch % ranks:
        return None
    share = global_batch // ranks
    passes = -(-share // (local_max or share))
    while share % passes:
        passes += 1
    return RankBatch(share // passes, passes)


def batch_environment(global_batch: int, ranks: int, local_max: int | None = None) -> dict[str, str]:
    """Return the environment variables that tell each rank its share of the global batch.

    If the global batch cannot be split equally, only the variable with the global batch is set.

    Args:
        global_batch, ranks, local_max: As in `rank_batch`.
    """
    told = {GLOBAL_BATCH: str(global_batch)}
    cut = rank_batch(global_batch, ranks, local_max)
    if cut is not None:
        told |= {LOCAL_BATCH: str(cut.local_batch), ACCUMULATION: str(cut.accumulation)}
    return told
