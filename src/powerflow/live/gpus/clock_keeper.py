"""Keep GPUs at the wanted clocks, and detect GPUs that run at another clock.

The clock *asked for* is the one that PowerFlow last requested. It *holds* once a later reading shows the GPU at it.
Readings that show another clock are handled so:

- A higher clock: somebody or a watchdog has reset the clock, or the driver did not obey. PowerFlow asks again at once,
  and after that less and less often.
- A lower clock, for which the driver names a reason (heat, power limit, idle): PowerFlow does nothing.
- A lower clock without such a reason, while the GPU is busy: somebody else has locked the clock. PowerFlow asks again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from powerflow.api.governance import AuditRecord
from powerflow.device.lease import Clocks
from powerflow.device.nvml import NEAR_MHZ, NEAR_SHARE, is_above
from powerflow.device.protocol import DeviceError, Gpu, Place, Reading

#: How often the lease of the clocks is renewed, seconds.
RENEW_S = 5.0
#: How long a driver may take to set a clock, seconds.
SETTLE_S = 3.0
#: A GPU that is busy for a larger share of the time than this is not slow because it idles.
BUSY = 0.5
#: Requests in vain before a notice says so; and the longest time between two requests, seconds.
SAID_AFTER, MOST_WAIT_S = 2, 60.0


@dataclass(slots=True)
class _Asked:
    mhz: float
    asked_s: float  # on this machine's monotonic clock, as readings are
    next_s: float  # time of the next request at the earliest
    holds: bool = False
    borrowed: bool = False
    off: bool = False  # the last reading was above ``mhz``, perhaps too soon after the request
    vain: int = 0  # requests since the clock last held
    error: str = ""


def stands(mhz: float, asked_s: float, reading: Reading) -> str:
    """Compare the clock at which a GPU runs with the clock that was asked for.

    Args:
        mhz, asked_s: The clock that was asked for, and when.
        reading: A reading of the GPU; a reading from before the request tells nothing.

    Returns:
        ``holds``, ``above`` or ``below``; "" if the reading cannot tell.
    """
    if reading.time_s < asked_s or math.isnan(reading.clock_mhz):
        return ""
    if is_above(reading.clock_mhz, mhz):
        return "above" if reading.time_s - asked_s >= SETTLE_S else ""
    if reading.clock_mhz >= mhz - max(NEAR_MHZ, NEAR_SHARE * mhz):
        return "holds"
    settled = reading.time_s - asked_s >= SETTLE_S
    return "below" if settled and not reading.held_back and reading.utilisation > BUSY else ""


class ClockKeeper:
    """Keep the clocks of all GPUs. Only the controller's loop may use it.

    Args:
        gpus: All GPUs, by node and number.
        clocks: Sets and resets the clocks of GPUs, under a lease.
        clock: Function that returns the present time, in seconds on the clock of the readings.
    """

    def __init__(self, gpus: Mapping[Place, Gpu], clocks: Clocks, clock: Callable[[], float] = time.monotonic) -> None:
        self._gpus, self._clocks, self._clock = gpus, clocks, clock
        self._asked: dict[Place, _Asked] = {}
        self._late: dict[Place, tuple[str, float]] = {}  # clocks that could not be reset: why, and when to try again
        self._renewed_s = -math.inf
        self._changes: list[AuditRecord] = []  # not in the audit yet

    def start(self) -> None:
        """Keep the clocks that an earlier controller has set, until the next `tune`."""
        borrowed = self._clocks.borrowed()
        self._asked = {
            place: _Asked(math.nan, -math.inf, -math.inf, borrowed=True)
            for place, gpu in self._gpus.items()
            if gpu.uuid in borrowed
        }

    def write_changes(self, write: Callable[[Sequence[AuditRecord]], None]) -> None:
        """Give ``write`` the clock changes since the last call. If ``write`` fails, the next call gives them again."""
        if self._changes:
            write(self._changes)
            self._changes = []

    def tune(
        self, now_s: float, wanted: Mapping[Place, float], readings: Mapping[Place, Reading], out: Collection[Place]
    ) -> dict[Place, Reading]:
        """Set GPUs to the ``wanted`` clocks (MHz), and reset the clocks of all other GPUs.

        Args:
            now_s: Unix seconds, for the audit.
            wanted: Clocks in MHz, by GPU.
            readings: The last readings.
            out: GPUs that are out of service; they are left alone.

        Returns:
            New readings, of the GPUs that were asked for a clock by this call.
        """
        moment_s = self._clock()
        self._renew(now_s, moment_s)
        for place in [*(self._asked.keys() - wanted.keys()), *(self._late.keys() - wanted.keys())]:
            self._give_back(place, now_s, moment_s)
        said = {}
        for place, mhz in wanted.items():
            if place not in self._gpus or place in out:
                continue
            asked = self._asked.get(place)
            if asked is None or asked.mhz != mhz:
                asked = self._asked[place] = _Asked(mhz, moment_s, moment_s)
                reading = self._ask(place, asked, self._clocks.set, moment_s)
            else:
                reading = self._check(place, asked, readings.get(place), now_s, moment_s)
            if reading is None:
                continue
            said[place] = reading
            self._note(place, asked, reading, now_s)
        return said

    def holds(self, places: Collection[Place]) -> bool:
        """Return True if the readings show each of these GPUs at the clock that it was asked for."""
        return all(place in self._asked and self._asked[place].holds for place in places)

    def strays(self, place: Place) -> bool:
        """Return True if the last reading shows a GPU at another clock than the one that it was asked for.

        A lower clock with a known reason (heat, power limit, idle) does not count.
        """
        asked = self._asked.get(place)
        return asked is not None and (asked.off or bool(asked.error))

    def asked_mhz(self, place: Place) -> float | None:
        """Return the clock (MHz) that a GPU was asked for; None if no clock was asked for."""
        asked = self._asked.get(place)
        return asked.mhz if asked is not None and math.isfinite(asked.mhz) else None

    def notices(self) -> list[str]:
        """Return the GPUs whose clocks are wrong, one line each."""
        found = [f"GPU {number} of {node}: {why}" for (node, number), (why, _) in self._late.copy().items()]
        for (node, number), asked in self._asked.copy().items():
            if asked.vain > SAID_AFTER and asked.error:
                found.append(f"GPU {number} of {node}: {asked.error}")
        return found

    def finish(self) -> None:
        """Reset the clocks of all GPUs."""
        self._clocks.release_all()

    def _renew(self, now_s: float, moment_s: float) -> None:
        """Renew the lease. Forget clocks that the watchdog has reset in the meantime, so that they are set again."""
        if moment_s - self._renewed_s < RENEW_S:
            return
        borrowed = self._clocks.renew()
        for place, asked in list(self._asked.items()):
            if asked.borrowed and self._gpus[place].uuid not in borrowed:
                del self._asked[place]
                self._audit("clock was reset, because its lease had ended", place, now_s)
        self._renewed_s = moment_s

    def _check(
        self, place: Place, asked: _Asked, reading: Reading | None, now_s: float, moment_s: float
    ) -> Reading | None:
        """Ask a GPU again for its clock if a reading shows that the clock is lost, or if the last request failed."""
        if self._clocks.refuses(self._gpus[place].uuid):
            return None
        state = stands(asked.mhz, asked.asked_s, reading) if reading is not None else ""
        asked.off = reading is not None and is_above(reading.clock_mhz, asked.mhz)
        if state == "holds" and reading is not None:
            asked.error = ""
            self._note(place, asked, reading, now_s)
        if state in ("above", "below") and reading is not None:
            if asked.holds:
                self._audit("clock lost", place, now_s, clock_mhz=asked.mhz, read_mhz=reading.clock_mhz)
            asked.holds = False
            asked.error = f"it runs at {reading.clock_mhz:.0f} MHz instead of the requested {asked.mhz:.0f} MHz"
        elif not asked.error:
            return None
        if moment_s < asked.next_s:
            return None
        asked.asked_s = moment_s
        return self._ask(place, asked, self._clocks.set_again, moment_s)

    def _ask(
        self, place: Place, asked: _Asked, ask: Callable[[str, float], Reading], moment_s: float
    ) -> Reading | None:
        asked.next_s = moment_s + min(SETTLE_S * 2.0**asked.vain, MOST_WAIT_S)
        asked.vain += 1
        try:
            reading = ask(self._gpus[place].uuid, asked.mhz)
        except DeviceError as error:
            asked.error = f"its clock cannot be set: {_words(error, place)}"
            asked.vain = max(asked.vain, SAID_AFTER + 1)
            return None
        asked.borrowed = self._gpus[place].uuid in self._clocks.borrowed()
        return None if self._clocks.refuses(self._gpus[place].uuid) else reading

    def _note(self, place: Place, asked: _Asked, reading: Reading, now_s: float) -> None:
        """Write to the audit what a GPU answered. Its clock counts as set only after it was read."""
        if asked.holds:
            return
        if stands(asked.mhz, asked.asked_s, reading) == "holds":
            asked.holds, asked.vain, asked.error = True, 0, ""
            self._audit("clock set", place, now_s, clock_mhz=asked.mhz)
        elif asked.vain == 1:
            self._audit("clock asked", place, now_s, clock_mhz=asked.mhz, read_mhz=reading.clock_mhz)

    def _give_back(self, place: Place, now_s: float, moment_s: float) -> None:
        asked = self._asked.get(place)
        if asked is None and moment_s < self._late[place][1]:
            return
        self._asked.pop(place, None)
        try:
            self._clocks.release(self._gpus[place].uuid)
        except DeviceError as error:
            self._late[place] = f"its own clock cannot be restored: {_words(error, place)}", moment_s + RENEW_S
        else:
            self._late.pop(place, None)
            if asked is not None and asked.borrowed:
                self._audit("clock back", place, now_s)

    def _audit(self, action: str, place: Place, now_s: float, **fields: float) -> None:
        known = {name: value for name, value in fields.items() if math.isfinite(value)}
        self._changes.append(AuditRecord(0, now_s, "powerflow", "", action, f"{place[0]}/{place[1]}", known))


def _words(error: DeviceError, place: Place) -> str:
    """Return what went wrong, for a line that already names the GPU."""
    return str(error).removeprefix(f"GPU {place[1]} of {place[0]}: ")
