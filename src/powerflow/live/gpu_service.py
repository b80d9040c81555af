"""Take GPUs out of service, and later back into service: tell the scheduler, move jobs away, note the reason."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from powerflow.device.protocol import Place
from powerflow.live.context import LoopContext
from powerflow.live.gpus.health import Sight, Turn, faults_as_json, faults_from_json
from powerflow.scheduler.events import GpuFailed, GpuRecovered

#: Setting in the store: faults that outlive a controller.
FAULTS = "gpu faults"


class GpuService:
    """Take GPUs of one cluster out of service, and return them. Only the controller's loop may use it.

    Args:
        strangers_expected: True if another scheduler gives the GPUs out, so that its jobs run before they are heard of.
    """

    def __init__(self, context: LoopContext, *, strangers_expected: bool = False) -> None:
        self._strangers_expected = strangers_expected
        power = context.power
        self._power, self._store, self._table = power, context.store, context.table
        self._gangs, self._log = context.gangs, context.log
        self._health = power.health
        self._boots: dict[str, str] = {}  # by machine
        self._stored: dict[str, Any] = {}  # faults by UUID, as they are stored
        self._unsaid: list[tuple[str, str, Place]] = []

    def start(self) -> None:
        """Restore the faults of GPUs that an earlier controller stored.

        Take GPUs that do not answer now out of service.
        """
        kept = self._store.get(FAULTS, {})
        # an earlier version stored one boot for all GPUs
        self._stored = {uuid: {"boot": kept.get("boot"), **plain} for uuid, plain in kept.get("gpus", {}).items()}
        self.look()
        self.failed_on([(node, (number,)) for node, number in self._power.gpus()])

    def look(self) -> None:
        """Decide from the readings that have just come which GPUs are in service. The next `save` stores what changes.

        A machine that does not report says nothing about its GPUs.
        """
        self._see_boots()
        errors, readings, holding = self._power.errors(), self._power.last(), self._gangs.holding()
        gpus, sights = self._power.gpus(), {}
        for place in self._power.news():
            reading = readings.get(place)
            if reading is None and place not in errors:
                continue  # nobody has read it yet
            if reading is not None and (gpus[place].emulated or self._strangers_expected):
                reading = replace(reading, utilisation=math.nan)  # it does not tell whether others use the GPU
            strangers = () if self._strangers_expected else self._power.strangers(place)
            sights[place] = Sight(reading, errors.get(place), place in holding, strangers)
        self._take(self._health.look(time.monotonic(), sights))

    def _see_boots(self) -> None:
        """Restore the faults of machines that report for the first time. Forget those of machines that have booted."""
        for machine, boot in self._power.boots().items():
            before = self._boots.get(machine)
            if before == boot:
                continue
            self._boots[machine] = boot
            places = {gpu.uuid: place for place, gpu in self._power.gpus().items() if gpu.machine == machine}
            if before is None:
                same = {uuid: plain for uuid, plain in self._stored.items() if plain["boot"] == boot}
                self._health.restore(faults_from_json(same, places))
            else:
                for node in {node for node, _ in places.values()}:
                    self._health.pardon(node)

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
        faults = self._faults()
        if faults != self._stored:
            self._store.put(FAULTS, {"gpus": faults})
            self._stored = faults

    def _faults(self) -> dict[str, Any]:
        """Return the faults to store, by UUID: the present ones, and those of machines that have not reported yet."""
        gpus = self._power.gpus()
        heard = {gpu.uuid: self._boots[gpu.machine] for gpu in gpus.values() if gpu.machine in self._boots}
        found = {uuid: plain for uuid, plain in self._stored.items() if uuid not in heard}
        now = faults_as_json(self._health.faults(), {place: gpu.uuid for place, gpu in gpus.items()})
        return found | {uuid: {**plain, "boot": heard[uuid]} for uuid, plain in now.items() if uuid in heard}

    def _take(self, turns: Iterable[Turn]) -> None:
        for place, out, why in turns:
            node, number = place
            name = f"GPU {number} of {node}"
            if out:
                self._log.warning("GPU out of service", gpu=name, why=why)
                self._table.emit(GpuFailed(node, number))
                self._unsaid.append(("gpu out", f"{name} is out of service: {why}", place))
                self._send_away(place, f"{name} is out of service ({why})")
            else:
                self._log.info("GPU in service again", gpu=name)
                self._table.emit(GpuRecovered(node, number))
                self._unsaid.append(("gpu back", f"{name} is in service again; it was out: {why}", place))

    def _send_away(self, place: Place, why: str) -> None:
        for job in self._table.jobs.values():
            if any(node == place[0] and place[1] in numbers for node, numbers in job.placement):
                follows = "its clocks are not set any more" if job.spec.external else "the job continues on other GPUs"
                self._table.vacate(job, f"{why}; {follows}")
