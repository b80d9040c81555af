"""Count the work of a job that reports no steps, from counters of its GPUs, so that its speed at any clock is known.

Three counters can stand for work (`powerflow.agent.work`):

1. Cycles in which tensor cores were busy: a training step needs the same number of them at any clock.
2. Traffic of the GPU's memory: a step moves the same number of bytes, and the memory's clock is never changed.
3. Cycles in which anything ran, if neither of them is known. This assumes that all that a step does takes the same
   number of cycles at any clock, so it can only overstate how much slower a lower clock makes a job.

So a limit on the slowdown is kept with each of them. The first that shows at least `LEAST_SHARE` in the job's first
half minute is used, and stays the job's counter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import reduce

from powerflow.agent.work import GpuWork
from powerflow.device.protocol import Place

#: Seconds for which a job is looked at before its counter is chosen.
PROBE_S = 30.0
#: Share of the cycles, or of the peak traffic, from which on a counter is used.
LEAST_SHARE = 0.02
#: Less than this many 1e9 cycles a second count as a pause: neither their work nor their time counts.
_PAUSE = 0.02


class Counter(StrEnum):
    """A counter that stands for a job's work."""

    TENSOR = "tensor cores"
    MEMORY = "memory traffic"
    CYCLES = "cycles"


#: Steps that one unit of each counter makes; 1e9 cycles, or a second of the peak traffic. So a busy GPU does some ten
#: steps a second, enough to time them to a part in a thousand.
_STEPS = {Counter.TENSOR: 100.0, Counter.MEMORY: 100.0, Counter.CYCLES: 20.0}
_OF: Mapping[Counter, Callable[[GpuWork], float]] = {
    Counter.TENSOR: lambda work: work.tensor,
    Counter.MEMORY: lambda work: work.dram,
    Counter.CYCLES: lambda work: work.busy,
}


@dataclass(slots=True)
class WorkCount:
    """Work of one job on the GPUs that it has.

    Attributes:
        counter: What is counted; None while this is not known.
        steps: Steps done since the job began, or since a controller first saw it.
        generation: Rises whenever counting begins anew, because the counters of a machine did.
        timed_steps, timed_s: Steps of this generation, and the seconds in which they were done, without pauses.
    """

    counter: Counter | None = None
    steps: float = 0.0
    generation: int = 1
    timed_steps: float = 0.0
    timed_s: float = 0.0
    _last: dict[Place, GpuWork] = field(default_factory=dict)
    _probe: GpuWork = field(default_factory=lambda: GpuWork(0.0, 0.0, 0.0, 0.0))

    def add(self, now: Mapping[Place, GpuWork]) -> None:
        """Take in the counters of all GPUs of the job.

        Args:
            now: The counters by GPU; all that the job has.
        """
        last, self._last = self._last, dict(now)
        if last.keys() != now.keys() or any(now[gpu].counted_s < last[gpu].counted_s for gpu in now):
            self.generation, self.timed_steps, self.timed_s = self.generation + bool(last), 0.0, 0.0
            return
        passed = _mean([_since(last[gpu], now[gpu]) for gpu in now])
        if not passed.busy > _PAUSE * passed.counted_s:
            return
        if self.counter is None:
            self._probe = _sum(self._probe, passed)
            self.counter = _chosen(self._probe) if self._probe.counted_s >= PROBE_S else None
            return
        done = _STEPS[self.counter] * _OF[self.counter](passed)
        if math.isfinite(done):
            self.steps, self.timed_steps = self.steps + done, self.timed_steps + done
            self.timed_s += passed.counted_s


def _since(before: GpuWork, now: GpuWork) -> GpuWork:
    return GpuWork(
        now.busy - before.busy,
        now.tensor - before.tensor,
        now.dram - before.dram,
        now.counted_s - before.counted_s,
    )


def _sum(one: GpuWork, other: GpuWork) -> GpuWork:
    return GpuWork(
        one.busy + other.busy, one.tensor + other.tensor, one.dram + other.dram, one.counted_s + other.counted_s
    )


def _mean(parts: Sequence[GpuWork]) -> GpuWork:
    total, count = reduce(_sum, parts), len(parts)
    return GpuWork(total.busy / count, total.tensor / count, total.dram / count, total.counted_s / count)


def _chosen(work: GpuWork) -> Counter:
    """Return the counter to use for a job that has done this work."""
    if work.tensor >= LEAST_SHARE * work.busy:
        return Counter.TENSOR
    return Counter.MEMORY if work.dram >= LEAST_SHARE * work.counted_s else Counter.CYCLES
