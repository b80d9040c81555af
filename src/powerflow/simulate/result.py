"""Results of a simulation: numbers of all jobs, and the cluster over time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from powerflow.arrays import FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """The cluster over time: one row for each change by a plan or an event. All arrays are ``[M]``.

    Attributes:
        time_s: Start of the row.
        power_w: Watts of the whole cluster.
        busy_gpus: GPUs held by jobs.
        running: Jobs that hold GPUs.
        waiting: Jobs that wait.
        clock_mhz: Mean clock of the GPUs in use; nan if there is none.
        gpu_price: The policy's price of a GPU; 0 if it has no prices.
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
    """The allocations of jobs over time: one row per time without a change. All arrays are ``[S]``."""

    job: IntArray  # index into JobResults
    start_s: FloatArray
    end_s: FloatArray
    gpus: IntArray
    clock_mhz: FloatArray
    power_w: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class JobResults:
    """Numbers of all jobs, in order of submission. All arrays are ``[J]``.

    Attributes:
        ids: Names.
        cost_class: Class names (model family and batch).
        submit_s, start_s, finish_s: Times of submission, of the first GPUs (nan if never) and of the end.
        requested: Requested GPUs.
        gpu_s: GPU-seconds held.
        energy_j: Joules of the GPUs while the job held them, including pauses.
        rescales: How often its GPU count changed, or it was moved, after its start.
        weight: Priority.
        alone_s: Seconds alone as submitted: requested GPUs, maximum clock, no wait.
        failed: Whether it failed.
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
        """Job completion times, from submission to end, ``[J]`` seconds."""
        return self.finish_s - self.submit_s


@dataclass(frozen=True, slots=True, eq=False)
class SimulationResult:
    """Result of one policy on one workload.

    Attributes:
        policy: Full name with overlays and knobs (``"srtf+clock:1005"``).
        seed: Seed of everything random.
        energy_price: λ_E, seconds per joule.
        jobs: Numbers of all jobs.
        timeline: The cluster over time.
        segments: The allocations over time.
        end_s: When the last job ended.
        metered_j: Joules of the whole cluster from 0 to ``end_s``, integrated from its power.
        idle_j: The part of them that belongs to no job: ``metered_j = Σ jobs.energy_j + idle_j``.
        tail_w: Watts of the empty cluster in the long run.
        decisions: Number of decisions.
        cpu_s: CPU seconds of the simulation, for information; not part of any compared output.
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
        """Return the joules with idle draw counted from 0 to ``horizon_s``, whenever the last job ended.

        After the horizon, only what jobs draw above idle counts. The same horizon makes policies comparable.
        """
        return self.metered_j + self.tail_w * (horizon_s - self.end_s)
