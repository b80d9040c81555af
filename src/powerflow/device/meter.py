"""Meter GPUs, and assign every joule to exactly one job or to idle.

Each GPU is metered in two ways: by its own counter, and by integrating its power over time between readings. The
counter counts if there is one (it misses nothing between readings); the integral checks it, and takes its place across
a reset and on GPUs without a counter.

Energy is counted in whole **millijoules**, the counter's own unit, so that sums are exact: the energy of jobs and of
idle add up to what was metered, to the last millijoule. `advance` is the arithmetic, a pure function; `Meter` reads
GPUs and adds up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from powerflow.device.plausible import MOST_W, Jump, impossible, limit_of, sane
from powerflow.device.protocol import DeviceError, Gpu, Reading, ReadsAhead
from powerflow.osutil.processes import boot_id

VERSION = 1

#: Where a counter wraps to 0: after 32 bits of microjoules or millijoules, or 64 bits of millijoules.
WRAPS_J = (2**32 / 1e6, 2**32 / 1e3, 2**64 / 1e3)

#: Readings further apart than this (no controller ran) say nothing about the time between them.
GAP_S = 10.0

#: Counter and integral are compared over at least this time and energy, and may differ by this share.
CHECK_S, CHECK_J, CHECK_SHARE = 30.0, 500.0, 0.05


@dataclass(frozen=True, slots=True)
class MeterAccount:
    """State of the metering of one GPU between two readings.

    Attributes:
        time_s, power_w, energy_j: Of the last reading.
        owner: Job that has used it since then; None: idle.
        total_j: Joules since the meter began.
        owed_mj: Pairs of job (None: idle) and whole millijoules that `Meter.settle` has not returned yet.
        counter_j, integral_j, checked_s: Energy and length of the window in which both are compared.
        variance_j2: Variance of that integral, J²: the moment at which power changed between readings is unknown.
        differs: They differed at the last comparison.
    """

    time_s: float
    power_w: float
    energy_j: float
    owner: str | None = None
    total_j: float = 0.0
    owed_mj: tuple[tuple[str | None, int], ...] = ()
    counter_j: float = 0.0
    integral_j: float = 0.0
    checked_s: float = 0.0
    variance_j2: float = 0.0
    differs: bool = False


class Settled(NamedTuple):
    """Energy since the last settling, by job.

    Attributes:
        since_s, until_s: The period, on the caller's clock.
        jobs_mj: Millijoules by job.
        idle_mj: Millijoules of idle GPUs.
        metered_mj: Sum of the two.
        lost: UUIDs of GPUs that did not answer; their energy is settled when they do.
    """

    since_s: float
    until_s: float
    jobs_mj: dict[str, int]
    idle_mj: int
    metered_mj: int
    lost: tuple[str, ...]


class Check(NamedTuple):
    """Counter and integral of one GPU over a window, joules, and their difference as a share of the larger."""

    uuid: str
    window_s: float
    counter_j: float
    integral_j: float
    share: float


def advance(account: MeterAccount, reading: Reading, same_boot: bool = True, *, counts: bool = True) -> MeterAccount:
    """Return the account after another reading; the energy since the last one belongs to the owner since then.

    ``same_boot`` is False for the first reading after a boot: clocks began at 0, and no job lives. ``counts`` is False
    if the counter has made an impossible jump: then the integral counts, and the counter goes on from its new value.
    """
    seconds = reading.time_s - account.time_s if same_boot else math.nan
    whole = 0.0 <= seconds <= GAP_S
    integral_j = _integral_j(account.power_w, reading.power_w, seconds)
    counter_j = _counted_j(account.energy_j, reading.energy_j, integral_j, same_boot) if counts else None
    drawn_j = counter_j if counter_j is not None else integral_j
    total_j = account.total_j + drawn_j
    drawn_mj = _whole_mj(total_j) - _whole_mj(account.total_j)
    owed = dict(account.owed_mj)
    owner = account.owner if same_boot else None
    owed[owner] = owed.get(owner, 0) + drawn_mj
    both = whole and counter_j is not None and not math.isnan(account.power_w + reading.power_w)
    return replace(
        account,
        time_s=reading.time_s,
        power_w=reading.power_w,
        energy_j=reading.energy_j,
        owner=owner,
        total_j=total_j,
        owed_mj=tuple(owed.items()),
        counter_j=account.counter_j + (counter_j or 0.0) * both,
        integral_j=account.integral_j + integral_j * both,
        checked_s=account.checked_s + (seconds if both else 0.0),
        # power jumps at a uniformly random moment between them: the trapezoid is off by a uniform ±|jump|·seconds/2
        variance_j2=account.variance_j2 + (((reading.power_w - account.power_w) * seconds) ** 2 / 12 if both else 0.0),
    )


def _integral_j(before_w: float, after_w: float, seconds: float) -> float:
    """Integrate power by the trapezoid rule; if one power is nan take the other, if both are return 0."""
    known = [watts for watts in (before_w, after_w) if not math.isnan(watts)]
    if not known or not seconds > 0:
        return 0.0
    return sum(known) / len(known) * seconds


def _counted_j(before_j: float, after_j: float, integral_j: float, same_boot: bool) -> float | None:
    """Return the energy between two values of a counter; None if they do not tell.

    A counter that went back has wrapped if that agrees with the integral. Otherwise it was reset at an unknown moment,
    and only the integral knows the energy before that. At a boot it begins at 0.
    """
    if math.isnan(before_j) or math.isnan(after_j):
        return None
    if after_j >= before_j:
        return after_j - before_j
    if not same_boot:
        return after_j
    for modulus_j in WRAPS_J:
        wrapped_j = after_j + modulus_j - before_j
        if wrapped_j >= 0 and abs(wrapped_j - integral_j) <= 0.5 * integral_j + 1.0:
            return wrapped_j
    return None


def _whole_mj(joules: float) -> int:
    return round(joules * 1e3)


class Meter:
    """Meter of some GPUs, for one thread.

    Call `sample` about every second, which decides how exact the integral is, and `settle` whenever a GPU changes its
    owner.

    Args:
        gpus: The GPUs; those that do not answer yet are metered from their first answer on.
        state: `state` of an earlier meter, stored together with what it settled. The energy since then belongs to
            the owner of that time; energy before the first meter belongs to nobody.

    Attributes:
        readings: Last readings by UUID, without GPUs that did not answer.
        errors: Errors of the others by UUID.
    """

    def __init__(self, gpus: Sequence[Gpu], state: Mapping[str, Any] | None = None) -> None:
        self.readings: dict[str, Reading] = {}
        self.errors: dict[str, DeviceError] = {}
        self._jumps: list[Jump] = []
        self._gpus = gpus
        self._accounts: dict[str, MeterAccount] = {}
        self._settled_s: float | None = None
        self._same_boot = True
        if state is not None and state.get("version") == VERSION:
            self._settled_s = state["settled_s"]
            self._same_boot = state["boot"] == boot_id()
            self._accounts = {uuid: _account(plain) for uuid, plain in state["accounts"].items()}
        self._unread = set(self._accounts)

    def sample(self) -> None:
        """Read all GPUs and integrate power; slow ones are read in parallel, so that a stuck one delays no other."""
        readings: dict[str, Reading] = {}
        errors: dict[str, DeviceError] = {}
        for gpu in self._gpus:
            if isinstance(gpu, ReadsAhead):
                gpu.begin_reading()
        for gpu in self._gpus:
            try:
                reading = sane(gpu.read())
            except DeviceError as error:
                errors[gpu.uuid] = error
                continue
            readings[gpu.uuid] = reading
            account = self._accounts.get(gpu.uuid)
            if account is None:
                self._accounts[gpu.uuid] = MeterAccount(reading.time_s, reading.power_w, reading.energy_j)
                continue
            same_boot = self._same_boot or gpu.uuid not in self._unread
            self._unread.discard(gpu.uuid)
            jump = None
            if not gpu.emulated:
                integral_j = _integral_j(account.power_w, reading.power_w, reading.time_s - account.time_s)
                counted_j = _counted_j(account.energy_j, reading.energy_j, integral_j, same_boot)
                since_s = account.time_s if same_boot else 0.0
                before = self.readings.get(gpu.uuid)
                limit_w = max(limit_of(reading), limit_of(before) if before else MOST_W)
                jump = impossible(gpu.uuid, account.energy_j, reading, since_s, counted_j, limit_w)
            if jump is not None:
                self._jumps.append(jump)
            self._accounts[gpu.uuid] = advance(account, reading, same_boot, counts=jump is None)
        self.readings, self.errors = readings, errors

    def settle(self, now_s: float, owners: Mapping[str, str | None]) -> Settled:
        """Read all GPUs, return the energy since the last settling, and set the owners from now on.

        Args:
            now_s: Time on the caller's clock, which is only passed on.
            owners: Job by GPU; other GPUs are idle.
        """
        self.sample()
        jobs_mj: dict[str, int] = {}
        idle_mj = 0
        for uuid, account in self._accounts.items():
            for owner, drawn_mj in account.owed_mj:
                if owner is None:
                    idle_mj += drawn_mj
                else:
                    jobs_mj[owner] = jobs_mj.get(owner, 0) + drawn_mj
            # a GPU that does not answer keeps its owner until it does: its energy since then is unknown
            owner = owners.get(uuid) if uuid in self.readings else account.owner
            self._accounts[uuid] = replace(account, owner=owner, owed_mj=())
        since_s, self._settled_s = self._settled_s if self._settled_s is not None else now_s, now_s
        lost = tuple(gpu.uuid for gpu in self._gpus if gpu.uuid not in self.readings)
        return Settled(since_s, now_s, jobs_mj, idle_mj, sum(jobs_mj.values()) + idle_mj, lost)

    def jumps(self) -> list[Jump]:
        """Return rejected jumps of counters, each once."""
        found, self._jumps = self._jumps, []
        return found

    def check(self) -> list[Check]:
        """Return GPUs whose counter and integral have begun to differ, each once.

        They differ if they are apart by more than `CHECK_SHARE` and three standard deviations of the integral. A GPU
        is returned again if they have agreed meanwhile. Windows restart once they are long enough.
        """
        found = []
        for uuid, account in self._accounts.items():
            more_j = max(account.counter_j, account.integral_j)
            if account.checked_s < CHECK_S or more_j < CHECK_J:
                continue
            apart_j = abs(account.counter_j - account.integral_j)
            share = apart_j / more_j
            differs = apart_j > CHECK_SHARE * more_j + 3 * math.sqrt(account.variance_j2)
            if differs and not account.differs:
                found.append(Check(uuid, account.checked_s, account.counter_j, account.integral_j, share))
            self._accounts[uuid] = replace(
                account, counter_j=0.0, integral_j=0.0, checked_s=0.0, variance_j2=0.0, differs=differs
            )
        return found

    def state(self) -> dict[str, Any]:
        """Return all that a later meter needs to continue, as plain data for JSON."""
        accounts = {}
        for uuid, account in self._accounts.items():
            plain = asdict(account)
            accounts[uuid] = {
                name: None if isinstance(value, float) and math.isnan(value) else value for name, value in plain.items()
            }
        return {"version": VERSION, "boot": boot_id(), "settled_s": self._settled_s, "accounts": accounts}


def _account(plain: Mapping[str, Any]) -> MeterAccount:
    """Return an account from plain data, in which None is nan."""
    known = {name: math.nan if value is None and name != "owner" else value for name, value in plain.items()}
    return MeterAccount(**(known | {"owed_mj": tuple((owner, drawn_mj) for owner, drawn_mj in plain["owed_mj"])}))
