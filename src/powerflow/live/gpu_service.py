"""Take GPUs out of service and return them: tell the scheduler, send jobs elsewhere, and note the reason."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from powerflow.device.foreign import parent_of, strangers
from powerflow.engine.protocol import Engine, EngineError, RankState
from powerflow.live.gpus.gpus import Gpus
from powerflow.live.gpus.health import GpuHealth, Place, Sight, Turn, faults_as_json, faults_from_json
from powerflow.live.jobs.job_table import JobTable
from powerflow.osutil.processes import boot_id
from powerflow.scheduler.events import GpuFailed, GpuRecovered
from powerflow.store.models import Placement
from powerflow.store.store import Store

#: Name of the store's setting in which the faults stand that outlive a controller.
FAULTS = "gpu faults"


class GpuService:
    """For the controller's loop.

    Args:
        power: Has the readings, and `GpuHealth`.
        engine: Knows which processes are ours.
        store: Where it is written what happened, and the faults that stay.
        roster: The active jobs, and what the scheduler is to be told.
        holding: Which job is on which GPU.
        log: A structlog logger.
        clock: Seconds that only run forward.
    """

    def __init__(
        self,
        power: Gpus,
        engine: Engine,
        store: Store,
        roster: JobTable,
        holding: Callable[[], Mapping[Place, str]],
        log: Any,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._power, self._engine, self._store, self._roster = power, engine, store, roster
        self._holding, self._log, self._clock = holding, log, clock
        self._uuids = {
            (gpu.node, gpu.index): gpu.uuid for name in power.node_names() for gpu, _ in power.readings(name)
        }
        self._emulated = power.emulated
        self._faults: Mapping[Place, tuple[str, float]] = {}  # as they are stored
        self._unsaid: list[tuple[str, str, Place]] = []

    @property
    def health(self) -> GpuHealth:
        """The state of each GPU."""
        return self._power.health

    def start(self) -> None:
        """Take up what an earlier controller knew; a GPU that does not answer now is out of service at once."""
        kept = self._store.get(FAULTS, {})
        if kept.get("boot") == boot_id():
            places = {uuid: place for place, uuid in self._uuids.items()}
            self._faults = faults_from_json(kept["gpus"], places)
            self.health.restore(self._faults)
        self.look()
        self.failed_on([(node, (number,)) for node, number in self._uuids])

    def look(self) -> None:
        """Take in the last readings. What they change is written to the store at the next `say`."""
        errors, readings, holding = self._power.errors(), self._power.last(), self._holding()
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
            if reading is not None and self._emulated:  # who is on it is known: only ranks can be
                reading = replace(reading, utilisation=math.nan)
            sights[place] = Sight(reading, errors.get(place), held, found)
        self._take(self.health.look(self._clock(), sights))

    def failed_on(self, placement: Iterable[tuple[str, tuple[int, ...]]]) -> bool:
        """Return whether one of these GPUs is out of service; one that does not answer now is taken out.

        For a job that has just failed on them: it was no fault of its own.
        """
        errors, out = self._power.errors(), False
        for node, numbers in placement:
            for place in ((node, number) for number in numbers):
                if place in errors:
                    self._take(self.health.suspect(place, str(errors[place])))
                out = out or bool(self.health.why(place))
        return out

    def pardon(self, node: str) -> None:
        """Let a node's GPUs come back as soon as they answer, because an operator resumed it."""
        self.health.pardon(node)

    def say(self, now_s: float) -> None:
        """Write down what has happened to GPUs, and the faults that stay.

        Raises:
            StoreError: It cannot be; it will be the next time.
        """
        while self._unsaid:
            kind, text, (node, number) = self._unsaid[0]
            self._store.append(kind, text, now_s, None, node=node, gpu=number)
            self._unsaid.pop(0)
        faults = self.health.faults()
        if faults != self._faults:
            self._store.put(FAULTS, {"boot": boot_id(), "gpus": faults_as_json(faults, self._uuids)})
            self._faults = faults

    def _take(self, turns: Iterable[Turn]) -> None:
        for place, out, why in turns:
            node, number = place
            name = f"GPU {number} of {node}"
            if out:
                self._log.warning("GPU out of service", gpu=name, why=why)
                self._roster.events.append(GpuFailed(node, number))
                self._unsaid.append(("gpu out", f"{name} is out of service: {why}", place))
                self._send_away(place, f"{name} is out of service ({why}); goes on elsewhere")
            else:
                self._log.info("GPU in service again", gpu=name)
                self._roster.events.append(GpuRecovered(node, number))
                self._unsaid.append(("gpu back", f"{name} is in service again; it was out: {why}", place))

    def _send_away(self, place: Place, reason: str) -> None:
        for entry in self._roster.entries.values():
            if _is_on(entry.placement, place):
                self._roster.give_back(entry, reason)

    def _our_processes(self) -> frozenset[int] | None:
        """Ranks, and what started each and takes in what it leaves behind; None where the engine does not say."""
        try:
            ranks = {rank.pid for rank in self._engine.ranks() if rank.pid > 1 and rank.state is RankState.RUNNING}
        except EngineError:
            return None
        return frozenset(ranks | {pid for pid in map(parent_of, ranks) if pid > 1})


def _is_on(placement: Placement, place: Place) -> bool:
    return any(node == place[0] and place[1] in numbers for node, numbers in placement)
