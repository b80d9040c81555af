"""What a simulation leaves behind: numbers about jobs, and the course of the cluster over time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from powerflow.arrays import FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """The cluster over time: one row whenever a plan or an event changed it. All arrays are ``[M]``.

    Attributes:
        time_s: When the row begins to hold.
        power_w: Watts of the whole cluster (GPUs in use, idle GPUs, nodes asleep).
        busy_gpus: GPUs held by jobs.
        running: Jobs that hold GPUs.
        waiting: Jobs that wait.
        clock_mhz: Mean clock of the GPUs in use; nan when none is.
        gpu_price: The policy's price of a GPU at that moment (0 where it has none).
    """

    time_s: FloatArray
    power_w: FloatArray
    busy_gpus: IntArray
    running: IntArray
    waiting: IntArray
    clock_mhz: FloatArray
    gpu_price: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Segments:
    """Who held how many GPUs when: one row per stretch of unchanged allocation. All arrays are ``[S]``."""

    job: IntArray  # index into JobResults
    start_s: FloatArray
    end_s: FloatArray
    gpus: IntArray
    clock_mhz: FloatArray
    power_w: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class JobResults:
    """One entry per job, in order of submission. All arrays are ``[J]``.

    Attributes:
        ids: Names.
        cost_class: Class names (model family and batch).
        submit_s, start_s, finish_s: Moments; ``start_s`` is when it first got GPUs, nan if never.
        requested: GPUs asked for.
        gpu_s: GPU-seconds held.
        energy_j: Joules of its GPUs while it held them (pauses included).
        rescales: How often its GPU count changed, or it was moved, after it had started.
        weight: Priority.
        alone_s: Seconds it would have taken alone as submitted: requested GPUs, maximum clock, no wait.
        failed: True where it ended in failure.
    """

    ids: tuple[str, ...]
    cost_class: tuple[str, ...]
    submit_s: FloatArray
    start_s: FloatArray
    finish_s: FloatArray
    requested: IntArray
    gpu_s: FloatArray
    energy_j: FloatArray
    rescales: IntArray
    weight: FloatArray
    alone_s: FloatArray
    failed: npt.NDArray[np.bool_]

    @property
    def jct_s(self) -> FloatArray:
        """Job completion times: finish minus submission, ``[J]`` seconds."""
        return self.finish_s - self.submit_s


@dataclass(frozen=True, slots=True, eq=False)
class SimulationResult:
    """One policy on one workload.

    Attributes:
        policy: Its full name, overlays and knobs included (``"srtf+clock:1005"``).
        seed: Seed of everything random.
        energy_price: λ_E used, seconds per joule.
        jobs: Per-job numbers.
        timeline: The cluster over time.
        segments: Allocation stretches.
        end_s: When the last job ended.
        metered_j: Joules of the whole cluster from time 0 to ``end_s``, integrated from cluster power.
        idle_j: Joules that belong to no job, same span; ``metered_j = Σ jobs.energy_j + idle_j``.
        tail_w: Watts that the empty cluster draws in the long run.
        decisions: How often the policy was asked.
        cpu_s: CPU seconds the run took, for information; never part of a compared output.
    """

    policy: str
    seed: int
    energy_price: float
    jobs: JobResults
    timeline: Timeline
    segments: Segments
    end_s: float
    metered_j: float
    idle_j: float
    tail_w: float
    decisions: int
    cpu_s: float

    def energy_over(self, horizon_s: float) -> float:
        """Joules with the empty cluster's draw metered from 0 to ``horizon_s``, whenever the last job ended.

        A run that ends earlier is metered on; of one that ends later, what its jobs drew above idle still counts, but
        not the idle draw. The same horizon makes policies comparable.
        """
        return self.metered_j + self.tail_w * (horizon_s - self.end_s)
