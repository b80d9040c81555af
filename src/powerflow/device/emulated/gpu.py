"""Emulate GPUs that do not exist as hardware: each is a file that all processes of the machine share.

Some facts of an emulated GPU are real: the process that computes on it, the start of this process, and the clock to
which the GPU was locked. Its power is **modelled**: the process that computes reports the watts of a true cost model
(`pacer`, `throttle`). Its energy is this power times real time. So an energy figure of an emulated GPU is never a
measurement, and is always labelled *emulated*. Its activity is modelled in the same way
(`true_cost.true_activity`); it does not report the activity of multiprocessors.

The files are ``<directory>/<node>/<index>``; `shared_record` describes their format.
"""

from __future__ import annotations

import math
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from powerflow.device.emulated.shared_record import EmulatedState, SharedRecord, create_cell
from powerflow.device.protocol import Activity, DeviceError, DeviceLost, NotPermitted, Reading
from powerflow.osutil.processes import born, lives

if TYPE_CHECKING:  # not at run time: it imports numpy, and the watchdog must stay small
    from powerflow.cluster.spec import Node

_NODE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


def create(directory: str | os.PathLike[str], nodes: Iterable[Node]) -> list[EmulatedGpu]:
    """Create the emulated GPUs of some nodes, and return them.

    GPUs that exist stay as they are, with their energy counters.

    Args:
        directory: Folder for the files of the GPUs.
        nodes: The nodes, with the type and number of their GPUs.

    Raises:
        InputError: The catalogue does not have a GPU type, a node's name cannot be the name of a file, or a file
            belongs to a GPU of another type.
    """
    from powerflow.cost.catalogue import gpu_type
    from powerflow.errors import InputError

    gpus = []
    for node in nodes:
        if not _NODE_NAME.fullmatch(node.name):
            raise InputError(f"{node.name!r} cannot name an emulated node", fix="use letters, digits, '.', '_' and '-'")
        card = gpu_type(node.gpu_type)
        folder = Path(directory) / node.name
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)  # ranks run as their jobs' owners
        folder.parent.chmod(0o755)
        for index in range(node.gpus):
            description = {
                "uuid": f"EMULATED-{uuid.uuid4()}",
                "node": node.name,
                "index": index,
                "gpu_type": card.name,
                "idle_w": card.idle_w,
                "clock_min_mhz": card.clock_min_mhz,
                "clock_max_mhz": card.clock_max_mhz,
                "clock_step_mhz": card.clock_step_mhz,
            }
            create_cell(folder / str(index), description, EmulatedState(at_s=time.monotonic()))
            gpu = EmulatedGpu(folder / str(index))
            if gpu.gpu_type != card.name:
                raise InputError(
                    f"exists already, with GPU type {gpu.gpu_type} instead of {card.name}", where=str(gpu.path)
                )
            gpus.append(gpu)
    return gpus


def settled(state: EmulatedState, idle_w: float, now_s: float, loader_lives: bool) -> EmulatedState:
    """Return the state of an emulated GPU, brought up to date for the time ``now_s``.

    The energy rises by watts × seconds since the last update, and so do the integrals of the activity. If the process
    that computes on the GPU has died, its power and activity count until its last report. After that the GPU is idle.
    """
    until_s = now_s if loader_lives else min(max(state.seen_s, state.at_s), now_s)
    loaded_s = max(0.0, until_s - state.at_s) if state.load_pid else 0.0
    idle_s = max(0.0, now_s - state.at_s) - loaded_s
    untold = state.load_w > idle_w and not state.load_tensor and not state.load_dram
    after = state._replace(
        at_s=now_s,
        energy_j=state.energy_j + state.load_w * loaded_s + idle_w * idle_s,
        tensor_s=state.tensor_s + state.load_tensor * loaded_s,
        dram_s=state.dram_s + state.load_dram * loaded_s,
        untold_s=state.untold_s + loaded_s * untold,
    )
    if state.load_pid and not loader_lives:
        return after._replace(load_w=0.0, load_pid=0, load_born=0)
    return after._replace(seen_s=now_s) if state.load_pid else after


class EmulatedGpu:
    """One emulated GPU, a `Gpu`. Any number of processes may open it.

    Raises:
        DeviceLost: The file of the GPU does not exist or is damaged.
    """

    emulated = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._cell = SharedRecord(self.path)
        except FileNotFoundError as error:
            raise DeviceLost(f"there is no emulated GPU {self.path}") from error
        except ValueError as error:
            raise DeviceLost(f"{error}; delete it, and it is created again") from error
        known: dict[str, Any] = self._cell.description
        self.uuid: str = known["uuid"]
        self.node: str = known["node"]
        self.index: int = known["index"]
        self.gpu_type: str = known["gpu_type"]
        self.idle_w: float = known["idle_w"]
        self.clock_max_mhz: float = known["clock_max_mhz"]
        self._clock_min_mhz: float = known["clock_min_mhz"]
        self._clock_step_mhz: float = known["clock_step_mhz"]
        self._read_last: EmulatedState | None = None

    def read(self) -> Reading:
        """Return the state of this GPU.

        An unlocked GPU runs at its maximum clock under load, and at its minimum when idle.
        """
        state = self._change(lambda state, now_s: state)
        loaded = state.load_pid != 0
        free_mhz = self.clock_max_mhz if loaded else self._clock_min_mhz
        return Reading(
            time_s=state.at_s,
            power_w=state.load_w if loaded else self.idle_w,
            energy_j=state.energy_j,
            clock_mhz=state.locked_mhz or free_mhz,
            locked_mhz=state.locked_mhz or None,
            utilisation=float(loaded and state.load_w > self.idle_w),
            activity=self._activity(state),
        )

    def _activity(self, state: EmulatedState) -> Activity | None:
        """Return the activity since the last reading by this object; None if a process did not report it."""
        before, self._read_last = self._read_last, state
        if before is None or state.at_s <= before.at_s or state.untold_s > before.untold_s:
            return None
        seconds = state.at_s - before.at_s
        tensor, dram = (state.tensor_s - before.tensor_s) / seconds, (state.dram_s - before.dram_s) / seconds
        return Activity(math.nan, min(tensor, 1.0), min(dram, 1.0))

    def clocks_mhz(self) -> Sequence[float]:
        """Return the clocks in MHz that this GPU can be locked to, ascending."""
        steps = int((self.clock_max_mhz - self._clock_min_mhz) / self._clock_step_mhz + 1e-9)
        return [self.clock_max_mhz - k * self._clock_step_mhz for k in range(steps, -1, -1)]

    def lock_clock(self, clock_mhz: float) -> None:
        """Lock this GPU to a clock. As on hardware, the GPU takes the nearest clock that it has."""
        if not math.isfinite(clock_mhz) or clock_mhz <= 0:
            raise DeviceError(f"{clock_mhz} MHz is no clock: give MHz above 0")
        self._set_clock(min(self.clocks_mhz(), key=lambda known: abs(known - clock_mhz)))

    def unlock_clock(self) -> None:
        """Undo `lock_clock`: the GPU again runs at its maximum clock under load, and at its minimum clock when idle."""
        self._set_clock(0.0)

    def state(self) -> EmulatedState:
        """Return the state of this GPU at its last update.

        The call takes only a few microseconds, because the file is read and not changed.

        Raises:
            DeviceLost: The file of the GPU was damaged.
        """
        try:
            return self._cell.read()
        except OSError as error:
            raise DeviceLost(f"emulated GPU {self.path}: {error.strerror}") from error

    def draw(
        self, watts: float, *, pid: int, birth: int, arrears_j: float = 0.0, activity: Activity | None = None
    ) -> None:
        """Set the power that this GPU draws, until the process that computes on it sets another power or ends.

        Args:
            watts: Power from now on.
            pid, birth: Pid and start time of the process.
            arrears_j: Energy in joules to add at once, for a past period whose power is known only now. A negative
                value counts as 0.
            activity: Use of tensor cores and memory from now on; None if it is not known.
        """
        tensor, dram = (0.0, 0.0) if activity is None else (activity.tensor, activity.dram)

        def loaded(state: EmulatedState, now_s: float) -> EmulatedState:
            more_j = state.energy_j + max(0.0, arrears_j)
            return state._replace(
                energy_j=more_j,
                load_w=watts,
                load_pid=pid,
                load_born=birth,
                seen_s=now_s,
                load_tensor=tensor,
                load_dram=dram,
            )

        self._change(loaded, alive=(pid, birth))

    def rest(self, *, pid: int, birth: int) -> None:
        """Set this GPU to idle, if the process that computes on it is the given process.

        Args:
            pid, birth: Pid and start time of the process.
        """

        def rested(state: EmulatedState, now_s: float) -> EmulatedState:
            mine = (state.load_pid, state.load_born) == (pid, birth)
            return state._replace(load_w=0.0, load_pid=0, load_born=0) if mine else state

        self._change(rested, alive=(pid, birth))

    def _set_clock(self, locked_mhz: float) -> None:
        def set_to(state: EmulatedState, now_s: float) -> EmulatedState:
            if not state.permitted:
                raise NotPermitted(f"clocks of emulated GPU {self.node}/{self.index} may not be set")
            if state.locked_mhz == locked_mhz:
                return state
            return state._replace(locked_mhz=locked_mhz, clock_since_s=now_s, before_mhz=state.locked_mhz)

        self._change(set_to)

    def _change(
        self, how: Callable[[EmulatedState, float], EmulatedState], alive: tuple[int, int] = (0, 0)
    ) -> EmulatedState:
        """Bring the record of this GPU up to date, and change it with ``how``; return the new state.

        Args:
            how: Function of the state and the current time that returns the new state.
            alive: Pid and start time of a process that is known to run, so that the function need not check whether it
                runs.
        """

        def changed(state: EmulatedState) -> EmulatedState:
            loader = (state.load_pid, state.load_born)
            # read the time under the lock, so that it never runs backwards from one change to the next
            now_s = time.monotonic()
            return how(settled(state, self.idle_w, now_s, loader == alive or lives(*loader)), now_s)

        try:
            return self._cell.change(changed)
        except FileNotFoundError as error:
            raise DeviceLost(f"the file of emulated GPU {self.path} was deleted") from error
        except OSError as error:  # damaged, or locked by another process: all users may write it
            raise DeviceLost(f"emulated GPU {self.path}: {error.strerror}") from error


def own_identity() -> tuple[int, int]:
    """Return pid and start time of this process, for `EmulatedGpu.draw`."""
    pid = os.getpid()
    return pid, born(pid) or 0
