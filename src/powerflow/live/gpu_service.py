"""Take GPUs out of service, and later back into service: tell the scheduler, move jobs away, note the reason."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace

from powerflow.device.foreign import parent_of, strangers
from powerflow.device.protocol import Place
from powerflow.engine.protocol import EngineError, RankState
from powerflow.live.context import LoopContext
from powerflow.live.gpus.health import Sight, Turn, faults_as_json, faults_from_json
from powerflow.osutil.processes import boot_id
from powerflow.scheduler.events import GpuFailed, GpuRecovered

#: Setting in the store: faults that outlive a controller.
FAULTS = "gpu faults"


class GpuService:
    """Take GPUs of one cluster out of service, and return them. Only the controller's loop may use it."""

    def __init__(self, context: LoopContext) -> None:
        power = context.power
        self._power, self._engine, self._store, self._table = power, context.engine, context.store, context.table
        self._gangs, self._log = context.gangs, context.log
        self._uuids = {
            (gpu.node, gpu.index): gpu.uuid for name in power.node_names() for gpu, _ in power.readings(name)
        }
        self._health, self._emulated = power.health, power.emulated
        self._faults: Mapping[Place, tuple[str, float]] = {}  # as they are stored
        self._unsaid: list[tuple[str, str, Place]] = []

    def start(self) -> None:
        """Restore the faults of GPUs that an earlier controller stored.

        Take GPUs that do not answer now out of service.
        """
        kept = self._store.get(FAULTS, {})
        if kept.get("boot") == boot_id():
            places = {uuid: place for place, uuid in self._uuids.items()}
            self._faults = faults_from_json(kept["gpus"], places)
            self._health.restore(self._faults)
        self.look()
        self.failed_on([(node, (number,)) for node, number in self._uuids])

    def look(self) -> None:
        """Decide from the last readings which GPUs are in service. The next `save` stores what changes."""
        errors, readings, holding = self._power.errors(), self._power.last(), self._gangs.holding()
        ours = self._our_processes() if any(reading.pids for reading in readings.values()) else None
        sights = {}
        for place in self._uuids:
            reading = readings.get(place)
            if reading is None and place not in errors:
                continue  # nobody has read it yet
            held = place in holding
            found: tuple[str, ...] = ()
            if reading is not None and reading.pids and ours is not None:
                found = strangers(reading.pids, ours, spare_containers=held)
            if reading is not None and self._emulated:  # only ranks can be on it
                reading = replace(reading, utilisation=math.nan)
            sights[place] = Sight(reading, errors.get(place), held, found)
        self._take(self._health.look(time.monotonic(), sights))

    def failed_on(self, placement: Iterable[tuple[str, tuple[int, ...]]]) -> bool:
        """Return True if one of the GPUs on which a job has just failed is out of service.

        A GPU that does not answer now is taken out of service at once. If the answer is True, the job is not at fault.
        """
        errors, out = self._power.errors(), False
        for node, numbers in placement:
            for place in ((node, number) for number in numbers):
                if place in errors:
                    self._take(self._health.suspect(place, str(errors[place])))
                out = out or bool(self._health.why(place))
        return out

    def pardon(self, node: str) -> None:
        """Return a node's GPUs to service as soon as they answer. Call this when an operator has resumed the node."""
        self._health.pardon(node)

    def save(self, now_s: float) -> None:
        """Store which GPUs left service or came back, and the faults that need an operator.

        Raises:
            StoreError: The store cannot be written. The next call stores what is missing.
        """
        while self._unsaid:
            kind, text, (node, number) = self._unsaid[0]
            self._store.append(kind, text, now_s, None, node=node, gpu=number)
            self._unsaid.pop(0)
        faults = self._health.faults()
        if faults != self._faults:
            self._store.put(FAULTS, {"boot": boot_id(), "gpus": faults_as_json(faults, self._uuids)})
            self._faults = faults

    def _take(self, turns: Iterable[Turn]) -> None:
        for place, out, why in turns:
            node, number = place
            name = f"GPU {number} of {node}"
            if out:
                self._log.warning("GPU out of service", gpu=name, why=why)
                self._table.emit(GpuFailed(node, number))
                self._unsaid.append(("gpu out", f"{name} is out of service: {why}", place))
                self._send_away(place, f"{name} is out of service ({why}); the job continues on other GPUs")
            else:
                self._log.info("GPU in service again", gpu=name)
                self._table.emit(GpuRecovered(node, number))
                self._unsaid.append(("gpu back", f"{name} is in service again; it was out: {why}", place))

    def _send_away(self, place: Place, reason: str) -> None:
        for job in self._table.jobs.values():
            if any(node == place[0] and place[1] in numbers for node, numbers in job.placement):
                self._table.vacate(job, reason)

    def _our_processes(self) -> frozenset[int] | None:
        """Return the processes of ranks and their parents, which adopt orphans; None if the engine does not answer."""
        try:
            ranks = {rank.pid for rank in self._engine.ranks() if rank.pid > 1 and rank.state is RankState.RUNNING}
        except EngineError:
            return None
        return frozenset(ranks | {pid for pid in map(parent_of, ranks) if pid > 1})
