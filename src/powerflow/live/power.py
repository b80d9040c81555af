"""The GPUs of a live cluster: who is charged which joules, and which clock each is set to."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from powerflow.cost.catalogue import gpu_type
from powerflow.device.lease import Clocks
from powerflow.device.meter import Meter
from powerflow.device.protocol import DeviceError, Gpu, Reading
from powerflow.live.governance import AuditRecord
from powerflow.live.hosts import names_by_type
from powerflow.live.rows import Charge
from powerflow.live.store import Store

#: One GPU: its node, and its number there.
Place = tuple[str, int]

#: Name of the store's setting in which the meter's accounts stand.
METER = "meter"
#: How often the lease of the clocks is renewed.
RENEW_S = 5.0


class Power:
    """Meters and clocks of all GPUs. For the controller's loop; readers in other threads see the last readings.

    Args:
        gpus: All GPUs.
        clocks: Sets them, and gives them back as they were.
        store: Where charges go, and the meter's accounts, so that no joule is lost between two controllers.
        refused: Where `clocks` says what it cannot do.
        every_s: How often GPUs are read.
    """

    def __init__(
        self, gpus: Sequence[Gpu], clocks: Clocks, store: Store, refused: list[str], *, every_s: float = 1.0
    ) -> None:
        self._gpus = {(gpu.node, gpu.index): gpu for gpu in gpus}
        self._place = {gpu.uuid: place for place, gpu in self._gpus.items()}
        self._clocks = clocks
        self._store = store
        self._refused = refused
        self._found: dict[str, None] = {}  # what does not work, in order of appearance
        self._meter = Meter(gpus)
        self._every_s = every_s
        self._read_s = self._settled_s = self._renewed_s = -math.inf
        self._owners: dict[Place, str] = {}
        self._readings: dict[Place, Reading] = {}
        self._watts: dict[str, float] = {}
        self._clock_mhz: dict[str, float] = {}
        self._set_mhz: dict[Place, float] = {}
        self._changes: list[AuditRecord] = []  # of clocks, not written down yet
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
        self._totals_j = self._store.energy_totals()
        accounts = state["accounts"] if state else {}
        owners = {self._place[uuid]: account["owner"] for uuid, account in accounts.items() if uuid in self._place}
        self._owners = {place: owner for place, owner in owners.items() if owner is not None}
        # set by the last controller, to what it does not matter: the next tuning says what they are to be
        self._set_mhz = {self._place[uuid]: math.nan for uuid in self._clocks.borrowed() if uuid in self._place}

    def due(self, now_s: float, holding: Mapping[Place, str]) -> bool:
        """Whether the GPUs are to be read again: it is time to, or one of them has changed hands."""
        return now_s - self._read_s >= self._every_s or holding != self._owners

    def settle(self, now_s: float, holding: Mapping[Place, str]) -> Mapping[str, tuple[float, float]]:
        """Read all GPUs and charge what was drawn since the last time; from now on they work for who holds them.

        Returns:
            Joules and GPU-seconds by job.
        """
        owners = {self._gpus[place].uuid: job for place, job in holding.items() if place in self._gpus}
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
            store.charge(list(self._charges.values()), {METER: self._meter.state()})
            self._charges.clear()

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
        for place in self._set_mhz.keys() - wanted.keys():
            try:
                self._clocks.release(self._gpus[place].uuid)
            except DeviceError as error:  # it stays borrowed, and is given back when the lease ends
                self._fails(place, error)
            else:
                self._changes.append(_change("clock back", place, now_s))
            del self._set_mhz[place]
        for place, mhz in wanted.items():
            if self._set_mhz.get(place) == mhz or place not in self._gpus:
                continue
            try:
                self._readings[place] = self._clocks.set(self._gpus[place].uuid, mhz)
            except DeviceError as error:
                self._fails(place, error)
            else:
                self._changes.append(_change("clock set", place, now_s, clock_mhz=mhz))
            self._set_mhz[place] = mhz
        if now_s - self._renewed_s >= RENEW_S:
            borrowed = self._clocks.renew()
            # what the watchdog gave back while we were asleep for longer than the lease is to be set anew
            self._set_mhz = {p: mhz for p, mhz in self._set_mhz.items() if self._gpus[p].uuid in borrowed}
            self._renewed_s = now_s

    def audit(self) -> None:
        """Write down which GPU was set to which clock, or given back as it was, since the last time.

        Raises:
            StoreError: It cannot be; it will be the next time.
        """
        if self._changes:
            self._store.note(self._changes)
            self._changes.clear()

    def finish(self, *, give_back: bool) -> None:
        """The controller ends; ``give_back``: nothing runs on, so clocks go back now and not when their lease ends."""
        if give_back:
            self._clocks.release_all()

    # -- what is shown --------------------------------------------------------------------------------------------

    def notices(self) -> list[str]:
        """What does not work, once each."""
        return list(dict.fromkeys((*self._refused, *self._found.copy())))

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

    def _fails(self, place: Place, error: DeviceError) -> None:
        self._found[f"GPU {place[1]} of {place[0]}: {error}"] = None


def _change(action: str, place: Place, now_s: float, **fields: float) -> AuditRecord:
    """The audit's entry of a clock that the controller set, or gave back."""
    return AuditRecord(0, now_s, "powerflow", "", action, f"{place[0]}/{place[1]}", fields)
