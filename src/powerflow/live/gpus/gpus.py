"""The GPUs of a live cluster: who is charged which joules, and which clock each is set to."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from powerflow.cost.catalogue import gpu_type
from powerflow.device.lease import Clocks
from powerflow.device.meter import Meter
from powerflow.device.protocol import DeviceError, Gpu, Place, Reading
from powerflow.live.gpus.clock_keeper import ClockKeeper
from powerflow.live.gpus.health import GpuHealth
from powerflow.live.gpus.hosts import names_by_type
from powerflow.live.gpus.limit_watch import LimitWatch
from powerflow.store.models import Charge
from powerflow.store.store import Store

#: Name of the store's setting in which the meter's accounts stand.
METER = "meter"
#: And that in which the power limits stand that the cards have of their own.
LIMITS = "power limits"


#: How often GPUs are read.
READ_S = 1.0


class Gpus:
    """Meters and clocks of all GPUs. For the controller's loop; readers in other threads see the last readings.

    Args:
        gpus: All GPUs.
        clocks: Sets them, and gives them back as they were.
        store: Where charges go, and the meter's accounts, so that no joule is lost between two controllers.
        refused: Where `clocks` says what it cannot do.
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
        self._watts: dict[str, float] = {}
        self._clock_mhz: dict[str, float] = {}
        self._charges: dict[str | None, Charge] = {}  # not saved yet, by who pays
        self._totals_j = (0.0, 0.0, 0.0)  # metered, jobs, idle
        self.emulated = any(gpu.emulated for gpu in gpus)
        self.types = names_by_type(gpus)
        self.gpu_count = len(gpus)

    # -- joules ---------------------------------------------------------------------------------------------------

    def start(self, now_s: float) -> None:
        """Go on where the last controller's meter was."""
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
        """Whether the GPUs are to be read again: it is time to, or one of them has changed hands."""
        return now_s - self._read_s >= READ_S or holding != self._owners

    def settle(self, now_s: float, holding: Mapping[Place, str]) -> Mapping[str, tuple[float, float]]:
        """Read all GPUs and charge what was drawn since the last time; from now on they work for who holds them.

        What a GPU draws while somebody else computes on it as well is nobody's: it cannot be told apart.

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
        """Add to what is not saved yet: one charge for each job (and idle), from the first start to the last end."""
        old = self._charges.get(new.job_id)
        if old is not None:
            start_s, end_s = min(old.start_s, new.start_s), max(old.end_s, new.end_s)
            new = Charge(start_s, end_s, "", new.job_id, old.energy_j + new.energy_j, old.gpu_s + new.gpu_s)
        self._charges[new.job_id] = new

    def save(self, store: Store) -> None:
        """Write the charges down, and the meter's accounts with them: a joule stands in one of the two."""
        if self._charges:
            store.charges.add(list(self._charges.values()), {METER: self._meter.state()})
            self._charges.clear()

    def clock_set(self, by_s: float) -> None:
        """The machine's clock was set by so many seconds: that is no time in which GPUs were held."""
        self._read_s += by_s
        self._settled_s += by_s

    def totals_j(self) -> tuple[float, float, float]:
        """Joules metered since the store was made, those of jobs, and those of idle GPUs."""
        return self._totals_j

    # -- clocks ---------------------------------------------------------------------------------------------------

    @property
    def settable(self) -> bool:
        """Whether clocks have not turned out to be out of our hands."""
        return not self._refused

    def tune(self, now_s: float, wanted: Mapping[Place, float]) -> None:
        """Set these GPUs to these clocks (MHz), and give all others back as they were."""
        self._readings.update(self.keeper.tune(now_s, wanted, self._readings, self.health.out()))

    def audit(self) -> None:
        """Write down which GPU was set to which clock, or given back as it was, since the last time.

        Raises:
            StoreError: It cannot be; it will be the next time.
        """
        if self.keeper.changes:
            self._store.note(self.keeper.changes)
            self.keeper.changes.clear()

    def finish(self, *, give_back: bool) -> None:
        """The controller ends; ``give_back``: nothing runs on, so clocks go back now and not when their lease ends."""
        if give_back:
            self.keeper.finish()

    # -- what is seen -------------------------------------------------------------------------------------------------

    def errors(self) -> Mapping[Place, DeviceError]:
        """Why GPUs did not answer when they were last read."""
        return {self._place[uuid]: error for uuid, error in self._meter.errors.items()}

    def last(self) -> Mapping[Place, Reading]:
        """What each GPU said when it was last read; without those that did not answer."""
        return self._readings

    def disturbed(self, job: str) -> bool:
        """Whether a job's GPUs do not show what it costs by itself.

        Somebody else is on them, has limited their power, or they run at another clock than they were asked to.
        """
        strange = {*self.health.shared(), *(self._place[uuid] for uuid in self._limits.changed())}
        mine = [place for place, owner in self._owners.items() if owner == job]
        return any(place in strange or self.keeper.strays(place) for place in mine)

    # -- what is shown --------------------------------------------------------------------------------------------

    def notices(self) -> list[str]:
        """What does not work, once each."""
        return list(
            dict.fromkeys(
                (
                    *self._refused,
                    *self._found.copy(),
                    *self._jumped.copy().values(),
                    *self.keeper.notices(),
                    *self._of_service(),
                    *self._limited(),
                )
            )
        )

    def _of_service(self) -> list[str]:
        out = [f"GPU {number} of {node} is out of service: {why}" for (node, number), why in self.health.out().items()]
        return out + [
            f"GPU {number} of {node} is also used by {', '.join(who)}, not by PowerFlow: what it draws is charged to "
            "nobody, and nothing is learned there"
            for (node, number), who in self.health.shared().items()
        ]

    def _limited(self) -> list[str]:
        return [
            f"GPU {self._place[uuid][1]} of {self._place[uuid][0]}: somebody set its power limit to {now_w:.0f} W (it "
            f"was {own_w:.0f} W): what jobs cost there meanwhile is not learned"
            for uuid, (own_w, now_w) in self._limits.changed().items()
        ]

    def watts_of(self, job: str) -> float:
        """Watts of a job's GPUs at the last reading; 0 where none was read."""
        return self._watts.get(job, 0.0)

    def clock_of(self, job: str) -> float | None:
        """Mean clock that a job's GPUs say they run at."""
        return self._clock_mhz.get(job)

    def power_w(self) -> float:
        """Watts of all GPUs at the last reading."""
        return sum(self.gpu_watts().values())

    def gpu_watts(self) -> Mapping[Place, float]:
        """Watts of each GPU at the last reading, where one was had."""
        return {place: r.power_w for place, r in self._readings.copy().items() if math.isfinite(r.power_w)}

    def idle_w(self) -> list[float]:
        """Watts of each GPU when nobody uses it, by the catalogue."""
        return [gpu_type(gpu.gpu_type).idle_w for gpu in self._gpus.values()]

    def node_names(self) -> list[str]:
        """Nodes that GPUs are in."""
        return list(dict.fromkeys(node for node, _ in self._gpus))

    def node_kind(self, node: str) -> tuple[str, bool]:
        """GPU type of a node, and whether it is emulated."""
        gpu = next(gpu for (name, _), gpu in self._gpus.items() if name == node)
        return gpu.gpu_type, gpu.emulated

    def readings(self, node: str) -> list[tuple[Gpu, Reading | None]]:
        """GPUs of a node, and what each said last."""
        return [(gpu, self._readings.get(place)) for place, gpu in self._gpus.items() if place[0] == node]

    def _look(self) -> None:
        """Keep what the GPUs say now, for those who ask; and hold counters against power."""
        watts: dict[str, float] = defaultdict(float)
        clocks_mhz: dict[str, list[float]] = defaultdict(list)
        self._readings = {self._place[uuid]: reading for uuid, reading in self._meter.readings.items()}
        for place, reading in self._readings.items():
            owner = self._owners.get(place)
            if owner is not None and math.isfinite(reading.power_w):
                watts[owner] += reading.power_w
            if owner is not None and math.isfinite(reading.clock_mhz):
                clocks_mhz[owner].append(reading.clock_mhz)
        self._watts = dict(watts)
        self._clock_mhz = {job: sum(clocks) / len(clocks) for job, clocks in clocks_mhz.items()}
        for found in self._meter.check():
            node, number = self._place[found.uuid]
            what = f"counter and power differ by {found.share:.0%} over {found.window_s:.0f} s"
            self._found[f"GPU {number} of {node}: {what}"] = None
        for jump in self._meter.jumps():
            node, number = self._place[jump.uuid]
            self._jumped[self._place[jump.uuid]] = f"GPU {number} of {node}: {jump.sentence()}"
        self._limits.look(self._meter.readings)
