"""Slow a real training step down to its duration on an emulated GPU, and report the power that the GPU would draw.

A rank computes on whatever hardware it has. At the end of each step, the rank's pacer sleeps until the step has lasted
as long as the true cost model says. This is T(n, b, s, f, placement) for n GPUs, local batch b, accumulation s and
clock f. The clock is the one to which the GPU is locked *while the pacer sleeps*: if the clock changes during a step,
the rest of the step runs at the new pace. So a step takes real time, with a length from a model. Power is only
modelled.

For each rank, the controller writes a file with its GPUs and its true cost model, and puts the name of the file into
the rank's environment (`emulate_rank`). The training library finds the file there (`pacer_from_environment`).
"""

from __future__ import annotations

import atexit
import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from powerflow.cost.model import JobModel, gpu_power, step_time
from powerflow.device.emulated.gpu import EmulatedGpu, own_identity
from powerflow.device.emulated.true_cost import model_from, model_json, true_activity
from powerflow.device.protocol import Activity, DeviceLost
from powerflow.errors import InputError
from powerflow.osutil.files import read_json, replace_json

#: Variable in a rank's environment that names the file of `emulate_rank`.
ENVIRONMENT = "POWERFLOW_EMULATED"

VERSION = 1
KIND = "emulated rank"

#: Longest sleep before the clock is read again. If a step ends late because of it, the next step is shorter.
SLICE_S = 0.01


def emulate_rank(
    path: str | os.PathLike[str],
    truth: JobModel,
    gpus: Sequence[EmulatedGpu],
    *,
    time_scale: float = 1.0,
    throttle: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Write the file that makes a rank train as if on emulated GPUs.

    Return the variables to add to the rank's environment.

    Args:
        path: The file to write. The rank must be able to read it.
        truth: True cost model of the rank's steps.
        gpus: The emulated GPUs of the rank, one or more.
        time_scale: Factor on the duration of steps (0.1 makes them ten times as short). Power stays the same, so the
            energy of a step changes by the same factor.
        throttle: What the rank's machine must know to slow the rank down from outside, kept in the file for it.

    Raises:
        InputError: There is no GPU, or ``time_scale`` is not above 0.
    """
    if not gpus or not 0 < time_scale < float("inf"):
        raise InputError("an emulated rank needs a GPU and a time scale above 0", where=str(path))
    content = {
        "version": VERSION,
        "kind": KIND,
        "model": model_json(truth),
        "gpus": [str(gpu.path.resolve()) for gpu in gpus],
        "time_scale": time_scale,
        **({"throttle": dict(throttle)} if throttle else {}),
    }
    replace_json(Path(path), content)
    Path(path).chmod(0o644)
    return {ENVIRONMENT: str(Path(path).resolve())}


def pacer_from_environment(environment: Mapping[str, str] | None = None) -> Pacer | None:
    """Return the pacer of this rank; None if its GPUs are not emulated.

    Call this in the process that trains, because the pacer reports that the calling process uses the GPUs.

    Raises:
        InputError: The file that the environment names is missing, or was not written by `emulate_rank`.
        DeviceLost: A GPU that the file names does not exist.
    """
    path = (os.environ if environment is None else environment).get(ENVIRONMENT)
    if not path:
        return None
    found = read_json(Path(path))
    if found is None or found.get("kind") != KIND or found.get("version") != VERSION:
        raise InputError("was not written by this version of PowerFlow", where=f"{ENVIRONMENT}={path}")
    gpus = [EmulatedGpu(name) for name in found["gpus"]]
    return Pacer(model_from(found["model"], path), gpus, time_scale=float(found["time_scale"]))


class Pacer:
    """Makes each step of a rank last as long as on the emulated GPUs. Only one thread may use it.

    Attributes:
        steps: Number of steps that were paced.
        overruns: Number of steps whose real computation took longer than the true cost model says. The next steps sleep
            less, to make up for this time as far as they can.
        overrun_s: Sum of the times by which these steps took too long, seconds.
    """

    def __init__(self, truth: JobModel, gpus: Sequence[EmulatedGpu], *, time_scale: float = 1.0) -> None:
        self._truth = truth
        self._gpus = gpus
        self._time_scale = time_scale
        self._costs: dict[tuple[int, int, int, int, float], tuple[float, float, Activity]] = {}
        self._pid, self._birth = own_identity()
        self._watts: float | None = None  # power last reported to the GPUs; None while idle
        self._late_s = 0.0  # how late the last step ended; the next one is shorter by it
        self.steps = 0
        self.overruns = 0
        self.overrun_s = 0.0
        atexit.register(self._leave)

    def begin(self) -> None:
        """Tell the GPUs that this process computes on them. They draw idle power until the first step."""
        for gpu in self._gpus:
            gpu.draw(gpu.idle_w, pid=self._pid, birth=self._birth)

    def pace(self, *, gpus: int, nodes: int, local_batch: int, accumulation: int, began_s: float) -> None:
        """Sleep until the current step has lasted as long as the true cost model says.

        Args:
            gpus, nodes: How many GPUs the whole job has, and on how many nodes.
            local_batch: Samples of one pass on one GPU.
            accumulation: Passes of the step.
            began_s: Value of `time.monotonic` when the step began.
        """
        where = (gpus, nodes - 1, local_batch, accumulation)
        clock_mhz, since_s, before_mhz = self._clock()
        step_s, watts, activity = self._cost(*where, clock_mhz)
        entered_s = now_s = time.monotonic()
        done, at_s = 0.0, began_s - self._late_s  # share of the step that is done, and when that was
        if began_s < since_s <= now_s:  # the clock changed while we computed
            done, at_s = (since_s - at_s) / self._cost(*where, before_mhz)[0], since_s
        self._draw(watts, activity, arrears_s=now_s - began_s)
        while (end_s := at_s + (1.0 - done) * step_s) > now_s:
            time.sleep(min(end_s - now_s, SLICE_S))
            now_s = time.monotonic()
            seen_mhz, since_s, _ = self._clock()
            if seen_mhz != clock_mhz:
                changed_s = min(max(since_s, at_s), now_s)
                done, at_s = done + (changed_s - at_s) / step_s, changed_s
                clock_mhz = seen_mhz
                step_s, watts, activity = self._cost(*where, clock_mhz)
                self._draw(watts, activity, arrears_s=0.0)
        self.steps += 1
        overrun_s = now_s - end_s - self._late_s
        # includes excess computing time on a busy machine: the emulated GPU would have been on time
        self._late_s = min(now_s - end_s, step_s)
        if now_s == entered_s and overrun_s > 0:
            self.overruns += 1
            self.overrun_s += overrun_s

    def idle(self) -> None:
        """Set the GPUs to idle power, until `begin` or `pace` is called."""
        if os.getpid() != self._pid:  # a fork of the rank ends, but the rank trains on
            return
        for gpu in self._gpus:
            gpu.rest(pid=self._pid, birth=self._birth)
        self._watts = None
        self._late_s = 0.0

    def _leave(self) -> None:
        with contextlib.suppress(DeviceLost):  # the emulated cluster may be deleted already
            self.idle()

    def _draw(self, watts: float, activity: Activity, *, arrears_s: float) -> None:
        """Report power and activity of this process to its GPUs. The report also shows that this process lives.

        After a time at idle, the computing time of the first step was counted as idle. So the first report adds the
        missing energy.
        """
        first = self._watts is None
        for gpu in self._gpus:
            arrears_j = (watts - gpu.idle_w) * arrears_s if first else 0.0
            gpu.draw(watts, pid=self._pid, birth=self._birth, arrears_j=arrears_j, activity=activity)
        self._watts = watts

    def _clock(self) -> tuple[float, float, float]:
        """Return the clock of the slowest GPU, the time at which this clock was set, and the clock before that."""
        slowest = (float("inf"), 0.0, 0.0)
        for gpu in self._gpus:
            state = gpu.state()
            free_mhz = gpu.clock_max_mhz
            clock = (state.locked_mhz or free_mhz, state.clock_since_s, state.before_mhz or free_mhz)
            slowest = min(slowest, clock)
        return slowest

    def _cost(
        self, gpus: int, crosses: int, local_batch: int, accumulation: int, clock_mhz: float
    ) -> tuple[float, float, Activity]:
        """Return the seconds of a step, and watts and activity of one GPU, from the true cost model."""
        key = (gpus, crosses, local_batch, accumulation, clock_mhz)
        if key not in self._costs:
            where = (gpus, local_batch, accumulation, clock_mhz, crosses)
            model = self._truth.throughput
            step_s = float(step_time(model, *where))
            fastest_s = float(step_time(model, gpus, local_batch, accumulation, model.clock_max_mhz, crosses))
            activity = true_activity(self._truth, *where, speed=fastest_s / step_s)
            watts = float(gpu_power(model, self._truth.power, *where))
            self._costs[key] = step_s * self._time_scale, watts, activity
        return self._costs[key]
