"""Meter GPUs, and assign every joule to exactly one job or to idle.

The energy of each GPU is measured in two ways: by the GPU's own energy counter, and by its power readings, integrated
over time. If a GPU has a counter, the counter is used, because it misses nothing between readings. The integral checks
the counter. If the counter was reset or does not exist, the integral is used.

Energy is counted in whole **millijoules**, the counter's own unit, so that sums are exact: the energy of all jobs and
of idle GPUs adds up to the metered energy, to the last millijoule. `advance` is a pure function that does the
arithmetic. `Meter` reads GPUs and adds up.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
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

#: The power that drivers report is a mean over this time (measured on an H200: docs/devices.md).
AVERAGED_S = 1.0

#: Least time between two values of a counter that tells the mean power between them: a driver renews it every 0.1 s.
COUNTED_S = 0.5


@dataclass(frozen=True, slots=True)
class MeterAccount:
    """State of the metering of one GPU between two readings.

    Attributes:
        time_s, power_w, energy_j: Time, power and energy counter of the last reading.
        owner: Job that has used the GPU since the last reading; None if it is idle.
        total_j: Joules since the meter began.
        owed_mj: Pairs of job (None for idle) and whole millijoules that `Meter.settle` has not returned yet.
        counter_j, integral_j: Energy by the counter, and by integrated power, since their last comparison.
        checked_s: Seconds since the last comparison.
        variance_j2: Variance of ``integral_j``, in J². It exists because power changes at an unknown moment between two
            readings.
        differs: True if counter and integral differed at their last comparison.
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
    """Energy of all GPUs since the last call of `Meter.settle`, by job.

    Attributes:
        since_s, until_s: Begin and end of the period, on the caller's clock.
        jobs_mj: Millijoules of each job.
        idle_mj: Millijoules of idle GPUs.
        metered_mj: Sum of all jobs and of idle GPUs, millijoules.
        lost: UUIDs of GPUs that did not answer. Their energy is returned by a later call, when they answer again.
    """

    since_s: float
    until_s: float
    jobs_mj: dict[str, int]
    idle_mj: int
    metered_mj: int
    lost: tuple[str, ...]


class MeanPower(NamedTuple):
    """Mean power of a GPU, or of several GPUs together.

    Attributes:
        watts: Mean power.
        seconds: Length of the period of the mean, which ends now; 0 if it is the power at this moment.
    """

    watts: float
    seconds: float


class Check(NamedTuple):
    """A GPU whose energy counter and integrated power differ.

    Attributes:
        uuid: UUID of the GPU.
        window_s: Length of the compared period, seconds.
        counter_j, integral_j: Energy in this period by the counter, and by integrated power, joules.
        share: Difference between the two energies, as a share of the larger one.
    """

    uuid: str
    window_s: float
    counter_j: float
    integral_j: float
    share: float


def advance(account: MeterAccount, reading: Reading, same_boot: bool = True, *, counts: bool = True) -> MeterAccount:
    """Return the account of a GPU after one more reading.

    The energy since the last reading goes to the account's owner.

    Args:
        account: The account at the last reading.
        reading: The new reading.
        same_boot: False for the first reading after a boot. Then clock and counter began at 0, and no job survived.
        counts: False if the counter has made an impossible jump. Then integrated power is counted for this period, and
            the counter is used again from its new value on.
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


def mean_power(before: MeterAccount, reading: Reading, *, counts: bool, emulated: bool) -> MeanPower:
    """Return the mean power of a GPU at a reading.

    A counter tells the mean power since the last reading. The power that the driver reports is a mean, too, and says
    nothing about a clock that was set only a moment ago. The power of an emulated GPU is that of the present moment.

    Args:
        before: The account at the last reading.
        reading: The reading now.
        counts: False if the counter has made an impossible jump since the last reading.
        emulated: True if the GPU is emulated. Its counter says nothing about single seconds: steps add to it late.
    """
    if emulated:
        return MeanPower(reading.power_w, 0.0)
    seconds, counted_j = reading.time_s - before.time_s, reading.energy_j - before.energy_j
    if counts and COUNTED_S <= seconds <= GAP_S and counted_j >= 0.0:
        return MeanPower(counted_j / seconds, seconds)
    return MeanPower(reading.power_w, AVERAGED_S)


def _integral_j(before_w: float, after_w: float, seconds: float) -> float:
    """Return the energy in joules between two power readings, by the trapezoid rule.

    If one power is nan, the other power is used in its place. If both powers are nan, the result is 0.
    """
    known = [watts for watts in (before_w, after_w) if not math.isnan(watts)]
    if not known or not seconds > 0:
        return 0.0
    return sum(known) / len(known) * seconds


def _counted_j(before_j: float, after_j: float, integral_j: float, same_boot: bool) -> float | None:
    """Return the energy between two values of a counter, joules; None if the values do not tell.

    If the counter went back, it has either wrapped (overflowed to 0) or was reset. It has wrapped if the energy with a
    wrap agrees with ``integral_j``. Otherwise it was reset at an unknown moment, and the values do not tell the energy.
    After a boot the counter begins at 0.
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
    """Meter of some GPUs of one machine. Only one thread may use it.

    Call `sample` about once a second; with shorter intervals the integral of power is more exact. Call `settle`
    whenever a GPU gets another owner (job).

    Args:
        gpus: The GPUs, all of one machine: their readings are on one clock, and end with one boot. A GPU that does not
            answer yet is metered from its first answer on.
        state: Result of `state` of an earlier meter, stored together with the energy that the earlier meter returned.
            Energy since then goes to the GPUs' owners at that time. None: start without earlier energy.
        boot: Id of the machine's present boot; None to ask this machine.

    Attributes:
        readings: Last reading by UUID, of each GPU that answered when it was last read.
        errors: Error by UUID, of each GPU that did not answer when it was last read.
        powers: Mean power by UUID at the last reading.
    """

    def __init__(self, gpus: Sequence[Gpu], state: Mapping[str, Any] | None = None, *, boot: str | None = None) -> None:
        self.readings: dict[str, Reading] = {}
        self.errors: dict[str, DeviceError] = {}
        self.powers: dict[str, MeanPower] = {}
        self._jumps: list[Jump] = []
        self._gpus = gpus
        self._accounts: dict[str, MeterAccount] = {}
        self._settled_s: float | None = None
        self._boot = boot_id() if boot is None else boot
        self._same_boot = True
        if state is not None and state.get("version") == VERSION:
            self._settled_s = state["settled_s"]
            self._same_boot = state["boot"] == self._boot
            self._accounts = {uuid: _account(plain) for uuid, plain in state["accounts"].items()}
        self._unread = set(self._accounts)

    def sample(self, only: Collection[str] | None = None) -> None:
        """Read GPUs, and add the energy since their last reading to their accounts.

        GPUs that take time to answer are read in parallel, so that a GPU that is stuck delays no other GPU.

        Args:
            only: UUIDs of the GPUs to read; None for all GPUs.
        """
        chosen = [gpu for gpu in self._gpus if only is None or gpu.uuid in only]
        for gpu in chosen:
            if isinstance(gpu, ReadsAhead):
                gpu.begin_reading()
        for gpu in chosen:
            try:
                reading = sane(gpu.read())
            except DeviceError as error:
                self.errors[gpu.uuid] = error
                self.readings.pop(gpu.uuid, None)
                self.powers.pop(gpu.uuid, None)
                continue
            self._take(gpu, reading)
            self.errors.pop(gpu.uuid, None)

    def _take(self, gpu: Gpu, reading: Reading) -> None:
        """Add a new reading of a GPU to its account."""
        before, account = self.readings.get(gpu.uuid), self._accounts.get(gpu.uuid)
        self.readings[gpu.uuid] = reading
        if account is None:
            self._accounts[gpu.uuid] = MeterAccount(reading.time_s, reading.power_w, reading.energy_j)
            self.powers[gpu.uuid] = MeanPower(reading.power_w, 0.0 if gpu.emulated else AVERAGED_S)
            return
        same_boot = self._same_boot or gpu.uuid not in self._unread
        self._unread.discard(gpu.uuid)
        jump = None
        if not gpu.emulated:
            integral_j = _integral_j(account.power_w, reading.power_w, reading.time_s - account.time_s)
            counted_j = _counted_j(account.energy_j, reading.energy_j, integral_j, same_boot)
            since_s = account.time_s if same_boot else 0.0
            limit_w = max(limit_of(reading), limit_of(before) if before else MOST_W)
            jump = impossible(gpu.uuid, account.energy_j, reading, since_s, counted_j, limit_w)
        if jump is not None:
            self._jumps.append(jump)
        counts = same_boot and jump is None
        self.powers[gpu.uuid] = mean_power(account, reading, counts=counts, emulated=gpu.emulated)
        self._accounts[gpu.uuid] = advance(account, reading, same_boot, counts=jump is None)

    def hand_out(self, owners: Mapping[str, str | None]) -> dict[str, dict[str | None, int]]:
        """Return the energy of each GPU since the last call, and set the owner of each GPU from its last reading on.

        Args:
            owners: Owner by UUID of the GPU; a GPU that is missing is idle. A GPU that did not answer when it was last
                read keeps its owner until it answers, because its energy since then is unknown.

        Returns:
            Millijoules by UUID and owner; None stands for idle. GPUs without new energy are left out.
        """
        drawn_mj: dict[str, dict[str | None, int]] = {}
        for uuid, account in self._accounts.items():
            if account.owed_mj:
                drawn_mj[uuid] = dict(account.owed_mj)
            owner = owners.get(uuid) if uuid in self.readings else account.owner
            if account.owed_mj or owner != account.owner:
                self._accounts[uuid] = replace(account, owner=owner, owed_mj=())
        return drawn_mj

    def owner(self, uuid: str) -> str | None:
        """Return the owner to which the energy of a GPU goes since its last reading; None if it is idle or unknown."""
        account = self._accounts.get(uuid)
        return account.owner if account is not None else None

    def settle(self, now_s: float, owners: Mapping[str, str | None]) -> Settled:
        """Read all GPUs, return the energy since the last call, and set the owner (a job) of each GPU from now on.

        Args:
            now_s: Time on the caller's clock, which is only copied into the result.
            owners: Job by UUID of the GPU; a GPU that is missing is idle.
        """
        self.sample()
        jobs_mj: dict[str, int] = {}
        idle_mj = 0
        for of_gpu in self.hand_out(owners).values():
            for owner, drawn_mj in of_gpu.items():
                if owner is None:
                    idle_mj += drawn_mj
                else:
                    jobs_mj[owner] = jobs_mj.get(owner, 0) + drawn_mj
        since_s, self._settled_s = self._settled_s if self._settled_s is not None else now_s, now_s
        lost = tuple(gpu.uuid for gpu in self._gpus if gpu.uuid not in self.readings)
        return Settled(since_s, now_s, jobs_mj, idle_mj, sum(jobs_mj.values()) + idle_mj, lost)

    def jumps(self) -> list[Jump]:
        """Return the impossible jumps of energy counters that were found since the last call of this method."""
        found, self._jumps = self._jumps, []
        return found

    def check(self) -> list[Check]:
        """Return the GPUs whose energy counter and integrated power have begun to differ.

        Counter and integral differ if they are apart by more than the share `CHECK_SHARE` plus three standard
        deviations of the integral. A GPU is returned once; it is returned again only if its counter and integral have
        agreed in between. The comparison of a GPU starts again from 0 once its period and its energy are large enough.
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
            plain = {name: getattr(account, name) for name in MeterAccount.__slots__}
            accounts[uuid] = {
                name: None if isinstance(value, float) and math.isnan(value) else value for name, value in plain.items()
            }
        return {"version": VERSION, "boot": self._boot, "settled_s": self._settled_s, "accounts": accounts}


def _account(plain: Mapping[str, Any]) -> MeterAccount:
    """Return the account that plain data describe. In plain data, None stands for nan, except as ``owner``."""
    known = {name: math.nan if value is None and name != "owner" else value for name, value in plain.items()}
    return MeterAccount(**(known | {"owed_mj": tuple((owner, drawn_mj) for owner, drawn_mj in plain["owed_mj"])}))
