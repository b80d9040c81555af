"""Plain data between the controller and `Gangs`: what a job shall have (`DesiredState`), and what happened to it.

Within one `Gangs` object each end (`GangCompleted`, `GangFailed`, `Vacated`) is told once for each desired state. After
a restart of the controller ends are told again, because the event may have been lost: an event that comes twice must do
no harm.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from powerflow.api.job_spec import JobSpec
from powerflow.device.protocol import Place


@dataclass(frozen=True, slots=True)
class DesiredState:
    """What one job shall have from now on.

    Attributes:
        job_id: The job.
        epoch: Rises by at least one with every change of the placement; an older desired state is ignored.
        spec: What to run.
        placement: Numbers of its GPUs on each node; empty: give all GPUs back.
        user: Login name to run as; "" means the engine's own.
    """

    job_id: str
    epoch: int
    spec: JobSpec
    placement: tuple[tuple[str, tuple[int, ...]], ...]
    user: str = ""

    @property
    def grace_s(self) -> float:
        """Seconds that its ranks have to save and leave before they get a signal."""
        return self.spec.checkpoint.grace

    def slots(self) -> Iterator[Place]:
        """Yield its GPUs, one by one."""
        for node, gpus in self.placement:
            for gpu in gpus:
                yield node, gpu


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a gang waits, and how often it tries, before it acts.

    Attributes:
        hang_s: A rank hangs if it is in one step for longer than this and than ``hang_steps`` steps while all others
            wait for it; so do ranks that all wait in an all-reduce, and a process that uses no CPU for this long.
        hang_steps: A number of average steps; see ``hang_s``.
        between_s: A rank hangs if it is outside a step for this long, unless its job sets another limit.
        start_s: A rank hangs if it has not trained a step after this long (importing, building, compiling). So does a
            script whose log shows no new step for this long and for ``hang_steps`` times its longest step.
        grace_s: Most seconds that a job may ask for to save and leave; see `DesiredState.grace_s`.
        kill_s: Seconds from SIGTERM to SIGKILL for a rank that has already had its grace.
        settle_s: Seconds that peers of a lost rank have to end too, before the others form a new group.
        rejoin_s: A group that could not be formed, though all its ranks live, is formed anew after this long.
        meet_s: Ranks of a script that are not connected after this long each run the whole script.
        losses: How often ranks may be lost without a step trained in between; after one more the job has failed.
        transit_poll_s, steady_poll_s: Seconds between two looks while a gang changes, and while nothing happens.
        ended_kept: Logs of ended ranks that are kept for each job.
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
    """All ranks train that the desired state of this epoch asks for."""

    job_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Vacated:
    """The job holds no GPU any more, as the controller asked.

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
        generation: Group of ranks that trained them; for scripts, the launch. Timing begins anew with each.
        gpus, nodes: GPUs and nodes it trains on now.
        timed_steps, timed_s: Steps of this generation, and the seconds they took.
        samples: Samples trained so far; 0 where unknown.
        local_batch, accumulation, global_batch: Samples per pass and GPU, passes per step, samples per step; 0, 1, 0
            where unknown.
    """

    job_id: str
    step: int
    steps_total: int | None
    generation: int
    gpus: int
    nodes: int
    timed_steps: int
    timed_s: float
    samples: int = 0
    local_batch: int = 0
    accumulation: int = 1
    global_batch: int = 0


@dataclass(frozen=True, slots=True)
class Rescaled:
    """A gang that trained on ``gpus_before`` trains on ``gpus`` now; its ranks stood still for ``pause_s``.

    ``gpus_before`` equals ``gpus`` where a lost rank was replaced, or a script was started again on other GPUs. The
    pause of a script is the time from SIGTERM to the first step, or to the new launch if its log shows no steps. The
    pause of an in-place job that kept no rank begins when its ranks are told to leave.
    """

    job_id: str
    pause_s: float
    gpus_before: int
    gpus: int


@dataclass(frozen=True, slots=True)
class Continued:
    """The log of a script that was launched again shows its first step: it went on, or has begun again."""

    job_id: str
    step: int
    went_on: bool


@dataclass(frozen=True, slots=True)
class RankLost:
    """A rank ended unexpectedly, and will be replaced. ``code``: exit code (−N: signal N), None where unknown."""

    job_id: str
    rank: str
    code: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Hung:
    """A rank hangs and is killed; ``what``: what it did, and for how long. `RankLost` follows when it has ended."""

    job_id: str
    rank: str
    what: str = "did nothing"


@dataclass(frozen=True, slots=True)
class GangCompleted:
    """All work is done, and no process runs. ``steps``: None where unknown; ``note``: what its owner should know."""

    job_id: str
    steps: int | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class GangFailed:
    """The job has failed, and no process runs. The controller decides whether to try again.

    Attributes:
        code: Exit code of the rank that failed first; None where there is none.
        text: What went wrong, in one line.
        last_lines: End of the log of that rank.
        steps_safe: Steps that its checkpoint holds; None where only the script knows.
        final: It would fail in the same way again, so it must not be tried again.
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
    """Something that the owner of a job should know. ``kind``: the kind of event in the job's history."""

    job_id: str
    kind: str
    text: str


GangEvent = Started | Vacated | Progressed | Rescaled | Continued | RankLost | Hung | GangCompleted | GangFailed | Noted


def backoff_s(attempt: int) -> float:
    """Return the seconds to wait before the given attempt (1: the first retry): 1 s, doubled up to 300 s."""
    return float(min(300.0, 2.0 ** min(max(attempt - 1, 0), 60)))
