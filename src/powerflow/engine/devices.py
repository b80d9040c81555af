"""Define how a controller reads the GPUs of its machines, meters its jobs, and asks for clocks.

The GPUs of a machine belong to the agent on that machine. The agent reads them, keeps a **ledger** of their energy, and
keeps their clocks for as long as the controller renews its wish. The controller takes the agent's reports. Everything
that crosses this boundary is plain JSON data, so that it can travel over any link. nan becomes None.

A **report** is a dict::

    machine      name of the machine, which may be several nodes of the cluster
    boot         id of the machine's present boot
    at           name of the report: another reading has another name
    age_s        seconds since the GPUs were read
    gpus         uuid → {reading, error, power, strangers, rank, clock, work} of every GPU, see `gpu_row`
    ledger       {id, version, acknowledged, rows} of the energy so far, see `LedgerRow`
    refused      why clocks cannot be set, one line for each reason
    notices      what the operator should know about these GPUs, one line each
    audit        [number, age_s, uuid, action, fields] of clocks that were set and restored, not acknowledged yet

**Exactly once.** Each row of a ledger is a total that only grows. The controller charges the difference to the total
that it took last, and stores both in one transaction. Then it acknowledges the version that it has stored. A report
that is lost, repeated or late changes nothing, and a machine that is away for an hour keeps its joules.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from powerflow.device.meter import MeanPower
from powerflow.device.protocol import DeviceError, DeviceLost, Reading

#: One agent's report, as above.
Report = Mapping[str, Any]


class LedgerRow(NamedTuple):
    """Energy and time of one GPU while it belonged to one rank, or to none.

    Attributes:
        number: Number of this row in its ledger. A number is never used again.
        uuid: UUID of the GPU.
        rank: Name of the rank as text; "" for the time in which no rank had the GPU.
        energy_mj: Millijoules since the row was made.
        gpu_s: Seconds since the row was made.
        final: True if nothing will be added any more. The row is dropped once it was acknowledged.
        version: Version of the ledger in which this row last changed.
    """

    number: int
    uuid: str
    rank: str
    energy_mj: int
    gpu_s: float
    final: bool
    version: int


class DeviceSource(Protocol):
    """The agents' reports, and the way to their GPUs. No call waits for an agent. Any thread may use it."""

    def machines(self) -> Sequence[str]:
        """Return the names of the machines from which a description has come."""
        ...

    def describe(self, machine: str) -> Sequence[Mapping[str, Any]]:
        """Return the GPUs of a machine, each as a dict: see `NodeDevices.describe`."""
        ...

    def report(self, machine: str) -> Report | None:
        """Return the last report that has come from a machine; None if none has come yet.

        Its ``age_s`` is the age of its readings at this call.
        """
        ...

    def want(self, machine: str, clocks_mhz: Mapping[str, float]) -> None:
        """Ask for clocks (MHz) by UUID; all other GPUs of the machine run at their own clocks.

        Call it again and again with the whole wish. If a machine hears of no wish for some time (the lease), it
        restores all clocks.
        """
        ...

    def acknowledge(self, machine: str, ledger: str, version: int, audit: int) -> None:
        """Tell a machine what has been stored, so that it need not keep it any longer.

        Args:
            machine: Name of the machine.
            ledger, version: Id of the ledger, and the version of it up to which all rows were stored.
            audit: Number of the last audit entry that was stored.
        """
        ...


def aged(report: Report, seconds: float) -> Report:
    """Return a report that came some seconds ago, with the age that its readings have now."""
    return {**report, "age_s": report["age_s"] + seconds}


def reading_row(reading: Reading) -> dict[str, Any]:
    """Return a reading as a JSON object, without its time, which means nothing on another machine."""
    return {
        "power_w": _known(reading.power_w),
        "energy_j": _known(reading.energy_j),
        "clock_mhz": _known(reading.clock_mhz),
        "locked_mhz": reading.locked_mhz,
        "utilisation": _known(reading.utilisation),
        "held_back": sorted(reading.held_back),
        "power_limit_w": _known(reading.power_limit_w),
        "ecc_errors": _known(reading.ecc_errors),
        "xids": list(reading.xids),
    }


def reading_of(row: Mapping[str, Any] | None) -> Reading | None:
    """Return the reading of a GPU's row in a report; None if the GPU did not answer. Its time is nan."""
    if row is None or row["reading"] is None:
        return None
    found = row["reading"]
    return Reading(
        time_s=math.nan,
        power_w=_number(found["power_w"]),
        energy_j=_number(found["energy_j"]),
        clock_mhz=_number(found["clock_mhz"]),
        locked_mhz=found["locked_mhz"],
        utilisation=_number(found["utilisation"]),
        held_back=frozenset(found["held_back"]),
        power_limit_w=_number(found["power_limit_w"]),
        ecc_errors=_number(found["ecc_errors"]),
        xids=tuple(found["xids"]),
    )


def error_row(error: DeviceError | None) -> dict[str, Any] | None:
    """Return the error of a GPU as a JSON object; None if there is none."""
    return None if error is None else {"text": str(error), "lost": isinstance(error, DeviceLost)}


def error_of(row: Mapping[str, Any]) -> DeviceError | None:
    """Return the error of a GPU's row in a report; None if the GPU answered."""
    found = row["error"]
    return None if found is None else (DeviceLost if found["lost"] else DeviceError)(str(found["text"]))


def gpu_row(
    reading: Reading | None,
    error: DeviceError | None,
    power: MeanPower | None,
    strangers: Sequence[str],
    rank: str,
    clock: Mapping[str, Any],
    work: Sequence[float] = (),
) -> dict[str, Any]:
    """Return the row of one GPU in a report, as a JSON object.

    Args:
        reading: The last reading; None if the GPU did not answer.
        error: Why the GPU did not answer.
        power: Mean power of the GPU at the last reading.
        strangers: Processes on the GPU that belong to no rank, in words.
        rank: Name of the rank that has the GPU; "" if none has it.
        clock: ``asked_mhz`` (None if no clock is asked for), ``holds`` and ``strays``, see `ClockKeeper`.
        work: Counters of the GPU's work, as `powerflow.agent.work.GpuWork` has them; empty if there are none.
    """
    return {
        "reading": None if reading is None else reading_row(reading),
        "error": error_row(error),
        "power": None if power is None else [_known(power.watts), power.seconds],
        "strangers": list(strangers),
        "rank": rank,
        "clock": dict(clock),
        "work": [_known(value) for value in work],
    }


def counters_of(row: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the counters of the work in a GPU's row, nan if unknown; none of an agent of an earlier version."""
    return tuple(map(_number, row.get("work", ())))


def power_of(row: Mapping[str, Any], age_s: float) -> MeanPower:
    """Return the mean power of a GPU's row in a report; nan watts if the GPU reports none.

    Its ``seconds`` say when its period began: they contain the age of the reading.
    """
    watts, seconds = row["power"] or (None, 0.0)
    return MeanPower(_number(watts), float(seconds) + age_s)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
