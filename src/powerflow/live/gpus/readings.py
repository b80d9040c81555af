"""Read the machines' last reports: readings by GPU, and the power and the clock of each job."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from powerflow.device.meter import MeanPower
from powerflow.device.protocol import DeviceError, Place, Reading
from powerflow.live.gpus.machines import Machines


@dataclass(frozen=True, slots=True)
class LastReadings:
    """The last readings of all GPUs.

    Attributes:
        readings: Last reading of each GPU that answered.
        errors: Error of each GPU that did not answer.
        owners: Job whose rank had the GPU at the reading.
        watts: Mean power of each GPU that reports one.
        power: Mean power of each job's GPUs together.
        clock_mhz: Mean clock of each job's GPUs.
        strays: GPUs that run at another clock than they were asked for.
    """

    readings: Mapping[Place, Reading] = field(default_factory=dict)
    errors: Mapping[Place, DeviceError] = field(default_factory=dict)
    owners: Mapping[Place, str] = field(default_factory=dict)
    watts: Mapping[Place, float] = field(default_factory=dict)
    power: Mapping[str, MeanPower] = field(default_factory=dict)
    clock_mhz: Mapping[str, float] = field(default_factory=dict)
    strays: Collection[Place] = frozenset()


def last_readings(machines: Machines) -> LastReadings:
    """Return what the last report of each machine says."""
    readings: dict[Place, Reading] = {}
    errors: dict[Place, DeviceError] = {}
    owners: dict[Place, str] = {}
    watts: dict[Place, float] = {}
    power: dict[str, MeanPower] = {}
    clocks_mhz: dict[str, list[float]] = defaultdict(list)
    strange: set[Place] = set()
    for machine in machines.by_name.values():
        for place, (job, reading, error, mean, strays) in machine.seen.items():
            if strays:
                strange.add(place)
            if job:
                owners[place] = job
            if error is not None:
                errors[place] = error
            if reading is None:
                continue
            readings[place] = reading
            if math.isfinite(mean.watts):
                watts[place] = mean.watts
                if job:
                    others = power.get(job)
                    power[job] = mean if others is None else _together(others, mean)
            if job and math.isfinite(reading.clock_mhz):
                clocks_mhz[job].append(reading.clock_mhz)
    clock_mhz = {job: sum(clocks) / len(clocks) for job, clocks in clocks_mhz.items()}
    return LastReadings(readings, errors, owners, watts, power, clock_mhz, strange)


def _together(one: MeanPower, other: MeanPower) -> MeanPower:
    return MeanPower(one.watts + other.watts, max(one.seconds, other.seconds))
