"""A cluster without a cluster: jobs in memory, with the rules of the real one. Tests move its jobs by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from powerflow.api.accounts import Accounts, EndedJob
from powerflow.api.bulk_answer import JobsChanged, NotChanged
from powerflow.api.decisions import DecisionRecord, Explanation, JobOption
from powerflow.api.governance import DrainOrder
from powerflow.api.job_array import read_array
from powerflow.api.job_change import JobChange, JobsOrder, changed
from powerflow.api.job_detail import JobDetail
from powerflow.api.job_spec import JobSpec
from powerflow.api.logs import JobLogs, LogChunk
from powerflow.api.pages import ALL_JOBS, EVERYTHING, JobFilter, NumberedPage, Page, RecordFilter
from powerflow.api.predictions import PredictionsRecord
from powerflow.api.recent import ClusterSample
from powerflow.api.records import (
    Caller,
    EventRecord,
    Forbidden,
    GpuRecord,
    JobRecord,
    JobState,
    NodeRecord,
    NotFound,
    NotSure,
    Refused,
    Role,
    Top,
    Unavailable,
)
from powerflow.errors import InputError
from powerflow.gangs.manager import Gangs
from powerflow.live.job_logs import LogPart, job_log, job_logs
from tests.service.fake_accounts import accounts, ended_job
from tests.service.fake_governance import FakeGovernance, feed
from tests.service.fake_logs import FakeLogs
from tests.service.fake_shells import FakeUserShells

CLOCK_MHZ = 1110.0
GPU_W = 201.0
IDLE_W = 50.0


class FakeCluster(FakeGovernance, FakeUserShells):
    """Two nodes of four emulated A100s, and whatever jobs were submitted."""

    def __init__(self, now_s: float = 1_790_000_000.0) -> None:
        super().__init__(now_s)
        self._jobs: dict[str, JobRecord] = {}
        self._specs: dict[str, JobSpec] = {}
        self._keys: dict[tuple[str, str], str] = {}
        self.logs_of_ranks = FakeLogs()
        FakeUserShells.__init__(self)
        self._events: list[EventRecord] = []
        self._nodes = dict.fromkeys(("n1", "n2"), "up")
        #: What jobs took, compared with predictions.
        self.predicted: PredictionsRecord | None = None
        #: Energy counters of GPUs by node and number, joules.
        self.counters_j: dict[tuple[str, int], float] = {}

    # --- what a test does to it -----------------------------------------------------------------------------------

    def change(self, job_id: str, **fields: Any) -> JobRecord:
        """Set fields of a job's record."""
        with self._lock:
            self._jobs[job_id] = replace(self._jobs[job_id], **fields)
            return self._jobs[job_id]

    def run(self, job_id: str, gpus: int = 1, node: str = "n1", **fields: Any) -> JobRecord:
        """Let a job run."""
        with self._lock:
            self._event("started", job_id, f"job {job_id} started on {gpus} GPUs")
            self.write(job_id, "")
            return self.change(
                job_id,
                **{
                    "state": JobState.RUNNING,
                    "started_s": self.now_s,
                    "gpus": gpus,
                    "gpu_type": "A100",
                    "clock_mhz": CLOCK_MHZ,
                    "clock_read_mhz": CLOCK_MHZ,
                    "nodes": (node,),
                    "power_w": GPU_W * gpus,
                    "reason": f"started on {gpus} GPUs at {CLOCK_MHZ:.0f} MHz",
                    "emulated": True,
                    **fields,
                },
            )

    def end(self, job_id: str, state: JobState = JobState.COMPLETED, exit: str = "completed") -> JobRecord:
        """Let a job end."""
        with self._lock:
            self._event(str(state), job_id, f"job {job_id} {exit}")
            return self._ended(job_id, state, exit)

    def write(self, job_id: str, text: str, rank: str = "") -> None:
        """Add to the log of a rank; of the job's newest one by default."""
        with self._lock:
            known = self.logs_of_ranks.ranks(job_id)
            chosen = rank or (known[0] if known else f"{job_id}.1.0")
            self.logs_of_ranks.write(job_id, chosen, text, self.now_s)

    def complete(self, job_id: str, **fields: Any) -> JobRecord:
        """Let a job that ran be cancelled, while its processes use their grace."""
        with self._lock:
            left = {"state": JobState.CANCELLED, "exit": "cancelled by ada", "completing": True}
            return self.change(job_id, **{**left, **fields})

    # --- Cluster -----------------------------------------------------------------------------------------------------

    def submit(self, spec: JobSpec, caller: Caller, key: str | None = None) -> tuple[JobRecord, bool]:
        with self._open():
            known = self._keys.get((caller.user, key)) if key else None
            if known is not None:
                if self._specs[known] != spec:
                    raise Refused("this key was used for another job", fix="use a new key")
                return self._jobs[known], False
            if spec.gpus.least > 8:
                raise Refused(f"no 8 GPUs can be {spec.gpus.least}", fix="ask for fewer")
            tasks = read_array(spec.array).tasks if spec.array else [None]
            first = str(len(self._jobs) + 1)
            for task in tasks:
                self._add(spec, caller, None if task is None else first, task)
            if key:
                self._keys[caller.user, key] = first
            return self._jobs[first], True

    def jobs(self, only: JobFilter = ALL_JOBS, *, after: str | None = None, limit: int = 100) -> Page[JobRecord]:
        with self._open():
            if after is not None and not after.isdecimal():
                raise InputError(f"{after!r} is not a page", where="after", fix="give a page's next")
            found = [
                job
                for job in reversed(self._jobs.values())
                if self._selects(only, job) and (after is None or int(job.id) < int(after))
            ]
            return Page(found[:limit], found[limit - 1].id if len(found) > limit else None)

    def history(
        self, since_s: float, until_s: float, only: JobFilter = ALL_JOBS, *, after: str | None = None, limit: int = 100
    ) -> Page[EndedJob]:
        with self._open():
            found = [
                job
                for job in self._jobs.values()
                if job.ended_s is not None and since_s <= job.ended_s <= until_s and self._selects(only, job)
            ]
            found.sort(key=lambda job: (-(job.ended_s or 0.0), -int(job.id)))
            if after is not None:
                known = [job.id for job in found]
                found = found[known.index(after) + 1 :] if after in known else []
            page = [ended_job(job, self._signals.get("tariff")) for job in found[:limit]]
            return Page(page, page[-1].id if len(found) > limit else None)

    def job(self, job_id: str) -> JobDetail:
        with self._open():
            record = self._known(job_id)
            held = {node: list(range(record.gpus)) for node in record.nodes}
            rank = {"name": f"{job_id}.1.0", "state": "running", "node": "n1", "pid": 4242, "code": None}
            content = self.log(job_id, offset=-200).text if record.state is JobState.FAILED else ""
            return JobDetail(
                record, self._specs[job_id], held, [rank] if record.nodes else [], content.splitlines()[-5:]
            )

    def cancel(self, job_id: str, caller: Caller) -> JobRecord:
        with self._open():
            record = self._own(job_id, caller)
            if record.state is JobState.CANCELLED:
                return record
            if record.state.ended:
                raise Refused(f"job {job_id} has {record.state}")
            self._event("cancelled", job_id, f"{caller.user} cancelled job {job_id}")
            return self._ended(job_id, JobState.CANCELLED, f"cancelled by {caller.user}")

    def change_jobs(self, order: JobsOrder, caller: Caller) -> JobsChanged:
        act = {"cancelled": self.cancel, "held": self.hold, "released": self.release}[order.to]
        done, refused = [], []
        for job_id in order.jobs:
            try:
                done.append(act(job_id, caller))
            except (Refused, NotFound) as error:
                refused.append(NotChanged(job_id, str(error), error.exit_code))
        return JobsChanged(done, refused)

    def update(self, job_id: str, change: JobChange, caller: Caller) -> JobRecord:
        with self._open():
            record = self._own(job_id, caller)
            if record.state.ended or (record.state is JobState.RUNNING and not change.may_run):
                raise Refused(f"job {job_id} is {record.state} and cannot be changed in this way")
            spec = self._specs[job_id] = changed(self._specs[job_id], change)
            self._event("updated", job_id, f"{caller.user} changed job {job_id}")
            fields = {"name": spec.name, "project": spec.project, "priority": spec.priority}
            return self.change(job_id, **fields, gpus_asked=str(spec.gpus), time_limit_s=spec.time_limit)

    def hold(self, job_id: str, caller: Caller) -> JobRecord:
        with self._open():
            if self._own(job_id, caller).state.ended:
                raise Refused(f"job {job_id} has ended")
            self._event("held", job_id, f"{caller.user} holds job {job_id}")
            return self.change(
                job_id, state=JobState.HELD, gpus=0, nodes=(), power_w=None, clock_mhz=None, reason="is held"
            )

    def release(self, job_id: str, caller: Caller) -> JobRecord:
        with self._open():
            if self._own(job_id, caller).state is not JobState.HELD:
                raise Refused(f"job {job_id} is not held")
            self._event("released", job_id, f"{caller.user} released job {job_id}")
            return self.change(job_id, state=JobState.QUEUED, reason="waits for GPUs")

    def explain(self, job_id: str) -> Explanation:
        with self._open():
            record = self._known(job_id)
            now = JobOption(record.gpus, CLOCK_MHZ, 0.112, GPU_W * record.gpus, 45.0) if record.gpus else None
            others = [JobOption(n, CLOCK_MHZ, 0.2 / n, GPU_W * n, 40.0 + n) for n in (1, 2, 4)]
            return Explanation(job_id, record.reason, "started", self.now_s, 0.41, 0.002, now, others)

    def logs(self, job_id: str) -> JobLogs:
        with self._open():
            return job_logs(cast(Gangs, self.logs_of_ranks), job_id, ended=self._known(job_id).state.ended)

    def log(
        self,
        job_id: str,
        *,
        rank: str | None = None,
        offset: int = 0,
        limit: int = 65536,
        tail: int | None = None,
        since_s: float | None = None,
    ) -> LogChunk:
        with self._open():
            ended, known = self._known(job_id).state.ended, self.logs_of_ranks.ranks(job_id)
            if rank is not None and rank not in known:
                raise NotFound(f"job {job_id} has no rank {rank}", fix=f"it has {', '.join(known)}")
            part = LogPart(offset, limit, tail, since_s)
            return job_log(cast(Gangs, self.logs_of_ranks), job_id, rank, part, ended=ended)

    def events(
        self, *, after: int = 0, limit: int = 100, only: RecordFilter = EVERYTHING, latest: bool = False
    ) -> NumberedPage[EventRecord]:
        with self._open():
            if only.job_id is not None:
                self._known(only.job_id)
            found = [
                event
                for event in self._events[after:]
                if only.job_id in (None, event.job_id)
                and only.user in (None, event.user)
                and only.node in (None, event.node)
                and (not only.kinds or event.kind in only.kinds)
                and (only.since_s or 0.0) <= event.time_s <= (only.until_s or math.inf)
            ]
            return feed(found[-limit:] if latest else found, after, limit)

    def nodes(self) -> Sequence[NodeRecord]:
        with self._open():
            return [self._node(name) for name in self._nodes]

    def drain(self, node: str, order: DrainOrder, caller: Caller) -> NodeRecord:
        running = [job.id for job in self._jobs.values() if node in job.nodes]
        if running and not order.sure:
            raise NotSure(f"job {running[0]} would be paused")
        return self._turn(node, caller, "drained", order.reason)

    def declare_off(self, node: str, caller: Caller, reason: str) -> NodeRecord:
        if node == "n2":
            raise Refused(f"node {node} answers, so it is not off", fix=f"powerflow node drain {node}")
        return self._turn(node, caller, "failed", reason)

    def resume(self, node: str, caller: Caller) -> NodeRecord:
        return self._turn(node, caller, "up", "")

    def top(self) -> Top:
        with self._open():
            count = {state: [job for job in self._jobs.values() if job.state is state] for state in JobState}
            running, queued = count[JobState.RUNNING], count[JobState.QUEUED]
            completing = [job for job in self._jobs.values() if job.completing]
            busy = sum(job.gpus for job in running)
            jobs_w = sum(job.power_w or 0.0 for job in running)
            jobs_j = sum(job.energy_j for job in self._jobs.values())
            return Top(
                time_s=self.now_s,
                gpus=8,
                gpus_busy=busy,
                power_w=jobs_w + (8 - busy) * IDLE_W,
                jobs_power_w=jobs_w,
                energy_j=jobs_j + 3.6e6,
                jobs_energy_j=jobs_j,
                idle_energy_j=3.6e6,
                queued=len(queued),
                running=len(running),
                held=len(count[JobState.HELD]),
                policy="prices",
                energy_price=0.002,
                budget="none",
                emulated=True,
                completing=len(completing),
                jobs=[*running, *completing, *queued],
                notices=["no right to set clocks on n2"],
                next_decision_s=self.now_s + 34.0,
            )

    def decisions(self, job_id: str, *, after: int = 0, limit: int = 100) -> NumberedPage[DecisionRecord]:
        with self._open():
            self._known(job_id)
            row = DecisionRecord(1, self.now_s, job_id, False, "started", "started on 2 GPUs", 2, CLOCK_MHZ)
            told = replace(
                row, number=2, would=True, why="would", reason="would run on 1 GPU", jct_s=90.0, energy_j=9e4
            )
            return feed([each for each in (row, told) if each.number > after], after, limit)

    def recent(self, *, after_s: float = 0.0) -> Sequence[ClusterSample]:
        with self._open():
            times_s = [self.now_s - 10.0 * ago for ago in range(30, -1, -1)]
            return [ClusterSample(at_s, 400.0, None, 0.41, 0.002) for at_s in times_s if at_s > after_s]

    def accounts(self, *, since_s: float, until_s: float, by: str) -> Accounts:
        with self._open():
            return accounts(self._jobs.values(), since_s, until_s, by, self._signals.get("tariff"))

    def predictions(
        self, *, since_s: float, until_s: float, project: str | None = None, user: str | None = None
    ) -> PredictionsRecord:
        with self._open():
            return self.predicted or PredictionsRecord(since_s, until_s, 0, 0, 0.0, 0.0, 0, None, None, 0, *[0.0] * 4)

    def healthy(self) -> Mapping[str, Any]:
        with self._lock:
            return {"ok": self.broken is None, "turn_age_s": 0.2, "decision_s": 0.013}

    # --- its rules ------------------------------------------------------------------------------------------------

    def _known(self, job_id: str) -> JobRecord:
        if job_id not in self._jobs:
            raise NotFound(f"there is no job {job_id}")
        return self._jobs[job_id]

    def _own(self, job_id: str, caller: Caller) -> JobRecord:
        record = self._known(job_id)
        if caller.role is not Role.OPERATOR and caller.user != record.user:
            raise Forbidden(f"job {job_id} belongs to {record.user}")
        return record

    def _add(self, spec: JobSpec, caller: Caller, array_id: str | None, task: int | None) -> None:
        record = JobRecord(
            id=str(len(self._jobs) + 1),
            name=spec.name if task is None else f"{spec.name}[{task}]",
            user=caller.user,
            project=spec.project,
            state=JobState.QUEUED,
            priority=spec.priority,
            rescale=spec.rescale,
            submitted_s=self.now_s,
            gpus_asked=str(spec.gpus),
            steps_total=spec.work.iterations if spec.work else None,
            reason="waits for GPUs",
            emulated=True,
            array_id=array_id,
            array_task=task,
        )
        self._jobs[record.id] = record
        self._specs[record.id] = spec
        self._event("submitted", record.id, f"{caller.user} submitted job {record.id}")

    def _selects(self, only: JobFilter, job: JobRecord) -> bool:
        given = {"user": only.user, "project": only.project}
        return (
            (job.state in (only.states or JobState) or (only.completing and job.completing))
            and all(value in (None, getattr(job, field)) for field, value in given.items())
            and only.name in (None, self._specs[job.id].name)
        )

    def _ended(self, job_id: str, state: JobState, exit: str) -> JobRecord:
        return self.change(
            job_id,
            state=state,
            completing=False,
            ended_s=self.now_s,
            gpus=0,
            nodes=(),
            power_w=None,
            clock_mhz=None,
            exit=exit,
        )

    def _turn(self, node: str, caller: Caller, state: str, reason: str) -> NodeRecord:
        with self._open():
            if node not in self._nodes:
                raise NotFound(f"there is no node {node}")
            self._nodes[node] = state
            self._event(state, None, f"{caller.user} turned {node} {state} {reason}".rstrip())
            return self._node(node)

    def _node(self, name: str) -> NodeRecord:
        held = [job.id for job in self._jobs.values() if job.nodes == (name,) for _ in range(job.gpus)]
        gpus = [
            GpuRecord(
                index=i,
                uuid=f"GPU-{name}-{i}",
                job_id=(held[i] if i < len(held) else None),
                power_w=GPU_W if i < len(held) else IDLE_W,
                clock_mhz=CLOCK_MHZ if i < len(held) else 210.0,
                locked_mhz=CLOCK_MHZ if i < len(held) else None,
                asked_mhz=CLOCK_MHZ if i < len(held) else None,
                utilisation=0.97 if i < len(held) else 0.0,
                energy_j=self.counters_j.get((name, i)),
                power_limit_w=400.0,
                read_s=self.now_s - 0.5,
            )
            for i in range(4)
        ]
        return NodeRecord(name, "A100", self._nodes[name], gpus, True)

    def _event(self, kind: str, job_id: str | None, text: str) -> None:
        self._events.append(EventRecord(len(self._events) + 1, self.now_s, kind, job_id, text))


UNAVAILABLE = Unavailable("the store is locked")
