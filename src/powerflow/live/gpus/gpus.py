"""Meter the GPUs of a live cluster for the jobs that hold them, and set the GPUs' clocks."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from powerflow.cost.catalogue import gpu_type
from powerflow.device.lease import Clocks
from powerflow.device.meter import MeanPower, Meter
from powerflow.device.protocol import DeviceError, Gpu, Place, Reading
from powerflow.live.gpus.clock_keeper import ClockKeeper
from powerflow.live.gpus.health import GpuHealth
from powerflow.live.gpus.hosts import names_by_type
from powerflow.live.gpus.limit_watch import LimitWatch
from powerflow.store.models import Charge
from powerflow.store.store import Store

#: Setting in the store: the meter's accounts.
METER = "meter"
#: Setting in the store: the cards' own power limits.
LIMITS = "power limits"


#: How often GPUs are read.
READ_S = 1.0


class ClusterGpus:
    """Meter all GPUs of one cluster and set their clocks.

    Only the controller's loop may use it, but other threads may read the last readings.

    Args:
        gpus: All GPUs of the cluster.
        clocks: Sets and resets the clocks of the GPUs.
        store: Keeps charges and the meter's accounts, so that no joule is lost between two controllers.
        refused: Messages about clocks that could not be set; ``clocks`` adds to them.
    """

    def __init__(self, gpus: Sequence[Gpu], clocks: Clocks, store: Store, refused: list[str]) -> None:
        self._gpus = {(gpu.node, gpu.index): gpu for gpu in gpus}
        self._place = {gpu.uuid: place for place, gpu in self._gpus.items()}
        self.keeper = ClockKeeper(self._gpus, clocks)
        self.health = GpuHealth(self._gpus)
        self._limits = LimitWatch({})
        self._store = store
        self._refused = refused
        self._found: dict[str, None] = {}  # what does not work, in order of appearance
        self._jumped: dict[Place, str] = {}  # the last jump of each counter
        self._meter = Meter(gpus)
        self._read_s = self._settled_s = -math.inf
        self._owners: dict[Place, str] = {}
        self._readings: dict[Place, Reading] = {}
        self._watts: dict[Place, float] = {}
        self._power: dict[str, MeanPower] = {}  # by job
        self._clock_mhz: dict[str, float] = {}
        self._charges: dict[str | None, Charge] = {}  # not stored yet, by the job that pays (None: idle)
        self._totals_j = (0.0, 0.0, 0.0)  # metered, jobs, idle
        self.emulated = any(gpu.emulated for gpu in gpus)
        self.types = names_by_type(gpus)
        self.gpu_count = len(gpus)

    # -- joules ---------------------------------------------------------------------------------------------------

    def start(self, now_s: float) -> None:
        """Restore the accounts of the last controller's meter."""
        state = self._store.get(METER)
        self._meter = Meter(list(self._gpus.values()), state)
        self._totals_j = self._store.charges.totals()
        accounts = state["accounts"] if state else {}
        owners_by_uuid = {uuid: account["owner"] for uuid, account in accounts.items() if uuid in self._place}
        owners = {self._place[uuid]: owner for uuid, owner in owners_by_uuid.items()}
        self._owners = {place: owner for place, owner in owners.items() if owner is not None}
        self.keeper.start()
        self._limits = LimitWatch(self._store.get(LIMITS, {}))
        self._meter.sample()
        self._limits.begin(self._meter.readings, [uuid for uuid, owner in owners_by_uuid.items() if owner is not None])
        self._store.put(LIMITS, self._limits.state())
        self._look()

    def due(self, now_s: float, holding: Mapping[Place, str]) -> bool:
        """Return True if the GPUs should be read now: the last reading is old, or a GPU got another job after it."""
        return now_s - self._read_s >= READ_S or holding != self._owners

    def settle(self, now_s: float, holding: Mapping[Place, str]) -> Mapping[str, tuple[float, float]]:
        """Read all GPUs, and charge the energy since the last call to the jobs that held the GPUs.

        From now on, each GPU is charged to its job in ``holding``. If processes of other people run on a GPU, its
        energy is charged to nobody, because the job's part is not known.

        Returns:
            Joules and GPU-seconds by job.
        """
        shared = self.health.shared()
        owners = {self._gpus[p].uuid: job for p, job in holding.items() if p in self._gpus and p not in shared}
        settled = self._meter.settle(now_s, owners)
        since_s = self._settled_s if math.isfinite(self._settled_s) else settled.since_s
        seconds = max(0.0, now_s - since_s)
        gpu_s = {job: count * seconds for job, count in Counter(self._owners.values()).items()}
        drawn_j = {job: mj / 1e3 for job, mj in settled.jobs_mj.items()}
        charged = {job: (drawn_j.get(job, 0.0), gpu_s.get(job, 0.0)) for job in drawn_j.keys() | gpu_s.keys()}
        for job, (energy_j, used_s) in charged.items():
            self._charge(Charge(since_s, now_s, "", job, energy_j, used_s))
        idle_j, idle_s = settled.idle_mj / 1e3, (self.gpu_count - len(self._owners)) * seconds
        self._charge(Charge(since_s, now_s, "", None, idle_j, idle_s))
        metered_j, jobs_j, all_idle_j = self._totals_j
        more_j = sum(drawn_j.values())
        self._totals_j = metered_j + more_j + idle_j, jobs_j + more_j, all_idle_j + idle_j
        self._owners = {place: job for place, job in holding.items() if place in self._gpus}
        self._read_s = self._settled_s = now_s
        self._look()
        return charged

    def _charge(self, new: Charge) -> None:
        """Add a charge to the charges that are not stored yet.

        There is one such charge for each job and one for idle GPUs, from the first start to the last end.
        """
        old = self._charges.get(new.job_id)
        if old is not None:
            start_s, end_s = min(old.start_s, new.start_s), max(old.end_s, new.end_s)
            new = Charge(start_s, end_s, "", new.job_id, old.energy_j + new.energy_j, old.gpu_s + new.gpu_s)
        self._charges[new.job_id] = new

    def save(self, store: Store) -> None:
        """Store the charges and the meter's accounts together, so that no joule is lost or stored twice."""
        if self._charges:
            store.charges.add(list(self._charges.values()), {METER: self._meter.state()})
            self._charges.clear()

    def clock_set(self, by_s: float) -> None:
        """Move the times of the last readings by ``by_s``, because the machine's clock was set by this many seconds.

        Otherwise a job would be charged for GPU-seconds that did not pass.
        """
        self._read_s += by_s
        self._settled_s += by_s

    def totals_j(self) -> tuple[float, float, float]:
        """Return the joules metered since the store was made: in all, of jobs, and of idle GPUs."""
        return self._totals_j

    # -- clocks ---------------------------------------------------------------------------------------------------

    @property
    def settable(self) -> bool:
        """False if setting a clock was refused on at least one GPU."""
        return not self._refused

    def tune(self, now_s: float, wanted: Mapping[Place, float]) -> None:
        """Set GPUs to the ``wanted`` clocks (MHz), and reset the clocks of all other GPUs."""
        self._readings.update(self.keeper.tune(now_s, wanted, self._readings, self.health.out()))

    def audit(self) -> None:
        """Write to the audit all clocks that were set and reset since the last call.

        Raises:
            StoreError: The store cannot be written. The next call writes what is missing.
        """
        self.keeper.write_changes(self._store.note)

    def finish(self, *, give_back: bool) -> None:
        """Reset all clocks if ``give_back`` is True, that is, if no job continues to run.

        Otherwise the clocks stay until their lease ends.
        """
        if give_back:
            self.keeper.finish()

    def errors(self) -> Mapping[Place, DeviceError]:
        """Return the errors of the GPUs that did not answer at the last reading."""
        return {self._place[uuid]: error for uuid, error in self._meter.errors.items()}

    def last(self) -> Mapping[Place, Reading]:
        """Return the last reading of each GPU, without GPUs that did not answer."""
        return self._readings

    def disturbed(self, job: str) -> bool:
        """Return True if readings of a job's GPUs do not show the job's own costs.

        The reasons are: processes of other people run on the GPUs, somebody has changed their power limit, or their
        clocks are not as asked for.
        """
        strange = {*self.health.shared(), *(self._place[uuid] for uuid in self._limits.changed())}
        mine = [place for place, owner in self._owners.items() if owner == job]
        return any(place in strange or self.keeper.strays(place) for place in mine)

    # -- what is shown --------------------------------------------------------------------------------------------

    def notices(self) -> list[str]:
        """Return the problems of GPUs, one line each."""
        of_meters = [*self._refused, *self._found.copy(), *self._jumped.copy().values()]
        return list(dict.fromkeys([*of_meters, *self.keeper.notices(), *self._of_service(), *self._limited()]))

    def _of_service(self) -> list[str]:
        out = [f"GPU {number} of {node} is out of service: {why}" for (node, number), why in self.health.out().items()]
        return out + [
            f"GPU {number} of {node} is also used by {', '.join(who)}, which PowerFlow did not start: its energy is "
            "charged to nobody, and no costs are learned from it"
            for (node, number), who in self.health.shared().items()
        ]

    def _limited(self) -> list[str]:
        return [
            f"GPU {self._place[uuid][1]} of {self._place[uuid][0]}: somebody set its power limit to {now_w:.0f} W (it "
            f"was {own_w:.0f} W): until that is undone, no costs are learned from it"
            for uuid, (own_w, now_w) in self._limits.changed().items()
        ]

    def watts_of(self, job: str) -> float:
        """Return the watts of a job's GPUs at the last reading; 0 if no power was read."""
        return self.power_of(job).watts

    def power_of(self, job: str) -> MeanPower:
        """Return the mean power (W) of a job's GPUs at the last reading, and its period (s); 0 W if not read."""
        return self._power.get(job, MeanPower(0.0, 0.0))

    def clock_of(self, job: str) -> float | None:
        """Return the mean clock (MHz) of a job's GPUs at the last reading; None if no clock was read."""
        return self._clock_mhz.get(job)

    def power_w(self) -> float:
        """Return the watts of all GPUs at the last reading."""
        return sum(self.gpu_watts().values())

    def gpu_watts(self) -> Mapping[Place, float]:
        """Return the watts of each GPU at the last reading, without GPUs that report none."""
        return self._watts

    def idle_w(self) -> list[float]:
        """Return the idle watts of each GPU by the catalogue."""
        return [gpu_type(gpu.gpu_type).idle_w for gpu in self._gpus.values()]

    def node_names(self) -> list[str]:
        """Return the names of all nodes."""
        return list(dict.fromkeys(node for node, _ in self._gpus))

    def node_kind(self, node: str) -> tuple[str, bool]:
        """Return the GPU type of a node, and True if its GPUs are emulated."""
        gpu = next(gpu for (name, _), gpu in self._gpus.items() if name == node)
        return gpu.gpu_type, gpu.emulated

    def readings(self, node: str) -> list[tuple[Gpu, Reading | None]]:
        """Return the GPUs of a node, each with its last reading."""
        return [(gpu, self._readings.get(place)) for place, gpu in self._gpus.items() if place[0] == node]

    def _look(self) -> None:
        """Keep the last readings, and compare energy counters with power."""
        power: dict[str, MeanPower] = {}
        clocks_mhz: dict[str, list[float]] = defaultdict(list)
        self._readings = {self._place[uuid]: reading for uuid, reading in self._meter.readings.items()}
        powers = {self._place[uuid]: mean for uuid, mean in self._meter.powers.items() if math.isfinite(mean.watts)}
        self._watts = {place: mean.watts for place, mean in powers.items()}
        for place, reading in self._readings.items():
            owner = self._owners.get(place)
            if owner is not None and place in powers:
                others, mean = power.get(owner, MeanPower(0.0, 0.0)), powers[place]
                power[owner] = MeanPower(others.watts + mean.watts, max(others.seconds, mean.seconds))
            if owner is not None and math.isfinite(reading.clock_mhz):
                clocks_mhz[owner].append(reading.clock_mhz)
        self._power = power
        self._clock_mhz = {job: sum(clocks) / len(clocks) for job, clocks in clocks_mhz.items()}
        for found in self._meter.check():
            node, number = self._place[found.uuid]
            what = f"energy counter and power readings differ by {found.share:.0%} over {found.window_s:.0f} s"
            self._found[f"GPU {number} of {node}: {what}"] = None
        for jump in self._meter.jumps():
            node, number = self._place[jump.uuid]
            self._jumped[self._place[jump.uuid]] = f"GPU {number} of {node}: {jump.sentence()}"
        self._limits.look(self._meter.readings)
