"""Read the machines' reports: readings by GPU, and the power and the clock of each job."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from powerflow.device.meter import MeanPower
from powerflow.device.protocol import DeviceError, Place, Reading
from powerflow.engine.devices import Report, error_of, power_of, reading_of
from powerflow.live.gpus.ledgers import job_of


@dataclass(slots=True)
class LastReadings:
    """The last readings of some GPUs.

    Attributes:
        readings: Last reading of each GPU that answered.
        errors: Error of each GPU that did not answer.
        owners: Job whose rank had the GPU at the reading.
        watts: Mean power of each GPU that reports one.
        strays: GPUs that run at another clock than they were asked for.
        power: Mean power of each job's GPUs together. Its ``seconds`` say when the longest of their periods began.
        clocks_mhz: Sum of the clocks of each job's GPUs, and of how many GPUs.
    """

    readings: dict[Place, Reading] = field(default_factory=dict)
    errors: dict[Place, DeviceError] = field(default_factory=dict)
    owners: dict[Place, str] = field(default_factory=dict)
    watts: dict[Place, float] = field(default_factory=dict)
    strays: set[Place] = field(default_factory=set)
    power: dict[str, MeanPower] = field(default_factory=dict)
    clocks_mhz: dict[str, tuple[float, int]] = field(default_factory=dict)

    def clock_mhz(self, job: str) -> float | None:
        """Return the mean clock of a job's GPUs; None if none of them reports its clock."""
        total_mhz, count = self.clocks_mhz.get(job, (0.0, 0))
        return total_mhz / count if count else None

    def jobs_on(self, places: Collection[Place]) -> frozenset[str]:
        """Return the jobs on some GPUs."""
        return frozenset(job for place in places if (job := self.owners.get(place)))


def readings_in(report: Report, places: Mapping[str, Place]) -> LastReadings:
    """Return what a report says of the GPUs of its machine, whose places are given by UUID."""
    found, rows, age_s = LastReadings(), report["gpus"], report["age_s"]
    for uuid, place in places.items():
        if (row := rows.get(uuid)) is not None:
            _read(found, place, row, age_s)
    return found


def _read(found: LastReadings, place: Place, row: Mapping[str, Any], age_s: float) -> None:
    job = job_of(row["rank"])
    if job:
        found.owners[place] = job
    if row["clock"]["strays"]:
        found.strays.add(place)
    if (error := error_of(row)) is not None:
        found.errors[place] = error
    reading = reading_of(row)
    if reading is None:
        return
    found.readings[place] = reading
    mean = power_of(row, age_s)
    if math.isfinite(mean.watts):
        found.watts[place] = mean.watts
        if job:
            found.power[job] = _both(found.power.get(job), mean)
    if job and math.isfinite(reading.clock_mhz):
        total_mhz, count = found.clocks_mhz.get(job, (0.0, 0))
        found.clocks_mhz[job] = total_mhz + reading.clock_mhz, count + 1


def together(parts: Iterable[LastReadings]) -> LastReadings:
    """Return the readings of several machines as one."""
    found = LastReadings()
    for part in parts:
        found.readings.update(part.readings)
        found.errors.update(part.errors)
        found.owners.update(part.owners)
        found.watts.update(part.watts)
        found.strays |= part.strays
        for job, mean in part.power.items():
            found.power[job] = _both(found.power.get(job), mean)
        for job, (total_mhz, count) in part.clocks_mhz.items():
            more_mhz, more = found.clocks_mhz.get(job, (0.0, 0))
            found.clocks_mhz[job] = total_mhz + more_mhz, count + more
    return found


def _both(one: MeanPower | None, other: MeanPower) -> MeanPower:
    return other if one is None else MeanPower(one.watts + other.watts, max(one.seconds, other.seconds))
