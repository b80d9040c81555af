"""Define the data between the controller and `Gangs`: desired states of jobs (`DesiredState`), and events.

A `Gangs` object reports each end of a job (`GangCompleted`, `GangFailed`, `Vacated`) once for each desired state. After
a restart of the controller, ends are reported again, because the first event may have been lost. So an event that comes
twice must do no harm.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from powerflow.api.job_spec import JobSpec
from powerflow.device.protocol import Place


@dataclass(frozen=True, slots=True)
class DesiredState:
    """The state that the controller wants one job to have from now on.

    Attributes:
        job_id: Id of the job.
        epoch: Rises by at least one with every change of the placement; an older desired state is ignored.
        spec: The job's specification.
        placement: Numbers of the job's GPUs on each node; empty: give all GPUs back.
        user: Login name that the ranks run as; "" means the login of the engine.
    """

    job_id: str
    epoch: int
    spec: JobSpec
    placement: tuple[tuple[str, tuple[int, ...]], ...]
    user: str = ""

    @property
    def grace_s(self) -> float:
        """Seconds that the job's ranks get, to save and leave, before they get a signal."""
        return self.spec.checkpoint.grace

    def slots(self) -> Iterator[Place]:
        """Yield the job's GPUs, one by one."""
        for node, gpus in self.placement:
            for gpu in gpus:
                yield node, gpu


@dataclass(frozen=True, slots=True)
class Limits:
    """Time limits of a gang, and its other limits.

    Attributes:
        hang_s: A rank hangs if all others wait for it while it is in one step for longer than ``hang_s`` and
            ``hang_steps`` average steps. Ranks also hang if they all wait in an all-reduce for this long. A process
            hangs if it uses no CPU time for ``hang_s`` seconds.
        hang_steps: A number of average steps; see ``hang_s``.
        between_s: A rank hangs if it is outside a step for this long, unless its job sets another limit.
        start_s: A rank hangs if it has not trained a step after this long (importing, building, compiling). A script
            hangs if its log shows no new step for this long and for ``hang_steps`` times its longest step.
        grace_s: Most seconds to save and leave that a job may ask for; see `DesiredState.grace_s`.
        kill_s: Seconds from SIGTERM to SIGKILL for a rank that has already had its time to save.
        settle_s: Seconds to wait after a rank is lost, because others may end too; then the rest form a new group.
        rejoin_s: If all ranks live but have not formed a group after this long, the group is formed anew.
        meet_s: If the ranks of a script are not connected after this long, each is assumed to run the whole script.
        calm_s: After a node answers again, wait this long for others to answer, before their ranks are given up.
        reach_s: If a rank of a script has not answered for this long, the other ranks are stopped: they wait for it.
        losses: How often a job may lose ranks without training a step in between; the next loss fails the job.
        transit_poll_s, steady_poll_s: Seconds between two looks at a gang while it changes, and while nothing happens.
        ended_kept: Number of logs of ended ranks to keep for each job; half of them are for first ranks of starts.
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
    calm_s: float = 5.0
    reach_s: float = 60.0
    losses: int = 3
    transit_poll_s: float = 0.1
    steady_poll_s: float = 0.5
    ended_kept: int = 32


@dataclass(frozen=True, slots=True)
class Started:
    """Event: all ranks train that the controller wanted in this epoch (placement of the job)."""

    job_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Vacated:
    """Event: the job holds no GPU any more, as the controller asked.

    ``steps_safe``: steps that the job's checkpoint holds; None if only the script knows.
    """

    job_id: str
    epoch: int
    steps_safe: int | None


@dataclass(frozen=True, slots=True)
class Progressed:
    """Event: steps were trained.

    Attributes:
        step: Steps done, over all epochs.
        steps_total: Steps of the whole run, None while unknown.
        generation: Number of the group of ranks (for scripts: of the launch). Timing begins anew in each.
        gpus, nodes: Numbers of GPUs and of nodes that the job trains on now.
        timed_steps, timed_s: Steps of this generation, and the seconds that these steps took.
        samples: Samples trained so far; 0 if unknown.
        local_batch, accumulation, global_batch: Samples per pass and GPU, passes per step, samples per step; 0, 1, 0
            if unknown.
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
    """Event: a gang trained on ``gpus_before`` GPUs, and now trains on ``gpus`` GPUs after a pause of ``pause_s`` s.

    ``gpus_before`` equals ``gpus`` if a lost rank was replaced, or if a script was started again on other GPUs. The
    pause of a script lasts from SIGTERM to the first step. If the script's log shows no steps, it lasts to the new
    launch. The pause of an in-place job that kept no rank begins when its ranks are told to leave.
    """

    job_id: str
    pause_s: float
    gpus_before: int
    gpus: int


@dataclass(frozen=True, slots=True)
class Continued:
    """Event: a script was launched again, and its log shows the first step.

    ``went_on`` is True if the script continued from its checkpoint, False if it began again.
    """

    job_id: str
    step: int
    went_on: bool


@dataclass(frozen=True, slots=True)
class RankLost:
    """Event: a rank ended unexpectedly, and will be replaced.

    ``code``: exit code of the rank (−N: signal N), None if unknown.
    """

    job_id: str
    rank: str
    code: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Hung:
    """Event: a rank hangs and is killed. `RankLost` follows when the rank has ended.

    ``what``: the activity of the rank, and its duration.
    """

    job_id: str
    rank: str
    what: str = "did nothing"


@dataclass(frozen=True, slots=True)
class GangCompleted:
    """Event: all work of a job is done, and no process of the job runs.

    ``steps``: number of trained steps, None if unknown. ``note``: message for the job's owner.
    """

    job_id: str
    steps: int | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class GangFailed:
    """Event: a job has failed, and no process of the job runs. The controller decides whether to try again.

    Attributes:
        code: Exit code of the rank that failed first; None if there is no exit code.
        text: The reason of the failure, in one line.
        last_lines: Last lines in the log of the rank that failed first.
        steps_safe: Steps that the job's checkpoint holds; None if only the script knows.
        final: True if the job must not be tried again, because it would fail in the same way again.
        excused: True if the failure is not the job's fault. Such a failure does not count against ``retries``.
        places: Node and GPUs of each rank when the job failed; the job may have got other GPUs since.
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
    """Event: a message for the job's owner. It becomes an entry of type ``kind`` in the job's history."""

    job_id: str
    kind: str
    text: str


GangEvent = Started | Vacated | Progressed | Rescaled | Continued | RankLost | Hung | GangCompleted | GangFailed | Noted


def backoff_s(retry: int) -> float:
    """Return the seconds to wait before a retry: 1 s before the first, doubled for each further one, at most 300 s.

    Args:
        retry: Number of the retry; 1 for the first.
    """
    return float(min(300.0, 2.0 ** min(max(retry - 1, 0), 60)))
