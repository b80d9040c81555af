"""Clocks are borrowed: noted on disk before they are first changed, and given back when the lease ends, whoever died.

The device directory holds::

    lock                 held by whoever changes a clock or gives one back
    prior/UUID.json      one GPU whose clock was changed: what it was locked to before, and how to reach it
    lease.json           until when the lease lasts; the controller renews it every few seconds
    watchdog.lock        held by the living watchdog
    throttled/           see `throttle`

While the lease lasts, clocks stay as they were set, also without a controller. Once it has ended, the **watchdog**
(`watchdog`) gives every clock back. It is a process of its own, so it outlives the controller; if it is killed, the
next renewal starts another; if both are, the next start of the controller gives back what is left
(`restore_leftovers`). The lease is counted on the clock of the boot, which no one sets and sleep does not stop.
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

#: How long clocks stay as they were set when nobody renews the lease.
LEASE_S = 30.0


class Clocks:
    """The clocks of some GPUs, borrowed. For one thread.

    GPUs whose clocks an earlier `Clocks` of the same directory has set, and nobody has given back, stay borrowed.

    Args:
        directory: The device directory; made if it is not there.
        gpus: The GPUs.
        say: Is told, once each, what cannot be done and why.
        lease_s: See `LEASE_S`; call `renew` well before that.
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
        self._lease_s = lease_s
        self._left: dict[str, tuple[float, float | None]] = {}  # what was asked for last, and what was read then
        self._refused: set[str] = set()
        self._said = False

    def set(self, uuid: str, clock_mhz: float) -> Reading:
        """Lock a GPU to a clock, unless it is already; returns what it says of itself afterwards.

        Where clocks may not or cannot be set nothing happens, and `say` is told once.

        Raises:
            KeyError: For a GPU that is not among these.
            DeviceLost, DeviceError: If the GPU does not answer, or does not take it.
        """
        gpu = self._gpus[uuid]
        with locked(self._directory / "lock"):
            reading = gpu.read()
            held = read_json(_note(self._directory, uuid))
            # NVML cannot say what a GPU is locked to: without a note, another process may have given the clock back
            known = reading.locked_mhz is not None and (held is not None or not isinstance(gpu, NvmlGpu))
            as_left = self._left.get(uuid) == (clock_mhz, reading.locked_mhz)
            if uuid in self._refused or (known and (reading.locked_mhz == clock_mhz or as_left)):
                return reading
            self._borrow(gpu, clock_mhz, held, reading)
            after = gpu.read()
            self._left[uuid] = clock_mhz, after.locked_mhz
        return after

    def set_again(self, uuid: str, clock_mhz: float) -> Reading:
        """Lock a GPU to a clock, also if it seems to be locked to it; otherwise as `set`."""
        gpu = self._gpus[uuid]
        with locked(self._directory / "lock"):
            reading = gpu.read()
            if uuid in self._refused:
                return reading
            self._borrow(gpu, clock_mhz, read_json(_note(self._directory, uuid)), reading)
            after = gpu.read()
            self._left[uuid] = clock_mhz, after.locked_mhz
        return after

    def refuses(self, uuid: str) -> bool:
        """Whether the clock of a GPU has turned out to be out of our hands."""
        return uuid in self._refused

    def renew(self) -> frozenset[str]:
        """The lease lasts anew from now, and the watchdog runs; nothing happens while nothing is borrowed.

        Returns:
            UUIDs still borrowed. One that is missing was given back meanwhile: we came after the lease had ended.
        """
        with locked(self._directory / "lock"):
            notes = list(_notes(self._directory).values())
            if notes:
                self._renew(notes)
        return frozenset(held["uuid"] for held in notes)

    def borrowed(self) -> frozenset[str]:
        """UUIDs of the GPUs whose prior setting is still to be given back."""
        return frozenset(held["uuid"] for held in _notes(self._directory).values())

    def release(self, uuid: str) -> None:
        """Give one clock back as it was; nothing happens if it is not borrowed.

        Raises:
            DeviceError: If the GPU does not take it; it stays borrowed.
        """
        with locked(self._directory / "lock"):
            note = _note(self._directory, uuid)
            held = read_json(note)
            if held is not None:
                _give_back(self._gpus.get(uuid) or _opened(held), held)
                note.unlink()

    def release_all(self) -> None:
        """Give all clocks back that can be; the others stay borrowed."""
        restore_leftovers(self._directory, list(self._gpus.values()))

    def _borrow(self, gpu: Gpu, clock_mhz: float, held: Mapping[str, Any] | None, before: Reading) -> None:
        """Lock the clock; before the first time, note on disk how it was, and see that somebody watches."""
        note = _note(self._directory, gpu.uuid)
        if held is None:
            address = _address(gpu)
            # NVML cannot say what a GPU was locked to: what our own object remembers may be over
            prior_mhz = None if address["kind"] == "nvml" else before.locked_mhz
            prior = {"uuid": gpu.uuid, **address, "prior_mhz": prior_mhz}
            replace_json(note, prior, durable=True)
            self._renew([prior])
        elif lease_left_s(self._directory) < self._lease_s / 2:
            self._renew(list(_notes(self._directory).values()))
        try:
            gpu.lock_clock(clock_mhz)
        except (NotPermitted, Unsupported) as error:
            if held is None:
                note.unlink()
            self._refuse(gpu.uuid, error)

    def _renew(self, notes: Sequence[Mapping[str, Any]]) -> None:
        until_s = boottime_s() + self._lease_s
        replace_json(self._directory / "lease.json", {"boot": boot_id(), "until_s": until_s})
        if any(held["kind"] is not None for held in notes):
            _start_watchdog(self._directory)

    def _refuse(self, uuid: str, error: DeviceError) -> None:
        self._refused.add(uuid)
        if isinstance(error, NotPermitted):
            if not self._said:
                self._say(f"GPU clocks cannot be set: {error}. Everything else works; jobs run at the GPUs' own clocks")
            self._said = True
        else:
            self._say(f"the clock of GPU {uuid} cannot be set: {error}")


def restore_leftovers(directory: str | os.PathLike[str], gpus: Sequence[Gpu], keep: Collection[str] = ()) -> list[str]:
    """Give back the clocks that are still borrowed, but for those in ``keep``; returns the UUIDs given back.

    For the start of a controller: what a dead one left behind, where no watchdog has been there before it. A GPU
    that does not answer or does not take it stays noted.
    """
    directory = Path(directory)
    if not (directory / "prior").is_dir():
        return []
    with locked(directory / "lock"):
        return _restore(directory, {gpu.uuid: gpu for gpu in gpus}, keep)


def restore_if_ended(directory: Path) -> list[str]:
    """Give back all clocks if the lease has ended: what the watchdog does."""
    if lease_left_s(directory) > 0:
        return []
    with locked(directory / "lock"):
        # asked again under the lock: it may have been renewed meanwhile
        return _restore(directory, {}, ()) if lease_left_s(directory) <= 0 else []


def lease_left_s(directory: Path) -> float:
    """Seconds that the lease still lasts; −∞ where there is none, or it is of an earlier boot."""
    lease = read_json(directory / "lease.json")
    if lease is None or lease["boot"] != boot_id():
        return -math.inf
    return float(lease["until_s"]) - boottime_s()


def borrowed(directory: Path) -> int:
    """How many clocks are to be given back."""
    return len(_notes(directory))


def ensure_watchdog(directory: str | os.PathLike[str]) -> None:
    """Start the watchdog of a device directory, if none lives; however many ask at once, one is started."""
    with locked(Path(directory) / "lock"):
        _start_watchdog(Path(directory))


def _start_watchdog(directory: Path) -> None:
    """To be called with the lock held: a watchdog goes only while it holds it."""
    file = try_lock(directory / "watchdog.lock")
    if file is None:
        return
    try:
        import subprocess  # the watchdog itself, which imports this module, does without

        # The lock goes over to it with the open file: there is no moment in which nobody has it. It detaches itself.
        # -P: nothing is imported from the directory that it is started in
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
    """How another process opens this GPU: ``kind`` is None where none can."""
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
