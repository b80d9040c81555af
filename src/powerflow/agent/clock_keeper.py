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
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from powerflow.device.lease import LEASE_S, Clocks
from powerflow.device.nvml import NEAR_MHZ, NEAR_SHARE, is_above
from powerflow.device.protocol import DeviceError, Gpu, Reading

#: How often the lease of the clocks is renewed, seconds.
RENEW_S = 5.0
#: How long a driver may take to set a clock, seconds.
SETTLE_S = 3.0
#: A GPU that is busy for a larger share of the time than this is not slow because it idles.
BUSY = 0.5
#: Requests in vain before a notice says so; and the longest time between two requests, seconds.
SAID_AFTER, MOST_WAIT_S = 2, 60.0


class ClockChange(NamedTuple):
    """A clock that was set, lost or restored: the GPU's UUID, what happened, and the clocks in MHz."""

    uuid: str
    action: str
    fields: Mapping[str, float]


@dataclass(slots=True)
class _Asked:
    mhz: float
    asked_s: float  # on the machine's monotonic clock, as readings are
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
    """Keep the clocks of all GPUs of one machine. Only one thread may use it.

    Args:
        gpus: All GPUs, by UUID.
        clocks: Sets and resets the clocks of GPUs, under a lease.
        clock: Function that returns the present time, in seconds on the clock of the readings.
    """

    def __init__(self, gpus: Mapping[str, Gpu], clocks: Clocks, clock: Callable[[], float] = time.monotonic) -> None:
        self._gpus, self._clocks, self._clock = gpus, clocks, clock
        self._asked: dict[str, _Asked] = {}
        self._late: dict[str, tuple[str, float]] = {}  # clocks that could not be reset: why, and when to try again
        self._renewed_s = -math.inf
        self._changes: list[ClockChange] = []  # not taken yet

    def start(self) -> None:
        """Keep the clocks that an earlier controller has set, until the next `tune`."""
        borrowed = self._clocks.borrowed()
        self._asked = {
            uuid: _Asked(math.nan, -math.inf, -math.inf, borrowed=True) for uuid in self._gpus if uuid in borrowed
        }

    def take_changes(self) -> list[ClockChange]:
        """Return the changes of clocks since the last call, in order."""
        changes, self._changes = self._changes, []
        return changes

    def tune(
        self,
        wanted: Mapping[str, float],
        readings: Mapping[str, Reading],
        silent: Collection[str] = (),
        lease_s: float = LEASE_S,
    ) -> dict[str, Reading]:
        """Set GPUs to the ``wanted`` clocks (MHz), and reset the clocks of all other GPUs.

        Args:
            wanted: Clocks in MHz, by UUID.
            readings: The last readings.
            silent: GPUs that do not answer; they are left alone.
            lease_s: Seconds for which clocks may stay as they are set, if this is not called again. 0: only restore.

        Returns:
            New readings, of the GPUs that were asked for a clock by this call.
        """
        moment_s = self._clock()
        if lease_s > 0:
            self._clocks.lease_s = min(lease_s, LEASE_S)
            if moment_s - self._renewed_s >= min(RENEW_S, lease_s / 3):
                self._renew(moment_s)
        for uuid in [*(self._asked.keys() - wanted.keys()), *(self._late.keys() - wanted.keys())]:
            self._give_back(uuid, moment_s)
        said = {}
        for uuid, mhz in wanted.items():
            if uuid not in self._gpus or uuid in silent:
                continue
            asked = self._asked.get(uuid)
            if asked is None or asked.mhz != mhz:
                asked = self._asked[uuid] = _Asked(mhz, moment_s, moment_s)
                reading = self._ask(uuid, asked, self._clocks.set, moment_s)
            else:
                reading = self._check(uuid, asked, readings.get(uuid), moment_s)
            if reading is None:
                continue
            said[uuid] = reading
            self._note(uuid, asked, reading)
        return said

    def holds(self, uuids: Collection[str]) -> bool:
        """Return True if the readings show each of these GPUs at the clock that it was asked for."""
        return all(uuid in self._asked and self._asked[uuid].holds for uuid in uuids)

    def strays(self, uuid: str) -> bool:
        """Return True if the last reading shows a GPU at another clock than the one that it was asked for.

        A lower clock with a known reason (heat, power limit, idle) does not count.
        """
        asked = self._asked.get(uuid)
        return asked is not None and (asked.off or bool(asked.error))

    def asked_mhz(self, uuid: str) -> float | None:
        """Return the clock (MHz) that a GPU was asked for; None if no clock was asked for."""
        asked = self._asked.get(uuid)
        return asked.mhz if asked is not None and math.isfinite(asked.mhz) else None

    def notices(self) -> list[str]:
        """Return the GPUs whose clocks are wrong, one line each."""
        found = [f"{self._name(uuid)}: {why}" for uuid, (why, _) in self._late.items()]
        for uuid, asked in self._asked.items():
            if asked.vain > SAID_AFTER and asked.error:
                found.append(f"{self._name(uuid)}: {asked.error}")
        return found

    def finish(self) -> None:
        """Reset the clocks of all GPUs."""
        self._clocks.release_all()

    def _renew(self, moment_s: float) -> None:
        """Renew the lease. Forget clocks that the watchdog has reset in the meantime, so that they are set again."""
        borrowed = self._clocks.renew()
        for uuid, asked in list(self._asked.items()):
            if asked.borrowed and uuid not in borrowed:
                del self._asked[uuid]
                self._audit("clock was reset, because its lease had ended", uuid)
        self._renewed_s = moment_s

    def _check(self, uuid: str, asked: _Asked, reading: Reading | None, moment_s: float) -> Reading | None:
        """Ask a GPU again for its clock if a reading shows that the clock is lost, or if the last request failed."""
        if self._clocks.refuses(uuid):
            return None
        state = stands(asked.mhz, asked.asked_s, reading) if reading is not None else ""
        asked.off = reading is not None and is_above(reading.clock_mhz, asked.mhz)
        if state == "holds" and reading is not None:
            asked.error = ""
            self._note(uuid, asked, reading)
        if state in ("above", "below") and reading is not None:
            if asked.holds:
                self._audit("clock lost", uuid, clock_mhz=asked.mhz, read_mhz=reading.clock_mhz)
            asked.holds = False
            asked.error = f"it runs at {reading.clock_mhz:.0f} MHz instead of the requested {asked.mhz:.0f} MHz"
        elif not asked.error:
            return None
        if moment_s < asked.next_s:
            return None
        asked.asked_s = moment_s
        return self._ask(uuid, asked, self._clocks.set_again, moment_s)

    def _ask(self, uuid: str, asked: _Asked, ask: Callable[[str, float], Reading], moment_s: float) -> Reading | None:
        asked.next_s = moment_s + min(SETTLE_S * 2.0**asked.vain, MOST_WAIT_S)
        asked.vain += 1
        try:
            reading = ask(uuid, asked.mhz)
        except DeviceError as error:
            asked.error = f"its clock cannot be set: {self._words(error, uuid)}"
            asked.vain = max(asked.vain, SAID_AFTER + 1)
            return None
        asked.borrowed = uuid in self._clocks.borrowed()
        return None if self._clocks.refuses(uuid) else reading

    def _note(self, uuid: str, asked: _Asked, reading: Reading) -> None:
        """Write to the audit what a GPU answered. Its clock counts as set only after it was read."""
        if asked.holds:
            return
        if stands(asked.mhz, asked.asked_s, reading) == "holds":
            asked.holds, asked.vain, asked.error = True, 0, ""
            self._audit("clock set", uuid, clock_mhz=asked.mhz)
        elif asked.vain == 1:
            self._audit("clock asked", uuid, clock_mhz=asked.mhz, read_mhz=reading.clock_mhz)

    def _give_back(self, uuid: str, moment_s: float) -> None:
        asked = self._asked.get(uuid)
        if asked is None and moment_s < self._late[uuid][1]:
            return
        self._asked.pop(uuid, None)
        try:
            self._clocks.release(uuid)
        except DeviceError as error:
            self._late[uuid] = f"its own clock cannot be restored: {self._words(error, uuid)}", moment_s + RENEW_S
        else:
            self._late.pop(uuid, None)
            if asked is not None and asked.borrowed:
                self._audit("clock back", uuid)

    def _audit(self, action: str, uuid: str, **fields: float) -> None:
        known = {name: value for name, value in fields.items() if math.isfinite(value)}
        self._changes.append(ClockChange(uuid, action, known))

    def _name(self, uuid: str) -> str:
        gpu = self._gpus[uuid]
        return f"GPU {gpu.index} of {gpu.node}"

    def _words(self, error: DeviceError, uuid: str) -> str:
        """Return what went wrong, for a line that already names the GPU."""
        return str(error).removeprefix(f"{self._name(uuid)}: ")
