"""Change GPU clocks for a limited time (the lease), and restore them afterwards.

Before the first change of a GPU's clock, its old setting is written to disk. The device directory holds::

    lock                 held while a clock is changed or restored
    prior/UUID.json      for each GPU with a changed clock: its setting before, and how to open the GPU
    lease.json           end of the lease, which the controller renews every few seconds
    watchdog.lock        held by the watchdog as long as it runs
    throttled/           see `throttle`

Until the lease ends, clocks stay as they were set, even if the controller has ended. When the lease has ended, the
**watchdog** (`watchdog`) restores all clocks. The watchdog is a separate process, so it outlives the controller. If the
watchdog is killed, the next renewal of the lease starts a new one. If watchdog and controller are both killed, the next
controller restores the clocks when it starts (`restore_leftovers`). The end of the lease is measured on the clock since
boot: nobody can set that clock, and it also counts while the machine sleeps.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from powerflow.device.emulated.gpu import EmulatedGpu
from powerflow.device.nvml import NvmlGpu, find
from powerflow.device.protocol import DeviceError, DeviceLost, Gpu, NotPermitted, Reading, Unsupported
from powerflow.osutil.files import locked, read_json, replace_json, try_lock
from powerflow.osutil.processes import boot_id, boottime_s

#: How long clocks stay as they were set if nobody renews the lease.
LEASE_S = 30.0


class Clocks:
    """Set the clocks of some GPUs, and restore them. Only one thread may use it.

    A clock is *borrowed* from the first change until it is restored. Clocks that an earlier `Clocks` object of the same
    directory has set and not restored are still borrowed.

    Args:
        directory: The device directory, for the records of borrowed clocks; created if missing.
        gpus: The GPUs.
        say: Function that is called with the reason if clocks cannot be set; once for each reason.
        lease_s: Seconds after the last `renew` at which the watchdog restores the clocks. Call `renew` well before.

    Attributes:
        lease_s: As above. It may be changed, for the next `renew`.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        gpus: Sequence[Gpu],
        say: Callable[[str], None],
        *,
        lease_s: float = LEASE_S,
    ) -> None:
        self._directory = Path(directory)
        (self._directory / "prior").mkdir(parents=True, exist_ok=True)
        self._gpus = {gpu.uuid: gpu for gpu in gpus}
        self._say = say
        self.lease_s = lease_s
        self._left: dict[str, tuple[float, float | None]] = {}  # clock requested last, and clock read after it
        self._refused: set[str] = set()
        self._said = False

    def set(self, uuid: str, clock_mhz: float) -> Reading:
        """Lock a GPU to a clock, unless it is locked to this clock already; return the reading of the GPU afterwards.

        If the clock of this GPU cannot be set, nothing is changed; ``say`` is called the first time.

        Raises:
            KeyError: This object has no GPU with this UUID.
            DeviceLost: The GPU cannot be reached any more.
            DeviceError: The GPU does not answer, or rejects the clock.
        """
        return self._set(uuid, clock_mhz, again=False)

    def set_again(self, uuid: str, clock_mhz: float) -> Reading:
        """Lock a GPU to a clock as `set` does, but even if it seems to be locked to this clock already."""
        return self._set(uuid, clock_mhz, again=True)

    def _set(self, uuid: str, clock_mhz: float, *, again: bool) -> Reading:
        gpu = self._gpus[uuid]
        with locked(self._directory / "lock"):
            reading = gpu.read()
            held = read_json(_note(self._directory, uuid))
            # NVML cannot say what a GPU is locked to: without a note, another process may have restored the clock
            known = reading.locked_mhz is not None and (held is not None or not isinstance(gpu, NvmlGpu))
            as_left = self._left.get(uuid) == (clock_mhz, reading.locked_mhz)
            if uuid in self._refused or (known and not again and (reading.locked_mhz == clock_mhz or as_left)):
                return reading
            self._borrow(gpu, clock_mhz, held, reading)
            after = gpu.read()
            self._left[uuid] = clock_mhz, after.locked_mhz
        return after

    def refuses(self, uuid: str) -> bool:
        """Return True if an earlier attempt has shown that the clock of this GPU cannot be set."""
        return uuid in self._refused

    def renew(self) -> frozenset[str]:
        """Extend the lease (the time for which clocks stay changed), and make sure that the watchdog runs.

        If no clock is changed, do nothing.

        Returns:
            UUIDs of the GPUs whose clock is still changed. If a UUID is missing, the lease had ended and the clock was
            restored.
        """
        with locked(self._directory / "lock"):
            notes = list(_notes(self._directory).values())
            if notes:
                self._renew(notes)
        return frozenset(held["uuid"] for held in notes)

    def borrowed(self) -> frozenset[str]:
        """Return the UUIDs of the GPUs whose clock was changed and must still be restored."""
        return frozenset(held["uuid"] for held in _notes(self._directory).values())

    def release(self, uuid: str) -> None:
        """Restore the clock of one GPU to its old setting, if this clock was changed.

        Raises:
            DeviceError: The GPU rejects the old setting. Its clock still counts as borrowed.
        """
        with locked(self._directory / "lock"):
            note = _note(self._directory, uuid)
            held = read_json(note)
            if held is not None:
                _give_back(self._gpus.get(uuid) or _opened(held), held)
                note.unlink()

    def release_all(self) -> None:
        """Restore all changed clocks to their old settings.

        A clock that cannot be restored now still counts as borrowed.
        """
        restore_leftovers(self._directory, list(self._gpus.values()))

    def _borrow(self, gpu: Gpu, clock_mhz: float, held: Mapping[str, Any] | None, before: Reading) -> None:
        """Lock the clock of a GPU.

        Before the first change of this clock, write the old setting to disk and start the watchdog.
        """
        note = _note(self._directory, gpu.uuid)
        if held is None:
            address = _address(gpu)
            # NVML cannot say what a GPU was locked to, and what our object remembers may be outdated
            prior_mhz = None if address["kind"] == "nvml" else before.locked_mhz
            prior = {"uuid": gpu.uuid, **address, "prior_mhz": prior_mhz}
            replace_json(note, prior, durable=True)
            self._renew([prior])
        elif lease_left_s(self._directory) < self.lease_s / 2:
            self._renew(list(_notes(self._directory).values()))
        try:
            gpu.lock_clock(clock_mhz)
        except (NotPermitted, Unsupported) as error:
            if held is None:
                note.unlink()
            self._refuse(gpu.uuid, error)

    def _renew(self, notes: Sequence[Mapping[str, Any]]) -> None:
        until_s = boottime_s() + self.lease_s
        replace_json(self._directory / "lease.json", {"boot": boot_id(), "until_s": until_s})
        if any(held["kind"] is not None for held in notes):
            _start_watchdog(self._directory)

    def _refuse(self, uuid: str, error: DeviceError) -> None:
        self._refused.add(uuid)
        if isinstance(error, NotPermitted):
            if not self._said:
                self._say(f"GPU clocks cannot be set: {error}. Jobs run at the GPUs' own clocks; the rest works")
            self._said = True
        else:
            self._say(f"the clock of GPU {uuid} cannot be set: {error}")


def restore_leftovers(directory: str | os.PathLike[str], gpus: Sequence[Gpu], keep: Collection[str] = ()) -> list[str]:
    """Restore all borrowed (changed) GPU clocks, except those of the GPUs in ``keep``.

    A controller calls this when it starts, for the case that an earlier controller and the watchdog were both killed.
    If a GPU does not answer or rejects its old setting, its clock stays borrowed.

    Returns:
        UUIDs of the restored GPUs.
    """
    directory = Path(directory)
    if not (directory / "prior").is_dir():
        return []
    with locked(directory / "lock"):
        return _restore(directory, {gpu.uuid: gpu for gpu in gpus}, keep)


def restore_if_ended(directory: Path) -> list[str]:
    """Restore all borrowed (changed) GPU clocks if the lease has ended; return the UUIDs of the restored GPUs.

    The lease is the time for which clocks stay changed. The watchdog calls this function.
    """
    if lease_left_s(directory) > 0:
        return []
    with locked(directory / "lock"):
        # again under the lock: it may have been renewed meanwhile
        return _restore(directory, {}, ()) if lease_left_s(directory) <= 0 else []


def lease_left_s(directory: Path) -> float:
    """Return the seconds until the lease (the time for which clocks stay changed) ends; negative after its end.

    The result is −∞ if there is no lease since the last boot.
    """
    lease = read_json(directory / "lease.json")
    if lease is None or lease["boot"] != boot_id():
        return -math.inf
    return float(lease["until_s"]) - boottime_s()


def borrowed(directory: Path) -> int:
    """Return how many GPUs have a changed clock that must still be restored."""
    return len(_notes(directory))


def ensure_watchdog(directory: str | os.PathLike[str]) -> None:
    """Start the watchdog (the process that restores GPU clocks) of a device directory, if it does not run.

    If several processes call this, only one watchdog starts.
    """
    with locked(Path(directory) / "lock"):
        _start_watchdog(Path(directory))


def _start_watchdog(directory: Path) -> None:
    """Start the watchdog.

    The caller must hold the directory's lock, because a watchdog only ends while it holds that lock.
    """
    file = try_lock(directory / "watchdog.lock")
    if file is None:
        return
    try:
        import subprocess  # not at the top: the watchdog imports this module and must stay small

        # It inherits the lock with the open file, so the lock is never free in between. It detaches itself.
        # -P: import nothing from the current directory
        command = [sys.executable, "-P", "-m", "powerflow.device.watchdog", str(directory.resolve()), str(file)]
        with (directory / "watchdog.log").open("ab") as log:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[file], check=False
            )
        if done.returncode != 0:
            raise DeviceError(f"the device watchdog does not start; see {directory / 'watchdog.log'}")
    finally:
        os.close(file)


def _note(directory: Path, uuid: str) -> Path:
    return directory / "prior" / f"{re.sub('[^A-Za-z0-9-]', '_', uuid)}.json"


def _notes(directory: Path) -> dict[Path, dict[str, Any]]:
    found = {path: read_json(path) for path in sorted((directory / "prior").glob("*.json"))}
    return {path: held for path, held in found.items() if held is not None}


def _address(gpu: Gpu) -> dict[str, Any]:
    """Return what another process needs to open this GPU; ``kind`` is None if no other process can open it."""
    place = {"node": gpu.node, "index": gpu.index}
    if isinstance(gpu, EmulatedGpu):
        return place | {"kind": "emulated", "path": str(gpu.path.resolve())}
    return place | {"kind": "nvml" if isinstance(gpu, NvmlGpu) else None}


def _opened(held: Mapping[str, Any]) -> Gpu:
    if held["kind"] == "emulated":
        return EmulatedGpu(held["path"])
    if held["kind"] == "nvml":
        return find(held["uuid"], held["node"])
    raise DeviceLost(f"GPU {held['uuid']} can only be reached by the process that made it")


def _give_back(gpu: Gpu, held: Mapping[str, Any]) -> None:
    if held["prior_mhz"] is None:
        gpu.unlock_clock()
    else:
        gpu.lock_clock(held["prior_mhz"])


def _restore(directory: Path, gpus: Mapping[str, Gpu], keep: Collection[str]) -> list[str]:
    restored = []
    for note, held in _notes(directory).items():
        if held["uuid"] in keep:
            continue
        with contextlib.suppress(DeviceError):
            _give_back(gpus.get(held["uuid"]) or _opened(held), held)
            note.unlink()
            restored.append(held["uuid"])
    return restored
