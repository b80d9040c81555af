"""Define the results of a simulation: the figures of all jobs, and the state of the cluster over time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from powerflow.arrays import FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """The state of the cluster over time: one row for each change. All arrays are ``[M]`` (M rows).

    Attributes:
        time_s: Time from which the row holds, seconds.
        power_w: Watts of the whole cluster.
        busy_gpus: Number of GPUs that jobs hold.
        running: Number of jobs that hold GPUs.
        waiting: Number of jobs that wait.
        clock_mhz: Mean clock of the GPUs that jobs hold; nan if no GPU is held.
        gpu_price: The GPU price of the policy; 0 if the policy has no prices.
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
    """The allocations of jobs over time. All arrays are ``[S]`` (S rows).

    Each row is a time in which one job held the same GPUs at the same clock.
    """

    job: IntArray  # index into JobResults
    start_s: FloatArray
    end_s: FloatArray
    gpus: IntArray
    clock_mhz: FloatArray
    power_w: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class JobResults:
    """The result figures of all jobs, in order of submission. All arrays are ``[J]`` (J jobs).

    Attributes:
        ids: Names of the jobs.
        cost_class: Names of their classes (model family and batch).
        submit_s, start_s, finish_s: Times in seconds at which each job was submitted, first got GPUs (nan if it never
            got any), and ended.
        requested: Number of GPUs that each job requested.
        gpu_s: GPU-seconds that each job held.
        energy_j: Joules of the GPUs while the job held them, including pauses.
        rescales: Number of times that the GPU count changed or the job moved, after its start.
        weight: Weight of each job, from its priority.
        alone_s: Seconds that each job would take alone on the cluster: on its requested GPUs, at maximum clock, without
            waiting.
        failed: True for each job that failed.
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
        """Seconds from the submission of each job to its end, ``[J]``."""
        return self.finish_s - self.submit_s


@dataclass(frozen=True, slots=True, eq=False)
class SimulationResult:
    """The result of one policy on one workload.

    Attributes:
        policy: Name of the policy with all options (``"srtf+clock:1005"``).
        seed: Seed of everything random.
        energy_price: λ_E, seconds per joule.
        jobs: Result figures of all jobs.
        timeline: State of the cluster over time.
        segments: Allocations of jobs over time.
        end_s: Time at which the last job ended, seconds.
        metered_j: Joules of the whole cluster from 0 to ``end_s``, integrated from its power.
        idle_j: The part of ``metered_j`` that belongs to no job: ``metered_j = Σ jobs.energy_j + idle_j``.
        tail_w: Watts of the empty cluster a long time after the last job.
        decisions: Number of decisions.
        cpu_s: CPU seconds that the simulation took. No result depends on this number.
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
        """Return the joules of the cluster, with its idle draw counted from 0 to ``horizon_s``.

        If the last job ended before ``horizon_s``, the idle draw of the empty cluster up to ``horizon_s`` is added. If
        the last job ended after ``horizon_s``, only the energy that jobs add above idle draw counts after
        ``horizon_s``. With the same horizon, policies can be compared.
        """
        return self.metered_j + self.tail_w * (horizon_s - self.end_s)
