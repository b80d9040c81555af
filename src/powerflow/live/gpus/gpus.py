"""Meter the GPUs of a live cluster for its jobs, and ask for clocks.

The machines read their GPUs themselves (`powerflow.agent.devices`). Their last reports are taken; none is waited for.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Mapping, Sequence

from powerflow.agent.work import GpuWork
from powerflow.api.governance import AuditRecord
from powerflow.api.records import NotFound
from powerflow.cost.catalogue import gpu_type
from powerflow.device.meter import MeanPower
from powerflow.device.protocol import DeviceError, Place, Reading
from powerflow.engine.devices import DeviceSource, Report, counters_of
from powerflow.live.gpus.health import GpuHealth
from powerflow.live.gpus.hosts import names_by_type
from powerflow.live.gpus.ledgers import Drawn, OpenCharges, job_of
from powerflow.live.gpus.limit_watch import LimitWatch
from powerflow.live.gpus.machines import ClusterGpu, Machine, Machines
from powerflow.live.gpus.readings import LastReadings, together
from powerflow.store.database import StoreError
from powerflow.store.models import Charge
from powerflow.store.store import Store

#: Setting in the store, followed by a machine's name: what was taken from its ledger.
LEDGER = "ledger "
#: Setting in the store: the cards' own power limits.
LIMITS = "power limits"

#: Jobs of which it is remembered whether they are in the store.
PAYERS_KEPT = 100_000

#: Seconds without a reading after which a machine's readings say nothing about the present.
OLD_S = 15.0


class ClusterGpus:
    """Meter all GPUs of one cluster and ask for their clocks.

    Only the controller's loop may use it, but other threads may read the last readings.

    Args:
        source: Reports of the machines, and the way to their GPUs.
        store: Keeps charges, and what was taken from each machine, so that no joule is lost between two controllers.
    """

    def __init__(self, source: DeviceSource, store: Store) -> None:
        self._source, self._store = source, store
        self._machines = Machines(source)
        self.health = GpuHealth(())
        self._limits = LimitWatch({})
        self._limits_stored: Mapping[str, float] = {}
        self._pays: dict[str, bool] = {}  # by job id: it is in the store
        self._news: frozenset[Place] = frozenset()  # GPUs of which `settle` has just taken readings
        self._seen = LastReadings()
        self._charges = OpenCharges()
        self._now_s = -math.inf
        self._enter()

    @property
    def emulated(self) -> bool:
        """True if GPUs of the cluster are emulated."""
        return any(gpu.emulated for gpu in self._machines.gpus.values())

    @property
    def types(self) -> Mapping[str, Collection[str]]:
        """Names of the GPUs in the words of their drivers, by GPU type."""
        return names_by_type(list(self._machines.gpus.values()))

    @property
    def gpu_count(self) -> int:
        """Number of GPUs in the cluster."""
        return len(self._machines.gpus)

    # -- joules ---------------------------------------------------------------------------------------------------

    def start(self, now_s: float) -> None:
        """Take the readings that are there. Energy is taken by the first `settle`, when the jobs are known."""
        self._charges = OpenCharges(self._store.charges.totals())
        self._limits = LimitWatch(self._store.get(LIMITS, {}))
        self._now_s = now_s
        self._enter()
        self._machines.look()
        self._take_readings([machine for machine in self._machines.by_name.values() if machine.report is not None])
        self._store_limits()

    def due(self) -> bool:
        """Return True if a machine has reported readings since the last `settle`."""
        self._machines.look()
        return self._machines.changed() or any(machine.has_news for machine in self._machines.by_name.values())

    def settle(self, now_s: float) -> Mapping[str, Drawn]:
        """Take the last report of each machine: its readings, and the energy that its ranks have drawn.

        Energy of ranks whose job is not in the store counts as idle. If processes of other people run on a GPU, the
        machine counts its energy as idle, because the job's part is not known.

        Returns:
            Joules and GPU-seconds by job, since the last call.

        Raises:
            StoreError: The store cannot be read. The next call takes what is missing.
        """
        self._enter()
        self._machines.look()
        machines = {name: machine for name, machine in self._machines.by_name.items() if machine.has_news}
        for machine in machines.values():
            self._ask_who_pays(machine)  # asks the store; after this nothing can fail
        charged: dict[str, Drawn] = {}
        self._now_s = now_s
        for name, machine in machines.items():
            assert machine.report is not None
            drawn = machine.ledger.take(machine.report["ledger"], lambda job: self._pays[job])
            since_s = machine.taken_s if math.isfinite(machine.taken_s) else now_s
            machine.taken_s, machine.taken_at = now_s, machine.report["at"]
            self._machines.unsaved[name] = machine.ledger
            for job, part in drawn.items():
                self._charges.add(Charge(since_s, now_s, "", job, part.energy_j, part.gpu_s))
                if job is not None:
                    before = charged.get(job, Drawn(0.0, 0.0))
                    charged[job] = Drawn(before.energy_j + part.energy_j, before.gpu_s + part.gpu_s)
        self._take_readings(list(machines.values()))
        return charged

    def _enter(self) -> None:
        """Take in machines that have come, and drop those that have gone, since the last call."""
        if self._machines.changed():
            self._machines.follow(lambda name: self._store.get(LEDGER + name))
            self.health.follow(gpu.place for gpu in self._machines.gpus.values())

    def _ask_who_pays(self, machine: Machine) -> None:
        """Find out which jobs of a machine's ledger are in the store."""
        assert machine.report is not None
        if len(self._pays) > PAYERS_KEPT:
            self._pays.clear()
        for _, _, rank, *_ in machine.report["ledger"]["rows"]:
            job = job_of(rank)
            if not job or job in self._pays:
                continue
            self._pays[job] = False
            with contextlib.suppress(NotFound):
                try:
                    self._store.job(job)
                except StoreError:
                    del self._pays[job]
                    raise
                self._pays[job] = True

    def save(self, store: Store) -> None:
        """Store the charges, and what was taken from each machine, together; then tell the machines.

        So no joule is lost or stored twice.
        """
        taken = {LEDGER + name: ledger.state() for name, ledger in self._machines.unsaved.items()}
        if self._charges.by_job:
            store.charges.add(list(self._charges.by_job.values()), taken)
            self._charges.by_job.clear()
        else:  # a new machine, of which nothing is charged yet
            for key, state in taken.items():
                store.put(key, state)
        self._machines.unsaved.clear()
        self._store_limits()
        for name, machine in self._machines.by_name.items():
            if machine.ledger.id:
                self._source.acknowledge(name, machine.ledger.id, machine.ledger.version, machine.noted)

    def clock_set(self, by_s: float) -> None:
        """Move the times of the last reports by ``by_s``, because the clock was set by this many seconds.

        Otherwise energy would be charged to an hour in which it was not drawn.
        """
        for machine in self._machines.by_name.values():
            machine.taken_s, machine.heard_s = machine.taken_s + by_s, machine.heard_s + by_s
            machine.read_s += by_s
        self._now_s += by_s

    def totals_j(self) -> tuple[float, float, float]:
        """Return the joules metered since the store was made: in all, of jobs, and of idle GPUs."""
        return self._charges.totals_j

    # -- clocks ---------------------------------------------------------------------------------------------------

    @property
    def settable(self) -> bool:
        """False if setting a clock was refused on at least one GPU."""
        return not any(report["refused"] for report in self._reports())

    def tune(self, now_s: float, wanted: Mapping[Place, float]) -> None:
        """Ask for the ``wanted`` clocks (MHz); all other GPUs, and those out of service, run at their own clocks."""
        self._now_s = now_s
        wishes: dict[str, dict[str, float]] = {name: {} for name in self._machines.by_name}
        out = self.health.out()
        for place, mhz in wanted.items():
            gpu = self._machines.gpus.get(place)
            if gpu is not None and place not in out:
                wishes[gpu.machine][gpu.uuid] = mhz
        for machine, clocks_mhz in wishes.items():
            self._source.want(machine, clocks_mhz)
        self._machines.look()

    def asked_mhz(self, place: Place) -> float | None:
        """Return the clock (MHz) that a GPU was asked for; None if no clock was asked for."""
        row = self._machines.row(place)
        return None if row is None else row["clock"]["asked_mhz"]

    def holds(self, place: Place) -> bool:
        """Return True if a reading has shown a GPU at the clock that it was asked for."""
        row = self._machines.row(place)
        return row is not None and bool(row["clock"]["holds"])

    def audit(self) -> None:
        """Write to the audit all clocks that were set and reset since the last call.

        Raises:
            StoreError: The store cannot be written. The next call writes what is missing.
        """
        for machine in self._machines.by_name.values():
            entries = machine.report["audit"] if machine.report is not None else ()
            new = [entry for entry in entries if entry[0] > machine.noted]
            records = [
                AuditRecord(0, self._now_s - age_s, "powerflow", "", action, f"{node}/{number}", fields)
                for _, age_s, uuid, action, fields in new
                for node, number in [self._machines.place.get(uuid, (uuid, 0))]
            ]
            if records:
                self._store.note(records)
                machine.noted = max(entry[0] for entry in new)

    def finish(self, *, give_back: bool) -> None:
        """Reset all clocks if ``give_back`` is True, that is, if no job continues to run.

        Otherwise the clocks stay until their lease ends.
        """
        if give_back:
            for machine in self._machines.by_name:
                self._source.want(machine, {})

    # -- readings ---------------------------------------------------------------------------------------------------

    def errors(self) -> Mapping[Place, DeviceError]:
        """Return the errors of the GPUs that did not answer at the last reading."""
        return self._seen.errors

    def last(self) -> Mapping[Place, Reading]:
        """Return the last reading of each GPU, without GPUs that did not answer."""
        return self._seen.readings

    def news(self) -> Collection[Place]:
        """Return the GPUs of which the last `settle` has taken a new reading or error."""
        return self._news

    def jobs_with_news(self) -> Collection[str]:
        """Return the jobs on these GPUs."""
        return self._seen.jobs_on(self._news)

    def work(self, place: Place) -> GpuWork | None:
        """Return the work that a GPU has done, as its machine counts it; None if it does not."""
        return GpuWork(*counters) if (counters := counters_of(self._machines.row(place) or {})) else None

    def strangers(self, place: Place) -> tuple[str, ...]:
        """Return the processes on a GPU that belong to no job, in words."""
        row = self._machines.row(place)
        return () if row is None else tuple(row["strangers"])

    def boots(self) -> Mapping[str, str]:
        """Return the id of the present boot of each machine that has reported."""
        return {name: str(m.report["boot"]) for name, m in self._machines.by_name.items() if m.report is not None}

    def gpus(self) -> Mapping[Place, ClusterGpu]:
        """Return all GPUs of the cluster."""
        return self._machines.gpus

    def disturbed(self) -> Collection[str]:
        """Return the jobs whose GPUs' readings do not show the job's own costs.

        The reasons are: processes of other people run on the GPUs, somebody has changed their power limit, their clocks
        are not as asked for, or their machine has not reported for some time.
        """
        strange = {*self.health.shared(), *self._limited()}
        for name in self._old():
            strange.update(gpu.place for gpu in self._machines.by_name[name].gpus)
        return self._seen.jobs_on(strange | self._seen.strays)

    # -- what is shown --------------------------------------------------------------------------------------------

    def notices(self) -> list[str]:
        """Return the problems of GPUs, one line each."""
        reports = self._reports()
        several = len(self._machines.by_name) > 1
        found = [f"{r['machine']}: {line}" if several else str(line) for r in reports for line in r["refused"]]
        found += [line for report in reports for line in report["notices"]]
        found += [
            f"GPU {number} of {node} is out of service: {why}" for (node, number), why in self.health.out().items()
        ]
        found += [
            f"GPU {number} of {node} is also used by {', '.join(who)}, which PowerFlow did not start: its energy is "
            "charged to nobody, and no costs are learned from it"
            for (node, number), who in self.health.shared().items()
        ]
        found += [
            f"GPU {number} of {node}: somebody set its power limit to {now_w:.0f} W (it was {own_w:.0f} W): until that "
            "is undone, no costs are learned from it"
            for (node, number), (own_w, now_w) in self._limited().items()
        ]
        found += [
            f"{name} has not reported for {seconds:.0f} s: its GPUs are shown as they were then, and the energy since "
            "then is charged when it reports again"
            for name, seconds in self._old().items()
        ]
        return list(dict.fromkeys(found))

    def watts_of(self, job: str) -> float:
        """Return the watts of a job's GPUs at the last reading; 0 if no power was read."""
        return self.power_of(job).watts

    def power_of(self, job: str) -> MeanPower:
        """Return the mean power (W) of a job's GPUs at the last readings; 0 W if not read.

        Its ``seconds`` say how long ago its period began.
        """
        return self._seen.power.get(job, MeanPower(0.0, 0.0))

    def clock_of(self, job: str) -> float | None:
        """Return the mean clock (MHz) of a job's GPUs at the last reading; None if no clock was read."""
        return self._seen.clock_mhz(job)

    def power_w(self) -> float:
        """Return the watts of all GPUs at the last reading."""
        return sum(self.gpu_watts().values())

    def gpu_watts(self) -> Mapping[Place, float]:
        """Return the watts of each GPU at the last reading, without GPUs that report none."""
        return self._seen.watts

    def idle_w(self) -> list[float]:
        """Return the idle watts of each GPU by the catalogue."""
        return [gpu_type(gpu.gpu_type).idle_w for gpu in self._machines.gpus.values()]

    def node_names(self) -> list[str]:
        """Return the names of all nodes."""
        return list(dict.fromkeys(node for node, _ in self._machines.gpus))

    def node_kind(self, node: str) -> tuple[str, bool]:
        """Return the GPU type of a node, and True if its GPUs are emulated; "" for a node that has gone."""
        found = [gpu for (name, _), gpu in self._machines.gpus.items() if name == node]
        return (found[0].gpu_type, found[0].emulated) if found else ("", False)

    def readings(self, node: str) -> list[tuple[ClusterGpu, Reading | None]]:
        """Return the GPUs of a node, each with its last reading."""
        gpus = self._machines.gpus.copy()
        return [(gpu, self._seen.readings.get(place)) for place, gpu in gpus.items() if place[0] == node]

    def read_s(self, machine: str) -> float:
        """Return when a machine took its last readings, Unix seconds; nan if none has come yet."""
        found = self._machines.by_name.get(machine)
        return math.nan if found is None else found.read_s

    # -- inside -----------------------------------------------------------------------------------------------------

    def _take_readings(self, machines: Sequence[Machine]) -> None:
        """Take new readings from some machines. Keep the last readings of all machines, and the power of each job."""
        for machine in machines:
            machine.heard_s = machine.read_s = self._now_s
            if machine.report is not None:
                machine.read_s -= float(machine.report["age_s"])
            machine.read()
            self._see_limits(machine)
        self._news = frozenset(gpu.place for machine in machines for gpu in machine.gpus)
        self._seen = together(machine.seen for machine in self._machines.by_name.values())

    def _see_limits(self, machine: Machine) -> None:
        assert machine.report is not None
        seen, uuids = machine.seen, {gpu.place: gpu.uuid for gpu in machine.gpus}
        readings = {uuids[place]: reading for place, reading in seen.readings.items()}
        if not machine.boot:  # this controller hears of it for the first time
            self._limits.begin(readings, [uuids[place] for place in seen.owners])
        machine.boot = str(machine.report["boot"])
        self._limits.look(readings)

    def _store_limits(self) -> None:
        limits = self._limits.state()
        if limits != self._limits_stored:
            self._store.put(LIMITS, limits)
            self._limits_stored = limits

    def _reports(self) -> list[Report]:
        return [machine.report for machine in self._machines.by_name.values() if machine.report is not None]

    def _limited(self) -> dict[Place, tuple[float, float]]:
        """Return the GPUs whose power limit somebody has changed: their own limit and the present one, watts."""
        places, changed = self._machines.place, self._limits.changed()
        return {places[uuid]: both for uuid, both in changed.items() if uuid in places}

    def _old(self) -> dict[str, float]:
        """Return the machines whose readings are old, each with their age in seconds."""
        ages_s = {name: self._now_s - machine.heard_s for name, machine in self._machines.by_name.items()}
        return {name: age_s for name, age_s in ages_s.items() if OLD_S < age_s < math.inf}
