"""Every joule metered belongs to exactly one job or to idle.

Each GPU is metered in two ways: by its own counter, and by integrating its power over time between readings. The
counter is what counts where there is one (it misses nothing between readings); the integral checks it, stands in for it
across a reset, and takes its place on GPUs without one.

Joules are counted in whole **millijoules**, the counter's own unit, so that sums are exact: what the jobs are charged
and what is left to idle add up to what was metered, to the last one. `advance` is the arithmetic, a pure function;
`Meter` reads GPUs and adds up.
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

#: Where a counter may begin again at 0: after 32 bits of microjoules or millijoules, or 64 bits of millijoules.
WRAPS_J = (2**32 / 1e6, 2**32 / 1e3, 2**64 / 1e3)

#: Readings further apart than this (nobody was there to read) say nothing about the time between them.
GAP_S = 10.0

#: Counter and integral are compared over at least so much, and may differ by so much.
CHECK_S, CHECK_J, CHECK_SHARE = 30.0, 500.0, 0.05


@dataclass(frozen=True, slots=True)
class MeterAccount:
    """What is known of one GPU between two readings.

    Attributes:
        time_s, power_w, energy_j: Of the last reading.
        owner: Job that it has worked for since then; None: nobody.
        total_j: Joules since the meter began.
        owed_mj: Whole millijoules by job (None: idle) that `Meter.settle` has not handed out yet, as pairs.
        counter_j, integral_j, checked_s: Of the window in which both are compared.
        variance_j2: Of that integral, J²: when the power changed between two readings is not known.
        differs: Whether they differed when they were last compared.
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
    """Who drew what since the last settling.

    Attributes:
        since_s, until_s: From when to when, as the caller counts time.
        jobs_mj: Millijoules by job.
        idle_mj: Millijoules of GPUs that nobody owned.
        metered_mj: All of them: the sum of the above.
        lost: UUIDs of GPUs that did not answer; what they drew comes when they do.
    """

    since_s: float
    until_s: float
    jobs_mj: dict[str, int]
    idle_mj: int
    metered_mj: int
    lost: tuple[str, ...]


class Check(NamedTuple):
    """Counter and integral of one GPU over a window: joules each, and by what share of the larger they differ."""

    uuid: str
    window_s: float
    counter_j: float
    integral_j: float
    share: float


def advance(account: MeterAccount, reading: Reading, same_boot: bool = True, *, counts: bool = True) -> MeterAccount:
    """The account after another reading: what was drawn since the last one is owed by its owner then.

    ``same_boot`` is False for the first reading after the machine was started anew: clocks began at 0, no job lives.
    ``counts`` is False where the counter has jumped by what cannot be: the integral counts, the counter goes on from
    there.
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
        # a jump at any moment between them alike: the trapezoid is off by a uniform ±|jump|·seconds/2
        variance_j2=account.variance_j2 + (((reading.power_w - account.power_w) * seconds) ** 2 / 12 if both else 0.0),
    )


def _integral_j(before_w: float, after_w: float, seconds: float) -> float:
    """Power over time, by the trapezoid; from the one that is known where only one is; 0 where nothing is known."""
    known = [watts for watts in (before_w, after_w) if not math.isnan(watts)]
    if not known or not seconds > 0:
        return 0.0
    return sum(known) / len(known) * seconds


def _counted_j(before_j: float, after_j: float, integral_j: float, same_boot: bool) -> float | None:
    """What a counter has counted between two readings; None where it cannot say.

    A counter that went back has wrapped if that makes about as much as was drawn by the integral. Otherwise it was
    reset, at an unknown moment: it has lost what came before, and only the integral knows. With the machine it has
    begun at 0.
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
    """Meters some GPUs. For one thread.

    Call `sample` every second or so (the integral is as good as that), and `settle` whenever a GPU changes hands.

    Args:
        gpus: The GPUs; those that are lost at the start are metered from when they answer.
        state: What `state` of an earlier meter gave, kept together with what it handed out. What was drawn since
            goes to who owned the GPU then; what was drawn before the first meter is nobody's.

    Attributes:
        readings: What the GPUs said when they were last read, by UUID; without those that did not answer.
        errors: Why the others did not, by UUID.
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
        """Read all GPUs, and integrate. Those that take time are read at once: one that is stuck delays no other."""
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
        """Hand out all joules since the last settling; from now on each GPU works for who is named here.

        Args:
            now_s: The moment, as the caller counts time (it is only passed on).
            owners: Job by GPU; a GPU that is not named works for nobody.
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
            # one that does not answer keeps its owner until it does: it has drawn something, nobody knows what
            owner = owners.get(uuid) if uuid in self.readings else account.owner
            self._accounts[uuid] = replace(account, owner=owner, owed_mj=())
        since_s, self._settled_s = self._settled_s if self._settled_s is not None else now_s, now_s
        lost = tuple(gpu.uuid for gpu in self._gpus if gpu.uuid not in self.readings)
        return Settled(since_s, now_s, jobs_mj, idle_mj, sum(jobs_mj.values()) + idle_mj, lost)

    def jumps(self) -> list[Jump]:
        """Jumps of counters that were not believed, each once."""
        found, self._jumps = self._jumps, []
        return found

    def check(self) -> list[Check]:
        """GPUs whose counter and integral have begun to differ by more than `CHECK_SHARE`, beyond what the integral may
        be off itself (three standard deviations); each is told once.

        One that agrees again, and then does not, is told again. Windows begin anew once they are long enough.
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
        """All that a later meter needs to go on, as plain data for JSON."""
        accounts = {}
        for uuid, account in self._accounts.items():
            plain = asdict(account)
            accounts[uuid] = {
                name: None if isinstance(value, float) and math.isnan(value) else value for name, value in plain.items()
            }
        return {"version": VERSION, "boot": boot_id(), "settled_s": self._settled_s, "accounts": accounts}


def _account(plain: Mapping[str, Any]) -> MeterAccount:
    """An account from plain data, where nan is null."""
    known = {name: math.nan if value is None and name != "owner" else value for name, value in plain.items()}
    return MeterAccount(**(known | {"owed_mj": tuple((owner, drawn_mj) for owner, drawn_mj in plain["owed_mj"])}))
