"""Decide from readings which GPUs are in service. The code does no I/O and reads no clock.

| observation | leaves service | comes back |
|---|---|---|
| the driver says that the GPU is lost | at once | when it has answered for a while |
| no answer, or an error | after some time; later if a job is on it, because a job survives a short failure | the same |
| an Xid of the hardware, an uncorrected ECC error | at once | when an operator resumes its node, or it was reset |
| a process of somebody else, while no job is on it | when seen twice | when the process has been gone for a while |

If faults take a GPU out of service again and again, it stays out for longer each time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from powerflow.device.protocol import DeviceError, DeviceLost, Place, Reading

#: Seconds for which a GPU may fail to answer before it leaves service: a free one, and one that a job is on.
FREE_S, HELD_S = 2.5, 10.0
#: Seconds for which others must have been on a free GPU, and for which it may seem busy after a job has left.
FOREIGN_S, ECHO_S = 1.5, 6.0
#: Seconds for which it must be well before it comes back; each further time twice as long, up to `MOST_BACK_S`.
BACK_S, MOST_BACK_S = 20.0, 1200.0
#: Share of the time for which a free GPU may be busy: a desktop may draw on it.
BUSY = 0.3
#: Xids that a program's own fault causes (NVIDIA, "XID Errors"; its device plugin for Kubernetes passes over the same),
#: and 63, which only records that a memory row was replaced.
OF_PROGRAMS = frozenset({13, 31, 43, 45, 63, 68, 109})


@dataclass(frozen=True, slots=True)
class Sight:
    """Observation of one GPU at one moment.

    Attributes:
        reading: The reading of the GPU; None if it did not answer.
        error: Why the GPU did not answer.
        held: True if a job is on the GPU.
        strangers: Processes on the GPU that do not belong to PowerFlow's jobs, in words.
    """

    reading: Reading | None
    error: DeviceError | None = None
    held: bool = False
    strangers: tuple[str, ...] = ()


class Turn(NamedTuple):
    """A GPU that leaves service or comes back, with the reason."""

    place: Place
    out: bool
    why: str


@dataclass(slots=True)
class _Gpu:
    prefix: str  # start of each of its errors; cut off if the GPU is named already
    out: bool = False
    why: str = ""
    fault: str = ""  # stays until somebody pardons it
    times: int = 0  # how often it has left service
    bad_since_s: float = math.inf
    good_since_s: float = math.inf
    free_since_s: float = -math.inf
    xids: tuple[int, ...] | None = None  # those that are known
    ecc_errors: float = math.nan
    shared: tuple[str, ...] = ()  # strangers beside a job


class GpuHealth:
    """Keep the health of each GPU of a cluster: if it is in service, and why not."""

    def __init__(self, places: Iterable[Place]) -> None:
        self._gpus: dict[Place, _Gpu] = {}
        self.follow(places)

    def follow(self, places: Iterable[Place]) -> None:
        """Keep the health of these GPUs and of no others. New ones are in service."""
        self._gpus = {
            (node, number): self._gpus.get((node, number)) or _Gpu(f"GPU {number} of {node}: ")
            for node, number in places
        }

    def look(self, now_s: float, sights: Mapping[Place, Sight]) -> list[Turn]:
        """Judge observations of GPUs; return the GPUs that leave service or come back.

        Args:
            now_s: Seconds on any clock that never goes back.
            sights: Observations, by GPU. GPUs without an observation keep their last state.
        """
        turns = []
        for place, sight in sights.items():
            gpu = self._gpus[place]
            gpu.free_since_s = math.inf if sight.held else min(gpu.free_since_s, now_s)
            why, patience_s = self._trouble(gpu, sight, now_s)
            if why:
                gpu.good_since_s = math.inf
                gpu.bad_since_s = min(gpu.bad_since_s, now_s)
                if gpu.out:
                    gpu.why = why
                elif now_s - gpu.bad_since_s >= patience_s:
                    gpu.out, gpu.why = True, why
                    gpu.times += patience_s != FOREIGN_S  # a process of other people is not the GPU's fault
                    turns.append(Turn(place, True, why))
                continue
            gpu.bad_since_s = math.inf
            gpu.good_since_s = min(gpu.good_since_s, now_s)
            if gpu.out and now_s - gpu.good_since_s >= min(BACK_S * 2.0 ** max(0, gpu.times - 1), MOST_BACK_S):
                turns.append(self._return(place, gpu))
        return turns

    def suspect(self, place: Place, why: str) -> list[Turn]:
        """Take a GPU out of service at once if it does not answer, because a job has just failed on it."""
        gpu = self._gpus[place]
        why = why.removeprefix(gpu.prefix)
        if gpu.out:
            return []
        gpu.out, gpu.why, gpu.times, gpu.good_since_s = True, why, gpu.times + 1, math.inf
        return [Turn(place, True, why)]

    def pardon(self, node: str) -> None:
        """Forget the faults of a node's GPUs, because an operator resumed the node.

        GPUs that answer come back at once.
        """
        for place, gpu in self._gpus.items():
            if place[0] == node:
                gpu.fault, gpu.times, gpu.good_since_s = "", 0, -math.inf

    def why(self, place: Place) -> str:
        """Return why a GPU is out of service; "" if it is in service."""
        gpu = self._gpus.get(place)
        return gpu.why if gpu is not None and gpu.out else ""

    def out(self) -> dict[Place, str]:
        """Return the GPUs that are out of service, each with the reason."""
        return {place: gpu.why for place, gpu in self._gpus.items() if gpu.out}

    def shared(self) -> dict[Place, tuple[str, ...]]:
        """Return the GPUs on which processes of other people run beside a job, each with these processes."""
        return {place: gpu.shared for place, gpu in self._gpus.items() if gpu.shared}

    def faults(self) -> dict[Place, tuple[str, float]]:
        """Return the faults to store: those that last until an operator resumes the GPU's node.

        The number with each fault is the count of ECC errors at the time of the fault.
        """
        return {place: (gpu.fault, gpu.ecc_errors) for place, gpu in self._gpus.items() if gpu.fault}

    def restore(self, faults: Mapping[Place, tuple[str, float]]) -> None:
        """Restore the faults of GPUs that an earlier controller stored."""
        for place, (fault, ecc_errors) in faults.items():
            if place in self._gpus:
                self._gpus[place].fault, self._gpus[place].ecc_errors = fault, ecc_errors

    def _trouble(self, gpu: _Gpu, sight: Sight, now_s: float) -> tuple[str, float]:
        """Return what is wrong with a GPU now ("" for nothing), and how many seconds it may last."""
        gpu.shared = sight.strangers if sight.held else ()
        if sight.reading is None:
            lost = isinstance(sight.error, DeviceLost)
            why = str(sight.error or "it does not answer").removeprefix(gpu.prefix)
            return why, 0.0 if lost else HELD_S if sight.held else FREE_S
        self._note_faults(gpu, sight.reading)
        if gpu.fault:
            return gpu.fault, 0.0
        if sight.held:
            return "", 0.0
        if sight.strangers:
            return f"used by {', '.join(sight.strangers[:2])}, which PowerFlow did not start", FOREIGN_S
        if sight.reading.utilisation >= BUSY and now_s - gpu.free_since_s >= ECHO_S:
            return "it is busy, although no job of PowerFlow is on it: somebody else uses it", FOREIGN_S
        return "", 0.0

    def _note_faults(self, gpu: _Gpu, reading: Reading) -> None:
        known = len(gpu.xids) if gpu.xids is not None else 0
        # the list forgets the oldest when it is full: then all of it is looked at again, which changes nothing
        new = reading.xids[known:] if gpu.xids == reading.xids[:known] else reading.xids
        gpu.xids = reading.xids
        for xid in new:
            if xid not in OF_PROGRAMS:
                gpu.fault = f"its driver reported Xid {xid}"
        if math.isnan(reading.ecc_errors):
            return
        if reading.ecc_errors > gpu.ecc_errors:
            count = reading.ecc_errors - gpu.ecc_errors
            gpu.fault = f"{count:.0f} memory errors (ECC) that could not be corrected"
        elif reading.ecc_errors < gpu.ecc_errors:
            gpu.fault = ""  # it was reset
        gpu.ecc_errors = reading.ecc_errors

    def _return(self, place: Place, gpu: _Gpu) -> Turn:
        why, gpu.out, gpu.why = gpu.why, False, ""
        gpu.good_since_s = gpu.bad_since_s = math.inf
        return Turn(place, False, why)


def faults_as_json(faults: Mapping[Place, tuple[str, float]], uuids: Mapping[Place, str]) -> dict[str, Any]:
    """Return the faults of GPUs by GPU UUID, in the form in which the store keeps them."""
    return {
        uuids[place]: {"why": why, "ecc_errors": None if math.isnan(errors) else errors}
        for place, (why, errors) in faults.items()
    }


def faults_from_json(kept: Mapping[str, Any], places: Mapping[str, Place]) -> dict[Place, tuple[str, float]]:
    """Return the faults of GPUs that the store keeps as JSON, without GPUs that have left the cluster."""
    return {
        places[uuid]: (str(plain["why"]), math.nan if plain["ecc_errors"] is None else float(plain["ecc_errors"]))
        for uuid, plain in kept.items()
        if uuid in places
    }
