"""Find jobs whose clock could go down at little loss, from how busy their GPUs were.

Only the time in which the streaming multiprocessors (SMs) compute grows when their clock falls. While no SM has work,
the job waits for its input, for the network or for the CPU; while the memory is busy to its limit, the SMs wait for it.
So the share κ of the time that scales with the clock (``docs/models.md``: φ(f) = (1−κ) + κ·f_max/f) lies between

    max(0, a − m / M)  ≤  κ  ≤  a

with a: SM activity (``DCGM_FI_PROF_SM_ACTIVE``), m: memory activity (``DCGM_FI_PROF_DRAM_ACTIVE``), and M: the highest
memory activity that training reaches, about 0.8. Power above idle falls at least like f and at most like f³ (P = p0 +
p1·f + p3·f³ fits 33 measured workloads). Both together bound the change of time and energy. Nothing here was measured
at the lower clock: it is a reason to try, and says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from powerflow.watch.use import JobUse

#: Highest memory activity that training reaches.
MOST_MEMORY = 0.8
#: The clock that is looked at, as a share of the one that the job ran at.
LOWER = 0.8
#: A job is named if its time would grow by at most this share.
MOST_LOSS = 0.05
#: A job needs this much measured time, GPU-seconds.
LEAST_S = 600.0
#: From this memory activity on, the memory is what holds a job up.
_MEMORY_BOUND = 0.5


@dataclass(frozen=True, slots=True)
class ClockRoom:
    """What a lower clock would change for a job, modelled from its activity.

    Attributes:
        bound_by: What the job waits for: its GPU's memory, or its input (data, network, CPU).
        clock_mhz, lower_mhz: Mean clock that it ran at, and the lower one.
        sm_active, memory_active: Mean activity, 0 to 1; memory is nan if it is not reported.
        longer: Least and most growth of its time, shares.
        saves: Least and most of its energy that it would save, shares.
    """

    bound_by: Literal["memory", "input"]
    clock_mhz: float
    lower_mhz: float
    sm_active: float
    memory_active: float
    longer: tuple[float, float]
    saves: tuple[float, float]


def clock_room(use: JobUse, idle_w: float) -> ClockRoom | None:
    """Return what a clock of `LOWER` times its own would change for a job.

    Args:
        use: What the job has used.
        idle_w: Idle power of one of its GPUs, watts; nan if it is not known.

    Returns:
        None if the job could lose more than `MOST_LOSS`, if it is not certain to save energy, or if too little is known
        (its SM activity, its clock).
    """
    sm, memory, clock = use.mean("sm_active"), use.mean("memory_active"), use.mean("clock")
    if math.isnan(sm) or math.isnan(clock) or use.sm_active[1] < LEAST_S or use.gpu_s <= 0:
        return None
    busy_memory = 0.0 if math.isnan(memory) else memory
    kappa = max(0.0, sm - busy_memory / MOST_MEMORY), sm
    longer = kappa[0] * (1 / LOWER - 1), kappa[1] * (1 / LOWER - 1)
    # where the memory is the limit, the SMs count as active while they wait for it
    loss = longer[0] if busy_memory >= _MEMORY_BOUND else longer[1]
    if loss > MOST_LOSS:
        return None
    power_w = use.energy_j / use.gpu_s
    rest_w = 0.0 if math.isnan(idle_w) else min(idle_w, power_w)
    # of all bounds together: energy at the lower clock ÷ energy now
    shares = [
        (rest_w + (power_w - rest_w) * falls) / power_w * (1 + more) for falls in (LOWER, LOWER**3) for more in longer
    ]
    if max(shares) >= 1.0:
        return None
    return ClockRoom(
        "memory" if busy_memory >= _MEMORY_BOUND else "input",
        clock,
        clock * LOWER,
        sm,
        memory,
        longer,
        (1 - max(shares), 1 - min(shares)),
    )
