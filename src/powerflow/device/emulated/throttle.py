"""Emulate slower GPUs for scripts without `powerflow.elastic`: stop their processes for a part of every 50 ms.

Such a script does not report the end of a step, so its steps cannot be slowed one by one. Only the *ratio* between
clocks is emulated: at clock f the script runs for the share φ(f_max)/φ(f) of the time. Here f_max is the highest clock,
and φ is the factor by which computing takes longer at a clock (`cost.model.phi`). The GPU draws the power that the true
cost model says.

A stopped process must be continued even if its throttle was killed. So before the first stop, the throttle writes a
note with its own pid and the process groups that it stops. `continue_leftovers` continues the groups whose throttle has
died. The watchdog calls this function every second; a controller should call it at its start.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from powerflow.osutil.files import read_json, replace_json
from powerflow.osutil.processes import born, lives

if TYPE_CHECKING:  # not at run time: the watchdog imports this module and must stay small
    from powerflow.cost.model import JobModel
    from powerflow.device.emulated.gpu import EmulatedGpu
    from powerflow.device.protocol import Activity

#: Folder of the notes in the device directory.
NOTES = "throttled"

#: Length of one cycle of running and being stopped.
PERIOD_S = 0.05


class Throttle:
    """Slows the processes of one job, by stopping them for a part of the time.

    Its thread runs until the processes have ended.

    All processes are stopped at the same time. So ranks that wait for each other lose no additional time.

    Args:
        directory: The device directory, in which the throttle writes its note.
        groups: Process groups of the job, each with the GPUs on which it computes. The slowest GPU decides the pace of
            all groups.
        truth: True cost model of the job.
        nodes, local_batch, accumulation: Number of nodes, samples of one pass, and passes of a step, of the whole job.
        total_gpus: Number of GPUs of the whole job; 0 if all of them are in ``groups``.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        groups: Mapping[int, Sequence[EmulatedGpu]],
        truth: JobModel,
        *,
        nodes: int = 1,
        local_batch: int,
        accumulation: int = 1,
        total_gpus: int = 0,
    ) -> None:
        self._groups = {(group, born(group) or 0): gpus for group, gpus in groups.items()}
        self._gpus = [gpu for gpus in groups.values() for gpu in gpus]
        self._truth = truth
        self._where = (total_gpus or len(self._gpus), local_batch, accumulation)
        self._crosses = nodes - 1
        self._costs: dict[float, tuple[float, float, Activity]] = {}
        self._note = Path(directory) / NOTES / f"{min(groups)}.{os.getpid()}.json"
        self._leave_note()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"throttle {min(groups)}", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """True if the throttle still slows the job."""
        return self._thread.is_alive()

    def close(self) -> None:
        """End the throttle: the job runs at full speed again, and its GPUs are set to idle."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        stop_owed_s = 0.0
        try:
            while not self._ended.is_set() and any(lives(*group) for group in self._groups):
                clock_mhz = min(gpu.state().locked_mhz or gpu.clock_max_mhz for gpu in self._gpus)
                share, watts, activity = self._cost(clock_mhz)
                for (group, birth), gpus in self._groups.items():
                    for gpu in gpus:
                        gpu.draw(watts, pid=group, birth=birth, activity=activity)
                ran_s = self._pass(PERIOD_S * share)
                # excess times of a busy machine are made up for in the next cycles
                stop_owed_s = min(stop_owed_s + ran_s * (1.0 - share) / share, 2 * PERIOD_S)
                if stop_owed_s > PERIOD_S / 50:
                    try:
                        self._signal(signal.SIGSTOP)
                        stop_owed_s -= self._pass(stop_owed_s)
                    finally:
                        self._signal(signal.SIGCONT)
        finally:
            self._signal(signal.SIGCONT)
            for (group, birth), gpus in self._groups.items():
                for gpu in gpus:
                    gpu.rest(pid=group, birth=birth)
            self._note.unlink(missing_ok=True)

    def _leave_note(self) -> None:
        """Write the note with the process groups that must be continued if this process dies, and start the watchdog.

        Call this before the processes are stopped for the first time.
        """
        from powerflow.device.lease import ensure_watchdog

        me = os.getpid()
        self._note.parent.mkdir(parents=True, exist_ok=True)
        replace_json(self._note, {"groups": list(self._groups), "by": me, "by_born": born(me)})
        ensure_watchdog(self._note.parent.parent)

    def _pass(self, seconds: float) -> float:
        """Wait for some seconds, or until `close` is called; return the seconds that have passed."""
        began_s = time.monotonic()
        self._ended.wait(seconds)
        return time.monotonic() - began_s

    def _signal(self, number: signal.Signals) -> None:
        for group, birth in self._groups:
            _signal_group(group, birth, number)

    def _cost(self, clock_mhz: float) -> tuple[float, float, Activity]:
        """Return the share of the time in which the job may run at this clock, and watts and activity of one GPU."""
        if clock_mhz not in self._costs:
            from powerflow.cost.model import gpu_power, phi
            from powerflow.device.emulated.true_cost import true_activity

            throughput, power = self._truth.throughput, self._truth.power
            watts = gpu_power(throughput, power, *self._where, clock_mhz, self._crosses)
            fastest, now = (float(phi(throughput, clock)) for clock in (throughput.clock_max_mhz, clock_mhz))
            share = min(1.0, fastest / now)
            activity = true_activity(self._truth, *self._where, clock_mhz, self._crosses, speed=share)
            self._costs[clock_mhz] = share, float(watts), activity
        return self._costs[clock_mhz]


def continue_leftovers(directory: str | os.PathLike[str]) -> int:
    """Continue the stopped processes of every throttle that has died; return how many throttles still live."""
    living = 0
    for note in (Path(directory) / NOTES).glob("*.json"):
        found = read_json(note)
        if found is not None and lives(found["by"], found["by_born"]):
            living += 1
            continue
        for group, birth in found["groups"] if found is not None else ():
            _signal_group(group, birth, signal.SIGCONT)
        note.unlink(missing_ok=True)
    return living


def _signal_group(group: int, birth: int, number: signal.Signals) -> None:
    """Send a signal to a process group. If its leader has ended, only SIGCONT is sent.

    After a group has ended, the kernel may give its number to another group. Such a group may be continued, but not
    stopped.
    """
    if number == signal.SIGCONT or lives(group, birth):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
