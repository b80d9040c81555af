"""Give emulated GPUs costs: tell each rank's machine how long its steps take, and how much power they draw, in truth.

Each class (jobs that cost the same per step) has true costs: those of its model family, varied at random. The scheduler
never sees the true costs. It learns from the measured steps of the ranks. The machine of a rank slows the rank down to
its true costs (`powerflow.agent.emulation`).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from powerflow.agent.emulation import truth_variable
from powerflow.api.job_spec import JobSpec
from powerflow.cost.catalogue import family_model
from powerflow.cost.model import JobModel
from powerflow.device.emulated.true_cost import truth_of
from powerflow.live.jobs.cost_learning import JobClass, class_of


def ground_truth(kind: JobClass, gpu_type: str, seed: int) -> JobModel:
    """Return the true costs of a class of jobs on an emulated GPU type. The same seed gives the same costs."""
    model = replace(family_model(kind.family, gpu_type), local_batch_max=kind.local_max)
    return truth_of(model, zlib.crc32(f"{kind.name}\0{gpu_type}\0{seed}".encode()))


@dataclass(frozen=True, slots=True)
class Emulation:
    """True costs of the jobs of one cluster.

    Attributes:
        seed: Seed of the true costs.
        time_scale: Factor on the true length of steps; watts do not change.
    """

    seed: int = 0
    time_scale: float = 1.0

    def environment(self, user: str, spec: JobSpec, gpu_type: str) -> Mapping[str, str]:
        """Return the environment variables that tell the machine of a rank the true costs of its job."""
        kind = class_of(spec, user)
        return truth_variable(
            ground_truth(kind, gpu_type, self.seed),
            time_scale=self.time_scale,
            throttle=spec.rescale != "in-place",
            whole=spec.rescale == "none",
            global_batch=kind.global_batch,
            local_max=kind.local_max,
        )
