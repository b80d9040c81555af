"""Record readings of GPUs to a file, and play a recording back as GPUs, to test metering on real data.

The file is a CSV with a header. Each row is one reading of one GPU; rows are in order of time::

    time_s,uuid,node,index,gpu_type,power_w,energy_j,clock_mhz,locked_mhz,utilisation

``time_s`` counts from the start of the recording. An empty field means that the GPU did not report the value (nan). An
empty ``locked_mhz`` means that the clock was not locked. Only ``time_s`` and ``power_w`` are required.
"""

from __future__ import annotations

import csv
import math
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from powerflow.device.protocol import DeviceLost, Gpu, Reading, Unsupported
from powerflow.errors import InputError

COLUMNS = (
    "time_s",
    "uuid",
    "node",
    "index",
    "gpu_type",
    "power_w",
    "energy_j",
    "clock_mhz",
    "locked_mhz",
    "utilisation",
)


def record(gpus: Sequence[Gpu], path: Path, seconds: float, interval_s: float) -> int:
    """Record readings of GPUs to a file; return the number of rows.

    Each GPU is read every ``interval_s`` seconds, for ``seconds`` seconds.

    Raises:
        DeviceLost: A GPU stopped answering. The file has the readings until then.
    """
    rows = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        began_s = time.monotonic()
        for turn in range(int(seconds / interval_s) + 1):
            time.sleep(max(0.0, began_s + turn * interval_s - time.monotonic()))
            for gpu in gpus:
                reading = gpu.read()
                told = (reading.power_w, reading.energy_j, reading.clock_mhz, reading.locked_mhz, reading.utilisation)
                plain = ["" if value is None or math.isnan(value) else repr(value) for value in told]
                writer.writerow([repr(reading.time_s - began_s), gpu.uuid, gpu.node, gpu.index, gpu.gpu_type, *plain])
                rows += 1
    return rows


def open_replay(path: Path, now: Callable[[], float] = time.monotonic) -> list[ReplayGpu]:
    """Return the GPUs of a recording, which starts to play at once.

    Args:
        path: The file with the recording.
        now: Clock of the playback: returns the current time in seconds.

    Raises:
        InputError: The file cannot be read, a row is damaged, or the rows are not in order of time.
    """
    readings: dict[tuple[str, str, int, str], list[Reading]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            missing = {"time_s", "power_w"} - set(rows.fieldnames or ())
            if missing:
                raise InputError(f"has no column {sorted(missing)[0]}", where=str(path))
            for row in rows:
                where = f"{path}:{rows.line_num}"
                who = (row.get("uuid") or "RECORDED", row.get("node") or "recorded", _index(row, where))
                played = readings.setdefault((*who, row.get("gpu_type") or "unknown"), [])
                played.append(_reading(row, where))
                if len(played) > 1 and played[-1].time_s < played[-2].time_s:
                    raise InputError("is earlier than the row before", where=where)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot be read ({error})", where=str(path), exit_code=1) from error
    if not readings:
        raise InputError("holds no reading", where=str(path))
    began_s = now()
    return [ReplayGpu(*who, played, now, began_s) for who, played in readings.items()]


class ReplayGpu:
    """A GPU that plays back a recording. Its clock cannot be set. It counts as emulated, because it is not hardware."""

    emulated = True

    def __init__(
        self,
        uuid: str,
        node: str,
        index: int,
        gpu_type: str,
        readings: Sequence[Reading],
        now: Callable[[], float],
        began_s: float,
    ) -> None:
        self.uuid = uuid
        self.node = node
        self.index = index
        self.gpu_type = gpu_type
        self._readings = readings
        self._times_s = [reading.time_s for reading in readings]
        self._now = now
        self._began_s = began_s

    def read(self) -> Reading:
        """Return the reading that the recording has for this moment, with its time on the clock of the playback.

        Raises:
            DeviceLost: The recording has ended.
        """
        played_s = self._now() - self._began_s
        if played_s > self._times_s[-1]:
            raise DeviceLost(f"the recording of GPU {self.uuid} has ended")
        # before its first row, use the first row
        reading = self._readings[max(0, bisect_right(self._times_s, played_s) - 1)]
        return replace(reading, time_s=self._began_s + reading.time_s)

    def clocks_mhz(self) -> Sequence[float]:
        """Raise `Unsupported`: a recorded GPU has no clocks to lock."""
        raise Unsupported("a recording has no clocks to lock")

    def lock_clock(self, clock_mhz: float) -> None:
        """Raise `Unsupported`: the clock of a recorded GPU cannot be set."""
        raise Unsupported("a recording's clock cannot be changed")

    def unlock_clock(self) -> None:
        """Raise `Unsupported`: the clock of a recorded GPU cannot be set."""
        raise Unsupported("a recording's clock cannot be changed")


def _index(row: dict[str, str], where: str) -> int:
    text = row.get("index") or "0"
    if not text.isdecimal():
        raise InputError(f"index is {text!r}", where=where, fix="give a whole number, 0 or above")
    return int(text)


def _reading(row: dict[str, str], where: str) -> Reading:
    def number(name: str) -> float:
        text = row.get(name) or ""
        try:
            value = float(text) if text else math.nan
        except ValueError:
            value = math.inf
        if math.isinf(value):
            raise InputError(f"{name} is {text!r}", where=where, fix="give a number, or nothing")
        return value

    time_s, locked_mhz = number("time_s"), number("locked_mhz")
    if math.isnan(time_s):
        raise InputError("has no time_s", where=where)
    return Reading(
        time_s=time_s,
        power_w=number("power_w"),
        energy_j=number("energy_j"),
        clock_mhz=number("clock_mhz"),
        locked_mhz=None if math.isnan(locked_mhz) else locked_mhz,
        utilisation=number("utilisation"),
    )
