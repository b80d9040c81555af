"""Answer what the API may ask, from the store and from the loop's latest snapshot.

Asking never waits for the loop: what changes something is written to the store, and the loop is told.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from powerflow.api.governance import (
    AuditRecord,
    BudgetOrder,
    BudgetRecord,
    CapOrder,
    CapRecord,
    ModeOrder,
    ModeRecord,
    SavingsRecord,
    SignalOrder,
    SignalRecord,
    audited,
)
from powerflow.api.job_spec import USUAL_GRACE_S, JobSpec
from powerflow.api.records import (
    Accounts,
    Caller,
    DecisionRecord,
    EventRecord,
    Explanation,
    Forbidden,
    GpuRecord,
    JobDetail,
    JobOption,
    JobRecord,
    JobState,
    LogChunk,
    NodeRecord,
    NotFound,
    Page,
    Refused,
    Role,
    Top,
    Unavailable,
)
from powerflow.energy.kinds import Kind
from powerflow.engine.protocol import EngineError
from powerflow.live.controller import Controller
from powerflow.live.gpus.wanted import check_gpus
from powerflow.live.jobs.active_job import ActiveJob
from powerflow.live.jobs.options import JobPrices, option, options
from powerflow.store.accounting import priced
from powerflow.store.models import StoredJob

#: Jobs of one user that have not ended.
MOST_ACTIVE = 10_000
#: Jobs that `ClusterService.top` lists.
TOP_JOBS = 200
#: Ranks that are named to who asks for one that there is not.
_NAMED = 8


def _anybody(user: str, directory: str | None) -> str:
    return ""


class ClusterService:
    """The `powerflow.api.cluster_api.ClusterApi` of a controller.

    Args:
        controller: Whose.
        may_run: Says in words why jobs of a user cannot be run here, in a directory (None: one of their own); "" if
            they can.
        left_out: GPUs of this machine that cannot be used, and why.
    """

    def __init__(
        self,
        controller: Controller,
        may_run: Callable[[str, str | None], str] = _anybody,
        left_out: Sequence[str] = (),
    ) -> None:
        self._controller = controller
        self._left_out = tuple(left_out)
        self._signals = controller.rules.signals
        self._store = controller.store
        self._scheduler = controller.scheduler
        self._may_run = may_run

    # -- jobs -----------------------------------------------------------------------------------------------------

    def submit(self, spec: JobSpec, caller: Caller, key: str | None = None) -> tuple[JobRecord, bool]:
        """See `ClusterApi`."""
        self._check(spec, caller)
        if key is None or not self._store.knows_key(caller.user, key):
            self._check_crowd(caller.user)
        job, created = self._store.submit(spec, caller.user, self._controller.clock(), key, caller.address)
        if created:
            self._controller.tell("submitted", job.id)
        return self._record(job), created

    def jobs(
        self,
        *,
        states: Sequence[JobState] = (),
        user: str | None = None,
        project: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[JobRecord]:
        """See `ClusterApi`."""
        page = self._store.jobs(states, user, project, after, limit)
        return Page([self._record(job) for job in page.items], page.next)

    def job(self, job_id: str) -> JobDetail:
        """See `ClusterApi`."""
        job = self._store.job(job_id)
        entry = self._controller.snapshot.get(job_id)
        held = {node: list(gpus) for node, gpus in entry.placement} if entry else {}
        ranks = self._controller.gangs.standing(job_id)
        return JobDetail(self._record(job), job.spec, held, ranks, job.last_lines)

    def cancel(self, job_id: str, caller: Caller) -> JobRecord:
        """See `ClusterApi`."""
        return self._change(job_id, caller, JobState.CANCELLED, "ended", "cancelled")

    def hold(self, job_id: str, caller: Caller) -> JobRecord:
        """See `ClusterApi`."""
        return self._change(job_id, caller, JobState.HELD, "held", "held")

    def release(self, job_id: str, caller: Caller) -> JobRecord:
        """See `ClusterApi`."""
        job = self._own(job_id, caller)
        if job.state is not JobState.HELD:
            raise Refused(f"job {job_id} is {job.state.value}, not held")
        return self._change(job_id, caller, JobState.QUEUED, "released", "released")

    def explain(self, job_id: str) -> Explanation:
        """See `ClusterApi`."""
        job = self._store.job(job_id)
        price = self._scheduler.energy_price
        entry = self._controller.snapshot.get(job_id)
        if entry is None or not entry.known:
            sentence = job.exit or (entry.reason if entry else job.reason) or job.state.value
            return Explanation(job_id, sentence, job.state.value, None, 0.0, price, None, ())
        pool = self._scheduler.pools[entry.gpu_type or next(iter(self._scheduler.pools))]
        table = self._controller.learning.table(entry.kind.name, pool.gpu_type)
        price += self._scheduler.energy.by_project.get(entry.spec.project, 0.0)
        prices = JobPrices(entry.job(1.0).weight, price, entry.gpu_price, pool.gpu_idle_w)
        now = option(table, pool.axes, entry.gpus, entry.clock_mhz, prices) if entry.placement else None
        best = options(table, pool.axes, prices, runs_on=entry.spec.gpus.runs_on)
        sentence = entry.reason
        if entry.explore_mhz:
            sentence += f" (tries clocks: {', '.join(f'{mhz:.0f}' for mhz in entry.explore_mhz)} MHz)"
        said = Explanation(job_id, sentence, entry.why, entry.decided_s, entry.gpu_price, price, now, best)
        insight = self._controller.inquire(job_id)
        if insight is not None:
            start_s, due_s = insight.start_s, self._controller.next_decision_s
            if start_s is not None and math.isfinite(due_s):  # before it, no running job makes room
                start_s = max(start_s, due_s)
            said = replace(said, binds=insight.binds, otherwise=insight.otherwise, start_s=start_s)
        return self._foretold(said, entry, pool.gpu_type, best)

    def log(self, job_id: str, *, rank: str | None = None, offset: int = 0, limit: int = 65536) -> LogChunk:
        """See `ClusterApi`."""
        job = self._store.job(job_id)
        gangs = self._controller.gangs
        names = gangs.ranks(job_id)
        if rank is not None and rank not in names:
            raise NotFound(f"job {job_id} has no rank {rank}", fix=f"it has {_some(names)}" if names else "")
        if not names:
            return LogChunk(rank or "", "", max(offset, 0), job.state.ended)
        chosen = rank or names[0]
        try:
            content, end = gangs.log(job_id, chosen, offset, limit)
        except KeyError:  # named, but not launched yet
            return LogChunk(chosen, "", max(offset, 0), job.state.ended)
        except EngineError as error:
            raise Unavailable(str(error)) from error
        ended = job.state.ended and len(content) < limit
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(content, final=ended)
        return LogChunk(chosen, text, end - len(decoder.getstate()[0]), ended)

    # -- the cluster ----------------------------------------------------------------------------------------------

    def events(self, *, after: int = 0, job_id: str | None = None, limit: int = 100) -> Page[EventRecord]:
        """See `ClusterApi`."""
        if job_id is not None:
            self._store.job(job_id)
        return self._store.events(after, job_id, limit)

    def nodes(self) -> Sequence[NodeRecord]:
        """See `ClusterApi`."""
        return [self._node(name) for name in self._controller.power.node_names()]

    def drain(self, node: str, caller: Caller, reason: str) -> NodeRecord:
        """See `ClusterApi`."""
        return self._set_node(node, caller, "drained", reason, "drained")

    def resume(self, node: str, caller: Caller) -> NodeRecord:
        """See `ClusterApi`."""
        return self._set_node(node, caller, "up", "", "resumed")

    def top(self) -> Top:
        """See `ClusterApi`."""
        controller, power = self._controller, self._controller.power
        first, counts = self._store.front((JobState.RUNNING, JobState.QUEUED, JobState.HELD), TOP_JOBS)
        metered_j, jobs_j, idle_j = power.totals_j()
        now_s = controller.clock()
        price = self._scheduler.energy_price
        return Top(
            time_s=now_s,
            gpus=power.gpu_count,
            gpus_busy=len(controller.gangs.holding()),
            power_w=power.power_w(),
            jobs_power_w=sum(entry.power_w for entry in controller.snapshot.values() if entry.placement),
            energy_j=metered_j,
            jobs_energy_j=jobs_j,
            idle_energy_j=idle_j,
            queued=counts[JobState.QUEUED],
            running=counts[JobState.RUNNING],
            held=counts[JobState.HELD],
            policy=self._scheduler.policy_name,
            energy_price=price,
            cap_w=_known(controller.governance.cap_w),
            watt_price=controller.governance.watt_price,
            budget=controller.rules.budgets.words(now_s),
            emulated=power.emulated,
            jobs=[self._record(job) for job in first],
            notices=sorted(self._notices(now_s)),
            next_decision_s=_known(controller.next_decision_s),
        )

    def caps(self) -> Sequence[CapRecord]:
        """See `ClusterApi`."""
        return self._controller.rules.caps.show(self._controller.clock())

    def cap_csv(self, number: int) -> str:
        """See `ClusterApi`."""
        return self._controller.rules.caps.csv(number)

    def set_cap(self, order: CapOrder, caller: Caller) -> CapRecord:
        """See `ClusterApi`."""
        _operator(caller, "set power caps")
        if not self._controller.rules.stages.anybody():
            raise Refused(
                "nobody's jobs are acted on: a power cap could not be kept", fix="powerflow mode enforce comes first"
            )
        record = self._controller.rules.caps.set(order, caller, self._controller.clock())
        self._controller.tell("caps", record.scope)
        return record

    def lift_cap(self, scope: str, caller: Caller) -> Sequence[CapRecord]:
        """See `ClusterApi`."""
        _operator(caller, "lift power caps")
        records = self._controller.rules.caps.lift(scope, caller, self._controller.clock())
        self._controller.tell("caps", scope)
        return records

    def _notices(self, now_s: float) -> set[str]:
        """What an operator should know, one line each."""
        controller = self._controller
        trouble = [controller.rules.savings.trouble] if controller.rules.savings.trouble else []
        of_loop = [*controller.notices.copy().values(), *controller.governance.notices]
        return {
            *of_loop,
            *controller.power.notices(),
            *controller.learning.costs_said(),
            *controller.rules.budgets.notices(now_s),
            *trouble,
        }

    def modes(self) -> Sequence[ModeRecord]:
        """See `ClusterApi`."""
        return self._controller.rules.stages.show(self._controller.clock())

    def savings(self) -> SavingsRecord | None:
        """See `ClusterApi`."""
        return self._controller.rules.savings.show()

    def set_mode(self, order: ModeOrder, caller: Caller) -> Sequence[ModeRecord]:
        """See `ClusterApi`."""
        _operator(caller, "say how far PowerFlow is let in")
        self._controller.rules.stages.set(order, caller, self._controller.clock())
        self._controller.tell("mode", "")  # before anything else can go wrong
        return self.modes()

    def decisions(self, job_id: str, *, after: int = 0, limit: int = 100) -> Page[DecisionRecord]:
        """See `ClusterApi`."""
        self._store.job(job_id)
        return self._store.decisions(job_id, after, limit)

    def budgets(self) -> Sequence[BudgetRecord]:
        """See `ClusterApi`."""
        return self._controller.rules.budgets.show(self._controller.clock())

    def set_budget(self, order: BudgetOrder, caller: Caller) -> BudgetRecord:
        """See `ClusterApi`."""
        _operator(caller, "set energy budgets")
        record = self._controller.rules.budgets.set(order, caller, self._controller.clock())
        self._controller.ring()
        return record

    def drop_budget(self, project: str, caller: Caller) -> BudgetRecord:
        """See `ClusterApi`."""
        _operator(caller, "drop energy budgets")
        record = self._controller.rules.budgets.drop(project, caller, self._controller.clock())
        self._controller.ring()
        return record

    def signals(self) -> Sequence[SignalRecord]:
        """See `ClusterApi`."""
        return self._signals.show(self._controller.clock())

    def set_signal(self, order: SignalOrder, caller: Caller) -> SignalRecord:
        """See `ClusterApi`."""
        _operator(caller, "set signals")
        return self._signals.set(order, caller, self._controller.clock())

    def drop_signal(self, kind: Kind, caller: Caller) -> SignalRecord:
        """See `ClusterApi`."""
        _operator(caller, "drop signals")
        return self._signals.drop(kind, caller, self._controller.clock())

    def audit(self, *, after: int = 0, limit: int = 100) -> Page[AuditRecord]:
        """See `ClusterApi`."""
        return self._store.audit(after, limit)

    def accounts(self, *, since_s: float, until_s: float, by: str) -> Accounts:
        """See `ClusterApi`."""
        items, signals = self._store.accounts(since_s, until_s, by), self._signals.signals()
        if not signals:
            return Accounts(items)
        return priced(items, self._store.hourly(since_s, until_s, by), signals)

    def healthy(self) -> Mapping[str, Any]:
        """See `ClusterApi`."""
        since_s = self._controller.clock() - self._controller.turned_s
        return {"ok": since_s < self._controller.settings.lease_s / 3, "since_turn_s": since_s}

    # -- inside ---------------------------------------------------------------------------------------------------

    def _foretold(self, said: Explanation, entry: ActiveJob, gpu_type: str, best: Sequence[JobOption]) -> Explanation:
        """An explanation with when the job is expected to end, and what it will have used."""
        if entry.placement:
            gpus, clock_mhz, from_s = entry.gpus, entry.clock_mhz, self._controller.clock()
        elif said.start_s is not None and best:
            gpus, clock_mhz, from_s = best[0].gpus, best[0].clock_mhz, said.start_s
        else:
            return said
        expected = self._controller.rules.chronicle.forecast(entry, gpu_type, gpus, clock_mhz, from_s)

        def at(jct_s: float | None) -> float | None:
            return None if jct_s is None else entry.submitted_s + jct_s

        return replace(
            said,
            end_s=at(expected.jct_s),
            end_low_s=at(expected.jct_low_s),
            end_high_s=at(expected.jct_high_s),
            energy_j=expected.energy_j,
            energy_low_j=expected.energy_low_j,
            energy_high_j=expected.energy_high_j,
        )

    def _check(self, spec: JobSpec, caller: Caller) -> None:
        """Refuse what can never run here."""
        if why := self._may_run(caller.user, spec.directory):
            raise Refused(why)
        most_s = self._controller.gangs.most_grace_s
        if (
            spec.checkpoint.grace > most_s and spec.checkpoint.grace != USUAL_GRACE_S
        ):  # who asked for nothing gets what there is
            raise Refused(
                f"checkpoint.grace is {spec.checkpoint.grace:g} s, the most here is {most_s:g} s",
                fix=f"ask for at most {most_s:g}s; an administrator sets it by serve --max-grace",
            )
        check_gpus(spec, self._scheduler.pools, self._controller.power.types)

    def _check_crowd(self, user: str) -> None:
        """Refuse a user who has very many jobs already: each of them takes time of every turn and every decision."""
        active = sum(entry.user == user for entry in self._controller.snapshot.values())
        if active >= MOST_ACTIVE:
            raise Refused(f"{user} has {active} jobs that have not ended", fix="cancel some, or wait until some have")

    def _own(self, job_id: str, caller: Caller) -> StoredJob:
        job = self._store.job(job_id)
        if caller.role is Role.VIEWER or (caller.role is Role.USER and caller.user != job.user):
            raise Forbidden(f"job {job_id} is of {job.user}", fix="its owner or an operator may change it")
        return job

    def _change(self, job_id: str, caller: Caller, to: JobState, news: str, reason: str) -> JobRecord:
        owner = self._own(job_id, caller).user
        by, now_s = f"{reason} by {caller.user}", self._controller.clock()
        exit = by if to.ended else ""
        asked = audited(caller, now_s, f"job {reason}", f"job {job_id}", {"owner": owner})
        job = self._store.move(job_id, to, now_s, reason=by, exit=exit, text=by, asked=asked)
        self._controller.tell(news, job_id)
        return self._record(job)

    def _set_node(self, node: str, caller: Caller, state: str, reason: str, news: str) -> NodeRecord:
        if node not in self._controller.power.node_names():
            raise NotFound(f"there is no node {node}")
        _operator(caller, "change nodes")
        self._store.set_node(node, state, reason, self._controller.clock(), caller.user, caller.address)
        self._controller.tell(news, node)
        return self._node(node)

    def _node(self, name: str) -> NodeRecord:
        controller = self._controller
        holding = controller.gangs.holding()
        stored = self._store.node_states().get(name)
        up = controller.nodes_up.get(name, False)  # the agent itself may not answer for long
        gpus = []
        power = controller.power
        for gpu, reading in power.readings(name):
            place = name, gpu.index
            read_locked = reading is not None and (gpu.emulated or power.keeper.holds([place]))
            gpus.append(
                GpuRecord(
                    index=gpu.index,
                    uuid=gpu.uuid,
                    job_id=holding.get(place),
                    power_w=_known(reading.power_w) if reading else None,
                    clock_mhz=_known(reading.clock_mhz) if reading else None,
                    locked_mhz=reading.locked_mhz if reading and read_locked else None,
                    utilisation=_known(reading.utilisation) if reading else None,
                    driver_index=getattr(gpu, "driver_index", None),
                    asked_mhz=power.keeper.asked_mhz(place),
                    out=power.health.why(place),
                )
            )
        state = "failed" if not up else stored.state if stored else "up"
        gpu_type, emulated = controller.power.node_kind(name)
        first = name == controller.power.node_names()[0]
        return NodeRecord(name, gpu_type, state, gpus, emulated, self._left_out if first else ())

    def _record(self, job: StoredJob) -> JobRecord:
        """A job as the store has it, and what the loop knows better while it is active."""
        stored = _stored(job, self._controller.power.emulated)
        entry = self._controller.snapshot.get(job.id)
        return stored if entry is None or job.state.ended else self._live(stored, entry)

    def _live(self, stored: JobRecord, entry: ActiveJob) -> JobRecord:
        total = entry.steps_total
        step_time_s = _known(entry.step_time_s)
        eta_s = None
        if total and step_time_s and entry.placement:
            eta_s = self._controller.turned_s + max(0.0, total - entry.steps) * step_time_s
        return replace(
            stored,
            started_s=entry.started_s or stored.started_s,
            gpus=entry.gpus,
            gpu_type=entry.gpu_type or None,
            clock_mhz=entry.clock_now_mhz if entry.placement else None,
            clock_read_mhz=self._controller.power.clock_of(stored.id) if entry.placement else None,
            nodes=tuple(node for node, _ in entry.placement),
            power_w=entry.power_w if entry.placement else None,
            energy_j=entry.energy_j,
            reason=entry.reason or stored.reason,
            steps=entry.steps,
            steps_total=total,
            progress=_progress(entry.steps, total),
            step_time_s=step_time_s,
            eta_s=eta_s,
            rescales=entry.rescales,
            attempts=entry.attempts,
            model_error=_known(entry.model_error),
        )


def _stored(job: StoredJob, emulated: bool) -> JobRecord:
    """A job as the store has it."""
    return JobRecord(
        id=job.id,
        name=job.spec.name or f"job-{job.id}",
        user=job.user,
        project=job.spec.project,
        state=job.state,
        priority=job.spec.priority,
        rescale=job.spec.rescale,
        submitted_s=job.submitted_s,
        started_s=job.started_s,
        ended_s=job.ended_s,
        gpus_asked=str(job.spec.gpus),
        energy_j=job.energy_j,
        reason=job.reason,
        steps=job.steps,
        steps_total=job.steps_total,
        progress=_progress(job.steps, job.steps_total),
        step_time_s=job.step_time_s,
        rescales=job.rescales,
        attempts=job.attempts,
        exit=job.exit,
        emulated=emulated,
    )


def _operator(caller: Caller, what: str) -> None:
    if caller.role is not Role.OPERATOR:
        raise Forbidden(f"only an operator may {what}")


def _progress(steps: float, total: float | None) -> float | None:
    return min(1.0, steps / total) if total else None


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _some(names: Sequence[str]) -> str:
    """So many names as a line can hold."""
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
