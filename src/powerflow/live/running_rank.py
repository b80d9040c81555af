"""Find the rank of a job that a user means, and say in one line why it has no processes now."""

from __future__ import annotations

from powerflow.api.records import JobState, NodeAway, NotFound, Refused
from powerflow.engine.protocol import RankState, RankStatus
from powerflow.gangs.manager import Gangs
from powerflow.store.models import StoredJob

#: What a user can do instead, by the state of the job.
_INSTEAD = {
    JobState.QUEUED: "powerflow explain {} says when it starts",
    JobState.HELD: "powerflow release {} lets it run again",
}
_AGAIN = "try again in a few seconds"


def running_rank(gangs: Gangs, job: StoredJob, which: str) -> RankStatus:
    """Return the state of a rank that runs.

    Args:
        gangs: The gangs of all jobs.
        job: The job.
        which: Number of the rank in its gang, from 0, or its name.

    Raises:
        Refused: The job does not run, or is between two placements.
        NotFound: The job has no such rank.
        NodeAway: The node of the rank does not answer.
    """
    if job.state is not JobState.RUNNING:
        state = "has ended" if job.state.ended else f"is {job.state.value}"
        fix = _INSTEAD.get(job.state, "powerflow logs {} shows what it has written")
        raise Refused(f"job {job.id} {state}, so it has no processes", fix=fix.format(job.id))
    names = gangs.members(job.id)
    if not names:
        raise Refused(f"job {job.id} is between two placements, so it has no processes now", fix=_AGAIN)
    name = _name(job.id, names, which)
    rank = gangs.rank_of(job.id, name)
    if rank is not None and rank.state is RankState.UNREACHABLE:
        raise NodeAway(f"node {rank.node}, on which rank {name} runs, does not answer", fix="try again when it answers")
    if rank is None or rank.state is not RankState.RUNNING:
        raise Refused(f"job {job.id} is being started or moved: rank {name} does not run now", fix=_AGAIN)
    return rank


def _name(job_id: str, names: list[str], which: str) -> str:
    if which in names:
        return which
    if not (which.isascii() and which.isdigit()):
        fix = f"powerflow describe {job_id} lists its ranks"
        raise NotFound(f"job {job_id} has no rank {which} that runs", fix=fix)
    if int(which) >= len(names):
        fix = f"its ranks are 0 to {len(names) - 1}" if len(names) > 1 else "it has rank 0 only"
        raise NotFound(f"job {job_id} has no rank {which}", fix=fix)
    return names[int(which)]
