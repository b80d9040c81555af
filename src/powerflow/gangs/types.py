"""Plain data between the controller and `Gangs`: what a job shall have (`DesiredState`), and what happened to it.

Within one `Gangs` object each end (`GangCompleted`, `GangFailed`, `Vacated`) is told once for a desired state. After a
restart of the controller what still holds is told again, because the last telling may have been lost: take events so
that hearing one twice does no harm.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from powerflow.api.job_spec import JobSpec

#: One GPU: its node, and its number there.
Slot = tuple[str, int]


@dataclass(frozen=True, slots=True)
class DesiredState:
    """What one job shall have from now on.

    Attributes:
        job_id: Which job.
        epoch: Rises by at least one with every other placement; an order older than one already known is ignored.
        spec: What to run.
        placement: By node, the numbers of its GPUs; empty: give everything back.
        user: Login name to run as; "" means the engine's own.
    """

    job_id: str
    epoch: int
    spec: JobSpec
    placement: tuple[tuple[str, tuple[int, ...]], ...]
    user: str = ""

    @property
    def grace_s(self) -> float:
        """Seconds that its ranks have to save and leave before they are made to."""
        return self.spec.checkpoint.grace

    def slots(self) -> Iterator[Slot]:
        """Its GPUs, one by one."""
        for node, gpus in self.placement:
            for gpu in gpus:
                yield node, gpu


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a gang waits, and how often it tries, before it does something about it.

    Attributes:
        hang_s: A rank that is in one step for longer than this and than ``hang_steps`` steps while all others wait for
            it hangs, and so do ranks that all wait in an all-reduce. One whose process stands still hangs after this.
        hang_steps: See there.
        between_s: A rank that is outside a step for so long hangs, unless its job says otherwise.
        start_s: A rank that has not trained a step after so long (importing, building, compiling) hangs. So does a
            script whose log has told no new step for so long, and for ``hang_steps`` times as long as it ever took.
        grace_s: Most seconds that a job may ask for to save and leave; see `DesiredState.grace_s`.
        kill_s: Seconds from SIGTERM to SIGKILL for a rank that has already had its grace.
        settle_s: Seconds that peers of a lost rank have to end too, before the gang is mended around the hole.
        rejoin_s: A group that could not be formed, though all its ranks live, is formed anew after so long.
        meet_s: Ranks of a script that have not met after so long each run the whole of it.
        losses: Ranks that may be lost without a step trained in between; one more and the job has failed.
        transit_poll_s, steady_poll_s: How often to look while a gang changes, and while all is quiet.
        ended_kept: Ended ranks of one job whose logs are kept.
    """

    hang_s: float = 60.0
    hang_steps: float = 20.0
    between_s: float = 1800.0
    start_s: float = 600.0
    grace_s: float = 600.0
    kill_s: float = 5.0
    settle_s: float = 2.0
    rejoin_s: float = 10.0
    meet_s: float = 120.0
    losses: int = 3
    transit_poll_s: float = 0.1
    steady_poll_s: float = 0.5
    ended_kept: int = 32


@dataclass(frozen=True, slots=True)
class Started:
    """All ranks that this order asks for train."""

    job_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Vacated:
    """The job holds no GPU any more, as it was asked.

    ``steps_safe``: steps that its checkpoint holds; None where only the script knows.
    """

    job_id: str
    epoch: int
    steps_safe: int | None


@dataclass(frozen=True, slots=True)
class Progressed:
    """Steps were trained.

    Attributes:
        step: Steps done, over all epochs.
        steps_total: Steps of the whole run, None while unknown.
        samples: Samples trained so far; 0 where unknown.
        generation: Which group of ranks trained them; for scripts, which launch. A new one, a new measurement.
        gpus, nodes: GPUs and nodes it trains on now.
        local_batch, accumulation, global_batch: Samples per pass and GPU, passes per step, samples per step; 0, 1, 0
            where unknown.
        timed_steps, timed_s: Steps of this generation, and the seconds they took.
    """

    job_id: str
    step: int
    steps_total: int | None
    samples: int
    generation: int
    gpus: int
    nodes: int
    local_batch: int
    accumulation: int
    global_batch: int
    timed_steps: int
    timed_s: float


@dataclass(frozen=True, slots=True)
class Rescaled:
    """A gang that trained on ``gpus_before`` trains on ``gpus`` now; its ranks stood still for ``pause_s``.

    ``gpus_before`` equals ``gpus`` where a lost rank was replaced, or a script was started again on other GPUs. The
    pause of a script is that from SIGTERM to the first step, or to the new launch where nothing tells of steps; that of
    an in-place job none of whose ranks lives on, from when they are told to leave.
    """

    job_id: str
    pause_s: float
    gpus_before: int
    gpus: int


@dataclass(frozen=True, slots=True)
class Continued:
    """A script that was launched again has told its first step: whether it went on, or has begun again."""

    job_id: str
    step: int
    went_on: bool


@dataclass(frozen=True, slots=True)
class RankLost:
    """A rank ended though it should not; the gang mends itself.

    ``code`` is its exit code (−N: signal N), None where the engine cannot tell.
    """

    job_id: str
    rank: str
    code: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Hung:
    """A rank hangs and is killed; ``what`` it did for how long. `RankLost` follows when it is gone."""

    job_id: str
    rank: str
    what: str = "did nothing"


@dataclass(frozen=True, slots=True)
class GangCompleted:
    """All work is done, and no process is left. ``steps``: None where unknown; ``note``: what its owner should know."""

    job_id: str
    steps: int | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class GangFailed:
    """The job ended badly, and no process is left; whether to try again is the controller's business.

    Where it is ``final`` it is not: it would end in the same way.

    Attributes:
        code: Exit code of the rank that failed first; None where there is none to tell.
        text: What went wrong, in one line.
        last_lines: End of the log of that rank.
        steps_safe: Steps that its checkpoint holds; None where only the script knows.
        excused: It is no fault of the job's, and costs it no attempt.
        places: Node and GPUs of each rank that failed; the job may have been given others since.
    """

    job_id: str
    epoch: int
    code: int | None
    text: str
    last_lines: tuple[str, ...]
    steps_safe: int | None
    final: bool = False
    excused: bool = False
    places: tuple[tuple[str, tuple[int, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class Noted:
    """Something that the owner of a job should know. ``kind``: of the event that tells it."""

    job_id: str
    kind: str
    text: str


GangEvent = Started | Vacated | Progressed | Rescaled | Continued | RankLost | Hung | GangCompleted | GangFailed | Noted


def backoff_s(attempt: int, first_s: float = 1.0, most_s: float = 300.0) -> float:
    """Seconds to wait before the given attempt (1 is the first retry): doubles each time, up to a most."""
    return float(min(most_s, first_s * 2.0 ** min(max(attempt - 1, 0), 60)))
